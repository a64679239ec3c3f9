//! The words that several parts share: which stream, which version, what a row looks like before and after commit.
//!
//! Plain data, no behaviour beyond small helpers. Below every other module of the server: `store`, `inference`, `push` and
//! `session` all speak in these types and never import each other's insides.

mod moment;

pub use moment::{Moment, parse_iso};

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tidegate_protocol::message::Label;
use tidegate_protocol::{DeviceId, EndpointName, NackCode, Output, Sample};

/// The unit of state: one device at one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey {
    /// The endpoint.
    pub endpoint: EndpointName,
    /// The device.
    pub device: DeviceId,
    /// Epoch of a back-fill, which is a stream of its own beside the live one; 0 is the live stream.
    pub import: u64,
}

impl StreamKey {
    /// The live stream of a device.
    pub fn live(endpoint: EndpointName, device: DeviceId) -> Self {
        Self {
            endpoint,
            device,
            import: 0,
        }
    }

    /// Whether this is a device's live stream and no back-fill.
    pub fn is_live(&self) -> bool {
        self.import == 0
    }
}

impl std::fmt::Display for StreamKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.endpoint, self.device)?;
        if !self.is_live() {
            write!(f, " (import {})", self.import)?;
        }
        Ok(())
    }
}

/// `1 sample`, `2 samples`: a count with its noun.
pub fn counted(count: u64, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

/// A stream as the store knows it: its row id and its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StreamRef {
    /// Row id.
    pub id: i64,
    /// Endpoint and device.
    pub key: StreamKey,
}

/// A version as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRef {
    /// Row id.
    pub id: i64,
    /// The endpoint it serves.
    pub endpoint: EndpointName,
    /// The model's name.
    pub model: String,
    /// Its version.
    pub version: String,
}

impl std::fmt::Display for VersionRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.model, self.version)
    }
}

/// Why a version was put in place on a stream, as its row says.
pub mod reason {
    /// It was in production when the stream began.
    pub const OPENED: &str = "opened";
    /// It came into production.
    pub const PRODUCTION: &str = "production";
    /// The connection asked for it.
    pub const PINNED: &str = "pinned";
    /// A connection that asks for no version took a pinned stream over.
    pub const RELEASED: &str = "released";
    /// The version before it kept failing.
    pub const FAILING: &str = "failing";
    /// The version before it is not there any more.
    pub const GONE: &str = "version gone";
    /// An experiment put the device into one of its arms.
    pub const EXPERIMENT: &str = "experiment";
    /// The experiment that it took part in is over, or does not want it any more.
    pub const EXPERIMENT_OVER: &str = "experiment over";
}

/// A device's place in an experiment: which arm, and how it came there.
#[derive(Debug, Clone, PartialEq)]
pub struct ArmRef {
    /// Row id of the experiment.
    pub experiment: i64,
    /// `experiment/arm`, as samples and switches keep it.
    pub label: Arc<str>,
    /// Which arm, from 0; 0 is the control.
    pub arm: u8,
    /// The bucket that the device fell into, of 10,000.
    pub bucket: u16,
    /// The probability of this arm, given that the device takes part.
    pub propensity: f64,
    /// When it was drawn, Unix ms.
    pub at: i64,
}

/// What a version is to its endpoint. One version an endpoint is in production.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// There, and asked by name only.
    Testing,
    /// A candidate: `status=staging` asks for the newest of them.
    Staging,
    /// Serves every stream that is not pinned.
    Production,
    /// Was replaced or put away; still there for the streams that are pinned to it, and for replays.
    Archived,
}

impl Status {
    /// Every status, in its usual order.
    pub const ALL: [Self; 4] = [
        Self::Testing,
        Self::Staging,
        Self::Production,
        Self::Archived,
    ];

    /// The word for it, in the database and for peers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Testing => "testing",
            Self::Staging => "staging",
            Self::Production => "production",
            Self::Archived => "archived",
        }
    }
}

/// Who numbers the readings of an epoch; fixed by the epoch's first reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Numbering {
    /// No reading yet.
    #[default]
    Open,
    /// The device sends `seq`.
    Device,
    /// The server counts.
    Server,
}

/// Where a stream stands after a row: what the stream's own row in the store will say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    /// Position of the newest row.
    pub pos: u64,
    /// The current epoch.
    pub epoch: u64,
    /// Highest number consumed in it.
    pub high_water: Option<u64>,
    /// Who numbers it.
    pub numbering: Numbering,
    /// Measured time of the newest folded reading, Unix ms.
    pub last_ts: Option<i64>,
}

/// What was odd about a reading, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u32);

impl Flags {
    /// The device's clock is more than a day away from the server's.
    pub const CLOCK_SKEW: Flags = Flags(1);
    /// A value outside the feature's `range`.
    pub const OUT_OF_RANGE: Flags = Flags(2);
    /// Back-filled by the device.
    pub const HISTORICAL: Flags = Flags(4);
    /// Fell into a recorded gap: stored, not folded.
    pub const LATE: Flags = Flags(8);
    /// `ts` was sent by the device (otherwise it is the arrival time).
    pub const TS_SENT: Flags = Flags(16);
    /// Part of an import: it touches no live state.
    pub const IMPORT: Flags = Flags(32);

    /// Adds the bits of `other`.
    pub fn set(&mut self, other: Flags) {
        self.0 |= other.0;
    }

