//! What a stream came to: how many readings went which way, and how long predictions took.
//!
//! Filled by [`super::window::Window`]; several streams' tallies add up with [`Tally::add`]. Fixed size: about 25 KiB.

use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;
use tidegate_protocol::{NackCode, Output};

/// Longest round trip that is told apart from longer ones, in microseconds.
const LONGEST_US: u64 = 600_000_000;

/// Counts of one stream, or of several added up.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Readings sent that were not stored before.
    pub sent: u64,
    /// Readings sent once more after a cut or a gap.
    pub resent: u64,
    /// Readings that the server already held before this run.
    pub already_stored: u64,
    /// Readings with a prediction.
    pub predicted: u64,
    /// Readings committed.
    pub acked: u64,
    /// Readings refused for good, by code.
    pub nacked: BTreeMap<&'static str, u64>,
    /// Gaps the server recorded.
    pub gaps: u64,
    /// Predictions that call an anomaly.
    pub anomalies: u64,
    /// Predictions that still calibrate.
    pub calibrating: u64,
    /// Connections made anew after a cut.
    pub reconnects: u64,
    /// From send to prediction, microseconds.
    round_trips: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        let round_trips = Histogram::new_with_bounds(1, LONGEST_US, 2)
            .expect("the bounds are constants in order");
        Self {
            sent: 0,
            resent: 0,
            already_stored: 0,
            predicted: 0,
            acked: 0,
            nacked: BTreeMap::new(),
            gaps: 0,
            anomalies: 0,
            calibrating: 0,
            reconnects: 0,
            round_trips,
        }
    }
}

impl Tally {
    /// Readings refused for good.
    pub fn nacked_total(&self) -> u64 {
        self.nacked.values().sum()
    }

    /// Readings whose fate is known.
    pub fn settled(&self) -> u64 {
        self.acked + self.already_stored + self.nacked_total()
    }

    /// Round trip below which `quantile` (0..=1) of the predictions lie, in milliseconds; `None` without predictions.
    pub fn round_trip_ms(&self, quantile: f64) -> Option<f64> {
        let known = !self.round_trips.is_empty();
        known.then(|| self.round_trips.value_at_quantile(quantile) as f64 / 1_000.0)
    }

    /// Adds another stream's counts.
    pub fn add(&mut self, other: &Tally) {
        self.sent += other.sent;
        self.resent += other.resent;
        self.already_stored += other.already_stored;
        self.predicted += other.predicted;
        self.acked += other.acked;
        self.gaps += other.gaps;
        self.anomalies += other.anomalies;
        self.calibrating += other.calibrating;
        self.reconnects += other.reconnects;
        for (code, count) in &other.nacked {
            *self.nacked.entry(code).or_default() += count;
        }
        self.round_trips
            .add(&other.round_trips)
            .expect("every tally has the same bounds");
    }

    pub(super) fn predicted(&mut self, kind: Kind) {
        self.predicted += 1;
        match kind {
            Kind::Plain => {}
            Kind::Anomaly => self.anomalies += 1,
            Kind::Calibrating => self.calibrating += 1,
        }
    }

    pub(super) fn nacked(&mut self, code: NackCode) {
        *self.nacked.entry(code.as_str()).or_default() += 1;
    }

    pub(super) fn round_trip(&mut self, took: Duration) {
        self.round_trips
            .saturating_record((took.as_micros() as u64).max(1));
    }
}

/// What is counted of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    Anomaly,
    Calibrating,
}

impl Kind {
    pub(super) fn of(output: &Output) -> Self {
        match output {
            Output::Anomaly { anomaly: true, .. } => Self::Anomaly,
            Output::Calibrating { .. } => Self::Calibrating,
            _ => Self::Plain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up() {
        let mut one = Tally::default();
        one.predicted(Kind::Anomaly);
        one.nacked(NackCode::BadReading);
        one.round_trip(Duration::from_millis(2));
        let mut sum = Tally::default();
        sum.add(&one);
        sum.add(&one);
        assert_eq!(
            (sum.predicted, sum.anomalies, sum.nacked_total()),
            (2, 2, 2)
        );
        let median = sum.round_trip_ms(0.5).unwrap();
        assert!((median - 2.0).abs() < 0.1, "{median}");
    }

    #[test]
    fn a_round_trip_is_unknown_before_the_first_prediction() {
        assert_eq!(Tally::default().round_trip_ms(0.5), None);
    }
}
