//! The consumer of the committed log on behalf of subscribers, and who is online.
//!
//! The task that settles commits hands committed samples over without waiting; when the hub's queue is full it reads what it missed from the store, so
//! the flow has every commit once and in order. Gives a batch out in parts and lets go of its lock between them, so that whoever tells an
//! event of the moment, the settling task among them, never waits for long. How a subscription gets into the flow is in `recover.rs`.

use super::flow::{Batch, Committed, Flow};
use super::{Pattern, Subscriber, topics};
use crate::config::RawLive;
use crate::store::{SampleQuery, Store};
use crate::stream::{StreamKey, now_ms};
use crate::telemetry::metric;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tidegate_protocol::live::{
    AlertChange, AlertEvent, DeviceEvent, DeviceState, ExperimentEvent, SystemEvent,
};
use tidegate_protocol::{EndpointName, LiveData};
use tokio::sync::{Notify, Semaphore, mpsc};

/// Samples read from the store at once.
const SLICE: u32 = 500;
/// Samples given out under one lock.
const PART: usize = 32;
/// Wait before the store is asked again.
const RETRY: Duration = Duration::from_millis(200);
/// Reads of recovering subscriptions at once: fewer than the store has readers, so that a device finds one free.
const RECOVERY_READS: usize = 2;

/// The hub's queue, for its task.
pub struct HubFeed {
    queue: mpsc::Receiver<Batch>,
}

/// See the module.
pub struct Hub {
    pub(super) store: Arc<dyn Store>,
    pub(super) flow: Mutex<Flow>,
    pub(super) config: RawLive,
    /// Endpoints whose streams a `*` stands for.
    pub(super) endpoints: RwLock<Vec<EndpointName>>,
    pub(super) reads: Semaphore,
    pub(super) online: Mutex<BTreeMap<StreamKey, i64>>,
    feed: mpsc::Sender<Batch>,
    /// The newest committed sample.
    committed: AtomicU64,
    /// The newest one that found the queue full.
    missed: AtomicU64,
    wake: Notify,
    subscribers: AtomicU64,
    /// Bytes that wait for subscribers.
    waiting: Arc<AtomicUsize>,
}

impl Hub {
    /// A hub at the end of the log.
    pub fn new(
        store: Arc<dyn Store>,
        offset: u64,
        endpoints: Vec<EndpointName>,
        config: RawLive,
    ) -> (Arc<Self>, HubFeed) {
        let (feed, queue) = mpsc::channel(config.backlog);
        let hub = Self {
            store,
            flow: Mutex::new(Flow::new(offset, config.ring_bytes)),
            config,
            endpoints: RwLock::new(endpoints),
            reads: Semaphore::new(RECOVERY_READS),
            online: Mutex::default(),
            feed,
            committed: AtomicU64::new(offset),
            missed: AtomicU64::new(offset),
            wake: Notify::new(),
            subscribers: AtomicU64::new(0),
            waiting: Arc::default(),
        };
        (Arc::new(hub), HubFeed { queue })
    }

    /// Endpoints that are there from now on.
    pub fn set_endpoints(&self, endpoints: Vec<EndpointName>) {
        *self.endpoints.write() = endpoints;
    }

    /// The log's id.
    pub fn log_id(&self) -> &str {
        self.store.log_id()
    }

