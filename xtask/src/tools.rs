//! Programs that the steps need beyond Rust: found, installed with apt-get when this user may, or named
//! together with the command that installs them.
//!
//! It installs Debian packages and nothing else, and only those that a chosen step needs. The tests
//! start their own broker and their own database on free ports, so a service that apt-get brought along
//! is switched off again; one that was there before is left alone.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell;

/// Vite's floor; `ui/package.json` says the same under `engines`.
const NODE_AT_LEAST: (u32, u32) = (20, 19);

const CHROMIUMS: [&str; 4] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
];

/// Debian keeps every version's programs in `<version>/bin` below it, outside of PATH.
const POSTGRES_HOME: &str = "/usr/lib/postgresql";

/// Makes sure that the broker and its command line clients can be started.
pub fn need_mosquitto() -> Result<()> {
    let missing: Vec<&str> = [
        ("mosquitto", "mosquitto"),
        ("mosquitto_pub", "mosquitto-clients"),
    ]
    .into_iter()
    .filter(|(program, _)| shell::find(program).is_none())
    .map(|(_, package)| package)
    .collect();
    if missing.is_empty() {
        return Ok(());
    }
    apt_install(&missing)?;
    if missing.contains(&"mosquitto") {
        stop_installed_service("mosquitto");
    }
    Ok(())
}

/// Makes sure that the tests can make and start a PostgreSQL cluster of their own.
pub fn need_postgres() -> Result<()> {
    if has_postgres() {
        return Ok(());
    }
    apt_install(&["postgresql"])?;
    stop_installed_service("postgresql");
    if !has_postgres() {
        bail!("postgresql was installed, but there is no server below {POSTGRES_HOME}");
    }
    Ok(())
}

/// Makes sure that a server's clock can be shifted: the program brings the library that does it.
pub fn need_faketime() -> Result<()> {
    match shell::find("faketime") {
        Some(_) => Ok(()),
        None => apt_install(&["faketime"]),
    }
}

/// Makes sure that a server's system calls can be watched and made to fail.
pub fn need_strace() -> Result<()> {
    match shell::find("strace") {
        Some(_) => Ok(()),
        None => apt_install(&["strace"]),
    }
}

/// A Chromium that Playwright can drive: the one of the system, else Playwright's own.
pub fn need_chromium() -> Result<PathBuf> {
    if let Some(path) = chromium().or_else(playwrights_chromium) {
        return Ok(path);
    }
    if is_ubuntu() {
        // Ubuntu's package is a stub that needs snapd; Playwright's own build does not.
        let mut npx = shell::command("npx");
        npx.current_dir(shell::root().join("ui"));
        npx.args(["playwright", "install", "--with-deps", "chromium"]);
        shell::run(&mut npx).context("no chromium, and Playwright could not install its own")?;
    } else {
        // The sandbox and a font are only recommended by the package, and a page needs both.
        apt_install(&["chromium", "chromium-sandbox", "fonts-liberation"])?;
    }
    let path = chromium().or_else(playwrights_chromium);
    path.context("chromium was installed but cannot be started")
}

/// Node and npm, new enough to build the page.
pub fn need_node() -> Result<()> {
    if shell::find("node").is_none() || shell::find("npm").is_none() {
        apt_install(&["nodejs", "npm"]).context("the page is built with Node and npm")?;
    }
    let version = shell::output_of(shell::command("node").arg("--version"));
    let version = version.context("`node --version` failed")?;
    if parse_version(&version).is_none_or(|found| found < NODE_AT_LEAST) {
        let (major, minor) = NODE_AT_LEAST;
        bail!("node is {version}, the page needs {major}.{minor} or newer (see nodejs.org)");
    }
    Ok(())
}

/// Whether `cargo deny` can be run.
pub fn has_cargo_deny() -> bool {
    shell::succeeds(shell::cargo().args(["deny", "--version"]))
}

/// Whether some version's server, `initdb` and `psql` are there.
fn has_postgres() -> bool {
    let versions = std::fs::read_dir(POSTGRES_HOME).into_iter().flatten();
    versions
        .flatten()
        .any(|version| is_postgres(&version.path().join("bin")))
}

