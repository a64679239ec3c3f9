//! What a device says, as JSON: `type` may be left out for a reading, and a bare array is a reading too.
//!
//! Also reads the numbers out of a message that is none, so that its refusal can name the reading.

use super::{ValuesVisitor, check_count};
use crate::MAX_BATCH;
use crate::message::{DeviceMessage, Feedback, Label, Reading, Values};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::fmt;

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
#[serde(expecting = "a message object or an array of values")]
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

/// Reads what a device said.
pub(crate) fn read_device_message(bytes: &[u8]) -> Result<DeviceMessage, serde_json::Error> {
    if first_byte(bytes) == Some(b'[') {
        return serde_json::from_slice(bytes).map(DeviceMessage::Reading);
    }
    let fields: DeviceFields = serde_json::from_slice(bytes)?;
    device_message(fields)
}

fn first_byte(bytes: &[u8]) -> Option<u8> {
    bytes
        .iter()
        .copied()
        .find(|byte| !byte.is_ascii_whitespace())
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

/// A reading in a batch: an object without `type`, or bare values.
#[derive(serde::Deserialize)]
struct ReadingFields {
    epoch: Option<u64>,
    seq: Option<u64>,
    ts: Option<i64>,
    values: Values,
    #[serde(default)]
    historical: bool,
}

impl<'de> Deserialize<'de> for Reading {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReadingVisitor)
    }
}

struct ReadingVisitor;

impl<'de> Visitor<'de> for ReadingVisitor {
    type Value = Reading;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a reading object or an array of values")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Reading, A::Error> {
        let values = ValuesVisitor.visit_seq(items)?;
        Ok(Reading {
            values,
            ..Reading::default()
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Reading, A::Error> {
        let fields = ReadingFields::deserialize(MapAccessDeserializer::new(entries))?;
        Ok(Reading {
            epoch: fields.epoch,
            seq: fields.seq,
            ts: fields.ts,
            values: fields.values,
            historical: fields.historical,
        })
    }
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
        while let Some(reading) = items.next_element()? {
            check_count(readings.len(), MAX_BATCH, "readings in a batch")?;
            readings.push(reading);
        }
        Ok(Batch(readings))
    }
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LabelVisitor)
    }
}

struct LabelVisitor;

impl Visitor<'_> for LabelVisitor {
    type Value = Label;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a class name or a number")
    }

    fn visit_str<E>(self, text: &str) -> Result<Label, E> {
        Ok(Label::Text(text.to_owned()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Label, E> {
        Ok(Label::Number(value as f32))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Label, E> {
        Ok(Label::Number(value as f32))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Label, E> {
        Ok(Label::Number(value as f32))
    }
}

/// The epoch and seq of a reading that could not be read otherwise, so that its refusal can name it.
///
/// Only from text that is whole JSON (but for `NaN` and `Infinity`, which some writers let slip), and never from another kind of message: a number that might belong to
/// another epoch, or to feedback, would refuse a reading that is fine.
pub(crate) fn salvage_numbers(bytes: &[u8]) -> (Option<u64>, Option<u64>) {
    if first_byte(bytes) != Some(b'{') {
        return (None, None);
    }
    let read = |bytes: &[u8]| serde_json::from_slice::<Salvage>(bytes);
    let Ok(found) = read(bytes).or_else(|_| read(&without_nans(bytes))) else {
        return (None, None);
    };
    match (found.kind, found.epoch, found.seq) {
        (None | Some(Scalar::ReadingWord), None, Some(Scalar::Number(seq))) => (None, Some(seq)),
        (
            None | Some(Scalar::ReadingWord),
            Some(Scalar::Number(epoch)),
            Some(Scalar::Number(seq)),
        ) => (Some(epoch), Some(seq)),
        _ => (None, None),
    }
}

/// The text with a number in the place of each `NaN` and `Infinity` outside strings.
fn without_nans(bytes: &[u8]) -> Vec<u8> {
    let mut text = bytes.to_vec();
    let (mut at, mut in_string) = (0, false);
    while at < text.len() {
        let word = [&b"NaN"[..], b"Infinity"]
            .into_iter()
            .find(|word| text[at..].starts_with(word));
        match (text[at], word) {
            (b'"', _) => in_string = !in_string,
            (b'\\', _) if in_string => at += 1,
            (_, Some(word)) if !in_string => {
                text[at..at + word.len()].fill(b' ');
                text[at] = b'0';
            }
            _ => {}
        }
        at += 1;
    }
    text
}

#[derive(serde::Deserialize)]
struct Salvage {
    #[serde(rename = "type")]
    kind: Option<Scalar>,
    epoch: Option<Scalar>,
    seq: Option<Scalar>,
}

/// What stands where a number or a type is expected.
enum Scalar {
    Number(u64),
    ReadingWord,
    Other,
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
        Ok(Scalar::Number(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(if text == "reading" {
            Scalar::ReadingWord
        } else {
            Scalar::Other
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Scalar, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Scalar, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }
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
            Self::Feedback(feedback) => TypedFeedback {
                kind: "feedback",
                feedback,
            }
            .serialize(serializer),
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
