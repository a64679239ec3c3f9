//! What is said on a stream, the cheap way: a reading is a head, its number and a prepared tail; an answer is read as far as it is checked.
//!
//! Owns the two short cuts, both held to the protocol's own codec by tests: whatever is not in the usual form is decoded whole. Pure.

use tidegate_protocol::{Codec, DeviceMessage, LiveMessage, Reading, ServerMessage, Values, Wire};

/// What an answer says of its reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A finished output.
    Answer,
    /// The version still calibrates.
    Calibrating,
    /// The step failed.
    Failed,
    /// The reading was stored and not folded.
    Skipped,
}

/// One message of the server, as far as it is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// The answer to a reading.
    Prediction(u64, Kind),
    /// Committed up to here.
    Ack(u64),
    /// Refused for good: number, code, text.
    Nack(Option<u64>, String, String),
    /// Skipped by number.
    Gap(u64, u64),
    /// An answer that comes after its commit (HTTP).
    Stored(u64, Kind),
    /// Not taken now; to be tried later (HTTP 503).
    Shed(String),
    /// One event of a subscription, with its offset.
    Event(u64),
    /// Events that were left out.
    Dropped(u64),
    /// What the server says before it closes.
    Error(String),
    /// Nothing to check.
    Other,
}

/// Readings as they leave.
#[derive(Debug, Clone)]
pub struct Encoder {
    codec: Codec,
    /// Up to the number.
    head: Vec<u8>,
    /// Behind the number, one a row of values.
    tails: Vec<Vec<u8>>,
}

impl Encoder {
    /// Readings of `epoch` (`None`: the connection's) that go through `rows` of values in turn.
    pub fn new(codec: Codec, epoch: Option<u64>, rows: &[Vec<f32>]) -> Self {
        let parts: Vec<_> = rows.iter().map(|row| split(codec, epoch, row)).collect();
        let head = parts
            .first()
            .map(|(head, _)| head.clone())
            .unwrap_or_default();
        Self {
            codec,
            head,
            tails: parts.into_iter().map(|(_, tail)| tail).collect(),
        }
    }

    /// The number's bytes, and the bytes of the whole reading.
    pub fn number(&self, seq: u64) -> (Number, usize) {
        let number = Number::of(self.codec, seq);
        let len = self.head.len() + number.bytes().len() + self.tail(seq).len();
        (number, len)
    }

    /// Appends reading `seq`.
    pub fn put(&self, out: &mut Vec<u8>, seq: u64, number: &Number) {
        out.extend(&self.head);
        out.extend(number.bytes());
        out.extend(self.tail(seq));
    }

    fn tail(&self, seq: u64) -> &[u8] {
        // There is always a row: the plan is checked.
        let at = seq as usize % self.tails.len().max(1);
        self.tails.get(at).map(Vec::as_slice).unwrap_or_default()
    }
}

/// A reading's bytes before and behind its number.
fn split(codec: Codec, epoch: Option<u64>, row: &[f32]) -> (Vec<u8>, Vec<u8>) {
    let reading = |seq| {
        let reading = Reading {
            epoch,
            seq: Some(seq),
            values: Values::Ordered(row.to_vec()),
            ..Reading::default()
        };
        DeviceMessage::Reading(reading).to_bytes(codec)
    };
    match codec {
        Codec::Json => {
            let epoch = epoch.map(|epoch| format!("\"epoch\":{epoch},"));
            let head = format!("{{{}\"seq\":", epoch.unwrap_or_default());
            let values: Vec<String> = row.iter().map(f32::to_string).collect();
            let tail = format!(",\"values\":[{}]}}", values.join(","));
            (head.into_bytes(), tail.into_bytes())
        }
        Codec::Bincode => {
            // Two readings that differ in their number alone: the first byte that differs is the number.
            let (one, two) = (reading(0), reading(1));
            let at = one.iter().zip(&two).position(|(a, b)| a != b);
            let at = at.unwrap_or(one.len());
            (one[..at].to_vec(), one[at + 1..].to_vec())
        }
    }
}

