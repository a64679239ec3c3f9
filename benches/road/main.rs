//! The road beside its yardsticks: messages a second, readings committed a second, server CPU a message, latency, memory of an idle connection.
//!
//!     cargo xtask bench --only road [-- --seconds 5]
//!
//! Every server is a child process; the client, its frames and the order are the same for all. Yardsticks: an echo on bare
//! tokio-tungstenite that flushes every message, the same echo with coalesced flushes, and a bare commit on the same disk. "In flight" counts
//! predictions awaited; every reading's ack is awaited and timed beside.

#[path = "../common/mod.rs"]
mod common;
mod echo;
mod half_load;
mod run;

use clap::Parser;
use common::backing::{Backing, StoreArgs};
use common::device::Device;
use common::figures::Figures;
use run::{Case, Outcome, Peer, median, print_head, print_row};
use std::time::Duration;
use tidegate_protocol::Codec;

/// Connections of the throughput runs.
const CONNECTIONS: usize = 64;
/// Connections that only sit there.
const IDLE: usize = 2_000;
/// Predictions awaited where as much as possible is sent.
const SATURATING: usize = 16;
/// Committed readings a second to aim at, with as many in flight.
const AIM_SQLITE: f64 = 60_000.0;
const AIM_POSTGRES: f64 = 30_000.0;
/// Share of the echo's messages to aim at, with one in flight.
const AIM_SHARE: f64 = 0.6;
/// Memory of an idle connection to aim at, KiB.
const AIM_IDLE_KIB: f64 = 16.0;

/// Measures the road beside its yardsticks.
#[derive(Parser)]
struct Args {
    /// Seconds of each run, after a quarter of that to warm up.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Runs of each case; the median is printed.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    #[command(flatten)]
    stores: StoreArgs,
    /// Only the open loop, at so many readings a second, instead of half of what the closed loop reached.
    #[arg(long, value_name = "PER_S")]
    rate: Option<f64>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
    /// What a child process serves: `echo` or `coalesced`.
    #[arg(long, hide = true)]
    serve: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match args.serve.as_deref() {
        Some(kind) => common::run(echo::serve(kind == "coalesced")),
        None => common::run(measure(&args)),
    }
}

async fn measure(args: &Args) -> anyhow::Result<()> {
    println!(
        "{CONNECTIONS} connections, {} x {} s a case, load average {}",
        args.runs,
        args.seconds,
        common::load_average()
    );
    let backings = args.stores.open().await;
    let mut figures = Figures::default();
    let mut saturated = Vec::new();
    if args.rate.is_none() {
        for in_flight in [1, SATURATING] {
            saturated = table(args, &backings, in_flight, &mut figures).await?;
        }
    }
    for (index, backing) in backings.iter().enumerate() {
        let per_s = args.rate.unwrap_or_else(|| saturated[index] / 2.0);
        half_load::measure(args, backing, per_s, &mut figures).await?;
    }
    if args.rate.is_none() {
        idle(&backings[0], &mut figures).await?;
    }
    figures.print();
    Ok(())
}

/// Everyone with so many in flight; returns the readings that each store had committed a second, in JSON.
async fn table(
    args: &Args,
    backings: &[Backing],
    in_flight: usize,
    figures: &mut Figures,
) -> anyhow::Result<Vec<f64>> {
    println!("\n{in_flight} in flight");
    print_head();
    let echo = yardsticks(args, in_flight).await?;
    let mut committed = Vec::new();
    for backing in backings {
        for codec in [Codec::Json, Codec::Bincode] {
            let case = Case {
                peer: Peer::Tidegate(backing),
                codec,
                in_flight,
            };
            let outcome = median(args, case).await?;
            print_row(&case, &outcome, outcome.per_s / echo);
            note(figures, backing, &case, &outcome, echo);
            if codec == Codec::Json {
                committed.push(outcome.acked_per_s);
            }
        }
    }
    Ok(committed)
}

/// The echoes; returns the messages a second of the plain one.
async fn yardsticks(args: &Args, in_flight: usize) -> anyhow::Result<f64> {
    let mut plain = None;
    for peer in [Peer::Echo, Peer::Coalesced] {
        let case = Case {
            peer,
            codec: Codec::Json,
            in_flight,
        };
        let outcome = median(args, case).await?;
        let base = *plain.get_or_insert(outcome.per_s);
        print_row(&case, &outcome, outcome.per_s / base);
    }
    Ok(plain.unwrap_or(f64::NAN))
}

fn note(figures: &mut Figures, backing: &Backing, case: &Case<'_>, outcome: &Outcome, echo: f64) {
    let what = format!(
        "{}, {:?}, {} in flight",
        backing.name(),
        case.codec,
        case.in_flight
    );
    if case.in_flight == SATURATING {
        let aim = match backing {
            Backing::Sqlite => AIM_SQLITE,
            _ => AIM_POSTGRES,
        };
        figures.at_least(format!("committed/s, {what}"), outcome.acked_per_s, aim);
    } else {
        let share = outcome.per_s / echo;
        figures.aim(
            format!("share of the echo, {what}"),
            format!("{share:.2}"),
            format!(">= {AIM_SHARE}"),
            share >= AIM_SHARE,
        );
    }
}

/// Memory of connections that were welcomed and then say nothing.
async fn idle(backing: &Backing, figures: &mut Figures) -> anyhow::Result<()> {
    let fresh = backing.fresh().await?;
    let server = fresh.serve()?;
    // The first few bring allocations that the server needs anyway.
    let mut held = Vec::new();
    for number in 0..50 {
        held.push(Device::connect(server.port, Codec::Json, &fresh.device(number)).await?);
    }
    let before = server.pss()?;
    for number in 50..50 + IDLE {
        held.push(Device::connect(server.port, Codec::Json, &fresh.device(number)).await?);
    }
    let grown = server.pss()?.saturating_sub(before);
    let each = grown as f64 / IDLE as f64 / 1024.0;
    println!("\n{IDLE} idle connections: {each:.1} KiB of server memory each");
    figures.aim(
        "memory of an idle connection",
        format!("{each:.1} KiB"),
        format!("<= {AIM_IDLE_KIB} KiB"),
        each <= AIM_IDLE_KIB,
    );
    Ok(())
}

impl Args {
    /// Length of a run, without its warm-up.
    fn length(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}
