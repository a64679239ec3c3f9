//! WebSocket frames of one direction, of which some are sent twice and some overtake each other. Pure.
//!
//! TCP keeps order, so a proxy that wants readings out of order has to know where frames end. Passes the HTTP upgrade untouched,
//! then cuts the bytes into frames (RFC 6455, section 5.2); only whole data frames are touched, and one that is held
//! back leaves with the next frame or when it is released. [`Shuffle`] alone does the same to MQTT publishes.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const OPCODE: u8 = 0x0f;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// How often a message is touched.
#[derive(Debug, Clone, Copy)]
pub struct Odds {
    pub duplicate: f64,
    pub swap: f64,
}

/// Sends some messages twice and lets some be overtaken by the next.
pub struct Shuffle {
    odds: Odds,
    random: StdRng,
    held: Option<Vec<u8>>,
    /// Messages sent twice, and messages overtaken.
    pub touched: (u64, u64),
}

impl Shuffle {
    pub fn new(odds: Odds, seed: u64) -> Self {
        Self {
            odds,
            random: StdRng::seed_from_u64(seed),
            held: None,
            touched: (0, 0),
        }
    }

    /// Takes a message in and appends what leaves now.
    pub fn place(&mut self, message: Vec<u8>, out: &mut Vec<Vec<u8>>) {
        let before = self.held.take();
        if before.is_none() && self.random.random_bool(self.odds.swap) {
            self.touched.1 += 1;
            self.held = Some(message);
            return;
        }
        if self.random.random_bool(self.odds.duplicate) {
            self.touched.0 += 1;
            out.push(message.clone());
        }
        out.push(message);
        out.extend(before);
    }

    /// Whether a message is held back.
    pub fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// What was held back.
    pub fn release(&mut self) -> Option<Vec<u8>> {
        self.held.take()
    }
}

/// See the module.
pub struct Frames {
    pub shuffle: Shuffle,
    /// Whether the upgrade has passed.
    is_upgraded: bool,
    /// The beginning of a frame, or of the upgrade.
    partial: Vec<u8>,
}

impl Frames {
    pub fn new(odds: Odds, seed: u64) -> Self {
        Self {
            shuffle: Shuffle::new(odds, seed),
            is_upgraded: false,
            partial: Vec::new(),
        }
    }

    /// Takes bytes in and gives what may leave.
    pub fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.partial.extend_from_slice(bytes);
        let mut out = Vec::new();
        if !self.is_upgraded {
            let Some(at) = find(&self.partial, END_OF_HEAD) else {
                return Vec::new();
            };
            out.push(self.partial.drain(..at + END_OF_HEAD.len()).collect());
            self.is_upgraded = true;
        }
        while let Some(len) = frame_len(&self.partial).filter(|len| *len <= self.partial.len()) {
            let frame: Vec<u8> = self.partial.drain(..len).collect();
            if frame[0] & FIN != 0 && matches!(frame[0] & OPCODE, TEXT | BINARY) {
                self.shuffle.place(frame, &mut out);
            } else {
                out.extend(self.shuffle.release());
                out.push(frame);
            }
        }
        out.concat()
    }
}

/// Length of the frame at the start of `bytes`, header included; `None` while the header is not whole.
fn frame_len(bytes: &[u8]) -> Option<usize> {
    let second = *bytes.get(1)?;
    let mask = if second & MASKED == 0 { 0 } else { 4 };
    let (head, payload) = match second & !MASKED {
        126 => {
            let len = bytes.get(2..4)?.try_into().ok()?;
            (4, usize::from(u16::from_be_bytes(len)))
        }
        127 => {
            let len = bytes.get(2..10)?.try_into().ok()?;
            (10, usize::try_from(u64::from_be_bytes(len)).ok()?)
        }
        short => (2, usize::from(short)),
    };
    Some(head + mask + payload)
}

/// Where `needle` begins.
pub fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

    fn frame(payload: u8) -> Vec<u8> {
        vec![FIN | BINARY, MASKED | 1, 0, 0, 0, 0, payload]
    }

    fn through(odds: Odds, chunk: usize) -> Vec<u8> {
        let mut frames = Frames::new(odds, 1);
        let bytes = [HEAD.to_vec(), frame(1), frame(2), frame(3)].concat();
        let mut out: Vec<u8> = bytes
            .chunks(chunk)
            .flat_map(|bytes| frames.pass(bytes))
            .collect();
        out.extend(frames.shuffle.release().unwrap_or_default());
        out
    }

    #[test]
    fn without_odds_every_byte_passes_as_it_came() {
        let odds = Odds {
            duplicate: 0.0,
            swap: 0.0,
        };
        let whole = [HEAD.to_vec(), frame(1), frame(2), frame(3)].concat();
        for chunk in [1, 3, 1000] {
            assert_eq!(through(odds, chunk), whole);
        }
    }

    #[test]
    fn frames_are_sent_twice_or_overtaken_whole() {
        let twice = Odds {
            duplicate: 1.0,
            swap: 0.0,
        };
        let expected = [frame(1), frame(1), frame(2), frame(2), frame(3), frame(3)].concat();
        assert_eq!(through(twice, 5), [HEAD.to_vec(), expected].concat());
        let swapped = Odds {
            duplicate: 0.0,
            swap: 1.0,
        };
        let expected = [frame(2), frame(1), frame(3)].concat();
        assert_eq!(through(swapped, 2), [HEAD.to_vec(), expected].concat());
    }
}
