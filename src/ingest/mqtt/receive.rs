//! The receiving client: hands publishes over to the task that takes them, and acknowledges what is committed.
//!
//! A broker delivers again over a new connection only: while publishes are passed over this ends the connection, more seldom each time.

use super::{Door, HANG_UP, MqttStatus, RETRY, hang_up, options, pause, take};
use crate::config::MqttConfig;
use crate::telemetry::metric;
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnAck, Packet, Publish};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidegate_protocol::topic;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::task::TaskTracker;

/// A broker that allows fewer messages in flight slows everyone down.
const LOW_RECEIVE_MAXIMUM: u16 = 100;

/// Between passing a publish over and the connection that brings it again: first and longest.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// A publish and the connection it came over.
pub(super) struct Received {
    pub publish: Publish,
    pub generation: u64,
}

/// The client; its queue holds every acknowledgement that may be due at once.
pub(super) fn connect(config: &MqttConfig) -> (AsyncClient, EventLoop) {
    let mut wanted = options(config, "in");
    wanted.set_clean_start(false).set_manual_acks(true);
    AsyncClient::new(wanted, usize::from(config.receive_maximum) + 16)
}

pub(super) fn spawn(door: &Arc<Door>, events: EventLoop, tracker: &TaskTracker) {
    // Twice: those of a lost connection may still wait when the broker delivers them again.
    let (sender, receiver) = mpsc::channel(2 * usize::from(door.config.receive_maximum));
    tracker.spawn(poll(Arc::clone(door), events, sender));
    tracker.spawn(take::run(Arc::clone(door), receiver));
    tracker.spawn(acknowledge(Arc::clone(door)));
    tracker.spawn(ask_again(Arc::clone(door)));
}

/// Polls the broker until the server has stopped and everything taken is acknowledged.
async fn poll(door: Arc<Door>, mut events: EventLoop, sender: mpsc::Sender<Received>) {
    let receiving: fn(&MqttStatus) -> &AtomicBool = |status| &status.receiving;
    let mut connected = false;
    let mut wait = RETRY.0;
    loop {
        let event = tokio::select! {
            event = events.poll() => event,
            () = door.give_up(connected) => break,
            () = door.again.notified(), if connected => {
                connected = false;
                let_go(&door, &mut events);
                continue;
            }
        };
        match event {
            Ok(Event::Incoming(Packet::ConnAck(connack))) => {
                (connected, wait) = (true, RETRY.0);
                door.settle(|window| window.reconnected());
                door.status.set(receiving, true);
                greet(&door, &connack);
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                hand_over(&door, publish, &sender).await;
            }
            Ok(Event::Outgoing(Outgoing::PubAck(_))) => door.settle(|window| window.left()),
            Ok(Event::Outgoing(Outgoing::Disconnect)) => {
                hang_up(&mut events).await;
                break;
            }
            Ok(_) => {}
            Err(error) => {
                note_loss(&door, &error, wait);
                connected = false;
                let_go(&door, &mut events);
                pause(&mut wait, &door.stopping.stop).await;
            }
        }
    }
    door.settle(|window| window.reconnected());
}

/// Leaves a connection behind, or what is left of it.
fn let_go(door: &Door, events: &mut EventLoop) {
    door.status.set(|status| &status.receiving, false);
    // Acknowledgements of what came before must not meet the next connection: nothing is released
    // until it is there, and what was released meanwhile goes.
    door.settle(|window| window.reconnected());
    events.clean();
    metrics::counter!(metric::MQTT_RECONNECTS).increment(1);
}

/// Has the connection ended a while after a publish was passed over.
async fn ask_again(door: Arc<Door>) {
    let stop = &door.stopping.stop;
    let mut wait = AGAIN.0;
    loop {
        let quiet = 2 * AGAIN.1;
        let passed = tokio::select! {
            passed = tokio::time::timeout(quiet, door.passed_over.notified()) => passed.is_ok(),
            () = stop.cancelled() => return,
        };
        if !passed {
            wait = AGAIN.0;
            continue;
        }
        // Elapsed means the wait is over; otherwise the server stops.
        if tokio::time::timeout(wait, stop.cancelled()).await.is_ok() {
            return;
        }
        wait = (wait * 2).min(AGAIN.1);
        let publishes = door.window.lock().passed_over();
        if publishes > 0 {
            tracing::warn!(
                publishes,
                "the broker is asked to deliver again what could not be stored"
            );
            door.again.notify_one();
        }
    }
}

