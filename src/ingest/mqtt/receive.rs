//! Readings in: the polling task hands publishes over, the taking task brings them to the pipeline in order.

use super::{Door, RETRY, options, pause};
use crate::inference::ServedEndpoint;
use crate::ingest::{self};
use crate::pipeline::{Arrival, Link, LoadSessionError, TakeError};
use crate::push::Outbox;
use crate::session::{Numbers, OpenError};
use crate::stream::StreamKey;
use crate::telemetry::metric;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnAck, Packet, Publish, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, EventLoop};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use tidegate_protocol::message::ServerError;
use tidegate_protocol::{Codec, DeviceId, EndpointName, ErrorCode, ServerMessage, topic};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// Most publishes taken before the shared outboxes are looked at again.
const LINKS_KEPT: usize = 100_000;
/// Wait before a reading is offered again to a store without room.
const RETRY_TAKE: Duration = Duration::from_millis(100);
/// A broker that allows fewer messages in flight slows everyone down.
const LOW_RECEIVE_MAXIMUM: u16 = 100;

/// A publish and the connection it came over.
struct Received {
    publish: Publish,
    generation: u64,
}

pub(super) fn spawn(door: &Arc<Door>, tracker: &TaskTracker) {
    let capacity = usize::from(door.config.receive_maximum);
    // Twice: those of a lost connection may still wait when the broker delivers them again.
    let (sender, receiver) = mpsc::channel(2 * capacity);
    let mut wanted = options(&door.config, "in");
    wanted.set_clean_start(false).set_manual_acks(true);
    let (client, event_loop) = AsyncClient::new(wanted, capacity + 16);
    tracker.spawn(poll(Arc::clone(door), client.clone(), event_loop, sender));
    tracker.spawn(take(Arc::clone(door), client.clone(), receiver));
    tracker.spawn(acknowledge(Arc::clone(door), client));
}

fn filter(door: &Door) -> String {
    match &door.config.share {
        Some(group) => format!("$share/{group}/{}", topic::READINGS_FILTER),
        None => topic::READINGS_FILTER.to_owned(),
    }
}

