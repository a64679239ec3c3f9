//! The single writer: gathers rows of many streams and commits them together.
//!
//! Owns the queue to the store (bounded: a row is admitted only with a permit in hand, so sending never fails or waits)
//! and the sample ids. Promises: rows of one stream commit in position order; a batch commits whole or not at all; a failed
//! or unknown outcome is retried as the same batch, but never before positions were read again; a stream whose row the store
//! will never take is stopped alone; once another server took the database over nothing is committed any more. What was
//! committed goes to a [`CommitSink`], on a task of its own beside the next commit, in commit order.
//!
//! Idle, it commits a row at once. Under load commits start `commit_interval` apart, so that many rows share a sync.

use super::{Store, StoreError};
use crate::config::StoreConfig;
use crate::stream::{Row, What};
use crate::telemetry::metric;
use parking_lot::Mutex;
use sqlx::postgres::PgDatabaseError;
use sqlx::sqlite::SqliteError;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// First and longest wait between two tries of a batch.
const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// A row and whose it is; the owner comes back with the commit.
#[derive(Debug)]
pub struct Entry<T> {
    /// What to store.
    pub row: Row,
    /// Whom to tell.
    pub owner: T,
}

/// Batches that may wait to be settled before the writer waits: one is settled while the next is committed.
const SETTLING: usize = 2;

/// Who hears of commits, one call after the other: must not block.
pub trait CommitSink<T>: Send + 'static {
    /// These rows are durable, in this order.
    fn committed(&mut self, entries: Vec<Entry<T>>);
    /// The store will never take these rows: their streams must be loaded again.
    fn stopped(&mut self, entries: Vec<Entry<T>>);
}

/// Why new readings stay out although commits work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The disk has less than `store.min_free_bytes` left.
    Disk,
    /// The database is larger than `store.max_bytes`, and nothing more can be retired.
    MaxBytes,
}

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Disk => "the disk is nearly full (store.min_free_bytes)",
            Self::MaxBytes => "the database is as large as it may be (store.max_bytes)",
        })
    }
}

/// Whether the store takes commits at the moment.
#[derive(Debug, Default)]
pub struct StoreHealth {
    failing: AtomicBool,
    /// See [`Full`]; the flag beside it is what the hot path looks at.
    full: watch::Sender<Option<Full>>,
    is_full: AtomicBool,
    /// When the batch being committed was gathered.
    busy_since: Mutex<Option<Instant>>,
    /// Another server writes the database now.
    lost: CancellationToken,
}

impl StoreHealth {
    /// Whether another server took the database over; this one never commits again.
    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Ends when another server takes the database over.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Whether the last try of a commit failed.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Why new readings stay out, if they do.
    pub fn full(&self) -> Option<Full> {
        if self.is_full.load(Ordering::Relaxed) {
            *self.full.borrow()
        } else {
            None
        }
    }

    /// Keeps new readings out, or lets them in again.
    pub fn set_full(&self, full: Option<Full>) {
        self.is_full.store(full.is_some(), Ordering::Relaxed);
        self.full
            .send_if_modified(|now| std::mem::replace(now, full) != full);
    }

    /// Waits until readings are let in.
    pub async fn has_room(&self) {
        // The sender lives as long as this struct, so the wait ends only when there is room.
        let _ = self.full.subscribe().wait_for(Option::is_none).await;
    }

    /// Age of the commit in progress.
    pub fn lag(&self) -> Duration {
        let since = *self.busy_since.lock();
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// The way into the writer's queue.
#[derive(Debug)]
pub struct WriterHandle<T> {
    queue: mpsc::Sender<Entry<T>>,
    health: Arc<StoreHealth>,
}

impl<T> WriterHandle<T> {
    /// Waits for room for `rows` rows. `None`: the writer has stopped.
    pub async fn reserve(&self, rows: usize) -> Option<mpsc::PermitIterator<'_, Entry<T>>> {
        self.queue.reserve_many(rows).await.ok()
    }

    /// Room for `rows` rows, if there is any now.
    pub fn try_reserve(&self, rows: usize) -> Option<mpsc::PermitIterator<'_, Entry<T>>> {
        self.queue.try_reserve_many(rows).ok()
    }

    /// Rows waiting now.
    pub fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Tells the share of the queue that is full, 0 to 1, without keeping the writer alive.
    pub fn fullness(&self) -> impl Fn() -> f64 + Send + use<T>
    where
        T: Send + 'static,
    {
        let queue = self.queue.downgrade();
        move || {
            let share = |queue: mpsc::Sender<Entry<T>>| {
                1.0 - queue.capacity() as f64 / queue.max_capacity() as f64
            };
            queue.upgrade().map_or(0.0, share)
        }
    }

