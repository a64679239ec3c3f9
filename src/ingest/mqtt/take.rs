//! Takes publishes, one after the other, and brings their readings to the pipeline.
//!
//! Owns the streams that this door speaks for: their links and outboxes. There are at most `mqtt.streams` of them, so that the queue of
//! outboxes with something to say has a place for each. A stream is let go of when its session has left memory, or when room is
//! needed, and never while an answer is on its way through its outbox. Without room input waits.

use super::receive::Received;
use super::{Door, publish, reply};
use crate::inference::Picture;
use crate::pipeline::{Arrival, Link, LoadSessionError, Receipt, TakeError};
use crate::push::Outbox;
use crate::session::{OpenError, SessionCell};
use crate::store::StoreError;
use crate::stream::{PublishMark, PublishRef, StreamKey};
use crate::telemetry::{self, Stage, metric};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Publish;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tidegate_protocol::message::ServerError;
use tidegate_protocol::{DeviceId, EndpointName, ErrorCode, ServerMessage, topic};
use tokio::sync::mpsc;

/// Wait before something is offered again to a store or a memory without room.
const RETRY_TAKE: Duration = Duration::from_millis(100);
/// Between two looks for streams whose session has left memory.
const PRUNE: Duration = Duration::from_secs(10);

/// The streams that this door has spoken for.
struct Streams {
    door: Arc<Door>,
    picture: Picture,
    links: HashMap<StreamKey, Link>,
}

/// The server stops: what was not taken stays at the broker.
struct Stopped;

/// What came of opening a stream.
enum Linked {
    Open,
    /// The store or the memory has no room now: input waits.
    Later,
    /// Its stored state does not fit: other streams must not wait for it.
    Never,
}

/// A publish on its way into a stream.
struct Incoming {
    key: StreamKey,
    arrivals: VecDeque<Arrival>,
    /// What its rows are marked with, if they are.
    marked: Option<Arc<PublishRef>>,
    /// The session that took what is gone from `arrivals`.
    taker: Option<Arc<SessionCell>>,
    /// Its number in the window.
    number: u64,
}

impl Incoming {
    /// Whether what was taken of it was lost with an earlier session than `now`.
    fn is_lost(&self, now: &Arc<SessionCell>) -> bool {
        let taker = self.taker.as_ref();
        taker.is_some_and(|taker| !Arc::ptr_eq(taker, now) && has_lost(taker))
    }
}

/// Whether a session left memory with rows that will never be stored: it was stopped.
fn has_lost(session: &SessionCell) -> bool {
    let session = session.lock();
    session.retired && session.marks.pos > session.committed.pos
}

/// Takes what `receiver` hands over until the server stops.
pub(super) async fn run(door: Arc<Door>, mut receiver: mpsc::Receiver<Received>) {
    let mut streams = Streams {
        door: Arc::clone(&door),
        picture: door.pipeline.engines.picture(),
        links: HashMap::new(),
    };
    let mut prune = tokio::time::interval(PRUNE);
    let mut ready = streams.load_receipts().await;
    while ready.is_ok() {
        ready = tokio::select! {
            biased;
            () = door.stopping.stop.cancelled() => Err(Stopped),
            () = door.connected.notified() => streams.renew_session().await,
            received = receiver.recv() => match received {
                Some(received) => streams.take_one(received).await,
                None => Err(Stopped),
            },
            _ = prune.tick() => {
                streams.links.retain(|_, link| !link.session.lock().retired || !link.outbox.is_idle());
                Ok(())
            }
        };
        metrics::gauge!(metric::MQTT_STREAMS).set(streams.links.len() as f64);
    }
}

impl Streams {
    /// What an earlier run remembered.
    async fn load_receipts(&self) -> Result<(), Stopped> {
        let client = Arc::clone(self.door.receipts.lock().client());
        loop {
            match self.door.pipeline.store.receipts(&client).await {
                Ok(stored) => {
                    self.door.receipts.lock().load(stored);
                    return Ok(());
                }
                Err(error) => {
                    tracing::warn!(%error, "readings wait: what the broker may deliver again is not known");
                    self.wait().await?;
                }
            }
        }
    }

    /// Forgets what was remembered of a session that the broker has lost, before anything of the next one is taken.
    async fn renew_session(&self) -> Result<(), Stopped> {
        while self.door.session_lost.load(Ordering::Acquire) {
            // Cleared first: a session that is lost meanwhile sets it again.
            self.door.session_lost.store(false, Ordering::Release);
            let client = Arc::clone(self.door.receipts.lock().client());
            match self.door.pipeline.store.renew_session(&client).await {
                Ok(session) => self.door.receipts.lock().renew(session),
                Err(error) => {
                    self.door.session_lost.store(true, Ordering::Release);
                    tracing::warn!(%error, "readings wait: the broker's new session is not noted");
                    self.wait().await?;
                }
            }
        }
        Ok(())
    }

