//! The answering client: predictions, acks, nacks, gaps and errors on the device's topics, and this server's status.
//!
//! An answer waits for a broker that takes none for `mqtt.answer_wait_s`; after that, answers that find the client's queue full are left out at
//! once and counted, until the broker takes one again: a publish is acknowledged behind its answers, and must not wait for each.
//! Answers that a lost connection left in the client are said over the next one.

use super::{Door, HANG_UP, MqttStatus, RETRY, hang_up, last_will, options, pause, status_message};
use crate::config::MqttConfig;
use crate::push::{Drained, Outbox};
use crate::stream::StreamKey;
use crate::telemetry::metric;
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, EventLoop, Request};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tidegate_protocol::message::ServerError;
use tidegate_protocol::{
    Codec, DeviceId, EndpointName, ErrorCode, NackCode, ServerMessage, Wire, topic,
};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// The client; its queue is `mqtt.outbox` long.
pub(super) fn connect(config: &MqttConfig) -> (AsyncClient, EventLoop) {
    let mut wanted = options(config, "out");
    wanted
        .set_clean_start(true)
        .set_last_will(last_will(config));
    AsyncClient::new(wanted, config.outbox)
}

pub(super) fn spawn(
    door: &Arc<Door>,
    events: EventLoop,
    outboxes: mpsc::Receiver<Arc<Outbox>>,
    tracker: &TaskTracker,
) {
    tracker.spawn(poll(Arc::clone(door), events));
    tracker.spawn(say_all(Arc::clone(door), outboxes));
}

async fn poll(door: Arc<Door>, mut events: EventLoop) {
    let replying: fn(&MqttStatus) -> &AtomicBool = |status| &status.replying;
    let mut connected = false;
    let mut wait = RETRY.0;
    let mut kept = VecDeque::new();
    loop {
        let event = tokio::select! {
            event = events.poll() => event,
            () = door.give_up(connected) => break,
        };
        match event {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                (connected, wait) = (true, RETRY.0);
                door.status.set(replying, true);
                announce(&door);
                events.pending.append(&mut kept);
            }
            Ok(Event::Outgoing(Outgoing::Publish(_))) => door.status.gone(1),
            Ok(Event::Outgoing(Outgoing::Disconnect)) => {
                hang_up(&mut events).await;
                break;
            }
            Ok(_) => {}
            Err(_) => {
                connected = false;
                door.status.set(replying, false);
                keep(&door, &mut events, &mut kept);
                pause(&mut wait, &door.stopping.stop).await;
            }
        }
    }
}

fn announce(door: &Door) {
    let status = topic::node_status(&door.config.node);
    let online = status_message("online");
    door.status.given(1);
    if let Err(error) = door
        .output
        .try_publish(status, QoS::AtLeastOnce, true, online)
    {
        door.status.gone(1);
        tracing::warn!(%error, "the status did not fit the client's queue");
    }
}

/// Takes out of the client what the lost connection left in it, for the next one: the client itself would drop it with the broker's
/// session. The newest are kept, as many as the queue may hold.
fn keep(door: &Door, events: &mut EventLoop, kept: &mut VecDeque<Request>) {
    for request in events.pending.drain(..) {
        let Request::Publish(mut publish) = request else {
            continue;
        };
        // One with a packet id had left, and will again under another.
        if std::mem::take(&mut publish.pkid) != 0 {
            door.status.given(1);
        }
        kept.push_back(Request::Publish(publish));
    }
    // One whose packet id was in use is stashed there.
    if let Some(mut publish) = events.state.collision.take() {
        publish.pkid = 0;
        kept.push_back(Request::Publish(publish));
    }
    let over = kept.len().saturating_sub(door.config.outbox);
    kept.drain(..over);
    door.status.gone(over);
    door.status.dropped(over);
}

/// Says what the outboxes hold until the server has stopped and nothing more is to be said.
async fn say_all(door: Arc<Door>, mut outboxes: mpsc::Receiver<Arc<Outbox>>) {
    let mut drained = Drained::default();
    let mut voice = Voice {
        door: &door,
        stalled: false,
    };
    loop {
        metrics::gauge!(metric::MQTT_OUTBOX).set(outboxes.len() as f64);
        let outbox = tokio::select! {
            biased;
            () = door.stopping.overdue.cancelled() => None,
            outbox = outboxes.recv() => outbox,
            () = door.drained.cancelled() => None,
        };
        let Some(outbox) = outbox else { break };
        outbox.drain(&mut drained);
        if let Some(key) = outbox.stream() {
            voice.say_drained(key, &mut drained).await;
            outbox.pay(&drained);
        }
        settle(&door, &mut drained);
    }
    goodbye(&door).await;
}