    /// The newest committed sample.
    pub(super) fn committed_id(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// Hands committed samples over. Never waits: what does not fit is read from the store by the task.
    pub fn committed(&self, samples: Batch) {
        let Some(&(last, _)) = samples.last() else {
            return;
        };
        self.committed.store(last, Ordering::Release);
        if self.feed.try_send(samples).is_err() {
            metrics::counter!(metric::HUB_LAGGED).increment(1);
            self.missed.store(last, Ordering::Release);
            self.wake.notify_one();
        }
    }

    /// Gives events out until the server stops.
    pub async fn run(self: Arc<Self>, mut feed: HubFeed) {
        loop {
            tokio::select! {
                batch = feed.queue.recv() => match batch {
                    Some(batch) => self.give(batch).await,
                    None => return,
                },
                () = self.wake.notified() => {}
            }
            // A commit that found the queue full is the newest one only until the next arrives; do not wait for that.
            if feed.queue.is_empty() {
                self.catch_up(self.missed.load(Ordering::Acquire)).await;
            }
        }
    }

    async fn give(&self, batch: Batch) {
        let Some(&(first, _)) = batch.first() else {
            return;
        };
        self.catch_up(first - 1).await;
        let batch = Arc::new(batch);
        let gone = self.flow.lock().keep(&batch);
        drop(gone);
        let mut rest = &batch[..];
        loop {
            rest = self.give_part(rest);
            if rest.is_empty() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Gives the first of the rows out, all of them when nobody listens; returns the others.
    fn give_part<'a>(&self, rows: &'a [Committed]) -> &'a [Committed] {
        let mut flow = self.flow.lock();
        let part = if flow.is_heard() { PART } else { rows.len() };
        let (now, later) = rows.split_at(part.min(rows.len()));
        flow.give(now);
        later
    }

    /// Gives out what did not come through the queue, from the store.
    async fn catch_up(&self, until: u64) {
        loop {
            let at = self.flow.lock().offset();
            if at >= until || self.flow.lock().pass_unheard(until) {
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
                Ok(samples) if samples.is_empty() => self.flow.lock().pass(until),
                Ok(samples) => self.flow.lock().give_stored(samples),
                Err(error) => {
                    tracing::warn!(%error, "events wait: the store cannot be read");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    fn tell(&self, patterns: &[Pattern], topic: String, data: LiveData) {
        self.flow.lock().tell(patterns, topic, data);
    }

    /// A device is there. A back-fill says nothing of that.
    pub fn device_online(&self, key: &StreamKey) {
        if !key.is_live() {
            return;
        }
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
        if !key.is_live() {
            return;
        }
        self.tell(
            &Pattern::of_device(key),
            topics::device(key),
            device_data(key, state, now_ms(), gap),
        );
    }

    /// Something a person should know of a stream; a back-fill raises no alert.
    pub fn alert(&self, key: &StreamKey, alert: &str, message: &str, at: i64) {
        if !key.is_live() {
            return;
        }
        let data = AlertEvent {
            endpoint: key.endpoint.to_string(),
            device: key.device.to_string(),
            alert: alert.to_owned(),
            message: message.to_owned(),
            at,
        };
        self.tell(
            &Pattern::of_alerts(key),
            topics::alerts(key),
            LiveData::Alert(data),
        );
    }

    /// What the numbers of an experiment say.
    pub fn experiment(&self, event: ExperimentEvent) {
        let topic = format!("experiments/{}", event.experiment);
        let patterns = Pattern::of_experiment(&event.experiment);
        self.tell(&patterns, topic, LiveData::Experiment(event));
    }

    /// What became of an alert that a rule raised. Without a stream it is about the endpoint, without that about the server.
    pub fn alert_change(&self, stream: Option<&StreamKey>, change: AlertChange) {
        let (patterns, topic) = match (stream, change.endpoint.parse::<EndpointName>()) {
            (Some(key), _) => (Pattern::of_alerts(key).to_vec(), topics::alerts(key)),
            (None, Ok(endpoint)) => (
                Pattern::of_endpoint_alerts(&endpoint).to_vec(),
                format!("alerts/{endpoint}"),
            ),
            (None, Err(_)) => (vec![Pattern::ServerAlerts], "alerts".to_owned()),
        };
        self.tell(&patterns, topic, LiveData::AlertChange(change));
    }

    /// The server's rates.
    pub fn system(&self, event: SystemEvent) {
        self.tell(&[Pattern::System], "system".into(), LiveData::System(event));
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

    /// A subscriber of this hub.
    pub fn subscriber(&self) -> Arc<Subscriber> {
        Subscriber::new(&self.config, Arc::clone(&self.waiting))
    }

    /// Closes a subscription.
    pub fn unsubscribe(&self, subscriber: &Arc<Subscriber>, id: u64) {
        self.flow.lock().leave(subscriber, Some(id));
    }

    /// Closes all subscriptions of a subscriber that left.
    pub fn leave(&self, subscriber: &Arc<Subscriber>) {
        self.flow.lock().leave(subscriber, None);
    }

    /// Sets the gauges of what is held in memory.
    pub fn measure(&self) {
        let waiting = self.waiting.load(Ordering::Relaxed);
        metrics::gauge!(metric::LIVE_WAITING).set(waiting as f64);
        metrics::gauge!(metric::LIVE_RING).set(self.flow.lock().ring_bytes() as f64);
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

pub(super) fn device_data(
    key: &StreamKey,
    state: DeviceState,
    at: i64,
    gap: Option<(u64, u64)>,
) -> LiveData {
    LiveData::Device(DeviceEvent {
        device: key.device.to_string(),
        endpoint: key.endpoint.to_string(),
        state,
        at,
        gap,
    })
}