    /// Whether the store takes commits.
    pub fn health(&self) -> &Arc<StoreHealth> {
        &self.health
    }
}

/// What became of rows.
enum Settled<T> {
    Committed(Vec<Entry<T>>),
    Stopped(Vec<Entry<T>>),
}

/// Tells the sink, in order, until the writer is done.
async fn settle<T, S: CommitSink<T>>(mut settled: mpsc::Receiver<Settled<T>>, mut sink: S) {
    while let Some(settled) = settled.recv().await {
        match settled {
            Settled::Committed(entries) => sink.committed(entries),
            Settled::Stopped(entries) => sink.stopped(entries),
        }
    }
}

/// The writer's task.
pub struct Writer<T, S> {
    sink: S,
    work: Work<T>,
    settled: mpsc::Receiver<Settled<T>>,
}

/// What the writer works with.
struct Work<T> {
    store: Arc<dyn Store>,
    queue: mpsc::Receiver<Entry<T>>,
    settled: mpsc::Sender<Settled<T>>,
    config: StoreConfig,
    health: Arc<StoreHealth>,
    next_id: u64,
}

/// Makes a writer; `high_id` is the highest sample id given so far.
pub fn writer<T, S>(
    store: Arc<dyn Store>,
    config: StoreConfig,
    high_id: u64,
    sink: S,
) -> (WriterHandle<T>, Writer<T, S>)
where
    T: Send + 'static,
    S: CommitSink<T>,
{
    let (sender, queue) = mpsc::channel(config.queue);
    let health = Arc::new(StoreHealth::default());
    let handle = WriterHandle {
        queue: sender,
        health: Arc::clone(&health),
    };
    let (sender, settled) = mpsc::channel(SETTLING);
    let work = Work {
        store,
        queue,
        settled: sender,
        config,
        health,
        next_id: high_id + 1,
    };
    let writer = Writer {
        sink,
        work,
        settled,
    };
    (handle, writer)
}

