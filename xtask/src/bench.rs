//! `cargo xtask bench`: the benchmarks one after the other, and their figures beside the targets in one table at the end.
//!
//! Each is a bench target that prints its own tables; the lines of its last one, in Markdown, are picked out
//! of its output on the way. A missed target is not a failure here: it is said in the table.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;

use crate::{shell, tools};

/// What `cargo xtask help bench` prints.
pub const HELP: &str = "\
Measure speed and memory beside yardsticks in the same run, and print figures beside their targets

Usage: cargo xtask bench [OPTIONS] [-- ARGS]

Options:
      --only NAME,..   Run these, in the order below; `road` is the first eight
      --quick          Small and short: to see that it runs; figures mean little
      --sqlite         Leave PostgreSQL out
      --json FILE      Write the figures as JSON too
      --plots          Draw curves over connections, devices, models and subscribers into docs/img instead

Benchmarks:
  throughput    64 connections, 1 and 16 in flight: messages/s and CPU a message beside an echo, pinned and not
  half-load     1,000 connections at half of what the server takes: p99 beside the echo's and a bare commit's
  idle          19,000 idle connections: memory of the server and of the kernel
  sessions      1,000,000 sessions known, 10,000 active: bytes of a resting one, cost of a look-up
  fan-out       1 stream to 1,000 subscribers beside a bare broadcast of prepared frames
  mqtt          readings/s through Mosquitto beside a bare rumqttc loop
  start         from start to ready, and the size of the binary
  overload      twice of what the server takes, for a minute: memory, latency of what is accepted, and after
  store         the store path beside sqlx's own multi-row insert
  recovery      10,000 streams come back after kill -9
  subscribers   300 subscribers that never read: memory, and what the others feel
  promotion     a promotion and a rollback under 10,000 readings/s: errors, and p99 beside the p99 before
  experiments   an analysis of 8 arms x 100,000 devices refreshed, all at once
  models        fused steps beside candle's own graphs, and beside onnxruntime with `-- --python PATH`

ARGS go to the one benchmark that was chosen, for example:
  cargo xtask bench --only throughput -- --seconds 2 --runs 1
  cargo xtask bench --only recovery -- --help

SQLite and PostgreSQL are measured, the latter in a private cluster on the same disk (installed with
apt-get if missing). All of it takes some forty minutes after the build; close what else the machine
is doing.
";

/// A benchmark.
struct Bench {
    name: &'static str,
    /// The bench target; one that has several says which of them.
    target: &'static str,
    /// Where it lives, if not in the root package.
    package: Option<&'static str>,
    on_postgres: bool,
    /// What makes it short.
    quick: &'static [&'static str],
}

impl Bench {
    const fn road(name: &'static str, on_postgres: bool) -> Self {
        Self {
            name,
            target: "road",
            package: None,
            on_postgres,
            quick: &["--quick"],
        }
    }

    const fn of_its_own(
        name: &'static str,
        on_postgres: bool,
        quick: &'static [&'static str],
    ) -> Self {
        Self {
            name,
            target: name,
            package: None,
            on_postgres,
            quick,
        }
    }

    const fn of(self, package: &'static str) -> Self {
        Self {
            package: Some(package),
            ..self
        }
    }
}

/// All benchmarks in the order in which they run.
const ALL: [Bench; 14] = [
    Bench::road("throughput", true),
    Bench::road("half-load", true),
    Bench::road("idle", false),
    Bench::road("sessions", false),
    Bench::road("fan-out", false),
    Bench::road("mqtt", false),
    Bench::road("start", false),
    Bench::road("overload", false),
    Bench::of_its_own("store", true, &["--rows", "20000", "--runs", "1"]),
    Bench::of_its_own("recovery", true, &["--streams", "500", "--runs", "1"]),
    Bench::of_its_own("subscribers", false, &["--seconds", "1"]),
    Bench::of_its_own("promotion", true, &["--seconds", "1"]),
    Bench::of_its_own("experiments", false, &[]).of("tidegate-experiments"),
    Bench::of_its_own("models", false, &[]),
];

/// Arguments that say which store to measure.
const STORE_FLAGS: [&str; 3] = ["--stores", "--store-url", "--keep"];

/// What the command line asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    only: Vec<String>,
    quick: bool,
    sqlite: bool,
    json: Option<PathBuf>,
    plots: bool,
    args: Vec<String>,
}

