//! One subscriber's queue of events and what happens when it is slower than they come.
//!
//! Owns a bounded queue a connection and one policy a subscription. The hub's task puts events in and never waits; the task that owns
//! the socket takes them out. `latest` keeps one event a topic and lets them go at most `max_hz` times a second;
//! `drop_oldest` keeps the newest and counts what went; `disconnect` ends the connection.

use super::Event;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
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

#[derive(Debug)]
struct Listening {
    policy: Policy,
    /// Between two releases; zero is no limit.
    interval: Duration,
    due: Instant,
    /// `latest`: one event a topic.
    latest: HashMap<String, Arc<Event>>,
    /// The others, in order.
    queue: VecDeque<Arc<Event>>,
    dropped: u64,
}

#[derive(Debug, Default)]
struct Queues {
    listening: HashMap<u64, Listening>,
    too_slow: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Subscriber {
    queues: Mutex<Queues>,
    notify: Notify,
    most: usize,
}

impl Subscriber {
    /// A subscriber whose subscriptions may each have `most` events waiting.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            queues: Mutex::default(),
            notify: Notify::new(),
            most,
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
        let due = Instant::now();
        let listening = Listening {
            policy,
            interval,
            due,
            latest: HashMap::new(),
            queue: VecDeque::new(),
            dropped: 0,
        };
        queues.listening.insert(id, listening);
        true
    }

    /// Closes a subscription's queue.
    pub fn forget(&self, id: u64) -> bool {
        self.queues.lock().listening.remove(&id).is_some()
    }

    /// Open subscriptions.
    pub fn subscriptions(&self) -> usize {
        self.queues.lock().listening.len()
    }

    /// Puts an event in a subscription's queue; its policy speaks when there is no room.
    pub fn offer(&self, id: u64, event: &Arc<Event>) {
        let mut queues = self.queues.lock();
        let Some(listening) = queues.listening.get_mut(&id) else {
            return;
        };
        let overflowed = listening.put(event, self.most);
        queues.too_slow |= overflowed;
        drop(queues);
        self.notify.notify_one();
    }

    /// Waits until an event was offered.
    pub async fn ready(&self) {
        self.notify.notified().await;
    }

    /// Takes out everything that is due, rising by offset.
    pub fn take(&self, now: Instant) -> Taken {
        let mut taken = Taken::default();
        let mut queues = self.queues.lock();
        taken.too_slow = queues.too_slow;
        for (id, listening) in &mut queues.listening {
            listening.take(*id, now, &mut taken);
        }
        drop(queues);
        taken.events.sort_by_key(|event| event.offset());
        taken
    }
}

impl Listening {
    /// Whether a `disconnect` subscription had no room.
    fn put(&mut self, event: &Arc<Event>, most: usize) -> bool {
        match self.policy {
            Policy::Latest => {
                // Topics are as many as devices; past the bound a new topic waits for the next release.
                if self.latest.len() >= most && !self.latest.contains_key(event.topic()) {
                    self.dropped += 1;
                } else {
                    self.latest
                        .insert(event.topic().to_owned(), Arc::clone(event));
                }
                false
            }
            Policy::DropOldest => {
                if self.queue.len() >= most {
                    self.queue.pop_front();
                    self.dropped += 1;
                }
                self.queue.push_back(Arc::clone(event));
                false
            }
            Policy::Disconnect => {
                let full = self.queue.len() >= most;
                if !full {
                    self.queue.push_back(Arc::clone(event));
                }
                full
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_protocol::LiveData;
    use tidegate_protocol::live::{DeviceEvent, DeviceState};

    fn event(offset: u64, device: &str) -> Arc<Event> {
        let data = DeviceEvent {
            device: device.into(),
            endpoint: "e".into(),
            state: DeviceState::Online,
            at: 0,
            gap: None,
        };
        Arc::new(Event::new(
            offset,
            format!("devices/{device}"),
            LiveData::Device(data),
        ))
    }

    fn offsets(taken: &Taken) -> Vec<u64> {
        taken.events.iter().map(|event| event.offset()).collect()
    }

    #[test]
    fn latest_keeps_the_newest_of_each_topic() {
        let subscriber = Subscriber::new(16);
        subscriber.listen(1, Policy::Latest, None);
        for (offset, device) in [(1, "a"), (2, "b"), (3, "a")] {
            subscriber.offer(1, &event(offset, device));
        }
        assert_eq!(offsets(&subscriber.take(Instant::now())), [2, 3]);
    }

    #[test]
    fn max_hz_holds_events_back_and_says_until_when() {
        let subscriber = Subscriber::new(16);
        subscriber.listen(1, Policy::Latest, Some(10.0));
        let start = Instant::now() + Duration::from_millis(1);
        subscriber.offer(1, &event(1, "a"));
        assert_eq!(offsets(&subscriber.take(start)), [1]);
        subscriber.offer(1, &event(2, "a"));
        let held = subscriber.take(start + Duration::from_millis(50));
        assert!(held.events.is_empty());
        assert_eq!(held.next, Some(start + Duration::from_millis(100)));
        assert_eq!(
            offsets(&subscriber.take(start + Duration::from_millis(100))),
            [2]
        );
    }

    #[test]
    fn drop_oldest_keeps_the_newest_and_counts_the_rest() {
        let subscriber = Subscriber::new(2);
        subscriber.listen(7, Policy::DropOldest, None);
        for offset in 1..=5 {
            subscriber.offer(7, &event(offset, "a"));
        }
        let taken = subscriber.take(Instant::now());
        assert_eq!(offsets(&taken), [4, 5]);
        assert_eq!(taken.dropped, [(7, 3)]);
    }

    #[test]
    fn disconnect_ends_the_connection_instead_of_leaving_a_hole() {
        let subscriber = Subscriber::new(2);
        subscriber.listen(7, Policy::Disconnect, None);
        for offset in 1..=3 {
            subscriber.offer(7, &event(offset, "a"));
        }
        assert!(subscriber.take(Instant::now()).too_slow);
    }

    #[test]
    fn an_id_is_taken_once() {
        let subscriber = Subscriber::new(2);
        assert!(subscriber.listen(1, Policy::Latest, None));
        assert!(!subscriber.listen(1, Policy::Latest, None));
        assert!(subscriber.forget(1));
        assert!(!subscriber.forget(1));
    }
}
