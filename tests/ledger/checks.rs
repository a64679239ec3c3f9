//! After a run: each device's ledger against the database, the API and what the subscriber saw.
//!
//! Values in, findings out. A finding is a broken promise; its kind is a column of the table.

use super::fold;
use super::ledger::{Answer, Entry, Fate, Ledger, Number, bits};
use super::plan::{DevicePlan, Doors};
use super::stored::{SampleRow, Stored, Stream};
use super::subscriber::Seen;
use super::zoo::SmallZoo;
use std::collections::{BTreeMap, BTreeSet};
use tidegate_protocol::Sample;

/// A broken promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Acknowledged, and not in the database as it was sent.
    Missing,
    /// More than one row for a number.
    Twice,
    /// A row for what was never sent, or was refused.
    Foreign,
    /// Another prediction is stored than was delivered.
    Answer,
    /// State or output differs from an uninterrupted run.
    State,
    /// The subscriber saw a hole, a repeat or something else than is stored.
    Live,
    /// The protocol's rules, or the run did not come to its end.
    Rule,
}

impl Kind {
    pub const ALL: [Self; 7] = [
        Self::Missing,
        Self::Twice,
        Self::Foreign,
        Self::Answer,
        Self::State,
        Self::Live,
        Self::Rule,
    ];

    /// The words in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "acknowledged, then missing",
            Self::Twice => "counted twice",
            Self::Foreign => "stored, never sent or refused",
            Self::Answer => "another answer than delivered",
            Self::State => "state differences",
            Self::Live => "subscriber holes and repeats",
            Self::Rule => "rules broken, runs not ended",
        }
    }
}

/// What was found, by kind.
#[derive(Debug, Default)]
pub struct Findings(pub Vec<(Kind, String)>);

impl Findings {
    pub fn add(&mut self, kind: Kind, text: impl Into<String>) {
        self.0.push((kind, text.into()));
    }

    pub fn count(&self, kind: Kind) -> usize {
        self.0.iter().filter(|(found, _)| *found == kind).count()
    }
}

/// A device's ledger against its stream.
pub fn device(plan: &DevicePlan, ledger: &Ledger, stream: &Stream, found: &mut Findings) {
    let name = &plan.name;
    for text in &ledger.violations {
        found.add(Kind::Rule, format!("{name}: {text}"));
    }
    let rows = by_number(name, stream, found);
    for (number, entry) in &ledger.entries {
        let place = format!("{name} {number}");
        match rows.get(number) {
            Some(row) => stored(&place, plan, entry, row, found),
            None if entry.fate == Fate::Acked => found.add(Kind::Missing, place.as_str()),
            None => {}
        }
        if entry.fate == Fate::Open && entry.sends > 0 {
            found.add(Kind::Rule, format!("{place}: never settled"));
        }
    }
    for number in rows.keys().filter(|n| !ledger.entries.contains_key(n)) {
        found.add(Kind::Foreign, format!("{name} {number}: never sent"));
    }
    extras(plan, ledger, stream, found);
}

fn by_number<'s>(
    name: &str,
    stream: &'s Stream,
    found: &mut Findings,
) -> BTreeMap<Number, &'s SampleRow> {
    let mut rows = BTreeMap::new();
    for row in &stream.samples {
        let number = Number {
            epoch: row.epoch,
            seq: row.seq,
        };
        if rows.insert(number, row).is_some() {
            found.add(Kind::Twice, format!("{name} {number}"));
        }
    }
    rows
}

/// A stored reading: as it was sent, and with the answer that was delivered last.
fn stored(place: &str, plan: &DevicePlan, entry: &Entry, row: &SampleRow, found: &mut Findings) {
    if let Fate::Nacked(code) = entry.fate {
        found.add(Kind::Foreign, format!("{place}: nacked {code} and stored"));
    } else if !entry.is_good || entry.sends == 0 {
        found.add(
            Kind::Foreign,
            format!("{place}: stored though it must not be"),
        );
    }
    let ts = entry.reading.ts.unwrap_or(row.received_at);
    if row.bits() != entry.bits() || row.ts != ts {
        found.add(Kind::Missing, format!("{place}: stored with other values"));
    }
    let answer = Answer {
        ts: row.ts,
        version: row.version.clone(),
        output: row.output.clone(),
    };
    match entry.answers.last() {
        Some(last) if *last != answer => {
            let text = format!("{place}: delivered {last:?}, stored {answer:?}");
            found.add(Kind::Answer, text);
        }
        None => found.add(Kind::Answer, format!("{place}: stored and never answered")),
        Some(_) => {}
    }
    if plan.is_steady() && entry.answers.iter().any(|given| *given != answer) {
        let text = format!("{place}: answers changed: {:?}", entry.answers);
        found.add(Kind::Answer, text);
    }
}

