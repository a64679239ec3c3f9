//! Promotions and rollbacks under 10,000 readings a second: errors, and how long answers take meanwhile beside how long they took before.
//!
//!     cargo xtask bench --only promotion [-- --seconds 5]
//!
//! 100 devices send at set times, whatever comes back, each past its calibration; a latency counts from the time a reading was due. Then the
//! other version is promoted, streams are waited for, and it is rolled back; a swap lasts from the question until its last stream is moved. Every reading must be predicted once and acked once: a device that
//! misses an answer, is refused or is cut off is an error.

#[path = "common/mod.rs"]
mod common;

use anyhow::Context;
use clap::Parser;
use common::backing::{Backing, StoreArgs};
use common::device::{Device, Pace};
use common::figures::{Figures, thousands};
use common::ms;
use common::server::Server;
use common::tally::{Counts, Part, Tally};
use std::time::{Duration, Instant};
use tidegate_protocol::Codec;
use tokio::task::JoinHandle;

/// Devices.
const DEVICES: usize = 100;
/// Readings a second of all of them.
const PER_S: f64 = 10_000.0;
/// Readings that either version calibrates on.
const CALIBRATION: f64 = 400.0;
/// p99 during a swap, in times of the p99 before.
const AIM_TIMES: f64 = 3.0;
/// Who serves first, and who is promoted.
const FIRST: &str = "mewma/1.0.0";
const SECOND: &str = "autoencoder/1.0.0";

/// Measures answers while versions change.
#[derive(Parser)]
struct Args {
    /// Seconds that are counted before, between and after the swaps.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    #[command(flatten)]
    stores: StoreArgs,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    common::run(measure(&args))
}

async fn measure(args: &Args) -> anyhow::Result<()> {
    println!(
        "{DEVICES} devices, {} readings/s, load average {}",
        thousands(PER_S),
        common::load_average()
    );
    let mut figures = Figures::default();
    for backing in args.stores.open().await {
        swaps(args, &backing, &mut figures).await?;
    }
    figures.print();
    Ok(())
}

async fn swaps(args: &Args, backing: &Backing, figures: &mut Figures) -> anyhow::Result<()> {
    let fresh = backing.fresh().await?;
    let server = fresh.serve()?;
    let part = Part::warm_up(5);
    let length = Duration::from_secs_f64(args.seconds.max(0.5));
    let mut devices = Vec::new();
    for number in 0..DEVICES {
        devices.push(Device::connect(server.port, Codec::Json, &fresh.device(number)).await?);
    }
    let tasks = start(devices, &part);
    let calibrating = CALIBRATION * DEVICES as f64 / PER_S;
    tokio::time::sleep(Duration::from_secs_f64(calibrating * 1.25)).await;
    part.next();
    tokio::time::sleep(length).await;
    part.next();
    let promoted = swap(&server, &format!("{SECOND}/promote"), SECOND).await?;
    part.next();
    tokio::time::sleep(length).await;
    part.next();
    let rolled_back = swap(&server, "rollback", FIRST).await?;
    part.next();
    tokio::time::sleep(length).await;
    part.next();
    let (mut tally, mut errors) = (Tally::new(&part)?, 0);
    for task in tasks {
        match task.await? {
            Ok(own) => tally.add(&own)?,
            Err(error) => {
                eprintln!("{error:#}");
                errors += 1;
            }
        }
    }
    let [before, during, between, back, after] = tally.parts() else {
        anyhow::bail!("five parts");
    };
    let name = backing.name();
    print_row("before", before);
    print_row("promotion", during);
    print_row("between", between);
    print_row("rollback", back);
    print_row("after", after);
    println!("streams moved in {promoted:.2?} and {rolled_back:.2?}");
    figures.aim(
        format!("devices with an error, {name}"),
        errors.to_string(),
        "0",
        errors == 0,
    );
    for (what, counts) in [("promotion", during), ("rollback", back)] {
        let times = p99(counts) as f64 / p99(before).max(1) as f64;
        figures.aim(
            format!("p99 of a prediction during a {what}, {name}"),
            format!("{} ({times:.1} x)", ms(p99(counts))),
            format!("<= {AIM_TIMES} x {}", ms(p99(before))),
            times <= AIM_TIMES,
        );
    }
    let moved = promoted.max(rolled_back);
    figures.note(
        format!("{DEVICES} streams moved in, {name}"),
        format!("{:.2} s", moved.as_secs_f64()),
    );
    Ok(())
}

fn start(devices: Vec<Device>, part: &Part) -> Vec<JoinHandle<anyhow::Result<Tally>>> {
    let every = Duration::from_secs_f64(DEVICES as f64 / PER_S);
    let begin = Instant::now();
    let devices = (0..).zip(devices);
    devices
        .map(|(number, mut device)| {
            // Spread over the interval: a fleet does not speak in unison.
            let first = begin + every * number / DEVICES as u32;
            let part = part.clone();
            tokio::spawn(async move {
                let mut tally = Tally::new(&part)?;
                device.pace(Pace { first, every }, &mut tally).await?;
                Ok(tally)
            })
        })
        .collect()
}

/// Changes the version and waits until all its streams are moved. Gives the time that took.
async fn swap(server: &Server, how: &str, expected: &str) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    let path = format!("/api/v1/models/pump-health/{how}");
    let told = server.post(&path, r#"{"who":"bench"}"#).await?;
    anyhow::ensure!(told.contains(expected), "{told}");
    loop {
        let models = server.get("/api/v1/models").await?;
        let models: serde_json::Value = serde_json::from_str(&models)?;
        let moving = models["moving"].as_u64().context("a number")?;
        if moving == 0 {
            return Ok(begin.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn p99(counts: &Counts) -> u64 {
    counts.prediction.value_at_quantile(0.99)
}

fn print_row(what: &str, counts: &Counts) {
    println!(
        "{what:<10} {:>8} predictions, p50 {} p99 {} max {}; ack p99 {}",
        counts.predicted,
        ms(counts.prediction.value_at_quantile(0.5)),
        ms(p99(counts)),
        ms(counts.prediction.max()),
        ms(counts.ack.value_at_quantile(0.99)),
    );
}
