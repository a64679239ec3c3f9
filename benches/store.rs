//! The store path without sockets, beside a bare multi-row insert into the same tables in the same run.
//!
//! The path is the server's own writer: rows of many streams through its queue, compare-and-set of each stream, samples, a snapshot every 256
//! readings, commit, and the sink told. The yardstick is sqlx alone: as many rows a transaction, 500 a statement, into the same `samples` table with
//! the same indexes, nothing else. Printed as rows a second and as a ratio; the median of the runs counts. PostgreSQL is one of the bench's
//! own, on the same disk.

#[path = "store/bare_postgres.rs"]
mod bare_postgres;
#[allow(dead_code, reason = "tests use the rest")]
#[path = "../tests/common/postgres.rs"]
mod postgres;

use clap::Parser;
use postgres::Postgres;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tidegate::config::{Config, RawConfig};
use tidegate::store::writer::{CommitSink, Entry, writer};
use tidegate::store::{self, Store, StoreError};
use tidegate::stream::{
    Flags, Marks, Numbering, Row, SampleRow, Snapshot, StreamKey, StreamRef, VersionRef, What,
};
use tidegate_protocol::{DeviceId, EndpointName, Output};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Streams that the rows belong to.
const STREAMS: usize = 64;
/// Readings between two snapshots, as the server's default.
const SNAPSHOT_EVERY: u64 = 256;
/// Floats of a snapshot: what `mewma` keeps of eight features.
const STATE_LEN: usize = 128;
/// Rows a statement of the yardstick.
const BARE_CHUNK: usize = 500;

/// Measures the store path beside a bare insert.
#[derive(Parser)]
struct Args {
    /// Rows of each run.
    #[arg(long, default_value_t = 200_000)]
    rows: usize,
    /// Runs; the median is printed.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(&args))
}

/// A database to measure.
enum Place {
    Sqlite,
    Postgres(String),
}

async fn measure(args: &Args) -> anyhow::Result<()> {
    println!(
        "{} rows of {STREAMS} streams, {} runs",
        args.rows, args.runs
    );
    println!(
        "{:<10} {:>14} {:>14} {:>7}",
        "store", "path rows/s", "bare rows/s", "ratio"
    );
    measure_place("sqlite", &Place::Sqlite, args).await?;
    let own = Postgres::start().await;
    measure_place("postgres", &Place::Postgres(own.url()), args).await?;
    Ok(())
}

async fn measure_place(name: &str, place: &Place, args: &Args) -> anyhow::Result<()> {
    let mut path = Vec::new();
    let mut bare = Vec::new();
    for _ in 0..args.runs.max(1) {
        bare.push(bare_insert(place, args.rows).await?);
        path.push(through_writer(place, args.rows).await?);
    }
    let (path, bare) = (median(path), median(bare));
    let ratio = path / bare;
    println!("{name:<10} {path:>14.0} {bare:>14.0} {ratio:>7.2}");
    Ok(())
}

