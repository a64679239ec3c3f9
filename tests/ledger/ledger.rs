//! What one device wrote down: every reading it sent, every answer it was given, and how each reading ended.
//!
//! Nothing is ever taken out of it, so that after a run it can be held against the database. Pure: it hears what the device's door
//! heard and knows no sockets. What contradicts the protocol at once (an answer to a reading that was never sent, a nack
//! after an ack) is a violation, kept in words.

use std::collections::BTreeMap;
use tidegate_protocol::codec::encode_output;
use tidegate_protocol::message::Prediction;
use tidegate_protocol::{NackCode, Output, Reading, Values};

/// A reading's place in its stream: epoch, then seq.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number {
    pub epoch: u64,
    pub seq: u64,
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.epoch, self.seq)
    }
}

/// What a prediction says, bit for bit: all but the latency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub ts: i64,
    pub version: String,
    pub output: Vec<u8>,
}

impl Answer {
    pub fn of(prediction: &Prediction) -> Self {
        Self {
            ts: prediction.ts,
            version: format!("{}/{}", prediction.model, prediction.version),
            output: bits(&prediction.output),
        }
    }
}

/// An output's exact bytes.
pub fn bits(output: &Output) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_output(output, &mut bytes);
    bytes
}

/// How a reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The device still keeps it.
    Open,
    /// The server said that it is stored: an ack, its number in `late`, or a `resume_from` above it.
    Acked,
    /// The server said that it will never be taken.
    Nacked(NackCode),
}

/// One reading and everything that became of it.
#[derive(Debug)]
pub struct Entry {
    pub reading: Reading,
    /// Whether it fits the schema; one that does not must never be stored.
    pub is_good: bool,
    pub sends: u32,
    /// Place of its first sending among all sendings.
    first_sent: u64,
    /// In the order of delivery.
    pub answers: Vec<Answer>,
    /// Sent again after the last answer: the answer to that is still owed.
    pub owed: bool,
    pub fate: Fate,
}

impl Entry {
    /// The bits that were sent; a reading that is no list of values has none.
    pub fn bits(&self) -> Vec<u32> {
        match &self.reading.values {
            Values::Ordered(values) => values.iter().map(|value| value.to_bits()).collect(),
            Values::Named(_) => Vec::new(),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Ledger {
    pub entries: BTreeMap<Number, Entry>,
    /// Sendings so far.
    sendings: u64,
    /// What contradicts the protocol, in words.
    pub violations: Vec<String>,
    /// Resets sent, over all tries.
    pub resets_sent: u32,
    /// Resets that the server said are committed.
    pub resets_told: u32,
    /// Feedback by number of its reading: how often it was sent, and how often it was told to be committed.
    pub feedback: BTreeMap<Number, (u32, u32)>,
    /// Readings with other values under a known number.
    pub lies: u32,
    /// Connections, over all doors.
    pub connections: u32,
    /// Publishes sent twice, and publishes overtaken.
    pub scrambled: (u64, u64),
}

impl Ledger {
    /// A reading is made; it is open until the server settles it.
    pub fn enter(&mut self, number: Number, reading: Reading, is_good: bool) {
        let entry = Entry {
            reading,
            is_good,
            sends: 0,
            first_sent: 0,
            answers: Vec::new(),
            owed: false,
            fate: Fate::Open,
        };
        let before = self.entries.insert(number, entry);
        assert!(
            before.is_none(),
            "a device gives the number {number} one reading"
        );
    }

    /// The reading leaves.
    pub fn sent(&mut self, number: Number) {
        self.sendings += 1;
        if let Some(entry) = self.entries.get_mut(&number) {
            if entry.sends == 0 {
                entry.first_sent = self.sendings;
            }
            entry.sends += 1;
            entry.owed = true;
        }
    }

    /// A prediction came.
    pub fn predicted(&mut self, number: Number, answer: Answer) {
        match self.entries.get_mut(&number) {
            Some(entry) if entry.sends > 0 => {
                entry.answers.push(answer);
                entry.owed = false;
            }
            _ => self
                .violations
                .push(format!("an answer to {number}, which was never sent")),
        }
    }

    /// The server said that the reading is stored.
    pub fn acked(&mut self, number: Number) {
        self.settle(number, Fate::Acked);
    }

    /// The server said that the reading will never be taken.
    pub fn nacked(&mut self, number: Number, code: NackCode) {
        self.settle(number, Fate::Nacked(code));
    }

    fn settle(&mut self, number: Number, fate: Fate) {
        let Some(entry) = self.entries.get_mut(&number) else {
            let text = format!("{fate:?} for {number}, which was never made");
            return self.violations.push(text);
        };
        match entry.fate {
            Fate::Open => entry.fate = fate,
            before if before == fate => {}
            before => self
                .violations
                .push(format!("{number}: {before:?}, then {fate:?}")),
        }
    }

    /// The number before a reading that was sent once, in order, and skipped that number: a gap must have been told for it before
    /// the reading is acked.
    pub fn skipped_before(&self, number: Number) -> Option<Number> {
        let entry = self.entries.get(&number).filter(|entry| entry.sends == 1)?;
        let before = Number {
            seq: number.seq.checked_sub(1)?,
            ..number
        };
        let first = Number { seq: 0, ..number };
        let sent_earlier = |other: &Entry| other.sends > 0 && other.first_sent < entry.first_sent;
        let opened = self.entries.range(first..number);
        let is_opened = opened.into_iter().any(|(_, other)| sent_earlier(other));
        let is_there = self.entries.get(&before).is_some_and(sent_earlier);
        (is_opened && !is_there).then_some(before)
    }

    /// Readings that were stored and whose last sending was not answered: the client may fetch their answers.
    pub fn owed(&self) -> impl Iterator<Item = Number> {
        let owed = |entry: &Entry| entry.owed && entry.is_good && entry.fate == Fate::Acked;
        self.entries
            .iter()
            .filter(move |(_, entry)| owed(entry))
            .map(|(number, _)| *number)
    }

    /// Readings sent at least once.
    pub fn sent_once(&self) -> usize {
        self.entries
            .values()
            .filter(|entry| entry.sends > 0)
            .count()
    }

    /// Sendings beyond the first.
    pub fn resent(&self) -> u64 {
        self.entries
            .values()
            .map(|entry| u64::from(entry.sends.saturating_sub(1)))
            .sum()
    }

    /// Readings with this fate.
    pub fn count(&self, is: impl Fn(Fate) -> bool) -> usize {
        self.entries.values().filter(|entry| is(entry.fate)).count()
    }
}
