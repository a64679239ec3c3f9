//! The durable record behind one small trait in domain words.
//!
//! Owns the trait [`Store`] with its parts [`Versions`], [`Experiments`], [`Alerting`], [`Upkeep`] and [`History`], what is read back, and the [`writer`] which gathers rows. A database
//! is a file, [`sqlite`], or a server, [`postgres`]; [`open()`] tells which. Promises that a batch commits whole or not at all, each stream
//! by compare-and-set on its position, that one server writes at a time, and that what `commit` returned is synced (as
//! configured). Knows nothing of sockets, models or sessions.

pub mod alerts;
mod cells;
mod disk;
pub mod experiments;
pub mod history;
pub mod lock;
mod open;
pub mod postgres;
pub mod rollup;
mod rows;
mod schema;
pub mod sqlite;
pub mod upkeep;
pub mod versions;
pub mod writer;

pub use alerts::Alerting;
pub use experiments::{
    AssignmentRow, ExperimentRow, Experiments, FeedbackRow, NewExperiment, Note, NoteRow,
    RefusedRow, ShadowRow, StateChange,
};
pub use history::{History, open_readonly};
pub use open::{Opened, explain, open};
pub use upkeep::Upkeep;
pub use versions::{StatusChange, StatusRow, Versions};

use crate::stream::{Marks, PublishMark, RefusalRow, Row, StreamKey, StreamRef, counted};
use futures_util::future::BoxFuture;
use std::time::Duration;
use tidegate_protocol::Output;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database answered with an error; try again.
    #[error("store: {}", said(.0))]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date; a person is needed.
    #[error("store: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// The database or its place cannot be used as it is; the text says what a person does.
    #[error("{0}")]
    Unusable(String),
    /// A stored row cannot be read; a person is needed.
    #[error("store: {0}")]
    Corrupt(String),
    /// A version's files are not those that were recorded under its name, or an endpoint's schema is not that of its revision.
    #[error("store: {0}")]
    Changed(String),
    /// These streams stand elsewhere than the batch expected: nothing of the batch was committed.
    #[error("store: {} moved under the writer", counted(.0.len() as u64, "stream"))]
    Moved(Vec<i64>),
    /// The database did not answer in time; whether a commit stands is to be looked up.
    #[error("store: no answer within {0:?}")]
    Slow(Duration),
    /// Another server writes this database now. Final: this one never commits again.
    #[error("store: another tidegate server has taken over this database")]
    Fenced,
}

/// What a database said, without the library's words around it and the place in its own source.
fn said(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(refused) => refused.message().to_owned(),
        other => other.to_string(),
    }
}

/// The shortest name for results here.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Everything needed to bring a session back, but the readings behind the snapshot.
#[derive(Debug, Clone)]
pub struct StoredStream {
    /// The stream.
    pub stream: StreamRef,
    /// Where it stands.
    pub marks: Marks,
    /// Skipped ranges of the current epoch.
    pub gaps: Vec<(u64, u64)>,
    /// The newest snapshot: its position, version id and content.
    pub snapshot: Option<StoredSnapshot>,
    /// Arrival of the newest row that the device sent, Unix ms.
    pub last_seen: i64,
}

/// A place in a stream's log: behind the row at `pos`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Position of the row.
    pub pos: u64,
    /// The stream's samples behind the row have higher ids than this, those before it none.
    pub sample_id: u64,
}

/// A snapshot as read back; the version is an id, because it may no longer be loaded.
#[derive(Debug, Clone)]
pub struct StoredSnapshot {
    /// Behind this row.
    pub place: Place,
    /// Whose state.
    pub version_id: i64,
    /// Names and lengths of its buffers.
    pub layout: String,
    /// Revision of the arithmetic.
    pub numerics_rev: u32,
    /// Measured time of the newest folded reading.
    pub last_ts: Option<i64>,
    /// The buffers.
    pub state: Vec<f32>,
}

