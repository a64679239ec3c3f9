//! A broker that restarts, forgets, goes away, falls silent, or takes no answers.

use super::gate::Gate;
use super::lock::Intruder;
use super::{metric, patiently, stored_as_if_undisturbed};
use crate::common::{Broker, MqttPeer, Process, TestServer, eventually, plain, reading, rig};
use crate::mqtt::{passes, subscribed};
use tidegate_protocol::Codec;

/// Readings of a whole run: past the calibration.
const READINGS: usize = 500;
/// How many are in flight when the fault comes.
const IN_FLIGHT: usize = 40;

async fn server_of(url: String) -> TestServer {
    TestServer::start_with(|raw| raw.mqtt.url = Some(url)).await
}

/// Publishes readings `from..to` as a device does that has no answers to wait for.
async fn publish(peer: &MqttPeer, values: &[Vec<f32>], from: usize, to: usize) {
    for (seq, values) in values.iter().enumerate().take(to).skip(from) {
        peer.read("rig-1", Codec::Json, reading(seq as u64, values))
            .await;
    }
}

/// Publishes readings `from..to` and waits until the last is acked.
async fn stream(peer: &mut MqttPeer, values: &[Vec<f32>], from: usize, to: usize) {
    publish(peer, values, from, to).await;
    peer.ack("rig-1", to as u64 - 1).await;
}

async fn mqtt_is(server: &TestServer, state: &str) {
    patiently(state, async || {
        server.get("/health/ready").await.json()["mqtt"] == state
    })
    .await;
}

/// A broker that stops while readings are taken and not committed, so that none of them is acknowledged, and comes back.
async fn restart_in_mid_flight(broker: Broker, values: &[Vec<f32>]) -> (Broker, TestServer) {
    let server = server_of(broker.url()).await;
    let mut peer = broker.peer().await;
    subscribed(&mut peer).await;
    let from = READINGS - 2 * IN_FLIGHT;
    stream(&mut peer, values, 0, from).await;
    let mut intruder = Intruder::open(&server.data_dir()).await;
    intruder.hold().await;
    publish(&peer, values, from, from + IN_FLIGHT).await;
    peer.prediction("rig-1", (from + IN_FLIGHT) as u64 - 1)
        .await;
    let stopped = broker.stop().await;
    mqtt_is(&server, "reconnecting").await;
    intruder.release().await;
    let broker = stopped.start().await;
    mqtt_is(&server, "connected").await;
    (broker, server)
}

#[tokio::test]
async fn a_broker_that_restarts_with_its_session_delivers_again_and_nothing_is_stored_twice() {
    let values = rig(51, READINGS);
    let broker = Broker::start_lasting().await;
    let (broker, server) = restart_in_mid_flight(broker, &values).await;
    // What was in flight is acked without the device sending it again.
    let mut peer = broker.peer().await;
    let first = READINGS - IN_FLIGHT;
    peer.read("probe", Codec::Json, plain(1)).await;
    peer.ack("probe", 1).await;
    assert_eq!(server.samples("rig-1").await.len(), first);
    stream(&mut peer, &values, first, READINGS).await;
    stored_as_if_undisturbed(server.addr(), "rig-1", &values).await;
    assert!(server.stop().await, "something was not acknowledged");
}

#[tokio::test]
async fn a_broker_that_forgets_its_session_costs_nothing_that_devices_send_again() {
    let values = rig(52, READINGS);
    let broker = Broker::start().await;
    let (broker, server) = restart_in_mid_flight(broker, &values).await;
    let mut peer = broker.peer().await;
    subscribed(&mut peer).await;
    // The client's rule: what was not acked is sent again.
    let first = READINGS - 2 * IN_FLIGHT;
    stream(&mut peer, &values, first, READINGS).await;
    stored_as_if_undisturbed(server.addr(), "rig-1", &values).await;
    assert!(server.stop().await, "something was not acknowledged");
}

#[tokio::test]
async fn a_broker_that_is_away_leaves_the_other_doors_open() {
    let values = rig(53, READINGS);
    let broker = Broker::start().await;
    let server = server_of(broker.url()).await;
    let mut peer = broker.peer().await;
    subscribed(&mut peer).await;
    stream(&mut peer, &values, 0, 200).await;
    let stopped = broker.stop().await;
    mqtt_is(&server, "reconnecting").await;
    let readiness = server.get("/health/ready").await;
    assert_eq!(
        (readiness.status, &readiness.json()["ready"]),
        (200, &true.into())
    );
    // The device goes on over WebSocket meanwhile.
    let mut device = server.device("rig-1").await;
    assert_eq!(device.welcome.resume_from, 200);
    device.stream(&values, 200, 300).await;
    drop(device);
    let broker = stopped.start().await;
    mqtt_is(&server, "connected").await;
    let mut peer = broker.peer().await;
    subscribed(&mut peer).await;
    stream(&mut peer, &values, 300, READINGS).await;
    stored_as_if_undisturbed(server.addr(), "rig-1", &values).await;
    assert!(server.stop().await, "something was not acknowledged");
}

