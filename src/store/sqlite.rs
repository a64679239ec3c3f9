//! SQLite: the embedded default. One write connection, a few read-only ones, WAL.
//!
//! Owns the SQL. Every commit is one immediate transaction; streams move by compare-and-set on `pos`. Rows are
//! inserted many at a time by statements of a few fixed sizes, so that each is prepared once. Durable means
//! `synchronous = FULL` (the default): the WAL is synced before `commit` returns.

mod alerts;
mod bulk;
pub mod copy;
mod experiments;
mod explain;
mod history;
mod numbers;
mod read;
mod receipts;
mod transaction;
mod upkeep;
mod versions;

pub use explain::explain;
pub use history::SqliteHistory;

use super::rows::{Move, gather_moves, log_kind, numbering_code, signed};
use super::{
    DeviceRow, History, Known, LoggedReading, Place, Result, SampleQuery, Store, StoreError,
    StoredReceipts, StoredSample, StoredStream, StoredSwitch, schema,
};
use crate::stream::{ArmRef, RefusalRow, Row, Snapshot, StreamKey, What, now_ms};
use futures_util::future::BoxFuture;
use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool,
    SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection, Row as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidegate_protocol::codec::encode_output;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// Connections that read beside the writer.
const READERS: u32 = 4;
/// Page cache of the writing connection, KiB (negative: not pages); taken as it is needed.
const WRITER_CACHE: &str = "-65536";
/// Pages of 4 KiB in the WAL before they are copied into the database: 32 MiB, which is also about what the WAL file takes.
const CHECKPOINT_PAGES: &str = "8192";
/// Longest wait for the readers, and then for the writer, when the store closes.
const FAREWELL: Duration = Duration::from_secs(5);

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("src/store/migrations/sqlite");

/// A database file.
pub struct SqliteStore {
    file: PathBuf,
    log_id: String,
    writer: Mutex<Option<SqliteConnection>>,
    readers: SqlitePool,
    history: SqliteHistory,
}

impl SqliteStore {
    /// Opens or makes the database and brings its schema up to date. The caller holds the file's lock.
    ///
    /// # Errors
    /// A file that cannot be opened, is no database of ours or of a newer schema.
    pub async fn open(file: &Path, synchronous_full: bool) -> Result<Self> {
        Self::try_open(file, synchronous_full)
            .await
            .map_err(|error| explain(error, file))
    }

    async fn try_open(file: &Path, synchronous_full: bool) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .busy_timeout(Duration::from_secs(5))
            .statement_cache_capacity(128);
        let synchronous = if synchronous_full {
            SqliteSynchronous::Full
        } else {
            SqliteSynchronous::Normal
        };
        let writing = options
            .clone()
            .create_if_missing(true)
            .auto_vacuum(SqliteAutoVacuum::Incremental)
            .journal_mode(SqliteJournalMode::Wal)
            // The rows that this connection writes follow from each other; a check a row would cost a tenth of a commit.
            .foreign_keys(false)
            // Every stream has its own leaf in each index: these stay in memory, and are copied into the file once in many commits.
            .pragma("cache_size", WRITER_CACHE)
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
            .synchronous(synchronous);
        copy::inspect(file).await?;
        let mut writer = SqliteConnection::connect_with(&writing).await?;
        schema::check(&mut writer, &MIGRATIONS, &file.display().to_string()).await?;
        MIGRATIONS.run(&mut writer).await?;
        let log_id = log_id(&mut writer).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.read_only(true))
            .await?;
        Ok(Self {
            file: file.to_owned(),
            log_id,
            writer: Mutex::new(Some(writer)),
            history: SqliteHistory::of(readers.clone()),
            readers,
        })
    }
}

/// The log's id, made once with the database.
async fn log_id(writer: &mut SqliteConnection) -> Result<String> {
    sqlx::query("INSERT INTO log (id, created) SELECT lower(hex(randomblob(8))), ? WHERE NOT EXISTS (SELECT 1 FROM log)")
        .bind(now_ms())
        .execute(&mut *writer)
        .await?;
    Ok(sqlx::query_scalar("SELECT id FROM log")
        .fetch_one(writer)
        .await?)
}

fn closed() -> StoreError {
    StoreError::Database(sqlx::Error::PoolClosed)
}

impl Store for SqliteStore {
    fn log_id(&self) -> &str {
        &self.log_id
    }

