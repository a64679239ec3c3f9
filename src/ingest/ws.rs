//! One device's socket: readings in, predictions, acks, nacks and gaps out.
//!
//! One task owns the socket. Readings that already wait in it are taken together; every reply leaves in one flush. While the store has no
//! room nothing is read and TCP pushes back. Ends with a close code that says whether to come back.

use crate::inference::{Served, ServedEndpoint};
use crate::pipeline::{Arrival, Link, Pipeline, TakeError};
use crate::push::{Closing, Drained, Outbox};
use crate::session::{SessionCell, Wanted};
use crate::socket::{Socket, close, close_frame, frame};
use crate::stream::{StreamKey, reason};
use crate::telemetry::{Door, Stage, metric};
use futures_util::{FutureExt, SinkExt, StreamExt};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tidegate_protocol::message::{ServerError, Welcome};
use tidegate_protocol::{
    CloseCode, Codec, ErrorCode, MAX_BATCH, MAX_FRAME_BYTES, ServerMessage, Wire,
};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};
use tokio_util::sync::CancellationToken;

/// Most frames taken together.
const FRAMES_AT_ONCE: usize = 64;
/// When to come back after an overload, ms.
const RETRY_AFTER_MS: u64 = 2_000;

/// A checked request for a stream.
pub struct StreamRequest {
    /// Its place among all requests: of two for one stream the later one holds it, whichever gets there first.
    pub number: u64,
    /// The endpoint.
    pub endpoint: Arc<ServedEndpoint>,
    /// The stream.
    pub key: StreamKey,
    /// The epoch asked for.
    pub epoch: Option<u64>,
    /// Predictions only after commit.
    pub push_committed: bool,
    /// The version asked for.
    pub pin: Option<Arc<Served>>,
    /// How the device writes.
    pub codec: Codec,
}

/// Why a connection ends.
enum Ending {
    /// The device left.
    Gone,
    /// The server ends it.
    Close(Closing),
}

impl Ending {
    fn close(code: CloseCode, error: ErrorCode, message: impl Into<String>) -> Self {
        let error = ServerError {
            code: error,
            message: message.into(),
            retry_after_ms: None,
        };
        Self::Close(Closing {
            code,
            error: Some(error),
        })
    }

    fn overloaded(message: impl Into<String>) -> Self {
        let error = ServerError {
            code: ErrorCode::Overloaded,
            message: message.into(),
            retry_after_ms: Some(RETRY_AFTER_MS),
        };
        Self::Close(Closing {
            code: CloseCode::Overloaded,
            error: Some(error),
        })
    }
}

impl From<SocketError> for Ending {
    fn from(error: SocketError) -> Self {
        match error {
            SocketError::Capacity(_) => {
                let message = format!("messages are at most {MAX_FRAME_BYTES} bytes");
                Self::close(CloseCode::TooLarge, ErrorCode::TooLarge, message)
            }
            _ => Self::Gone,
        }
    }
}

impl From<TakeError> for Ending {
    fn from(error: TakeError) -> Self {
        let message = error.to_string();
        match error {
            TakeError::TakenOver => {
                Self::close(CloseCode::TakenOver, ErrorCode::TakenOver, message)
            }
            TakeError::Stopping => {
                Self::close(CloseCode::ShuttingDown, ErrorCode::ShuttingDown, message)
            }
            TakeError::Overloaded | TakeError::Full(_) | TakeError::Retired => {
                Self::overloaded(message)
            }
            TakeError::Store(_) => Self::overloaded("the store cannot be read now"),
        }
    }
}

struct Stream {
    socket: Socket,
    codec: Codec,
    endpoint: Arc<ServedEndpoint>,
    /// Epoch of the back-fill; 0 is the live stream.
    import: u64,
    pipeline: Arc<Pipeline>,
    link: Link,
    arrivals: VecDeque<Arrival>,
    replies: Vec<ServerMessage>,
    drained: Drained,
    last_frame: Instant,
}

