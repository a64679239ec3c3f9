//! A device's MQTT 5 connection: readings out, and the server's answers on the device's own topics.
//!
//! A task of its own polls rumqttc (publishing and polling in one task can wait for each other for ever) and hands messages over
//! a bounded channel. Each connection is a clean session with a new client: what was lost is sent again by the window, never
//! by the broker. The broker's PUBACK proves nothing; the server's ack does.

use super::backoff::dice;
use super::link::{CLOSE_TIMEOUT, CONNECT_TIMEOUT, LinkEnd, TAKE_AT_ONCE, encode};
use super::target::{Address, Target};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    Filter, Packet, PubAckReason, Publish, PublishProperties, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, Event, EventLoop, Incoming, MqttOptions};
use std::time::Duration;
use tidegate_protocol::message::ServerError;
use tidegate_protocol::{Codec, ErrorCode, Reading, ServerMessage, Wire, topic};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Largest packet taken from the broker, bytes.
const MAX_PACKET_BYTES: u32 = 256 * 1024;
/// How often the broker hears of us.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

type Heard = Result<ServerMessage, LinkEnd>;

/// A device's connection to a broker, subscribed to its answers.
pub(super) struct MqttLink {
    client: AsyncClient,
    topic: String,
    codec: Codec,
    heard: mpsc::Receiver<Heard>,
    poller: JoinHandle<()>,
    end: Option<LinkEnd>,
}

impl Drop for MqttLink {
    fn drop(&mut self) {
        self.poller.abort();
    }
}

impl MqttLink {
    /// Connects and subscribes.
    pub async fn connect(target: &Target) -> Result<Self, LinkEnd> {
        // Room for everything in flight, and once more for what a gap sends again.
        let capacity = 2 * target.options.limits.in_flight + 16;
        let (client, mut events) = AsyncClient::new(options(target)?, capacity);
        let ready = subscribed(&client, &mut events, target);
        let late = |_| {
            LinkEnd::cut(format_args!(
                "no broker within {} s",
                CONNECT_TIMEOUT.as_secs()
            ))
        };
        timeout(CONNECT_TIMEOUT, ready).await.map_err(late)??;
        let (sender, heard) = mpsc::channel(TAKE_AT_ONCE);
        Ok(Self {
            client,
            topic: topic::readings(target.endpoint.as_str(), target.device.as_str()),
            codec: target.codec,
            heard,
            poller: tokio::spawn(poll(events, sender)),
            end: None,
        })
    }

    /// Hands a reading to the polling task, whose queue holds more than the window lets fly.
    pub fn queue(&mut self, reading: &Reading) -> Result<(), LinkEnd> {
        let properties = PublishProperties {
            content_type: Some(self.codec.content_type().to_owned()),
            ..PublishProperties::default()
        };
        let payload = encode(reading, self.codec);
        self.client
            .try_publish_with_properties(
                self.topic.as_str(),
                QoS::AtLeastOnce,
                false,
                payload,
                properties,
            )
            .map_err(|_| LinkEnd::cut("the broker takes no more readings"))
    }

