//! Roll-ups: what remains of many readings of a stream, a minute or an hour of measured time at a time.
//!
//! Owns the arithmetic: a [`Stat`] adds up readings and other stats alike, so buckets can be filled in parts, in any order, and
//! merged later. Sums are f64, extremes f32. Pure; who gathers is `upkeep`, who stores is the store.

use crate::stream::{Flags, SampleRow};
use tidegate_protocol::Output;

/// Bytes of one stored [`Stat`].
const STAT_BYTES: usize = 24;

/// How long a bucket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Span {
    /// 60 s.
    Minute,
    /// 3,600 s.
    Hour,
}

impl Span {
    /// Both, the shorter one first.
    pub const ALL: [Self; 2] = [Self::Minute, Self::Hour];

    /// Its length, seconds; how the store names it.
    pub fn seconds(self) -> i64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 3_600,
        }
    }

    /// The beginning of the bucket that holds `at`, both Unix ms.
    pub fn start_of(self, at: i64) -> i64 {
        let ms = self.seconds() * 1000;
        at.div_euclid(ms).saturating_mul(ms)
    }
}

/// Count, sum and extremes of some numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stat {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// The smallest.
    pub min: f32,
    /// The largest.
    pub max: f32,
}

impl Default for Stat {
    fn default() -> Self {
        Self {
            count: 0,
            sum: 0.0,
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
        }
    }
}

impl Stat {
    /// Takes one number in; a missing one (NaN) does not count.
    pub fn add(&mut self, value: f32) {
        if value.is_nan() {
            return;
        }
        self.count += 1;
        self.sum += f64::from(value);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Takes another one's numbers in.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// Mean, smallest and largest; `None` where nothing was counted.
    pub fn summary(&self) -> Option<(f64, f32, f32)> {
        let any = self.count > 0;
        any.then(|| (self.sum / self.count as f64, self.min, self.max))
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.count.to_le_bytes());
        bytes.extend(self.sum.to_le_bytes());
        bytes.extend(self.min.to_le_bytes());
        bytes.extend(self.max.to_le_bytes());
    }

    fn read(bytes: &[u8; STAT_BYTES]) -> Self {
        let (halves, _) = bytes.as_chunks::<8>();
        let (quarters, _) = bytes.as_chunks::<4>();
        Self {
            count: u64::from_le_bytes(halves[0]),
            sum: f64::from_le_bytes(halves[1]),
            min: f32::from_le_bytes(quarters[4]),
            max: f32::from_le_bytes(quarters[5]),
        }
    }
}

/// Stats as the store keeps them: 24 little-endian bytes each.
pub fn to_bytes(stats: &[Stat]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(stats.len() * STAT_BYTES);
    stats.iter().for_each(|stat| stat.write(&mut bytes));
    bytes
}

/// Stats from stored bytes; a torn tail is left out.
pub fn from_bytes(bytes: &[u8]) -> Vec<Stat> {
    let (chunks, _) = bytes.as_chunks::<STAT_BYTES>();
    chunks.iter().map(Stat::read).collect()
}

/// A stream's readings over one span of measured time.
#[derive(Debug, Clone, PartialEq)]
pub struct Bucket {
    /// Row id of the stream.
    pub stream: i64,
    /// Its length.
    pub span: Span,
    /// Its beginning, Unix ms.
    pub start: i64,
    /// Readings taken.
    pub count: u64,
    /// Of them called an anomaly.
    pub anomalies: u64,
    /// Of them whose step failed.
    pub failed: u64,
    /// Scores; of a regression or forecast the first value.
    pub score: Stat,
    /// Values of each feature, in order.
    pub features: Vec<Stat>,
}

impl Bucket {
    /// An empty one.
    pub fn new(stream: i64, span: Span, start: i64) -> Self {
        Self {
            stream,
            span,
            start,
            count: 0,
            anomalies: 0,
            failed: 0,
            score: Stat::default(),
            features: Vec::new(),
        }
    }

