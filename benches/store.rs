//! The store path without sockets, beside a bare multi-row insert into the same tables in the same run.
//!
//! The path is the server's own writer: rows of many streams through its queue, compare-and-set of each stream, samples, a snapshot every 128
//! readings, commit, and the sink told. The yardstick is sqlx alone: as many rows a transaction, 500 a statement, into the same `samples` table with
//! the same indexes, nothing else. Printed as rows a second and as a ratio; the median of the runs counts. PostgreSQL is one of the bench's
//! own, on the same disk.

#[path = "common/mod.rs"]
mod common;

use clap::Parser;
use common::backing::{Backing, StoreArgs};
use common::bare::{Bare, encoded, output, register};
use common::device::values;
use common::figures::Figures;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate::store;
use tidegate::store::writer::{CommitSink, Entry, writer};
use tidegate::stream::{
    Flags, Marks, Numbering, Row, SampleRow, Snapshot, StreamKey, StreamRef, VersionRef, What,
};
use tidegate_protocol::{DeviceId, EndpointName};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Readings between two snapshots, as the server's default.
const SNAPSHOT_EVERY: u64 = 128;
/// Floats of a snapshot: what `mewma` keeps of eight features.
const STATE_LEN: usize = 128;
/// Share of the bare insert to aim at.
const AIM_SHARE: f64 = 0.5;

/// Measures the store path beside a bare insert.
#[derive(Parser)]
struct Args {
    /// Rows of each run.
    #[arg(long, default_value_t = 200_000)]
    rows: usize,
    /// Streams that the rows belong to, one row of each in turn.
    #[arg(long, default_value_t = 64)]
    streams: usize,
    /// Runs; the median is printed.
    #[arg(long, default_value_t = 3)]
    runs: usize,
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
        "{} rows of {} streams, {} runs, load average {}",
        args.rows,
        args.streams,
        args.runs,
        common::load_average()
    );
    println!(
        "{:<10} {:>14} {:>14} {:>7}",
        "store", "path rows/s", "bare rows/s", "ratio"
    );
    let mut figures = Figures::default();
    for backing in args.stores.open().await {
        measure_on(&backing, args, &mut figures).await?;
    }
    figures.print();
    Ok(())
}

async fn measure_on(backing: &Backing, args: &Args, figures: &mut Figures) -> anyhow::Result<()> {
    let mut path = Vec::new();
    let mut bare = Vec::new();
    for _ in 0..args.runs.max(1) {
        bare.push(bare_insert(backing, args).await?);
        path.push(through_writer(backing, args).await?);
    }
    let (name, path, bare) = (backing.name(), median(path), median(bare));
    let ratio = path / bare;
    println!("{name:<10} {path:>14.0} {bare:>14.0} {ratio:>7.2}");
    figures.aim(
        format!("store path, share of a bare insert, {name}"),
        format!("{ratio:.2}"),
        format!(">= {AIM_SHARE}"),
        ratio >= AIM_SHARE,
    );
    Ok(())
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// Counts commits and tells when the last row is durable.
struct Counting {
    left: usize,
    done: Option<oneshot::Sender<()>>,
}

impl CommitSink<()> for Counting {
    fn committed(&mut self, entries: Vec<Entry<()>>) {
        self.left -= entries.len();
        if self.left == 0
            && let Some(done) = self.done.take()
        {
            // Nobody waits any more when the run was given up.
            let _ = done.send(());
        }
    }

    fn stopped(&mut self, entries: Vec<Entry<()>>) {
        panic!("{} rows were refused", entries.len());
    }
}

async fn through_writer(backing: &Backing, args: &Args) -> anyhow::Result<f64> {
    let fresh = backing.fresh().await?;
    let config = fresh.config()?;
    let opened = store::open(&config).await?;
    let store = Arc::clone(&opened.store);
    let version = Arc::new(register(store.as_ref()).await?);
    let rows = made_rows(args, &version);
    let (done, wait) = oneshot::channel();
    let sink = Counting {
        left: rows.len(),
        done: Some(done),
    };
    let (handle, writer) = writer(Arc::clone(&store), config.store, 0, sink);
    let flush = CancellationToken::new();
    let writing = tokio::spawn(writer.run(flush.clone()));
    let count = rows.len();
    let start = Instant::now();
    let mut rows = rows.into_iter();
    while rows.len() > 0 {
        let some = rows.len().min(32);
        let permits = handle.reserve(some).await.expect("the writer runs");
        for (permit, row) in permits.zip(rows.by_ref().take(some)) {
            permit.send(Entry { row, owner: () });
        }
    }
    wait.await?;
    let took = start.elapsed();
    flush.cancel();
    writing.await?;
    store.close().await;
    Ok(per_s(count, took))
}

/// Rows as sessions make them: one of each stream in turn.
fn made_rows(args: &Args, version: &Arc<VersionRef>) -> Vec<Row> {
    let streams: Vec<_> = (1..=args.streams).map(|id| Arc::new(stream(id))).collect();
    let row = |index: usize| {
        let seq = (index / args.streams) as u64;
        made_row(&streams[index % args.streams], seq, version)
    };
    (0..args.rows).map(row).collect()
}

fn stream(id: usize) -> StreamRef {
    let endpoint = EndpointName::new("pump-health").expect("a name");
    let device = DeviceId::new(&format!("bench-{id}")).expect("a name");
    StreamRef {
        id: id as i64,
        key: StreamKey::live(endpoint, device),
    }
}

fn made_row(stream: &Arc<StreamRef>, seq: u64, version: &Arc<VersionRef>) -> Row {
    let pos = seq + 1;
    let ts = 1_770_000_000_000 + seq as i64;
    let sample = SampleRow {
        stream: Arc::clone(stream),
        pos,
        epoch: 0,
        seq,
        ts,
        received_at: ts,
        values: values(seq).to_vec().into(),
        output: output(seq),
        version: Arc::clone(version),
        arm: None,
        latency_us: 100,
        flags: Flags::TS_SENT,
        numerics_rev: 1,
    };
    let snapshot = pos.is_multiple_of(SNAPSHOT_EVERY).then(|| Snapshot {
        version: Arc::clone(version),
        layout: "bench".into(),
        numerics_rev: 1,
        last_ts: Some(ts),
        state: vec![0.5; STATE_LEN].into(),
    });
    Row {
        id: 0,
        stream: Arc::clone(stream),
        after: Marks {
            pos,
            epoch: 0,
            high_water: Some(seq),
            numbering: Numbering::Device,
            last_ts: Some(ts),
        },
        what: What::Sample(Arc::new(sample)),
        gaps: None,
        snapshot,
        mark: None,
    }
}

/// sqlx alone, as many rows a transaction as the server's largest commit.
async fn bare_insert(backing: &Backing, args: &Args) -> anyhow::Result<f64> {
    let fresh = backing.fresh().await?;
    let max_batch = fresh.config()?.store.max_batch;
    let mut bare = Bare::open(&fresh, args.streams).await?;
    let encoded = encoded(args.rows);
    let start = Instant::now();
    for batch in encoded.chunks(max_batch) {
        bare.commit(batch).await?;
    }
    let took = start.elapsed();
    bare.close().await?;
    Ok(per_s(args.rows, took))
}

fn per_s(rows: usize, took: Duration) -> f64 {
    rows as f64 / took.as_secs_f64()
}
