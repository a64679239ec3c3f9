//! A device's way in: a WebSocket or an MQTT 5 client. Messages out, messages in, and how it ended.
//!
//! A door never comes back by itself; the device opens the next one. Nothing waits longer than [`PATIENCE`].

use super::zoo::ENDPOINT;
use futures_util::{SinkExt, StreamExt};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, PubAckReason, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use std::net::SocketAddr;
use std::time::Duration;
use tidegate_protocol::message::Welcome;
use tidegate_protocol::{Codec, ServerMessage, Wire, topic};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{WebSocketStream, client_async};

/// Longest wait for a handshake, or for room to send.
pub const PATIENCE: Duration = Duration::from_millis(1_500);
/// Messages between the poller of an MQTT client and its device.
const INBOX: usize = 1_024;

/// How a door closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Without a word: cut, refused, too slow an answer.
    Cut,
    /// With this close code.
    Closed(u16),
}

/// See the module.
pub enum Door {
    Ws(Box<WsDoor>),
    Mqtt(Box<MqttDoor>),
}

impl Door {
    /// Sends a message as it was encoded.
    pub async fn send(&mut self, bytes: Vec<u8>) -> Result<(), Ended> {
        match self {
            Self::Ws(door) => door.send(bytes).await,
            Self::Mqtt(door) => door.publish(bytes),
        }
    }

    /// The next message. Cancel-safe.
    pub async fn hear(&mut self) -> Result<ServerMessage, Ended> {
        match self {
            Self::Ws(door) => door.hear().await,
            Self::Mqtt(door) => door.heard.recv().await.unwrap_or(Err(Ended::Cut)),
        }
    }

    /// Says good-bye.
    pub async fn close(self) {
        match self {
            Self::Ws(mut door) => {
                let _ = timeout(PATIENCE, door.socket.close(None)).await;
            }
            Self::Mqtt(door) => {
                let _ = door.client.try_disconnect();
            }
        }
    }
}

/// A WebSocket after its welcome.
pub struct WsDoor {
    socket: WebSocketStream<TcpStream>,
    codec: Codec,
}

impl WsDoor {
    /// Opens a stream and hears the welcome.
    pub async fn open(
        addr: SocketAddr,
        query: &str,
        codec: Codec,
    ) -> Result<(Door, Welcome), Ended> {
        let path = format!("/v1/stream/{ENDPOINT}?{query}");
        let opening = async {
            let socket = upgrade(addr, &path, codec).await?;
            let mut door = Self { socket, codec };
            loop {
                if let ServerMessage::Welcome(welcome) = door.hear().await? {
                    return Ok((Door::Ws(Box::new(door)), welcome));
                }
            }
        };
        timeout(PATIENCE, opening).await.unwrap_or(Err(Ended::Cut))
    }

    async fn send(&mut self, bytes: Vec<u8>) -> Result<(), Ended> {
        let frame = frame(self.codec, bytes);
        match timeout(PATIENCE, self.socket.send(frame)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Ended::Cut),
        }
    }

    async fn hear(&mut self) -> Result<ServerMessage, Ended> {
        hear(&mut self.socket, self.codec).await
    }
}

fn frame(codec: Codec, bytes: Vec<u8>) -> Message {
    match codec {
        Codec::Json => Message::text(String::from_utf8(bytes).expect("JSON is UTF-8")),
        Codec::Bincode => Message::binary(bytes),
    }
}

/// A WebSocket at `path`.
pub async fn upgrade(
    addr: SocketAddr,
    path: &str,
    codec: Codec,
) -> Result<WebSocketStream<TcpStream>, Ended> {
    let mut request = format!("ws://{addr}{path}")
        .into_client_request()
        .expect("an address");
    let offer = HeaderValue::from_static(codec.subprotocol());
    request
        .headers_mut()
        .insert("sec-websocket-protocol", offer);
    let connecting = async {
        let tcp = TcpStream::connect(addr).await.ok()?;
        let _ = tcp.set_nodelay(true);
        client_async(request, tcp).await.ok()
    };
    match timeout(PATIENCE, connecting).await {
        Ok(Some((socket, _))) => Ok(socket),
        _ => Err(Ended::Cut),
    }
}

