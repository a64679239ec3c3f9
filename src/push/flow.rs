//! The live flow: up to where the committed log was given out, who hears what follows, and the samples given last.
//!
//! All that must change together stands under the hub's one lock here. Pure: no store, no socket, no waiting.
//!
//! The invariant behind "no hole, no repeat": every subscription stands at a place `at`, has got each matching sample up to `at` once and in
//! order, and none beyond. While it recovers it moves `at` itself, over rows that were all committed (a row at or below `offset` never
//! changes). It joins the flow under the lock, and only where `at >= offset`, or with the rows between in its hand. From then on the
//! flow moves its `at` along with `offset`.

use super::ring::Ring;
use super::{Event, Pattern, Subscriber, weight};
use crate::store::StoredSample;
use crate::stream::{SampleRow, StreamKey};
use crate::telemetry::metric;
use std::collections::HashMap;
use std::sync::Arc;
use tidegate_protocol::{DeviceId, EndpointName, LiveData};

/// A committed sample and its id.
pub type Committed = (u64, Arc<SampleRow>);
/// Committed samples in the order of their ids.
pub type Batch = Vec<Committed>;

/// Rows of the ring that are looked at under one lock.
const SCAN_ROWS: usize = 1_024;

/// Who listens, and to what.
#[derive(Debug, Clone)]
pub struct Listener {
    /// The subscription's number at its subscriber.
    pub id: u64,
    /// Whose it is; its queue `id` is open.
    pub subscriber: Arc<Subscriber>,
    /// What it hears.
    pub pattern: Pattern,
}

/// How much may be taken at once.
#[derive(Debug, Clone, Copy)]
pub struct Portion {
    /// Rows.
    pub rows: usize,
    /// Weight of their events; the row that crosses it still comes.
    pub bytes: usize,
}

/// What a recovering subscription gets next.
#[derive(Debug)]
pub enum Next {
    /// These rows, and from now on the live flow.
    Live(Batch),
    /// These rows; then ask again from `at`.
    Part {
        /// In order.
        rows: Batch,
        /// Everything that matches up to here is in `rows`.
        at: u64,
    },
    /// Memory does not reach back so far: read the store up to here, then ask again.
    Read(u64),
}

#[derive(Debug)]
struct Subscription {
    id: u64,
    subscriber: Arc<Subscriber>,
    /// Samples up to here it had when it joined.
    at: u64,
}

#[derive(Debug, Default)]
struct Audience {
    subscriptions: Vec<Subscription>,
    /// Events of the part that is being given out.
    gathered: Vec<Arc<Event>>,
}

/// See the module.
#[derive(Debug)]
pub struct Flow {
    audiences: HashMap<Pattern, Audience>,
    /// Audiences that have something gathered.
    touched: Vec<Pattern>,
    /// Subscriptions to predictions.
    predictions: usize,
    ring: Ring,
    offset: u64,
}

impl Flow {
    /// A flow at the end of the log; the newest `ring_bytes` stay in memory.
    pub fn new(offset: u64, ring_bytes: usize) -> Self {
        Self {
            audiences: HashMap::new(),
            touched: Vec::new(),
            predictions: 0,
            ring: Ring::new(offset, ring_bytes),
            offset,
        }
    }

    /// Samples up to here were given out.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Where the flow stands, and whether memory has everything between `at` and there.
    pub fn reach(&self, at: u64) -> (u64, bool) {
        (self.offset, self.ring.reaches(at))
    }

    /// Whether anyone listens to predictions.
    pub fn is_heard(&self) -> bool {
        self.predictions > 0
    }

    /// Bytes of the samples in memory.
    pub fn ring_bytes(&self) -> usize {
        self.ring.bytes()
    }

    /// Keeps a batch that is about to be given out; returns what had to go, for the caller to drop outside of the lock.
    #[must_use]
    pub fn keep(&mut self, batch: &Arc<Batch>) -> Vec<Arc<Batch>> {
        self.ring.push(batch)
    }

    /// Gives samples to whoever listens; those that were given out are passed over.
    pub fn give(&mut self, rows: &[Committed]) {
        let fresh = &rows[rows.partition_point(|(id, _)| *id <= self.offset)..];
        let Some(&(last, _)) = fresh.last() else {
            return;
        };
        if self.is_heard() {
            for (id, row) in fresh {
                self.gather_sample(&row.stream.key, || Event::committed(*id, row));
            }
            self.hand_out();
        }
        self.offset = last;
    }

    /// Gives samples that did not come through the ring.
    pub fn give_stored(&mut self, samples: Vec<StoredSample>) {
        for sample in samples {
            let id = sample.id;
            if id > self.offset {
                if let Some(key) = stored_key(&sample) {
                    self.gather_sample(&key, || Event::stored(sample));
                }
                self.offset = id;
            }
        }
        self.hand_out();
        self.ring.reset(self.offset);
    }

