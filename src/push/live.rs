//! One subscriber's socket: requests in, events out.
//!
//! One task owns the socket. Events that are due leave together in one flush. A subscriber that does not read for `STALL` is closed with
//! 4008, whatever its policy: its queue is bounded, its socket's buffer too.

use super::hub::Joined;
use super::{Event, Hub, Pattern, Subscribed, Subscriber};
use crate::socket::{Socket, close_frame, frame};
use futures_util::{SinkExt, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tidegate_protocol::live::Subscribe;
use tidegate_protocol::message::ServerError;
use tidegate_protocol::{CloseCode, Codec, ErrorCode, LiveMessage, LiveRequest, Policy, Wire};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};
use tokio_util::sync::CancellationToken;

/// Longest that one flush may take.
const STALL: Duration = Duration::from_secs(30);
/// Highest `max_hz`; the lowest is one event in 1,000 s.
const MAX_HZ: f32 = 1_000.0;

/// What a subscriber's task needs.
pub struct LiveContext {
    /// The hub.
    pub hub: Arc<Hub>,
    /// Events that may wait a subscription.
    pub outbox: usize,
    /// Subscriptions a connection.
    pub max_subscriptions: usize,
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
    _joined: Joined,
}

/// Serves one subscriber until it leaves, stalls or the server stops.
pub async fn serve(socket: Socket, codec: Codec, context: LiveContext) {
    let subscriber = Subscriber::new(context.outbox);
    let joined = context.hub.join();
    let hub = Arc::clone(&context.hub);
    let mut live = Live {
        socket,
        codec,
        context,
        subscriber: Arc::clone(&subscriber),
        _joined: joined,
    };
    if let Err(close) = live.run().await {
        live.close(close).await;
    }
    hub.leave(&subscriber);
}

/// Why a subscriber's socket ends.
enum Ending {
    /// It left.
    Gone,
    /// The server ends it.
    Close(CloseCode, Option<ErrorCode>),
}

impl From<SocketError> for Ending {
    fn from(error: SocketError) -> Self {
        match error {
            SocketError::Capacity(_) => Self::Close(CloseCode::TooLarge, Some(ErrorCode::TooLarge)),
            _ => Self::Gone,
        }
    }
}

impl Live {
    async fn run(&mut self) -> Result<(), Ending> {
        let mut held = None;
        let mut last_frame = Instant::now();
        let mut pinged = false;
        let mut check = Instant::now() + self.context.ping;
        loop {
            let due = held.unwrap_or(check).min(check);
            tokio::select! {
                () = self.context.stop.cancelled() => {
                    return Err(Ending::Close(CloseCode::ShuttingDown, Some(ErrorCode::ShuttingDown)));
                }
                message = self.socket.next() => {
                    let message = message.ok_or(Ending::Gone)??;
                    last_frame = Instant::now();
                    pinged = false;
                    self.hear(message).await?;
                }
                () = self.subscriber.ready() => held = self.send_due().await?,
                () = tokio::time::sleep_until(due) => {
                    held = self.send_due().await?;
                    if check <= Instant::now() {
                        check = self.check_alive(last_frame, &mut pinged).await?;
                    }
                }
            }
        }
    }

    /// Pings a peer that was silent for `ping`, closes one that was silent for `pong` after it; returns when to look again.
    async fn check_alive(
        &mut self,
        last_frame: Instant,
        pinged: &mut bool,
    ) -> Result<Instant, Ending> {
        let quiet_until = last_frame + self.context.ping;
        if quiet_until > Instant::now() {
            return Ok(quiet_until);
        }
        if std::mem::replace(pinged, true) {
            return Err(Ending::Close(CloseCode::NoPong, Some(ErrorCode::NoPong)));
        }
        self.send(vec![Message::Ping(Default::default())]).await?;
        Ok(Instant::now() + self.context.pong)
    }

