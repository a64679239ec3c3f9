//! `tidegate model verify`: loads a version and folds its golden run, without a server.

use crate::cli::source::print;
use crate::inference::{Served, quiet_steps};
use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tidegate_models::load::{Files, embedded, read_folder};
use tidegate_models::{EndpointManifest, shelf};
use tidegate_protocol::EndpointName;

/// Load a version as a server would: shapes, golden run, warm-up with the cost of a step. Names every mistake.
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// The version's folder.
    folder: PathBuf,
    /// The endpoint it answers for [default: the one whose folder it lies in].
    #[arg(long, short)]
    endpoint: Option<EndpointName>,
    /// Folder of models that has the endpoint [default: the built-in ones].
    #[arg(long, value_name = "DIR")]
    models_dir: Option<PathBuf>,
    /// The endpoint's `endpoint.toml`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["models_dir"])]
    schema: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// A version that passed.
pub struct Examined {
    /// `model/version`.
    pub name: String,
    /// SHA-256 of its folder, hexadecimal.
    pub hash: String,
    /// Median time of a step, microseconds.
    pub step_us: f64,
    /// What is odd and no mistake.
    pub warning: Option<String>,
    /// What it is made of.
    pub architecture: &'static str,
    /// Bytes of state a stream.
    pub state_bytes: usize,
}

/// Runs the command.
///
/// # Errors
/// An endpoint that cannot be read.
pub fn run(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let endpoint = endpoint(args)?;
    let files = read_folder(&args.folder)?;
    let examined = match examine(&endpoint, &args.folder.display().to_string(), &files) {
        Ok(examined) => examined,
        Err(mistakes) => return tell_mistakes(&mistakes, args.json),
    };
    let Examined {
        name,
        hash,
        step_us,
        warning,
        architecture,
        state_bytes,
    } = examined;
    tell_warning(&format!("{}/{name}", endpoint.name), warning.as_deref());
    print(&if args.json {
        let told = json!({
            "ok": true, "endpoint": endpoint.name, "version": name, "hash": hash, "architecture": architecture,
            "step_us": step_us, "state_bytes": state_bytes, "warning": warning,
        });
        serde_json::to_string_pretty(&told)?
    } else {
        format!(
            "{}/{name}: ready ({architecture}, golden run reproduced, {step_us} us a step, {state_bytes} bytes of state a stream)\nhash {hash}",
            endpoint.name
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

fn endpoint(args: &VerifyArgs) -> anyhow::Result<EndpointManifest> {
    let name = args.endpoint.as_ref().map(EndpointName::as_str);
    if let Some(schema) = &args.schema {
        let own = fs::read_to_string(schema).with_context(|| schema.display().to_string())?;
        let own = EndpointManifest::parse(&own)
            .map_err(|mistake| anyhow::anyhow!("{}: {mistake}", schema.display()))?;
        return Ok(own);
    }
    if let Some(dir) = &args.models_dir {
        let name = name.context("--models-dir needs --endpoint")?;
        return endpoint_of(&dir.join(name).join("endpoint.toml"), name);
    }
    let Some(name) = name else {
        return endpoint_around(&args.folder);
    };
    let files = embedded();
    let Some(text) = files.get(&format!("{name}/endpoint.toml")) else {
        bail!("no built-in endpoint {name}: give --models-dir or --schema");
    };
    let own = Files::from([("endpoint.toml".to_owned(), text.clone())]);
    Ok(shelf::read_endpoint(name, &own)?)
}

/// The endpoint whose folder a version lies in.
fn endpoint_around(folder: &Path) -> anyhow::Result<EndpointManifest> {
    let folder = folder
        .canonicalize()
        .with_context(|| folder.display().to_string())?;
    let around = folder.ancestors().nth(2);
    let named =
        around.and_then(|dir| Some((dir.join("endpoint.toml"), dir.file_name()?.to_str()?)));
    match named {
        Some((schema, name)) if schema.is_file() => endpoint_of(&schema, name),
        _ => bail!(
            "{}: lies in no endpoint's folder: give --endpoint or --schema",
            folder.display()
        ),
    }
}

/// An endpoint from its `endpoint.toml`.
pub fn endpoint_of(schema: &Path, name: &str) -> anyhow::Result<EndpointManifest> {
    let bytes = fs::read(schema).with_context(|| schema.display().to_string())?;
    let own = Files::from([("endpoint.toml".to_owned(), bytes.into())]);
    Ok(shelf::read_endpoint(name, &own)?)
}

/// What a server does before a version is ready. `folder` is where the files were found.
///
/// # Errors
/// Every mistake, a line each.
pub fn examine(
    endpoint: &EndpointManifest,
    folder: &str,
    files: &Files,
) -> Result<Examined, Vec<String>> {
    quiet_steps();
    let mut mistakes = Vec::new();
    let name = match shelf::name_of(folder, files) {
        Ok(name) => name,
        Err(mistake) => {
            mistakes.push(mistake.to_string());
            if !files.contains_key("golden.json") {
                mistakes.push(format!("{folder}/golden.json: is missing"));
            }
            return Err(mistakes);
        }
    };
    let path = format!("{}/{name}", endpoint.name);
    let version = shelf::examine(endpoint, &path, files);
    let version = version.map_err(|m| m.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let version = Arc::new(version);
    let endpoint_name = EndpointName::new(&endpoint.name);
    let endpoint_name = endpoint_name.map_err(|error| vec![error.to_string()])?;
    let served = Served::warm_up(&endpoint_name, &version, 0, &endpoint.features);
    let served = served.map_err(|mistake| vec![format!("{path}: {mistake}")])?;
    Ok(Examined {
        name,
        hash: version.hash_hex(),
        step_us: served.step_us(),
        warning: served.warning(),
        architecture: version.manifest.architecture.kind(),
        state_bytes: version.state_len() * size_of::<f32>(),
    })
}

/// Says what is odd about a version, where there is something, on standard error.
pub fn tell_warning(version: &str, warning: Option<&str>) {
    if let Some(warning) = warning {
        eprintln!("tidegate: warning: {version}: {warning}");
    }
}

/// Names every mistake; the exit code is 1.
pub fn tell_mistakes(mistakes: &[String], json: bool) -> anyhow::Result<ExitCode> {
    if json {
        print(&serde_json::to_string_pretty(
            &json!({"ok": false, "mistakes": mistakes}),
        )?)?;
    } else {
        for mistake in mistakes {
            eprintln!("tidegate: {mistake}");
        }
    }
    Ok(ExitCode::FAILURE)
}
