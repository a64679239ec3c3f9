//! The log read whole: for replays and exports, beside a running server or without one.
//!
//! Owns the trait [`History`] and the records that come out of it. Every read is a slice of bounded size in a transaction of its own, so
//! that a long replay pins no write-ahead log and holds no lock. Records are what the database holds: an output is its stored bytes,
//! because a replay compares those and a damaged one must be found, not refused. Never writes.

use super::postgres::PostgresHistory;
use super::rows::log_kind;
use super::sqlite::SqliteHistory;
use super::{Place, Result, StoreError, StoredSnapshot};
use crate::config::Database;
use crate::stream::{Flags, StreamKey, StreamRef};
use futures_util::future::BoxFuture;
use std::sync::Arc;

/// Streams listed at once.
const PAGE: u32 = 1_000;

/// Which streams to read.
#[derive(Debug, Clone, Default)]
pub struct StreamFilter {
    /// Only this endpoint.
    pub endpoint: Option<String>,
    /// Only this device.
    pub device: Option<String>,
    /// Live streams, imports, or both.
    pub imports: Imports,
}

/// Whether back-fills are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Imports {
    /// Beside the live streams.
    #[default]
    With,
    /// Live streams only.
    Without,
    /// Nothing else.
    Only,
}

/// A stream and how far its log reaches.
#[derive(Debug, Clone)]
pub struct LoggedStream {
    /// The stream.
    pub stream: StreamRef,
    /// Position of its newest row.
    pub pos: u64,
    /// Samples ever taken, retired ones included.
    pub samples: u64,
}

/// What is left of a stream's samples. Retention takes the oldest, up to a snapshot which it keeps: behind the first kept
/// snapshot nothing is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kept {
    /// Samples stored now.
    pub count: u64,
    /// The oldest of them; `None` when there is none.
    pub first: Option<Place>,
}

/// A sample as it lies in the database.
#[derive(Debug, Clone, PartialEq)]
pub struct LoggedSample {
    /// The row id.
    pub id: u64,
    /// Row id of its stream.
    pub stream_id: i64,
    /// Position in the stream's log.
    pub pos: u64,
    /// The reading's epoch.
    pub epoch: u64,
    /// The reading's number.
    pub seq: u64,
    /// Measured, Unix ms.
    pub ts: i64,
    /// Arrived, Unix ms.
    pub received_at: i64,
    /// In the order of the endpoint's features.
    pub values: Vec<f32>,
    /// The answer's stored bytes.
    pub output: Vec<u8>,
    /// Row id of the version that answered.
    pub version_id: i64,
    /// Of an experiment.
    pub arm: Option<String>,
    /// From decode to step done, microseconds.
    pub latency_us: u32,
    /// What was odd.
    pub flags: Flags,
    /// Revision of the arithmetic.
    pub numerics_rev: u32,
}

/// A row of a stream's log that is no reading and may change the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Position.
    pub pos: u64,
    /// What happened.
    pub what: Turned,
}

impl Turn {
    /// A row of `stream_log`.
    ///
    /// # Errors
    /// A kind that no build of this schema wrote.
    pub(super) fn read(stream: i64, pos: u64, kind: i32, version: Option<i64>) -> Result<Self> {
        let what = match (kind, version) {
            (log_kind::SWITCH, Some(version)) => Turned::Switch(version),
            (log_kind::RESET, _) => Turned::Reset,
            (log_kind::EPOCH, _) => Turned::Epoch,
            _ => {
                return Err(StoreError::Corrupt(format!(
                    "log row {pos} of stream {stream} has kind {kind} and version {version:?}"
                )));
            }
        };
        Ok(Self { pos, what })
    }
}

/// What a [`Turn`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// This version serves from here on.
    Switch(i64),
    /// The state was set back.
    Reset,
    /// An epoch began.
    Epoch,
}

/// A version as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedVersion {
    /// Row id.
    pub id: i64,
    /// The endpoint it served.
    pub endpoint: String,
    /// The model's name.
    pub model: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its folder.
    pub hash: Vec<u8>,
}

/// Which samples to read, of those streams.
#[derive(Debug, Clone, Default)]
pub struct SampleFilter {
    /// Of these streams.
    pub streams: StreamFilter,
    /// Only this epoch.
    pub epoch: Option<u64>,
    /// Measured at or after, Unix ms.
    pub from: Option<i64>,
    /// Measured before, Unix ms.
    pub to: Option<i64>,
}

/// Reading the log, whatever the database.
pub trait History: Send + Sync + 'static {
    /// Streams by (endpoint, device, import), after `cursor`.
    fn streams<'a>(
        &'a self,
        filter: &'a StreamFilter,
        cursor: Option<&'a StreamKey>,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<LoggedStream>>>;

    /// What is left of a stream's samples.
    fn kept(&self, stream: i64) -> BoxFuture<'_, Result<Kept>>;

    /// Samples of a stream behind a place, in position order.
    fn samples_after(
        &self,
        stream: i64,
        place: Place,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<LoggedSample>>>;

    /// Switches, resets and epochs of a stream at positions `after + 1 ..= until`, in order.
    fn turns(
        &self,
        stream: i64,
        after: u64,
        until: u64,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Turn>>>;

    /// Snapshots of a stream at positions `after + 1 ..= until`, in order.
    fn snapshots(
        &self,
        stream: i64,
        after: u64,
        until: u64,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<StoredSnapshot>>>;

    /// Every version that was ever recorded, by id.
    fn versions(&self) -> BoxFuture<'_, Result<Vec<LoggedVersion>>>;

    /// The lowest and the highest sample id; `None` when there is no sample.
    fn sample_ids(&self) -> BoxFuture<'_, Result<Option<(u64, u64)>>>;

    /// Samples with ids `after + 1 ..= until`, in order; the caller bounds the span.
    fn samples_between<'a>(
        &'a self,
        filter: &'a SampleFilter,
        after: u64,
        until: u64,
    ) -> BoxFuture<'a, Result<Vec<LoggedSample>>>;
}

/// Opens a database for reading, at most `readers` reads at once. Takes no lock: a server may write it meanwhile.
///
/// # Errors
/// No database there, or one of another schema; the message is for people.
pub async fn open_readonly(database: &Database, readers: u32) -> Result<Arc<dyn History>> {
    Ok(match database {
        Database::Sqlite(file) => Arc::new(SqliteHistory::open(file, readers).await?),
        Database::Postgres(options) => {
            let place = database.to_string();
            Arc::new(PostgresHistory::open(options, &place, readers).await?)
        }
    })
}

/// Every stream that fits, by (endpoint, device, import). Costs about 200 bytes a stream.
///
/// # Errors
/// A database that cannot be read.
pub async fn all_streams(
    history: &dyn History,
    filter: &StreamFilter,
) -> Result<Vec<LoggedStream>> {
    let mut all: Vec<LoggedStream> = Vec::new();
    loop {
        let cursor = all.last().map(|stream| stream.stream.key.clone());
        let page = history.streams(filter, cursor.as_ref(), PAGE).await?;
        let is_last = page.len() < PAGE as usize;
        all.extend(page);
        if is_last {
            return Ok(all);
        }
    }
}
