//! Answers out: predictions, acks, nacks, gaps and errors on the device's topics, and this server's status.

use super::{Door, RETRY, SharedClient, last_will, options, pause, status_message};
use crate::push::{Drained, Outbox};
use crate::stream::StreamKey;
use crate::telemetry::metric;
use parking_lot::Mutex;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, EventLoop};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tidegate_protocol::message::ServerError;
use tidegate_protocol::{Codec, ErrorCode, NackCode, ServerMessage, Wire, topic};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// Longest that one answer waits for the broker before it is left out (counted); acks are cumulative and a device that misses
/// an answer sends again.
const PUBLISH_WAIT: Duration = Duration::from_secs(10);

pub(super) fn spawn(
    door: &Arc<Door>,
    outboxes: mpsc::UnboundedReceiver<Arc<Outbox>>,
    tracker: &TaskTracker,
) {
    let (client, event_loop) = connect(door);
    let client = Arc::new(Mutex::new(client));
    tracker.spawn(poll(Arc::clone(door), Arc::clone(&client), event_loop));
    tracker.spawn(say_all(Arc::clone(door), client, outboxes));
}

fn connect(door: &Door) -> (AsyncClient, EventLoop) {
    let mut wanted = options(&door.config, "out");
    wanted
        .set_clean_start(true)
        .set_last_will(last_will(&door.config));
    AsyncClient::new(wanted, door.config.outbox)
}

async fn poll(door: Arc<Door>, client: SharedClient, mut event_loop: EventLoop) {
    let replying: fn(&super::MqttStatus) -> &AtomicBool = |status| &status.replying;
    let mut wait = RETRY.0;
    loop {
        match event_loop.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                wait = RETRY.0;
                door.status.set(replying, true);
                let status = topic::node_status(&door.config.node);
                let client = client.lock().clone();
                if let Err(error) =
                    client.try_publish(status, QoS::AtLeastOnce, true, status_message("online"))
                {
                    tracing::warn!(%error, "the status did not fit the client's queue");
                }
            }
            Ok(Event::Outgoing(rumqttc::Outgoing::Disconnect)) => return,
            Ok(_) => {}
            Err(_) if door.stop.is_cancelled() => return,
            Err(_) => {
                door.status.set(replying, false);
                // A publish whose packet id collided is stashed and never leaves once the broker forgot the session.
                if event_loop.state.collision.is_some() {
                    let (fresh, rebuilt) = connect(&door);
                    *client.lock() = fresh;
                    event_loop = rebuilt;
                }
                pause(&mut wait, &door.stop).await;
            }
        }
    }
}

/// Says what the outboxes hold until the server has stopped and nothing more is to be said.
async fn say_all(
    door: Arc<Door>,
    client: SharedClient,
    mut outboxes: mpsc::UnboundedReceiver<Arc<Outbox>>,
) {
    let mut drained = Drained::default();
    loop {
        metrics::gauge!(metric::MQTT_OUTBOX).set(outboxes.len() as f64);
        let outbox = tokio::select! {
            outbox = outboxes.recv() => outbox,
            () = idle(&door), if door.stop.is_cancelled() && outboxes.is_empty() => None,
            () = door.stop.cancelled(), if !door.stop.is_cancelled() => continue,
        };
        let Some(outbox) = outbox else { break };
        outbox.drain(&mut drained);
        let Some(key) = outbox.stream() else { continue };
        if drained.closing.take().is_some() {
            metrics::counter!(metric::MQTT_DROPPED, "what" => "answer").increment(1);
        }
        let ack = drained.ack.take().map(ServerMessage::Ack);
        for message in drained.messages.drain(..).chain(ack) {
            say(&client, key, &message).await;
        }
        let mut window = door.window.lock();
        drained
            .receipts
            .drain(..)
            .for_each(|number| window.done(number));
        drained
            .abandoned
            .drain(..)
            .for_each(|number| window.abandon(number));
    }
    goodbye(&door, &client).await;
}

/// Until every publish that was taken is acknowledged.
async fn idle(door: &Door) {
    while door.window.lock().len() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn say(client: &SharedClient, key: &StreamKey, message: &ServerMessage) {
    let (endpoint, device) = (key.endpoint.as_str(), key.device.as_str());
    let topic = match message {
        ServerMessage::Prediction(_) => topic::predictions(endpoint, device),
        ServerMessage::Error(_) => topic::errors(endpoint, device),
        ServerMessage::Nack(nack) if nack.code == NackCode::BadReading => {
            let message = nack.message.clone();
            let error = ServerError {
                code: ErrorCode::BadReading,
                message,
                retry_after_ms: None,
            };
            let errors = topic::errors(endpoint, device);
            publish(client, errors, &ServerMessage::Error(error)).await;
            topic::acks(endpoint, device)
        }
        _ => topic::acks(endpoint, device),
    };
    publish(client, topic, message).await;
}

async fn publish(client: &SharedClient, topic: String, message: &ServerMessage) {
    let properties = PublishProperties {
        content_type: Some(Codec::Json.content_type().to_owned()),
        ..PublishProperties::default()
    };
    let client = client.lock().clone();
    let bytes = message.to_bytes(Codec::Json);
    let sent = client.publish_with_properties(topic, QoS::AtLeastOnce, false, bytes, properties);
    if !matches!(tokio::time::timeout(PUBLISH_WAIT, sent).await, Ok(Ok(()))) {
        metrics::counter!(metric::MQTT_DROPPED, "what" => "answer").increment(1);
    }
}

async fn goodbye(door: &Door, client: &SharedClient) {
    let client = client.lock().clone();
    let status = topic::node_status(&door.config.node);
    let farewell = async {
        client
            .publish(status, QoS::AtLeastOnce, true, status_message("offline"))
            .await?;
        client.disconnect().await
    };
    // A broker that is gone learns it from the will.
    let _ = tokio::time::timeout(Duration::from_secs(1), farewell).await;
}
