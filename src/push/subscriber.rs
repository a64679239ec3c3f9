//! One subscriber's queue of events and what happens when it is slower than they come.
//!
//! Owns a queue a subscription, each with its policy, bounded in events, and one bound in bytes for all of them together: half for events that
//! wait, half for those that the task has taken and not written yet. The hub puts events in and never waits; the task that
//! owns the socket takes them out. `latest` keeps one event a topic and lets them go at most `max_hz` times a second;
//! `drop_oldest` keeps the newest and counts what went; `disconnect` ends the connection.

use super::Event;
use crate::config::RawLive;
use crate::telemetry::metric;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tidegate_protocol::Policy;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What was taken out at once.
#[derive(Debug, Default)]
pub struct Taken {
    /// Events to send, in order.
    pub events: Vec<Arc<Event>>,
    /// Subscription id and how many of its events were left out.
    pub dropped: Vec<(u64, u64)>,
    /// A `disconnect` subscription overflowed.
    pub too_slow: bool,
    /// When a held-back `latest` event is due.
    pub next: Option<Instant>,
}

/// Bytes of one connection, told to the count of the whole server once a call.
#[derive(Debug)]
struct Held {
    waiting: usize,
    taken: usize,
    told: usize,
    everyone: Arc<AtomicUsize>,
}

impl Held {
    fn take(&mut self, bytes: usize) {
        self.waiting -= bytes;
        self.taken += bytes;
    }

