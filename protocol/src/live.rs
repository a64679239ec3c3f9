//! What subscribers and the server say on `/v1/live`, and the [`Sample`] that the HTTP API shares with it.
//!
//! An event carries no subscription id: its bytes are encoded once a codec and shared by every subscriber, who tell
//! by the topic. `offset` is the sample id given in commit order (see `protocol/README.md`, "Recovering").

use crate::codec::{Decode, Encode};
use crate::message::{Output, ServerError};
use serde::{Deserialize, Serialize};

/// What a subscriber says.
#[derive(Debug, Clone, PartialEq, Encode, Decode, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum LiveRequest {
    /// Listen to a topic.
    Subscribe(Subscribe),
    /// Stop listening.
    Unsubscribe {
        /// The subscription's id.
        id: u64,
    },
}

/// A wish to listen.
#[derive(Debug, Clone, PartialEq, Encode, Decode, Serialize)]
pub struct Subscribe {
    /// The subscriber's own number for it.
    pub id: u64,
    /// `predictions/{endpoint}/{device}`, `devices/{device}`, `alerts`, `alerts/{endpoint}`, `alerts/{endpoint}/{device}` `experiments/{name}` or `system`; `*` matches one level.
    pub topic: String,
    /// Go on after this position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Position>,
    /// What happens when the subscriber is slower than the events.
    pub policy: Policy,
    /// At most so many events a second a topic; `None` is no limit. Only with `latest`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_hz: Option<f32>,
}

/// A place in the committed log.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Position {
    /// Which log: an id that changes when the database is another one.
    pub log: String,
    /// The last offset seen.
    pub offset: u64,
}

/// What happens to events that a slow subscriber has not read yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// The newest event of each topic replaces an unsent older one.
    #[default]
    Latest,
    /// The oldest unsent events go; their number is told.
    DropOldest,
    /// The connection is closed with 4008.
    Disconnect,
}

/// What the server says to a subscriber.
#[derive(Debug, Clone, PartialEq, Encode, Decode, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all are events; a box would cost each an allocation"
)]
pub enum LiveMessage {
    /// The subscription stands.
    Subscribed {
        /// The subscription's id.
        id: u64,
        /// The log's id.
        log: String,
        /// Events after this offset follow.
        offset: u64,
        /// Whether everything since `from` follows; otherwise the latest of each topic does.
        recovered: bool,
    },
    /// The subscription is gone.
    Unsubscribed {
        /// The subscription's id.
        id: u64,
    },
    /// Something was committed or happened.
    Event(Event),
    /// So many events of a `drop_oldest` subscription were left out since the last such message.
    Dropped {
        /// The subscription's id.
        id: u64,
        /// How many.
        count: u64,
    },
    /// A request was refused (the connection lives on), or the connection ends next.
    Error(ServerError),
}

/// One event.
#[derive(Debug, Clone, PartialEq, Encode, Decode, Serialize, Deserialize)]
pub struct Event {
    /// Position in the committed log; for events that are not rows, the last one before it.
    pub offset: u64,
    /// The topic, without wildcards.
    pub topic: String,
    /// What happened.
    pub data: LiveData,
}

/// The content of an event, by topic.
#[derive(Debug, Clone, PartialEq, Encode, Decode, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LiveData {
    /// `predictions/...`
    Sample(Sample),
    /// `devices/...`
    Device(DeviceEvent),
    /// `alerts/...`
    Alert(AlertEvent),
    /// `system`
    System(SystemEvent),
    /// `experiments/...`
    Experiment(ExperimentEvent),
    /// `alerts/...`: what became of an alert that a rule raised.
    AlertChange(AlertChange),
}