    fn history(&self) -> &dyn History {
        &self.history
    }

    fn high_ids(&self) -> BoxFuture<'_, Result<(u64, i64)>> {
        Box::pin(async {
            let row = sqlx::query(
                "SELECT max(coalesce((SELECT max(id) FROM samples), 0), (SELECT first_kept - 1 FROM log)), coalesce((SELECT max(id) FROM streams), 0)",
            )
            .fetch_one(&self.readers)
            .await?;
            Ok((read::number(&row, 0), row.get(1)))
        })
    }

    fn commit<'a>(&'a self, rows: &'a [&'a Row]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut writer = self.writer.lock().await;
            let connection = writer.as_mut().ok_or_else(closed)?;
            transaction::begin(connection).await?;
            let written = write_rows(connection, rows).await;
            transaction::end(connection, written).await
        })
    }

    fn positions<'a>(&'a self, streams: &'a [i64]) -> BoxFuture<'a, Result<Vec<(i64, u64)>>> {
        Box::pin(async move {
            let mut found = Vec::with_capacity(streams.len());
            for id in streams {
                let row = sqlx::query("SELECT pos FROM streams WHERE id = ?")
                    .bind(id)
                    .fetch_optional(&self.readers)
                    .await?;
                found.extend(row.map(|row| (*id, read::number(&row, 0))));
            }
            Ok(found)
        })
    }

    fn load_stream<'a>(
        &'a self,
        key: &'a StreamKey,
    ) -> BoxFuture<'a, Result<Option<StoredStream>>> {
        Box::pin(read::load_stream(&self.readers, key))
    }

    fn log_after(
        &self,
        stream: i64,
        place: Place,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<LoggedReading>>> {
        Box::pin(read::log_after(&self.readers, stream, place, limit))
    }

    fn switches(&self, stream: i64, limit: u32) -> BoxFuture<'_, Result<Vec<StoredSwitch>>> {
        Box::pin(read::switches(&self.readers, stream, limit))
    }

    fn last_reset(&self, stream: i64) -> BoxFuture<'_, Result<Place>> {
        Box::pin(async move {
            let row = sqlx::query(
                "SELECT pos, sample_id FROM stream_log WHERE stream_id = ? AND kind = ? ORDER BY pos DESC LIMIT 1",
            )
            .bind(stream)
            .bind(log_kind::RESET)
            .fetch_optional(&self.readers)
            .await?;
            Ok(row.map_or(Place::default(), |row| read::place(&row, 0)))
        })
    }

    fn calibration(
        &self,
        stream: i64,
        place: Place,
        n: u32,
    ) -> BoxFuture<'_, Result<Vec<LoggedReading>>> {
        Box::pin(read::calibration(&self.readers, stream, place, n))
    }

    fn newest_folded(&self, stream: i64, n: u32) -> BoxFuture<'_, Result<Vec<LoggedReading>>> {
        Box::pin(read::newest_folded(&self.readers, stream, n))
    }

    fn find(&self, stream: i64, epoch: u64, seq: u64) -> BoxFuture<'_, Result<Option<Known>>> {
        Box::pin(read::find(&self.readers, stream, epoch, seq))
    }

    fn samples<'a>(&'a self, query: &'a SampleQuery) -> BoxFuture<'a, Result<Vec<StoredSample>>> {
        Box::pin(read::samples(&self.readers, query))
    }

    fn count_samples<'a>(&'a self, query: &'a SampleQuery) -> BoxFuture<'a, Result<u32>> {
        Box::pin(read::count_samples(&self.readers, query))
    }

    fn devices<'a>(
        &'a self,
        endpoint: Option<&'a str>,
        cursor: Option<&'a StreamKey>,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<DeviceRow>>> {
        Box::pin(read::devices(&self.readers, endpoint, cursor, limit))
    }

    fn receipts<'a>(&'a self, client: &'a str) -> BoxFuture<'a, Result<StoredReceipts>> {
        Box::pin(receipts::read(&self.readers, client))
    }

    fn renew_session<'a>(&'a self, client: &'a str) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let mut writer = self.writer.lock().await;
            receipts::renew(writer.as_mut().ok_or_else(closed)?, client).await
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            // A read that does not end must not hold up the stop; SQLite recovers from a file that was not closed.
            if timeout(FAREWELL, self.readers.close()).await.is_err() {
                tracing::warn!("database readers did not close in time");
            }
            let farewell = async {
                match self.writer.lock().await.take() {
                    Some(writer) => writer.close().await,
                    None => Ok(()),
                }
            };
            match timeout(FAREWELL, farewell).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "database did not close cleanly"),
                Err(_) => tracing::warn!("database did not close in time"),
            }
        })
    }
}