/// Serves one device until it leaves, is taken over, fails to answer, or the server stops.
pub async fn serve(
    mut socket: Socket,
    request: StreamRequest,
    pipeline: Arc<Pipeline>,
    stop: CancellationToken,
) {
    metrics::gauge!(metric::CONNECTIONS, "kind" => "stream").increment(1.0);
    let codec = request.codec;
    // Boxed: what a connection needs at its beginning and end only would weigh on it while it lives.
    match Box::pin(hold(&request, &pipeline)).await {
        Ok(link) => {
            let endpoint = Arc::clone(&request.endpoint);
            let mut stream = Stream {
                socket,
                codec,
                endpoint,
                import: request.key.import,
                pipeline,
                link,
                arrivals: VecDeque::new(),
                replies: Vec::new(),
                drained: Drained::default(),
                last_frame: Instant::now(),
            };
            let ending = stream.run(&request, &stop).await;
            Box::pin(stream.end(&request.key, ending)).await;
        }
        Err(ending) => Box::pin(say_goodbye(&mut socket, codec, ending)).await,
    }
    metrics::gauge!(metric::CONNECTIONS, "kind" => "stream").decrement(1.0);
}

/// Opens the stream and takes hold of it; an older connection learns that it was taken over.
async fn hold(request: &StreamRequest, pipeline: &Pipeline) -> Result<Link, Ending> {
    let pin = request.pin.as_ref();
    let link = loop {
        let session = pipeline.open(&request.key, pin).await.map_err(|error| {
            tracing::warn!(stream = %request.key, %error, "a stream could not be opened");
            Ending::overloaded("the stream cannot be opened now")
        })?;
        // One that left memory just now is opened again.
        if let Some(link) = take_hold(&session, request, pipeline)? {
            break link;
        }
    };
    if pin.is_none() {
        pipeline.release(&link).await;
    }
    if let Some(pin) = pin {
        let wanted = Wanted::plain(Arc::clone(pin), reason::PINNED);
        pipeline.switch(&link, &wanted).await.map_err(|error| {
            let mut session = link.session.lock();
            if link.generation == Some(session.generation) {
                session.holder = None;
            }
            tracing::warn!(stream = %request.key, %error, "a version could not be put in place");
            Ending::overloaded("the version cannot be put in place now")
        })?;
    }
    pipeline.hub.device_online(&request.key);
    Ok(link)
}

/// The link of the stream's newest holder; `None` when the session has left memory.
fn take_hold(
    session: &Arc<SessionCell>,
    request: &StreamRequest,
    pipeline: &Pipeline,
) -> Result<Option<Link>, Ending> {
    let mut now = session.lock();
    if now.retired {
        return Ok(None);
    }
    if now.generation > request.number {
        return Err(TakeError::TakenOver.into());
    }
    let epoch = request.epoch.unwrap_or(now.marks.epoch);
    let most = pipeline.config().connections.outbox;
    let linger = pipeline.linger.clone();
    let outbox = Outbox::for_peer(Some(epoch), request.push_committed, most, linger);
    now.generation = request.number;
    if let Some(older) = now.holder.replace(Arc::clone(&outbox)) {
        let reason = "a newer connection of this stream took over";
        older.close(CloseCode::TakenOver, Some((ErrorCode::TakenOver, reason)));
    }
    Ok(Some(Link {
        session: Arc::clone(session),
        outbox,
        generation: Some(request.number),
        epoch,
    }))
}

impl Stream {
    async fn run(&mut self, request: &StreamRequest, stop: &CancellationToken) -> Ending {
        let result = async {
            Box::pin(self.welcome(&request.key)).await?;
            self.serve(stop).await
        };
        match result.await {
            Ok(()) => Box::pin(self.finish()).await,
            Err(ending) => ending,
        }
    }

    async fn welcome(&mut self, key: &StreamKey) -> Result<(), Ending> {
        let welcome = {
            let session = self.link.session.lock();
            let committed = session.committed;
            let high = committed
                .high_water
                .filter(|_| committed.epoch == self.link.epoch);
            let connections = &self.pipeline.config().connections;
            Welcome {
                endpoint: key.endpoint.to_string(),
                device: key.device.to_string(),
                epoch: self.link.epoch,
                resume_from: high.map_or(0, |high| high + 1),
                features: self.endpoint.features.clone(),
                model: session.served().reference.model.clone(),
                version: session.served().reference.version.clone(),
                ping_s: u32::try_from(connections.ping.as_secs()).unwrap_or(u32::MAX),
                max_frame_bytes: MAX_FRAME_BYTES as u32,
            }
        };
        self.replies.push(ServerMessage::Welcome(welcome));
        self.flush().await?;
        // A device that only sits there keeps no room for answers.
        self.replies = Vec::new();
        Ok(())
    }

