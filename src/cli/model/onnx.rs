//! A bare `.onnx` file becomes the files of a version: the manifest from the graph and the endpoint's task, a golden run from its own answers.
//!
//! What a graph does not say (labels, a horizon, what stands in front of it) a folder with a `model.toml` says; this is for the graphs that
//! need none of it.

use anyhow::{Context, bail};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use tidegate_models::load::{Files, hash_folder, load_version};
use tidegate_models::onnx::{Outline, outline};
use tidegate_models::{EndpointManifest, Task, golden};

/// The graph's name in a version's folder.
const FILE: &str = "model.onnx";
/// Readings that a score's threshold is learned from.
const CALIBRATION: u32 = 400;
/// Written readings of the golden run, and what starts their generator.
const READINGS: u32 = 16;
const SEED: u64 = 11;
/// What scikit-learn's outlier detectors call their score, which is low where a reading is strange.
const LOW_IS_STRANGE: &str = "scores";

/// What a bare file does not say.
pub struct Named<'a> {
    /// The model's name.
    pub name: Option<&'a str>,
    /// Its version.
    pub version: Option<&'a str>,
    /// Labels of a classifier whose graph has none of its own.
    pub labels: &'a [String],
}

/// Whether this is a bare graph and no folder.
pub fn is_bare(path: &Path) -> bool {
    path.is_file()
        && path
            .extension()
            .is_some_and(|extension| extension == "onnx")
}

/// The files of a version around a bare graph.
///
/// # Errors
/// A graph that cannot be read, one that needs more than its endpoint says, and what keeps the version from being loaded.
pub fn files_of(
    path: &Path,
    named: &Named<'_>,
    endpoint: &EndpointManifest,
) -> anyhow::Result<Files> {
    let told = || path.display().to_string();
    let (Some(name), Some(version)) = (named.name, named.version) else {
        bail!("{}: a bare graph needs --name and --version", told());
    };
    let bytes = fs::read(path).with_context(told)?;
    let mut files = Files::from([(FILE.to_owned(), bytes.into())]);
    let outline = outline(&files, FILE).with_context(told)?;
    let graph: String = hash_folder(&files)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let manifest = manifest(name, version, &graph, named.labels, endpoint, &outline)?;
    files.insert("model.toml".into(), manifest.into_bytes().into());
    let place = format!("{}/{name}/{version}", endpoint.name);
    let loaded = load_version(endpoint, &place, &files, false)?;
    let readings = golden::generate(&endpoint.features, SEED, READINGS);
    let before = loaded.manifest.calibration;
    let run = golden::record(&loaded, endpoint, SEED, before, &readings);
    files.insert("golden.json".into(), run.into_bytes().into());
    Ok(files)
}

fn manifest(
    name: &str,
    version: &str,
    graph: &str,
    labels: &[String],
    endpoint: &EndpointManifest,
    outline: &Outline,
) -> anyhow::Result<String> {
    let (head, calibration) = head(labels, endpoint, outline)?;
    let author = std::env::var("USER").unwrap_or_else(|_| "unknown".into());
    let created = jiff::Timestamp::now().strftime("%Y-%m-%d");
    let mut text = String::new();
    writeln!(text, "name = {}", quoted(name))?;
    writeln!(text, "version = {}", quoted(version))?;
    writeln!(
        text,
        "memory = 0\ncalibration = {calibration}\nmax_gap_s = 600.0"
    )?;
    writeln!(text, "author = {}", quoted(&author))?;
    writeln!(text, "created = \"{created}\"")?;
    writeln!(
        text,
        "intended_use = \"Not said: added as a bare graph.\"\nlicence = \"LicenseRef-unknown\"\n\n[training]"
    )?;
    writeln!(
        text,
        "data = \"not said; the hash is that of the graph\"\nhash = \"{graph}\"\n"
    )?;
    writeln!(text, "[architecture]\nkind = \"onnx\"\nfile = \"{FILE}\"\n")?;
    writeln!(text, "[postprocessing]\n{head}")?;
    Ok(text)
}

/// The head for the endpoint's task, and the readings of its calibration.
fn head(
    labels: &[String],
    endpoint: &EndpointManifest,
    outline: &Outline,
) -> anyhow::Result<(String, u32)> {
    let threshold = "threshold = { quantile = 0.999, margin = 1.2 }";
    Ok(match endpoint.task {
        Task::Classification if labels.is_empty() => ("kind = \"classes\"".into(), 0),
        Task::Classification => {
            let labels: Vec<_> = labels.iter().map(|label| quoted(label)).collect();
            (
                format!("kind = \"classes\"\nlabels = [{}]", labels.join(", ")),
                0,
            )
        }
        Task::Regression => ("kind = \"values\"".into(), 0),
        Task::Anomaly
            if outline
                .outputs
                .iter()
                .any(|(name, _)| name == LOW_IS_STRANGE) =>
        {
            let head = format!(
                "kind = \"score\"\noutput = \"{LOW_IS_STRANGE}\"\nsign = -1.0\n{threshold}"
            );
            (head, CALIBRATION)
        }
        Task::Anomaly if is_reconstruction(endpoint, outline) => {
            let head = format!("kind = \"residual\"\nof = \"input\"\n{threshold}");
            (head, CALIBRATION)
        }
        Task::Anomaly => (format!("kind = \"score\"\n{threshold}"), CALIBRATION),
        Task::Forecast => bail!(
            "{}: a graph does not say its horizon: give a folder with a model.toml",
            endpoint.name
        ),
    })
}

/// Whether the graph gives as many values as a reading has.
fn is_reconstruction(endpoint: &EndpointManifest, outline: &Outline) -> bool {
    let width = endpoint.features.len();
    let [(_, dims)] = &outline.outputs[..] else {
        return false;
    };
    width > 1 && dims.last() == Some(&Some(width))
}

/// A string of TOML.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
