//! What a comparison of two versions comes to: who agrees, how far scores moved, which devices change most.

use super::spread::{Moments, Sketch, Spread};
use crate::stream::StreamKey;
use serde::Serialize;
use std::collections::BTreeMap;

/// Devices listed as those that change most.
const MOST_CHANGED: usize = 20;

/// Which readings were compared, and why others were not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rows {
    /// Readings in the range.
    pub readings: u64,
    /// Both versions answered.
    pub compared: u64,
    /// One of them, or both, still calibrated.
    pub calibrating: u64,
    /// Of those: the recorded one did.
    pub calibrating_recorded: u64,
    /// Of those: the other one did.
    pub calibrating_other: u64,
    /// The step of one of them failed.
    pub failed: u64,
    /// Late: stored, folded by neither.
    pub late: u64,
    /// Answers of two kinds, or a reading that does not fit.
    pub not_comparable: u64,
}

impl Rows {
    fn add(&mut self, other: &Self) {
        self.readings += other.readings;
        self.compared += other.compared;
        self.calibrating += other.calibrating;
        self.calibrating_recorded += other.calibrating_recorded;
        self.calibrating_other += other.calibrating_other;
        self.failed += other.failed;
        self.late += other.late;
        self.not_comparable += other.not_comparable;
    }
}

/// Decisions of both versions on the same readings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Decisions {
    /// Both say normal, or the same class.
    pub both_normal: u64,
    /// Both say anomaly.
    pub both_anomaly: u64,
    /// Only the recorded version says anomaly.
    pub only_recorded: u64,
    /// Only the other version says anomaly, or names another class.
    pub only_other: u64,
}

impl Decisions {
    fn add(&mut self, other: &Self) {
        self.both_normal += other.both_normal;
        self.both_anomaly += other.both_anomaly;
        self.only_recorded += other.only_recorded;
        self.only_other += other.only_other;
    }

    /// Decisions that are not the same.
    pub fn changed(&self) -> u64 {
        self.only_recorded + self.only_other
    }

    fn total(&self) -> u64 {
        self.both_normal + self.both_anomaly + self.changed()
    }

    /// Cohen's kappa: the agreement beyond what two deciders of these habits have by chance. `None` where chance alone agrees always.
    pub fn kappa(&self) -> Option<f64> {
        let total = self.total() as f64;
        let share = |count: u64| count as f64 / total;
        let (recorded, other) = (
            share(self.both_anomaly + self.only_recorded),
            share(self.both_anomaly + self.only_other),
        );
        let by_chance = recorded * other + (1.0 - recorded) * (1.0 - other);
        let observed = share(self.both_normal + self.both_anomaly);
        (total > 0.0 && by_chance < 1.0).then(|| (observed - by_chance) / (1.0 - by_chance))
    }
}

/// What the two versions' answers are, where they can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Scores and decisions.
    Anomaly,
    /// Classes.
    Classification,
    /// Values.
    Regression,
    /// Values ahead.
    Forecast,
}

/// One stream's part.
#[derive(Debug, Clone)]
pub struct StreamCompared {
    /// The stream.
    pub key: StreamKey,
    /// What its answers are.
    pub kind: Option<Kind>,
    /// Readings.
    pub rows: Rows,
    /// Decisions.
    pub decisions: Decisions,
    /// Recorded scores or values.
    pub recorded: Moments,
    /// Those of the other version.
    pub other: Moments,
    /// The other's minus the recorded.
    pub difference: Moments,
    /// Readings in the range, by the version that answered.
    pub versions: BTreeMap<i64, u64>,
}

impl StreamCompared {
    /// Nothing compared yet.
    pub fn new(key: StreamKey) -> Self {
        Self {
            key,
            kind: None,
            rows: Rows::default(),
            decisions: Decisions::default(),
            recorded: Moments::default(),
            other: Moments::default(),
            difference: Moments::default(),
            versions: BTreeMap::new(),
        }
    }
}

/// Distributions over all streams.
#[derive(Debug, Clone, Default)]
pub struct Sketches {
    /// Recorded scores or values.
    pub recorded: Sketch,
    /// Those of the other version.
    pub other: Sketch,
    /// The other's minus the recorded.
    pub difference: Sketch,
}

impl Sketches {
    /// Takes another stream's.
    pub fn add(&mut self, other: &Self) {
        self.recorded.add(&other.recorded);
        self.other.add(&other.other);
        self.difference.add(&other.difference);
    }
}

/// Who agrees on decisions or classes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Agreement {
    /// Readings on which both say the same.
    pub same: u64,
    /// Their share of those compared.
    pub share: f64,
    /// Cohen's kappa of the two decisions; `null` for classes, and where both always say the same thing.
    pub kappa: Option<f64>,
    /// The two-by-two table of anomaly decisions.
    pub decisions: Option<DecisionTable>,
}

/// The two-by-two table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DecisionTable {
    /// Both say normal.
    pub both_normal: u64,
    /// Only the recorded version says anomaly.
    pub only_recorded: u64,
    /// Only the other version does.
    pub only_other: u64,
    /// Both do.
    pub both_anomaly: u64,
}

/// How scores or values are spread, and how far they moved.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Shift {
    /// `score`, or `value` for regressions and forecasts (all their values together).
    pub of: &'static str,
    /// As recorded.
    pub recorded: Spread,
    /// The other version's.
    pub other: Spread,
    /// The other's minus the recorded, reading by reading.
    pub difference: Spread,
    /// Kolmogorov and Smirnov's distance of the two distributions.
    pub ks: f64,
}