impl<T: Send + 'static, S: CommitSink<T>> Writer<T, S> {
    /// Runs until `flush` is cancelled and everything that was admitted is committed and settled.
    pub async fn run(self, flush: CancellationToken) {
        let settling = tokio::spawn(settle(self.settled, self.sink));
        self.work.run(flush).await;
        if let Err(error) = settling.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

impl<T: Send + 'static> Work<T> {
    async fn run(mut self, flush: CancellationToken) {
        let mut last_start = Instant::now() - self.config.commit_interval;
        let mut batch = Vec::new();
        while self.gather(&mut batch, last_start, &flush).await {
            last_start = Instant::now();
            *self.health.busy_since.lock() = Some(last_start);
            self.give_ids(&mut batch);
            metrics::histogram!(metric::STORE_BATCH_ROWS).record(batch.len() as f64);
            self.commit(std::mem::take(&mut batch)).await;
            *self.health.busy_since.lock() = None;
            metrics::histogram!(metric::STAGE_SECONDS, "stage" => "store")
                .record(last_start.elapsed().as_secs_f64());
        }
    }

    /// Fills `batch` with what waits; false once the queue is closed and empty.
    async fn gather(
        &mut self,
        batch: &mut Vec<Entry<T>>,
        last_start: Instant,
        flush: &CancellationToken,
    ) -> bool {
        let most = self.config.max_batch;
        let received = tokio::select! {
            biased;
            received = self.queue.recv_many(batch, most) => received,
            () = flush.cancelled(), if !self.queue.is_closed() => {
                self.queue.close();
                self.queue.recv_many(batch, most).await
            }
        };
        if received == 0 {
            return false;
        }
        let due = last_start + self.config.commit_interval;
        while batch.len() < most && Instant::now() < due && !flush.is_cancelled() {
            let room = most - batch.len();
            match tokio::time::timeout_at(due, self.queue.recv_many(batch, room)).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        true
    }

    fn give_ids(&mut self, batch: &mut [Entry<T>]) {
        for entry in batch {
            if matches!(entry.row.what, What::Sample(_)) {
                self.next_id += 1;
            }
            entry.row.id = self.next_id - 1;
        }
    }

    /// Tries until every entry is committed or its stream is stopped.
    async fn commit(&mut self, mut batch: Vec<Entry<T>>) {
        let mut wait = RETRY.0;
        while !batch.is_empty() {
            let rows: Vec<&Row> = batch.iter().map(|entry| &entry.row).collect();
            match self.store.commit(&rows).await {
                Ok(()) => {
                    self.health.failing.store(false, Ordering::Relaxed);
                    metrics::counter!(metric::STORE_COMMITS).increment(1);
                    return self.tell(Settled::Committed(batch)).await;
                }
                Err(StoreError::Fenced) => return self.give_up(batch).await,
                Err(error) if is_poison(&error) => {
                    drop(rows);
                    tracing::error!(%error, "the store refused a row; committing stream by stream");
                    return self.commit_apart(batch).await;
                }
                Err(error) => {
                    self.note_failure(&error, batch.len(), wait);
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY.1);
                    batch = self.resolve(batch).await;
                }
            }
        }
    }

    /// Commits each stream's rows by themselves, so that a row the store never takes stops its stream only.
    async fn commit_apart(&mut self, batch: Vec<Entry<T>>) {
        for mut part in by_stream(batch) {
            // The failed batch left nothing behind; new ids keep them in commit order.
            self.give_ids(&mut part);
            self.commit_part(part).await;
        }
    }

    /// Commits one stream's rows: a refusal stops the stream, a failure is tried again.
    async fn commit_part(&mut self, mut part: Vec<Entry<T>>) {
        let mut wait = RETRY.0;
        while !part.is_empty() {
            let rows: Vec<&Row> = part.iter().map(|entry| &entry.row).collect();
            match self.store.commit(&rows).await {
                Ok(()) => {
                    self.health.failing.store(false, Ordering::Relaxed);
                    return self.tell(Settled::Committed(part)).await;
                }
                Err(StoreError::Fenced) => return self.give_up(part).await,
                Err(error) if is_poison(&error) => {
                    let stream = &part[0].row.stream.key;
                    tracing::error!(%error, %stream, rows = part.len(), "stream stopped");
                    metrics::counter!(metric::STREAMS_STOPPED).increment(1);
                    // It answers: the fault is the row's.
                    self.health.failing.store(false, Ordering::Relaxed);
                    return self.tell(Settled::Stopped(part)).await;
                }
                Err(error) => {
                    self.note_failure(&error, part.len(), wait);
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY.1);
                    part = self.resolve(part).await;
                }
            }
        }
    }

    fn note_failure(&self, error: &StoreError, rows: usize, wait: Duration) {
        self.health.failing.store(true, Ordering::Relaxed);
        metrics::counter!(metric::STORE_FAILURES).increment(1);
        tracing::error!(%error, rows, retry_ms = wait.as_millis() as u64, "commit failed");
    }

    /// A commit failed and what became of it cannot be read either.
    fn note_unknown(&self, error: &StoreError, streams: usize, wait: Duration) {
        self.health.failing.store(true, Ordering::Relaxed);
        metrics::counter!(metric::STORE_FAILURES).increment(1);
        let retry_ms = wait.as_millis() as u64;
        tracing::error!(%error, streams, retry_ms, "what a failed commit came to is not known: positions cannot be read");
    }

    /// Another server took over: nothing of these rows was committed by this one, and nothing will be.
    async fn give_up(&mut self, batch: Vec<Entry<T>>) {
        if !self.health.is_lost() {
            tracing::error!("{}: this one stops", StoreError::Fenced);
            self.health.lost.cancel();
        }
        metrics::counter!(metric::STREAMS_STOPPED).increment(spans(&batch).len() as u64);
        self.tell(Settled::Stopped(batch)).await;
    }

    /// Waits only while [`SETTLING`] batches wait already.
    async fn tell(&self, settled: Settled<T>) {
        // The receiver is gone only after a panic, which the caller of `run` gets.
        let _ = self.settled.send(settled).await;
    }

    /// Stored positions, asked for until the store answers: a try without them could take what is committed for a
    /// conflict. `None`: another server took over.
    async fn standing(&self, streams: &[i64]) -> Option<HashMap<i64, u64>> {
        let mut wait = RETRY.0;
        loop {
            match self.store.positions(streams).await {
                Ok(found) => return Some(found.into_iter().collect()),
                Err(StoreError::Fenced) => return None,
                Err(error) => {
                    self.note_unknown(&error, streams.len(), wait);
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY.1);
                }
            }
        }
    }

    /// After a failed or unknown outcome: tells what is committed after all, stops streams that stand elsewhere, and
    /// returns what to try again.
    async fn resolve(&mut self, batch: Vec<Entry<T>>) -> Vec<Entry<T>> {
        let spans = spans(&batch);
        let ids: Vec<i64> = spans.keys().copied().collect();
        let Some(found) = self.standing(&ids).await else {
            self.give_up(batch).await;
            return Vec::new();
        };
        let stands = |id: i64| found.get(&id).copied().unwrap_or(0);
        if ids.iter().all(|id| stands(*id) == spans[id].1) {
            self.health.failing.store(false, Ordering::Relaxed);
            self.tell(Settled::Committed(batch)).await;
            return Vec::new();
        }
        let (again, stopped): (Vec<_>, Vec<_>) = batch.into_iter().partition(|entry| {
            let id = entry.row.stream.id;
            stands(id) == spans[&id].0
        });
        if !stopped.is_empty() {
            tracing::error!(
                rows = stopped.len(),
                "streams stand elsewhere than this server left them; another writer?"
            );
            let streams = self::spans(&stopped).len() as u64;
            metrics::counter!(metric::STREAMS_STOPPED).increment(streams);
            self.tell(Settled::Stopped(stopped)).await;
        }
        again
    }
}

