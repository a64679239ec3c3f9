//! Who listens to what; the consumer of the committed log.
//!
//! Owns the subscriptions, who is online, and the place in the log up to which events were given out. The writer's task hands committed
//! samples over without waiting; when the hub's queue is full it reads what it missed from the store, so subscribers see
//! every commit once and in order. Without subscriptions to predictions nothing is encoded or copied.

use super::topics::{self, Pattern};
use super::{Event, Subscriber};
use crate::store::{SampleQuery, Store, StoreError, StoredSample};
use crate::stream::{SampleRow, StreamKey, now_ms};
use crate::telemetry::metric;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidegate_protocol::live::{AlertEvent, DeviceEvent, DeviceState, SystemEvent};
use tidegate_protocol::{DeviceId, EndpointName, LiveData, Position, Sample};
use tokio::sync::mpsc;

/// Samples read from the store at once.
const SLICE: u32 = 500;
/// Streams whose newest sample a subscription that cannot recover gets.
const SNAPSHOT_STREAMS: u32 = 2_000;

type Batch = Vec<(u64, Arc<SampleRow>)>;

/// The hub's queue, for its task.
pub struct HubFeed {
    queue: mpsc::Receiver<Batch>,
}

#[derive(Debug)]
struct Subscription {
    id: u64,
    subscriber: Arc<Subscriber>,
}

#[derive(Debug, Default)]
struct Listeners {
    by_pattern: HashMap<Pattern, Vec<Subscription>>,
    /// Events up to here were given out.
    offset: u64,
}

/// See the module.
pub struct Hub {
    store: Arc<dyn Store>,
    feed: mpsc::Sender<Batch>,
    listeners: Mutex<Listeners>,
    online: Mutex<HashMap<StreamKey, i64>>,
    /// The newest committed sample.
    committed: AtomicU64,
    subscribers: AtomicU64,
    max_recover: u32,
}

/// A new subscription: where it begins and what comes before its first event.
#[derive(Debug)]
pub struct Subscribed {
    /// Events after this offset follow.
    pub offset: u64,
    /// Whether everything since the wished position follows.
    pub recovered: bool,
    /// What was missed, or the latest of each topic.
    pub first: Vec<Arc<Event>>,
}

impl Hub {
    /// A hub at the end of the log; `backlog` commits may wait for its task.
    pub fn new(
        store: Arc<dyn Store>,
        offset: u64,
        backlog: usize,
        max_recover: u32,
    ) -> (Arc<Self>, HubFeed) {
        let (feed, queue) = mpsc::channel(backlog);
        let hub = Self {
            store,
            feed,
            listeners: Mutex::new(Listeners {
                by_pattern: HashMap::new(),
                offset,
            }),
            online: Mutex::default(),
            committed: AtomicU64::new(offset),
            subscribers: AtomicU64::new(0),
            max_recover,
        };
        (Arc::new(hub), HubFeed { queue })
    }

    /// The log's id.
    pub fn log_id(&self) -> &str {
        self.store.log_id()
    }

    /// Hands committed samples over. Never waits: what does not fit is read from the store by the task.
    pub fn committed(&self, samples: Batch) {
        let Some(&(last, _)) = samples.last() else {
            return;
        };
        self.committed.store(last, Ordering::Release);
        if self.feed.try_send(samples).is_err() {
            metrics::counter!(metric::HUB_LAGGED).increment(1);
        }
    }

    /// Gives events out until the server stops.
    pub async fn run(self: Arc<Self>, mut feed: HubFeed) {
        while let Some(batch) = feed.queue.recv().await {
            let Some(&(first, _)) = batch.first() else {
                continue;
            };
            let behind = self.listeners.lock().offset;
            if behind + 1 < first {
                self.catch_up(first - 1).await;
            }
            self.give(
                batch.iter().map(|(id, row)| (*id, &row.stream.key)),
                |index| batch[index].1.to_wire(batch[index].0),
            );
            // A commit that found the queue full is the newest one only until the next arrives; do not wait for that.
            if feed.queue.is_empty() {
                let committed = self.committed.load(Ordering::Acquire);
                self.catch_up(committed).await;
            }
        }
    }

    /// Gives out what the queue could not hold, from the store.
    async fn catch_up(&self, until: u64) {
        loop {
            let at = self.listeners.lock().offset;
            if at >= until {
                return;
            }
            if !self.anyone_listens() {
                self.listeners.lock().offset = until;
                return;
            }
            let query = SampleQuery {
                cursor: Some(at),
                until: Some(until),
                limit: SLICE,
                live_only: true,
                ..SampleQuery::default()
            };
            match self.store.samples(&query).await {
                Ok(samples) if samples.is_empty() => self.listeners.lock().offset = until,
                Ok(samples) => self.give_stored(samples),
                Err(error) => {
                    tracing::warn!(%error, "events wait: the store cannot be read");
                    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                }
            }
        }
    }

