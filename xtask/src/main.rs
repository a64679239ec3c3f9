//! The project's own commands, one door for people and for CI: `cargo xtask <command>`.
//!
//! It shells out to cargo, npm and apt-get and owns nothing but the order of things. It depends on
//! no other crate of the workspace, so it compiles in seconds and works while the rest does not.
//! Commands that end in a program of ours (`demo`, `skab`, `train`) become that program:
//! signals and the exit code are its own.

mod bench;
mod ledger;
mod page;
mod shell;
mod steps;
mod tools;

use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
Commands of the Tidegate repository

Usage: cargo xtask <COMMAND> [OPTIONS]

Commands:
  test    Install what is missing, then run everything that CI runs
  demo    Build what is missing, page included, and run the demo
  skab    Stream the SKAB pump files through a live server and score the detectors
  bench   Measure speed and memory, and print figures beside their targets
  ledger  Play seeds of faults against the real server and compare the books
  page    Build the live page into ui/dist
  train   Train the autoencoder on simulated rigs
  help    Print this, or the help of a command: cargo xtask help test
";

const TEST_HELP: &str = "\
Install what is missing, then run everything that CI runs

Usage: cargo xtask test [--only STEP,..] [--skip STEP,..] [--keep-going]

Options:
      --only STEP,..   Run these steps, in the order below
      --skip STEP,..   Leave these steps out
      --keep-going     Run all steps and list the failures at the end

Steps:
  fmt      cargo fmt --check
  page     npm ci when the lock file changed, type check, unit tests, production build
  clippy   cargo clippy on every target, warnings are errors
  test     cargo test on the workspace, doc tests included (needs mosquitto, PostgreSQL and strace)
  e2e      the page clicked through in Chromium against the real binary (needs chromium)
  doc      cargo doc, warnings are errors
  deny     cargo deny check, where cargo-deny is installed

Debian packages that a step needs are installed with apt-get when this user may (root, or sudo
without a password); otherwise the command to run is printed.
";

const DEMO_HELP: &str = "\
Build what is missing, page included, and run the demo

Usage: cargo xtask demo [-- ARGS]

ARGS go to `tidegate demo`, for example:
  cargo xtask demo -- --devices 8 --rate 10 --seconds 30
  cargo xtask demo -- --seconds 20 --data-dir demo-data   (kept, for `tidegate replay`)

The binary is built with optimisations; the first build takes some minutes. Without Node the demo
runs all the same and the address shows how to build the page.
";

const SKAB_HELP: &str = "\
Stream the SKAB pump files through a live server and score the detectors

Usage: cargo xtask skab DIR [-- ARGS]

DIR holds valve1-0.csv, valve1-1.csv, ...; prints F1, false alarms and missed alarms per detector.
";

const PAGE_HELP: &str = "\
Build the live page into ui/dist

Usage: cargo xtask page

Runs npm ci when package-lock.json is newer than node_modules, then the production build. The next
cargo build embeds the result in the binary.
";

const TRAIN_HELP: &str = "\
Train the autoencoder on simulated healthy rigs and write its artifact

Usage: cargo xtask train [-- ARGS]

ARGS go to the example `train_autoencoder` of tidegate-models, which the dev profile optimises.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    let Some((command, rest)) = args.split_first() else {
        print!("{HELP}");
        return Ok(());
    };
    if asks_for_help(rest) {
        return print_help(command);
    }
    match command.as_str() {
        "test" => steps::run(&steps::Options::parse(rest)?),
        "demo" => demo(rest),
        "skab" => skab(rest),
        "bench" => bench::run(rest),
        "ledger" => ledger::run(rest),
        "page" => page::build(),
        "train" => train(rest),
        "help" | "-h" | "--help" => print_help(rest.first().map_or("", String::as_str)),
        other => bail!("no command `{other}`; `cargo xtask help` lists them"),
    }
}

/// Arguments behind `--` belong to the program that is started, a `--help` among them too.
fn asks_for_help(args: &[String]) -> bool {
    args.iter()
        .take_while(|arg| *arg != "--")
        .any(|arg| arg == "-h" || arg == "--help")
}

fn print_help(command: &str) -> Result<()> {
    let text = match command {
        "" | "help" => HELP,
        "test" => TEST_HELP,
        "demo" => DEMO_HELP,
        "skab" => SKAB_HELP,
        "bench" => bench::HELP,
        "ledger" => ledger::HELP,
        "page" => PAGE_HELP,
        "train" => TRAIN_HELP,
        other => bail!("no command `{other}`; `cargo xtask help` lists them"),
    };
    print!("{text}");
    Ok(())
}

fn demo(args: &[String]) -> Result<()> {
    page::build_if_stale();
    let program_args = [&["demo".to_owned()], forwarded(args)].concat();
    shell::become_cargo("run", &["--release", "--bin", "tidegate"], &program_args)
}

fn skab(args: &[String]) -> Result<()> {
    let Some((dir, rest)) = args.split_first().filter(|(dir, _)| *dir != "--") else {
        bail!("which directory? `cargo xtask skab DIR`, with valve1-0.csv and its siblings in it");
    };
    let program_args = [std::slice::from_ref(dir), forwarded(rest)].concat();
    shell::become_cargo("run", &["--release", "--example", "skab"], &program_args)
}

fn train(args: &[String]) -> Result<()> {
    let example = [
        "--package",
        "tidegate-models",
        "--example",
        "train_autoencoder",
    ];
    shell::become_cargo("run", &example, forwarded(args))
}

/// `cargo xtask demo --seconds 5` and `cargo xtask demo -- --seconds 5` mean the same.
fn forwarded(args: &[String]) -> &[String] {
    match args.split_first() {
        Some((first, rest)) if first == "--" => rest,
        _ => args,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(String::from).collect()
    }

    #[test]
    fn arguments_are_forwarded_with_and_without_the_separator() {
        assert_eq!(forwarded(&words("-- --seconds 5")), words("--seconds 5"));
        assert_eq!(forwarded(&words("--seconds 5")), words("--seconds 5"));
        assert!(forwarded(&[]).is_empty());
    }

    #[test]
    fn help_behind_the_separator_belongs_to_the_program() {
        assert!(asks_for_help(&words("--help")));
        assert!(!asks_for_help(&words("-- --help")));
    }

    #[test]
    fn an_unknown_command_is_named() {
        let error = run(&words("tset")).expect_err("`tset` is no command");
        assert!(error.to_string().contains("`tset`"));
    }

    #[test]
    fn every_step_is_in_the_help() {
        for step in steps::ALL {
            assert!(
                TEST_HELP.contains(&format!("\n  {}", step.name)),
                "{}",
                step.name
            );
        }
    }
}
