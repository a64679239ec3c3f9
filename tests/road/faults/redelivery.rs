//! Publishes that the broker delivers again, because the server's acknowledgement was lost on the way: readings without a number are
//! stored once all the same.

use super::gate::Gate;
use super::lock::Intruder;
use crate::common::http::{request, samples};
use crate::common::{Broker, Home, MqttPeer, Process, TestServer, eventually, plain};
use crate::mqtt::{bare, subscribed};
use std::net::SocketAddr;
use tidegate_protocol::message::{Feedback, Label};
use tidegate_protocol::{Codec, DeviceMessage, ServerMessage, Wire};

/// The client that receives, as its first packet names it.
const RECEIVING: &str = "tidegate-in";
/// So few that any publish that is never acknowledged soon blocks the rest.
const FEW: u16 = 2;

async fn server_at(broker: SocketAddr) -> TestServer {
    TestServer::start_with(|raw| {
        raw.mqtt.url = Some(format!("mqtt://{broker}"));
        raw.mqtt.receive_maximum = FEW;
    })
    .await
}

/// A server in its own process that is told by a file, so that its home can say the rest.
async fn process_at(broker: SocketAddr, home: &Home) -> Process {
    let config = tempfile::NamedTempFile::new().expect("a temporary file");
    let lines = format!("[mqtt]\nurl = \"mqtt://{broker}\"\nreceive_maximum = {FEW}\n");
    std::fs::write(config.path(), lines).expect("its configuration");
    let file = config.path().to_str().expect("a path in UTF-8");
    home.serve_with(&["--config", file]).await
}

/// Publishes a reading that says nothing but its values and waits for the ack of the number that it got.
async fn numbered_as(peer: &mut MqttPeer, seq: u64) {
    peer.read("rig-1", Codec::Json, bare()).await;
    peer.ack("rig-1", seq).await;
}

async fn stored(addr: SocketAddr, count: usize) {
    eventually("the stored readings", || async {
        samples(addr, "rig-1").await.len() == count
    })
    .await;
}

/// Publishes `message`, whose acknowledgement no longer reaches the broker, and waits until `count` samples are stored.
async fn publish_unheard(
    peer: &MqttPeer,
    gate: &Gate,
    addr: SocketAddr,
    message: &DeviceMessage,
    count: usize,
) {
    gate.swallow_forth(RECEIVING);
    let bytes = message.to_bytes(Codec::Json);
    peer.publish("rig-1", Codec::Json, bytes).await;
    stored(addr, count).await;
}

#[tokio::test]
async fn a_publish_whose_acknowledgement_was_lost_is_stored_once() {
    let broker = Broker::start().await;
    let gate = Gate::before(broker.addr()).await;
    let server = server_at(gate.addr()).await;
    let mut peer = broker.peer().await;
    subscribed(&mut peer).await;
    numbered_as(&mut peer, 0).await;
    let reading = DeviceMessage::Reading(bare());
    publish_unheard(&peer, &gate, server.addr(), &reading, 2).await;
    peer.ack("rig-1", 1).await;
    gate.cut();
    // It came again, and was acked again for a device that heard nothing.
    peer.ack("rig-1", 1).await;
    // The same bytes in a publish of their own are another reading.
    for seq in 2..2 + 2 * u64::from(FEW) {
        numbered_as(&mut peer, seq).await;
    }
    stored(server.addr(), 2 + 2 * usize::from(FEW)).await;
    assert!(server.stop().await, "something was not acknowledged");
}

#[tokio::test]
async fn a_publish_that_was_stored_before_a_kill_is_not_stored_again_after_it() {
    is_stored_once_over_a_kill(&Home::sqlite()).await;
}

#[tokio::test]
async fn a_publish_that_postgresql_stored_before_a_kill_is_not_stored_again_after_it() {
    is_stored_once_over_a_kill(&Home::postgres().await).await;
}

async fn is_stored_once_over_a_kill(home: &Home) {
    let broker = Broker::start().await;
    let gate = Gate::before(broker.addr()).await;
    let server = process_at(gate.addr(), home).await;
    let mut peer = broker.peer().await;
    subscribed(&mut peer).await;
    numbered_as(&mut peer, 0).await;
    let batch = DeviceMessage::Batch(vec![bare(), bare(), bare()]);
    publish_unheard(&peer, &gate, server.addr(), &batch, 4).await;
    server.kill().await;
    gate.cut();

    let server = process_at(gate.addr(), home).await;
    for seq in 4..4 + 2 * u64::from(FEW) {
        numbered_as(&mut peer, seq).await;
    }
    stored(server.addr(), 4 + 2 * usize::from(FEW)).await;
    let metrics = request(server.addr(), "GET", "/metrics", None).await.body;
    assert!(
        metrics.contains("\ntidegate_mqtt_redelivered_total 1\n"),
        "{metrics}"
    );
}

/// The last reading of a batch is stored already, those before it are on their way: only their commit acknowledges the publish.
#[tokio::test]
async fn a_batch_that_ends_in_a_stored_reading_is_acknowledged_with_its_new_ones() {
    let broker = Broker::start().await;
    let home = Home::sqlite();
    let server = process_at(broker.addr(), &home).await;
    let mut peer = broker.peer().await;
    subscribed(&mut peer).await;
    peer.read("rig-1", Codec::Json, plain(0)).await;
    peer.ack("rig-1", 0).await;
    peer.prediction("rig-1", 0).await;
    let mut database = Intruder::open(home.dir()).await;
    database.hold().await;
    let batch = DeviceMessage::Batch(vec![plain(1), plain(2), plain(0)]);
    peer.publish("rig-1", Codec::Json, batch.to_bytes(Codec::Json))
        .await;
    for seq in [1, 2, 0] {
        peer.prediction("rig-1", seq).await;
    }
    server.kill().await;
    database.release().await;

    let server = process_at(broker.addr(), &home).await;
    peer.ack("rig-1", 2).await;
    stored(server.addr(), 3).await;
}