async fn bare_insert(place: &Place, rows: usize) -> anyhow::Result<f64> {
    match place {
        Place::Sqlite => bare_sqlite(rows).await,
        Place::Postgres(url) => {
            let (config, _dir) = configured(place)?;
            register_and_leave(&config).await?;
            bare_postgres::insert(url, rows, config.store.max_batch).await
        }
    }
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// The configuration of a server on an empty database, and its folder.
fn configured(place: &Place) -> anyhow::Result<(Config, TempDir)> {
    let dir = tempfile::tempdir()?;
    let mut raw = RawConfig {
        data_dir: dir.path().to_owned(),
        ..RawConfig::default()
    };
    if let Place::Postgres(url) = place {
        raw.store.url = Some(url.clone().into());
    }
    Ok((raw.check()?, dir))
}

/// The server makes the schema and leaves.
async fn register_and_leave(config: &Config) -> anyhow::Result<()> {
    let opened = store::open(config).await?;
    register(opened.store.as_ref()).await?;
    opened.store.close().await;
    Ok(())
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

async fn through_writer(place: &Place, rows: usize) -> anyhow::Result<f64> {
    let (config, _dir) = configured(place)?;
    let opened = store::open(&config).await?;
    let store = Arc::clone(&opened.store);
    let version = register(store.as_ref()).await?;
    let rows = made_rows(rows, &version);
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
    if let Place::Postgres(url) = place {
        bare_postgres::empty(url).await?;
    }
    Ok(per_s(count, took))
}

async fn register(store: &dyn Store) -> Result<Arc<VersionRef>, StoreError> {
    let endpoint = EndpointName::new("pump-health").expect("a name");
    let id = store
        .register_version(&endpoint, "mewma", "1.0.0", &[7; 32])
        .await?;
    Ok(Arc::new(VersionRef {
        id,
        endpoint,
        model: "mewma".into(),
        version: "1.0.0".into(),
    }))
}

/// Rows as sessions make them: one of each stream in turn.
fn made_rows(count: usize, version: &Arc<VersionRef>) -> Vec<Row> {
    let streams: Vec<Arc<StreamRef>> = (1..=STREAMS).map(|id| Arc::new(stream(id))).collect();
    (0..count)
        .map(|index| made_row(&streams[index % STREAMS], (index / STREAMS) as u64, version))
        .collect()
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
        values: values(seq).into(),
        output: output(seq),
        version: Arc::clone(version),
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

fn values(seq: u64) -> Vec<f32> {
    let wobble = (seq % 17) as f32 * 0.01;
    vec![
        0.026,
        0.04,
        1.33 + wobble,
        0.05 + wobble,
        79.3,
        26.0,
        233.1 - wobble,
        32.0,
    ]
}

fn output(seq: u64) -> Output {
    Output::Anomaly {
        score: (seq % 100) as f32 * 0.01,
        threshold: 0.9,
        anomaly: false,
    }
}

/// sqlx alone: the same columns, the same indexes, as many rows a transaction as the server's largest commit.
async fn bare_sqlite(rows: usize) -> anyhow::Result<f64> {
    let (config, dir) = configured(&Place::Sqlite)?;
    register_and_leave(&config).await?;
    let max_batch = config.store.max_batch;
    let mut connection = bare_connection(&dir.path().join("tidegate.db")).await?;
    let encoded: Vec<(Vec<u8>, Vec<u8>)> = (0..rows as u64).map(encoded).collect();
    let start = Instant::now();
    for (batch, chunk) in encoded.chunks(max_batch).enumerate() {
        let mut transaction = connection.begin().await?;
        for (part, chunk) in chunk.chunks(BARE_CHUNK).enumerate() {
            let first = batch * max_batch + part * BARE_CHUNK;
            insert_bare(&mut transaction, first, chunk).await?;
        }
        transaction.commit().await?;
    }
    let took = start.elapsed();
    connection.close().await?;
    Ok(per_s(rows, took))
}

async fn bare_connection(file: &Path) -> anyhow::Result<SqliteConnection> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .journal_mode(SqliteJournalMode::Wal)
        .foreign_keys(false)
        .synchronous(SqliteSynchronous::Full);
    Ok(SqliteConnection::connect_with(&options).await?)
}

fn encoded(index: u64) -> (Vec<u8>, Vec<u8>) {
    let seq = index / STREAMS as u64;
    let mut bytes = Vec::new();
    tidegate_protocol::codec::encode_output(&output(seq), &mut bytes);
    (tidegate::stream::to_le_bytes(&values(seq)), bytes)
}

async fn insert_bare(
    connection: &mut SqliteConnection,
    first: usize,
    chunk: &[(Vec<u8>, Vec<u8>)],
) -> anyhow::Result<()> {
    let row = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let text = format!(
        "INSERT INTO samples (id, stream_id, pos, epoch, seq, ts, received_at, \"values\", output, version_id, latency_us, \
         flags, numerics_rev) VALUES {}",
        vec![row; chunk.len()].join(", ")
    );
    let mut query = sqlx::query(AssertSqlSafe(text));
    for (index, (values, output)) in (first..).zip(chunk) {
        let seq = (index / STREAMS) as i64;
        query = query
            .bind(index as i64 + 1)
            .bind((index % STREAMS) as i64 + 1)
            .bind(seq + 1)
            .bind(0_i64)
            .bind(seq)
            .bind(1_770_000_000_000 + seq)
            .bind(1_770_000_000_000 + seq)
            .bind(values)
            .bind(output)
            .bind(1_i64)
            .bind(100_i64)
            .bind(16_i64)
            .bind(1_i64);
    }
    query.execute(connection).await?;
    Ok(())
}

fn per_s(rows: usize, took: Duration) -> f64 {
    rows as f64 / took.as_secs_f64()
}
