//! The road beside its yardsticks, part by part: throughput, half load, idle connections, sessions at rest, fan-out, MQTT, start, overload.
//!
//!     cargo xtask bench --only throughput,idle [-- --seconds 5]
//!
//! Every server is a child process on a core of its own where that is said, driven by `tidegate::load` from another core. "In flight" counts
//! predictions awaited; every reading's ack is awaited and timed beside. A ratio is of one run.

#[path = "../common/mod.rs"]
mod common;
mod curves;
mod fan_out;
mod half_load;
mod idle;
mod mqtt;
mod overload;
mod run;
mod sessions;
mod start;
mod throughput;
mod yardsticks;

use clap::{Parser, ValueEnum};
use common::backing::{Backing, StoreArgs};
use common::figures::Figures;
use std::time::Duration;

/// Predictions awaited where as much as possible is sent.
const SATURATING: usize = 16;
/// Where server and client stay when they are pinned.
const SERVER_CORE: usize = 0;
const CLIENT_CORE: usize = 1;

/// Measures the road beside its yardsticks.
#[derive(Parser)]
struct Args {
    /// What to measure; everything when left out.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART,..")]
    part: Vec<Part>,
    /// Draws curves into docs/img, and nothing else.
    #[arg(long, conflicts_with = "part")]
    plots: bool,
    /// Small and short: to see that it runs.
    #[arg(long)]
    quick: bool,
    /// Seconds of each run, after a quarter of that to warm up.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Runs of each case of `throughput`; the median is told.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    #[command(flatten)]
    stores: StoreArgs,
    /// Readings a second of `half-load`, instead of half of what the server takes.
    #[arg(long, value_name = "PER_S")]
    rate: Option<f64>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
    /// What a child process serves: `echo`, `coalesced`, `broadcast`, `rumqttc`, and its argument.
    #[arg(long, hide = true)]
    serve: Option<String>,
    #[arg(long, hide = true, default_value = "")]
    argument: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Throughput,
    HalfLoad,
    Idle,
    Sessions,
    FanOut,
    Mqtt,
    Start,
    Overload,
}

impl Args {
    /// Length of a run, without its warm-up.
    fn length(&self) -> Duration {
        Duration::from_secs_f64(if self.quick { 1.0 } else { self.seconds })
    }

    fn runs(&self) -> usize {
        if self.quick { 1 } else { self.runs.max(1) }
    }

    /// The usual, or what a quick run has instead.
    fn pick<T>(&self, (usual, quick): (T, T)) -> T {
        if self.quick { quick } else { usual }
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match &args.serve {
        Some(kind) => common::run(yardsticks::serve(kind, &args.argument)),
        None => common::run(measure(&args)),
    }
}

async fn measure(args: &Args) -> anyhow::Result<()> {
    println!(
        "{} x {:?} a case, load average {}",
        args.runs(),
        args.length(),
        common::load_average()
    );
    let backings = args.stores.open().await;
    if args.plots {
        return curves::draw_all(args, &backings).await;
    }
    let mut figures = Figures::default();
    let all = Part::value_variants();
    let parts = if args.part.is_empty() {
        all
    } else {
        &args.part
    };
    for part in parts {
        println!("\n## {part:?}");
        run_part(args, *part, &backings, &mut figures).await?;
    }
    figures.print();
    Ok(())
}

async fn run_part(
    args: &Args,
    part: Part,
    backings: &[Backing],
    figures: &mut Figures,
) -> anyhow::Result<()> {
    match part {
        Part::Throughput => throughput::measure(args, backings, figures).await,
        Part::HalfLoad => half_load::measure(args, backings, figures).await,
        Part::Idle => idle::measure(args, backings, figures).await,
        Part::Sessions => sessions::measure(args, backings, figures).await,
        Part::FanOut => fan_out::measure(args, backings, figures).await,
        Part::Mqtt => mqtt::measure(args, backings, figures).await,
        Part::Start => start::measure(args, backings, figures).await,
        Part::Overload => overload::measure(args, backings, figures).await,
    }
}
