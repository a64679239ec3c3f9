//! Adds the committed log up, by minute and hour.
//!
//! Owns the buckets that are not stored yet (at most [`MAX_BUCKETS`]) and the place up to which they reach. The writer's task hands committed
//! samples over without waiting; what does not fit in the queue, and what a killed server had not stored, is read from the store.
//! Buckets and offset are stored in one transaction, so each sample counts once.

use super::feed::{Batch, Feed};
use crate::store::rollup::{Bucket, Span, time_of, time_of_row};
use crate::store::upkeep::Moves;
use crate::store::{SampleQuery, Store, StoreError, StoredSample};
use crate::telemetry::metric;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

/// The offset's name in the store.
const CONSUMER: &str = "rollups";
/// Buckets kept before they are stored: about 1 MiB, and a transaction of some 20 ms.
const MAX_BUCKETS: usize = 4_096;
/// Longest time that a sample is in memory only.
const STORE_EVERY: Duration = Duration::from_secs(5);
/// Between two tries when the store fails.
const RETRY: Duration = Duration::from_secs(1);
/// Samples read from the store at once.
const SLICE: u32 = 1_000;

/// How far the roll-ups are stored, for whoever must not pass that.
#[derive(Debug, Default)]
pub struct RolledUp {
    until: AtomicU64,
    wanted: Notify,
    moved: Notify,
}

impl RolledUp {
    /// The newest sample whose roll-ups are stored.
    pub fn until(&self) -> u64 {
        self.until.load(Ordering::Acquire)
    }

    /// Asks for what is gathered to be stored at once; whether `sample` is then among it, within `patience`.
    pub async fn reach(&self, sample: u64, patience: Duration) -> bool {
        if self.until() >= sample {
            return true;
        }
        let moved = self.moved.notified();
        self.wanted.notify_one();
        // Late or not: what counts is where it stands.
        let _ = timeout(patience, moved).await;
        self.until() >= sample
    }
}

/// The gathering task.
pub struct Gatherer {
    store: Arc<dyn Store>,
    queue: mpsc::Receiver<Batch>,
    newest: Arc<AtomicU64>,
    buckets: HashMap<(i64, Span, i64), Bucket>,
    /// Samples up to this id are in the buckets or stored.
    taken: u64,
    /// Samples up to its id are stored; retention must not pass it.
    stored: Arc<RolledUp>,
    stored_at: Instant,
}

impl Gatherer {
    /// Goes on where the stored offset is; `newest` is the newest committed sample.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub async fn new(store: Arc<dyn Store>, newest: u64) -> Result<(Feed, Self), StoreError> {
        let taken = store.consumed(CONSUMER).await?;
        let (feed, queue, newest) = Feed::new(newest, metric::ROLLUPS_LAGGED);
        let gatherer = Self {
            store,
            queue,
            newest,
            buckets: HashMap::new(),
            taken,
            stored: Arc::new(RolledUp {
                until: AtomicU64::new(taken),
                ..RolledUp::default()
            }),
            stored_at: Instant::now(),
        };
        Ok((feed, gatherer))
    }

    /// How far the roll-ups are stored.
    pub fn stored(&self) -> Arc<RolledUp> {
        Arc::clone(&self.stored)
    }

    /// Gathers until `stop`; then stores what it has, once.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(STORE_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stored = self.stored();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = stored.wanted.notified() => self.store_all(&stop).await,
                batch = self.queue.recv() => match batch {
                    Some(batch) => self.take(&batch, &stop).await,
                    None => break,
                },
                _ = tick.tick() => self.catch_up(self.newest.load(Ordering::Acquire), &stop).await,
            }
            if self.buckets.len() >= MAX_BUCKETS || self.stored_at.elapsed() >= STORE_EVERY {
                self.store(&stop).await;
            }
        }
        // What this try cannot store is read again at the next start.
        if let Err(error) = self.try_store().await {
            tracing::warn!(%error, "roll-ups were not stored: the next start gathers them again");
        }
    }

    /// Stores what is gathered and what waits to be, ahead of time.
    async fn store_all(&mut self, stop: &CancellationToken) {
        while let Ok(batch) = self.queue.try_recv() {
            self.take(&batch, stop).await;
        }
        self.catch_up(self.newest.load(Ordering::Acquire), stop)
            .await;
        self.store(stop).await;
        self.stored.moved.notify_waiters();
    }

    async fn take(&mut self, batch: &Batch, stop: &CancellationToken) {
        let Some((first, _)) = batch.first() else {
            return;
        };
        if self.taken + 1 < *first {
            self.catch_up(first - 1, stop).await;
        }
        let known = self.taken;
        for (id, row) in batch.iter().filter(|(id, _)| *id > known) {
            let at = time_of_row(row);
            add(&mut self.buckets, row.stream.id, at, |bucket| {
                bucket.add(&row.values, &row.output);
            });
            self.taken = *id;
        }
    }

    /// Takes in, from the store, what the queue did not hold.
    async fn catch_up(&mut self, until: u64, stop: &CancellationToken) {
        while self.taken < until && !stop.is_cancelled() {
            match self.read(until).await {
                Ok(samples) => self.take_stored(&samples, until),
                Err(error) => {
                    tracing::warn!(%error, "roll-ups wait: the store cannot be read");
                    pause(stop).await;
                }
            }
            if self.buckets.len() >= MAX_BUCKETS {
                self.store(stop).await;
            }
        }
    }

    async fn read(&self, until: u64) -> Result<Vec<StoredSample>, StoreError> {
        let query = SampleQuery {
            cursor: Some(self.taken),
            until: Some(until),
            limit: SLICE,
            ..SampleQuery::default()
        };
        self.store.samples(&query).await
    }

    fn take_stored(&mut self, samples: &[StoredSample], until: u64) {
        for sample in samples {
            let at = time_of(sample.ts, sample.received_at, sample.flags);
            add(&mut self.buckets, sample.stream, at, |bucket| {
                bucket.add(&sample.values, &sample.output);
            });
        }
        self.taken = samples.last().map_or(until, |sample| sample.id);
    }

    /// Stores the buckets, however often it takes; the queue fills meanwhile and is made up for from the store.
    async fn store(&mut self, stop: &CancellationToken) {
        while let Err(error) = self.try_store().await {
            if stop.is_cancelled() {
                return;
            }
            tracing::warn!(%error, "roll-ups wait: the store does not take them");
            pause(stop).await;
        }
    }

    async fn try_store(&mut self) -> Result<(), StoreError> {
        let moves = Moves {
            from: self.stored.until(),
            until: self.taken,
        };
        if moves.until > moves.from {
            let buckets: Vec<Bucket> = self.buckets.values().cloned().collect();
            self.store.roll_up(CONSUMER, moves, &buckets).await?;
            self.buckets.clear();
            self.stored.until.store(self.taken, Ordering::Release);
        }
        self.stored_at = Instant::now();
        Ok(())
    }
}

fn add(
    buckets: &mut HashMap<(i64, Span, i64), Bucket>,
    stream: i64,
    at: i64,
    mut change: impl FnMut(&mut Bucket),
) {
    for span in Span::ALL {
        let start = span.start_of(at);
        let bucket = buckets
            .entry((stream, span, start))
            .or_insert_with(|| Bucket::new(stream, span, start));
        change(bucket);
    }
}

async fn pause(stop: &CancellationToken) {
    // Elapsed: the wait is over; otherwise the server stops.
    let _ = timeout(RETRY, stop.cancelled()).await;
}