async fn write_rows(connection: &mut SqliteConnection, rows: &[&Row]) -> Result<()> {
    move_streams(connection, rows).await?;
    insert_samples(connection, rows).await?;
    for row in rows {
        write_extras(connection, row).await?;
    }
    receipts::write(connection, rows).await
}

/// Compare-and-set of every stream in the batch; a stream whose first row is at position 1 is new.
async fn move_streams(connection: &mut SqliteConnection, rows: &[&Row]) -> Result<()> {
    let moves = gather_moves(rows)?;
    let at = now_ms();
    let (new, known): (Vec<_>, Vec<_>) = moves.iter().partition(|(_, step)| step.expected == 0);
    bulk::NEW_STREAMS
        .run(connection, &new, |query, (id, step)| {
            let key = &rows[step.newest].stream.key;
            bind_marks(query.bind(**id), step, Some(at))
                .bind(key.endpoint.to_string())
                .bind(key.device.to_string())
                .bind(signed(key.import))
                .bind(at)
        })
        .await?;
    let moved = bulk::MOVED_STREAMS
        .run(connection, &known, |query, (id, step)| {
            let seen = step.heard.then_some(at);
            bind_marks(query.bind(**id), step, seen).bind(signed(step.expected))
        })
        .await?;
    if moved != known.len() as u64 {
        return Err(StoreError::Moved(
            known.iter().map(|(id, _)| **id).collect(),
        ));
    }
    Ok(())
}

/// `seen`: when the device was heard of, Unix ms; `None` leaves what is stored.
fn bind_marks(query: bulk::Query, step: &Move, seen: Option<i64>) -> bulk::Query {
    query
        .bind(signed(step.after.pos))
        .bind(signed(step.after.epoch))
        .bind(step.after.high_water.map(signed))
        .bind(numbering_code(step.after.numbering))
        .bind(step.after.last_ts)
        .bind(seen)
        .bind(step.samples)
}

async fn insert_samples(connection: &mut SqliteConnection, rows: &[&Row]) -> Result<()> {
    let samples: Vec<_> = rows
        .iter()
        .filter_map(|row| match &row.what {
            What::Sample(sample) => Some((row.id, sample)),
            _ => None,
        })
        .collect();
    bulk::SAMPLES
        .run(connection, &samples, |query, (id, sample)| {
            let mut output = Vec::with_capacity(16);
            encode_output(&sample.output, &mut output);
            query
                .bind(signed(*id))
                .bind(sample.stream.id)
                .bind(signed(sample.pos))
                .bind(signed(sample.epoch))
                .bind(signed(sample.seq))
                .bind(sample.ts)
                .bind(sample.received_at)
                .bind(crate::stream::to_le_bytes(&sample.values))
                .bind(output)
                .bind(sample.version.id)
                .bind(sample.arm.as_ref().map(|arm| arm.label.to_string()))
                .bind(sample.latency_us)
                .bind(sample.flags.0)
                .bind(sample.numerics_rev)
        })
        .await?;
    Ok(())
}

/// Everything that a reading seldom brings: refusals, log rows, gaps, snapshots, feedback.
async fn write_extras(connection: &mut SqliteConnection, row: &Row) -> Result<()> {
    write_what(connection, row).await?;
    if let Some(gaps) = &row.gaps {
        replace_gaps(connection, row, gaps).await?;
    }
    if let Some(snapshot) = &row.snapshot {
        insert_snapshot(connection, row, snapshot).await?;
    }
    Ok(())
}

