//! The JSON forms that differ from the wire enums: device messages without a `type`, values as array or object,
//! outputs told apart by their fields.
//!
//! Owns the mapping only; `codec.rs` calls it. Reads in one pass without an intermediate tree. Unknown fields are
//! ignored. A number beyond f32 becomes an infinity here, so that the reading keeps its seq and is refused by name.

use crate::message::{DeviceMessage, Feedback, Label, Output, Reading, Values};
use crate::{MAX_BATCH, MAX_VALUES, MISSING};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::collections::BTreeMap;
use std::fmt;

/// One feature value: a number, or `null` for a missing one.
struct Value(f32);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl Visitor<'_> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or null")
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value(value as f32))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value(value as f32))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value(value as f32))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value(MISSING))
    }
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValuesVisitor)
    }
}

struct ValuesVisitor;

impl<'de> Visitor<'de> for ValuesVisitor {
    type Value = Values;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of numbers or an object by feature name")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Values, A::Error> {
        let mut values = Vec::with_capacity(8);
        while let Some(Value(value)) = items.next_element()? {
            check_count(values.len(), MAX_VALUES, "values")?;
            values.push(value);
        }
        Ok(Values::Ordered(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Values, A::Error> {
        let mut values = Vec::with_capacity(8);
        while let Some((name, Value(value))) = entries.next_entry::<String, Value>()? {
            check_count(values.len(), MAX_VALUES, "values")?;
            values.push((name, value));
        }
        Ok(Values::Named(values))
    }
}

fn check_count<E: de::Error>(have: usize, most: usize, what: &str) -> Result<(), E> {
    if have < most {
        return Ok(());
    }
    Err(E::custom(format_args!("more than {most} {what}")))
}

impl Serialize for Values {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Ordered(values) => serializer.collect_seq(values),
            Self::Named(values) => serialize_pairs(values, serializer),
        }
    }
}

/// (De)serialises a bare list of values with `null` for a missing one.
pub(crate) mod values {
    use super::{Deserialize, Deserializer, Serializer, Value};

    pub fn serialize<S: Serializer>(values: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
        let values = Vec::<Value>::deserialize(deserializer)?;
        Ok(values.into_iter().map(|value| value.0).collect())
    }
}

/// The kinds of message a device may name.
#[derive(Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Reading,
    Batch,
    Feedback,
    Reset,
}

/// Every field that a device may send, whatever its `type`.
#[derive(serde::Deserialize)]
struct DeviceFields {
    #[serde(rename = "type")]
    kind: Option<Kind>,
    epoch: Option<u64>,
    seq: Option<u64>,
    ts: Option<i64>,
    values: Option<Values>,
    #[serde(default)]
    historical: bool,
    readings: Option<Batch>,
    label: Option<Label>,
    #[serde(rename = "ref")]
    reference: Option<u64>,
}

/// A reading in an array: an object without `type`, or bare values.
#[derive(serde::Deserialize)]
struct ReadingFields {
    epoch: Option<u64>,
    seq: Option<u64>,
    ts: Option<i64>,
    values: Values,
    #[serde(default)]
    historical: bool,
}

struct Batch(Vec<Reading>);

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(BatchVisitor)
    }
}

struct BatchVisitor;

impl<'de> Visitor<'de> for BatchVisitor {
    type Value = Batch;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of readings")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Batch, A::Error> {
        let mut readings = Vec::with_capacity(8);
        while let Some(fields) = items.next_element::<ReadingFields>()? {
            check_count(readings.len(), MAX_BATCH, "readings in a batch")?;
            readings.push(Reading {
                epoch: fields.epoch,
                seq: fields.seq,
                ts: fields.ts,
                values: fields.values,
                historical: fields.historical,
            });
        }
        Ok(Batch(readings))
    }
}

/// Reads what a device said.
pub(crate) fn read_device_message(bytes: &[u8]) -> Result<DeviceMessage, serde_json::Error> {
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    if first == Some(&b'[') {
        let values = serde_json::from_slice(bytes)?;
        return Ok(DeviceMessage::Reading(Reading { values, ..Reading::default() }));
    }
    let fields: DeviceFields = serde_json::from_slice(bytes)?;
    device_message(fields)
}

fn device_message(fields: DeviceFields) -> Result<DeviceMessage, serde_json::Error> {
    let missing = |field| <serde_json::Error as de::Error>::missing_field(field);
    Ok(match fields.kind.unwrap_or(Kind::Reading) {
        Kind::Reading => DeviceMessage::Reading(Reading {
            epoch: fields.epoch,
            seq: fields.seq,
            ts: fields.ts,
            values: fields.values.ok_or_else(|| missing("values"))?,
            historical: fields.historical,
        }),
        Kind::Batch => DeviceMessage::Batch(fields.readings.ok_or_else(|| missing("readings"))?.0),
        Kind::Feedback => DeviceMessage::Feedback(Feedback {
            epoch: fields.epoch,
            seq: fields.seq.ok_or_else(|| missing("seq"))?,
            label: fields.label.ok_or_else(|| missing("label"))?,
            reference: fields.reference,
        }),
        Kind::Reset => DeviceMessage::Reset,
    })
}

