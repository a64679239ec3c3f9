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
use crate::stream::now_ms;
use std::collections::VecDeque;
use std::time::Instant;
use tidegate_protocol::{Codec, DecodeError, DeviceMessage, NackCode, Reading, Wire};

/// Decodes one frame into arrivals.
pub fn arrivals(
    endpoint: &ServedEndpoint,
    codec: Codec,
    frame: &[u8],
    since: Instant,
    into: &mut VecDeque<Arrival>,
) {
    let received_at = now_ms();
    let arrival = |numbers, what| Arrival {
        numbers,
        what,
        received_at,
        since,
        receipt: None,
    };
    match DeviceMessage::decode(codec, frame) {
        Ok(DeviceMessage::Reading(reading)) => {
            into.push_back(of_reading(endpoint, reading, received_at, since));
        }
        Ok(DeviceMessage::Batch(readings)) => {
            into.extend(
                readings
                    .into_iter()
                    .map(|reading| of_reading(endpoint, reading, received_at, since)),
            );
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
                DecodeError::Malformed { epoch, seq, .. } => usable(*epoch, *seq),
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
