//! Mosquitto on a free port, and a peer that speaks MQTT 5 as a device does.

use super::{ENDPOINT, within};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tidegate_protocol::{Codec, ServerMessage, Wire};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Messages that a peer keeps before it stops polling.
const INBOX: usize = 20_000;

/// A broker; killed when dropped.
pub struct Broker {
    child: Child,
    port: u16,
    dir: Arc<TempDir>,
}

/// A broker that was stopped: its port and what it keeps.
pub struct Stopped {
    port: u16,
    dir: Arc<TempDir>,
}

/// A port that was free a moment ago: Mosquitto cannot tell which one it was given.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

impl Broker {
    /// Starts a broker on a free port.
    pub async fn start() -> Self {
        Self::start_on(free_port()).await
    }

    /// Starts a broker and waits until it takes connections. It forgets everything when it stops.
    pub async fn start_on(port: u16) -> Self {
        Self::start_keeping(port, "persistence false").await
    }

    /// Starts a broker that keeps sessions and messages over a stop.
    pub async fn start_lasting() -> Self {
        Self::start_keeping(free_port(), "persistence true\nuser root").await
    }

    async fn start_keeping(port: u16, persistence: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let lines = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\n{persistence}\npersistence_location {}/\nmax_inflight_messages 1000\nmax_queued_messages 100000\n",
            dir.path().display()
        );
        std::fs::write(dir.path().join("mosquitto.conf"), lines).expect("its configuration");
        let dir = Arc::new(dir);
        Stopped { port, dir }.start().await
    }

    /// Stops it in order.
    pub async fn stop(mut self) -> Stopped {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status();
        assert!(sent.expect("kill is there").success());
        super::eventually("the broker's end", || {
            let ended = matches!(self.child.try_wait(), Ok(Some(_)));
            async move { ended }
        })
        .await;
        Stopped {
            port: self.port,
            dir: Arc::clone(&self.dir),
        }
    }

    /// What a server is told.
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// A peer that listens to every answer.
    pub async fn peer(&self) -> MqttPeer {
        MqttPeer::connect(self.port).await
    }
}

impl Stopped {
    /// Starts it again, on its port and with what it kept, and waits until it takes connections.
    pub async fn start(self) -> Broker {
        let Self { port, dir } = self;
        let config = dir.path().join("mosquitto.conf");
        let child = Command::new(mosquitto())
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto starts: apt-get install mosquitto");
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        super::eventually("the broker", || async {
            TcpStream::connect(addr).await.is_ok()
        })
        .await;
        Broker { child, port, dir }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Gone already, or killed now; either way it is waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Debian keeps it outside of a plain user's PATH.
fn mosquitto() -> &'static str {
    let sbin = "/usr/sbin/mosquitto";
    if std::path::Path::new(sbin).exists() {
        sbin
    } else {
        "mosquitto"
    }
}

/// A device at the broker, which hears the answers of all devices.
pub struct MqttPeer {
    client: AsyncClient,
    inbox: mpsc::Receiver<Publish>,
    unread: VecDeque<(String, ServerMessage)>,
}

impl MqttPeer {
    async fn connect(port: u16) -> Self {
        let name = format!("peer-{}", free_port());
        let mut options = MqttOptions::new(name, "127.0.0.1", port);
        options.set_keep_alive(Duration::from_secs(30));
        let (client, mut events) = AsyncClient::new(options, INBOX);
        let (sender, inbox) = mpsc::channel(INBOX);
        let (subscribed, done) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let mut subscribed = Some(subscribed);
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        if sender.send(publish).await.is_err() {
                            return;
                        }
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => {
                        subscribed.take().map(|subscribed| subscribed.send(()));
                    }
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
        });
        for kind in ["predictions", "acks", "errors"] {
            client
                .subscribe(format!("tidegate/+/+/{kind}"), QoS::AtLeastOnce)
                .await
                .expect("a subscription");
        }
        within("a subscription", done)
            .await
            .expect("a subscription");
        Self {
            client,
            inbox,
            unread: VecDeque::new(),
        }
    }

    /// Publishes a payload as a device does.
    pub async fn publish(&self, device: &str, codec: Codec, payload: Vec<u8>) {
        self.publish_with(device, codec, payload, Vec::new(), false)
            .await;
    }

    /// Publishes with user properties, retained or not.
    pub async fn publish_with(
        &self,
        device: &str,
        codec: Codec,
        payload: Vec<u8>,
        user_properties: Vec<(String, String)>,
        retain: bool,
    ) {
        let topic = format!("tidegate/{ENDPOINT}/{device}/readings");
        let properties = PublishProperties {
            content_type: Some(codec.content_type().into()),
            user_properties,
            ..PublishProperties::default()
        };
        self.client
            .publish_with_properties(topic, QoS::AtLeastOnce, retain, payload, properties)
            .await
            .expect("room in the client");
    }

    /// Publishes one reading.
    pub async fn read(&self, device: &str, codec: Codec, reading: tidegate_protocol::Reading) {
        let message = tidegate_protocol::DeviceMessage::Reading(reading);
        self.publish(device, codec, message.to_bytes(codec)).await;
    }

    /// The first message on the device's topic of this kind that `pick` takes; the others wait for another call.
    pub async fn expect<T>(
        &mut self,
        device: &str,
        kind: &str,
        pick: impl Fn(&ServerMessage) -> Option<T>,
    ) -> T {
        let wanted = format!("tidegate/{ENDPOINT}/{device}/{kind}");
        let mut looked = 0;
        loop {
            while looked < self.unread.len() {
                let (topic, message) = &self.unread[looked];
                if *topic == wanted
                    && let Some(found) = pick(message)
                {
                    self.unread.remove(looked);
                    return found;
                }
                looked += 1;
            }
            let publish = within(&wanted, self.inbox.recv())
                .await
                .expect("the broker is there");
            let message =
                ServerMessage::decode(Codec::Json, &publish.payload).expect("a message we know");
            let topic = String::from_utf8_lossy(&publish.topic).into_owned();
            self.unread.push_back((topic, message));
        }
    }

    /// The prediction of `seq`.
    pub async fn prediction(
        &mut self,
        device: &str,
        seq: u64,
    ) -> tidegate_protocol::message::Prediction {
        self.expect(device, "predictions", |message| match message {
            ServerMessage::Prediction(prediction) if prediction.seq == seq => {
                Some(prediction.clone())
            }
            _ => None,
        })
        .await
    }

    /// An ack that covers `seq`.
    pub async fn ack(&mut self, device: &str, seq: u64) -> tidegate_protocol::message::Ack {
        self.expect(device, "acks", |message| match message {
            ServerMessage::Ack(ack) if ack.seq >= seq => Some(ack.clone()),
            _ => None,
        })
        .await
    }
}
