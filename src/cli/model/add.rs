//! `tidegate model add`: puts a version into a folder of models, whole or not at all.
//!
//! It is examined first, every mistake is named, and nothing is written while there is one. Then it is written under a name that begins
//! with a dot, which no server sees, synced, and renamed into its place.

use super::onnx;
use super::verify::{Examined, endpoint_of, examine, tell_mistakes, tell_warning};
use crate::cli::source::print;
use crate::config::{Overrides, RawConfig};
use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tidegate_models::load::{Files, embedded, hash_folder, read_folder};
use tidegate_protocol::EndpointName;

/// Put a version into a folder of models. A running server notices it within seconds; it serves nobody until it is promoted.
#[derive(Debug, Clone, Args)]
pub struct AddArgs {
    /// The version's folder (`model.toml`, `golden.json`, weights), or a bare `.onnx` file.
    folder: PathBuf,
    /// The endpoint it answers for.
    #[arg(long, short)]
    endpoint: EndpointName,
    /// Folder of models; one that is new gets the built-in models first.
    #[arg(long, value_name = "DIR")]
    models_dir: Option<PathBuf>,
    /// Configuration file of the server (TOML), which names the folder too.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The `endpoint.toml` of an endpoint that is new.
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// For a bare `.onnx`: the model's name.
    #[arg(long)]
    name: Option<String>,
    /// For a bare `.onnx`: the version.
    #[arg(long)]
    version: Option<String>,
    /// For a bare `.onnx` of a classifier: its labels, where the graph has none of its own.
    #[arg(long, value_name = "LABEL,..", value_delimiter = ',')]
    labels: Vec<String>,
    /// For a bare `.onnx` of a classifier: what makes probabilities of its numbers.
    #[arg(long, value_parser = ["none", "sigmoid", "softmax"])]
    activation: Option<String>,
    /// Print what was done as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// Everything that is wrong with the version, or a folder that cannot be written.
pub fn run(args: &AddArgs) -> anyhow::Result<ExitCode> {
    let dir = models_dir(args)?;
    let seeded = seed(&dir)?;
    let own = dir.join(args.endpoint.as_str()).join("endpoint.toml");
    let (schema, is_new) = match (own.is_file(), &args.schema) {
        (true, _) => (own, false),
        (false, Some(schema)) => (schema.clone(), true),
        (false, None) => bail!(
            "{}: no endpoint {}: --schema FILE adds one",
            dir.display(),
            args.endpoint
        ),
    };
    let endpoint = endpoint_of(&schema, args.endpoint.as_str())?;
    let files = if onnx::is_bare(&args.folder) {
        let named = onnx::Named {
            name: args.name.as_deref(),
            version: args.version.as_deref(),
            labels: &args.labels,
            activation: args.activation.as_deref(),
        };
        onnx::files_of(&args.folder, &named, &endpoint)?
    } else {
        read_folder(&args.folder)?
    };
    let examined = match examine(&endpoint, &args.folder.display().to_string(), &files) {
        Ok(examined) => examined,
        Err(mistakes) => return tell_mistakes(&mistakes, args.json),
    };
    if is_new && endpoint.default != examined.name {
        bail!(
            "{}: default is \"{}\": the first version of a new endpoint is the one that serves, \"{}\"",
            schema.display(),
            endpoint.default,
            examined.name
        );
    }
    let place = dir.join(args.endpoint.as_str()).join(&examined.name);
    let is_there = put_once(&place, &files, &examined.hash, || match is_new {
        true => put_endpoint(&dir, &args.endpoint, &schema, &examined.name, &files),
        false => put(&place, &files),
    })?;
    tell(args, &dir, &examined, seeded, is_there)
}

fn models_dir(args: &AddArgs) -> anyhow::Result<PathBuf> {
    let overrides = Overrides {
        models_dir: args.models_dir.clone(),
        ..Overrides::default()
    };
    let config = RawConfig::read(args.config.as_deref(), overrides)?;
    config.models_dir.context(
        "the built-in models cannot be added to: give --models-dir DIR, and start the server with it (a new folder gets the built-in ones first)",
    )
}

/// Fills a folder that is new with the built-in models; whether it was.
fn seed(dir: &Path) -> anyhow::Result<bool> {
    let is_empty = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(error).with_context(|| dir.display().to_string()),
    };
    if is_empty {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        write(dir, &embedded())?;
    }
    Ok(is_empty)
}

/// Puts a version into its place, unless the very same one is there already or comes there meanwhile; whether it was there.
fn put_once(
    place: &Path,
    files: &Files,
    hash: &str,
    put: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    if is_there(place, files, hash)? {
        return Ok(true);
    }
    match put() {
        Ok(()) => Ok(false),
        Err(_) if is_there(place, files, hash)? => Ok(true),
        Err(error) => Err(error),
    }
}

