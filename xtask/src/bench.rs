//! `cargo xtask bench`: the benchmarks one after the other, and their figures beside the targets in one table at the end.
//!
//! Each is a bench target that prints its own tables; the lines of its last one, in Markdown, are picked out
//! of its output on the way. A missed target is not a failure here: it is said in the table.

use anyhow::{Context, Result, bail};

use crate::{shell, tools};

/// What `cargo xtask help bench` prints.
pub const HELP: &str = "\
Measure speed and memory beside yardsticks in the same run, and print figures beside their targets

Usage: cargo xtask bench [--only NAME,..] [-- ARGS]

Options:
      --only NAME,..   Run these, in the order below

Benchmarks:
  store         the store path beside sqlx's own multi-row insert
  road          messages, commits and acks a second and their latency beside an echo and a bare commit
  recovery      10,000 streams come back after kill -9
  subscribers   300 subscribers that never read: memory, and what the others feel
  promotion     a promotion and a rollback under 10,000 readings/s: errors, and p99 beside the p99 before
  experiments   an analysis of 8 arms x 100,000 devices refreshed, all at once
  models        fused steps beside candle's own graphs, and beside onnxruntime with `-- --python PATH`

ARGS go to the one benchmark that was chosen, for example:
  cargo xtask bench --only road -- --seconds 2 --runs 1
  cargo xtask bench --only recovery -- --help

SQLite and PostgreSQL are measured, the latter in a private cluster on the same disk (installed with
apt-get if missing); `--stores sqlite` behind the `--` leaves it out. All of it takes some twenty
minutes after the build; close what else the machine is doing.
";

/// A benchmark, and whether it runs on PostgreSQL too.
struct Bench {
    name: &'static str,
    /// Where it lives, if not in the root package.
    package: Option<&'static str>,
    on_postgres: bool,
}

/// All benchmarks in the order in which they run.
const ALL: [Bench; 7] = [
    Bench {
        name: "store",
        package: None,
        on_postgres: true,
    },
    Bench {
        name: "road",
        package: None,
        on_postgres: true,
    },
    Bench {
        name: "recovery",
        package: None,
        on_postgres: true,
    },
    Bench {
        name: "subscribers",
        package: None,
        on_postgres: false,
    },
    Bench {
        name: "promotion",
        package: None,
        on_postgres: true,
    },
    Bench {
        name: "experiments",
        package: Some("tidegate-experiments"),
        on_postgres: false,
    },
    Bench {
        name: "models",
        package: None,
        on_postgres: false,
    },
];

/// Arguments that say which store to measure.
const STORE_FLAGS: [&str; 3] = ["--stores", "--store-url", "--keep"];

/// What the command line asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    only: Vec<String>,
    args: Vec<String>,
}

/// Runs the chosen benchmarks.
pub fn run(args: &[String]) -> Result<()> {
    let options = Options::parse(args)?;
    let chosen: Vec<_> = ALL.iter().filter(|bench| options.wants(bench)).collect();
    if chosen.iter().any(|bench| bench.on_postgres) && !options.names_a_store() {
        tools::need_postgres()?;
    }
    let mut figures: Vec<String> = Vec::new();
    for bench in &chosen {
        let mut cargo = shell::cargo();
        cargo.arg("bench");
        if let Some(package) = bench.package {
            cargo.args(["--package", package]);
        }
        cargo.args(["--bench", bench.name, "--"]);
        let lines = shell::run_picking(cargo.args(&options.args), |line| line.starts_with("| "))?;
        // Each has the same head; one of them is enough.
        figures.extend(lines.into_iter().skip(usize::from(!figures.is_empty())));
    }
    if chosen.len() > 1 {
        print_figures(&figures);
    }
    Ok(())
}

fn print_figures(figures: &[String]) {
    println!();
    for (index, line) in figures.iter().enumerate() {
        println!("{line}");
        if index == 0 {
            println!("|---|---|---|---|");
        }
    }
}

impl Options {
    fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let (flag, inline) = match arg.split_once('=') {
                Some((flag, value)) => (flag, Some(value)),
                None => (arg.as_str(), None),
            };
            match flag {
                "--" => options.args = args.by_ref().cloned().collect(),
                "--only" => {
                    let value = inline.or_else(|| args.next().map(String::as_str));
                    let value = value.context("--only needs a list of benchmarks")?;
                    options.only.extend(names(value)?);
                }
                _ => bail!("no option `{arg}`; see `cargo xtask bench --help`"),
            }
        }
        if !options.args.is_empty() && options.only.len() != 1 {
            bail!("what follows `--` goes to one benchmark: choose it with --only");
        }
        Ok(options)
    }

    fn wants(&self, bench: &Bench) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == bench.name)
    }

    fn names_a_store(&self) -> bool {
        let is_flag = |arg: &String| STORE_FLAGS.iter().any(|flag| arg.starts_with(flag));
        self.args.iter().any(is_flag)
    }
}

fn names(list: &str) -> Result<Vec<String>> {
    let names: Vec<String> = list.split(',').map(|name| name.trim().to_owned()).collect();
    for name in &names {
        if !ALL.iter().any(|bench| bench.name == name) {
            let known = ALL.map(|bench| bench.name).join(", ");
            bail!("no benchmark `{name}`; there are {known}");
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        let words: Vec<String> = line.split_whitespace().map(String::from).collect();
        Options::parse(&words)
    }

    #[test]
    fn what_follows_the_separator_goes_to_the_chosen_one() {
        let options = parse("--only road -- --seconds 2").expect("it is one");
        assert_eq!(options.only, ["road"]);
        assert_eq!(options.args, ["--seconds", "2"]);
        for line in ["-- --seconds 2", "--only=road,store -- --runs 1"] {
            let error = parse(line).expect_err("nobody knows whose they are");
            assert!(error.to_string().contains("--only"), "{error}");
        }
    }

    #[test]
    fn an_unknown_benchmark_is_named_with_those_there_are() {
        let error = parse("--only roda").expect_err("`roda` is none");
        assert!(error.to_string().contains("`roda`; there are store, road"));
    }

    #[test]
    fn a_named_store_is_the_only_one_needed() {
        let named = parse("--only road -- --stores sqlite").expect("it is one");
        assert!(named.names_a_store());
        assert!(!Options::default().names_a_store());
    }

    #[test]
    fn every_benchmark_is_in_the_help_and_in_the_manifest() {
        for Bench { name, package, .. } in ALL {
            let folder = package.map_or("", |package| package.trim_start_matches("tidegate-"));
            let manifest = shell::root().join(folder).join("Cargo.toml");
            let manifest = std::fs::read_to_string(manifest).expect("it has a manifest");
            assert!(HELP.contains(&format!("\n  {name} ")), "{name}");
            let target = format!("[[bench]]\nname = \"{name}\"");
            assert!(manifest.contains(&target), "{name}");
        }
    }
}