/// A reading in a stream's log, to be folded behind a snapshot.
///
/// Rows that change the state in another way (a switch, a reset) carry a snapshot themselves, so nothing but
/// readings ever stands behind the newest snapshot.
#[derive(Debug, Clone)]
pub struct LoggedReading {
    /// Its position, and its id as a sample (0: retired, kept for calibrations only).
    pub place: Place,
    /// Measured, Unix ms.
    pub ts: i64,
    /// The values.
    pub values: Vec<f32>,
    /// Whether it went into the state the first time.
    pub folded: bool,
}

/// A version that was put in place on a stream, as read back.
#[derive(Debug, Clone)]
pub struct StoredSwitch {
    /// Which one.
    pub version_id: i64,
    /// Why.
    pub reason: String,
    /// `experiment/arm`, where an experiment chose it.
    pub arm: Option<String>,
}

/// Publishes of the broker that were taken and may be delivered again, as read back.
#[derive(Debug, Clone)]
pub struct StoredReceipts {
    /// The broker's session; 0 is the first.
    pub session: u64,
    /// How far they are taken. Those of other sessions only tell which places are used.
    pub marks: Vec<PublishMark>,
}

/// What is known of one number.
#[derive(Debug, Clone)]
pub enum Known {
    /// It was taken.
    Sample(Box<StoredSample>),
    /// It was refused.
    Refusal(RefusalRow),
}

/// A sample as read back.
#[derive(Debug, Clone)]
pub struct StoredSample {
    /// The row id.
    pub id: u64,
    /// Row id of the stream.
    pub stream: i64,
    /// The endpoint.
    pub endpoint: String,
    /// The device.
    pub device: String,
    /// The reading's epoch.
    pub epoch: u64,
    /// The reading's number.
    pub seq: u64,
    /// Measured, Unix ms.
    pub ts: i64,
    /// Arrived, Unix ms.
    pub received_at: i64,
    /// The values.
    pub values: Vec<f32>,
    /// The answer.
    pub output: Output,
    /// The model.
    pub model: String,
    /// Its version.
    pub version: String,
    /// `experiment/arm`, where an experiment chose the version.
    pub arm: Option<String>,
    /// From decode to step done, microseconds.
    pub latency_us: u32,
    /// What was odd.
    pub flags: crate::stream::Flags,
}

impl StoredSample {
    /// The row as peers see it.
    pub fn into_wire(self) -> tidegate_protocol::Sample {
        tidegate_protocol::Sample {
            id: self.id,
            endpoint: self.endpoint,
            device: self.device,
            epoch: self.epoch,
            seq: self.seq,
            ts: self.ts,
            received_at: self.received_at,
            values: self.values,
            output: self.output,
            model: self.model,
            version: self.version,
            arm: self.arm,
            latency_us: self.latency_us,
            flags: self.flags.names(),
        }
    }
}

/// Which samples to read.
#[derive(Debug, Clone, Default)]
pub struct SampleQuery {
    /// Only this endpoint.
    pub endpoint: Option<String>,
    /// Only this device.
    pub device: Option<String>,
    /// Only this epoch.
    pub epoch: Option<u64>,
    /// Measured at or after, Unix ms.
    pub from: Option<i64>,
    /// Measured before, Unix ms.
    pub to: Option<i64>,
    /// Beyond this id: after it, or before it when `newest_first`.
    pub cursor: Option<u64>,
    /// Up to and including this id.
    pub until: Option<u64>,
    /// No imports.
    pub live_only: bool,
    /// By falling id.
    pub newest_first: bool,
    /// At most so many.
    pub limit: u32,
}

/// A stream for the list of devices.
#[derive(Debug, Clone)]
pub struct DeviceRow {
    /// The stream.
    pub key: StreamKey,
    /// Its epoch.
    pub epoch: u64,
    /// Highest number consumed.
    pub high_water: Option<u64>,
    /// Samples stored.
    pub samples: u64,
    /// Arrival of the newest row that the device sent, Unix ms.
    pub last_seen: i64,
    /// The newest sample.
    pub last: Option<StoredSample>,
}

