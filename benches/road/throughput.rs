//! As many messages as go: 64 connections with 1 and with 16 in flight, beside the two echoes, pinned and not.

use super::common::backing::Backing;
use super::common::figures::{Figures, thousands};
use super::run::{Answering, Place, Standing, bound, cpu_us, median};
use super::{Args, SATURATING};
use tidegate::load::{Pace, Report};
use tidegate_protocol::Codec;

/// CPU a message and messages a second to aim at, as multiples of the plain echo's.
const AIM_ONE: (f64, f64) = (1.3, 0.85);
const AIM_MANY: (f64, f64) = (0.7, 1.5);
/// Committed readings a second to aim at, with many in flight.
const AIM_SQLITE: f64 = 60_000.0;
const AIM_POSTGRES: f64 = 30_000.0;

pub async fn measure(
    args: &Args,
    backings: &[Backing],
    figures: &mut Figures,
) -> anyhow::Result<()> {
    for place in [Place::Pinned, Place::Unpinned] {
        for in_flight in [1, SATURATING] {
            table(args, backings, place, in_flight, figures).await?;
        }
    }
    stages(args, &backings[0]).await
}

async fn table(
    args: &Args,
    backings: &[Backing],
    place: Place,
    in_flight: usize,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    println!("\n64 connections, {in_flight} in flight, {}", place.name());
    println!(
        "{:<20} {:>10} {:>10} {:>8} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7}",
        "server",
        "msg/s",
        "acked/s",
        "us/msg",
        "p50 us",
        "p99 us",
        "ack p50",
        "ack p99",
        "msg/s x",
        "CPU x"
    );
    let change = |codec| {
        move |plan: &mut tidegate::load::Plan| {
            plan.pace = Pace::InFlight(in_flight);
            plan.codec = codec;
        }
    };
    let echo = median(args, Answering::Echo, place, change(Codec::Json)).await?;
    print_row("echo", &echo, &echo);
    let who = Answering::Coalesced;
    let coalesced = median(args, who, place, change(Codec::Json)).await?;
    print_row(&who.name(Codec::Json), &coalesced, &echo);
    for backing in backings {
        let mut json = None;
        for codec in [Codec::Json, Codec::Bincode] {
            let who = Answering::Tidegate(backing);
            let report = median(args, who, place, change(codec)).await?;
            print_row(&who.name(codec), &report, &echo);
            let what = format!("{}, 64 x {in_flight}, {}", who.name(codec), place.name());
            aim(figures, &what, in_flight, &report, &echo, &coalesced);
            if in_flight == SATURATING {
                committed(figures, backing, &what, &report, json.as_ref());
            }
            json = Some(report);
        }
    }
    Ok(())
}

fn print_row(name: &str, report: &Report, echo: &Report) {
    let (prediction, ack) = (report.prediction_us, report.ack_us);
    println!(
        "{name:<20} {:>10.0} {:>10.0} {:>8.2} {:>9} {:>9} {:>9} {:>9} {:>7.2} {:>7.2} {}",
        report.per_s.predicted,
        report.per_s.acked,
        cpu_us(report),
        prediction.p50,
        prediction.p99,
        ack.p50,
        ack.p99,
        report.per_s.predicted / echo.per_s.predicted,
        cpu_us(report) / cpu_us(echo),
        bound(report),
    );
}

fn aim(
    figures: &mut Figures,
    what: &str,
    in_flight: usize,
    report: &Report,
    echo: &Report,
    coalesced: &Report,
) {
    let (most_cpu, least_rate) = if in_flight == 1 { AIM_ONE } else { AIM_MANY };
    let cpu = cpu_us(report) / cpu_us(echo);
    figures.aim(
        format!("CPU a message, {what}"),
        format!(
            "{cpu:.2} x the echo ({:.2} us of {:.2}, coalesced {:.2})",
            cpu_us(report),
            cpu_us(echo),
            cpu_us(coalesced)
        ),
        format!("<= {most_cpu} x"),
        cpu <= most_cpu,
    );
    let rate = report.per_s.predicted / echo.per_s.predicted;
    let bound = bound(report);
    figures.aim(
        format!("messages/s, {what}"),
        format!(
            "{rate:.2} x the echo ({} of {}, coalesced {}) {bound}",
            thousands(report.per_s.predicted),
            thousands(echo.per_s.predicted),
            thousands(coalesced.per_s.predicted)
        ),
        format!(">= {least_rate} x"),
        rate >= least_rate,
    );
}

fn committed(
    figures: &mut Figures,
    backing: &Backing,
    what: &str,
    report: &Report,
    json: Option<&Report>,
) {
    let aim = match backing {
        Backing::Sqlite => AIM_SQLITE,
        _ => AIM_POSTGRES,
    };
    figures.at_least(format!("committed/s, {what}"), report.per_s.acked, aim);
    if let Some(json) = json {
        let ratio = cpu_us(report) / cpu_us(json);
        figures.aim(
            format!("CPU a message of bincode, {what}"),
            format!("{ratio:.2} x JSON"),
            "< 1 x",
            ratio < 1.0,
        );
    }
}

/// Where a message's time goes, by the server's own clocks: the price beside the coalesced echo. Stages of a batch count once a batch.
async fn stages(args: &Args, backing: &Backing) -> anyhow::Result<()> {
    let standing = Standing::start(Answering::Tidegate(backing), Place::Pinned).await?;
    let report = standing
        .load(args, |plan| plan.pace = Pace::InFlight(SATURATING))
        .await?;
    let text = standing.server.get("/metrics").await?;
    let sums = text.lines().filter_map(|line| {
        let rest = line.strip_prefix("tidegate_stage_seconds_sum{stage=\"")?;
        let (stage, sum) = rest.split_once("\"} ")?;
        Some((stage.to_owned(), sum.parse::<f64>().ok()?))
    });
    println!(
        "\nstages of a message at 64 x {SATURATING} (JSON, the whole run, wall time of the server's clocks)"
    );
    for (stage, seconds) in sums {
        let each = seconds * 1e6 / report.readings.predicted.max(1) as f64;
        println!("{stage:<12} {each:>8.2} us a message");
    }
    Ok(())
}
