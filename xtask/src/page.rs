//! Building the live page: `ui/` becomes `ui/dist`, which the binary embeds.
//!
//! Staleness goes by modification times, the way make does it: `npm ci` runs when the lock file is
//! newer than what it installed last, the build for the demo when a source is newer than the page.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use anyhow::Result;

use crate::{shell, tools};

/// Installs npm packages when the lock file changed, then builds.
pub fn build() -> Result<()> {
    install()?;
    shell::run(shell::npm().args(["run", "build"]))
}

/// Type check, unit tests and the production build.
pub fn check_test_build() -> Result<()> {
    install()?;
    shell::run(shell::npm().args(["run", "check"]))?;
    shell::run(shell::npm().args(["test"]))?;
    shell::run(shell::npm().args(["run", "build"]))
}

/// For the demo: a page that cannot be built costs the page, not the demo.
pub fn build_if_stale() {
    let ui = shell::root().join("ui");
    if !is_stale(&ui) {
        return;
    }
    if let Err(error) = build() {
        eprintln!("xtask: the page was not built, the demo runs without it: {error:#}");
    }
}

/// `npm ci` when `package-lock.json` is newer than the copy of it that npm keeps in `node_modules`.
pub fn install() -> Result<()> {
    tools::need_node()?;
    let ui = shell::root().join("ui");
    let installed = modified(&ui.join("node_modules/.package-lock.json"));
    if installed.is_some() && modified(&ui.join("package-lock.json")) <= installed {
        return Ok(());
    }
    shell::run(shell::npm().args(["ci", "--no-audit"]))
}

fn is_stale(ui: &Path) -> bool {
    let Some(built) = modified(&ui.join("dist/index.html")) else {
        return true;
    };
    newest_source(ui).is_some_and(|source| source > built)
}

/// The newest modification below `ui/`; what npm, Vite and Playwright write does not count.
fn newest_source(dir: &Path) -> Option<SystemTime> {
    const WRITTEN: [&str; 5] = [
        "node_modules",
        "dist",
        "e2e",
        "test-results",
        "playwright-report",
    ];
    let entries = fs::read_dir(dir).ok()?.flatten();
    let sources = entries.filter(|entry| !WRITTEN.iter().any(|name| entry.file_name() == *name));
    sources
        .filter_map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => newest_source(&entry.path()),
            _ => modified(&entry.path()),
        })
        .max()
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|meta| meta.modified()).ok()
}
