//! The reference: a stream's log folded from its first row, without interruption, and held against what the server stored.
//!
//! Uses the models alone and none of the server's code. Compares every output, every snapshot and every warmed state bit for
//! bit, and the positions: each row of the log has one, without holes.

use super::ledger::bits;
use super::stored::{LogKind, LogRow, SampleRow, SnapshotRow, Stream};
use super::zoo::{DEFAULT, SmallZoo};
use std::collections::BTreeMap;
use tidegate_models as models;
use tidegate_models::Version;
use tidegate_protocol::Output;

/// A state as it is folded.
struct Fold<'z> {
    version: &'z Version,
    state: Vec<f32>,
    last_ts: Option<i64>,
}

impl<'z> Fold<'z> {
    fn new(version: &'z Version) -> Self {
        Self {
            version,
            state: version.new_state(),
            last_ts: None,
        }
    }

    fn step(&mut self, sample: &SampleRow) -> Vec<u8> {
        let silence_s = self
            .last_ts
            .map_or(0.0, |last| sample.ts.saturating_sub(last) as f64 / 1_000.0);
        let values: Vec<f32> = sample.bits().into_iter().map(f32::from_bits).collect();
        self.last_ts = Some(sample.ts);
        bits(&to_wire(self.version.step(
            &mut self.state,
            &values,
            silence_s,
        )))
    }

    fn bits(&self) -> Vec<u32> {
        self.state.iter().map(|value| value.to_bits()).collect()
    }
}

fn to_wire(output: models::Output) -> Output {
    match output {
        models::Output::Calibrating { seen, needed } => Output::Calibrating { seen, needed },
        models::Output::Anomaly {
            score,
            threshold,
            anomaly,
        } => Output::Anomaly {
            score,
            threshold,
            anomaly,
        },
        other => panic!("no model of the harness answers {other:?}"),
    }
}

/// One row by its position.
enum Row<'s> {
    Sample(&'s SampleRow),
    Log(&'s LogRow),
    Refusal,
}

/// What differs from an uninterrupted run, in words.
pub fn differences(stream: &Stream, zoo: &SmallZoo) -> Vec<String> {
    let mut reference = Reference {
        zoo,
        stream,
        fold: Fold::new(zoo.version(DEFAULT)),
        reset_at: 0,
        found: Vec::new(),
    };
    reference.run();
    reference.marks();
    reference.found
}

struct Reference<'s> {
    zoo: &'s SmallZoo,
    stream: &'s Stream,
    fold: Fold<'s>,
    /// Position of the newest reset.
    reset_at: u64,
    found: Vec<String>,
}

impl<'s> Reference<'s> {
    fn run(&mut self) {
        let snapshots: BTreeMap<u64, &SnapshotRow> = self
            .stream
            .snapshots
            .iter()
            .map(|snapshot| (snapshot.pos, snapshot))
            .collect();
        let rows = self.rows();
        for (pos, row) in &rows {
            match row {
                Row::Sample(sample) => self.sample(sample),
                Row::Log(row) => self.log_row(row),
                Row::Refusal => {}
            }
            if let Some(snapshot) = snapshots.get(pos) {
                self.snapshot(snapshot);
            }
        }
        for pos in snapshots.keys().filter(|pos| !rows.contains_key(pos)) {
            self.found
                .push(format!("a snapshot at {pos}, where no row is"));
        }
    }

    /// Every row by position. Feedback has no column for its own: it accounts for the holes.
    fn rows(&mut self) -> BTreeMap<u64, Row<'s>> {
        let stream = self.stream;
        let samples = stream.samples.iter().map(|row| (row.pos, Row::Sample(row)));
        let log = stream.log.iter().map(|row| (row.pos, Row::Log(row)));
        let refusals = stream.refusals.iter().map(|row| (row.pos, Row::Refusal));
        let mut rows = BTreeMap::new();
        for (pos, row) in samples.chain(log).chain(refusals) {
            if rows.insert(pos, row).is_some() {
                self.found.push(format!("two rows at position {pos}"));
            }
        }
        let placed = rows.len() + stream.feedback.len();
        let last = rows.keys().last().copied().unwrap_or(0);
        if placed as u64 != stream.pos || last > stream.pos {
            self.found.push(format!(
                "{placed} rows up to {last}, but the stream stands at {}",
                stream.pos
            ));
        }
        rows
    }

    /// The highest number used up in the current epoch, as the stream's own row says it.
    fn marks(&mut self) {
        let Stream {
            epoch, high_water, ..
        } = *self.stream;
        let samples = self.stream.samples.iter().map(|row| (row.epoch, row.seq));
        let refusals = self.stream.refusals.iter();
        let refusals = refusals.filter_map(|row| Some((row.epoch, row.seq?)));
        let highest = samples.chain(refusals).max();
        let highest = highest.filter(|(of, _)| *of >= epoch);
        if highest != high_water.map(|seq| (epoch, seq)) {
            self.found.push(format!(
                "the stream says {epoch}:{high_water:?}, its rows {highest:?}"
            ));
        }
    }

    fn sample(&mut self, sample: &SampleRow) {
        let number = format!("{}:{} at {}", sample.epoch, sample.seq, sample.pos);
        if sample.version != self.fold.version.id() {
            self.found
                .push(format!("{number}: answered by {}", sample.version));
        }
        let expected = if sample.is_late() {
            bits(&Output::Skipped("late".into()))
        } else {
            self.fold.step(sample)
        };
        if sample.output != expected {
            self.found.push(format!(
                "{number}: stored {:?}, folded {expected:?}",
                sample.output
            ));
        }
    }

    fn log_row(&mut self, row: &LogRow) {
        match (row.kind, &row.version) {
            (LogKind::Switch, Some(version)) => {
                self.fold = self.warmed(self.zoo.version(version), row.pos);
            }
            (LogKind::Reset, _) => {
                self.reset_at = row.pos;
                self.fold = Fold::new(self.fold.version);
            }
            (LogKind::Epoch, _) => {}
            (LogKind::Switch, None) => self
                .found
                .push(format!("a switch to nobody at {}", row.pos)),
        }
    }

    /// What a switch at `at` puts in place: calibrated on the first readings since the last reset, then folded over the
    /// last `memory` readings.
    fn warmed(&self, version: &'s Version, at: u64) -> Fold<'s> {
        let count = |number: u32| usize::try_from(number).expect("a few");
        let readings: Vec<_> = self
            .stream
            .samples
            .iter()
            .filter(|row| !row.is_late() && row.pos > self.reset_at && row.pos < at)
            .collect();
        let calibration = count(version.manifest.calibration).min(readings.len());
        let (first, rest) = readings.split_at(calibration);
        let recent = rest.len().saturating_sub(count(version.manifest.memory));
        let mut fold = Fold::new(version);
        for sample in first.iter().chain(&rest[recent..]) {
            fold.step(sample);
        }
        fold
    }

    fn snapshot(&mut self, snapshot: &SnapshotRow) {
        let pos = snapshot.pos;
        if snapshot.version != self.fold.version.id() {
            self.found
                .push(format!("snapshot at {pos}: of {}", snapshot.version));
        }
        if snapshot.state != self.fold.bits() {
            self.found
                .push(format!("snapshot at {pos}: another state than folded"));
        }
        if snapshot.last_ts != self.fold.last_ts {
            self.found.push(format!(
                "snapshot at {pos}: last ts {:?}, folded {:?}",
                snapshot.last_ts, self.fold.last_ts
            ));
        }
    }
}