    fn give_stored(&self, samples: Vec<StoredSample>) {
        let keyed: Vec<_> = samples
            .into_iter()
            .filter_map(|s| Some((s.id, stored_key(&s)?, s.into_wire())))
            .collect();
        self.give(keyed.iter().map(|(id, key, _)| (*id, key)), |index| {
            keyed[index].2.clone()
        });
    }

    /// Gives samples to whoever listens; `wire` makes the event's content only where someone does.
    fn give<'a>(
        &self,
        samples: impl Iterator<Item = (u64, &'a StreamKey)>,
        wire: impl Fn(usize) -> Sample,
    ) {
        let mut listeners = self.listeners.lock();
        for (index, (id, key)) in samples.enumerate() {
            if id <= listeners.offset {
                continue;
            }
            listeners.offset = id;
            if listeners.by_pattern.is_empty() || !key.is_live() {
                continue;
            }
            let patterns = Pattern::of_predictions(key);
            listeners.offer(&patterns, || {
                Event::new(id, topics::predictions(key), LiveData::Sample(wire(index)))
            });
        }
    }

    fn anyone_listens(&self) -> bool {
        !self.listeners.lock().by_pattern.is_empty()
    }

    fn offer_now(&self, patterns: &[Pattern], topic: String, data: LiveData) {
        let mut listeners = self.listeners.lock();
        let offset = listeners.offset;
        listeners.offer(patterns, || Event::new(offset, topic, data));
    }

    /// A device is there.
    pub fn device_online(&self, key: &StreamKey) {
        let at = now_ms();
        if self.online.lock().insert(key.clone(), at).is_none() {
            self.device_event(key, DeviceState::Online, None);
        }
    }

    /// A device is gone.
    pub fn device_offline(&self, key: &StreamKey) {
        if self.online.lock().remove(key).is_some() {
            self.device_event(key, DeviceState::Offline, None);
        }
    }

    /// Whether a device is there.
    pub fn is_online(&self, key: &StreamKey) -> bool {
        self.online.lock().contains_key(key)
    }

    /// Streams whose device is there.
    pub fn online(&self) -> Vec<StreamKey> {
        self.online.lock().keys().cloned().collect()
    }

    /// Devices there now.
    pub fn devices_online(&self) -> u64 {
        self.online.lock().len() as u64
    }

    /// A device skipped readings.
    pub fn device_gap(&self, key: &StreamKey, gap: (u64, u64)) {
        self.device_event(key, DeviceState::Gap, Some(gap));
    }

    fn device_event(&self, key: &StreamKey, state: DeviceState, gap: Option<(u64, u64)>) {
        self.offer_now(
            &Pattern::of_device(key),
            topics::device(key),
            device_data(key, state, now_ms(), gap),
        );
    }

    /// Something a person should know of a stream.
    pub fn alert(&self, key: &StreamKey, alert: &str, message: &str, at: i64) {
        let data = AlertEvent {
            endpoint: key.endpoint.to_string(),
            device: key.device.to_string(),
            alert: alert.to_owned(),
            message: message.to_owned(),
            at,
        };
        self.offer_now(
            &Pattern::of_alerts(key),
            topics::alerts(key),
            LiveData::Alert(data),
        );
    }

    /// The server's rates.
    pub fn system(&self, event: SystemEvent) {
        self.offer_now(&[Pattern::System], "system".into(), LiveData::System(event));
    }

    /// Subscribers connected.
    pub fn subscribers(&self) -> u64 {
        self.subscribers.load(Ordering::Relaxed)
    }

    /// Counts a subscriber in; the guard counts it out.
    pub fn join(self: &Arc<Self>) -> Joined {
        self.subscribers.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!(metric::CONNECTIONS, "kind" => "live").increment(1.0);
        Joined {
            hub: Arc::clone(self),
        }
    }

    /// Opens a subscription of `subscriber`, whose queue `id` is open already.
    ///
    /// # Errors
    /// A store that cannot be read; the subscription does not stand then.
    pub async fn subscribe(
        &self,
        subscriber: &Arc<Subscriber>,
        id: u64,
        pattern: &Pattern,
        from: Option<&Position>,
    ) -> Result<Subscribed, StoreError> {
        let offset = {
            let mut listeners = self.listeners.lock();
            let subscription = Subscription {
                id,
                subscriber: Arc::clone(subscriber),
            };
            listeners
                .by_pattern
                .entry(pattern.clone())
                .or_default()
                .push(subscription);
            listeners.offset
        };
        metrics::gauge!(metric::SUBSCRIPTIONS).increment(1.0);
        let first = self.first_events(pattern, from, offset).await;
        if first.is_err() {
            self.unsubscribe(subscriber, id);
        }
        let (recovered, first) = first?;
        Ok(Subscribed {
            offset,
            recovered,
            first,
        })
    }

    /// Closes a subscription.
    pub fn unsubscribe(&self, subscriber: &Arc<Subscriber>, id: u64) {
        let mut listeners = self.listeners.lock();
        listeners.by_pattern.retain(|_, list| {
            let before = list.len();
            list.retain(|one| one.id != id || !Arc::ptr_eq(&one.subscriber, subscriber));
            metrics::gauge!(metric::SUBSCRIPTIONS).decrement((before - list.len()) as f64);
            !list.is_empty()
        });
    }

