//! What the store knows of experiments: what was declared, every step of it since, who is in which arm; and, for their analysis, feedback
//! and refusals in the order they were committed.
//!
//! A part of the store's trait of its own. Promises that a declaration never changes, that every change of state is one transaction with the
//! row of its history, by compare-and-set on the state, and that the history is only added to. Both databases are asked by the same texts.

use super::cells::{self, Cells};
use super::{Result, StoreError};
use futures_util::future::BoxFuture;
use tidegate_protocol::Output;
use tidegate_protocol::codec::{decode_output, encode_output};
use tidegate_protocol::message::Label;

/// An experiment to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewExperiment {
    /// Its name; no other one may have it.
    pub name: String,
    /// Where it takes place.
    pub endpoint: String,
    /// As declared, JSON.
    pub definition: String,
}

/// An experiment as read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExperimentRow {
    /// Row id.
    pub id: i64,
    /// What was declared.
    pub declared: NewExperiment,
    /// What it is now.
    pub state: String,
    /// Of a canary's ramp, from 0.
    pub step: u32,
    /// Its analysis reads samples behind this id.
    pub first_sample: u64,
    /// Feedback behind this id.
    pub first_feedback: u64,
    /// Refusals behind this id.
    pub first_refusal: u64,
    /// When it began, Unix ms.
    pub created: i64,
}

/// What happened to an experiment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Who did it.
    pub who: String,
    /// What was done.
    pub what: String,
    /// For which reason, with the numbers behind it.
    pub evidence: String,
}

/// A row of an experiment's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteRow {
    /// When, Unix ms.
    pub at: i64,
    /// What.
    pub note: Note,
}

/// A change of an experiment, to be stored if it is still in the state `from`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateChange<'a> {
    /// Row id.
    pub id: i64,
    /// What it must be.
    pub from: &'a str,
    /// What it is to be.
    pub to: &'a str,
    /// Of a canary's ramp.
    pub step: u32,
}

/// A device in an arm.
#[derive(Debug, Clone, PartialEq)]
pub struct AssignmentRow {
    /// The device.
    pub device: String,
    /// Which arm, from 0.
    pub arm: u8,
    /// Of 10,000.
    pub bucket: u16,
    /// The probability of the arm, given that the device takes part.
    pub propensity: f64,
    /// When it was drawn, Unix ms.
    pub at: i64,
}

/// Feedback as committed.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedbackRow {
    /// Row id; they rise in the order of commits.
    pub id: u64,
    /// Row id of the stream.
    pub stream: i64,
    /// The reading's epoch.
    pub epoch: u64,
    /// The reading's number.
    pub seq: u64,
    /// What was true.
    pub label: Label,
    /// When it was stored, Unix ms.
    pub at: i64,
    /// What the feedback before it on the same reading said: it is corrected by this one.
    pub before: Option<Label>,
}

/// A refusal as committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusedRow {
    /// Row id; they rise in the order of commits.
    pub id: u64,
    /// Row id of the stream.
    pub stream: i64,
    /// When, Unix ms.
    pub at: i64,
}

/// A challenger's answer to a reading, which nobody heard.
#[derive(Debug, Clone, PartialEq)]
pub struct ShadowRow {
    /// The sample's id.
    pub sample: u64,
    /// Row id of the version.
    pub version: i64,
    /// The answer.
    pub output: Output,
    /// Of the step, microseconds.
    pub latency_us: u32,
}

impl ShadowRow {
    /// The answer as it is stored.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16);
        encode_output(&self.output, &mut bytes);
        bytes
    }
}

/// Experiments, whatever the database.
pub trait Experiments: Send + Sync + 'static {
    /// All of them, oldest first.
    fn experiments(&self) -> BoxFuture<'_, Result<Vec<ExperimentRow>>>;

    /// Adds one, running, with the first row of its history. `Moved` when the name is taken.
    fn create_experiment<'a>(
        &'a self,
        new: &'a NewExperiment,
        note: &'a Note,
    ) -> BoxFuture<'a, Result<()>>;

    /// Changes one and adds the row of its history; else `Moved`, and nothing is added.
    fn change_experiment<'a>(
        &'a self,
        change: StateChange<'a>,
        note: &'a Note,
    ) -> BoxFuture<'a, Result<()>>;

    /// What happened to one, oldest first.
    fn experiment_history(&self, id: i64) -> BoxFuture<'_, Result<Vec<NoteRow>>>;

    /// Devices in the arms of one, by device, behind `cursor`.
    fn assignments<'a>(
        &'a self,
        id: i64,
        cursor: &'a str,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<AssignmentRow>>>;

    /// Feedback of an endpoint's streams behind a row id.
    fn feedback_after<'a>(
        &'a self,
        endpoint: &'a str,
        id: u64,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<FeedbackRow>>>;

    /// Adds answers of challengers in the shadow; one that is there already stays.
    fn store_shadows<'a>(&'a self, rows: &'a [ShadowRow]) -> BoxFuture<'a, Result<()>>;

    /// Answers of challengers to samples behind `after`, up to `until`.
    fn shadows(&self, after: u64, until: u64) -> BoxFuture<'_, Result<Vec<ShadowRow>>>;

    /// Refusals of an endpoint's streams behind a row id.
    fn refusals_after<'a>(
        &'a self,
        endpoint: &'a str,
        id: u64,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<RefusedRow>>>;
}

/// Every experiment.
pub(super) const ALL: &str = "SELECT id, name, endpoint, definition, state, step, first_sample, first_feedback, first_refusal, created \
     FROM experiments ORDER BY id";
