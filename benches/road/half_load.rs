//! What is felt at half of what the server can take, over a thousand connections: a prediction beside the echo's answer at the same rate, an ack
//! beside a bare commit on the same disk.
//!
//! Readings leave at set times, whatever comes back, and latency counts from the time a reading was due: a server that stalls is not
//! spared the readings that should have come meanwhile. The bare commit is sqlx alone, with as many rows a transaction as the server's
//! commits had on average.

use super::Args;
use super::common::backing::Backing;
use super::common::bare::{Bare, encoded};
use super::common::figures::{Figures, thousands};
use super::common::server::Server;
use super::common::{micros, ms};
use super::run::{Answering, Place, Standing};
use hdrhistogram::Histogram;
use std::time::Instant;
use tidegate::load::{Pace, Report};

/// Connections, and in a quick run.
const CONNECTIONS: (usize, usize) = (1_000, 200);
/// p99 of a prediction to aim at, as a multiple of the echo's.
const AIM_ECHO: f64 = 2.0;
/// p99 of an ack to aim at; or, where the disk is slow, so many times the bare commit.
const AIM_US: u64 = 25_000;
const AIM_TIMES: u64 = 3;
/// Bare commits that are timed.
const BARE_COMMITS: usize = 500;

pub async fn measure(
    args: &Args,
    backings: &[Backing],
    figures: &mut Figures,
) -> anyhow::Result<()> {
    for backing in backings {
        measure_on(args, backing, figures).await?;
    }
    Ok(())
}

async fn measure_on(args: &Args, backing: &Backing, figures: &mut Figures) -> anyhow::Result<()> {
    let connections = args.pick(CONNECTIONS);
    let who = Answering::Tidegate(backing);
    let per_s = match args.rate {
        Some(rate) => rate,
        None => {
            let standing = Standing::start(who, Place::Pinned).await?;
            let saturated = standing
                .load(args, |plan| plan.connections = connections)
                .await?;
            saturated.per_s.acked / 2.0
        }
    };
    let echo = Standing::start(Answering::Echo, Place::Pinned).await?;
    let echo = paced(args, &echo, connections, per_s).await?;
    let ours = Standing::start(who, Place::Pinned).await?;
    let before = commits(&ours.server).await?;
    let report = paced(args, &ours, connections, per_s).await?;
    let after = commits(&ours.server).await?;
    drop(ours);
    println!("\necho: {echo}\n\n{}: {report}", backing.name());
    let name = backing.name();
    let (p99, echo_p99) = (report.prediction_us.p99, echo.prediction_us.p99);
    let ratio = p99 as f64 / echo_p99.max(1) as f64;
    figures.aim(
        format!(
            "p99 of a prediction, {connections} connections at {}/s, {name}",
            thousands(per_s)
        ),
        format!("{ratio:.2} x the echo's ({} of {})", ms(p99), ms(echo_p99)),
        format!("<= {AIM_ECHO} x"),
        ratio <= AIM_ECHO,
    );
    let batch_rows = (after.0 - before.0) / (after.1 - before.1);
    let bare = bare(backing, batch_rows.round().max(1.0) as usize).await?;
    let (ack, commit) = (report.ack_us.p99, bare.value_at_quantile(0.99));
    println!(
        "{batch_rows:.0} rows a commit; bare commit p50 {} p99 {}",
        ms(bare.value_at_quantile(0.5)),
        ms(commit)
    );
    figures.aim(
        format!("p99 from reading to ack at half load, {name}"),
        ms(ack),
        format!("< 25 ms, or < 3 x the bare commit's {}", ms(commit)),
        ack < AIM_US || ack < AIM_TIMES * commit,
    );
    Ok(())
}

async fn paced(
    args: &Args,
    standing: &Standing,
    connections: usize,
    per_s: f64,
) -> anyhow::Result<Report> {
    let report = standing
        .load(args, |plan| {
            plan.connections = connections;
            plan.pace = Pace::PerSecond(per_s);
        })
        .await?;
    anyhow::ensure!(report.is_clean(), "{report}");
    Ok(report)
}

/// Rows committed so far, and commits.
async fn commits(server: &Server) -> anyhow::Result<(f64, f64)> {
    let rows = server.metric("tidegate_store_batch_rows_sum").await?;
    let commits = server.metric("tidegate_store_batch_rows_count").await?;
    Ok((rows, commits))
}

/// Times of bare commits of `rows` rows, microseconds.
async fn bare(backing: &Backing, rows: usize) -> anyhow::Result<Histogram<u64>> {
    let fresh = backing.fresh().await?;
    let mut bare = Bare::open(&fresh, 64).await?;
    let rows = encoded(rows);
    let mut times = Histogram::new(3)?;
    for _ in 0..BARE_COMMITS {
        let start = Instant::now();
        bare.commit(&rows).await?;
        times.record(micros(start.elapsed()))?;
    }
    bare.close().await?;
    Ok(times)
}