/// One stored row: reading, served prediction, version, timings.
#[derive(Debug, Clone, PartialEq, Encode, Decode, Serialize, Deserialize)]
pub struct Sample {
    /// Given in commit order.
    pub id: u64,
    /// The endpoint.
    pub endpoint: String,
    /// The device.
    pub device: String,
    /// The reading's epoch.
    pub epoch: u64,
    /// The reading's number.
    pub seq: u64,
    /// When it was measured, Unix ms.
    pub ts: i64,
    /// When it arrived, Unix ms.
    pub received_at: i64,
    /// Values in the order of the endpoint's features; JSON `null` is a missing one.
    #[serde(with = "crate::json::values")]
    pub values: Vec<f32>,
    /// The answer.
    pub output: Output,
    /// The model that answered.
    pub model: String,
    /// Its version.
    pub version: String,
    /// The experiment's arm, where there was one.
    pub arm: Option<String>,
    /// From decode to step done, microseconds.
    pub latency_us: u32,
    /// What was odd about the reading: `clock_skew`, `out_of_range`, `historical`, `late`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
}

/// A device came, went or skipped.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct DeviceEvent {
    /// The device.
    pub device: String,
    /// The endpoint.
    pub endpoint: String,
    /// What happened.
    pub state: DeviceState,
    /// When, Unix ms.
    pub at: i64,
    /// First and last number skipped, for `gap`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<(u64, u64)>,
}

/// What happened to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// Connected, or seen over MQTT.
    Online,
    /// Disconnected, or not seen for `offline_after`.
    Offline,
    /// Skipped readings.
    Gap,
}

/// Something a person should know.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct AlertEvent {
    /// The endpoint.
    pub endpoint: String,
    /// The device.
    pub device: String,
    /// What kind, for programs: `seq_reused`.
    pub alert: String,
    /// What, for people.
    pub message: String,
    /// When, Unix ms.
    pub at: i64,
}

/// An alert that a rule raised was opened, acknowledged or resolved.
#[derive(Debug, Clone, PartialEq, Encode, Decode, Serialize, Deserialize)]
pub struct AlertChange {
    /// The alert; the same in every change of it.
    pub id: u64,
    /// The rule's name.
    pub rule: String,
    /// What the rule watches: `anomaly`, `score`, `silent`, `store_lag`, `queue`, `drift`, `guardrail`.
    pub kind: String,
    /// `info`, `warning` or `critical`.
    pub severity: String,
    /// What happened: `opened`, `acknowledged`, `resolved`.
    pub change: String,
    /// The endpoint; empty where it is about the server.
    pub endpoint: String,
    /// The device; empty where it is about an endpoint or the server.
    pub device: String,
    /// What, for people.
    pub message: String,
    /// Who acknowledged it.
    pub who: Option<String>,
    /// When, Unix ms.
    pub at: i64,
}

/// What the numbers of an experiment say.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct ExperimentEvent {
    /// The experiment's name.
    pub experiment: String,
    /// The endpoint.
    pub endpoint: String,
    /// `running`, `paused`, `stopped`, `promoted` or `rolled_back`.
    pub state: String,
    /// Of each challenger.
    pub verdicts: Vec<ArmVerdict>,
    /// When, Unix ms.
    pub at: i64,
}

/// What is said of one challenger.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct ArmVerdict {
    /// The arm's name.
    pub arm: String,
    /// `collecting`, `better`, `worse`, `no difference beyond the margin` or `broken split`.
    pub verdict: String,
    /// The verdict with its numbers, for people.
    pub words: String,
}

/// Rates of the whole server, once a second; not recoverable.
#[derive(Debug, Clone, PartialEq, Encode, Decode, Serialize, Deserialize)]
pub struct SystemEvent {
    /// Devices online now.
    pub devices_online: u64,
    /// Readings taken a second.
    pub readings_per_s: f32,
    /// Predictions pushed a second.
    pub predictions_per_s: f32,
    /// Readings committed a second.
    pub acks_per_s: f32,
    /// Subscribers connected.
    pub subscribers: u64,
    /// Age of the oldest reading that is not committed, ms.
    pub store_lag_ms: f32,
    /// Seconds since the server started.
    pub uptime_s: u64,
}