/// Once a loss, not once a try.
fn note_loss(door: &Door, error: &ConnectionError, wait: Duration) {
    if door.status.is_connected() || wait == RETRY.0 {
        let (host, port) = (&door.config.host, door.config.port);
        tracing::warn!(%error, broker = %format!("{host}:{port}"), "broker not reached: trying again");
    }
}

/// Subscribes again: the broker may have lost the session.
fn greet(door: &Door, connack: &ConnAck) {
    let session = if connack.session_present {
        "kept"
    } else {
        door.session_lost.store(true, Ordering::Release);
        "new"
    };
    door.connected.notify_one();
    tracing::info!(host = %door.config.host, port = door.config.port, session, "broker connected");
    let announced = connack
        .properties
        .as_ref()
        .and_then(|properties| properties.receive_max);
    if let Some(most) = announced.filter(|most| *most < LOW_RECEIVE_MAXIMUM) {
        tracing::warn!(
            receive_maximum = most,
            "the broker takes few messages in flight (Mosquitto's default is 20): raise max_inflight_messages and max_queued_messages"
        );
    }
    let filter = match &door.config.share {
        Some(group) => format!("$share/{group}/{}", topic::READINGS_FILTER),
        None => topic::READINGS_FILTER.to_owned(),
    };
    if let Err(error) = door.input.try_subscribe(filter, QoS::AtLeastOnce) {
        tracing::error!(%error, "the subscription did not fit the client's queue");
    }
}

/// The queue holds more than the receive maximum. Publishes of QoS 0 can find it full all the same, and are left out and counted; so can
/// those of a broker that does not keep to the maximum (Mosquitto 2.0.11), and for them the broker is not read until there is room.
async fn hand_over(door: &Door, publish: Publish, sender: &mpsc::Sender<Received>) {
    if door.is_stopping() {
        return;
    }
    let generation = door.window.lock().generation();
    let received = Received {
        publish,
        generation,
    };
    let Err(TrySendError::Full(received)) = sender.try_send(received) else {
        return;
    };
    if received.publish.qos == QoS::AtMostOnce {
        metrics::counter!(metric::MQTT_DROPPED, "what" => "reading").increment(1);
        return;
    }
    metrics::counter!(metric::MQTT_HELD_BACK).increment(1);
    tokio::select! {
        // The receiver is gone only when the server stops; then the publish stays at the broker.
        _ = sender.send(received) => {}
        () = door.stopping.stop.cancelled() => {}
    }
}

/// Acknowledges what is committed, in order; after a stop, until nothing is left.
async fn acknowledge(door: Arc<Door>) {
    let stop = &door.stopping.stop;
    loop {
        release(&door);
        if stop.is_cancelled() && door.window.lock().len() == 0 {
            break;
        }
        tokio::select! {
            () = door.moved.notified() => {}
            () = stop.cancelled(), if !stop.is_cancelled() => {}
            () = door.stopping.overdue.cancelled() => break,
        }
    }
    door.drained.cancel();
    // Not reached when the connection is lost: then there is nothing to end.
    let _ = tokio::time::timeout(HANG_UP, door.input.disconnect()).await;
}

fn release(door: &Door) {
    let mut window = door.window.lock();
    while let Some((number, publish)) = window.due() {
        let needs_none = publish.qos == QoS::AtMostOnce;
        let packet = publish.pkid;
        // A full queue: what leaves it wakes us again, and a connection that is lost drops what is due.
        if door.input.try_ack(publish).is_err() {
            return;
        }
        window.release();
        door.receipts.lock().acknowledged(packet, number);
        if needs_none {
            window.left();
        }
    }
}