/// Whether the very same version is there already.
fn is_there(place: &Path, files: &Files, own: &str) -> anyhow::Result<bool> {
    if !place.exists() {
        return Ok(false);
    }
    let there = read_folder(place)?;
    if hash_folder(&there) == hash_folder(files) {
        return Ok(true);
    }
    let hash: String = hash_folder(&there)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    bail!(
        "{}: is there with the hash {hash}, this one has {own}: a version never changes, give the new one a new number",
        place.display(),
    )
}

/// A version into its place.
fn put(place: &Path, files: &Files) -> anyhow::Result<()> {
    let model = place
        .parent()
        .context("a version lies in a model's folder")?;
    fs::create_dir_all(model).with_context(|| model.display().to_string())?;
    let aside = tempfile::Builder::new()
        .prefix(".adding-")
        .tempdir_in(model);
    let aside = aside.with_context(|| model.display().to_string())?;
    write(aside.path(), files)?;
    move_in(aside, place)
}

/// A new endpoint with its first version into its place.
fn put_endpoint(
    dir: &Path,
    endpoint: &EndpointName,
    schema: &Path,
    name: &str,
    files: &Files,
) -> anyhow::Result<()> {
    let aside = tempfile::Builder::new().prefix(".adding-").tempdir_in(dir);
    let aside = aside.with_context(|| dir.display().to_string())?;
    let text = fs::read(schema).with_context(|| schema.display().to_string())?;
    write(
        aside.path(),
        &Files::from([("endpoint.toml".to_owned(), text.into())]),
    )?;
    write(&aside.path().join(name), files)?;
    move_in(aside, &dir.join(endpoint.as_str()))
}

fn move_in(aside: tempfile::TempDir, place: &Path) -> anyhow::Result<()> {
    // A temporary folder is for its owner alone; this one is for the server too.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(aside.path(), fs::Permissions::from_mode(0o755))?;
    }
    fs::rename(aside.path(), place).with_context(|| place.display().to_string())?;
    // It is not there any more under its other name.
    let _ = aside.keep();
    if let Some(parent) = place.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Files below a folder, synced.
fn write(dir: &Path, files: &Files) -> anyhow::Result<()> {
    for (name, bytes) in files {
        let path = dir.join(name);
        let told = || path.display().to_string();
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(told)?;
        }
        let mut file = File::create(&path).with_context(told)?;
        file.write_all(bytes).with_context(told)?;
        file.sync_all().with_context(told)?;
    }
    Ok(())
}

fn tell(
    args: &AddArgs,
    dir: &Path,
    examined: &Examined,
    seeded: bool,
    is_there: bool,
) -> anyhow::Result<ExitCode> {
    let name = format!("{}/{}", args.endpoint, examined.name);
    tell_warning(&name, examined.warning.as_deref());
    if args.json {
        let told = json!({
            "version": name, "models_dir": dir, "hash": examined.hash, "step_us": examined.step_us, "added": !is_there,
            "built_in_models_written": seeded, "warning": examined.warning,
        });
        print(&serde_json::to_string_pretty(&told)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if seeded {
        print(&format!(
            "{}: new, the built-in models were written there",
            dir.display()
        ))?;
    }
    if onnx::is_bare(&args.folder) && !is_there {
        print(
            "its golden run was recorded from the graph's own answers: it tells a change, not whether Python says the same",
        )?;
    }
    let what = if is_there {
        "is there already"
    } else {
        "added"
    };
    print(&format!(
        "{name}: {what} ({}, {} us a step)",
        examined.hash, examined.step_us
    ))?;
    print(&format!(
        "serve it: tidegate serve --models-dir {}",
        dir.display()
    ))?;
    print(&format!("then: tidegate model promote {name}"))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(text: &str) -> Files {
        Files::from([("model.toml".to_owned(), text.as_bytes().to_vec().into())])
    }

    fn hash(files: &Files) -> String {
        let hash = hash_folder(files);
        hash.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn of_two_that_are_put_into_one_place_at_once_the_second_is_told_both_hashes() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("m/1.0.0");
        let (first, second) = (files("first"), files("second"));
        // The other one comes between the look and the putting.
        let between = |own: &Files| {
            put_once(&place, own, &hash(own), || {
                put(&place, &first)?;
                put(&place, own)
            })
        };
        let refused = between(&second).unwrap_err().to_string();
        for part in [hash(&first), hash(&second), "never changes".to_owned()] {
            assert!(refused.contains(&part), "{refused}");
        }
        fs::remove_dir_all(&place).unwrap();
        assert!(between(&first).unwrap(), "the very same is there");
        assert_eq!(read_folder(&place).unwrap(), first);
    }
}