/// Publishes whose answers were said may be acknowledged.
fn settle(door: &Door, drained: &mut Drained) {
    door.settle(|window| {
        drained
            .receipts
            .drain(..)
            .for_each(|number| window.done(number));
        drained
            .abandoned
            .drain(..)
            .for_each(|number| window.abandon(number));
    });
}

/// Who speaks to the broker, and whether it listens.
struct Voice<'d> {
    door: &'d Door,
    /// An answer has waited in vain: until one is taken, none waits.
    stalled: bool,
}

impl Voice<'_> {
    async fn say_drained(&mut self, key: &StreamKey, drained: &mut Drained) {
        if drained.left_out > 0 {
            self.door.status.dropped(drained.left_out);
        }
        let ack = drained.ack.take().map(ServerMessage::Ack);
        for message in drained.messages.drain(..).chain(ack) {
            if let Some(error) = as_error(&message) {
                self.publish(&key.endpoint, &key.device, &error).await;
            }
            self.publish(&key.endpoint, &key.device, &message).await;
        }
    }

    async fn publish(&mut self, endpoint: &EndpointName, device: &DeviceId, said: &ServerMessage) {
        if self.stalled {
            self.stalled = !try_say(self.door, endpoint, device, said);
            return;
        }
        let topic = topic_of(endpoint, device, said);
        let bytes = said.to_bytes(Codec::Json);
        let client = &self.door.output;
        let sent =
            client.publish_with_properties(topic, QoS::AtLeastOnce, false, bytes, properties());
        self.door.status.given(1);
        let sent = tokio::time::timeout(self.door.config.answer_wait, sent).await;
        if matches!(sent, Ok(Ok(()))) {
            return;
        }
        self.door.status.gone(1);
        self.door.status.dropped(1);
        self.stalled = true;
        tracing::warn!("the broker takes no answers: they are left out until it does");
    }
}

/// Says an answer if the client has room for it; otherwise it is left out and counted.
pub(super) fn try_say(
    door: &Door,
    endpoint: &EndpointName,
    device: &DeviceId,
    said: &ServerMessage,
) -> bool {
    let topic = topic_of(endpoint, device, said);
    try_publish(door, topic, said.to_bytes(Codec::Json))
}

/// Publishes JSON if the client has room for it; otherwise it is left out and counted.
pub(super) fn try_publish(door: &Door, topic: String, bytes: Vec<u8>) -> bool {
    door.status.given(1);
    let sent = door.output.try_publish_with_properties(
        topic,
        QoS::AtLeastOnce,
        false,
        bytes,
        properties(),
    );
    if sent.is_err() {
        door.status.gone(1);
        door.status.dropped(1);
    }
    sent.is_ok()
}

/// A payload that is no message is answered on the errors topic too.
fn as_error(message: &ServerMessage) -> Option<ServerMessage> {
    match message {
        ServerMessage::Nack(nack) if nack.code == NackCode::BadReading => {
            Some(ServerMessage::Error(ServerError {
                code: ErrorCode::BadReading,
                message: nack.message.clone(),
                retry_after_ms: None,
            }))
        }
        _ => None,
    }
}

fn topic_of(endpoint: &EndpointName, device: &DeviceId, message: &ServerMessage) -> String {
    let (endpoint, device) = (endpoint.as_str(), device.as_str());
    match message {
        ServerMessage::Prediction(_) => topic::predictions(endpoint, device),
        ServerMessage::Error(_) => topic::errors(endpoint, device),
        _ => topic::acks(endpoint, device),
    }
}

fn properties() -> PublishProperties {
    PublishProperties {
        content_type: Some(Codec::Json.content_type().to_owned()),
        ..PublishProperties::default()
    }
}

async fn goodbye(door: &Door) {
    let status = topic::node_status(&door.config.node);
    let offline = status_message("offline");
    let farewell = async {
        door.output
            .publish(status, QoS::AtLeastOnce, true, offline)
            .await?;
        door.output.disconnect().await
    };
    door.status.given(1);
    let sent = tokio::time::timeout(HANG_UP, farewell).await;
    // A broker that is gone learns it from the will.
    if !matches!(sent, Ok(Ok(()))) {
        door.status.gone(1);
    }
}
