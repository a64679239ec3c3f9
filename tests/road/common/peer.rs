//! WebSocket peers: a device and a subscriber that keep what they hear until a test asks for it.
//!
//! Predictions, acks and the rest interleave; `expect` takes the first message that fits and keeps the others, `heard` has all in order.

use super::{ENDPOINT, within};
use futures_util::{SinkExt, StreamExt};
use std::collections::VecDeque;
use std::fmt::Debug;
use std::net::SocketAddr;
use tidegate_protocol::live::{Event, Subscribe};
use tidegate_protocol::message::{Ack, Gap, Nack, Prediction, ServerError, Welcome};
use tidegate_protocol::{
    Codec, DeviceMessage, LiveMessage, LiveRequest, NackCode, Policy, Position, Reading,
    ServerMessage, Wire,
};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{WebSocketStream, client_async};

/// One socket and what came over it.
pub struct Peer<M> {
    socket: WebSocketStream<TcpStream>,
    codec: Codec,
    /// Everything heard, in order.
    pub heard: Vec<M>,
    unread: VecDeque<M>,
    closed: Option<u16>,
}

/// A device's side of a stream.
pub struct Device {
    peer: Peer<ServerMessage>,
    /// What the server said first.
    pub welcome: Welcome,
}

/// A subscriber's side of `/v1/live`.
pub struct Subscriber(Peer<LiveMessage>);

