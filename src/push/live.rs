//! One subscriber's socket: requests in, events out.
//!
//! One task owns the socket. Events that are due leave in flushes of `FLUSH_FRAMES`; between two flushes of a recovering subscription the
//! others get their turn. What waits for the socket is bounded by `live.outbox_bytes`; the socket itself buffers no more than one write and
//! one frame, because a full one is waited for. A subscriber that takes nothing for `live.stall_s` is closed with 4008, whatever its policy,
//! and so is one whose `disconnect` subscription overflows, though it may be in the middle of a flush.

use super::hub::Joined;
use super::{Event, Hub, Listener, Pattern, RecoverError, Recovery, Subscribed, Subscriber};
use crate::socket::{CLOSE_WAIT, Socket, close_frame, frame};
use crate::telemetry::metric;
use futures_util::{FutureExt, SinkExt, StreamExt};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tidegate_protocol::live::Subscribe;
use tidegate_protocol::message::ServerError;
use tidegate_protocol::{CloseCode, Codec, ErrorCode, LiveMessage, LiveRequest, Policy, Wire};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};
use tokio_util::sync::CancellationToken;

/// Frames of one flush.
const FLUSH_FRAMES: usize = 64;
/// When a subscriber that found the store unreadable may come back.
const RETRY_AFTER_MS: u64 = 1_000;
/// Highest `max_hz`; the lowest is one event in 1,000 s.
const MAX_HZ: f32 = 1_000.0;

/// What a subscriber's task needs.
pub struct LiveContext {
    /// The hub.
    pub hub: Arc<Hub>,
    /// Subscriptions a connection.
    pub max_subscriptions: usize,
    /// Longest that one flush may take.
    pub stall: Duration,
    /// Between pings.
    pub ping: Duration,
    /// From a ping to some frame.
    pub pong: Duration,
    /// The server is stopping.
    pub stop: CancellationToken,
}

struct Live {
    socket: Socket,
    codec: Codec,
    context: LiveContext,
    subscriber: Arc<Subscriber>,
    /// Subscriptions on their way into the flow; they take turns.
    recoveries: VecDeque<Recovery>,
    pulse: Pulse,
    _joined: Joined,
}

/// When the peer was last heard, and what is done about it.
struct Pulse {
    last_frame: Instant,
    pinged: bool,
    check: Instant,
}

/// Serves one subscriber until it leaves, stalls or the server stops.
pub async fn serve(socket: Socket, codec: Codec, context: LiveContext) {
    crate::socket::bound_send_buffer(&socket);
    let hub = Arc::clone(&context.hub);
    let subscriber = hub.subscriber();
    let now = Instant::now();
    let mut live = Live {
        socket,
        codec,
        subscriber: Arc::clone(&subscriber),
        recoveries: VecDeque::new(),
        pulse: Pulse {
            last_frame: now,
            pinged: false,
            check: now + context.ping,
        },
        context,
        _joined: hub.join(),
    };
    let ended = live.run().await;
    // Before the farewell, which may take its time: nothing is put in its queues any more.
    hub.leave(&subscriber);
    if let Err(ending) = ended {
        live.close(ending).await;
    }
}

/// Why a subscriber's socket ends.
enum Ending {
    /// It left.
    Gone,
    /// The server ends it, and says why.
    Close(CloseCode, ErrorCode, String),
}

impl Ending {
    fn because(code: CloseCode, error: ErrorCode) -> Self {
        Self::Close(code, error, code.reason().to_owned())
    }

    fn too_slow() -> Self {
        Self::because(CloseCode::TooSlow, ErrorCode::TooSlow)
    }
}

impl From<SocketError> for Ending {
    fn from(error: SocketError) -> Self {
        match error {
            SocketError::Capacity(_) => Self::because(CloseCode::TooLarge, ErrorCode::TooLarge),
            _ => Self::Gone,
        }
    }
}

impl From<RecoverError> for Ending {
    fn from(error: RecoverError) -> Self {
        metrics::counter!(metric::RECOVERIES, "outcome" => "failed").increment(1);
        tracing::debug!(%error, "a subscription could not be recovered");
        let (code, kind) = match error {
            RecoverError::Late(_) => (CloseCode::TooSlow, ErrorCode::TooSlow),
            _ => (CloseCode::Overloaded, ErrorCode::Overloaded),
        };
        Self::Close(code, kind, error.to_string())
    }
}

