//! How long an ack takes at half of what the server can take, beside a bare commit on the same disk.
//!
//! Readings leave at set times, whatever comes back, and latency counts from the time a reading was due: a server that stalls is not
//! spared the readings that should have come meanwhile. The bare commit is sqlx alone, with as many rows a transaction as the server's
//! commits had on average.

use super::common::backing::{Backing, Fresh};
use super::common::bare::{Bare, encoded};
use super::common::device::{Device, Pace};
use super::common::figures::{Figures, thousands};
use super::common::server::Server;
use super::common::tally::{Part, Tally};
use super::common::{micros, ms};
use super::run::{Outcome, count};
use super::{Args, CONNECTIONS};
use hdrhistogram::Histogram;
use std::time::{Duration, Instant};
use tidegate_protocol::Codec;

/// p99 of an ack to aim at; or, where the disk is slow, so many times the bare commit.
const AIM_US: u64 = 25_000;
const AIM_TIMES: u64 = 3;
/// Bare commits that are timed.
const BARE_COMMITS: usize = 500;

pub async fn measure(
    args: &Args,
    backing: &Backing,
    per_s: f64,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let fresh = backing.fresh().await?;
    let server = fresh.serve()?;
    let mut medians: Vec<Paced> = Vec::new();
    for _ in 0..args.runs.max(1) {
        medians.push(paced(args, &fresh, &server, per_s).await?);
    }
    medians.sort_by_key(|paced| paced.ack_us(0.99));
    let paced = medians.swap_remove(medians.len() / 2);
    drop(server);
    let bare = bare(backing, paced.batch_rows.round().max(1.0) as usize).await?;
    let (ack, commit) = (paced.ack_us(0.99), bare.value_at_quantile(0.99));
    println!(
        "\nhalf load, {}: {} readings/s offered, {} acked/s, {:.0} rows a commit",
        backing.name(),
        thousands(per_s),
        thousands(paced.outcome.acked_per_s),
        paced.batch_rows
    );
    println!(
        "reading to ack p50 {} p99 {}; bare commit p50 {} p99 {}",
        ms(paced.ack_us(0.5)),
        ms(ack),
        ms(bare.value_at_quantile(0.5)),
        ms(commit)
    );
    figures.aim(
        format!("p99 from reading to ack at half load, {}", backing.name()),
        ms(ack),
        format!("< 25 ms, or < 3 x the bare commit's {}", ms(commit)),
        ack < AIM_US || ack < AIM_TIMES * commit,
    );
    Ok(())
}

struct Paced {
    outcome: Outcome,
    /// Mean rows of the server's commits meanwhile.
    batch_rows: f64,
}

impl Paced {
    fn ack_us(&self, quantile: f64) -> u64 {
        self.outcome.counts().ack.value_at_quantile(quantile)
    }
}

async fn paced(args: &Args, fresh: &Fresh, server: &Server, per_s: f64) -> anyhow::Result<Paced> {
    let every = Duration::from_secs_f64(CONNECTIONS as f64 / per_s);
    let mut devices = Vec::new();
    for number in 0..CONNECTIONS {
        devices.push(Device::connect(server.port, Codec::Json, &fresh.device(number)).await?);
    }
    let part = Part::warm_up(1);
    let start = Instant::now();
    let mut tasks = Vec::new();
    for (number, device) in (0..).zip(devices) {
        // Spread over the interval: a fleet does not speak in unison.
        let first = start + every * number / CONNECTIONS as u32;
        tasks.push(tokio::spawn(drive(
            device,
            Pace { first, every },
            part.clone(),
        )));
    }
    let before = commits(server).await?;
    let (took, cpu) = count(server, &part, args.length()).await?;
    let after = commits(server).await?;
    let mut tally = Tally::new(&part)?;
    for task in tasks {
        tally.add(&task.await??)?;
    }
    Ok(Paced {
        outcome: Outcome::new(tally, took, cpu),
        batch_rows: (after.0 - before.0) / (after.1 - before.1),
    })
}

async fn drive(mut device: Device, pace: Pace, part: Part) -> anyhow::Result<Tally> {
    let mut tally = Tally::new(&part)?;
    device.pace(pace, &mut tally).await?;
    Ok(tally)
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
    let mut bare = Bare::open(&fresh, CONNECTIONS).await?;
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