    /// Takes one reading in.
    pub fn add(&mut self, values: &[f32], output: &Output) {
        self.count += 1;
        self.anomalies += u64::from(matches!(output, Output::Anomaly { anomaly: true, .. }));
        self.failed += u64::from(matches!(output, Output::Failed(_)));
        if let Some(score) = score_of(output) {
            self.score.add(score);
        }
        self.widen(values.len());
        for (stat, value) in self.features.iter_mut().zip(values) {
            stat.add(*value);
        }
    }

    /// Takes another part of the same bucket in.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.anomalies += other.anomalies;
        self.failed += other.failed;
        self.score.merge(&other.score);
        self.widen(other.features.len());
        for (stat, more) in self.features.iter_mut().zip(&other.features) {
            stat.merge(more);
        }
    }

    /// A later revision of the schema may have more features.
    fn widen(&mut self, features: usize) {
        if self.features.len() < features {
            self.features.resize(features, Stat::default());
        }
    }
}

/// When a reading counts: as measured, or as arrived where the device's clock cannot be right.
pub fn time_of(ts: i64, received_at: i64, flags: Flags) -> i64 {
    if flags.has(Flags::CLOCK_SKEW) && !flags.has(Flags::HISTORICAL) {
        received_at
    } else {
        ts
    }
}

/// [`time_of`] a committed row.
pub fn time_of_row(row: &SampleRow) -> i64 {
    time_of(row.ts, row.received_at, row.flags)
}

/// The number that an answer is judged by: a score; of a regression or forecast the first value.
pub fn score_of(output: &Output) -> Option<f32> {
    match output {
        Output::Anomaly { score, .. } => Some(*score),
        Output::Regression { values } => values.first().map(|(_, value)| *value),
        Output::Forecast { values, .. } => values.first().copied(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn anomaly(score: f32) -> Output {
        Output::Anomaly {
            score,
            threshold: 0.5,
            anomaly: score > 0.5,
        }
    }

    fn bucket(readings: &[(f32, f32)]) -> Bucket {
        let mut bucket = Bucket::new(1, Span::Minute, 0);
        for (value, score) in readings {
            bucket.add(&[*value, f32::NAN], &anomaly(*score));
        }
        bucket
    }

    #[test]
    fn buckets_begin_at_whole_minutes_and_hours_before_1970_too() {
        assert_eq!(Span::Minute.start_of(119_999), 60_000);
        assert_eq!(Span::Minute.start_of(-1), -60_000);
        assert_eq!(Span::Hour.start_of(7_199_999), 3_600_000);
    }

    #[test]
    fn a_missing_value_does_not_count_and_nothing_counted_has_no_mean() {
        let bucket = bucket(&[(1.0, 0.2), (3.0, 0.9)]);
        assert_eq!((bucket.count, bucket.anomalies), (2, 1));
        assert_eq!(bucket.features[0].summary(), Some((2.0, 1.0, 3.0)));
        assert_eq!(bucket.features[1].summary(), None);
    }

    #[test]
    fn a_wrong_clock_counts_by_arrival_but_a_back_fill_by_its_own_time() {
        assert_eq!(time_of(5, 1000, Flags::CLOCK_SKEW), 1000);
        let mut filled = Flags::CLOCK_SKEW;
        filled.set(Flags::HISTORICAL);
        assert_eq!(time_of(5, 1000, filled), 5);
        assert_eq!(time_of(5, 1000, Flags::default()), 5);
    }

    proptest! {
        #[test]
        fn parts_merge_to_the_whole_and_survive_their_bytes(
            readings in prop::collection::vec((-1e3f32..1e3, 0f32..1.0), 0..40),
            cut in 0usize..40,
        ) {
            let cut = cut.min(readings.len());
            let whole = bucket(&readings);
            let mut merged = bucket(&readings[..cut]);
            merged.merge(&bucket(&readings[cut..]));
            prop_assert_eq!((whole.count, whole.anomalies), (merged.count, merged.anomalies));
            for (a, b) in whole.features.iter().zip(&merged.features) {
                prop_assert_eq!((a.count, a.min, a.max), (b.count, b.min, b.max));
                prop_assert!((a.sum - b.sum).abs() <= 1e-6 * (1.0 + a.sum.abs()));
            }
            prop_assert_eq!(from_bytes(&to_bytes(&merged.features)), merged.features);
        }
    }
}
