//! The MQTT door with a real broker.

use crate::common::broker::{Broker, MqttPeer};
use crate::common::{ENDPOINT, START_MS, TestServer, answer, eventually, plain, within};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use std::time::Duration;
use tidegate_protocol::message::{Feedback, Label, ServerError};
use tidegate_protocol::{
    Codec, DeviceMessage, ErrorCode, NackCode, Output, Reading, ServerMessage, Wire,
};
use tokio::net::TcpSocket;

/// Publishes that the server leaves unacknowledged at once: so few that any that is never acknowledged soon blocks the rest.
const FEW: u16 = 2;

/// A server that takes readings from the broker at `url`.
async fn server_of(url: String) -> TestServer {
    TestServer::start_with(|raw| {
        raw.mqtt.url = Some(url);
        raw.mqtt.receive_maximum = FEW;
    })
    .await
}

/// A broker, a server that has subscribed to it, and a peer.
async fn road() -> (Broker, TestServer, MqttPeer) {
    let broker = Broker::start().await;
    let server = server_of(broker.url()).await;
    let mut peer = broker.peer().await;
    subscribed(&mut peer).await;
    (broker, server, peer)
}

/// Until the server has subscribed, which nobody announces: a device of its own asks until it is answered.
pub async fn subscribed(peer: &mut MqttPeer) {
    within("the server's subscription", async {
        let short = Duration::from_millis(100);
        loop {
            peer.read("probe", Codec::Json, plain(0)).await;
            let answered = tokio::time::timeout(short, peer.ack("probe", 0)).await;
            if answered.is_ok() {
                return;
            }
        }
    })
    .await;
}

/// A client without habits, for topics that no device uses.
pub fn client(broker: &Broker) -> (AsyncClient, EventLoop) {
    let url = broker.url();
    let (_, port) = url.rsplit_once(':').expect("a port");
    let options = MqttOptions::new("other", "127.0.0.1", port.parse().expect("a number"));
    AsyncClient::new(options, 16)
}

/// Polls until the broker sends what `pick` takes.
pub async fn incoming<T>(
    events: &mut EventLoop,
    what: &str,
    pick: impl Fn(Packet) -> Option<T>,
) -> T {
    within(what, async {
        loop {
            if let Event::Incoming(packet) = events.poll().await.expect("the broker is there")
                && let Some(found) = pick(packet)
            {
                return found;
            }
        }
    })
    .await
}

/// A reading without numbers and time.
pub fn bare() -> Reading {
    Reading {
        seq: None,
        ts: None,
        ..plain(0)
    }
}

/// The payload of a reading.
fn payload(reading: Reading, codec: Codec) -> Vec<u8> {
    DeviceMessage::Reading(reading).to_bytes(codec)
}

/// Publishes a reading and waits for its prediction and its ack.
pub async fn passes(peer: &mut MqttPeer, device: &str, seq: u64) {
    peer.read(device, Codec::Json, plain(seq)).await;
    peer.prediction(device, seq).await;
    peer.ack(device, seq).await;
}

/// The next error on the device's topic.
async fn error(peer: &mut MqttPeer, device: &str) -> ServerError {
    peer.expect(device, "errors", |message| match message {
        ServerMessage::Error(error) => Some(error.clone()),
        _ => None,
    })
    .await
}

/// Epoch and number of each stored sample.
async fn numbers(server: &TestServer, device: &str) -> Vec<(u64, u64)> {
    let samples = server.samples(device).await;
    samples.iter().map(|s| (s.epoch, s.seq)).collect()
}

#[tokio::test]
async fn readings_in_either_codec_get_predictions_and_acks_that_name_the_epoch() {
    let (_broker, server, mut peer) = road().await;
    for (device, codec) in [("text", Codec::Json), ("binary", Codec::Bincode)] {
        for seq in 0..5 {
            peer.read(device, codec, plain(seq)).await;
            let prediction = peer.prediction(device, seq).await;
            assert_eq!(prediction.epoch, Some(0));
            assert_eq!(prediction.ts, START_MS + seq as i64 * 1000);
            assert_eq!(peer.ack(device, seq).await.epoch, Some(0));
        }
        assert_eq!(server.samples(device).await.len(), 5);
    }
    assert!(server.stop().await, "something was not acknowledged");
}

