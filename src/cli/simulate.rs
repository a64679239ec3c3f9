//! `tidegate simulate experiment`: worlds with a known truth, played through the analysis itself.
//!
//! To plan an experiment (how many devices, how long) and to see what its verdicts are worth. Needs no server and no data.

use super::output::Output;
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use tidegate_experiments::sequential::interval::Tuning;
use tidegate_experiments::simulate::{self, Kind, Peek, Rates, Setup, Table};

/// Play what cannot be tried out: experiments whose truth is known.
#[derive(Debug, Clone, Args)]
pub struct SimulateArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, Subcommand)]
enum What {
    Experiment(ExperimentArgs),
}

/// Play A/A and A/B worlds and print false alarms, power and time to the verdict.
///
/// Every kind of world is played twice: without an effect, where each verdict is a false alarm, and with --effect. Beside the verdicts runs
/// a plain z-test over readings that is looked at as often. The same seed gives the same table.
#[derive(Debug, Clone, Args)]
pub struct ExperimentArgs {
    /// What the challenger adds to the outcome's probability; 0 plays A/A worlds only.
    #[arg(long, default_value_t = 0.04, allow_negative_numbers = true)]
    effect: f64,
    /// Probability of the outcome in the control.
    #[arg(long, default_value_t = 0.20)]
    baseline: f64,
    /// Devices an arm.
    #[arg(long, default_value_t = 5_000)]
    devices: u32,
    /// When the verdict is looked at: always (after every reading), end, or every so many readings.
    #[arg(long, value_name = "always|end|N", default_value = "always", value_parser = peek)]
    peek: Peek,
    /// Worlds of each kind.
    #[arg(long, default_value_t = 1_000)]
    worlds: u32,
    /// independent, at-once, autocorrelated, uneven, peeked, small, ramp, bandit, shadow, several of them with commas, or all.
    #[arg(long, value_name = "KIND|all", default_value = "all", value_parser = kinds)]
    world: Kinds,
    /// Error that a verdict may make.
    #[arg(long, default_value_t = 0.05)]
    alpha: f64,
    /// Devices after which the interval is tightest.
    #[arg(long, value_name = "N", default_value_t = 5_000.0)]
    planned_devices: f64,
    /// Margin of "no difference"; 0: never said.
    #[arg(long, default_value_t = 0.0)]
    margin: f64,
    /// Where the randomness comes from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Worlds played at once [default: one a core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: Option<u32>,
    /// Write the rates as JSON to this file; `-`: standard output, instead of the table.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Replace FILE if it is there.
    #[arg(long)]
    force: bool,
}

/// Kinds of world as chosen.
#[derive(Debug, Clone)]
struct Kinds(Vec<Kind>);

fn peek(text: &str) -> Result<Peek, String> {
    match text {
        "always" => Ok(Peek::Always),
        "end" => Ok(Peek::End),
        _ => match text.parse() {
            Ok(readings) if readings > 0 => Ok(Peek::Every(readings)),
            _ => Err("say `always`, `end` or a number of readings".into()),
        },
    }
}

fn kinds(text: &str) -> Result<Kinds, String> {
    if text == "all" {
        return Ok(Kinds(Kind::ALL.to_vec()));
    }
    let one = |name: &str| {
        Kind::parse(name).ok_or_else(|| {
            let known = Kind::ALL.map(Kind::name).join(", ");
            format!("no world `{name}`; there are {known} and all")
        })
    };
    let kinds: Result<Vec<Kind>, String> = text.split(',').map(|name| one(name.trim())).collect();
    kinds.map(Kinds)
}

/// Runs the command.
///
/// # Errors
/// A setup that makes no sense, or a file that cannot be written.
pub async fn run(args: SimulateArgs) -> anyhow::Result<ExitCode> {
    let What::Experiment(args) = args.what;
    // It computes for minutes: not on a thread that others wait on.
    tokio::task::spawn_blocking(move || experiment(&args)).await??;
    Ok(ExitCode::SUCCESS)
}

fn experiment(args: &ExperimentArgs) -> anyhow::Result<()> {
    // What cannot be is refused before minutes of work.
    for kind in &args.world.0 {
        if let Err(error) = setup(args, *kind, args.effect).check() {
            bail!("--{error}");
        }
    }
    let out = args
        .json
        .as_ref()
        .map(|path| Output::open(path, args.force))
        .transpose()?;
    let threads = match args.threads {
        Some(threads) => threads as usize,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for kind in &args.world.0 {
        eprintln!("{}: {} worlds", kind.name(), args.worlds);
        without.push(simulate::run(&setup(args, *kind, 0.0), threads)?);
        if args.effect != 0.0 {
            with.push(simulate::run(&setup(args, *kind, args.effect), threads)?);
        }
    }
    if !writes_standard(args) {
        print!(
            "{}",
            Table {
                without: &without,
                with: &with
            }
        );
        println!("{}", needed(args));
    }
    let Some(mut out) = out else {
        return Ok(());
    };
    let all: Vec<Rates> = without.into_iter().chain(with).collect();
    serde_json::to_writer_pretty(&mut out, &all)?;
    writeln!(out).context("the rates")?;
    out.finish()
}

fn writes_standard(args: &ExperimentArgs) -> bool {
    args.json
        .as_ref()
        .is_some_and(|path| path.as_os_str() == "-")
}

fn setup(args: &ExperimentArgs, kind: Kind, effect: f64) -> Setup {
    Setup {
        kind,
        baseline: args.baseline,
        effect,
        devices: args.devices,
        peek: args.peek,
        worlds: args.worlds,
        seed: args.seed,
        alpha: args.alpha,
        planned_devices: args.planned_devices,
        margin: args.margin,
    }
}

/// What the interval alone needs, by its formula: for planning.
fn needed(args: &ExperimentArgs) -> String {
    let (p, q) = (args.baseline, args.baseline + args.effect);
    // Of one yes or no a device, half of the devices in each arm.
    let variance = 2.0 * (p * (1.0 - p) + q * (1.0 - q));
    let tuning = Tuning::two_sided(args.alpha, args.planned_devices);
    match tuning.units_needed(args.effect.abs(), variance) {
        Some(units) => format!(
            "\nA difference of {} between one yes or no a device shows in half of the experiments by {:.0} devices an arm.",
            args.effect,
            (units / 2.0).ceil()
        ),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: ExperimentArgs,
    }

    #[test]
    fn what_cannot_be_is_refused_before_a_world_is_played() {
        let line = ["simulate", "--effect", "0.9", "--worlds", "1000000"];
        let line = <Line as clap::Parser>::parse_from(line);
        let error = experiment(&line.args).unwrap_err().to_string();
        assert!(
            error.starts_with("--effect: 1.1 is out of bounds"),
            "{error}"
        );
    }

    #[test]
    fn worlds_and_looks_are_read_or_refused_by_name() {
        assert_eq!(kinds("all").unwrap().0.len(), Kind::ALL.len());
        assert_eq!(
            kinds("at-once, small").unwrap().0,
            [Kind::AtOnce, Kind::Small]
        );
        assert!(
            kinds("flat")
                .unwrap_err()
                .contains("no world `flat`; there are independent, ")
        );
        assert_eq!(peek("end"), Ok(Peek::End));
        assert_eq!(peek("100"), Ok(Peek::Every(100)));
        assert!(peek("0").is_err() && peek("often").is_err());
    }
}