    /// Waits for at least one message and takes along what has come with it.
    pub async fn receive(&mut self, into: &mut Vec<ServerMessage>) -> Result<(), LinkEnd> {
        if let Some(end) = self.end.take() {
            return Err(end);
        }
        let gone = || Err(LinkEnd::cut("the connection to the broker ended"));
        into.push(self.heard.recv().await.unwrap_or_else(gone)?);
        for _ in 1..TAKE_AT_ONCE {
            match self.heard.try_recv() {
                Ok(Ok(message)) => into.push(message),
                Ok(Err(end)) => {
                    self.end = Some(end);
                    break;
                }
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Disconnects and waits for the polling task to see the end.
    pub async fn close(mut self) {
        if self.client.try_disconnect().is_ok() {
            // A broker that does not hang up in time is left.
            timeout(CLOSE_TIMEOUT, &mut self.poller).await.ok();
        }
    }
}

fn options(target: &Target) -> Result<MqttOptions, LinkEnd> {
    let Address::Broker { host, port, login } = &target.address else {
        return Err(LinkEnd::refused("not the address of a broker"));
    };
    let mark = (dice() * f64::from(u32::MAX)) as u32;
    let id = format!("tidegate-device-{}-{mark:08x}", target.device);
    let mut options = MqttOptions::new(id, host.as_str(), *port);
    options.set_keep_alive(KEEP_ALIVE);
    options.set_clean_start(true);
    options.set_max_packet_size(Some(MAX_PACKET_BYTES));
    if let Some((user, password)) = login {
        options.set_credentials(user, password);
    }
    Ok(options)
}

/// Polls until the broker has confirmed the subscriptions.
async fn subscribed(
    client: &AsyncClient,
    events: &mut EventLoop,
    target: &Target,
) -> Result<(), LinkEnd> {
    let (endpoint, device) = (target.endpoint.as_str(), target.device.as_str());
    let topics = [
        topic::predictions(endpoint, device),
        topic::acks(endpoint, device),
        topic::errors(endpoint, device),
    ];
    let filters = topics.map(|topic| Filter::new(topic, QoS::AtLeastOnce));
    client.try_subscribe_many(filters).map_err(LinkEnd::cut)?;
    loop {
        if let Event::Incoming(Packet::SubAck(answer)) =
            events.poll().await.map_err(LinkEnd::cut)?
        {
            let granted =
                |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
            return match answer.return_codes.iter().find(|code| !granted(code)) {
                Some(code) => Err(LinkEnd::refused(format_args!(
                    "the broker refused a subscription: {code:?}"
                ))),
                None => Ok(()),
            };
        }
    }
}

/// Polls until the connection ends or nobody listens any more.
async fn poll(mut events: EventLoop, heard: mpsc::Sender<Heard>) {
    loop {
        let message = match events.poll().await {
            Ok(Event::Incoming(packet)) => read_packet(&packet),
            Ok(Event::Outgoing(_)) => None,
            Err(error) => Some(Err(LinkEnd::cut(error))),
        };
        let Some(message) = message else { continue };
        let ended = message.is_err();
        if heard.send(message).await.is_err() || ended {
            return;
        }
    }
}

fn read_packet(packet: &Incoming) -> Option<Heard> {
    match packet {
        Packet::Publish(publish) => read(publish),
        Packet::PubAck(ack) => match ack.reason {
            PubAckReason::Success => None,
            PubAckReason::NoMatchingSubscribers => Some(Err(LinkEnd::cut(
                "no Tidegate server listens at this broker",
            ))),
            other => Some(Err(LinkEnd::cut(format_args!(
                "the broker refused a reading: {other:?}"
            )))),
        },
        _ => None,
    }
}

fn read(publish: &Publish) -> Option<Heard> {
    let content_type = publish
        .properties
        .as_ref()
        .and_then(|p| p.content_type.as_deref());
    let codec = content_type
        .and_then(Codec::from_content_type)
        .unwrap_or_default();
    match ServerMessage::decode(codec, &publish.payload) {
        Ok(ServerMessage::Error(error)) => Some(Err(refusal(error))),
        Ok(message) => Some(Ok(message)),
        Err(error) => Some(Err(LinkEnd::refused(format_args!(
            "the server's message was not understood: {error}"
        )))),
    }
}

fn refusal(error: ServerError) -> LinkEnd {
    let passing = matches!(
        error.code,
        ErrorCode::Overloaded
            | ErrorCode::ShuttingDown
            | ErrorCode::StreamStopped
            | ErrorCode::Limit
    );
    LinkEnd {
        hung_up: false,
        retry: passing,
        after: error.retry_after_ms.map(Duration::from_millis),
        code: Some(error.code),
        why: error.message,
    }
}

#[cfg(test)]
#[path = "mqtt_tests.rs"]
mod tests;