#[tokio::test]
async fn user_properties_number_a_reading_where_its_payload_does_not() {
    let (_broker, server, mut peer) = road().await;
    let own = [("epoch", "3"), ("seq", "7"), ("ts", "1770000000123")];
    let own: Vec<_> = own.map(|(key, value)| (key.into(), value.into())).into();
    let bytes = payload(bare(), Codec::Bincode);
    peer.publish_with("rig-1", Codec::Bincode, bytes, own.clone(), false)
        .await;
    let prediction = peer.prediction("rig-1", 7).await;
    assert_eq!(
        (prediction.epoch, prediction.ts),
        (Some(3), 1_770_000_000_123)
    );
    assert_eq!(peer.ack("rig-1", 7).await.epoch, Some(3));
    // The payload's own number wins.
    let bytes = payload(plain(8), Codec::Json);
    peer.publish_with("rig-1", Codec::Json, bytes, own, false)
        .await;
    assert_eq!(peer.prediction("rig-1", 8).await.epoch, Some(3));
    peer.ack("rig-1", 8).await;
    assert_eq!(numbers(&server, "rig-1").await, [(3, 7), (3, 8)]);
}

#[tokio::test]
async fn a_duplicate_publish_gets_the_same_answer_and_adds_no_sample() {
    let (_broker, server, mut peer) = road().await;
    passes(&mut peer, "rig-1", 0).await;
    peer.read("rig-1", Codec::Json, plain(1)).await;
    let first = peer.prediction("rig-1", 1).await;
    peer.ack("rig-1", 1).await;
    for codec in [Codec::Json, Codec::Bincode, Codec::Json] {
        peer.read("rig-1", codec, plain(1)).await;
        let again = peer.prediction("rig-1", 1).await;
        assert_eq!((answer(&again), again.epoch), (answer(&first), Some(0)));
        peer.ack("rig-1", 1).await;
    }
    assert_eq!(numbers(&server, "rig-1").await, [(0, 0), (0, 1)]);
    assert!(server.stop().await, "something was not acknowledged");
}

#[tokio::test]
async fn a_device_moves_from_websocket_to_mqtt_and_back_within_its_stream() {
    let (_broker, server, mut peer) = road().await;
    let mut device = server.device("rig-1").await;
    device.still_works(0).await;
    device.still_works(1).await;
    drop(device);
    peer.read("rig-1", Codec::Json, plain(2)).await;
    let third = Output::Calibrating {
        seen: 3,
        needed: 400,
    };
    assert_eq!(peer.prediction("rig-1", 2).await.output, third);
    // A gap would be told here, before the ack.
    let first = peer
        .expect("rig-1", "acks", |message| Some(message.clone()))
        .await;
    assert!(
        matches!(&first, ServerMessage::Ack(ack) if (ack.epoch, ack.seq) == (Some(0), 2)),
        "{first:?}"
    );
    let mut device = server.device("rig-1").await;
    assert_eq!((device.welcome.epoch, device.welcome.resume_from), (0, 3));
    device.still_works(3).await;
    assert_eq!(
        numbers(&server, "rig-1").await,
        [(0, 0), (0, 1), (0, 2), (0, 3)]
    );
}

#[tokio::test]
async fn payloads_that_are_no_readings_are_said_and_do_not_block_later_ones() {
    let (_broker, server, mut peer) = road().await;
    passes(&mut peer, "rig-1", 0).await;
    for _ in 0..3 * FEW {
        for (codec, junk) in [
            (Codec::Json, &b"{\"no\":\"reading\"}"[..]),
            (Codec::Json, b""),
            (Codec::Bincode, b"\xff\xff\xff"),
        ] {
            peer.publish("rig-1", codec, junk.to_vec()).await;
            let error = error(&mut peer, "rig-1").await;
            assert_eq!(error.code, ErrorCode::BadReading, "{error:?}");
            assert!(!error.message.is_empty());
        }
    }
    passes(&mut peer, "rig-1", 1).await;
    // One that can be read and has the wrong number of values uses up its own.
    let short = crate::common::reading(2, &[0.5; 7]);
    peer.read("rig-1", Codec::Json, short).await;
    let said = error(&mut peer, "rig-1").await;
    assert_eq!(said.code, ErrorCode::BadReading);
    peer.expect("rig-1", "acks", |message| match message {
        ServerMessage::Nack(nack) if nack.seq == Some(2) => {
            assert_eq!(nack.code, NackCode::BadReading);
            Some(())
        }
        _ => None,
    })
    .await;
    passes(&mut peer, "rig-1", 3).await;
    assert_eq!(
        numbers(&server, "rig-1").await,
        [(0, 0), (0, 1), (0, 3)],
        "what is no reading is no sample"
    );
    assert!(server.stop().await, "something was not acknowledged");
}

