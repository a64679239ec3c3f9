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
use tidegate_models::{EndpointManifest, Output, Task, Version, golden};

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
    /// What makes probabilities of a classifier's numbers.
    pub activation: Option<&'a str>,
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
    if endpoint.task == Task::Classification
        && named.activation.is_none()
        && is_one_number(&outline)
    {
        bail!(
            "{}: the graph gives one number a row: say with --activation whether it is a logit (sigmoid) or a probability (none)",
            told()
        );
    }
    let manifest = manifest(name, version, &graph, named, endpoint, &outline)?;
    files.insert("model.toml".into(), manifest.into_bytes().into());
    let place = format!("{}/{name}/{version}", endpoint.name);
    let loaded = load_version(endpoint, &place, &files, false)?;
    let readings = golden::generate(&endpoint.features, SEED, READINGS);
    check_probabilities(&loaded, &readings, named).with_context(told)?;
    let before = loaded.manifest.calibration;
    let run = golden::record(&loaded, endpoint, SEED, before, &readings);
    files.insert("golden.json".into(), run.into_bytes().into());
    Ok(files)
}

fn manifest(
    name: &str,
    version: &str,
    graph: &str,
    named: &Named<'_>,
    endpoint: &EndpointManifest,
    outline: &Outline,
) -> anyhow::Result<String> {
    let (head, calibration) = head(named, endpoint, outline)?;
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
    named: &Named<'_>,
    endpoint: &EndpointManifest,
    outline: &Outline,
) -> anyhow::Result<(String, u32)> {
    let threshold = "threshold = { quantile = 0.999, margin = 1.2 }";
    Ok(match endpoint.task {
        Task::Classification => (classes(named), 0),
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

fn classes(named: &Named<'_>) -> String {
    let mut head = "kind = \"classes\"".to_owned();
    if !named.labels.is_empty() {
        let labels: Vec<_> = named.labels.iter().map(|label| quoted(label)).collect();
        head += &format!("\nlabels = [{}]", labels.join(", "));
    }
    if let Some(activation) = named.activation {
        head += &format!("\nactivation = \"{activation}\"");
    }
    head
}

/// A graph does not say whether its numbers are probabilities or logits: what it answers must look like the former, unless the user has
/// said what makes them so.
fn check_probabilities(
    version: &Version,
    readings: &[Vec<f32>],
    named: &Named<'_>,
) -> anyhow::Result<()> {
    if named.activation.is_some() {
        return Ok(());
    }
    let mut state = version.new_state();
    for values in readings {
        let Output::Classification { probabilities, .. } = version.step(&mut state, values, 0.0)
        else {
            continue;
        };
        let inside = probabilities
            .iter()
            .all(|p| (-1e-6..=1.0 + 1e-6).contains(p));
        let sum: f32 = probabilities.iter().sum();
        if !inside || (sum - 1.0).abs() > 1e-3 {
            bail!(
                "the graph gives {probabilities:?}, which are no probabilities: add --activation softmax (or sigmoid; none keeps them as they are)"
            );
        }
    }
    Ok(())
}

/// Whether the only output is one number a row: a logit that may pass for a probability.
fn is_one_number(outline: &Outline) -> bool {
    matches!(&outline.outputs[..], [(_, dims)] if dims.get(1).is_none_or(|size| *size == Some(1)))
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