impl Live {
    async fn run(&mut self) -> Result<(), Ending> {
        let mut held = None;
        // Both are registered once and not with every event: all connections share their locks.
        let stop = self.context.stop.clone();
        let (stopped, timer) = (stop.cancelled(), tokio::time::sleep_until(self.pulse.check));
        tokio::pin!(stopped, timer);
        loop {
            let due = held.unwrap_or(self.pulse.check).min(self.pulse.check);
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            tokio::select! {
                () = &mut stopped => {
                    return Err(Ending::because(CloseCode::ShuttingDown, ErrorCode::ShuttingDown));
                }
                message = self.socket.next() => self.hear(message.ok_or(Ending::Gone)??).await?,
                () = self.subscriber.ready() => held = self.send_due().await?,
                () = std::future::ready(()), if !self.recoveries.is_empty() => self.recover().await?,
                () = &mut timer => {
                    held = self.send_due().await?;
                    if self.pulse.check <= Instant::now() {
                        self.check_alive().await?;
                    }
                }
            }
        }
    }

    /// Pings a peer that was silent for `ping`, closes one that was silent for `pong` after it.
    async fn check_alive(&mut self) -> Result<(), Ending> {
        // A long flush or read may have kept this task from a frame that has come.
        if let Some(message) = self.socket.next().now_or_never() {
            self.hear(message.ok_or(Ending::Gone)??).await?;
        }
        let quiet_until = self.pulse.last_frame + self.context.ping;
        if quiet_until > Instant::now() {
            self.pulse.check = quiet_until;
            return Ok(());
        }
        if std::mem::replace(&mut self.pulse.pinged, true) {
            return Err(Ending::because(CloseCode::NoPong, ErrorCode::NoPong));
        }
        self.send([Message::Ping(Default::default())]).await?;
        self.pulse.check = Instant::now() + self.context.pong;
        Ok(())
    }

    async fn hear(&mut self, message: Message) -> Result<(), Ending> {
        self.pulse.last_frame = Instant::now();
        self.pulse.pinged = false;
        let bytes = match (&message, self.codec) {
            (Message::Text(text), Codec::Json) => text.as_bytes(),
            (Message::Binary(bytes), Codec::Bincode) => bytes,
            (Message::Text(_) | Message::Binary(_), _) => {
                return Err(Ending::because(
                    CloseCode::WrongFrame,
                    ErrorCode::WrongFrame,
                ));
            }
            (Message::Close(_), _) => return Err(Ending::Gone),
            _ => return Ok(()),
        };
        match LiveRequest::decode(self.codec, bytes) {
            Ok(LiveRequest::Subscribe(wish)) => self.subscribe(wish).await,
            Ok(LiveRequest::Unsubscribe { id }) => self.unsubscribe(id).await,
            Err(error) => self.refuse(ErrorCode::BadRequest, error.to_string()).await,
        }
    }

    async fn subscribe(&mut self, wish: Subscribe) -> Result<(), Ending> {
        let pattern = match check(&wish) {
            Ok(pattern) => pattern,
            Err(reason) => return self.refuse(ErrorCode::BadRequest, reason).await,
        };
        let most = self.context.max_subscriptions;
        if self.subscriber.subscriptions() >= most {
            let reason = format!("at most {most} subscriptions a connection");
            return self.refuse(ErrorCode::Limit, reason).await;
        }
        if !self.subscriber.listen(wish.id, wish.policy, wish.max_hz) {
            let reason = format!("subscription {} stands already", wish.id);
            return self.refuse(ErrorCode::BadRequest, reason).await;
        }
        let listener = Listener {
            id: wish.id,
            subscriber: Arc::clone(&self.subscriber),
            pattern,
        };
        let hub = Arc::clone(&self.context.hub);
        match hub.subscribe(listener, wish.from.as_ref()).await {
            Ok(subscribed) => self.welcome(wish.id, subscribed).await,
            Err(error) => {
                self.subscriber.forget(wish.id);
                tracing::warn!(%error, "a subscription could not be opened");
                let reason = "the store cannot be read now: subscribe again".into();
                self.refuse(ErrorCode::Overloaded, reason).await
            }
        }
    }

    async fn welcome(&mut self, id: u64, subscribed: Subscribed) -> Result<(), Ending> {
        self.recoveries.extend(subscribed.recovery);
        self.say(&LiveMessage::Subscribed {
            id,
            log: self.context.hub.log_id().to_owned(),
            offset: subscribed.offset,
            recovered: subscribed.recovered,
        })
        .await
    }

