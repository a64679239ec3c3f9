//! Running other programs: from the repository root, output untouched, failures named.
//!
//! Nothing here withholds the output of a step: what cargo and npm print reaches the terminal as they
//! print it, cargo test's closing lines included.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The directories where Debian puts daemons such as mosquitto; a plain user's PATH lacks them.
const DAEMON_DIRS: [&str; 2] = ["/usr/local/sbin", "/usr/sbin"];

/// The workspace root.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .expect("xtask is a folder of the workspace")
        .to_path_buf()
}

/// A command that will run in the workspace root, with daemons on its PATH.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root()).env("PATH", search_path());
    command
}

/// The cargo that started us.
pub fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Npm in `ui/`, silent about funding and new releases.
pub fn npm() -> Command {
    let mut npm = command("npm");
    npm.current_dir(root().join("ui"));
    npm.env("npm_config_fund", "false")
        .env("npm_config_update_notifier", "false");
    npm
}

/// Prints the command line, runs it, and fails with that line when it does not exit with 0.
pub fn run(command: &mut Command) -> Result<()> {
    let line = line_of(command);
    println!("$ {line}");
    let status = command
        .status()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// Like [`run`], and returns the lines of standard output that `pick` takes; each is printed as it comes.
pub fn run_picking(command: &mut Command, pick: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let line = line_of(command);
    println!("$ {line}");
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))?;
    let mut picked = Vec::new();
    let output = child.stdout.take().expect("standard output is piped");
    for said in BufReader::new(output).lines() {
        let said = said.with_context(|| format!("reading from `{line}`"))?;
        println!("{said}");
        if pick(&said) {
            picked.push(said);
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(picked)
}

/// Whether a command runs and exits with 0; its output is thrown away.
pub fn succeeds(command: &mut Command) -> bool {
    let quiet = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Standard output of a command that succeeded, trimmed.
pub fn output_of(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Becomes `cargo SUBCOMMAND ARGS.. -- PROGRAM_ARGS..`, which itself becomes the program: ctrl-c reaches
/// one process only, which drains and says how it ended. The directory stays the user's, so that
/// relative paths among the arguments mean what they say. Returns only when cargo cannot be started.
pub fn become_cargo(subcommand: &str, args: &[&str], program_args: &[String]) -> Result<()> {
    let mut cargo = cargo();
    cargo.current_dir(std::env::current_dir().context("cannot tell the current directory")?);
    cargo
        .arg(subcommand)
        .arg("--manifest-path")
        .arg(root().join("Cargo.toml"));
    cargo.args(args).arg("--").args(program_args);
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt as _;
        println!("$ {}", line_of(&cargo));
        Err(cargo.exec()).context("cannot start cargo")
    }
    #[cfg(not(unix))]
    run(&mut cargo)
}

/// Where a program is on the search path, daemons' directories included.
pub fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path())
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

fn search_path() -> OsString {
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&inherited).chain(DAEMON_DIRS.map(PathBuf::from));
    std::env::join_paths(dirs).unwrap_or(inherited)
}

fn line_of(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_stem()
        .unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_holds_the_workspace_manifest() {
        assert!(root().join("Cargo.lock").is_file());
    }

    #[test]
    fn a_failed_command_is_named_with_its_arguments() {
        let error = run(command("false").arg("wrong")).expect_err("`false` exits with 1");
        assert!(
            error.to_string().contains("`false wrong` failed"),
            "{error}"
        );
    }

    #[test]
    fn picked_lines_come_back_in_their_order() {
        let mut printf = command("printf");
        let lines = run_picking(printf.arg("| a\nb\n| c"), |line| line.starts_with('|'));
        assert_eq!(lines.expect("`printf` exits with 0"), ["| a", "| c"]);
    }

    #[test]
    fn a_missing_program_is_not_found() {
        assert_eq!(find("no-such-program-here"), None);
    }
}
