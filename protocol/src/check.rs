//! Limits of a decoded message, the same for both codecs: counts, numbers, lengths of names.
//!
//! Called by `codec.rs` on all that a device or subscriber sends. Does not know an endpoint's schema, and leaves
//! values that are no numbers to the server's ingest, which refuses them by feature name.

use crate::codec::DecodeError;
use crate::id::MAX_DEVICE_BYTES;
use crate::live::{LiveRequest, Subscribe};
use crate::message::{DeviceMessage, Feedback, Label, Reading, Values};
use crate::{MAX_BATCH, MAX_LABEL_BYTES, MAX_NUMBER, MAX_TOPIC_BYTES, MAX_VALUES};
use std::fmt;

/// Checks what a device said. A single reading's error names it; a batch is refused whole and names none, for
/// a named number would be taken for consumed while the others of the batch are not.
pub(crate) fn device_message(message: &DeviceMessage) -> Result<(), DecodeError> {
    match message {
        DeviceMessage::Reading(value) => {
            reading(value).map_err(|why| DecodeError::malformed(why).about(value.epoch, value.seq))
        }
        DeviceMessage::Batch(readings) => batch(readings),
        DeviceMessage::Feedback(value) => feedback(value).map_err(DecodeError::malformed),
        DeviceMessage::Reset => Ok(()),
    }
}

/// Checks what a subscriber said.
pub(crate) fn live_request(request: &LiveRequest) -> Result<(), DecodeError> {
    match request {
        LiveRequest::Subscribe(wish) => subscribe(wish).map_err(DecodeError::malformed),
        LiveRequest::Unsubscribe { id } => number("id", Some(*id)).map_err(DecodeError::malformed),
    }
}

/// What is over its limit.
enum Excess<'a> {
    Number(&'static str, u64),
    Count(usize, &'static str),
    Length(&'static str, usize, usize),
    Twice(&'a str),
    NotFinite(&'static str),
    NotPositive(&'static str),
}

impl fmt::Display for Excess<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(name, number) => write!(f, "{name} {number}: at most 2^53-1 is allowed"),
            Self::Count(most, what) => write!(f, "more than {most} {what}"),
            Self::Length(what, len, most) => {
                write!(f, "{what} of {len} bytes: at most {most} are allowed")
            }
            Self::Twice(name) => write!(f, "feature {name:?} is there twice"),
            Self::NotFinite(what) => write!(f, "{what}: expected a finite number"),
            Self::NotPositive(what) => write!(f, "{what}: expected a finite number above 0"),
        }
    }
}

fn batch(readings: &[Reading]) -> Result<(), DecodeError> {
    if readings.len() > MAX_BATCH {
        return Err(DecodeError::malformed(Excess::Count(
            MAX_BATCH,
            "readings in a batch",
        )));
    }
    for (index, value) in readings.iter().enumerate() {
        reading(value).map_err(|why| {
            DecodeError::malformed(format_args!("reading {index} of the batch: {why}"))
        })?;
    }
    Ok(())
}

fn reading(reading: &Reading) -> Result<(), Excess<'_>> {
    number("seq", reading.seq)?;
    number("epoch", reading.epoch)?;
    if reading.values.len() > MAX_VALUES {
        return Err(Excess::Count(MAX_VALUES, "values"));
    }
    match &reading.values {
        Values::Ordered(_) => Ok(()),
        Values::Named(values) => names(values),
    }
}

fn names(values: &[(String, f32)]) -> Result<(), Excess<'_>> {
    let mut sorted: Vec<&str> = values.iter().map(|(name, _)| name.as_str()).collect();
    sorted.sort_unstable();
    for name in &sorted {
        length("feature name", name, MAX_DEVICE_BYTES)?;
    }
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Excess::Twice(pair[0])),
        None => Ok(()),
    }
}

fn feedback(feedback: &Feedback) -> Result<(), Excess<'_>> {
    number("seq", Some(feedback.seq))?;
    number("epoch", feedback.epoch)?;
    number("ref", feedback.reference)?;
    match &feedback.label {
        Label::Text(text) => length("label", text, MAX_LABEL_BYTES),
        Label::Number(value) => finite("label", *value),
    }
}

fn subscribe(wish: &Subscribe) -> Result<(), Excess<'_>> {
    number("id", Some(wish.id))?;
    length("topic", &wish.topic, MAX_TOPIC_BYTES)?;
    if let Some(from) = &wish.from {
        number("offset", Some(from.offset))?;
        length("log", &from.log, MAX_TOPIC_BYTES)?;
    }
    match wish.max_hz {
        Some(hz) if !(hz.is_finite() && hz > 0.0) => Err(Excess::NotPositive("max_hz")),
        _ => Ok(()),
    }
}

fn number(name: &'static str, number: Option<u64>) -> Result<(), Excess<'static>> {
    match number {
        Some(number) if number > MAX_NUMBER => Err(Excess::Number(name, number)),
        _ => Ok(()),
    }
}

fn length(what: &'static str, text: &str, most: usize) -> Result<(), Excess<'static>> {
    if text.len() > most {
        return Err(Excess::Length(what, text.len(), most));
    }
    Ok(())
}

fn finite(what: &'static str, value: f32) -> Result<(), Excess<'static>> {
    if value.is_finite() {
        Ok(())
    } else {
        Err(Excess::NotFinite(what))
    }
}
