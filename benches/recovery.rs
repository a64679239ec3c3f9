//! Ten thousand streams come back after kill -9: time until the server is ready, until every device is welcomed again, and what it costs.
//!
//!     cargo xtask bench --only recovery [-- --streams 10000]
//!
//! The streams are recorded through a server: each gets its snapshot, then 128 to 255 readings behind it, one of every stream in turn, so that
//! a stream's rows lie apart in the database as those of a fleet do. Then kill -9, a new server, and all devices at once, 64 at a time. Each must be
//! told to go on behind its last acked reading. With the pages of the database in the system's cache, and without.

#[path = "common/mod.rs"]
mod common;

use anyhow::{Context, ensure};
use clap::Parser;
use common::backing::{Backing, Fresh, StoreArgs};
use common::device::Device;
use common::figures::{Figures, thousands};
use common::tally::{Part, Tally};
use common::{micros, ms};
use hdrhistogram::Histogram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tidegate_protocol::Codec;

/// Devices that come back at the same time.
const AT_ONCE: usize = 64;
/// Readings up to the first snapshot, as the server's default.
const SNAPSHOT_EVERY: u64 = 128;
/// Of those, in one message.
const BATCH: u64 = 64;
/// Readings behind it.
const BEHIND: std::ops::Range<u64> = 128..256;
/// Readings of a stream on their way while recording.
const ON_THE_WAY: usize = 32;
/// While recording: large commits that are not synced, and pings that nobody waits for. A killed process loses nothing by that.
const RECORDING: &[(&str, &str)] = &[
    ("TIDEGATE_STORE__QUEUE", "1000000"),
    ("TIDEGATE_STORE__MAX_BATCH", "65536"),
    ("TIDEGATE_STORE__COMMIT_INTERVAL_MS", "500"),
    ("TIDEGATE_STORE__SYNCHRONOUS", "normal"),
    ("TIDEGATE_CONNECTIONS__PING_S", "3600"),
];
/// All streams are back within this, for the default number of them.
const AIM: Duration = Duration::from_secs(5);

/// Measures how streams come back after kill -9.
#[derive(Parser)]
struct Args {
    /// Streams.
    #[arg(long, default_value_t = 10_000)]
    streams: usize,
    /// Kills; the median is printed.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    #[command(flatten)]
    stores: StoreArgs,
    /// SQLite only: record into this folder and leave it, or take what an earlier run has recorded there.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["stores", "store_url"])]
    keep: Option<PathBuf>,
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
        "{} streams, {} kills, load average {}",
        args.streams,
        args.runs,
        common::load_average()
    );
    let mut figures = Figures::default();
    if let Some(dir) = &args.keep {
        let known = dir.exists();
        let fresh = Arc::new(Fresh::kept(dir));
        measure_on(args, &Backing::Sqlite, fresh, known, &mut figures).await?;
    } else {
        for backing in args.stores.open().await {
            let fresh = Arc::new(backing.fresh().await?);
            measure_on(args, &backing, fresh, false, &mut figures).await?;
        }
    }
    let behind = BEHIND.map(|n| n as f64).sum::<f64>() / (BEHIND.end - BEHIND.start) as f64;
    figures.note("readings folded a stream, mean", format!("{behind:.0}"));
    figures.print();
    Ok(())
}

async fn measure_on(
    args: &Args,
    backing: &Backing,
    fresh: Arc<Fresh>,
    known: bool,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    println!("\n{}", backing.name());
    if !known {
        record(&fresh, args.streams).await?;
    }
    println!(
        "{:<10} {:>10} {:>10} {:>10} {:>10} {:>12}",
        "cache", "ready ms", "back s", "mean ms", "p99 ms", "cpu us each"
    );
    // Only the pages of a file can be taken out of the cache from here.
    let caches = if fresh.url().is_none() { 0..2 } else { 0..1 };
    for cold in caches.map(|cache| cache == 1) {
        let mut backs = Vec::new();
        for _ in 0..args.runs.max(1) {
            if cold {
                forget_pages(fresh.dir())?;
            }
            backs.push(come_back(&fresh, args.streams).await?);
        }
        backs.sort_by_key(|back| back.took);
        let back = &backs[backs.len() / 2];
        print_row(cold, back);
        note(figures, backing, cold, back, args.streams);
    }
    Ok(())
}

fn print_row(cold: bool, back: &Back) {
    println!(
        "{:<10} {:>10.1} {:>10.2} {:>10.2} {:>10.2} {:>12.0}",
        if cold { "cold" } else { "warm" },
        back.ready.as_secs_f64() * 1e3,
        back.took.as_secs_f64(),
        back.each.mean() / 1e3,
        back.each.value_at_quantile(0.99) as f64 / 1e3,
        back.cpu_us,
    );
}