/// Runs the chosen benchmarks.
pub fn run(args: &[String]) -> Result<()> {
    let options = Options::parse(args)?;
    if options.plots {
        let mut cargo = shell::cargo();
        cargo.args([
            "bench", "--bench", "road", "--", "--plots", "--stores", "sqlite",
        ]);
        cargo.args(options.quick.then_some("--quick"));
        return shell::run(&mut cargo);
    }
    let chosen: Vec<_> = ALL.iter().filter(|bench| options.wants(bench)).collect();
    if chosen.iter().any(|bench| bench.on_postgres) && !options.names_a_store() {
        tools::need_postgres()?;
    }
    if chosen.iter().any(|bench| bench.name == "mqtt") {
        tools::need_mosquitto()?;
    }
    let mut figures: Vec<String> = Vec::new();
    for bench in &chosen {
        let lines = run_one(bench, &options)?;
        // Each has the same head; one of them is enough.
        figures.extend(lines.into_iter().skip(usize::from(!figures.is_empty())));
    }
    if chosen.len() > 1 {
        print_figures(&figures);
    }
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&as_json(&figures))?;
        std::fs::write(path, text + "\n").with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn run_one(bench: &Bench, options: &Options) -> Result<Vec<String>> {
    let mut cargo = shell::cargo();
    cargo.arg("bench");
    if let Some(package) = bench.package {
        cargo.args(["--package", package]);
    }
    cargo.args(["--bench", bench.target, "--"]);
    if bench.target == "road" {
        cargo.args(["--part", bench.name]);
    }
    if options.quick {
        cargo.args(bench.quick);
    }
    let no_postgres =
        options.sqlite && bench.on_postgres || bench.target == "road" && !bench.on_postgres;
    if no_postgres && !options.names_a_store_in_args() {
        cargo.args(["--stores", "sqlite"]);
    }
    shell::run_picking(cargo.args(&options.args), |line| line.starts_with("| "))
}

/// Rows of the table as objects; the first is its head.
fn as_json(figures: &[String]) -> serde_json::Value {
    let cells = |line: &String| -> Vec<String> {
        let cells = line.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().to_owned()).collect()
    };
    let rows = figures.iter().skip(1).map(cells).map(|row| {
        let cell = |at: usize| row.get(at).cloned().unwrap_or_default();
        let met = match cell(3).as_str() {
            "yes" => Some(true),
            "no" => Some(false),
            _ => None,
        };
        serde_json::json!({"figure": cell(0), "measured": cell(1), "target": cell(2), "met": met})
    });
    rows.collect()
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
                "--quick" => options.quick = true,
                "--sqlite" => options.sqlite = true,
                "--plots" => options.plots = true,
                "--json" => {
                    let value = inline.or_else(|| args.next().map(String::as_str));
                    options.json = Some(value.context("--json needs a file")?.into());
                }
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
        let is_it = |name: &String| name == bench.name || name == bench.target;
        self.only.is_empty() || self.only.iter().any(is_it)
    }

    fn names_a_store(&self) -> bool {
        self.sqlite || self.names_a_store_in_args()
    }

    fn names_a_store_in_args(&self) -> bool {
        let is_flag = |arg: &String| STORE_FLAGS.iter().any(|flag| arg.starts_with(flag));
        self.args.iter().any(is_flag)
    }
}

fn names(list: &str) -> Result<Vec<String>> {
    let names: Vec<String> = list.split(',').map(|name| name.trim().to_owned()).collect();
    for name in &names {
        if !ALL
            .iter()
            .any(|bench| bench.name == name || bench.target == name)
        {
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
        let options = parse("--only idle -- --seconds 2").expect("it is one");
        assert_eq!(options.only, ["idle"]);
        assert_eq!(options.args, ["--seconds", "2"]);
        for line in ["-- --seconds 2", "--only=road,store -- --runs 1"] {
            let error = parse(line).expect_err("nobody knows whose they are");
            assert!(error.to_string().contains("--only"), "{error}");
        }
    }

    #[test]
    fn an_unknown_benchmark_is_named_with_those_there_are() {
        let error = parse("--only roda").expect_err("`roda` is none");
        assert!(
            error
                .to_string()
                .contains("`roda`; there are throughput, half-load")
        );
    }

    #[test]
    fn a_named_store_is_the_only_one_needed() {
        let named = parse("--only store -- --stores sqlite").expect("it is one");
        assert!(named.names_a_store());
        assert!(!Options::default().names_a_store());
    }

    #[test]
    fn every_benchmark_is_in_the_help_and_in_the_manifest() {
        for Bench {
            name,
            target,
            package,
            ..
        } in ALL
        {
            let folder = package.map_or("", |package| package.trim_start_matches("tidegate-"));
            let manifest = shell::root().join(folder).join("Cargo.toml");
            let manifest = std::fs::read_to_string(manifest).expect("it has a manifest");
            assert!(HELP.contains(&format!("\n  {name} ")), "{name}");
            let target = format!("[[bench]]\nname = \"{target}\"");
            assert!(manifest.contains(&target), "{name}");
        }
    }

    #[test]
    fn a_group_is_all_of_its_parts_and_a_quick_run_is_said() {
        let options =
            parse("--only road,models --quick --sqlite --json a.json").expect("it is one");
        let wanted = ALL.iter().filter(|bench| options.wants(bench)).count();
        assert_eq!((wanted, options.quick, options.sqlite), (9, true, true));
        assert_eq!(options.json, Some(PathBuf::from("a.json")));
    }

    #[test]
    fn figures_are_objects_without_their_head() {
        let lines = [
            "| figure | measured | target | met |",
            "| a | 1 x | <= 2 x | yes |",
            "| b | 3 |  |  |",
        ];
        let json = as_json(&lines.map(String::from));
        assert_eq!(json[0]["figure"], "a");
        assert_eq!(json[0]["met"], true);
        assert!(json[1]["met"].is_null() && json[2].is_null());
    }
}