    /// Up to here there are no more samples.
    pub fn pass(&mut self, offset: u64) {
        self.offset = self.offset.max(offset);
    }

    /// Passes over samples that nobody listens to, without reading them; false when someone does.
    pub fn pass_unheard(&mut self, offset: u64) -> bool {
        let unheard = !self.is_heard();
        if unheard && offset > self.offset {
            self.offset = offset;
            self.ring.reset(offset);
        }
        unheard
    }

    /// Gives an event that is no sample.
    pub fn tell(&mut self, patterns: &[Pattern], topic: String, data: LiveData) {
        let offset = self.offset;
        self.gather(patterns, || Event::new(offset, topic, data));
        self.hand_out();
    }

    fn gather_sample(&mut self, key: &StreamKey, make: impl FnOnce() -> Event) {
        if key.is_live() {
            self.gather(&Pattern::of_predictions(key), make);
        }
    }

    /// Makes the event where one of the patterns has a listener, once.
    fn gather(&mut self, patterns: &[Pattern], make: impl FnOnce() -> Event) {
        let mut make = Some(make);
        let mut event = None;
        for pattern in patterns {
            let Some(audience) = self.audiences.get_mut(pattern) else {
                continue;
            };
            if let Some(make) = make.take() {
                event = Some(Arc::new(make()));
            }
            if audience.gathered.is_empty() {
                self.touched.push(pattern.clone());
            }
            audience.gathered.extend(event.clone());
        }
    }

    fn hand_out(&mut self) {
        for pattern in self.touched.drain(..) {
            let Some(audience) = self.audiences.get_mut(&pattern) else {
                continue;
            };
            let samples = pattern.is_predictions();
            let count = audience.gathered.len() * audience.subscriptions.len();
            metrics::counter!(metric::EVENTS).increment(count as u64);
            for one in &audience.subscriptions {
                let known = audience
                    .gathered
                    .partition_point(|event| samples && event.offset() <= one.at);
                one.subscriber.offer(one.id, &audience.gathered[known..]);
            }
            audience.gathered.clear();
        }
    }

    /// Lets a listener hear the flow from here on; returns where it begins.
    pub fn join(&mut self, listener: &Listener) -> u64 {
        self.seat(listener, self.offset);
        self.offset
    }

    /// What a listener that stands at `at` gets next. Looks at a bounded number of rows.
    pub fn next(&mut self, listener: &Listener, at: u64, portion: Portion) -> Next {
        if at >= self.offset {
            self.seat(listener, at);
            return Next::Live(Vec::new());
        }
        if !self.ring.reaches(at) {
            return Next::Read(self.offset);
        }
        let (rows, reached) = self.scan(&listener.pattern, at, portion);
        if reached < self.offset {
            return Next::Part { rows, at: reached };
        }
        self.seat(listener, reached);
        Next::Live(rows)
    }

    /// Matching rows of the ring after `at`, and how far they reach.
    fn scan(&self, pattern: &Pattern, at: u64, portion: Portion) -> (Batch, u64) {
        let (mut found, mut bytes, mut reached) = (Vec::new(), 0, at);
        let given = self.ring.after(at).take_while(|(id, _)| *id <= self.offset);
        for (looked, (id, row)) in given.enumerate() {
            if looked >= SCAN_ROWS || found.len() >= portion.rows || bytes >= portion.bytes {
                return (found, reached);
            }
            reached = *id;
            if pattern.hears_predictions_of(&row.stream.key) {
                bytes += weight::of_row(row);
                found.push((*id, Arc::clone(row)));
            }
        }
        (found, self.offset)
    }

    fn seat(&mut self, listener: &Listener, at: u64) {
        let audience = self.audiences.entry(listener.pattern.clone()).or_default();
        audience.subscriptions.push(Subscription {
            id: listener.id,
            subscriber: Arc::clone(&listener.subscriber),
            at,
        });
        self.predictions += usize::from(listener.pattern.is_predictions());
    }

    /// Takes one subscription of a subscriber out, or all of them.
    pub fn leave(&mut self, subscriber: &Arc<Subscriber>, id: Option<u64>) {
        let leaves = |one: &Subscription| {
            Arc::ptr_eq(&one.subscriber, subscriber) && id.is_none_or(|id| id == one.id)
        };
        let mut silent = 0;
        self.audiences.retain(|pattern, audience| {
            let before = audience.subscriptions.len();
            audience.subscriptions.retain(|one| !leaves(one));
            let left = before - audience.subscriptions.len();
            silent += left * usize::from(pattern.is_predictions());
            !audience.subscriptions.is_empty()
        });
        self.predictions -= silent;
    }
}

fn stored_key(sample: &StoredSample) -> Option<StreamKey> {
    Some(StreamKey::live(
        EndpointName::new(&sample.endpoint).ok()?,
        DeviceId::new(&sample.device).ok()?,
    ))
}
