//! `tidegate model`: what versions there are, and their way into production and out of it.
//!
//! `list`, `show`, `promote`, `archive`, `status`, `rollback`, `diff` and `reload` ask a running server; `add` and `verify` work on
//! folders and need none. Every answer is a few aligned lines, or JSON with `--json`.

mod add;
mod onnx;
pub(super) mod remote;
pub(super) mod table;
mod verify;

pub(super) use table::aligned;

use clap::{Args, Subcommand};
use std::process::ExitCode;
use tidegate_protocol::EndpointName;

/// Versions of models: list, add, verify, promote, put away, compare.
#[derive(Debug, Args)]
pub struct ModelArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What versions a server has, with their status.
    List(remote::ListArgs),
    /// One version: manifest, files, and who moved it when and why.
    Show(remote::ShowArgs),
    Add(add::AddArgs),
    Verify(verify::VerifyArgs),
    Promote(remote::PromoteArgs),
    /// Put a version away that does not serve.
    Archive(remote::ArchiveArgs),
    /// Move a version that does not serve to `testing`, `staging` or `archived`.
    Status(remote::StatusArgs),
    Rollback(remote::RollbackArgs),
    /// Compare two versions of an endpoint: manifests and what else is known.
    Diff(remote::DiffArgs),
    /// Have a server read its folder of models now.
    Reload(remote::ReloadArgs),
}

/// Runs the command.
///
/// # Errors
/// What the server says, or what is wrong with the folder; in one line each.
pub async fn run(args: ModelArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List(args) => remote::list(args).await,
        Command::Show(args) => remote::show(args).await,
        Command::Add(args) => add::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Promote(args) => remote::promote(args).await,
        Command::Archive(args) => remote::archive(args).await,
        Command::Status(args) => remote::status(args).await,
        Command::Rollback(args) => remote::roll_back(args).await,
        Command::Diff(args) => remote::diff(args).await,
        Command::Reload(args) => remote::reload(args).await,
    }
}

/// `MODEL/VERSION` of an endpoint, given apart or in front of it.
fn full_name(name: &str, endpoint: Option<&EndpointName>) -> anyhow::Result<(String, String)> {
    let parts: Vec<&str> = name.trim_matches('/').split('/').collect();
    match (&parts[..], endpoint) {
        ([endpoint, model, version], None) => {
            let endpoint: EndpointName = endpoint.parse()?;
            Ok((endpoint.to_string(), format!("{model}/{version}")))
        }
        ([model, version], Some(endpoint)) => {
            Ok((endpoint.to_string(), format!("{model}/{version}")))
        }
        _ => anyhow::bail!(
            "{name:?}: expected ENDPOINT/MODEL/VERSION, or MODEL/VERSION with --endpoint"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_given_in_front_or_apart() {
        let endpoint: EndpointName = "pump-health".parse().unwrap();
        let expected = ("pump-health".to_owned(), "mewma/1.0.0".to_owned());
        let given = full_name("pump-health/mewma/1.0.0", None).unwrap();
        assert_eq!(given, expected);
        let given = full_name("mewma/1.0.0", Some(&endpoint)).unwrap();
        assert_eq!(given, expected);
        for wrong in ["mewma", "mewma/1.0.0", "a/b/c/d", "UP/m/1.0.0"] {
            assert!(full_name(wrong, None).is_err(), "{wrong}");
        }
    }
}