    async fn hear(&mut self, message: Message) -> Result<(), Ending> {
        let bytes = match (&message, self.codec) {
            (Message::Text(text), Codec::Json) => text.as_bytes(),
            (Message::Binary(bytes), Codec::Bincode) => bytes,
            (Message::Text(_) | Message::Binary(_), _) => {
                return Err(Ending::Close(
                    CloseCode::WrongFrame,
                    Some(ErrorCode::WrongFrame),
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
            return self
                .refuse(
                    ErrorCode::Limit,
                    format!("at most {most} subscriptions a connection"),
                )
                .await;
        }
        if !self.subscriber.listen(wish.id, wish.policy, wish.max_hz) {
            return self
                .refuse(
                    ErrorCode::BadRequest,
                    format!("subscription {} stands already", wish.id),
                )
                .await;
        }
        match self
            .context
            .hub
            .subscribe(&self.subscriber, wish.id, &pattern, wish.from.as_ref())
            .await
        {
            Ok(subscribed) => self.welcome(wish.id, subscribed).await,
            Err(error) => {
                self.subscriber.forget(wish.id);
                tracing::warn!(%error, "a subscription could not be opened");
                self.refuse(
                    ErrorCode::Overloaded,
                    "the store cannot be read now: subscribe again".into(),
                )
                .await
            }
        }
    }

    async fn welcome(&mut self, id: u64, subscribed: Subscribed) -> Result<(), Ending> {
        let Subscribed {
            offset,
            recovered,
            first,
        } = subscribed;
        let log = self.context.hub.log_id().to_owned();
        self.say(&LiveMessage::Subscribed {
            id,
            log,
            offset,
            recovered,
        })
        .await?;
        self.send_events(&first).await
    }

    async fn unsubscribe(&mut self, id: u64) -> Result<(), Ending> {
        self.context.hub.unsubscribe(&self.subscriber, id);
        if self.subscriber.forget(id) {
            return self.say(&LiveMessage::Unsubscribed { id }).await;
        }
        self.refuse(
            ErrorCode::BadRequest,
            format!("subscription {id} does not stand"),
        )
        .await
    }

    async fn send_due(&mut self) -> Result<Option<Instant>, Ending> {
        let taken = self.subscriber.take(Instant::now());
        for (id, count) in &taken.dropped {
            metrics::counter!(crate::telemetry::metric::EVENTS_DROPPED).increment(*count);
            self.say(&LiveMessage::Dropped {
                id: *id,
                count: *count,
            })
            .await?;
        }
        self.send_events(&taken.events).await?;
        if taken.too_slow {
            return Err(Ending::Close(CloseCode::TooSlow, Some(ErrorCode::TooSlow)));
        }
        Ok(taken.next)
    }

    async fn send_events(&mut self, events: &[Arc<Event>]) -> Result<(), Ending> {
        let codec = self.codec;
        self.send(events.iter().map(|event| event.frame(codec)).collect())
            .await
    }

    /// Refuses a request; the connection lives on.
    async fn refuse(&mut self, code: ErrorCode, message: String) -> Result<(), Ending> {
        self.say(&LiveMessage::Error(ServerError {
            code,
            message,
            retry_after_ms: None,
        }))
        .await
    }

    async fn say(&mut self, message: &LiveMessage) -> Result<(), Ending> {
        let frame = frame(self.codec, message.to_bytes(self.codec));
        self.send(vec![frame]).await
    }

    /// Sends all in one flush.
    async fn send(&mut self, frames: Vec<Message>) -> Result<(), Ending> {
        let socket = &mut self.socket;
        let sent = tokio::time::timeout(STALL, async move {
            for frame in frames {
                socket.feed(frame).await?;
            }
            socket.flush().await
        });
        match sent.await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(Ending::Close(CloseCode::TooSlow, None)),
        }
    }

    async fn close(&mut self, ending: Ending) {
        let Ending::Close(code, error) = ending else {
            return;
        };
        metrics::counter!(crate::telemetry::metric::CLOSED, "code" => code.code().to_string())
            .increment(1);
        if let Some(error) = error {
            let _ = self.refuse(error, code.reason().to_owned()).await;
        }
        crate::socket::close(&mut self.socket, close_frame(code)).await;
    }
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