/// Errors that the same rows will meet again.
fn is_poison(error: &StoreError) -> bool {
    match error {
        StoreError::Database(sqlx::Error::Database(error)) => {
            let postgres = error.try_downcast_ref::<PgDatabaseError>();
            let sqlite = error.try_downcast_ref::<SqliteError>();
            !matches!(error.kind(), sqlx::error::ErrorKind::Other)
                || postgres.is_some_and(|error| blames_a_row(error.code()))
                || sqlite
                    .is_some_and(|_| error.code().is_some_and(|code| sqlite_blames_a_row(&code)))
        }
        StoreError::Database(sqlx::Error::Encode(_)) | StoreError::Moved(_) => true,
        _ => false,
    }
}

/// Whether an SQLSTATE of PostgreSQL tells of what a row holds: data, integrity, a statement that does not fit it, a limit. A table
/// or a right that is missing is no row's fault and may come back, as do connections, locks and disks.
fn blames_a_row(state: &str) -> bool {
    let class = state.get(..2).unwrap_or_default();
    matches!(class, "22" | "23" | "42" | "54") && !matches!(state, "42501" | "42P01")
}

/// Whether a result code of SQLite tells of what a row holds: a value that is too big, a constraint or a trigger of any kind, a type.
fn sqlite_blames_a_row(code: &str) -> bool {
    const TOO_BIG: i32 = 18;
    const CONSTRAINT: i32 = 19;
    const MISMATCH: i32 = 20;
    // The low byte is the code, what is above it says more.
    let primary = code.parse().map(|code: i32| code & 0xff);
    matches!(primary, Ok(TOO_BIG | CONSTRAINT | MISMATCH))
}

/// Position before the first and after the last row of each stream.
fn spans<T>(batch: &[Entry<T>]) -> HashMap<i64, (u64, u64)> {
    let mut spans = HashMap::new();
    for Entry { row, .. } in batch {
        let span = spans
            .entry(row.stream.id)
            .or_insert((row.after.pos - 1, row.after.pos));
        span.1 = row.after.pos;
    }
    spans
}

/// The batch cut into streams, each in its order.
fn by_stream<T>(batch: Vec<Entry<T>>) -> Vec<Vec<Entry<T>>> {
    let mut places = HashMap::new();
    let mut parts: Vec<Vec<Entry<T>>> = Vec::new();
    for entry in batch {
        let place = *places.entry(entry.row.stream.id).or_insert(parts.len());
        if place == parts.len() {
            parts.push(Vec::new());
        }
        parts[place].push(entry);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::{blames_a_row, sqlite_blames_a_row};

    #[test]
    fn what_a_row_holds_stops_its_stream_and_what_the_store_lacks_is_tried_again() {
        for too_big_trigger_type in ["18", "1811", "20", "2067"] {
            assert!(sqlite_blames_a_row(too_big_trigger_type));
        }
        for busy_full_disk_damaged in ["5", "13", "10", "778", "11", "", "none"] {
            assert!(!sqlite_blames_a_row(busy_full_disk_damaged));
        }
        for data_key_statement_limit in ["22003", "23505", "42703", "54000"] {
            assert!(blames_a_row(data_key_statement_limit));
        }
        for table_right_connection_disk in ["42P01", "42501", "08006", "53100"] {
            assert!(!blames_a_row(table_right_connection_disk));
        }
    }
}