/// The next message of a socket.
pub async fn hear<M: Wire>(
    socket: &mut WebSocketStream<TcpStream>,
    codec: Codec,
) -> Result<M, Ended> {
    loop {
        match socket.next().await {
            Some(Ok(frame @ (Message::Text(_) | Message::Binary(_)))) => {
                let bytes = frame.into_data();
                return Ok(M::decode(codec, &bytes).expect("a message of this protocol"));
            }
            Some(Ok(Message::Close(Some(close)))) => return Err(Ended::Closed(close.code.into())),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Err(Ended::Cut),
        }
    }
}

/// Sends one request of a subscriber.
pub async fn say(
    socket: &mut WebSocketStream<TcpStream>,
    codec: Codec,
    message: &impl Wire,
) -> Result<(), Ended> {
    let frame = frame(codec, message.to_bytes(codec));
    socket.send(frame).await.map_err(|_| Ended::Cut)
}

/// A device's client at the broker, subscribed to its answers.
pub struct MqttDoor {
    client: AsyncClient,
    topic: String,
    codec: Codec,
    heard: mpsc::Receiver<Result<ServerMessage, Ended>>,
    poller: JoinHandle<()>,
}

impl Drop for MqttDoor {
    fn drop(&mut self) {
        self.poller.abort();
    }
}

impl MqttDoor {
    /// Connects with a clean session and subscribes. `client_id` differs from one door to the next: an old one must not be
    /// cut off by the broker while its device still listens to it.
    pub async fn open(
        addr: SocketAddr,
        device: &str,
        client_id: &str,
        codec: Codec,
    ) -> Result<Door, Ended> {
        let mut options = MqttOptions::new(client_id, addr.ip().to_string(), addr.port());
        options
            .set_keep_alive(Duration::from_secs(30))
            .set_clean_start(true)
            .set_connection_timeout(PATIENCE.as_secs().max(1));
        options.set_max_packet_size(Some(256 * 1024));
        let (client, mut events) = AsyncClient::new(options, INBOX);
        timeout(PATIENCE, subscribed(&client, &mut events, device))
            .await
            .unwrap_or(Err(Ended::Cut))?;
        let (sender, heard) = mpsc::channel(INBOX);
        Ok(Door::Mqtt(Box::new(Self {
            client,
            topic: topic::readings(ENDPOINT, device),
            codec,
            heard,
            poller: tokio::spawn(poll(events, sender)),
        })))
    }

    fn publish(&self, bytes: Vec<u8>) -> Result<(), Ended> {
        let properties = PublishProperties {
            content_type: Some(self.codec.content_type().into()),
            ..PublishProperties::default()
        };
        let topic = self.topic.as_str();
        self.client
            .try_publish_with_properties(topic, QoS::AtLeastOnce, false, bytes, properties)
            .map_err(|_| Ended::Cut)
    }
}

async fn subscribed(
    client: &AsyncClient,
    events: &mut EventLoop,
    device: &str,
) -> Result<(), Ended> {
    let topics = [topic::predictions, topic::acks, topic::errors];
    let filters = topics.map(|topic| Filter::new(topic(ENDPOINT, device), QoS::AtLeastOnce));
    client.try_subscribe_many(filters).map_err(|_| Ended::Cut)?;
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::SubAck(_))) => return Ok(()),
            Ok(_) => {}
            Err(_) => return Err(Ended::Cut),
        }
    }
}

/// Until the connection ends, or a reading finds no server at the broker: it would be lost without a word.
async fn poll(mut events: EventLoop, heard: mpsc::Sender<Result<ServerMessage, Ended>>) {
    loop {
        let message = match events.poll().await {
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let message = ServerMessage::decode(Codec::Json, &publish.payload);
                Ok(message.expect("a message of this protocol"))
            }
            Ok(Event::Incoming(Packet::PubAck(ack)))
                if ack.reason == PubAckReason::NoMatchingSubscribers =>
            {
                Err(Ended::Cut)
            }
            Ok(_) => continue,
            Err(_) => Err(Ended::Cut),
        };
        let is_over = message.is_err();
        if heard.send(message).await.is_err() || is_over {
            return;
        }
    }
}