#[tokio::test]
async fn a_reset_and_a_feedback_that_come_again_are_done_once() {
    let broker = Broker::start().await;
    let gate = Gate::before(broker.addr()).await;
    let server = server_at(gate.addr()).await;
    let mut peer = broker.peer().await;
    subscribed(&mut peer).await;
    numbered_as(&mut peer, 0).await;
    let feedback = DeviceMessage::Feedback(Feedback {
        epoch: None,
        seq: 0,
        label: Label::Text("normal".into()),
        reference: None,
    });
    let told = |message: &ServerMessage| {
        let is_told = matches!(
            message,
            ServerMessage::Feedback(_) | ServerMessage::Reset(_)
        );
        is_told.then_some(())
    };
    for message in [feedback, DeviceMessage::Reset] {
        publish_unheard(&peer, &gate, server.addr(), &message, 1).await;
        peer.expect("rig-1", "acks", told).await;
        gate.cut();
        peer.ack("rig-1", 0).await;
    }
    let mut database = Intruder::open(&server.data_dir()).await;
    let resets = "SELECT CAST(count(*) AS TEXT) FROM stream_log WHERE kind = 2";
    assert_eq!(database.texts(resets).await, ["1"]);
    let feedback = "SELECT CAST(count(*) AS TEXT) FROM feedback";
    assert_eq!(database.texts(feedback).await, ["1"]);
    assert!(server.stop().await, "something was not acknowledged");
}

#[tokio::test]
async fn a_payload_that_is_no_message_is_recorded_and_said_before_it_is_acknowledged() {
    let broker = Broker::start().await;
    let gate = Gate::before(broker.addr()).await;
    let server = server_at(gate.addr()).await;
    let mut database = Intruder::open(&server.data_dir()).await;
    let mut peer = broker.peer().await;
    subscribed(&mut peer).await;
    numbered_as(&mut peer, 0).await;
    gate.swallow_forth(RECEIVING);
    peer.publish("rig-1", Codec::Json, b"no message".to_vec())
        .await;
    let said = |message: &ServerMessage| matches!(message, ServerMessage::Error(_)).then_some(());
    peer.expect("rig-1", "errors", said).await;
    let refused = "SELECT code FROM refusals";
    assert_eq!(database.texts(refused).await, ["bad_reading"]);
    gate.cut();
    // Delivered again, it is neither recorded nor said a second time.
    for seq in 1..1 + 2 * u64::from(FEW) {
        numbered_as(&mut peer, seq).await;
    }
    assert_eq!(database.texts(refused).await, ["bad_reading"]);
    assert!(server.stop().await, "something was not acknowledged");
}

/// The broker begins to count its packets anew: the same packet id, and the same bytes, are another publish.
#[tokio::test]
async fn a_publish_of_another_session_is_never_taken_for_one_of_before() {
    let broker = Broker::start().await;
    let server = server_at(broker.addr()).await;
    let mut database = Intruder::open(&server.data_dir()).await;
    let mut peer = broker.peer().await;
    subscribed(&mut peer).await;
    for seq in 0..4 {
        numbered_as(&mut peer, seq).await;
    }
    // As many are remembered as may be unacknowledged.
    let kept = "SELECT CAST(session || ':' || place AS TEXT) FROM mqtt_receipts ORDER BY place";
    assert_eq!(database.texts(kept).await, ["1:2", "1:3"]);
    let broker = broker.stop().await.start().await;
    let mut peer = broker.peer().await;
    subscribed(&mut peer).await;
    for seq in 4..8 {
        numbered_as(&mut peer, seq).await;
    }
    assert_eq!(database.texts(kept).await, ["2:6", "2:7"]);
    stored(server.addr(), 8).await;
    assert!(server.stop().await, "something was not acknowledged");
}

/// The store refuses rows of a publish that is partly stored: the broker is asked to deliver it again, and each reading is stored once.
#[tokio::test]
async fn a_publish_whose_rows_the_store_refused_comes_again_and_is_stored_once() {
    let broker = Broker::start().await;
    let server = server_at(broker.addr()).await;
    let mut database = Intruder::open(&server.data_dir()).await;
    let mut peer = broker.peer().await;
    subscribed(&mut peer).await;
    numbered_as(&mut peer, 0).await;
    // The first readings of a publish may be stored, those behind them are not.
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON samples WHEN NEW.seq > 100 \
                  BEGIN INSERT INTO consumers (name, sample_id) VALUES ('twice', 0), ('twice', 1); END";
    database.texts(refuse).await;
    let batch = DeviceMessage::Batch((0..300).map(|_| bare()).collect());
    peer.publish("rig-1", Codec::Json, batch.to_bytes(Codec::Json))
        .await;
    eventually("the stopped stream", || async {
        let metrics = request(server.addr(), "GET", "/metrics", None).await.body;
        metrics.contains("\ntidegate_mqtt_passed_over 1\n")
    })
    .await;
    database.texts("DROP TRIGGER refuse").await;
    let count = "SELECT CAST(count(*) || ':' || max(seq) AS TEXT) FROM samples";
    let rig = format!("{count} WHERE stream_id = (SELECT id FROM streams WHERE device = 'rig-1')");
    let dir = server.data_dir();
    eventually("all of it stored once", async || {
        let mut database = Intruder::open(&dir).await;
        database.texts(&rig).await == ["301:300"]
    })
    .await;
    for seq in 301..301 + 2 * u64::from(FEW) {
        numbered_as(&mut peer, seq).await;
    }
    assert!(server.stop().await, "something was not acknowledged");
}
