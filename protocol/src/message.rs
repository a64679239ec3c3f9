//! What a device and the server say on a stream.
//!
//! Owns the wire enums of `/v1/stream` and of the MQTT topics. They derive bincode's own Encode and Decode; their
//! JSON form is written in `json/`. The order of variants and fields is the wire layout: variants are only appended,
//! and the fields of a variant never change.

use crate::MISSING_BITS;
use crate::codec::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// One vector of feature values as a device sends it.
#[derive(Debug, Clone, PartialEq, Default, Encode, Decode)]
pub struct Reading {
    /// Epoch of the device's counter; `None` is the connection's epoch.
    pub epoch: Option<u64>,
    /// Number within the epoch; `None` leaves the numbering to the server.
    pub seq: Option<u64>,
    /// When it was measured, Unix ms; `None` is the arrival time.
    pub ts: Option<i64>,
    /// The measured values.
    pub values: Values,
    /// Back-filled: folded like any other, raises no live alert.
    pub historical: bool,
}

/// Feature values in schema order, or by name.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum Values {
    /// In the order of the endpoint's features. A missing value is [`crate::MISSING`].
    Ordered(Vec<f32>),
    /// By feature name, each once, in any order; a feature left out is missing.
    Named(Vec<(String, f32)>),
}

impl Default for Values {
    fn default() -> Self {
        Self::Ordered(Vec::new())
    }
}

impl Values {
    /// How many values were sent.
    pub fn len(&self) -> usize {
        match self {
            Self::Ordered(values) => values.len(),
            Self::Named(values) => values.len(),
        }
    }

    /// Whether none were sent.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Whether `value` may stand in a reading: finite, or the one NaN that means "missing".
pub fn is_acceptable(value: f32) -> bool {
    value.is_finite() || value.to_bits() == MISSING_BITS
}

/// What a device says on its stream.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum DeviceMessage {
    /// One reading.
    Reading(Reading),
    /// Several readings in order; refused whole when it cannot be decoded.
    Batch(Vec<Reading>),
    /// Ground truth for an earlier reading.
    Feedback(Feedback),
    /// Forget what was learned of this stream and calibrate again.
    Reset,
}

/// Ground truth for a reading of this stream.
#[derive(Debug, Clone, PartialEq, Encode, Decode, Serialize)]
pub struct Feedback {
    /// The reading's epoch; `None` is the connection's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The reading's number.
    pub seq: u64,
    /// What was true.
    pub label: Label,
    /// The device's own mark, echoed once the feedback is committed.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<u64>,
}

/// A ground truth: a class or a number.
#[derive(Debug, Clone, PartialEq, Encode, Decode, Serialize)]
#[serde(untagged)]
pub enum Label {
    /// A class by its name, at most 128 bytes.
    Text(String),
    /// A measured value, finite.
    Number(f32),
}

/// What the server says on a stream, and on the device's MQTT topics.
///
/// `epoch` fields are `None` where they equal the epoch of the connection's welcome; over MQTT they are always there.
#[derive(Debug, Clone, PartialEq, Encode, Decode, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ServerMessage {
    /// First message of a connection.
    Welcome(Welcome),
    /// The answer to one reading.
    Prediction(Prediction),
    /// Everything up to `seq` is committed, but what a nack or gap named before.
    Ack(Ack),
    /// This reading will never be taken.
    Nack(Nack),
    /// The readings `from..=to` were skipped; they may still come late.
    Gap(Gap),
    /// Why the connection closes next.
    Error(ServerError),
    /// Feedback is committed.
    Feedback(FeedbackStored),
    /// A reset is committed: the next reading starts a new calibration.
    Reset(ResetDone),
}

/// What a device needs to know to go on.
#[derive(Debug, Clone, PartialEq, Encode, Decode, Serialize, Deserialize)]
pub struct Welcome {
    /// The endpoint.
    pub endpoint: String,
    /// The device.
    pub device: String,
    /// The epoch that readings without one belong to.
    pub epoch: u64,
    /// Committed high-water mark + 1 (0 for a new stream or epoch): send from here.
    pub resume_from: u64,
    /// The endpoint's features in order.
    pub features: Vec<FeatureInfo>,
    /// The model that answers.
    pub model: String,
    /// Its version.
    pub version: String,
    /// Seconds between pings.
    pub ping_s: u32,
    /// Largest message, bytes.
    pub max_frame_bytes: u32,
}

/// Name and unit of one feature.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct FeatureInfo {
    /// The name used in `values` objects.
    pub name: String,
    /// The unit, for people.
    pub unit: String,
}

/// A version's answer for one reading.
#[derive(Debug, Clone, PartialEq, Encode, Decode, Serialize, Deserialize)]
pub struct Prediction {
    /// The reading's epoch, where it is not the welcome's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The reading's number.
    pub seq: u64,
    /// The reading's time, Unix ms.
    pub ts: i64,
    /// The model that answered.
    pub model: String,
    /// Its version.
    pub version: String,
    /// The answer.
    pub output: Output,
    /// From decode to step done, microseconds.
    pub latency_us: u32,
}