    async fn unsubscribe(&mut self, id: u64) -> Result<(), Ending> {
        self.recoveries.retain(|recovery| recovery.id() != id);
        self.context.hub.unsubscribe(&self.subscriber, id);
        if self.subscriber.forget(id) {
            return self.say(&LiveMessage::Unsubscribed { id }).await;
        }
        let reason = format!("subscription {id} does not stand");
        self.refuse(ErrorCode::BadRequest, reason).await
    }

    /// Sends the next portion of the subscription whose turn it is.
    async fn recover(&mut self) -> Result<(), Ending> {
        let Some(mut recovery) = self.recoveries.pop_front() else {
            return Ok(());
        };
        let events = self.context.hub.recover(&mut recovery).await?;
        if !recovery.is_done() {
            self.recoveries.push_back(recovery);
        }
        self.subscriber.carry(&events);
        self.send_events(events).await
    }

    async fn send_due(&mut self) -> Result<Option<Instant>, Ending> {
        let taken = self.subscriber.take(Instant::now());
        if taken.too_slow {
            return Err(Ending::too_slow());
        }
        for (id, count) in taken.dropped {
            self.say(&LiveMessage::Dropped { id, count }).await?;
        }
        self.send_events(taken.events).await?;
        Ok(taken.next)
    }

    /// Sends events that count as taken. Each is let go as it is written.
    async fn send_events(&mut self, events: Vec<Arc<Event>>) -> Result<(), Ending> {
        let codec = self.codec;
        let mut frames = events.into_iter().map(|event| event.frame(codec));
        while frames.len() > 0 {
            self.send(frames.by_ref().take(FLUSH_FRAMES)).await?;
        }
        self.subscriber.sent();
        Ok(())
    }

    /// Refuses a request; the connection lives on.
    async fn refuse(&mut self, code: ErrorCode, message: String) -> Result<(), Ending> {
        self.say(&error(code, message)).await
    }

    async fn say(&mut self, message: &LiveMessage) -> Result<(), Ending> {
        self.send([frame(self.codec, message.to_bytes(self.codec))])
            .await
    }

    /// Sends all in one flush, unless the connection must end before.
    async fn send(&mut self, frames: impl IntoIterator<Item = Message>) -> Result<(), Ending> {
        let socket = &mut self.socket;
        let sent = async {
            for frame in frames {
                socket.feed(frame).await?;
            }
            socket.flush().await
        };
        tokio::select! {
            biased;
            sent = sent => Ok(sent?),
            () = self.subscriber.overflowed() => Err(Ending::too_slow()),
            () = self.context.stop.cancelled() => {
                Err(Ending::because(CloseCode::ShuttingDown, ErrorCode::ShuttingDown))
            }
            () = tokio::time::sleep(self.context.stall) => Err(Ending::too_slow()),
        }
    }

    /// Says why and closes; a peer that does not read hears neither, and does not keep this task.
    async fn close(&mut self, ending: Ending) {
        let Ending::Close(code, kind, reason) = ending else {
            return;
        };
        metrics::counter!(metric::CLOSED, "code" => code.code().to_string()).increment(1);
        let why = frame(self.codec, error(kind, reason).to_bytes(self.codec));
        let told = tokio::time::timeout(CLOSE_WAIT, self.socket.feed(why)).await;
        if matches!(told, Ok(Ok(()))) {
            crate::socket::close(&mut self.socket, close_frame(code)).await;
        }
    }
}

fn error(code: ErrorCode, message: String) -> LiveMessage {
    LiveMessage::Error(ServerError {
        code,
        message,
        retry_after_ms: (code == ErrorCode::Overloaded).then_some(RETRY_AFTER_MS),
    })
}

fn check(wish: &Subscribe) -> Result<Pattern, String> {
    if let Some(hz) = wish.max_hz
        && !(1e-3..=MAX_HZ).contains(&hz)
    {
        return Err(format!("max_hz {hz}: expected 0.001 to {MAX_HZ}"));
    }
    if wish.max_hz.is_some() && wish.policy != Policy::Latest {
        return Err("max_hz goes with policy latest only".into());
    }
    Pattern::parse(&wish.topic).map_err(|error| error.to_string())
}