    /// Whether all bits of `other` are set.
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// The names that peers see.
    pub fn names(self) -> Vec<String> {
        let named = [
            (Self::CLOCK_SKEW, "clock_skew"),
            (Self::OUT_OF_RANGE, "out_of_range"),
            (Self::HISTORICAL, "historical"),
            (Self::LATE, "late"),
            (Self::IMPORT, "import"),
        ];
        named
            .iter()
            .filter(|(flag, _)| self.has(*flag))
            .map(|(_, name)| (*name).to_owned())
            .collect()
    }
}

/// A reading with its prediction, as stored; its id comes with the commit.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleRow {
    /// The stream.
    pub stream: Arc<StreamRef>,
    /// Position in the stream's log.
    pub pos: u64,
    /// The reading's epoch.
    pub epoch: u64,
    /// The reading's number.
    pub seq: u64,
    /// Measured, Unix ms.
    pub ts: i64,
    /// Arrived, Unix ms.
    pub received_at: i64,
    /// In the order of the endpoint's features.
    pub values: Box<[f32]>,
    /// The answer.
    pub output: Output,
    /// Who answered.
    pub version: Arc<VersionRef>,
    /// In which arm of an experiment, where it was one that chose the version.
    pub arm: Option<Arc<ArmRef>>,
    /// From decode to step done, microseconds.
    pub latency_us: u32,
    /// What was odd.
    pub flags: Flags,
    /// Revision of the arithmetic.
    pub numerics_rev: u32,
}

impl SampleRow {
    /// The row as peers see it; `id` was given by the writer.
    pub fn to_wire(&self, id: u64) -> Sample {
        Sample {
            id,
            endpoint: self.stream.key.endpoint.to_string(),
            device: self.stream.key.device.to_string(),
            epoch: self.epoch,
            seq: self.seq,
            ts: self.ts,
            received_at: self.received_at,
            values: self.values.to_vec(),
            output: self.output.clone(),
            model: self.version.model.clone(),
            version: self.version.version.clone(),
            arm: self.arm.as_ref().map(|arm| arm.label.to_string()),
            latency_us: self.latency_us,
            flags: self.flags.names(),
        }
    }
}

/// Whether a reading with this output went into the state.
pub fn is_folded(output: &Output) -> bool {
    !matches!(output, Output::Skipped(_) | Output::Failed(_))
}

/// A reading that will never be taken, as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct RefusalRow {
    /// The reading's epoch.
    pub epoch: u64,
    /// The reading's number, where it had one.
    pub seq: Option<u64>,
    /// Why, for programs.
    pub code: NackCode,
    /// Why, for people.
    pub message: String,
    /// Whether the refusal used up the number.
    pub consumed: bool,
    /// When, Unix ms.
    pub at: i64,
}

/// One row of a stream's log on its way to the store.
#[derive(Debug, Clone)]
pub struct Row {
    /// Sample id, given by the writer in commit order before the first try; other rows get the newest one given before
    /// them. 0 until then.
    pub id: u64,
    /// The stream.
    pub stream: Arc<StreamRef>,
    /// Where the stream stands after this row; `after.pos` is this row's position.
    pub after: Marks,
    /// What happened.
    pub what: What,
    /// The gap list after this row, where it changed.
    pub gaps: Option<Vec<(u64, u64)>>,
    /// Model state behind this row, where one is due.
    pub snapshot: Option<Snapshot>,
    /// The publish it came in, where nothing else tells its redelivery (MQTT, readings without seq).
    pub mark: Option<PublishMark>,
}

/// A publish of the broker's session, as far as its redelivery must be told from another publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishRef {
    /// This server at that broker.
    pub client: Arc<str>,
    /// The broker's session; another one gives the same packet ids to other publishes.
    pub session: u64,
    /// Counts the publishes that are remembered.
    pub place: u64,
    /// The broker has heard of everything before this place: it may be forgotten.
    pub keep_from: u64,
    /// Packet id.
    pub packet: u16,
    /// Of topic, payload and properties.
    pub hash: [u8; 32],
}

/// How far a publish is taken with this row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishMark {
    /// The publish.
    pub publish: Arc<PublishRef>,
    /// Its messages up to this row's.
    pub taken: u32,
}

/// What a row says.
#[derive(Debug, Clone)]
pub enum What {
    /// A reading and its prediction.
    Sample(Arc<SampleRow>),
    /// A reading that will never be taken.
    Refusal(Arc<RefusalRow>),
    /// The epoch of `after` begins.
    Epoch,
    /// The state was set back to that of a new stream; the row's snapshot holds it.
    Reset {
        /// Who asked.
        reason: &'static str,
    },
    /// Another version serves from here on; its warmed state is the row's snapshot.
    Switch {
        /// Who serves.
        version: Arc<VersionRef>,
        /// Why: one of [`reason`].
        reason: &'static str,
        /// The state was calibrated on the stream's first readings since its last reset, and folded over all behind this position.
        warm_from: Option<u64>,
        /// The arm of an experiment that it serves for.
        arm: Option<Arc<ArmRef>>,
    },
    /// Ground truth for an earlier reading.
    Feedback {
        /// The reading's epoch.
        epoch: u64,
        /// The reading's number.
        seq: u64,
        /// What was true.
        label: Label,
    },
}

/// Model state behind a position.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Whose state.
    pub version: Arc<VersionRef>,
    /// Names and lengths of its buffers.
    pub layout: Arc<str>,
    /// Revision of the arithmetic.
    pub numerics_rev: u32,
    /// Measured time of the newest folded reading.
    pub last_ts: Option<i64>,
    /// The buffers.
    pub state: Box<[f32]>,
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Little-endian bytes of f32 values, as the store keeps them.
pub fn to_le_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// Values from little-endian bytes; a torn tail is left out.
pub fn from_le_bytes(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|chunk| f32::from_le_bytes(*chunk))
        .collect()
}