/// The answer itself, by task kind.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum Output {
    /// The detector still learns what is normal.
    Calibrating {
        /// Readings seen.
        seen: u32,
        /// Readings needed.
        needed: u32,
    },
    /// A distance from normal and its limit.
    Anomaly {
        /// Distance from normal.
        score: f32,
        /// The limit.
        threshold: f32,
        /// Whether the detector calls it an anomaly.
        anomaly: bool,
    },
    /// A class with the probabilities of all.
    Classification {
        /// The most probable class.
        label: String,
        /// Class and probability, in the model's order.
        probabilities: Vec<(String, f32)>,
    },
    /// Named values.
    Regression {
        /// Name and value, in the model's order.
        values: Vec<(String, f32)>,
    },
    /// Values ahead of now.
    Forecast {
        /// Readings ahead.
        horizon: Vec<f32>,
        /// Expected value at each horizon.
        values: Vec<f32>,
        /// Quantile (as text, "0.1") and its values.
        quantiles: Vec<(String, Vec<f32>)>,
    },
    /// The step failed; the state is as it was before.
    Failed(String),
    /// Stored but not folded into the state; the text says why ("late").
    Skipped(String),
}

impl Output {
    /// Whether this is an anomaly call.
    pub fn is_anomaly(&self) -> bool {
        matches!(self, Self::Anomaly { anomaly: true, .. })
    }
}

/// Committed up to and including `seq`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Ack {
    /// The epoch, where it is not the welcome's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Committed high-water mark.
    pub seq: u64,
    /// Late readings committed since the last ack.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub late: Vec<u64>,
}

/// A permanent refusal.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Nack {
    /// The epoch, where it is not the welcome's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The reading's number; `None` where it had none or none could be read.
    pub seq: Option<u64>,
    /// Why, for programs.
    pub code: NackCode,
    /// Why, for people.
    pub message: String,
}

/// A skipped range, both ends inclusive.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Gap {
    /// The epoch, where it is not the welcome's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// First number skipped.
    pub from: u64,
    /// Last number skipped.
    pub to: u64,
}

/// Why the connection ends.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct ServerError {
    /// Why, for programs.
    pub code: ErrorCode,
    /// Why, for people.
    pub message: String,
    /// When to try again, where trying again can help.
    pub retry_after_ms: Option<u64>,
}

/// Echo of a committed feedback.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct FeedbackStored {
    /// The epoch, where it is not the welcome's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The reading's number.
    pub seq: u64,
    /// The device's own mark.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<u64>,
}

/// A committed reset.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct ResetDone {
    /// The epoch it happened in.
    pub epoch: u64,
}

/// An enum of codes: the variant, and its text in JSON.
macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $text)] $variant,)*
        }

        impl $name {
            /// Every code, in wire order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The code as it stands in JSON.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

codes! {
    /// Why a reading will never be taken.
    NackCode {
        /// Not a message of the protocol, or values of the wrong number, name or kind.
        BadReading = "bad_reading",
        /// A value outside the feature's `hard_range`.
        OutOfRange = "out_of_range",
        /// The number is known with other values.
        SeqReused = "seq_reused",
        /// The number is known, but its row is retired.
        AlreadyTaken = "already_taken",
        /// The stream has moved to a later epoch.
        OldEpoch = "old_epoch",
        /// With a number where the server counts, or without where the device does.
        Numbering = "numbering",
        /// No version of the endpoint can run.
        NoModel = "no_model",
        /// Feedback for a reading that is not known.
        UnknownReading = "unknown_reading",
    }
}

codes! {
    /// Why a connection ends, or a request is refused.
    ErrorCode {
        /// A parameter or message that cannot be understood.
        BadRequest = "bad_request",
        /// No such endpoint.
        UnknownEndpoint = "unknown_endpoint",
        /// No such version.
        UnknownVersion = "unknown_version",
        /// A newer connection of the stream took over.
        TakenOver = "taken_over",
        /// The server cannot take readings now.
        Overloaded = "overloaded",
        /// The server is stopping.
        ShuttingDown = "shutting_down",
        /// The peer reads too slowly.
        TooSlow = "too_slow",
        /// A text frame on a binary subprotocol or the reverse.
        WrongFrame = "wrong_frame",
        /// The message is larger than `max_frame_bytes`.
        TooLarge = "too_large",
        /// Too many connections or subscriptions.
        Limit = "limit",
        /// The page's origin is not on the list.
        OriginNotAllowed = "origin_not_allowed",
        /// The stream was stopped after a row that the store refused; reconnect to reload it.
        StreamStopped = "stream_stopped",
        /// The payload of an MQTT message was refused.
        BadReading = "bad_reading",
        /// No frame came within the pong deadline.
        NoPong = "no_pong",
    }
}