    /// Until the server stops.
    async fn serve(&mut self, stop: &CancellationToken) -> Result<(), Ending> {
        let mut pinged = false;
        let check = tokio::time::sleep(self.ping());
        // Registered once: every connection's registration goes through one lock.
        let stopped = stop.cancelled();
        tokio::pin!(check, stopped);
        loop {
            tokio::select! {
                () = &mut stopped => return Ok(()),
                () = self.link.outbox.ready() => {}
                message = self.socket.next() => {
                    let message = message.ok_or(Ending::Gone)??;
                    self.last_frame = Instant::now();
                    pinged = false;
                    self.take(message).await?;
                }
                () = &mut check => {
                    let next = Box::pin(self.check_alive(&mut pinged)).await?;
                    check.as_mut().reset(next);
                }
            }
            self.flush().await?;
        }
    }

    fn ping(&self) -> Duration {
        self.pipeline.config().connections.ping
    }

    /// Pings a device that was silent for `ping`, closes one silent for `pong` after it; returns when to look again.
    async fn check_alive(&mut self, pinged: &mut bool) -> Result<Instant, Ending> {
        let quiet_until = self.last_frame + self.ping();
        if quiet_until > Instant::now() {
            return Ok(quiet_until);
        }
        if std::mem::replace(pinged, true) {
            return Err(Ending::close(
                CloseCode::NoPong,
                ErrorCode::NoPong,
                "no frame followed the ping",
            ));
        }
        self.socket.send(Message::Ping(Default::default())).await?;
        Ok(Instant::now() + self.pipeline.config().connections.pong)
    }

    /// Takes a frame and all that wait behind it.
    async fn take(&mut self, first: Message) -> Result<(), Ending> {
        let since = std::time::Instant::now();
        let mut ending = self.decode(&first, since).err();
        for _ in 1..FRAMES_AT_ONCE {
            if ending.is_some() || self.arrivals.len() >= MAX_BATCH {
                break;
            }
            // Ready now or not at all: what has not arrived yet is waited for by the loop.
            let Some(next) = self.socket.next().now_or_never() else {
                break;
            };
            ending = match next {
                Some(Ok(message)) => self.decode(&message, since).err(),
                Some(Err(error)) => Some(error.into()),
                None => Some(Ending::Gone),
            };
        }
        // What came before the end of the connection is taken all the same.
        self.pipeline.rates.took(Stage::Decode, since.elapsed());
        self.pipeline.rates.readings(Door::Ws, self.arrivals.len());
        let taken = self
            .pipeline
            .take(&mut self.link, &mut self.arrivals, &mut self.replies)
            .await;
        self.pipeline.rates.predictions(self.replies.len());
        taken?;
        ending.map_or(Ok(()), Err)
    }

    fn decode(&mut self, message: &Message, since: std::time::Instant) -> Result<(), Ending> {
        let bytes = match (message, self.codec) {
            (Message::Text(text), Codec::Json) => text.as_bytes(),
            (Message::Binary(bytes), Codec::Bincode) => bytes,
            (Message::Text(_) | Message::Binary(_), _) => {
                let expected = if self.codec == Codec::Json {
                    "text frames"
                } else {
                    "binary frames"
                };
                let message = format!("{} travels in {expected}", self.codec.subprotocol());
                return Err(Ending::close(
                    CloseCode::WrongFrame,
                    ErrorCode::WrongFrame,
                    message,
                ));
            }
            (Message::Close(_), _) => return Err(Ending::Gone),
            _ => return Ok(()),
        };
        let stream = (&*self.endpoint, self.import);
        super::arrivals_of(stream, self.codec, bytes, since, &mut self.arrivals);
        Ok(())
    }

