//! A device over a real broker against a small fake server; without mosquitto on this machine the test says so and returns.

use crate::client::{Address, ClientError, Outcome, Quiet, Source, Target, stream};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tidegate_protocol::message::{Ack, Gap, Prediction};
use tidegate_protocol::{
    Codec, DeviceMessage, Output, Reading, ServerMessage, Values, Wire, topic,
};
use tokio_util::sync::CancellationToken;

struct Broker {
    process: Child,
    port: u16,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Broker {
    /// A mosquitto on a free port, up when this returns.
    async fn start() -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let started = ["mosquitto", "/usr/sbin/mosquitto"]
            .into_iter()
            .find_map(|program| {
                let mut command = Command::new(program);
                command
                    .args(["-p", &port.to_string()])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null());
                command.spawn().ok()
            });
        let Some(process) = started else {
            eprintln!("mosquitto is not installed: the device's MQTT side is not tried");
            return None;
        };
        let broker = Self { process, port };
        let deadline = Instant::now() + Duration::from_secs(10);
        while tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_err()
        {
            assert!(Instant::now() < deadline, "the broker does not come up");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some(broker)
    }

    fn target(&self, codec: Codec) -> Target {
        let address = Address::broker(&format!("mqtt://127.0.0.1:{}", self.port)).unwrap();
        let mut target = Target::new(
            address,
            "pump-health".parse().unwrap(),
            "rig-1".parse().unwrap(),
        );
        target.codec = codec;
        target.options.answer_timeout = Duration::from_millis(500);
        target
    }

    /// Serves `rig-1` until dropped; the first time it sees each reading of `lost` it does not.
    async fn serve(&self, mut lost: Vec<u64>) -> tokio::task::JoinHandle<()> {
        let options = MqttOptions::new("server", "127.0.0.1", self.port);
        let (client, mut events) = AsyncClient::new(options, 1_024);
        client
            .try_subscribe(topic::READINGS_FILTER, QoS::AtLeastOnce)
            .unwrap();
        while !matches!(
            events.poll().await.unwrap(),
            Event::Incoming(Packet::SubAck(_))
        ) {}
        tokio::spawn(async move {
            let mut server = Server::default();
            while let Ok(event) = events.poll().await {
                let Event::Incoming(Packet::Publish(publish)) = event else {
                    continue;
                };
                let content_type = publish.properties.and_then(|p| p.content_type).unwrap();
                let codec = Codec::from_content_type(&content_type).unwrap();
                let DeviceMessage::Reading(reading) =
                    DeviceMessage::decode(codec, &publish.payload).unwrap()
                else {
                    panic!("the client sends readings");
                };
                if let Some(at) = lost.iter().position(|seq| Some(*seq) == reading.seq) {
                    lost.remove(at);
                    continue;
                }
                for (topic, message) in server.take(&reading) {
                    say(&client, codec, topic, &message);
                }
            }
        })
    }
}

fn say(client: &AsyncClient, codec: Codec, topic: String, message: &ServerMessage) {
    let properties = PublishProperties {
        content_type: Some(codec.content_type().into()),
        ..PublishProperties::default()
    };
    let payload = message.to_bytes(codec);
    client
        .try_publish_with_properties(topic, QoS::AtLeastOnce, false, payload, properties)
        .unwrap();
}

/// Keeps what it took; true marks a late one.
#[derive(Default)]
struct Server(BTreeMap<u64, bool>);

impl Server {
    fn take(&mut self, reading: &Reading) -> Vec<(String, ServerMessage)> {
        assert_eq!(reading.epoch, Some(7));
        let (epoch, seq) = (reading.epoch, reading.seq.unwrap());
        let predictions = topic::predictions("pump-health", "rig-1");
        let acks = topic::acks("pump-health", "rig-1");
        let high = self.0.last_key_value().map(|(high, _)| *high);
        let mut answers = Vec::new();
        if let Some(high) = high.filter(|high| seq > high + 1) {
            let gap = Gap {
                epoch,
                from: high + 1,
                to: seq - 1,
            };
            answers.push((acks.clone(), ServerMessage::Gap(gap)));
        }
        let late = *self
            .0
            .entry(seq)
            .or_insert(high.is_some_and(|high| seq < high));
        let prediction = Prediction {
            epoch,
            seq,
            ts: 0,
            model: "m".into(),
            version: "1.0.0".into(),
            output: if late {
                Output::Skipped("late".into())
            } else {
                Output::Calibrating { seen: 1, needed: 2 }
            },
            latency_us: 1,
        };
        let ack = Ack {
            epoch,
            seq: high.unwrap_or(0).max(seq),
            late: late.then_some(seq).into_iter().collect(),
        };
        answers.push((predictions, ServerMessage::Prediction(prediction)));
        answers.push((acks, ServerMessage::Ack(ack)));
        answers
    }
}

struct Count(u64, u64, Instant);

impl Source for Count {
    fn due(&self) -> Option<Instant> {
        (self.0 < self.1).then_some(self.2)
    }

    fn take(&mut self, _now: Instant) -> Option<Reading> {
        self.0 += 1;
        Some(Reading {
            seq: Some(self.0 - 1),
            values: Values::Ordered(vec![self.0 as f32]),
            ..Reading::default()
        })
    }

    fn skip_below(&mut self, seq: u64) -> u64 {
        let skipped = seq.min(self.1).saturating_sub(self.0);
        self.0 += skipped;
        skipped
    }
}

async fn run(mut target: Target, total: u64) -> Outcome {
    target.epoch = Some(7);
    let mut source = Count(0, total, Instant::now());
    stream(target, &mut source, &mut Quiet, &CancellationToken::new()).await
}

#[tokio::test]
async fn a_lossy_way_through_a_broker_still_ends_with_every_reading_acked() {
    let Some(broker) = Broker::start().await else {
        return;
    };
    let server = broker.serve(vec![0, 5, 6, 399]).await;
    let outcome = run(broker.target(Codec::Json), 400).await;
    assert!(outcome.error.is_none(), "{:?}", outcome.error);
    let tally = outcome.tally;
    assert_eq!(
        (tally.sent, tally.predicted, tally.acked, tally.gaps),
        (400, 400, 400, 1)
    );
    let again = run(broker.target(Codec::Bincode), 400).await.tally;
    assert_eq!((again.already_stored, again.sent, again.acked), (400, 0, 0));
    server.abort();
}

#[tokio::test]
async fn a_broker_without_a_server_is_said_to_have_none() {
    let Some(broker) = Broker::start().await else {
        return;
    };
    let mut target = broker.target(Codec::Json);
    target.options.give_up_after = Duration::from_millis(300);
    let Some(ClientError::GaveUp { message, .. }) = run(target, 3).await.error else {
        panic!("nobody listens")
    };
    assert_eq!(message, "no Tidegate server listens at this broker");
}