impl<M: Wire + Clone + Debug> Peer<M> {
    /// Connects to `path`; `headers` are sent along.
    pub async fn connect(
        addr: SocketAddr,
        path: &str,
        codec: Codec,
        headers: &[(&'static str, &str)],
    ) -> Self {
        let tcp = within("a connection", TcpStream::connect(addr))
            .await
            .expect("a connection");
        Self::over(tcp, path, codec, headers).await
    }

    /// The same over a connection that stands already.
    pub async fn over(
        tcp: TcpStream,
        path: &str,
        codec: Codec,
        headers: &[(&'static str, &str)],
    ) -> Self {
        let addr = tcp.peer_addr().expect("an address");
        let url = format!("ws://{addr}{path}");
        let mut request = url.into_client_request().expect("an address");
        let offer = HeaderValue::from_static(codec.subprotocol());
        request
            .headers_mut()
            .insert("sec-websocket-protocol", offer);
        for (name, value) in headers {
            request
                .headers_mut()
                .insert(*name, value.parse().expect("a header"));
        }
        let (socket, _) = within("an upgrade", client_async(request, tcp))
            .await
            .expect("an upgrade");
        Self {
            socket,
            codec,
            heard: Vec::new(),
            unread: VecDeque::new(),
            closed: None,
        }
    }

    /// Sends a frame as it is; a server that has closed meanwhile is noticed when it is listened to.
    pub async fn send_frame(&mut self, frame: Message) {
        let _ = within("room to send", self.socket.send(frame)).await;
    }

    async fn send_bytes(&mut self, bytes: Vec<u8>) {
        let frame = match self.codec {
            Codec::Json => Message::text(String::from_utf8(bytes).expect("JSON is UTF-8")),
            Codec::Bincode => Message::binary(bytes),
        };
        self.send_frame(frame).await;
    }

    /// Reads the next message into `unread`; false at the end of the connection.
    async fn hear(&mut self, what: &str) -> bool {
        loop {
            match within(what, self.socket.next()).await {
                Some(Ok(Message::Close(frame))) => {
                    self.closed = Some(frame.map_or(1005, |frame| frame.code.into()));
                }
                Some(Ok(frame @ (Message::Text(_) | Message::Binary(_)))) => {
                    assert_eq!(
                        matches!(frame, Message::Text(_)),
                        self.codec == Codec::Json,
                        "frame kind"
                    );
                    let message =
                        M::decode(self.codec, &frame.into_data()).expect("a message we know");
                    self.heard.push(message.clone());
                    self.unread.push_back(message);
                    return true;
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => {
                    self.closed.get_or_insert(1006);
                    return false;
                }
            }
        }
    }

    /// The first message that `pick` takes; the others wait for another call.
    pub async fn expect<T>(&mut self, what: &str, pick: impl Fn(&M) -> Option<T>) -> T {
        let mut looked = 0;
        loop {
            while looked < self.unread.len() {
                if let Some(found) = pick(&self.unread[looked]) {
                    self.unread.remove(looked);
                    return found;
                }
                looked += 1;
            }
            assert!(
                self.hear(what).await,
                "closed {:?} before: {what}; last heard {:?}",
                self.closed,
                self.heard.last()
            );
        }
    }

    /// The close code, after everything before it was heard.
    pub async fn close_code(&mut self) -> u16 {
        while self.hear("a close").await {}
        self.closed.expect("a code")
    }
}

impl Device {
    /// Opens a stream and hears the welcome.
    pub async fn open(addr: SocketAddr, query: &str, codec: Codec) -> Self {
        Self::welcomed(Self::connect(addr, &format!("{ENDPOINT}?{query}"), codec).await).await
    }

    /// The same over a connection that stands already.
    pub async fn open_over(tcp: TcpStream, query: &str, codec: Codec) -> Self {
        let path = format!("/v1/stream/{ENDPOINT}?{query}");
        Self::welcomed(Peer::over(tcp, &path, codec, &[]).await).await
    }

    /// Hears the welcome on a socket that stands already.
    pub async fn welcomed(mut peer: Peer<ServerMessage>) -> Self {
        let welcome = peer
            .expect("welcome", |message| match message {
                ServerMessage::Welcome(welcome) => Some(welcome.clone()),
                _ => None,
            })
            .await;
        Self { peer, welcome }
    }

    /// Only the socket: for streams that are refused. `path` is what follows `/v1/stream/`.
    pub async fn connect(addr: SocketAddr, path: &str, codec: Codec) -> Peer<ServerMessage> {
        Peer::connect(addr, &format!("/v1/stream/{path}"), codec, &[]).await
    }

    /// Sends a message.
    pub async fn send(&mut self, message: &DeviceMessage) {
        let bytes = message.to_bytes(self.peer.codec);
        self.peer.send_bytes(bytes).await;
    }

    /// Sends a reading.
    pub async fn read(&mut self, reading: Reading) {
        self.send(&DeviceMessage::Reading(reading)).await;
    }

    /// Sends a text frame as it is.
    pub async fn say(&mut self, text: &str) {
        self.peer.send_frame(Message::text(text.to_owned())).await;
    }

    /// Sends a binary frame as it is.
    pub async fn say_binary(&mut self, bytes: Vec<u8>) {
        self.peer.send_frame(Message::binary(bytes)).await;
    }

    /// Everything heard, in order.
    pub fn heard(&self) -> &[ServerMessage] {
        &self.peer.heard
    }

    /// The prediction of `seq`.
    pub async fn prediction(&mut self, seq: u64) -> Prediction {
        let what = format!("prediction {seq}");
        self.peer
            .expect(&what, |message| match message {
                ServerMessage::Prediction(prediction) if prediction.seq == seq => {
                    Some(prediction.clone())
                }
                _ => None,
            })
            .await
    }

    /// The next prediction, whatever its number.
    pub async fn any_prediction(&mut self) -> Prediction {
        self.peer
            .expect("a prediction", |message| match message {
                ServerMessage::Prediction(prediction) => Some(prediction.clone()),
                _ => None,
            })
            .await
    }

    /// The next ack.
    pub async fn any_ack(&mut self) -> Ack {
        self.peer.expect("an ack", as_ack).await
    }

    /// An ack that covers `seq`.
    pub async fn ack(&mut self, seq: u64) -> Ack {
        let what = format!("ack {seq}");
        self.peer
            .expect(&what, |message| {
                as_ack(message).filter(|ack| ack.seq >= seq)
            })
            .await
    }

    /// An ack that names `seq` as late.
    pub async fn late_ack(&mut self, seq: u64) -> Ack {
        let what = format!("ack with late {seq}");
        self.peer
            .expect(&what, |message| {
                as_ack(message).filter(|ack| ack.late.contains(&seq))
            })
            .await
    }

    /// The next nack, which must have this number and code.
    pub async fn nack(&mut self, seq: Option<u64>, code: NackCode) -> Nack {
        let nack = self
            .peer
            .expect("a nack", |message| match message {
                ServerMessage::Nack(nack) => Some(nack.clone()),
                _ => None,
            })
            .await;
        assert_eq!((nack.seq, nack.code), (seq, code), "{nack:?}");
        nack
    }

    /// The next gap.
    pub async fn gap(&mut self) -> Gap {
        self.peer
            .expect("a gap", |message| match message {
                ServerMessage::Gap(gap) => Some(gap.clone()),
                _ => None,
            })
            .await
    }

    /// The first message that `pick` takes.
    pub async fn expect<T>(&mut self, what: &str, pick: impl Fn(&ServerMessage) -> Option<T>) -> T {
        self.peer.expect(what, pick).await
    }

    /// The error before the close, and its code.
    pub async fn error_and_close(&mut self) -> (ServerError, u16) {
        error_and_close(&mut self.peer).await
    }

    /// The close code.
    pub async fn close_code(&mut self) -> u16 {
        self.peer.close_code().await
    }

    /// Sends readings `from..to` of `values` in batches and gives their predictions; the last is acked then.
    pub async fn stream(&mut self, values: &[Vec<f32>], from: usize, to: usize) -> Vec<Prediction> {
        let mut predictions = Vec::with_capacity(to - from);
        for first in (from..to).step_by(100) {
            let end = to.min(first + 100);
            self.send(&super::batch(values, first, end)).await;
            for seq in first..end {
                predictions.push(self.prediction(seq as u64).await);
            }
        }
        self.ack(to as u64 - 1).await;
        predictions
    }

    /// Sends one good reading and waits for its ack: the connection lives on.
    pub async fn still_works(&mut self, seq: u64) {
        self.read(super::plain(seq)).await;
        self.prediction(seq).await;
        self.ack(seq).await;
    }
}

fn as_ack(message: &ServerMessage) -> Option<Ack> {
    match message {
        ServerMessage::Ack(ack) => Some(ack.clone()),
        _ => None,
    }
}

/// The error before the close, and its code.
pub async fn error_and_close(peer: &mut Peer<ServerMessage>) -> (ServerError, u16) {
    let error = peer
        .expect("an error", |message| match message {
            ServerMessage::Error(error) => Some(error.clone()),
            _ => None,
        })
        .await;
    (error, peer.close_code().await)
}

/// A wish with the default policy.
pub fn wish(id: u64, topic: &str) -> Subscribe {
    Subscribe {
        id,
        topic: topic.into(),
        from: None,
        policy: Policy::DropOldest,
        max_hz: None,
    }
}

impl Subscriber {
    /// Connects without subscribing.
    pub async fn connect(addr: SocketAddr, codec: Codec) -> Self {
        Self(Peer::connect(addr, "/v1/live", codec, &[]).await)
    }

    /// Sends a request.
    pub async fn send(&mut self, request: &LiveRequest) {
        let bytes = request.to_bytes(self.0.codec);
        self.0.send_bytes(bytes).await;
    }

    /// Sends a text frame as it is.
    pub async fn say(&mut self, text: &str) {
        self.0.send_frame(Message::text(text.to_owned())).await;
    }

    /// Subscribes; where events begin, and whether everything since `from` follows.
    pub async fn subscribe(&mut self, wish: Subscribe) -> (Position, bool) {
        let wanted = wish.id;
        self.send(&LiveRequest::Subscribe(wish)).await;
        self.0
            .expect("subscribed", |message| match message {
                LiveMessage::Subscribed {
                    id,
                    log,
                    offset,
                    recovered,
                } if *id == wanted => {
                    let position = Position {
                        log: log.clone(),
                        offset: *offset,
                    };
                    Some((position, *recovered))
                }
                _ => None,
            })
            .await
    }

    /// The next event.
    pub async fn event(&mut self) -> Event {
        self.expect("an event", |message| match message {
            LiveMessage::Event(event) => Some(event.clone()),
            _ => None,
        })
        .await
    }

    /// The next refusal.
    pub async fn error(&mut self) -> ServerError {
        self.expect("an error", |message| match message {
            LiveMessage::Error(error) => Some(error.clone()),
            _ => None,
        })
        .await
    }

    /// The first message that `pick` takes.
    pub async fn expect<T>(&mut self, what: &str, pick: impl Fn(&LiveMessage) -> Option<T>) -> T {
        self.0.expect(what, pick).await
    }

    /// The close code.
    pub async fn close_code(&mut self) -> u16 {
        self.0.close_code().await
    }
}
