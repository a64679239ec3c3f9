//! What a replay of the recorded versions came to: counts a stream, and the differences by place.

use super::versions::Unknown;
use crate::stream::StreamKey;
use serde::Serialize;
use std::collections::BTreeMap;

/// One thing that did not come out again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The device.
    pub device: String,
    /// Epoch of the back-fill, 0 for the live stream.
    pub import: u64,
    /// Position in the stream's log.
    pub pos: u64,
    /// Of the reading, where it is one.
    pub sample: Option<SamplePlace>,
    /// `output`, `version`, `values` or `snapshot`.
    pub what: &'static str,
    /// What the database holds.
    pub recorded: String,
    /// What the replay gives.
    pub replayed: String,
}

/// Which reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SamplePlace {
    /// The row id.
    pub id: u64,
    /// The reading's epoch.
    pub epoch: u64,
    /// The reading's number.
    pub seq: u64,
    /// Measured, Unix ms.
    pub ts: i64,
}

/// Counts of one stream, or of several added up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Readings in the range.
    pub readings: u64,
    /// Their prediction came out again, bit for bit.
    pub equal: u64,
    /// It did not.
    pub different: u64,
    /// Stored and not folded, as they should be.
    pub late: u64,
    /// Snapshots that the fold reproduces.
    pub snapshots_equal: u64,
    /// Snapshots that it does not.
    pub snapshots_different: u64,
    /// Readings that cannot be run again.
    pub not_reproducible: u64,
    /// Readings that retention took; their time is not known, so they are those of the whole stream.
    pub retired: u64,
}

impl Counts {
    /// Adds another stream's counts.
    pub fn add(&mut self, other: &Self) {
        self.readings += other.readings;
        self.equal += other.equal;
        self.different += other.different;
        self.late += other.late;
        self.snapshots_equal += other.snapshots_equal;
        self.snapshots_different += other.snapshots_different;
        self.not_reproducible += other.not_reproducible;
        self.retired += other.retired;
    }

    /// Whether something came out otherwise.
    pub fn differs(&self) -> bool {
        self.different + self.snapshots_different > 0
    }
}

/// One stream's part of the report.
#[derive(Debug, Clone)]
pub struct StreamVerified {
    /// The stream.
    pub key: StreamKey,
    /// Its counts.
    pub counts: Counts,
    /// Its first differences.
    pub differences: Vec<Difference>,
    /// Readings that cannot be run again, by reason.
    pub unknown: BTreeMap<Unknown, u64>,
    /// Readings in the range, by the version that answered.
    pub versions: BTreeMap<i64, u64>,
}

impl StreamVerified {
    /// Nothing replayed yet.
    pub fn new(key: StreamKey) -> Self {
        Self {
            key,
            counts: Counts::default(),
            differences: Vec::new(),
            unknown: BTreeMap::new(),
            versions: BTreeMap::new(),
        }
    }
}

/// What the replay of an endpoint's log came to.
#[derive(Debug, Clone, Serialize)]
pub struct Verified {
    /// The endpoint.
    pub endpoint: String,
    /// `equal`, `different`, `incomplete` or `empty`.
    pub result: Outcome,
    /// Streams that were read.
    pub streams: u64,
    /// All streams together.
    pub counts: Counts,
    /// Readings in the range, by the version that answered.
    pub versions: BTreeMap<String, u64>,
    /// Readings that cannot be run again, by reason.
    pub not_reproducible: BTreeMap<String, u64>,
    /// The first differences, in the order of streams and positions.
    pub differences: Vec<Difference>,
    /// Each stream, in order.
    pub by_stream: Vec<StreamCounts>,
}

/// A stream in the report.
#[derive(Debug, Clone, Serialize)]
pub struct StreamCounts {
    /// The device.
    pub device: String,
    /// Epoch of the back-fill, 0 for the live stream.
    pub import: u64,
    /// Its counts.
    #[serde(flatten)]
    pub counts: Counts,
}

/// What a replay says in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All that can be run again is equal to the bit.
    Equal,
    /// Something is not.
    Different,
    /// Nothing differs, but some readings could not be run again for want of a version.
    Incomplete,
    /// No reading was in the range.
    Empty,
}

impl Verified {
    /// Joins the streams' parts, in their order; keeps the first `listed` differences.
    pub fn of(
        endpoint: &str,
        parts: Vec<StreamVerified>,
        listed: usize,
        name: impl Fn(i64) -> String,
    ) -> Self {
        let mut report = Self {
            endpoint: endpoint.to_owned(),
            result: Outcome::Empty,
            streams: parts.len() as u64,
            counts: Counts::default(),
            versions: BTreeMap::new(),
            not_reproducible: BTreeMap::new(),
            differences: Vec::new(),
            by_stream: Vec::with_capacity(parts.len()),
        };
        let mut is_complete = true;
        for part in parts {
            report.counts.add(&part.counts);
            for (version, readings) in part.versions {
                *report.versions.entry(name(version)).or_default() += readings;
            }
            for (reason, readings) in part.unknown {
                is_complete &= reason.is_expected();
                *report
                    .not_reproducible
                    .entry(reason.to_string())
                    .or_default() += readings;
            }
            let room = listed - report.differences.len();
            report
                .differences
                .extend(part.differences.into_iter().take(room));
            report.by_stream.push(StreamCounts {
                device: part.key.device.to_string(),
                import: part.key.import,
                counts: part.counts,
            });
        }
        report.result = match &report.counts {
            counts if counts.differs() => Outcome::Different,
            counts if counts.readings == 0 => Outcome::Empty,
            _ if is_complete => Outcome::Equal,
            _ => Outcome::Incomplete,
        };
        report
    }
}