fn note(figures: &mut Figures, backing: &Backing, cold: bool, back: &Back, streams: usize) {
    let took = format!("{:.2} s", back.took.as_secs_f64());
    let store = backing.name();
    let what = format!("{} streams back, {store}", thousands(streams as f64));
    if cold {
        figures.note(format!("{what}, nothing cached"), took);
        return;
    }
    figures.aim(
        what,
        took,
        format!("< {} s", AIM.as_secs()),
        back.took < AIM,
    );
    figures.note(
        format!("ready after kill -9, {store}"),
        ms(micros(back.ready)),
    );
    figures.note(
        format!("a stream back, p99, {AT_ONCE} at once, {store}"),
        ms(back.each.value_at_quantile(0.99)),
    );
    figures.note(
        format!("server CPU a stream, {store}"),
        format!("{:.0} us", back.cpu_us),
    );
}

/// Readings of a stream behind its snapshot.
fn behind(number: usize) -> u64 {
    BEHIND.start + number as u64 % (BEHIND.end - BEHIND.start)
}

/// Records every stream through a server, and kills that.
async fn record(fresh: &Arc<Fresh>, streams: usize) -> anyhow::Result<()> {
    let server = fresh.serve_with(RECORDING)?;
    let start = Instant::now();
    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|first| {
            let numbers = (first..streams).step_by(AT_ONCE).collect();
            tokio::spawn(record_some(Arc::clone(fresh), server.port, numbers))
        })
        .collect();
    let mut readings = 0;
    for task in tasks {
        readings += task.await??;
    }
    println!(
        "recorded {} readings in {:.0} s",
        thousands(readings as f64),
        start.elapsed().as_secs_f64()
    );
    server.kill()
}

async fn record_some(fresh: Arc<Fresh>, port: u16, numbers: Vec<usize>) -> anyhow::Result<u64> {
    let mut tally = Tally::new(&Part::warm_up(0))?;
    let mut devices = Vec::new();
    for number in &numbers {
        devices.push(Device::connect(port, Codec::Bincode, &fresh.device(*number)).await?);
    }
    for _ in 0..SNAPSHOT_EVERY / BATCH {
        for device in &mut devices {
            device.wait_for_acks(0, &mut tally).await?;
            device.send_batch(BATCH).await?;
        }
    }
    let mut readings = SNAPSHOT_EVERY * devices.len() as u64;
    for round in 0..BEHIND.end {
        for (number, device) in numbers.iter().zip(&mut devices) {
            if round < behind(*number) {
                device.wait_for_acks(ON_THE_WAY - 1, &mut tally).await?;
                device.send().await?;
                readings += 1;
            }
        }
    }
    for device in &mut devices {
        device.wait_for_acks(0, &mut tally).await?;
    }
    Ok(readings)
}

/// What one return came to.
struct Back {
    ready: Duration,
    took: Duration,
    /// From the connection to the welcome, microseconds.
    each: Histogram<u64>,
    cpu_us: f64,
}

/// Starts a server, lets every device come back and kills the server again.
async fn come_back(fresh: &Arc<Fresh>, streams: usize) -> anyhow::Result<Back> {
    let start = Instant::now();
    let server = fresh.serve()?;
    server.get("/health/ready").await?;
    let ready = start.elapsed();
    let cpu = server.cpu()?;
    let start = Instant::now();
    let next = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            tokio::spawn(come_back_some(
                Arc::clone(fresh),
                server.port,
                Arc::clone(&next),
                streams,
            ))
        })
        .collect();
    let mut each = Histogram::new(3)?;
    let mut held = Vec::new();
    for task in tasks {
        let (devices, times) = task.await??;
        held.extend(devices);
        each.add(times)?;
    }
    let took = start.elapsed();
    let cpu = server.cpu()? - cpu;
    check(&held)?;
    server.kill()?;
    Ok(Back {
        ready,
        took,
        each,
        cpu_us: cpu.as_secs_f64() * 1e6 / streams as f64,
    })
}

/// Devices with their numbers, and how long each waited for its welcome.
type Held = (Vec<(usize, Device)>, Histogram<u64>);

async fn come_back_some(
    fresh: Arc<Fresh>,
    port: u16,
    next: Arc<AtomicUsize>,
    streams: usize,
) -> anyhow::Result<Held> {
    let mut devices = Vec::new();
    let mut times = Histogram::new(3)?;
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= streams {
            return Ok((devices, times));
        }
        let start = Instant::now();
        let name = fresh.device(number);
        let device = Device::connect(port, Codec::Bincode, &name).await;
        devices.push((number, device.with_context(|| format!("device {name}"))?));
        times.record(micros(start.elapsed()))?;
    }
}

/// Everything that was acked is there.
fn check(held: &[(usize, Device)]) -> anyhow::Result<()> {
    for (number, device) in held {
        let expected = SNAPSHOT_EVERY + behind(*number);
        ensure!(
            device.next_seq() == expected,
            "stream {number} goes on at {}, expected {expected}",
            device.next_seq()
        );
    }
    Ok(())
}

/// Takes the database's pages out of the system's cache, as after a restart of the machine.
fn forget_pages(dir: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let file = std::fs::File::open(entry?.path())?;
        // What is not written yet cannot be forgotten.
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}