/// A number in one of the codecs: decimal digits, or bincode's variable-length integer.
#[derive(Debug)]
pub struct Number {
    bytes: [u8; 20],
    from: usize,
    to: usize,
}

impl Number {
    fn of(codec: Codec, number: u64) -> Self {
        let mut bytes = [0; 20];
        match codec {
            Codec::Json => {
                let (mut rest, mut from) = (number, bytes.len());
                loop {
                    from -= 1;
                    bytes[from] = b'0' + (rest % 10) as u8;
                    rest /= 10;
                    if rest == 0 {
                        break;
                    }
                }
                let to = bytes.len();
                Self { bytes, from, to }
            }
            Codec::Bincode => {
                let to = varint(number, &mut bytes);
                Self { bytes, from: 0, to }
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.from..self.to]
    }
}

/// See "Integers" in `protocol/README.md`; returns how many bytes it took.
fn varint(number: u64, out: &mut [u8; 20]) -> usize {
    let (mark, width) = match number {
        0..=250 => {
            out[0] = number as u8;
            return 1;
        }
        251..=0xffff => (251, 2),
        0x1_0000..=0xffff_ffff => (252, 4),
        _ => (253, 8),
    };
    out[0] = mark;
    out[1..=width].copy_from_slice(&number.to_le_bytes()[..width]);
    width + 1
}

/// A message on a device's stream.
///
/// # Errors
/// Bytes that are no message, for people.
pub fn read(codec: Codec, bytes: &[u8]) -> Result<Heard, String> {
    let quick = match codec {
        Codec::Json => quick_json(bytes),
        Codec::Bincode => quick_bincode(bytes),
    };
    if let Some(heard) = quick {
        return Ok(heard);
    }
    let message = ServerMessage::decode(codec, bytes).map_err(|error| error.to_string())?;
    Ok(match message {
        ServerMessage::Prediction(prediction) => {
            Heard::Prediction(prediction.seq, kind_of(&prediction.output))
        }
        ServerMessage::Ack(ack) => Heard::Ack(ack.seq),
        ServerMessage::Nack(nack) => Heard::Nack(nack.seq, nack.code.to_string(), nack.message),
        ServerMessage::Gap(gap) => Heard::Gap(gap.from, gap.to),
        ServerMessage::Error(error) => Heard::Error(format!("{}: {}", error.code, error.message)),
        ServerMessage::Welcome(_) | ServerMessage::Feedback(_) | ServerMessage::Reset(_) => {
            Heard::Other
        }
    })
}

/// A frame that an echo sends back: the number of the reading in it.
///
/// # Errors
/// Another frame than a reading.
pub fn read_echo(codec: Codec, bytes: &[u8]) -> Result<Heard, String> {
    let seq = match codec {
        Codec::Json => bytes
            .strip_prefix(b"{\"seq\":")
            .and_then(|rest| digits(&mut &*rest)),
        Codec::Bincode => bytes
            .strip_prefix(&[1, 0, 0, 1])
            .and_then(|rest| number(&mut &*rest)),
    };
    let seq = seq.ok_or("the echo of something else")?;
    Ok(Heard::Prediction(seq, Kind::Answer))
}

/// A message to a subscriber.
///
/// # Errors
/// Bytes that are no message, for people.
pub fn read_live(codec: Codec, bytes: &[u8]) -> Result<Heard, String> {
    let offset = match codec {
        Codec::Json => bytes
            .strip_prefix(b"{\"type\":\"event\",\"offset\":")
            .and_then(|rest| digits(&mut &*rest)),
        // The version byte, the variant, the offset.
        Codec::Bincode => bytes
            .strip_prefix(&[1, 2])
            .and_then(|rest| number(&mut &*rest)),
    };
    if let Some(offset) = offset {
        return Ok(Heard::Event(offset));
    }
    let message = LiveMessage::decode(codec, bytes).map_err(|error| error.to_string())?;
    Ok(match message {
        LiveMessage::Event(event) => Heard::Event(event.offset),
        LiveMessage::Dropped { count, .. } => Heard::Dropped(count),
        LiveMessage::Error(error) => Heard::Error(format!("{}: {}", error.code, error.message)),
        LiveMessage::Subscribed { .. } | LiveMessage::Unsubscribed { .. } => Heard::Other,
    })
}

/// What an output in JSON begins with tells its kind.
pub fn kind_in_json(bytes: &[u8]) -> Option<Kind> {
    let mark = b"\"output\":{\"";
    let at = bytes.windows(mark.len()).position(|part| part == mark)?;
    let name = &bytes[at + mark.len()..];
    Some(if name.starts_with(b"calibrating\"") {
        Kind::Calibrating
    } else if name.starts_with(b"failed\"") {
        Kind::Failed
    } else if name.starts_with(b"skipped\"") {
        Kind::Skipped
    } else {
        Kind::Answer
    })
}

fn kind_of(output: &tidegate_protocol::Output) -> Kind {
    use tidegate_protocol::Output;
    match output {
        Output::Calibrating { .. } => Kind::Calibrating,
        Output::Failed(_) => Kind::Failed,
        Output::Skipped(_) => Kind::Skipped,
        _ => Kind::Answer,
    }
}

fn quick_json(bytes: &[u8]) -> Option<Heard> {
    let rest = bytes.strip_prefix(b"{\"type\":\"")?;
    if let Some(rest) = rest.strip_prefix(b"prediction\",") {
        let seq = number_after_epoch(rest)?;
        return Some(Heard::Prediction(seq, kind_in_json(rest)?));
    }
    let rest = rest.strip_prefix(b"ack\",")?;
    number_after_epoch(rest).map(Heard::Ack)
}

fn number_after_epoch(mut rest: &[u8]) -> Option<u64> {
    if let Some(epoch) = rest.strip_prefix(b"\"epoch\":") {
        rest = epoch;
        digits(&mut rest)?;
        rest = rest.strip_prefix(b",")?;
    }
    digits(&mut rest.strip_prefix(b"\"seq\":")?)
}

fn digits(rest: &mut &[u8]) -> Option<u64> {
    let len = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=16).contains(&len) {
        return None;
    }
    let (text, after) = rest.split_at(len);
    *rest = after;
    let add = |number, byte: &u8| number * 10 + u64::from(byte - b'0');
    Some(text.iter().fold(0, add))
}