#[tokio::test]
async fn a_broker_that_falls_silent_is_left_and_tried_again() {
    let values = rig(54, READINGS);
    let broker = Broker::start().await;
    let gate = Gate::before(broker.addr()).await;
    let server = TestServer::start_with(|raw| {
        raw.mqtt.url = Some(format!("mqtt://{}", gate.addr()));
        raw.mqtt.keep_alive_s = 5;
    })
    .await;
    let mut peer = broker.peer().await;
    subscribed(&mut peer).await;
    stream(&mut peer, &values, 0, 450).await;
    // Neither side hears the other from now on, and nothing is closed.
    gate.swallow_all();
    publish(&peer, &values, 450, 460).await;
    mqtt_is(&server, "reconnecting").await;
    mqtt_is(&server, "connected").await;
    peer.ack("rig-1", 459).await;
    stream(&mut peer, &values, 460, READINGS).await;
    stored_as_if_undisturbed(server.addr(), "rig-1", &values).await;
    assert!(server.stop().await, "something was not acknowledged");
}

#[tokio::test]
async fn answers_that_the_broker_does_not_take_hold_up_no_reading() {
    let values = rig(55, READINGS);
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start().await;
    let gate = Gate::before(broker.addr()).await;
    // Only the client that answers is kept out.
    gate.turn_away(Some("tidegate-out"));
    let url = format!("mqtt://{}", gate.addr());
    let server = Process::serve_with(dir.path(), &["--mqtt-url", &url], |command| {
        command
            .env("TIDEGATE_MQTT__OUTBOX", "16")
            .env("TIDEGATE_MQTT__ANSWER_WAIT_S", "1")
            .env("TIDEGATE_MQTT__RECEIVE_MAXIMUM", "10");
    })
    .await;
    let addr = server.addr();
    let mut peer = broker.peer().await;
    // Until the subscription stands, which nobody announces.
    eventually("a reading that arrives", || async {
        peer.read("rig-1", Codec::Json, reading(0, &values[0]))
            .await;
        metric(addr, "tidegate_readings_total{door=\"mqtt\"}").await > 0.0
    })
    .await;
    publish(&peer, &values, 1, 450).await;
    patiently("every reading", async || {
        metric(addr, "tidegate_committed_total").await == 450.0
    })
    .await;
    assert_eq!(metric(addr, "tidegate_mqtt_connected").await, 0.0);
    let left_out = metric(addr, "tidegate_mqtt_dropped_total{what=\"answer\"}").await;
    assert!(left_out > 400.0, "{left_out} answers were left out");
    assert!(metric(addr, "tidegate_mqtt_answers").await <= 17.0);
    gate.turn_away(None);
    patiently("the answering client", async || {
        metric(addr, "tidegate_mqtt_connected").await == 1.0
    })
    .await;
    // The next ack covers all that were left out.
    stream(&mut peer, &values, 450, READINGS).await;
    stored_as_if_undisturbed(addr, "rig-1", &values).await;
}

#[tokio::test]
async fn answers_on_their_way_when_the_broker_is_lost_are_said_when_it_is_back() {
    let broker = Broker::start().await;
    let gate = Gate::before(broker.addr()).await;
    let server = server_of(format!("mqtt://{}", gate.addr())).await;
    let mut peer = broker.peer().await;
    subscribed(&mut peer).await;
    passes(&mut peer, "rig-1", 0).await;
    // The answers are written, and never arrive.
    gate.swallow_forth("tidegate-out");
    for seq in 1..6 {
        peer.read("rig-1", Codec::Json, plain(seq)).await;
    }
    eventually("the readings", || async {
        server.samples("rig-1").await.len() == 6
    })
    .await;
    gate.cut();
    for seq in 1..6 {
        peer.prediction("rig-1", seq).await;
    }
    peer.ack("rig-1", 5).await;
    assert!(server.stop().await, "something was not acknowledged");
}

#[tokio::test]
async fn a_device_that_falls_silent_and_speaks_again_is_online_again() {
    use tidegate_protocol::LiveData;
    use tidegate_protocol::live::DeviceState;
    let broker = Broker::start().await;
    let url = broker.url();
    let server = TestServer::start_with(|raw| {
        raw.mqtt.url = Some(url);
        raw.sessions.offline_after_s = 1;
    })
    .await;
    let mut peer = broker.peer().await;
    subscribed(&mut peer).await;
    let mut watcher = server.subscriber().await;
    watcher
        .subscribe(crate::common::peer::wish(1, "devices/rig-1"))
        .await;
    for seq in 0..2 {
        passes(&mut peer, "rig-1", seq).await;
        for wanted in [DeviceState::Online, DeviceState::Offline] {
            let LiveData::Device(told) = watcher.event().await.data else {
                panic!("an event of a device");
            };
            assert_eq!(told.state, wanted);
        }
    }
}