    /// Sends replies, then what waited for commits, in one flush.
    async fn flush(&mut self) -> Result<(), Ending> {
        self.link.outbox.drain(&mut self.drained);
        let ack = self.drained.ack.take().map(ServerMessage::Ack);
        if self.replies.is_empty()
            && self.drained.messages.is_empty()
            && ack.is_none()
            && self.drained.closing.is_none()
        {
            return Ok(());
        }
        let start = Instant::now();
        self.send(ack).await?;
        self.replies.clear();
        self.link.outbox.pay(&self.drained);
        self.pipeline.rates.took(Stage::Push, start.elapsed());
        match self.drained.closing.take() {
            Some(closing) => Err(Ending::Close(closing)),
            None => Ok(()),
        }
    }

    /// Sends replies, what waited for commits, and `ack`, in one flush.
    async fn send(&mut self, ack: Option<ServerMessage>) -> Result<(), Ending> {
        let (socket, codec) = (&mut self.socket, self.codec);
        let messages = self
            .replies
            .iter()
            .chain(&self.drained.messages)
            .chain(&ack);
        let sending = async {
            for message in messages {
                socket.feed(frame(codec, message.to_bytes(codec))).await?;
            }
            socket.flush().await
        };
        let mut sending = std::pin::pin!(sending);
        // The kernel mostly takes all at once; only where it does not, there is a clock.
        if let Some(sent) = sending.as_mut().now_or_never() {
            return Ok(sent?);
        }
        // A device that does not read is not read from; past the liveness deadline it is gone.
        let connections = &self.pipeline.config().connections;
        let patience = connections.ping + connections.pong;
        match Box::pin(tokio::time::timeout(patience, sending)).await {
            Ok(sent) => Ok(sent?),
            Err(_) => {
                let message = "replies are not read";
                Err(Ending::close(
                    CloseCode::TooSlow,
                    ErrorCode::TooSlow,
                    message,
                ))
            }
        }
    }

    /// The server stops: everything taken is committed and acked before the goodbye, within the deadline.
    async fn finish(&mut self) -> Ending {
        let deadline = Instant::now() + self.pipeline.config().connections.drain;
        // Before the look at what is pending: who settles the last row sees it under the same lock.
        self.link.outbox.finish();
        loop {
            let settled = self.link.session.lock().pending() == 0;
            if let Err(ending) = self.flush().await {
                return ending;
            }
            if settled {
                return Ending::close(
                    CloseCode::ShuttingDown,
                    ErrorCode::ShuttingDown,
                    "the server is stopping: come back",
                );
            }
            if tokio::time::timeout_at(deadline, self.link.outbox.ready())
                .await
                .is_err()
            {
                let pending = self.link.session.lock().pending_readings();
                let left = pending + self.link.outbox.owed();
                self.pipeline.rates.leave_unacked(left);
                let message = "the server is stopping before everything was committed: send what is not acked again";
                return Ending::close(CloseCode::ShuttingDown, ErrorCode::ShuttingDown, message);
            }
        }
    }

    async fn end(mut self, key: &StreamKey, ending: Ending) {
        let still_holds = {
            let mut session = self.link.session.lock();
            let holds = self.link.generation == Some(session.generation);
            if holds {
                session.holder = None;
            }
            holds
        };
        if still_holds {
            self.pipeline.hub.device_offline(key);
        }
        // Predictions of readings already taken go out before the goodbye; one that reads none has had its time.
        if matches!(&ending, Ending::Close(closing) if closing.code != CloseCode::TooSlow) {
            let _ = self.flush().await;
        }
        say_goodbye(&mut self.socket, self.codec, ending).await;
    }
}

async fn say_goodbye(socket: &mut Socket, codec: Codec, ending: Ending) {
    let Ending::Close(Closing { code, error }) = ending else {
        return;
    };
    metrics::counter!(metric::CLOSED, "code" => code.code().to_string()).increment(1);
    if let Some(error) = error {
        // A peer that is gone hears nothing; the close below notices.
        let _ = socket
            .feed(frame(codec, ServerMessage::Error(error).to_bytes(codec)))
            .await;
    }
    close(socket, close_frame(code)).await;
}

/// Answers a request that cannot be served, after the upgrade: browsers cannot read an HTTP status.
pub async fn refuse(
    mut socket: Socket,
    codec: Codec,
    code: CloseCode,
    error: ErrorCode,
    message: String,
) {
    say_goodbye(&mut socket, codec, Ending::close(code, error, message)).await;
}