async fn write_what(connection: &mut SqliteConnection, row: &Row) -> Result<()> {
    match &row.what {
        What::Sample(_) => Ok(()),
        What::Refusal(refusal) => insert_refusal(connection, row, refusal).await,
        What::Epoch => {
            let reason = "started by the device";
            let entry = LogEntry::new(log_kind::EPOCH, reason);
            insert_log_row(connection, row, &entry).await
        }
        What::Reset { reason } => {
            insert_log_row(connection, row, &LogEntry::new(log_kind::RESET, reason)).await
        }
        What::Switch {
            version,
            reason,
            warm_from,
            arm,
        } => {
            let entry = LogEntry {
                version: Some(version.id),
                warm_from: *warm_from,
                arm: arm.as_deref(),
                ..LogEntry::new(log_kind::SWITCH, reason)
            };
            insert_log_row(connection, row, &entry).await?;
            match arm {
                Some(arm) => experiments::assign(connection, row, arm).await,
                None => Ok(()),
            }
        }
        What::Feedback { epoch, seq, label } => {
            insert_feedback(connection, row.stream.id, *epoch, *seq, label).await
        }
    }
}

async fn insert_refusal(
    connection: &mut SqliteConnection,
    row: &Row,
    refusal: &RefusalRow,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO refusals (stream_id, pos, epoch, seq, code, message, consumed, at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(row.stream.id)
    .bind(signed(row.after.pos))
    .bind(signed(refusal.epoch))
    .bind(refusal.seq.map(signed))
    .bind(refusal.code.as_str())
    .bind(refusal.message.clone())
    .bind(refusal.consumed)
    .bind(refusal.at)
    .execute(connection)
    .await?;
    Ok(())
}

/// A switch, a reset or the start of an epoch.
struct LogEntry<'a> {
    kind: i32,
    reason: &'a str,
    version: Option<i64>,
    warm_from: Option<u64>,
    arm: Option<&'a ArmRef>,
}

impl<'a> LogEntry<'a> {
    fn new(kind: i32, reason: &'a str) -> Self {
        Self {
            kind,
            reason,
            version: None,
            warm_from: None,
            arm: None,
        }
    }
}

async fn insert_log_row(
    connection: &mut SqliteConnection,
    row: &Row,
    entry: &LogEntry<'_>,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO stream_log (stream_id, pos, sample_id, kind, epoch, version_id, warm_from, reason, at, arm, propensity) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(row.stream.id)
    .bind(signed(row.after.pos))
    .bind(signed(row.id))
    .bind(entry.kind)
    .bind(signed(row.after.epoch))
    .bind(entry.version)
    .bind(entry.warm_from.map(signed))
    .bind(entry.reason.to_owned())
    .bind(now_ms())
    .bind(entry.arm.map(|arm| arm.label.to_string()))
    .bind(entry.arm.map(|arm| arm.propensity))
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_feedback(
    connection: &mut SqliteConnection,
    stream: i64,
    epoch: u64,
    seq: u64,
    label: &tidegate_protocol::message::Label,
) -> Result<()> {
    use tidegate_protocol::message::Label;
    let (text, number) = match label {
        Label::Text(text) => (Some(text.clone()), None),
        Label::Number(number) => (None, Some(*number)),
    };
    sqlx::query(
        "INSERT INTO feedback (stream_id, epoch, seq, label, number, at) VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(stream)
    .bind(signed(epoch))
    .bind(signed(seq))
    .bind(text)
    .bind(number)
    .bind(now_ms())
    .execute(connection)
    .await?;
    Ok(())
}

async fn replace_gaps(
    connection: &mut SqliteConnection,
    row: &Row,
    gaps: &[(u64, u64)],
) -> Result<()> {
    sqlx::query("DELETE FROM gaps WHERE stream_id = ?")
        .bind(row.stream.id)
        .execute(&mut *connection)
        .await?;
    for (from, to) in gaps {
        sqlx::query("INSERT INTO gaps (stream_id, epoch, from_seq, to_seq) VALUES (?, ?, ?, ?)")
            .bind(row.stream.id)
            .bind(signed(row.after.epoch))
            .bind(signed(*from))
            .bind(signed(*to))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

async fn insert_snapshot(
    connection: &mut SqliteConnection,
    row: &Row,
    snapshot: &Snapshot,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO snapshots (stream_id, pos, sample_id, version_id, layout, numerics_rev, last_ts, state) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(row.stream.id)
    .bind(signed(row.after.pos))
    .bind(signed(row.id))
    .bind(snapshot.version.id)
    .bind(snapshot.layout.to_string())
    .bind(snapshot.numerics_rev)
    .bind(snapshot.last_ts)
    .bind(crate::stream::to_le_bytes(&snapshot.state))
    .execute(connection)
    .await?;
    Ok(())
}