/// The epoch and seq of a message that could not be read otherwise, so that its refusal can name it.
pub(crate) fn salvage_numbers(bytes: &[u8]) -> (Option<u64>, Option<u64>) {
    let Ok(tree) = serde_json::from_slice::<serde_json::Value>(bytes) else {
        return (None, None);
    };
    let number = |name| tree.get(name).and_then(serde_json::Value::as_u64);
    (number("epoch"), number("seq"))
}

impl Serialize for DeviceMessage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Reading(reading) => reading.serialize(serializer),
            Self::Batch(readings) => {
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("type", "batch")?;
                map.serialize_entry("readings", readings)?;
                map.end()
            }
            Self::Feedback(feedback) => TypedFeedback { kind: "feedback", feedback }.serialize(serializer),
            Self::Reset => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("type", "reset")?;
                map.end()
            }
        }
    }
}

#[derive(serde::Serialize)]
struct TypedFeedback<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    feedback: &'a Feedback,
}

impl Serialize for Reading {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(epoch) = self.epoch {
            map.serialize_entry("epoch", &epoch)?;
        }
        if let Some(seq) = self.seq {
            map.serialize_entry("seq", &seq)?;
        }
        if let Some(ts) = self.ts {
            map.serialize_entry("ts", &ts)?;
        }
        map.serialize_entry("values", &self.values)?;
        if self.historical {
            map.serialize_entry("historical", &true)?;
        }
        map.end()
    }
}

/// Pairs as a JSON object in their own order.
fn serialize_pairs<S: Serializer, V: Serialize>(pairs: &[(String, V)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

struct Pairs<'a, V>(&'a [(String, V)]);

impl<V: Serialize> Serialize for Pairs<'_, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_pairs(self.0, serializer)
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Progress {
    seen: u32,
    needed: u32,
}

impl Serialize for Output {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Calibrating { seen, needed } => {
                map.serialize_entry("calibrating", &Progress { seen: *seen, needed: *needed })?;
            }
            Self::Anomaly { score, threshold, anomaly } => {
                map.serialize_entry("score", score)?;
                map.serialize_entry("threshold", threshold)?;
                map.serialize_entry("anomaly", anomaly)?;
            }
            Self::Classification { label, probabilities } => {
                map.serialize_entry("label", label)?;
                map.serialize_entry("probabilities", &Pairs(probabilities))?;
            }
            Self::Regression { values } => map.serialize_entry("values", &Pairs(values))?,
            Self::Forecast { horizon, values, quantiles } => {
                map.serialize_entry("horizon", horizon)?;
                map.serialize_entry("values", values)?;
                map.serialize_entry("quantiles", &Pairs(quantiles))?;
            }
            Self::Failed(reason) => map.serialize_entry("failed", reason)?,
            Self::Skipped(reason) => map.serialize_entry("skipped", reason)?,
        }
        map.end()
    }
}

/// Every field that an output may have; which are there tells the kind.
#[derive(serde::Deserialize)]
struct OutputFields {
    calibrating: Option<Progress>,
    score: Option<f32>,
    threshold: Option<f32>,
    anomaly: Option<bool>,
    label: Option<String>,
    probabilities: Option<NamedNumbers>,
    values: Option<Values>,
    horizon: Option<Vec<f32>>,
    quantiles: Option<BTreeMap<String, Vec<f32>>>,
    failed: Option<String>,
    skipped: Option<String>,
}

/// An object of numbers in the sender's order.
struct NamedNumbers(Vec<(String, f32)>);

impl<'de> Deserialize<'de> for NamedNumbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Values::deserialize(deserializer)? {
            Values::Named(pairs) => Ok(Self(pairs)),
            Values::Ordered(_) => Err(de::Error::custom("expected an object of numbers")),
        }
    }
}

impl<'de> Deserialize<'de> for Output {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = OutputFields::deserialize(deserializer)?;
        output(fields).ok_or_else(|| de::Error::custom("an output of no known kind"))
    }
}

fn output(fields: OutputFields) -> Option<Output> {
    if let Some(Progress { seen, needed }) = fields.calibrating {
        return Some(Output::Calibrating { seen, needed });
    }
    if let Some(reason) = fields.failed {
        return Some(Output::Failed(reason));
    }
    if let Some(reason) = fields.skipped {
        return Some(Output::Skipped(reason));
    }
    if let Some(score) = fields.score {
        return Some(Output::Anomaly { score, threshold: fields.threshold?, anomaly: fields.anomaly? });
    }
    if let Some(label) = fields.label {
        return Some(Output::Classification { label, probabilities: fields.probabilities?.0 });
    }
    match (fields.values?, fields.horizon) {
        (Values::Named(values), None) => Some(Output::Regression { values }),
        (Values::Ordered(values), Some(horizon)) => {
            let quantiles = fields.quantiles.unwrap_or_default().into_iter().collect();
            Some(Output::Forecast { horizon, values, quantiles })
        }
        _ => None,
    }
}
