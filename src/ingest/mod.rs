//! The doors that readings come through: WebSocket, MQTT, and the part of HTTP's predict that is the same.
//!
//! Turns bytes into arrivals: decode, check against the endpoint's schema ([`check`]), hand to the pipeline. A frame that is no
//! message becomes a refusal, with the numbers that could still be read. Owns no state beyond its sockets.

pub mod check;
pub mod mqtt;
pub mod ws;

use crate::inference::ServedEndpoint;
use crate::pipeline::{Arrival, Arrived};
use crate::session::Numbers;
use crate::stream::{Flags, now_ms};
use std::collections::VecDeque;
use std::time::Instant;
use tidegate_protocol::{Codec, DecodeError, DeviceMessage, NackCode, Reading, Wire};

/// Decodes one frame into arrivals of a live stream.
pub fn arrivals(
    endpoint: &ServedEndpoint,
    codec: Codec,
    frame: &[u8],
    since: Instant,
    into: &mut VecDeque<Arrival>,
) {
    arrivals_of((endpoint, 0), codec, frame, since, into);
}

/// Decodes one frame into arrivals of a stream: the live one (0), or the back-fill of that epoch.
pub fn arrivals_of(
    (endpoint, import): (&ServedEndpoint, u64),
    codec: Codec,
    frame: &[u8],
    since: Instant,
    into: &mut VecDeque<Arrival>,
) {
    let received_at = now_ms();
    let taken = |reading| match import {
        0 => of_reading(endpoint, reading, received_at, since),
        import => of_import(endpoint, import, reading, received_at, since),
    };
    let arrival = |numbers, what| Arrival {
        numbers,
        what,
        received_at,
        since,
        receipt: None,
    };
    match DeviceMessage::decode(codec, frame) {
        Ok(DeviceMessage::Reading(reading)) => {
            into.push_back(taken(reading));
        }
        Ok(DeviceMessage::Batch(readings)) => {
            into.extend(readings.into_iter().map(taken));
        }
        Ok(DeviceMessage::Feedback(feedback)) => {
            let numbers = Numbers {
                epoch: feedback.epoch,
                seq: Some(feedback.seq),
            };
            into.push_back(arrival(
                numbers,
                Arrived::Feedback(feedback.label, feedback.reference),
            ));
        }
        Ok(DeviceMessage::Reset) => into.push_back(arrival(Numbers::default(), Arrived::Reset)),
        Err(error) => {
            let numbers = match &error {
                DecodeError::Malformed { epoch, seq, .. } if !is_other(import, *epoch) => {
                    usable(*epoch, *seq)
                }
                _ => Numbers::default(),
            };
            into.push_back(arrival(
                numbers,
                Arrived::Refused(NackCode::BadReading, error.to_string()),
            ));
        }
    }
}

/// Numbers of a message that is none: only those that a reading could have.
fn usable(epoch: Option<u64>, seq: Option<u64>) -> Numbers {
    let fits =
        |number: Option<u64>| number.filter(|number| *number <= tidegate_protocol::MAX_NUMBER);
    let epoch_fits = epoch.is_none_or(|epoch| epoch <= tidegate_protocol::MAX_NUMBER);
    Numbers {
        epoch: fits(epoch),
        seq: fits(seq).filter(|_| epoch_fits),
    }
}

/// Whether a reading names another epoch than the back-fill it is sent to.
fn is_other(import: u64, epoch: Option<u64>) -> bool {
    import != 0 && epoch.is_some_and(|epoch| epoch != import)
}

/// Checks one reading of a back-fill, which is one epoch and no more.
fn of_import(
    endpoint: &ServedEndpoint,
    import: u64,
    reading: Reading,
    received_at: i64,
    since: Instant,
) -> Arrival {
    if is_other(import, reading.epoch) {
        let message = format!("this import is epoch {import}");
        return Arrival {
            // Its own number would begin another epoch.
            numbers: Numbers::default(),
            what: Arrived::Refused(NackCode::BadReading, message),
            received_at,
            since,
            receipt: None,
        };
    }
    let historical = Reading {
        historical: true,
        ..reading
    };
    let mut arrival = of_reading(endpoint, historical, received_at, since);
    if let Arrived::Reading(checked) = &mut arrival.what {
        checked.flags.set(Flags::IMPORT);
    }
    arrival
}

/// Checks one reading.
pub fn of_reading(
    endpoint: &ServedEndpoint,
    reading: Reading,
    received_at: i64,
    since: Instant,
) -> Arrival {
    let numbers = Numbers {
        epoch: reading.epoch,
        seq: reading.seq,
    };
    let what = match check::reading(&endpoint.manifest.features, reading, received_at) {
        Ok(checked) => Arrived::Reading(checked),
        Err((code, message)) => Arrived::Refused(code, message),
    };
    Arrival {
        numbers,
        what,
        received_at,
        since,
        receipt: None,
    }
}