    /// Pauses; an error when the server stops.
    async fn wait(&self) -> Result<(), Stopped> {
        let stop = self.door.stopping.stop.cancelled();
        match tokio::time::timeout(RETRY_TAKE, stop).await {
            Ok(()) => Err(Stopped),
            Err(_) => Ok(()),
        }
    }

    async fn take_one(&mut self, received: Received) -> Result<(), Stopped> {
        self.renew_session().await?;
        let Received {
            publish,
            generation,
        } = received;
        let number = {
            let mut window = self.door.window.lock();
            // One of an earlier connection comes again.
            if generation != window.generation() {
                return Ok(());
            }
            window.push(publish.clone(), generation)
        };
        let taken = self.take(&publish, number).await;
        // What is over already has no commit to wait for.
        self.door.settle(|window| {
            if taken.is_err() {
                window.abandon(number);
            }
        });
        taken
    }

    async fn take(&mut self, publish: &Publish, number: u64) -> Result<(), Stopped> {
        let name = String::from_utf8_lossy(&publish.topic).into_owned();
        let Some((endpoint, device)) = topic::parse_readings(&name).filter(|_| !publish.retain)
        else {
            tracing::debug!(topic = name, retained = publish.retain, "publish ignored");
            self.door.settle(|window| window.done(number));
            return Ok(());
        };
        let known = self.picture.engine().endpoint(endpoint.as_str());
        let Some(served) = known.cloned() else {
            self.refuse(&endpoint, &device, number);
            return Ok(());
        };
        let pipeline = &self.door.pipeline;
        let begun = Instant::now();
        let arrivals = publish::decode(&served, publish);
        pipeline.rates.took(Stage::Decode, begun.elapsed());
        pipeline
            .rates
            .readings(telemetry::Door::Mqtt, arrivals.len());
        let mut incoming = Incoming {
            key: StreamKey::live(endpoint, device),

            arrivals,
            marked: None,
            taker: None,
            number,
        };
        self.mark(publish, &mut incoming).await?;
        self.take_all(incoming).await
    }

    /// Leaves out what was taken before, and marks the rest so that it is known if it comes again.
    async fn mark(&self, publish: &Publish, incoming: &mut Incoming) -> Result<(), Stopped> {
        let arrivals = &mut incoming.arrivals;
        let total = arrivals.len();
        if publish.qos != QoS::AtMostOnce && !publish::is_numbered(arrivals) {
            let hash = publish::hash(publish);
            let mut opened =
                self.door
                    .receipts
                    .lock()
                    .open(publish.pkid, hash, publish.dup, incoming.number);
            if opened.taker.take_if(|taker| has_lost(taker)).is_some() {
                opened.taken = self.stored(&opened.publish).await?;
            }
            arrivals.drain(..total.min(opened.taken as usize));
            incoming.taker = opened.taker;
            incoming.marked = Some(opened.publish);
        }
        let left = arrivals.len();
        for (index, arrival) in arrivals.iter_mut().enumerate() {
            let taken = u32::try_from(total - left + index + 1).unwrap_or(u32::MAX);
            let mark = incoming.marked.as_ref().map(|publish| PublishMark {
                publish: Arc::clone(publish),
                taken,
            });
            let number = (index + 1 == left).then_some(incoming.number);
            arrival.receipt = Some(Receipt { number, mark });
        }
        Ok(())
    }

    /// How far a publish is stored whose other rows were lost: nothing of it is on its way any more.
    async fn stored(&self, publish: &PublishRef) -> Result<u32, Stopped> {
        loop {
            match self.door.pipeline.store.receipts(&publish.client).await {
                Ok(known) => {
                    let is_it = |mark: &&PublishMark| mark.publish.place == publish.place;
                    let taken = known.marks.iter().find(is_it).map_or(0, |mark| mark.taken);
                    self.door.receipts.lock().stored(publish, taken);
                    return Ok(taken);
                }
                Err(error) => {
                    tracing::warn!(%error, "readings wait: how far a publish is stored is not known");
                    self.wait().await?;
                }
            }
        }
    }