/// Polls the broker until the server has stopped and everything taken is acknowledged.
async fn poll(
    door: Arc<Door>,
    client: AsyncClient,
    mut event_loop: EventLoop,
    sender: mpsc::Sender<Received>,
) {
    let receiving: fn(&super::MqttStatus) -> &AtomicBool = |status| &status.receiving;
    let mut wait = RETRY.0;
    loop {
        let event = tokio::select! {
            event = event_loop.poll() => event,
            () = door.stop.cancelled(), if door.window.lock().len() == 0 => return,
        };
        match event {
            Ok(Event::Incoming(Packet::ConnAck(connack))) => {
                wait = RETRY.0;
                door.window.lock().reconnected();
                door.status.set(receiving, true);
                connected(&door, &client, &connack);
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => hand_over(&door, publish, &sender),
            Ok(_) => {}
            Err(error) => {
                if door.status.is_connected() || wait == RETRY.0 {
                    let (host, port) = (&door.config.host, door.config.port);
                    tracing::warn!(%error, broker = %format!("{host}:{port}"), "broker not reached: trying again");
                }
                door.status.set(receiving, false);
                // Acknowledgements of what came before must not meet the next connection.
                door.window.lock().reconnected();
                metrics::counter!(metric::MQTT_RECONNECTS).increment(1);
                if door.stop.is_cancelled() {
                    return;
                }
                pause(&mut wait, &door.stop).await;
            }
        }
    }
}

/// Subscribes again: the broker may have lost the session.
fn connected(door: &Door, client: &AsyncClient, connack: &ConnAck) {
    let session = if connack.session_present {
        "kept"
    } else {
        "new"
    };
    tracing::info!(host = %door.config.host, port = door.config.port, session, "broker connected");
    let announced = connack
        .properties
        .as_ref()
        .and_then(|properties| properties.receive_max);
    if let Some(most) = announced.filter(|most| *most < LOW_RECEIVE_MAXIMUM) {
        tracing::warn!(
            receive_maximum = most,
            "the broker takes few messages in flight (Mosquitto's default is 20): raise max_inflight_messages and max_queued_messages"
        );
    }
    if let Err(error) = client.try_subscribe(filter(door), QoS::AtLeastOnce) {
        tracing::error!(%error, "the subscription did not fit the client's queue");
    }
}

/// The queue holds more than the receive maximum, so only unacknowledgeable publishes (QoS 0) can find it full; those are counted.
fn hand_over(door: &Door, publish: Publish, sender: &mpsc::Sender<Received>) {
    if door.stop.is_cancelled() {
        return;
    }
    let generation = door.window.lock().generation();
    if sender
        .try_send(Received {
            publish,
            generation,
        })
        .is_err()
    {
        metrics::counter!(metric::MQTT_DROPPED, "what" => "reading").increment(1);
        tracing::warn!("a publish found the queue full: it stays unacknowledged");
    }
}

/// The streams that this door has spoken for.
struct Streams {
    door: Arc<Door>,
    links: HashMap<StreamKey, (Arc<ServedEndpoint>, Link)>,
}

/// What came of opening a stream.
enum Linked {
    Open,
    /// The store or the memory has no room now: input waits.
    Later,
    /// Its stored state does not fit: other streams must not wait for it.
    Never,
}

/// Brings publishes to the pipeline, one after the other.
async fn take(door: Arc<Door>, client: AsyncClient, mut receiver: mpsc::Receiver<Received>) {
    let mut streams = Streams {
        door: Arc::clone(&door),
        links: HashMap::new(),
    };
    loop {
        let received = tokio::select! {
            received = receiver.recv() => received,
            () = door.stop.cancelled() => return,
        };
        let Some(Received {
            publish,
            generation,
        }) = received
        else {
            return;
        };
        let number = {
            let mut window = door.window.lock();
            metrics::gauge!(metric::MQTT_INFLIGHT).set(window.len() as f64);
            // One of an earlier connection comes again.
            if generation != window.generation() {
                continue;
            }
            window.push(publish.clone(), generation)
        };
        if !streams.take(&publish, number).await {
            door.window.lock().abandon(number);
            return;
        }
        release(&door, &client);
    }
}

impl Streams {
    /// Takes one publish; false when the server is stopping.
    async fn take(&mut self, publish: &Publish, number: u64) -> bool {
        let name = String::from_utf8_lossy(&publish.topic).into_owned();
        let Some((endpoint, device)) = topic::parse_readings(&name).filter(|_| !publish.retain)
        else {
            tracing::debug!(topic = name, retained = publish.retain, "publish ignored");
            self.door.window.lock().done(number);
            return true;
        };
        let Some(served) = self
            .door
            .pipeline
            .engine
            .endpoint(endpoint.as_str())
            .cloned()
        else {
            self.refuse(&endpoint, &device, number);
            return true;
        };
        let mut arrivals = decode(&served, publish);
        self.door.pipeline.rates.readings("mqtt", arrivals.len());
        match arrivals.back_mut() {
            Some(last) => last.receipt = Some(number),
            None => self.door.window.lock().done(number),
        }
        let key = StreamKey::live(endpoint, device);
        self.take_all(&key, &served, &mut arrivals).await
    }

    async fn take_all(
        &mut self,
        key: &StreamKey,
        served: &Arc<ServedEndpoint>,
        arrivals: &mut VecDeque<Arrival>,
    ) -> bool {
        let mut replies = Vec::new();
        while !arrivals.is_empty() {
            if self.door.stop.is_cancelled() {
                return false;
            }
            if !self.links.contains_key(key) {
                match self.link(key, served).await {
                    Linked::Open => {}
                    Linked::Later => tokio::time::sleep(RETRY_TAKE).await,
                    Linked::Never => {
                        let receipts = arrivals.drain(..).filter_map(|arrival| arrival.receipt);
                        receipts.for_each(|number| self.door.window.lock().abandon(number));
                    }
                }
                continue;
            }
            let Some((_, link)) = self.links.get_mut(key) else {
                continue;
            };
            // A stream that another door moved on: readings without an epoch follow it.
            link.epoch = link.epoch.max(link.session.lock().marks.epoch);
            let taken = self.door.pipeline.take(link, arrivals, &mut replies).await;
            self.door.pipeline.rates.predictions(replies.len());
            replies.drain(..).for_each(|reply| link.outbox.say(reply));
            match taken {
                Ok(()) => {}
                Err(TakeError::Stopping) => return false,
                Err(TakeError::Retired | TakeError::TakenOver) => drop(self.links.remove(key)),
                Err(TakeError::Overloaded | TakeError::Full(_) | TakeError::Store(_)) => {
                    tokio::time::sleep(RETRY_TAKE).await;
                }
            }
        }
        true
    }

    /// Opens a stream.
    async fn link(&mut self, key: &StreamKey, served: &Arc<ServedEndpoint>) -> Linked {
        if self.links.len() >= LINKS_KEPT {
            self.links.clear();
        }
        match self.door.pipeline.open(key, &served.default).await {
            Ok(session) => {
                let outbox = Outbox::for_shared(key.clone(), self.door.ready.clone());
                let epoch = session.lock().marks.epoch;
                let link = Link {
                    session,
                    outbox,
                    generation: None,
                    epoch,
                };
                self.door.pipeline.hub.device_online(key);
                self.links.insert(key.clone(), (Arc::clone(served), link));
                Linked::Open
            }
            Err(error @ OpenError::Load(LoadSessionError::Resume(..))) => {
                tracing::error!(stream = %key, %error, "a stream cannot be brought back: its readings stay at the broker");
                Linked::Never
            }
            Err(error) => {
                tracing::warn!(stream = %key, %error, "a stream could not be opened: its readings wait");
                Linked::Later
            }
        }
    }

    /// A reading for an endpoint that is not there belongs to no stream: said and acknowledged.
    fn refuse(&self, endpoint: &EndpointName, device: &DeviceId, number: u64) {
        let key = StreamKey::live(endpoint.clone(), device.clone());
        let outbox = Outbox::for_shared(key, self.door.ready.clone());
        let message = format!("no endpoint {endpoint:?}");
        outbox.say(ServerMessage::Error(ServerError {
            code: ErrorCode::UnknownEndpoint,
            message,
            retry_after_ms: None,
        }));
        outbox.receipt(number);
    }
}

/// The readings of a publish; the payload wins over user properties.
fn decode(served: &ServedEndpoint, publish: &Publish) -> VecDeque<Arrival> {
    let none = PublishProperties::default();
    let properties = publish.properties.as_ref().unwrap_or(&none);
    let codec = properties
        .content_type
        .as_deref()
        .and_then(Codec::from_content_type)
        .unwrap_or_default();
    let mut arrivals = VecDeque::new();
    ingest::arrivals(
        served,
        codec,
        &publish.payload,
        Instant::now(),
        &mut arrivals,
    );
    let property = |name: &str| {
        properties
            .user_properties
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    };
    let number = |name: &str| {
        property(name)?
            .parse::<u64>()
            .ok()
            .filter(|n| *n <= tidegate_protocol::MAX_NUMBER)
    };
    let ts = property("ts").and_then(|ts| ts.parse::<i64>().ok());
    let numbers = Numbers {
        epoch: number("epoch"),
        seq: number("seq"),
    };
    // Numbers in properties name one reading.
    let single = arrivals.len() == 1;
    for arrival in &mut arrivals {
        arrival.numbers.epoch = arrival.numbers.epoch.or(numbers.epoch);
        arrival.numbers.seq = arrival.numbers.seq.or(numbers.seq.filter(|_| single));
        if let (crate::pipeline::Arrived::Reading(reading), Some(ts)) = (&mut arrival.what, ts)
            && single
        {
            ingest::check::set_ts(reading, ts);
        }
    }
    arrivals
}

/// Acknowledges what was committed while no publish came.
async fn acknowledge(door: Arc<Door>, client: AsyncClient) {
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        release(&door, &client);
        if door.stop.is_cancelled() && door.window.lock().len() == 0 {
            return;
        }
    }
}

fn release(door: &Door, client: &AsyncClient) {
    let mut window = door.window.lock();
    while let Some(publish) = window.release() {
        // The client's queue holds more than the receive maximum; it is full only when the broker is gone, and then
        // the broker delivers the publish again.
        if let Err(error) = client.try_ack(&publish) {
            tracing::debug!(%error, "an acknowledgement was not queued");
        }
    }
}