fn is_postgres(bin: &Path) -> bool {
    ["postgres", "initdb", "psql"]
        .iter()
        .all(|program| bin.join(program).is_file())
}

/// The variable `CHROMIUM` wins over what the PATH offers.
fn chromium() -> Option<PathBuf> {
    let chosen = std::env::var_os("CHROMIUM").map(PathBuf::from);
    chosen.or_else(|| {
        CHROMIUMS
            .iter()
            .filter_map(|name| shell::find(name))
            .find(starts)
    })
}

/// What `npx playwright install` downloaded, if anything.
fn playwrights_chromium() -> Option<PathBuf> {
    let script = "process.stdout.write(require('@playwright/test').chromium.executablePath())";
    let mut node = shell::command("node");
    node.current_dir(shell::root().join("ui"))
        .args(["-e", script]);
    shell::output_of(&mut node)
        .map(PathBuf::from)
        .filter(starts)
}

/// Ubuntu's stub is a script in /usr/bin which only works where snap does: being there is not enough.
fn starts(browser: &PathBuf) -> bool {
    shell::succeeds(Command::new(browser).arg("--version"))
}

fn apt_install(packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    let by_hand = format!("sudo apt-get update && sudo apt-get install -y {names}");
    if shell::find("apt-get").is_none() {
        bail!("missing: {names}; there is no apt-get here, install them your way");
    }
    let Some(prefix) = root_prefix() else {
        bail!("missing: {names}; run `{by_hand}` (this user may not)");
    };
    let apt_get = || {
        let mut command = shell::command(prefix.first().copied().unwrap_or("apt-get"));
        command
            .args(prefix.iter().skip(1))
            .env("DEBIAN_FRONTEND", "noninteractive");
        if !prefix.is_empty() {
            command.arg("apt-get");
        }
        command
    };
    shell::run(apt_get().args(["update", "-qq"]))?;
    let install = ["install", "-y", "-qq", "--no-install-recommends"];
    shell::run(apt_get().args(install).args(packages)).with_context(|| format!("try `{by_hand}`"))
}

/// What to put before a command so that it runs as root; `None` when this user may not.
fn root_prefix() -> Option<&'static [&'static str]> {
    if shell::output_of(Command::new("id").arg("-u")).as_deref() == Some("0") {
        return Some(&[]);
    }
    let may_sudo = shell::succeeds(Command::new("sudo").args(["-n", "true"]));
    may_sudo.then_some(&["sudo", "-n", "DEBIAN_FRONTEND=noninteractive"])
}

/// The Debian package starts the service on its usual port. We only wanted the programs. Where systemd
/// does not run, the package's own script stops it.
fn stop_installed_service(name: &str) {
    let Some(prefix) = root_prefix() else { return };
    let runs = |words: &[&str]| {
        let words: Vec<&str> = prefix.iter().chain(words).copied().collect();
        shell::succeeds(shell::command(words[0]).args(&words[1..]))
    };
    if !runs(&["systemctl", "disable", "--now", name]) {
        runs(&["service", name, "stop"]);
    }
}

fn is_ubuntu() -> bool {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    release.lines().any(|line| line == "ID=ubuntu")
}

/// `v20.19.2` becomes (20, 19).
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim_start_matches('v').split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postgres_counts_only_with_its_server_and_tools() {
        let dir = std::env::temp_dir().join(format!("xtask-postgres-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        std::fs::write(dir.join("psql"), "").expect("a file");
        assert!(!is_postgres(&dir), "a client alone is no server");
        std::fs::write(dir.join("postgres"), "").expect("a file");
        std::fs::write(dir.join("initdb"), "").expect("a file");
        assert!(is_postgres(&dir));
        std::fs::remove_dir_all(&dir).expect("the folder goes");
    }

    #[test]
    fn node_versions_compare_by_number() {
        assert_eq!(parse_version("v20.19.2"), Some((20, 19)));
        assert!(parse_version("v20.9.0") < Some(NODE_AT_LEAST));
        assert!(parse_version("v22.1.0") > Some(NODE_AT_LEAST));
        assert_eq!(parse_version("nightly"), None);
    }
}