/// What the store must do, whatever the database.
pub trait Store: Upkeep + Versions + Experiments + Alerting {
    /// The log's id: another one for another database.
    fn log_id(&self) -> &str;

    /// The log read whole, through the store's own readers.
    fn history(&self) -> &dyn History;

    /// The highest sample id and stream id given so far.
    fn high_ids(&self) -> BoxFuture<'_, Result<(u64, i64)>>;

    /// Commits all rows in one transaction. Rows of one stream stand in position order.
    ///
    /// `Moved` names streams whose stored position is not what their first row expects; then nothing was committed.
    fn commit<'a>(&'a self, rows: &'a [&'a Row]) -> BoxFuture<'a, Result<()>>;

    /// Stored positions of streams; a stream that is not stored is left out.
    fn positions<'a>(&'a self, streams: &'a [i64]) -> BoxFuture<'a, Result<Vec<(i64, u64)>>>;

    /// One stream with what a session needs.
    fn load_stream<'a>(&'a self, key: &'a StreamKey)
    -> BoxFuture<'a, Result<Option<StoredStream>>>;

    /// The log of a stream behind a place, at most `limit` readings.
    fn log_after(
        &self,
        stream: i64,
        place: Place,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<LoggedReading>>>;

    /// Versions that were put in place on a stream, newest first, at most `limit`.
    fn switches(&self, stream: i64, limit: u32) -> BoxFuture<'_, Result<Vec<StoredSwitch>>>;

    /// The newest reset of a stream; the beginning of its log when there was none.
    fn last_reset(&self, stream: i64) -> BoxFuture<'_, Result<Place>>;

    /// The first `n` folded readings behind a place, retired ones that were kept for calibrations included.
    fn calibration(
        &self,
        stream: i64,
        place: Place,
        n: u32,
    ) -> BoxFuture<'_, Result<Vec<LoggedReading>>>;

    /// The newest `n` folded readings of a stream, in the order of the log.
    fn newest_folded(&self, stream: i64, n: u32) -> BoxFuture<'_, Result<Vec<LoggedReading>>>;

    /// What is known of one number.
    fn find(&self, stream: i64, epoch: u64, seq: u64) -> BoxFuture<'_, Result<Option<Known>>>;

    /// Samples by id.
    fn samples<'a>(&'a self, query: &'a SampleQuery) -> BoxFuture<'a, Result<Vec<StoredSample>>>;

    /// How many samples match, counted up to `limit`. A database that can count without reading rows should.
    fn count_samples<'a>(&'a self, query: &'a SampleQuery) -> BoxFuture<'a, Result<u32>> {
        Box::pin(count_by_reading(self, query.clone()))
    }

    /// Streams by (endpoint, device), after `cursor`.
    fn devices<'a>(
        &'a self,
        endpoint: Option<&'a str>,
        cursor: Option<&'a StreamKey>,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<DeviceRow>>>;

    /// What is kept of the publishes that came to a client of the broker, in the order of their places.
    fn receipts<'a>(&'a self, client: &'a str) -> BoxFuture<'a, Result<StoredReceipts>>;

    /// The broker has begun another session with a client: its number. What was kept of earlier ones is forgotten.
    fn renew_session<'a>(&'a self, client: &'a str) -> BoxFuture<'a, Result<u64>>;

    /// Closes the database after the last commit.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Counts page by page, for a store that cannot count by itself.
pub(crate) async fn count_by_reading<S: Store + ?Sized>(
    store: &S,
    mut query: SampleQuery,
) -> Result<u32> {
    const PAGE: u32 = 500;
    let most = query.limit;
    let mut count = 0;
    loop {
        query.limit = PAGE.min(most - count);
        let page = store.samples(&query).await?;
        count += page.len() as u32;
        match page.last() {
            Some(last) if page.len() == PAGE as usize && count < most => {
                query.cursor = Some(last.id);
            }
            _ => return Ok(count),
        }
    }
}