/// A new one, if its name is free. What is committed already is no part of it.
pub(super) const CREATE: &str = "INSERT INTO experiments (name, endpoint, definition, state, first_sample, first_feedback, first_refusal, created) \
     SELECT $1, $2, $3, 'running', coalesce((SELECT max(id) FROM samples), 0), coalesce((SELECT max(id) FROM feedback), 0), \
     coalesce((SELECT max(id) FROM refusals), 0), $4 WHERE NOT EXISTS (SELECT 1 FROM experiments WHERE name = $1)";
/// The first row of its history.
pub(super) const BEGIN_HISTORY: &str = "INSERT INTO experiment_history (experiment_id, at, actor, what, evidence) \
     SELECT id, $2, $3, $4, $5 FROM experiments WHERE name = $1";
/// Compare-and-set.
pub(super) const CHANGE: &str =
    "UPDATE experiments SET state = $3, step = $4 WHERE id = $1 AND state = $2";
/// A row of a history.
pub(super) const NOTE: &str = "INSERT INTO experiment_history (experiment_id, at, actor, what, evidence) VALUES ($1, $2, $3, $4, $5)";
/// A history.
pub(super) const HISTORY: &str =
    "SELECT at, actor, what, evidence FROM experiment_history WHERE experiment_id = $1 ORDER BY id";
/// Devices of an experiment.
pub(super) const ASSIGNMENTS: &str = "SELECT device, arm, bucket, at, propensity FROM assignments WHERE experiment_id = $1 AND device > $2 ORDER BY device, at LIMIT $3";
/// Feedback with what it corrects.
pub(super) const FEEDBACK: &str = "SELECT f.id, f.stream_id, f.epoch, f.seq, f.at, f.label, CAST(f.number AS double precision), \
     b.id, b.label, CAST(b.number AS double precision) FROM feedback f \
     JOIN streams t ON t.id = f.stream_id LEFT JOIN feedback b ON b.id = (SELECT max(o.id) FROM feedback o \
     WHERE o.stream_id = f.stream_id AND o.epoch = f.epoch AND o.seq = f.seq AND o.id < f.id) \
     WHERE f.id > $1 AND t.endpoint = $2 AND t.import = 0 ORDER BY f.id LIMIT $3";
/// Answers in the shadow.
pub(super) const SHADOWS: &str = "SELECT sample_id, version_id, output, CAST(latency_us AS bigint) FROM shadow_predictions \
     WHERE sample_id > $1 AND sample_id <= $2 ORDER BY sample_id";
/// Refusals.
pub(super) const REFUSALS: &str = "SELECT r.id, r.stream_id, r.at FROM refusals r JOIN streams t ON t.id = r.stream_id \
     WHERE r.id > $1 AND t.endpoint = $2 AND t.import = 0 AND r.code <> 'unknown_reading' ORDER BY r.id LIMIT $3";

/// A row of [`ALL`].
pub(super) fn experiment(row: &impl Cells) -> ExperimentRow {
    ExperimentRow {
        id: row.int(0),
        declared: NewExperiment {
            name: row.text(1).to_owned(),
            endpoint: row.text(2).to_owned(),
            definition: row.text(3).to_owned(),
        },
        state: row.text(4).to_owned(),
        step: u32::try_from(row.int(5)).unwrap_or_default(),
        first_sample: cells::number(row, 6),
        first_feedback: cells::number(row, 7),
        first_refusal: cells::number(row, 8),
        created: row.int(9),
    }
}

/// A row of [`HISTORY`].
pub(super) fn note(row: &impl Cells) -> NoteRow {
    NoteRow {
        at: row.int(0),
        note: Note {
            who: row.text(1).to_owned(),
            what: row.text(2).to_owned(),
            evidence: row.text(3).to_owned(),
        },
    }
}

/// A row of [`ASSIGNMENTS`].
pub(super) fn assignment(row: &impl Cells) -> AssignmentRow {
    AssignmentRow {
        device: row.text(0).to_owned(),
        arm: u8::try_from(row.int(1)).unwrap_or(u8::MAX),
        bucket: u16::try_from(row.int(2)).unwrap_or(u16::MAX),
        at: row.int(3),
        propensity: row.maybe_real(4).unwrap_or_default(),
    }
}

/// A row of [`FEEDBACK`].
pub(super) fn feedback(row: &impl Cells) -> FeedbackRow {
    FeedbackRow {
        id: cells::number(row, 0),
        stream: row.int(1),
        epoch: cells::number(row, 2),
        seq: cells::number(row, 3),
        at: row.int(4),
        label: label(row, 5),
        before: row.maybe_int(7).map(|_| label(row, 8)),
    }
}

/// A label in two columns, of which one is filled.
fn label(row: &impl Cells, column: usize) -> Label {
    match row.maybe_text(column) {
        Some(text) => Label::Text(text.to_owned()),
        None => Label::Number(row.maybe_real(column + 1).unwrap_or(f64::NAN) as f32),
    }
}

/// A row of [`SHADOWS`].
///
/// # Errors
/// An answer that this build cannot read.
pub(super) fn shadow(row: &impl Cells) -> Result<ShadowRow> {
    let output = decode_output(row.bytes(2));
    Ok(ShadowRow {
        sample: cells::number(row, 0),
        version: row.int(1),
        output: output.map_err(|error| StoreError::Corrupt(error.to_string()))?,
        latency_us: u32::try_from(row.int(3)).unwrap_or(u32::MAX),
    })
}

/// A row of [`REFUSALS`].
pub(super) fn refused(row: &impl Cells) -> RefusedRow {
    RefusedRow {
        id: cells::number(row, 0),
        stream: row.int(1),
        at: row.int(2),
    }
}
