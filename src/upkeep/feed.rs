//! The committed log for a consumer that must never make the writer wait.
//!
//! The writer's side, [`Feed`], hands samples over or leaves them; the consumer's side, [`Follower`], reads from the store what it did not
//! get. Promises that a follower gets each committed sample once, in order of id.

use crate::store::{SampleQuery, Store, StoreError, StoredSample};
use crate::stream::SampleRow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// Commits that may wait; one more is read from the store.
const BACKLOG: usize = 256;
/// Samples read from the store at once.
const SLICE: u32 = 1_000;

/// Samples of one commit with their ids.
pub type Batch = Vec<(u64, Arc<SampleRow>)>;

/// The writer's side.
#[derive(Debug)]
pub struct Feed {
    queue: mpsc::Sender<Batch>,
    newest: Arc<AtomicU64>,
    lagged: &'static str,
}

impl Feed {
    /// A feed whose newest committed sample is `newest`; what it has no room for is counted by the metric `lagged`.
    pub fn new(newest: u64, lagged: &'static str) -> (Self, mpsc::Receiver<Batch>, Arc<AtomicU64>) {
        let (sender, queue) = mpsc::channel(BACKLOG);
        let newest = Arc::new(AtomicU64::new(newest));
        let feed = Self {
            queue: sender,
            newest: Arc::clone(&newest),
            lagged,
        };
        (feed, queue, newest)
    }

    /// These samples are durable. Never waits.
    pub fn committed(&self, samples: &Batch) {
        let Some((id, _)) = samples.last() else {
            return;
        };
        self.newest.store(*id, Ordering::Release);
        if self.queue.try_send(samples.clone()).is_err() {
            metrics::counter!(self.lagged).increment(1);
        }
    }
}

/// What comes next in the log.
#[derive(Debug)]
pub enum Portion {
    /// As the writer handed it over.
    Committed(Batch),
    /// As it was read back.
    Stored(Vec<StoredSample>),
}

/// The consumer's side.
pub struct Follower {
    store: Arc<dyn Store>,
    queue: mpsc::Receiver<Batch>,
    newest: Arc<AtomicU64>,
    /// Samples up to this id were given.
    taken: u64,
    /// Samples up to this id are to be read from the store.
    missed: u64,
    /// Came while something before it was missing.
    held: Option<Batch>,
}

impl Follower {
    /// Follows from behind `taken`.
    pub fn new(
        store: Arc<dyn Store>,
        taken: u64,
        newest: u64,
        lagged: &'static str,
    ) -> (Feed, Self) {
        let (feed, queue, newest) = Feed::new(newest, lagged);
        let follower = Self {
            store,
            queue,
            missed: newest.load(Ordering::Acquire),
            newest,
            taken,
            held: None,
        };
        (feed, follower)
    }

    /// Samples up to this id were given.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Looks whether the last commits found the queue full; called now and then.
    pub fn look(&mut self) {
        if self.queue.is_empty() && self.held.is_none() {
            self.missed = self.newest.load(Ordering::Acquire);
        }
    }

    /// What comes next; `None` when the writer is gone. May be dropped while it waits.
    ///
    /// # Errors
    /// A store that cannot be read: ask again.
    pub async fn next(&mut self) -> Result<Option<Portion>, StoreError> {
        loop {
            if self.taken < self.missed {
                return self.read().await.map(Some);
            }
            let held = self.held.take();
            let mut batch = match held {
                Some(batch) => batch,
                None => match self.queue.recv().await {
                    Some(batch) => batch,
                    None => return Ok(None),
                },
            };
            let known = self.taken;
            batch.retain(|(id, _)| *id > known);
            match (batch.first(), batch.last()) {
                (Some((first, _)), _) if *first > known + 1 => {
                    self.missed = first - 1;
                    self.held = Some(batch);
                }
                (_, Some((last, _))) => {
                    self.taken = *last;
                    return Ok(Some(Portion::Committed(batch)));
                }
                _ => {}
            }
        }
    }

    async fn read(&mut self) -> Result<Portion, StoreError> {
        let query = SampleQuery {
            cursor: Some(self.taken),
            until: Some(self.missed),
            limit: SLICE,
            live_only: true,
            ..SampleQuery::default()
        };
        let samples = self.store.samples(&query).await?;
        self.taken = samples.last().map_or(self.missed, |sample| sample.id);
        Ok(Portion::Stored(samples))
    }
}