    fn tell(&mut self) {
        let bytes = self.waiting + self.taken;
        // Wraps where it shrank, and so does the sum.
        let change = bytes.wrapping_sub(std::mem::replace(&mut self.told, bytes));
        self.everyone.fetch_add(change, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.everyone.fetch_sub(self.told, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Listening {
    policy: Policy,
    /// Between two releases; zero is no limit.
    interval: Duration,
    due: Instant,
    /// `latest`: one event a topic.
    latest: HashMap<Arc<str>, Arc<Event>>,
    /// The others, in order.
    queue: VecDeque<Arc<Event>>,
    dropped: u64,
}

#[derive(Debug)]
struct Queues {
    listening: HashMap<u64, Listening>,
    held: Held,
    too_slow: bool,
}

/// What may wait.
#[derive(Debug, Clone, Copy)]
struct Most {
    /// Events of one subscription.
    events: usize,
    /// Bytes of all of them.
    bytes: usize,
}

impl Most {
    /// One event may always wait, whatever it weighs.
    fn has_bytes(self, event: &Event, held: &Held) -> bool {
        held.waiting == 0 || held.waiting + event.weight() <= self.bytes
    }
}

/// See the module.
#[derive(Debug)]
pub struct Subscriber {
    queues: Mutex<Queues>,
    notify: Notify,
    overflow: Notify,
    most: Most,
}

impl Subscriber {
    /// A subscriber whose bytes are counted for `everyone` too.
    pub fn new(config: &RawLive, everyone: Arc<AtomicUsize>) -> Arc<Self> {
        let held = Held {
            waiting: 0,
            taken: 0,
            told: 0,
            everyone,
        };
        Arc::new(Self {
            queues: Mutex::new(Queues {
                listening: HashMap::new(),
                held,
                too_slow: false,
            }),
            notify: Notify::new(),
            overflow: Notify::new(),
            most: Most {
                events: config.outbox,
                bytes: config.outbox_bytes / 2,
            },
        })
    }

    /// Opens a subscription's queue; an id in use is refused.
    pub fn listen(&self, id: u64, policy: Policy, max_hz: Option<f32>) -> bool {
        let interval = match max_hz {
            Some(hz) if policy == Policy::Latest => Duration::from_secs_f64(1.0 / f64::from(hz)),
            _ => Duration::ZERO,
        };
        let mut queues = self.queues.lock();
        if queues.listening.contains_key(&id) {
            return false;
        }
        let listening = Listening {
            policy,
            interval,
            due: Instant::now(),
            latest: HashMap::new(),
            queue: VecDeque::new(),
            dropped: 0,
        };
        queues.listening.insert(id, listening);
        metrics::gauge!(metric::SUBSCRIPTIONS).increment(1.0);
        true
    }

    /// Closes a subscription's queue.
    pub fn forget(&self, id: u64) -> bool {
        let mut queues = self.queues.lock();
        let Some(gone) = queues.listening.remove(&id) else {
            return false;
        };
        queues.held.waiting -= gone.weight();
        queues.held.tell();
        metrics::gauge!(metric::SUBSCRIPTIONS).decrement(1.0);
        true
    }

    /// Open subscriptions.
    pub fn subscriptions(&self) -> usize {
        self.queues.lock().listening.len()
    }

    /// Puts events in a subscription's queue; its policy speaks when there is no room.
    pub fn offer(&self, id: u64, events: &[Arc<Event>]) {
        let mut guard = self.queues.lock();
        let queues = &mut *guard;
        let Some(listening) = queues.listening.get_mut(&id) else {
            return;
        };
        if events.is_empty() || queues.too_slow {
            return;
        }
        let dropped = listening.dropped;
        for event in events {
            queues.too_slow |= listening.put(event, self.most, &mut queues.held);
        }
        if listening.dropped > dropped {
            metrics::counter!(metric::EVENTS_DROPPED).increment(listening.dropped - dropped);
        }
        if queues.too_slow {
            queues.clear();
            self.overflow.notify_one();
        }
        queues.held.tell();
        drop(guard);
        self.notify.notify_one();
    }

    /// Waits until an event was offered.
    pub async fn ready(&self) {
        self.notify.notified().await;
    }

    /// Waits until a `disconnect` subscription overflows.
    pub async fn overflowed(&self) {
        self.overflow.notified().await;
    }

    /// Takes out everything that is due, rising by offset. What was taken before must have been [`sent`](Self::sent).
    pub fn take(&self, now: Instant) -> Taken {
        let mut taken = Taken::default();
        let mut guard = self.queues.lock();
        let queues = &mut *guard;
        taken.too_slow = queues.too_slow;
        for (id, listening) in &mut queues.listening {
            listening.take(*id, now, &mut taken);
        }
        queues.held.take(weigh(&taken.events));
        drop(guard);
        taken.events.sort_by_key(|event| event.offset());
        taken
    }

    /// Counts events that did not come through a queue as taken.
    pub fn carry(&self, events: &[Arc<Event>]) {
        let bytes = weigh(events);
        let held = &mut self.queues.lock().held;
        held.taken += bytes;
        held.tell();
    }

    /// What was taken is written.
    pub fn sent(&self) {
        let held = &mut self.queues.lock().held;
        held.taken = 0;
        held.tell();
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let open = self.queues.get_mut().listening.len();
        metrics::gauge!(metric::SUBSCRIPTIONS).decrement(open as f64);
    }
}

impl Queues {
    /// Nothing of it will be sent: the connection ends.
    fn clear(&mut self) {
        for listening in self.listening.values_mut() {
            self.held.waiting -= listening.weight();
            listening.latest = HashMap::new();
            listening.queue = VecDeque::new();
        }
    }
}

impl Listening {
    /// Whether a `disconnect` subscription had no room.
    fn put(&mut self, event: &Arc<Event>, most: Most, held: &mut Held) -> bool {
        match self.policy {
            Policy::Latest => self.put_latest(event, most, held),
            Policy::DropOldest => self.put_newest(event, most, held),
            Policy::Disconnect if self.has_room(event, most, held) => self.push(event, held),
            Policy::Disconnect => return true,
        }
        false
    }

    /// Replaces the topic's event. Topics are as many as devices: one that finds no room waits for its next event.
    fn put_latest(&mut self, event: &Arc<Event>, most: Most, held: &mut Held) {
        if let Some(newest) = self.latest.get_mut(event.topic()) {
            held.waiting -= newest.weight();
            if most.has_bytes(event, held) {
                held.waiting += event.weight();
                *newest = Arc::clone(event);
                return;
            }
            self.latest.remove(event.topic());
            self.dropped += 1;
        } else if self.has_room(event, most, held) {
            held.waiting += event.weight();
            self.latest
                .insert(Arc::clone(event.topic()), Arc::clone(event));
        } else {
            self.dropped += 1;
        }
    }

    /// Lets its oldest go until there is room; where others hold all of it, the event itself goes.
    fn put_newest(&mut self, event: &Arc<Event>, most: Most, held: &mut Held) {
        while !self.has_room(event, most, held) {
            self.dropped += 1;
            match self.queue.pop_front() {
                Some(oldest) => held.waiting -= oldest.weight(),
                None => return,
            }
        }
        self.push(event, held);
    }

    fn push(&mut self, event: &Arc<Event>, held: &mut Held) {
        held.waiting += event.weight();
        self.queue.push_back(Arc::clone(event));
    }

    fn has_room(&self, event: &Event, most: Most, held: &Held) -> bool {
        self.latest.len() + self.queue.len() < most.events && most.has_bytes(event, held)
    }

    fn weight(&self) -> usize {
        let waiting = self.latest.values().chain(&self.queue);
        waiting.map(|event| event.weight()).sum()
    }

    fn take(&mut self, id: u64, now: Instant, taken: &mut Taken) {
        taken.events.extend(self.queue.drain(..));
        if self.due <= now {
            if !self.latest.is_empty() {
                self.due = now + self.interval;
            }
            taken
                .events
                .extend(self.latest.drain().map(|(_, event)| event));
        } else if !self.latest.is_empty() {
            taken.next = Some(taken.next.map_or(self.due, |next| next.min(self.due)));
        }
        if self.dropped > 0 {
            taken.dropped.push((id, std::mem::take(&mut self.dropped)));
        }
    }
}

fn weigh(events: &[Arc<Event>]) -> usize {
    events.iter().map(|event| event.weight()).sum()
}
