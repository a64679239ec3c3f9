//! What a device does of itself, one act after the other: readings of a rig, and its bad habits.
//!
//! Decided by the device's seed alone and not by time or by answers, so that a seed makes the same readings again. Pure.

use super::ledger::Number;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::VecDeque;
use tidegate_models::rig::Rig;
use tidegate_protocol::{MISSING, Reading, Values};

/// Measured time of the first reading, Unix ms.
const START_MS: i64 = 1_770_000_000_000;
/// A silence after which a model forgets its short memory (`max_gap_s` is 600).
const LONG_SILENCE_MS: i64 = 700_000;

/// What a device does beside sending good readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Habit {
    /// Skips numbers, and never sends some of them.
    Gaps,
    /// Sends skipped numbers later.
    Late,
    /// Sends readings that do not fit the schema.
    Bad,
    /// Sends what is no message at all.
    Garbage,
    /// Sends other values under a number that is stored.
    Lies,
    /// Sends again what is stored.
    Repeats,
    /// Calibrates anew.
    Resets,
    /// Begins a new epoch.
    Epochs,
    /// Tells the truth about stored readings.
    Feedback,
    /// Leaves `ts` to the server, or a value out.
    Sparse,
}

/// The next thing to do.
#[derive(Debug)]
pub enum Act {
    /// Send a new reading.
    Read {
        number: Number,
        reading: Reading,
        is_good: bool,
    },
    Garbage,
    Lie,
    Repeat,
    Reset,
    Feedback,
    /// The readings to come are of the next epoch; what is kept has to be settled first.
    NextEpoch,
}

/// See the module.
pub struct Script {
    habits: Vec<Habit>,
    random: StdRng,
    rig: Rig,
    epoch: u64,
    seq: u64,
    ts: i64,
    /// Numbers that may still come late.
    skipped: VecDeque<u64>,
}

impl Script {
    pub fn new(seed: u64, habits: &[Habit]) -> Self {
        Self {
            habits: habits.to_vec(),
            random: StdRng::seed_from_u64(seed),
            rig: Rig::new(seed),
            epoch: 0,
            seq: 0,
            ts: START_MS,
            skipped: VecDeque::new(),
        }
    }

    /// The epoch of the readings to come.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The next act.
    pub fn next(&mut self) -> Act {
        if self.chance(Habit::Garbage, 0.01) {
            return Act::Garbage;
        }
        if self.chance(Habit::Lies, 0.02) {
            return Act::Lie;
        }
        if self.chance(Habit::Repeats, 0.05) {
            return Act::Repeat;
        }
        if self.chance(Habit::Feedback, 0.02) {
            return Act::Feedback;
        }
        if self.chance(Habit::Resets, 0.006) {
            return Act::Reset;
        }
        if self.chance(Habit::Epochs, 0.008) {
            self.next_epoch();
            return Act::NextEpoch;
        }
        if !self.skipped.is_empty() && self.chance(Habit::Late, 0.2) {
            let place = self.random.random_range(0..self.skipped.len());
            let seq = self.skipped.remove(place).expect("a place in it");
            return self.reading(seq);
        }
        if self.chance(Habit::Gaps, 0.03) {
            self.skip();
        }
        self.seq += 1;
        self.reading(self.seq - 1)
    }

    fn chance(&mut self, habit: Habit, odds: f64) -> bool {
        self.habits.contains(&habit) && self.random.random_bool(odds)
    }

    fn next_epoch(&mut self) {
        self.epoch += self.random.random_range(1..3);
        // The first reading of an epoch opens it at whatever number it has.
        self.seq = self.random.random_range(0..2) * 5;
        self.skipped.clear();
    }

    fn skip(&mut self) {
        let to = self.seq + self.random.random_range(1..4);
        self.skipped.extend(self.seq..to);
        self.seq = to;
    }

    fn reading(&mut self, seq: u64) -> Act {
        self.ts += if self.random.random_bool(0.005) {
            LONG_SILENCE_MS
        } else {
            1_000
        };
        let mut values = self.rig.next_reading().0.to_vec();
        let mut ts = Some(self.ts);
        if self.chance(Habit::Sparse, 0.1) {
            values[3] = MISSING;
        }
        if self.chance(Habit::Sparse, 0.05) {
            ts = None;
        }
        let is_bad = self.chance(Habit::Bad, 0.03);
        if is_bad {
            self.spoil(&mut values);
        }
        Act::Read {
            number: Number {
                epoch: self.epoch,
                seq,
            },
            reading: Reading {
                seq: Some(seq),
                ts,
                values: Values::Ordered(values),
                ..Reading::default()
            },
            is_good: !is_bad,
        }
    }

    /// Too few values, or one that no such sensor can give.
    fn spoil(&mut self, values: &mut Vec<f32>) {
        if self.random.random_bool(0.5) {
            values.pop();
        } else {
            values[4] = 5_000.0;
        }
    }
}