#[tokio::test]
async fn feedback_is_echoed_and_does_not_block_later_publishes() {
    let (_broker, server, mut peer) = road().await;
    passes(&mut peer, "rig-1", 0).await;
    for mark in 0..3 * u64::from(FEW) {
        let feedback = DeviceMessage::Feedback(Feedback {
            epoch: None,
            seq: 0,
            label: Label::Text("normal".into()),
            reference: Some(mark),
        });
        peer.publish("rig-1", Codec::Json, feedback.to_bytes(Codec::Json))
            .await;
        let stored = peer
            .expect("rig-1", "acks", |message| match message {
                ServerMessage::Feedback(stored) => Some(stored.clone()),
                _ => None,
            })
            .await;
        assert_eq!((stored.seq, stored.reference), (0, Some(mark)));
    }
    // Feedback for a reading that is not there is refused, and just as little in the way.
    let unknown = DeviceMessage::Feedback(Feedback {
        epoch: None,
        seq: 99,
        label: Label::Number(1.0),
        reference: None,
    });
    for _ in 0..3 * FEW {
        peer.publish("rig-1", Codec::Json, unknown.to_bytes(Codec::Json))
            .await;
    }
    for seq in 1..10 {
        passes(&mut peer, "rig-1", seq).await;
    }
    assert!(server.stop().await, "something was not acknowledged");
}

#[tokio::test]
async fn a_retained_reading_is_ignored() {
    let broker = Broker::start().await;
    let (other, mut events) = client(&broker);
    let topic = format!("tidegate/{ENDPOINT}/rig-1/readings");
    let bytes = payload(plain(0), Codec::Json);
    other
        .publish(topic, QoS::AtLeastOnce, true, bytes)
        .await
        .expect("room in the client");
    // The broker has it before the server subscribes, so it comes as what it is: an old message.
    incoming(&mut events, "the broker's receipt", |packet| {
        matches!(packet, Packet::PubAck(_)).then_some(())
    })
    .await;
    let server = server_of(broker.url()).await;
    let mut peer = broker.peer().await;
    subscribed(&mut peer).await;
    assert_eq!(server.samples("rig-1").await.len(), 0);
    passes(&mut peer, "rig-1", 1).await;
    assert_eq!(numbers(&server, "rig-1").await, [(0, 1)]);
    assert!(server.stop().await, "something was not acknowledged");
}

#[tokio::test]
async fn an_unknown_endpoint_is_said_and_does_not_block_other_devices() {
    let (broker, server, mut peer) = road().await;
    let (other, mut events) = client(&broker);
    other
        .subscribe("tidegate/nothing/rig-1/+", QoS::AtLeastOnce)
        .await
        .expect("room in the client");
    incoming(&mut events, "a subscription", |packet| {
        matches!(packet, Packet::SubAck(_)).then_some(())
    })
    .await;
    for _ in 0..3 * FEW {
        let bytes = payload(plain(0), Codec::Json);
        other
            .publish(
                "tidegate/nothing/rig-1/readings",
                QoS::AtLeastOnce,
                false,
                bytes,
            )
            .await
            .expect("room in the client");
        // The subscription hears the reading itself too.
        let said = incoming(&mut events, "an error", |packet| match packet {
            Packet::Publish(publish) if publish.topic.ends_with(b"/errors") => {
                Some(ServerMessage::decode(Codec::Json, &publish.payload).expect("a message"))
            }
            _ => None,
        })
        .await;
        let ServerMessage::Error(error) = said else {
            panic!("{said:?}");
        };
        assert_eq!(error.code, ErrorCode::UnknownEndpoint);
        assert!(error.message.contains("nothing"), "{error:?}");
    }
    passes(&mut peer, "rig-1", 0).await;
    assert!(server.stop().await, "something was not acknowledged");
}

#[tokio::test]
async fn a_server_starts_without_its_broker_and_takes_readings_once_it_is_there() {
    // Bound and not listening: connections are refused, and nobody else gets the port.
    let reserved = TcpSocket::new_v4().expect("a socket");
    reserved
        .bind("127.0.0.1:0".parse().expect("an address"))
        .expect("a free port");
    let port = reserved.local_addr().expect("its address").port();
    let server = server_of(format!("mqtt://127.0.0.1:{port}")).await;
    let readiness = server.get("/health/ready").await;
    assert_eq!(readiness.status, 200);
    let readiness = readiness.json();
    assert_eq!(readiness["ready"], true);
    assert_eq!(readiness["mqtt"], "reconnecting");
    server.device("other").await.still_works(0).await;

    drop(reserved);
    let broker = Broker::start_on(port).await;
    eventually("the door", || async {
        server.get("/health/ready").await.json()["mqtt"] == "connected"
    })
    .await;
    let mut peer = broker.peer().await;
    subscribed(&mut peer).await;
    passes(&mut peer, "rig-1", 0).await;
    assert_eq!(server.samples("rig-1").await.len(), 1);
}