    async fn take_all(&mut self, mut incoming: Incoming) -> Result<(), Stopped> {
        let mut replies = Vec::new();
        let came_again = incoming.arrivals.is_empty();
        if came_again {
            metrics::counter!(metric::MQTT_REDELIVERED).increment(1);
        }
        loop {
            match self.link(&incoming).await {
                Linked::Open => {}
                Linked::Later => {
                    self.wait().await?;
                    continue;
                }
                Linked::Never => return self.pass_over(&incoming),
            }
            let Some(link) = self.links.get_mut(&incoming.key) else {
                continue;
            };
            if incoming.is_lost(&link.session) {
                return self.pass_over(&incoming);
            }
            // A stream that another door moved on: readings without an epoch follow it.
            link.epoch = link.epoch.max(link.session.lock().marks.epoch);
            let pipeline = &self.door.pipeline;
            let before = incoming.arrivals.len();
            let taken = if came_again {
                pipeline.confirm(link, incoming.number)
            } else {
                let stop = self.door.stopping.stop.cancelled();
                tokio::select! {
                    taken = pipeline.take(link, &mut incoming.arrivals, &mut replies) => taken,
                    // Dropped where it waits; what it took is recorded, the rest comes again.
                    () = stop => Err(TakeError::Stopping),
                }
            };
            pipeline.rates.predictions(replies.len());
            replies.drain(..).for_each(|reply| link.outbox.say(reply));
            if incoming.arrivals.len() < before {
                incoming.taker = Some(Arc::clone(&link.session));
                self.remember(&incoming);
            }
            match taken {
                Ok(()) => return Ok(()),
                Err(TakeError::Stopping) => return Err(Stopped),
                // The next round opens it again.
                Err(TakeError::Retired | TakeError::TakenOver) => {}
                Err(TakeError::Store(error @ StoreError::Corrupt(_))) => {
                    tracing::error!(stream = %incoming.key, %error, "a number cannot be looked up: its publish stays at the broker");
                    return self.pass_over(&incoming);
                }
                Err(TakeError::Overloaded | TakeError::Full(_) | TakeError::Store(_)) => {
                    self.wait().await?;
                }
            }
        }
    }

    /// Leaves a publish to the broker, which delivers it again over a new connection.
    fn pass_over(&self, incoming: &Incoming) -> Result<(), Stopped> {
        self.door.settle(|window| window.abandon(incoming.number));
        Ok(())
    }

    /// Notes how far a publish is taken.
    fn remember(&self, incoming: &Incoming) {
        let (Some(publish), Some(taker)) = (&incoming.marked, &incoming.taker) else {
            return;
        };
        let next = incoming
            .arrivals
            .front()
            .and_then(|next| next.receipt.as_ref());
        let taken = match next.and_then(|receipt| receipt.mark.as_ref()) {
            Some(mark) => mark.taken - 1,
            None => u32::MAX,
        };
        self.door.receipts.lock().taken(publish, taken, taker);
    }

    /// Opens the stream, or opens it again under its outbox when its session has left memory.
    async fn link(&mut self, incoming: &Incoming) -> Linked {
        let key = &incoming.key;
        let known = self.links.get(key);
        if known.is_some_and(|link| !link.session.lock().retired) {
            self.door.pipeline.hub.device_online(key);
            return Linked::Open;
        }
        if known.is_none() && !self.make_room() {
            return Linked::Later;
        }
        match self.door.pipeline.open(key, None).await {
            Ok(session) => {
                let epoch = session.lock().marks.epoch;
                let ready = &self.door.ready;
                let most = self.door.pipeline.config().connections.outbox;
                let outbox = match self.links.remove(key) {
                    Some(known) => known.outbox,
                    None => Outbox::for_shared(key.clone(), ready.clone(), most),
                };
                let link = Link {
                    session,
                    outbox,
                    generation: None,
                    epoch,
                };
                self.door.pipeline.hub.device_online(key);
                self.links.insert(key.clone(), link);
                Linked::Open
            }
            Err(
                error @ OpenError::Load(
                    LoadSessionError::Resume(..) | LoadSessionError::Store(StoreError::Corrupt(_)),
                ),
            ) => {
                tracing::error!(stream = %key, %error, "a stream cannot be brought back: its readings stay at the broker");
                Linked::Never
            }
            Err(error) => {
                tracing::warn!(stream = %key, %error, "a stream could not be opened: its readings wait");
                Linked::Later
            }
        }
    }

    /// Whether there is room for one more stream; those with nothing on its way are let go of for it.
    fn make_room(&mut self) -> bool {
        let most = self.door.config.streams;
        if self.links.len() >= most {
            self.links.retain(|_, link| !link.outbox.is_idle());
        }
        self.links.len() < most
    }

    /// A reading for an endpoint that is not there belongs to no stream: said and acknowledged.
    fn refuse(&self, endpoint: &EndpointName, device: &DeviceId, number: u64) {
        let error = ServerMessage::Error(ServerError {
            code: ErrorCode::UnknownEndpoint,
            message: format!("no endpoint {endpoint:?}"),
            retry_after_ms: None,
        });
        reply::try_say(&self.door, endpoint, device, &error);
        self.door.settle(|window| window.done(number));
    }
}