/// Resets and feedback that were told to be committed are stored, and none beyond those that were sent. They have no number:
/// what a broker delivers again is done again.
fn extras(plan: &DevicePlan, ledger: &Ledger, stream: &Stream, found: &mut Findings) {
    let name = &plan.name;
    let resets = stream
        .log
        .iter()
        .filter(|row| row.kind == super::stored::LogKind::Reset)
        .count();
    let (sent, told) = (ledger.resets_sent as usize, ledger.resets_told as usize);
    if resets < told {
        let text = format!("{name}: {told} resets told, {resets} stored");
        found.add(Kind::Missing, text);
    }
    if resets > sent && plan.doors == Doors::Ws {
        let text = format!("{name}: {sent} resets sent, {resets} stored");
        found.add(Kind::Foreign, text);
    }
    for (number, (sent, told)) in &ledger.feedback {
        let about = (number.epoch, number.seq);
        let rows = stream.feedback.iter().filter(|row| **row == about).count();
        if rows < *told as usize {
            found.add(Kind::Missing, format!("{name}: feedback for {number}"));
        }
        if rows > *sent as usize {
            found.add(Kind::Twice, format!("{name}: feedback for {number}"));
        }
    }
}

/// Every stream against an uninterrupted fold of its log.
pub fn states(stored: &Stored, zoo: &SmallZoo, found: &mut Findings) {
    for (device, stream) in stored {
        for text in fold::differences(stream, zoo) {
            found.add(Kind::State, format!("{device}: {text}"));
        }
    }
}

/// What the API and the subscriber show against the rows.
pub fn shown(stored: &Stored, api: &[Sample], seen: &Seen, found: &mut Findings) {
    let rows: BTreeMap<u64, (&str, &SampleRow)> = stored
        .iter()
        .flat_map(|(device, stream)| {
            stream
                .samples
                .iter()
                .map(|row| (row.id, (device.as_str(), row)))
        })
        .collect();
    for sample in api {
        if !rows.get(&sample.id).is_some_and(|row| is_same(sample, row)) {
            found.add(
                Kind::Rule,
                format!("the api shows another sample {}", sample.id),
            );
        }
    }
    if api.len() != rows.len() {
        let text = format!("the api shows {} samples of {}", api.len(), rows.len());
        found.add(Kind::Rule, text);
    }
    if seen.unrecovered > 0 {
        let text = format!("{} times not recovered", seen.unrecovered);
        found.add(Kind::Live, text);
    }
    let mut last = seen.first;
    for sample in &seen.samples {
        if sample.id <= last {
            found.add(Kind::Live, format!("{} after {last}", sample.id));
        }
        last = sample.id;
        if !rows.get(&sample.id).is_some_and(|row| is_same(sample, row)) {
            found.add(Kind::Live, format!("{} is not what is stored", sample.id));
        }
    }
    let shown: BTreeSet<u64> = seen.samples.iter().map(|sample| sample.id).collect();
    for (id, _) in rows
        .range(seen.first + 1..)
        .filter(|(id, _)| !shown.contains(id))
    {
        found.add(Kind::Live, format!("{id} was never seen"));
    }
}

fn is_same(sample: &Sample, (device, row): &(&str, &SampleRow)) -> bool {
    let values: Vec<u32> = sample.values.iter().map(|value| value.to_bits()).collect();
    sample.device == *device
        && (sample.epoch, sample.seq, sample.ts) == (row.epoch, row.seq, row.ts)
        && sample.received_at == row.received_at
        && values == row.bits()
        && bits(&sample.output) == row.output
        && format!("{}/{}", sample.model, sample.version) == row.version
}