/// Version byte, variant, epoch, seq; of a prediction also ts, model and version, up to the output's variant.
fn quick_bincode(bytes: &[u8]) -> Option<Heard> {
    let mut rest = bytes.strip_prefix(&[1])?;
    let variant = number(&mut rest)?;
    if !matches!(variant, 1 | 2) {
        return None;
    }
    if number(&mut rest)? == 1 {
        number(&mut rest)?;
    }
    let seq = number(&mut rest)?;
    if variant == 2 {
        return Some(Heard::Ack(seq));
    }
    number(&mut rest)?;
    for _ in 0..2 {
        let len = number(&mut rest)?;
        rest = rest.get(usize::try_from(len).ok()?..)?;
    }
    let kind = match number(&mut rest)? {
        0 => Kind::Calibrating,
        5 => Kind::Failed,
        6 => Kind::Skipped,
        _ => Kind::Answer,
    };
    Some(Heard::Prediction(seq, kind))
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let (&first, after) = rest.split_first()?;
    let width = match first {
        0..=250 => {
            *rest = after;
            return Some(first.into());
        }
        251 => 2,
        252 => 4,
        253 => 8,
        _ => return None,
    };
    let (number, after) = after.split_at_checked(width)?;
    *rest = after;
    let mut wide = [0; 8];
    wide[..width].copy_from_slice(number);
    Some(u64::from_le_bytes(wide))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tidegate_protocol::message::{Ack, Prediction};
    use tidegate_protocol::{MAX_NUMBER, Output};

    const CODECS: [Codec; 2] = [Codec::Json, Codec::Bincode];

    fn outputs() -> [(Output, Kind); 5] {
        let anomaly = Output::Anomaly {
            score: 0.5,
            threshold: 0.8,
            anomaly: false,
        };
        let forecast = Output::Forecast {
            horizon: vec![1.0],
            values: vec![2.0],
            quantiles: vec![("0.1".into(), vec![1.0])],
        };
        let calibrating = Output::Calibrating {
            seen: 3,
            needed: 400,
        };
        [
            (anomaly, Kind::Answer),
            (forecast, Kind::Answer),
            (calibrating, Kind::Calibrating),
            (Output::Failed("no".into()), Kind::Failed),
            (Output::Skipped("late".into()), Kind::Skipped),
        ]
    }

    proptest! {
        #[test]
        fn a_reading_is_what_the_protocol_reads(seq in 0..=MAX_NUMBER, epoch in proptest::option::of(0..=MAX_NUMBER)) {
            let rows = [vec![0.25, -1.5e-7, 3.0e9], vec![1.0]];
            for codec in CODECS {
                let encoder = Encoder::new(codec, epoch, &rows);
                let (number, len) = encoder.number(seq);
                let mut out = Vec::new();
                encoder.put(&mut out, seq, &number);
                prop_assert_eq!(out.len(), len);
                let reading = Reading {
                    epoch,
                    seq: Some(seq),
                    values: Values::Ordered(rows[seq as usize % 2].clone()),
                    ..Reading::default()
                };
                prop_assert_eq!(DeviceMessage::decode(codec, &out).unwrap(), DeviceMessage::Reading(reading));
                if epoch.is_none() {
                    prop_assert_eq!(read_echo(codec, &out).unwrap(), Heard::Prediction(seq, Kind::Answer));
                }
            }
        }

        #[test]
        fn answers_are_read_without_decoding_them_whole(seq in 0..=MAX_NUMBER, epoch in proptest::option::of(0..=MAX_NUMBER), ts in 0..=MAX_NUMBER as i64) {
            for codec in CODECS {
                for (output, kind) in outputs() {
                    let prediction = Prediction { epoch, seq, ts, model: "mewma".into(), version: "1.0.0".into(), output, latency_us: 9 };
                    let bytes = ServerMessage::Prediction(prediction).to_bytes(codec);
                    let quick = match codec { Codec::Json => quick_json(&bytes), Codec::Bincode => quick_bincode(&bytes) };
                    prop_assert_eq!(quick, Some(Heard::Prediction(seq, kind)));
                    prop_assert_eq!(read(codec, &bytes).unwrap(), Heard::Prediction(seq, kind));
                }
                let bytes = ServerMessage::Ack(Ack { epoch, seq, late: vec![1] }).to_bytes(codec);
                prop_assert_eq!(read(codec, &bytes).unwrap(), Heard::Ack(seq));
            }
        }

        #[test]
        fn bytes_of_any_kind_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for codec in CODECS {
                let _ = (read(codec, &bytes), read_live(codec, &bytes), read_echo(codec, &bytes));
            }
        }
    }

    #[test]
    fn what_is_rare_is_decoded_whole() {
        let nack = ServerMessage::Nack(tidegate_protocol::message::Nack {
            epoch: None,
            seq: Some(7),
            code: tidegate_protocol::NackCode::OutOfRange,
            message: "too hot".into(),
        });
        for codec in CODECS {
            assert_eq!(
                read(codec, &nack.to_bytes(codec)).unwrap(),
                Heard::Nack(Some(7), "out_of_range".into(), "too hot".into())
            );
            let dropped = LiveMessage::Dropped { id: 1, count: 3 };
            assert_eq!(
                read_live(codec, &dropped.to_bytes(codec)).unwrap(),
                Heard::Dropped(3)
            );
        }
        assert!(read(Codec::Json, b"{\"type\":\"other\"}").is_err());
    }
}
