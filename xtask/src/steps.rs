//! `cargo xtask test`: the steps that CI runs, each with its duration, and a table at the end.
//!
//! Cheap steps come first, so that a slip shows early; the page is built before anything that embeds
//! it. Every cargo call takes the whole workspace in the dev profile, so that features are resolved
//! alike and nothing is compiled twice but for `clippy`, which checks without generating code.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{page, shell, tools};

/// One step: its name on the command line and what it does.
pub struct Step {
    /// As `--only` names it.
    pub name: &'static str,
    run: fn() -> Result<Done>,
}

/// All steps in the order in which they run.
pub const ALL: [Step; 7] = [
    Step {
        name: "fmt",
        run: fmt,
    },
    Step {
        name: "page",
        run: page,
    },
    Step {
        name: "clippy",
        run: clippy,
    },
    Step {
        name: "test",
        run: test,
    },
    Step {
        name: "e2e",
        run: e2e,
    },
    Step {
        name: "doc",
        run: doc,
    },
    Step {
        name: "deny",
        run: deny,
    },
];

/// How a step that did not fail ended.
enum Done {
    Passed,
    LeftOut(&'static str),
}

/// What the command line asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    only: BTreeSet<String>,
    skip: BTreeSet<String>,
    keep_going: bool,
}

impl Options {
    /// Reads `--only a,b`, `--only=a,b`, `--skip ..` and `--keep-going`; unknown steps are refused.
    pub fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let (flag, inline) = match arg.split_once('=') {
                Some((flag, value)) => (flag, Some(value)),
                None => (arg.as_str(), None),
            };
            let mut value = || inline.or_else(|| args.next().map(String::as_str));
            match flag {
                "--keep-going" => options.keep_going = true,
                "--only" => options.only.extend(step_names(flag, value())?),
                "--skip" => options.skip.extend(step_names(flag, value())?),
                _ => bail!("no option `{arg}`; see `cargo xtask test --help`"),
            }
        }
        Ok(options)
    }

    fn wants(&self, step: &Step) -> bool {
        let chosen = self.only.is_empty() || self.only.contains(step.name);
        chosen && !self.skip.contains(step.name)
    }
}

fn step_names(flag: &str, value: Option<&str>) -> Result<Vec<String>> {
    let value = value.with_context(|| format!("{flag} needs a list of steps"))?;
    let names: Vec<String> = value
        .split(',')
        .map(|name| name.trim().to_owned())
        .collect();
    for name in &names {
        if !ALL.iter().any(|step| step.name == name) {
            bail!(
                "no step `{name}`; there are {}",
                ALL.map(|step| step.name).join(", ")
            );
        }
    }
    Ok(names)
}

struct Row {
    name: &'static str,
    took: Duration,
    result: Result<Done>,
}

/// Runs the chosen steps; stops at the first failure unless told to keep going.
pub fn run(options: &Options) -> Result<()> {
    let started = Instant::now();
    let mut rows = Vec::new();
    for step in ALL.iter().filter(|step| options.wants(step)) {
        let row = run_step(step);
        let failed = row.result.is_err();
        rows.push(row);
        if failed && !options.keep_going {
            break;
        }
    }
    print_table(&rows, started.elapsed());
    let failed: Vec<&str> = rows
        .iter()
        .filter(|row| row.result.is_err())
        .map(|row| row.name)
        .collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn run_step(step: &Step) -> Row {
    println!("\n== {} ==", step.name);
    let started = Instant::now();
    let result = (step.run)();
    let took = started.elapsed();
    match &result {
        Ok(Done::Passed) => println!("== {} passed in {} ==", step.name, seconds(took)),
        Ok(Done::LeftOut(why)) => println!("== {} left out: {why} ==", step.name),
        Err(error) => println!(
            "== {} FAILED after {}: {error:#} ==",
            step.name,
            seconds(took)
        ),
    }
    Row {
        name: step.name,
        took,
        result,
    }
}

fn print_table(rows: &[Row], total: Duration) {
    println!("\n{:<8} {:>9}  result", "step", "time");
    for row in rows {
        let result = match &row.result {
            Ok(Done::Passed) => "passed".to_owned(),
            Ok(Done::LeftOut(why)) => format!("left out: {why}"),
            Err(error) => format!("FAILED: {error:#}"),
        };
        println!("{:<8} {:>9}  {result}", row.name, seconds(row.took));
    }
    println!("{:<8} {:>9}", "all", seconds(total));
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn fmt() -> Result<Done> {
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))?;
    Ok(Done::Passed)
}

fn page() -> Result<Done> {
    page::check_test_build()?;
    Ok(Done::Passed)
}

fn clippy() -> Result<Done> {
    let args = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    shell::run(shell::cargo().args(args))?;
    Ok(Done::Passed)
}

fn test() -> Result<Done> {
    tools::need_mosquitto()?;
    tools::need_postgres()?;
    tools::need_faketime()?;
    tools::need_strace()?;
    shell::run(shell::cargo().args(["test", "--workspace"]))?;
    Ok(Done::Passed)
}

fn e2e() -> Result<Done> {
    page::install()?;
    let chromium = tools::need_chromium()?;
    // `test --no-run` and not `build`: the same features as the step before, so there is nothing left
    // to compile; it leaves the binary beside us.
    shell::run(shell::cargo().args(["test", "--workspace", "--no-run"]))?;
    let mut npm = shell::npm();
    npm.args(["run", "e2e"])
        .env("TIDEGATE_BIN", tidegate_binary()?)
        .env("CHROMIUM", chromium);
    shell::run(&mut npm)?;
    Ok(Done::Passed)
}

/// The dev build lies where xtask's own does, wherever the target directory is.
fn tidegate_binary() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where xtask runs from")?;
    let binary = own.with_file_name(format!("tidegate{}", std::env::consts::EXE_SUFFIX));
    if !binary.is_file() {
        bail!("no binary at {}", binary.display());
    }
    Ok(binary)
}

fn doc() -> Result<Done> {
    let args = [
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ];
    shell::run(shell::cargo().args(args).env("RUSTDOCFLAGS", "-D warnings"))?;
    Ok(Done::Passed)
}

fn deny() -> Result<Done> {
    if !tools::has_cargo_deny() {
        return Ok(Done::LeftOut(
            "cargo-deny is not installed (cargo install --locked cargo-deny)",
        ));
    }
    shell::run(shell::cargo().args(["deny", "check"]))?;
    Ok(Done::Passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        let args: Vec<String> = line.split_whitespace().map(String::from).collect();
        Options::parse(&args)
    }

    fn chosen(line: &str) -> Vec<&'static str> {
        let options = parse(line).expect("a good command line");
        ALL.iter()
            .filter(|step| options.wants(step))
            .map(|step| step.name)
            .collect()
    }

    #[test]
    fn all_steps_run_when_none_is_named() {
        assert_eq!(chosen(""), ALL.map(|step| step.name));
    }

    #[test]
    fn chosen_steps_run_in_their_fixed_order() {
        assert_eq!(chosen("--only doc,fmt"), ["fmt", "doc"]);
        assert_eq!(chosen("--only=clippy --only=test"), ["clippy", "test"]);
        assert_eq!(chosen("--only fmt,clippy --skip clippy"), ["fmt"]);
    }

    #[test]
    fn an_unknown_step_is_refused_with_the_list() {
        let error = parse("--only fmt,lint")
            .expect_err("`lint` is no step")
            .to_string();
        assert!(
            error.contains("`lint`") && error.contains("clippy"),
            "{error}"
        );
        assert!(parse("--only").is_err());
        assert!(parse("--fast").is_err());
    }
}
