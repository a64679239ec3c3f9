//! One stream of predictions to a thousand subscribers, beside a bare broadcast of prepared frames.

use super::Args;
use super::common::backing::Backing;
use super::common::figures::{Figures, thousands};
use super::run::{Answering, Place, Standing};
use std::time::Duration;
use tidegate::load::{Pace, Report};

/// Subscribers, and events a second to each; and in a quick run.
const SUBSCRIBERS: (usize, usize) = (1_000, 200);
const PER_S: f64 = 20.0;
/// CPU a delivered event to aim at, as a multiple of the bare broadcast's.
const AIM: f64 = 1.2;

pub async fn measure(
    args: &Args,
    backings: &[Backing],
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let subscribers = args.pick(SUBSCRIBERS);
    let bare = Standing::yardstick("broadcast", &PER_S.to_string(), Place::Pinned)?;
    let bare = run(args, &bare, subscribers, 0).await?;
    let ours = Standing::start(Answering::Tidegate(&backings[0]), Place::Pinned).await?;
    let ours = run(args, &ours, subscribers, 1).await?;
    println!("\nbare broadcast: {bare}\n\nTidegate: {ours}");
    let (ours_us, bare_us) = (each_us(&ours), each_us(&bare));
    let ratio = ours_us / bare_us;
    figures.aim(
        format!("CPU a delivered event, 1 stream to {subscribers} subscribers"),
        format!(
            "{ratio:.2} x a bare broadcast ({ours_us:.2} us of {bare_us:.2}, {} events/s)",
            thousands(ours.per_s.events)
        ),
        format!("<= {AIM} x"),
        ratio <= AIM,
    );
    Ok(())
}

async fn run(
    args: &Args,
    standing: &Standing,
    subscribers: usize,
    devices: usize,
) -> anyhow::Result<Report> {
    let report = standing
        .load(args, |plan| {
            plan.connections = devices;
            plan.subscribers = subscribers;
            plan.pace = Pace::PerSecond(PER_S);
            plan.length = args.length().max(Duration::from_secs(3));
        })
        .await?;
    anyhow::ensure!(report.is_clean() && report.events > 0, "{report}");
    anyhow::ensure!(report.events_dropped == 0, "events were left out: {report}");
    Ok(report)
}

/// CPU time of the server a delivered event, us.
fn each_us(report: &Report) -> f64 {
    let cores = report.server.as_ref().map_or(f64::NAN, |usage| usage.cores);
    cores * 1e6 / report.per_s.events
}