/// One device's change.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeviceChange {
    /// The device.
    pub device: String,
    /// Epoch of the back-fill, 0 for the live stream.
    pub import: u64,
    /// Readings.
    #[serde(flatten)]
    pub rows: Rows,
    /// Decisions or classes that are not the same.
    pub changed: u64,
    /// Their share of those compared.
    pub changed_share: f64,
    /// Mean of the differences; `null` for classes.
    pub mean_difference: Option<f64>,
    /// Mean of the absolute differences.
    pub mean_absolute_difference: Option<f64>,
}

/// A whole comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// The endpoint.
    pub endpoint: String,
    /// The other version.
    pub version: String,
    /// Readings in the range, by the version that answered them.
    pub recorded: BTreeMap<String, u64>,
    /// What the answers are; `null` when nothing could be compared.
    pub kind: Option<Kind>,
    /// Streams that were read.
    pub streams: u64,
    /// All streams' readings.
    pub rows: Rows,
    /// On decisions or classes; `null` for values.
    pub agreement: Option<Agreement>,
    /// Of scores or values; `null` for classes.
    pub shift: Option<Shift>,
    /// The devices that change most, first by changed decisions, then by distance.
    pub most_changed: Vec<DeviceChange>,
    /// Each stream, in order.
    pub by_stream: Vec<DeviceChange>,
}

impl Comparison {
    /// Joins the streams' parts, in their order.
    pub fn of(
        endpoint: &str,
        version: &str,
        parts: Vec<StreamCompared>,
        sketches: &Sketches,
        name: impl Fn(i64) -> String,
    ) -> Self {
        let mut rows = Rows::default();
        let mut decisions = Decisions::default();
        let mut moments = [Moments::default(); 3];
        let mut recorded: BTreeMap<String, u64> = BTreeMap::new();
        for part in &parts {
            rows.add(&part.rows);
            decisions.add(&part.decisions);
            let of_part = [&part.recorded, &part.other, &part.difference];
            moments
                .iter_mut()
                .zip(of_part)
                .for_each(|(all, one)| all.add(one));
            for (version, readings) in &part.versions {
                *recorded.entry(name(*version)).or_default() += readings;
            }
        }
        let kind = parts.iter().filter_map(|part| part.kind).min();
        let by_stream: Vec<DeviceChange> = parts.iter().map(change).collect();
        Self {
            endpoint: endpoint.to_owned(),
            version: version.to_owned(),
            recorded,
            kind,
            streams: parts.len() as u64,
            rows,
            agreement: kind.and_then(|kind| agreement(kind, &decisions)),
            shift: kind.and_then(|kind| shift(kind, &moments, sketches)),
            most_changed: most_changed(&by_stream),
            by_stream,
        }
    }
}

fn agreement(kind: Kind, decisions: &Decisions) -> Option<Agreement> {
    let of_decisions = kind == Kind::Anomaly;
    if !of_decisions && kind != Kind::Classification {
        return None;
    }
    let (same, total) = (decisions.total() - decisions.changed(), decisions.total());
    Some(Agreement {
        same,
        share: same as f64 / total.max(1) as f64,
        kappa: decisions.kappa().filter(|_| of_decisions),
        decisions: of_decisions.then_some(DecisionTable {
            both_normal: decisions.both_normal,
            only_recorded: decisions.only_recorded,
            only_other: decisions.only_other,
            both_anomaly: decisions.both_anomaly,
        }),
    })
}

fn shift(kind: Kind, moments: &[Moments; 3], sketches: &Sketches) -> Option<Shift> {
    let [recorded, other, difference] = moments;
    Some(Shift {
        of: if kind == Kind::Anomaly {
            "score"
        } else {
            "value"
        },
        recorded: Spread::of(recorded, &sketches.recorded)?,
        other: Spread::of(other, &sketches.other)?,
        difference: Spread::of(difference, &sketches.difference)?,
        ks: sketches.recorded.distance(&sketches.other),
    })
}

fn change(part: &StreamCompared) -> DeviceChange {
    let has_values = part.difference.count > 0;
    DeviceChange {
        device: part.key.device.to_string(),
        import: part.key.import,
        rows: part.rows,
        changed: part.decisions.changed(),
        changed_share: part.decisions.changed() as f64 / part.rows.compared.max(1) as f64,
        mean_difference: has_values.then_some(part.difference.mean),
        mean_absolute_difference: has_values.then(|| part.difference.mean_absolute()),
    }
}

/// Streams with something compared, the most changed first; ties stay in the order of streams.
fn most_changed(by_stream: &[DeviceChange]) -> Vec<DeviceChange> {
    let distance = |change: &DeviceChange| change.mean_absolute_difference.unwrap_or(0.0);
    let mut changes: Vec<&DeviceChange> = by_stream
        .iter()
        .filter(|change| change.rows.compared > 0)
        .collect();
    changes.sort_by(|one, other| {
        let by_share = other.changed_share.total_cmp(&one.changed_share);
        by_share.then(distance(other).total_cmp(&distance(one)))
    });
    changes.into_iter().take(MOST_CHANGED).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kappa_is_the_agreement_beyond_chance() {
        // The textbook's table: 20 and 15 agreed, 5 and 10 not; kappa 0.4.
        let table = Decisions {
            both_anomaly: 20,
            only_recorded: 5,
            only_other: 10,
            both_normal: 15,
        };
        assert!((table.kappa().unwrap() - 0.4).abs() < 1e-12);
        let always = Decisions {
            both_normal: 9,
            ..Decisions::default()
        };
        assert_eq!(always.kappa(), None, "chance alone agrees always");
        assert_eq!(Decisions::default().kappa(), None);
    }
}