    /// Closes all subscriptions of a subscriber that left.
    pub fn leave(&self, subscriber: &Arc<Subscriber>) {
        let mut listeners = self.listeners.lock();
        listeners.by_pattern.retain(|_, list| {
            let before = list.len();
            list.retain(|one| !Arc::ptr_eq(&one.subscriber, subscriber));
            metrics::gauge!(metric::SUBSCRIPTIONS).decrement((before - list.len()) as f64);
            !list.is_empty()
        });
    }

    /// What a subscription gets before its first live event: everything since `from`, or the latest of each topic.
    async fn first_events(
        &self,
        pattern: &Pattern,
        from: Option<&Position>,
        until: u64,
    ) -> Result<(bool, Vec<Arc<Event>>), StoreError> {
        let Some(from) = from else {
            return Ok((true, Vec::new()));
        };
        let Pattern::Predictions(endpoint, device) = pattern else {
            return Ok((false, self.presence(pattern)));
        };
        let (endpoint, device) = (endpoint.clone(), device.clone());
        if from.log == self.log_id() && from.offset <= until {
            let query = SampleQuery {
                endpoint: endpoint.clone(),
                device: device.clone(),
                cursor: Some(from.offset),
                until: Some(until),
                limit: self.max_recover + 1,
                live_only: true,
                ..SampleQuery::default()
            };
            let missed = self.store.samples(&query).await?;
            if missed.len() <= self.max_recover as usize {
                return Ok((true, missed.into_iter().filter_map(stored_event).collect()));
            }
        }
        Ok((false, self.latest(endpoint, device, until).await?))
    }

    /// The newest sample of each stream up to `until`; later ones follow live.
    async fn latest(
        &self,
        endpoint: Option<String>,
        device: Option<String>,
        until: u64,
    ) -> Result<Vec<Arc<Event>>, StoreError> {
        let newest = match device {
            Some(device) => {
                let query = SampleQuery {
                    endpoint,
                    device: Some(device),
                    until: Some(until),
                    live_only: true,
                    newest_first: true,
                    limit: 1,
                    ..SampleQuery::default()
                };
                self.store.samples(&query).await?
            }
            None => {
                let rows = self
                    .store
                    .devices(endpoint.as_deref(), None, SNAPSHOT_STREAMS)
                    .await?;
                let newest = rows.into_iter().filter_map(|row| row.last);
                newest.filter(|sample| sample.id <= until).collect()
            }
        };
        let mut events: Vec<_> = newest.into_iter().filter_map(stored_event).collect();
        events.sort_by_key(|event| event.offset());
        Ok(events)
    }

    /// Who is online, for a subscription to devices.
    fn presence(&self, pattern: &Pattern) -> Vec<Arc<Event>> {
        let Pattern::Devices(wanted) = pattern else {
            return Vec::new();
        };
        let offset = self.listeners.lock().offset;
        let online = self.online.lock();
        let matching = online
            .iter()
            .filter(|(key, _)| wanted.as_deref().is_none_or(|w| w == key.device.as_str()));
        matching
            .map(|(key, at)| {
                let data = device_data(key, DeviceState::Online, *at, None);
                Arc::new(Event::new(offset, topics::device(key), data))
            })
            .collect()
    }
}

impl Listeners {
    /// Makes the event where one of the patterns has a listener, once.
    fn offer(&mut self, patterns: &[Pattern], make: impl FnOnce() -> Event) {
        let mut make = Some(make);
        let mut event = None;
        for pattern in patterns {
            let Some(list) = self.by_pattern.get(pattern) else {
                continue;
            };
            if let Some(make) = make.take() {
                event = Some(Arc::new(make()));
            }
            if let Some(event) = &event {
                metrics::counter!(metric::EVENTS).increment(list.len() as u64);
                list.iter()
                    .for_each(|one| one.subscriber.offer(one.id, event));
            }
        }
    }
}

/// Counts a subscriber out when it is dropped.
pub struct Joined {
    hub: Arc<Hub>,
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.hub.subscribers.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!(metric::CONNECTIONS, "kind" => "live").decrement(1.0);
    }
}

fn device_data(key: &StreamKey, state: DeviceState, at: i64, gap: Option<(u64, u64)>) -> LiveData {
    LiveData::Device(DeviceEvent {
        device: key.device.to_string(),
        endpoint: key.endpoint.to_string(),
        state,
        at,
        gap,
    })
}

fn stored_key(sample: &StoredSample) -> Option<StreamKey> {
    Some(StreamKey::live(
        EndpointName::new(&sample.endpoint).ok()?,
        DeviceId::new(&sample.device).ok()?,
    ))
}

fn stored_event(sample: StoredSample) -> Option<Arc<Event>> {
    let key = stored_key(&sample)?;
    Some(Arc::new(Event::new(
        sample.id,
        topics::predictions(&key),
        LiveData::Sample(sample.into_wire()),
    )))
}
