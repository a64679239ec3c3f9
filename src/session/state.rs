//! One stream's session: where it stands, what it learned, what is on its way to the store.
//!
//! Owns the order of the stream's log: every change goes through [`Session::row`], which gives the next position. No locks,
//! no time, no I/O: the caller passes times in and carries rows out.

use super::{Admission, Gaps, Numbers, admit};
use crate::inference::{Fold, Served};
use crate::push::Outbox;
use crate::stream::{ArmRef, Flags, Marks, Numbering, RefusalRow, SampleRow, StreamRef};
use crate::stream::{Row, Snapshot, What, reason};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use tidegate_protocol::{NackCode, Output};

/// What a session knows of a number whose row is not committed yet.
#[derive(Debug, Clone)]
pub enum Known {
    /// It was taken.
    Sample(Arc<SampleRow>),
    /// It was refused.
    Refusal(Arc<RefusalRow>),
}

/// A door that waits for the commit of a row which is not its own.
#[derive(Debug)]
pub struct Witness {
    /// Position of the row.
    pub pos: u64,
    /// The door.
    pub outbox: Arc<Outbox>,
    /// What it hears.
    pub hears: Hears,
}

/// What a [`Witness`] hears when its row is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hears {
    /// What became of the row: the same reading came through this door again.
    Row,
    /// That this publish holds nothing which is not durable (MQTT).
    Publish(u64),
}

/// A reading that passed its endpoint's schema.
#[derive(Debug)]
pub struct Checked {
    /// In the order of the features.
    pub values: Box<[f32]>,
    /// Measured, Unix ms.
    pub ts: i64,
    /// Arrived, Unix ms.
    pub received_at: i64,
    /// What is odd.
    pub flags: Flags,
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    /// The stream.
    pub stream: Arc<StreamRef>,
    /// Where it stands, rows on their way included.
    pub marks: Marks,
    /// Where it stands in the store.
    pub committed: Marks,
    /// Arrival of the newest reading, or when the session was loaded. Monotonic: a wall clock that jumps makes nobody silent.
    pub seen: Instant,
    /// Who holds the stream over a WebSocket.
    pub holder: Option<Arc<Outbox>>,
    /// The number of the newest request that held it; an older holder finds that it was taken over.
    pub generation: u64,
    /// Left memory or was stopped: whoever finds this opens the stream again.
    pub retired: bool,
    /// Whether subscribers were told that the device is there (MQTT and HTTP; a WebSocket tells by itself).
    pub seen_online: bool,
    gaps: Gaps,
    max_gaps: usize,
    fold: Fold,
    /// Steps that failed since the last good one under this version.
    failed: u32,
    /// Whether another version was asked for since then.
    asked_for_help: bool,
    since_snapshot: u32,
    snapshot_every: u32,
    /// Uncommitted rows by position.
    ring: VecDeque<(u64, What)>,
    /// Who else waits for the commit of a row: readings that were sent again meanwhile.
    witnesses: Vec<Witness>,
    max_repeats: usize,
    /// The version that served is gone: the next row says who serves now, warmed from this position (0: it has seen nothing).
    reopen: Option<u64>,
    stand: Stand,
    /// Its place in an experiment, while that has chosen the version.
    arm: Option<Arc<ArmRef>>,
}

/// Why a version serves a stream, and so what moves the stream to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stand {
    /// It was in production: the stream follows production.
    #[default]
    Assigned,
    /// Asked for by name: the stream stays until it is released.
    Pinned,
    /// An experiment chose it.
    InArm,
    /// The version of this row id kept failing here: the stream follows production, but not back to that one.
    Fled(i64),
}

impl Stand {
    /// What a stored switch says; `before` is the version that served until then.
    pub fn of(reason: &str, before: Option<i64>) -> Self {
        match (reason, before) {
            (reason::PINNED, _) => Self::Pinned,
            (reason::EXPERIMENT, _) => Self::InArm,
            (reason::FAILING, Some(before)) => Self::Fled(before),
            _ => Self::Assigned,
        }
    }
}

/// The version that a stream is to have.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Who is to serve.
    pub served: Arc<Served>,
    /// Why: one of [`reason`].
    pub reason: &'static str,
    /// The arm of an experiment that it serves for.
    pub arm: Option<Arc<ArmRef>>,
}

impl Wanted {
    /// A version outside of any experiment.
    pub fn plain(served: Arc<Served>, reason: &'static str) -> Self {
        Self {
            served,
            reason,
            arm: None,
        }
    }

    fn label(&self) -> Option<&str> {
        self.arm.as_ref().map(|arm| &*arm.label)
    }
}

/// Bounds of a session, from the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Skipped ranges remembered.
    pub max_gaps: usize,
    /// Readings between two snapshots.
    pub snapshot_every: u32,
    /// Readings sent again that may wait for a commit.
    pub max_repeats: usize,
}

impl Session {
    /// A session at a stored place; `fold` is the state behind `marks.pos`.
    pub fn new(stream: StreamRef, marks: Marks, gaps: Gaps, fold: Fold, bounds: Bounds) -> Self {
        Self {
            stream: Arc::new(stream),
            marks,
            committed: marks,
            seen: Instant::now(),
            holder: None,
            generation: 0,
            retired: false,
            seen_online: false,
            gaps,
            max_gaps: bounds.max_gaps,
            fold,
            failed: 0,
            asked_for_help: false,
            since_snapshot: 0,
            snapshot_every: bounds.snapshot_every,
            ring: VecDeque::new(),
            witnesses: Vec::new(),
            max_repeats: bounds.max_repeats,
            reopen: None,
            stand: Stand::Assigned,
            arm: None,
        }
    }

    /// Why its version serves.
    pub fn stand(&self) -> Stand {
        self.stand
    }

    /// What was stored about that, or what the stream's first row is going to say.
    pub fn set_stand(&mut self, stand: Stand, arm: Option<Arc<ArmRef>>) {
        self.stand = stand;
        self.arm = arm;
    }

    /// Its place in an experiment, while that has chosen the version.
    pub fn arm(&self) -> Option<&Arc<ArmRef>> {
        self.arm.as_ref()
    }

    /// Whether it stands there already.
    pub fn has(&self, wanted: &Wanted) -> bool {
        self.served().reference == wanted.served.reference && self.stands_for(wanted)
    }

    /// Whether its version serves for that reason and arm, whichever version it is.
    pub fn stands_for(&self, wanted: &Wanted) -> bool {
        let label = self.arm.as_ref().map(|arm| &*arm.label);
        self.stand == Stand::of(wanted.reason, None) && label == wanted.label()
    }

    /// So many rows already stand behind the newest snapshot: a stream that is loaded for a few readings at a time gets its
    /// snapshots too.
    pub fn stands_behind_snapshot(&mut self, rows: u64) {
        self.since_snapshot = u32::try_from(rows).unwrap_or(u32::MAX);
    }

    /// Nothing pending and nobody connected.
    pub fn is_resting(&self) -> bool {
        self.ring.is_empty() && self.holder.is_none()
    }

    /// Gives back room that a busier time has left.
    pub fn slim(&mut self) {
        self.ring.shrink_to_fit();
        self.witnesses.shrink_to_fit();
    }

    /// Rows on their way to the store.
    pub fn pending(&self) -> usize {
        self.ring.len()
    }

    /// Readings on their way to the store.
    pub fn pending_readings(&self) -> u64 {
        let is_reading =
            |(_, what): &&(u64, What)| matches!(what, What::Sample(_) | What::Refusal(_));
        self.ring.iter().filter(is_reading).count() as u64
    }

    /// Who answers.
    pub fn served(&self) -> &Arc<Served> {
        self.fold.served()
    }

    /// Steps that failed one after the other, up to now and under this version.
    pub fn failed_in_a_row(&self) -> u32 {
        self.failed
    }

    /// Whether `most` steps failed in a row and nobody was asked for another version yet; 0 never asks.
    pub fn needs_help(&self, most: u32) -> bool {
        most > 0 && self.failed >= most && !self.asked_for_help
    }

    /// Notes that another version was asked for, or that the asking came to nothing.
    pub fn set_asked_for_help(&mut self, asked: bool) {
        self.asked_for_help = asked;
    }

    /// Rows behind `pos`, all of them still pending; `None` when some of them are in the store only.
    pub fn pending_after(&self, pos: u64) -> Option<impl Iterator<Item = &What>> {
        let first = self
            .ring
            .front()
            .map_or(self.marks.pos + 1, |(pos, _)| *pos);
        let known = self.ring.iter().filter(move |(at, _)| *at > pos);
        (first <= pos + 1).then(|| known.map(|(_, what)| what))
    }

    /// What to do with a reading.
    pub fn admit(&self, numbers: Numbers, connection_epoch: u64) -> Admission {
        admit(&self.marks, &self.gaps, numbers, connection_epoch)
    }

    /// A number among the uncommitted rows, with its position.
    pub fn find(&self, epoch: u64, seq: u64) -> Option<(u64, Known)> {
        self.ring.iter().rev().find_map(|(pos, what)| match what {
            What::Sample(row) if row.epoch == epoch && row.seq == seq => {
                Some((*pos, Known::Sample(Arc::clone(row))))
            }
            What::Refusal(row) if row.consumed && row.epoch == epoch && row.seq == Some(seq) => {
                Some((*pos, Known::Refusal(Arc::clone(row))))
            }
            _ => None,
        })
    }

    /// The first row of a new stream, or of one whose version is gone: who serves it, with the state of a stream that
    /// has seen nothing.
    pub fn open(&mut self) -> Option<Row> {
        if self.marks.pos == 0 {
            let reason = match self.stand {
                Stand::Pinned => reason::PINNED,
                Stand::InArm => reason::EXPERIMENT,
                Stand::Assigned | Stand::Fled(_) => reason::OPENED,
            };
            return Some(self.switch_row(reason, None));
        }
        let warm_from = self.reopen.take()?;
        self.arm = None;
        Some(self.switch_row(reason::GONE, Some(warm_from).filter(|from| *from > 0)))
    }

    /// Puts another version in place, warmed from `warm_from`; its row commits before its first prediction.
    pub fn switch(
        &mut self,
        fold: Fold,
        reason: &'static str,
        arm: Option<Arc<ArmRef>>,
        warm_from: Option<u64>,
    ) -> Row {
        self.stand = Stand::of(reason, Some(self.served().reference.id));
        self.arm = arm;
        self.fold = fold;
        self.reopen = None;
        self.failed = 0;
        self.asked_for_help = false;
        self.switch_row(reason, warm_from)
    }

    /// The same version goes on for another reason: pinned, released, in an arm, out of it.
    pub fn stand_anew(&mut self, reason: &'static str, arm: Option<Arc<ArmRef>>) -> Row {
        self.stand = Stand::of(reason, None);
        self.arm = arm;
        self.switch_row(reason, None)
    }

    fn switch_row(&mut self, reason: &'static str, warm_from: Option<u64>) -> Row {
        let version = Arc::clone(&self.served().reference);
        let arm = self.arm.clone();
        let snapshot = self.snapshot();
        self.marks.last_ts = self.fold.last_ts();
        Row {
            snapshot: Some(snapshot),
            ..self.row(What::Switch {
                version,
                reason,
                warm_from,
                arm,
            })
        }
    }

    /// A later epoch begins; the state is inherited.
    pub fn open_epoch(&mut self, epoch: u64) -> Row {
        self.marks.epoch = epoch;
        self.marks.high_water = None;
        self.marks.numbering = Numbering::Open;
        self.gaps.clear();
        let gaps = Some(Vec::new());
        Row {
            gaps,
            ..self.row(What::Epoch)
        }
    }

    /// Forgets what was learned.
    pub fn reset(&mut self, reason: &'static str) -> Row {
        self.fold.reset();
        self.marks.last_ts = None;
        let snapshot = Some(self.snapshot());
        Row {
            snapshot,
            ..self.row(What::Reset { reason })
        }
    }

    /// Folds the newest reading of the epoch.
    pub fn take(
        &mut self,
        numbers: Numbers,
        seq: u64,
        gap: Option<(u64, u64)>,
        reading: Checked,
        since: Instant,
    ) -> Row {
        let gaps = self.consume(numbers, seq, gap);
        let output = self.fold.step(&reading.values, reading.ts);
        self.count_failures(&output);
        self.marks.last_ts = self.fold.last_ts();
        let snapshot = self.snapshot_if_due();
        let sample = self.sample(seq, reading, output, since);
        Row {
            gaps,
            snapshot,
            ..self.row(What::Sample(Arc::new(sample)))
        }
    }

    /// Stores a reading that fell into a gap, without folding it.
    pub fn take_late(&mut self, seq: u64, mut reading: Checked, since: Instant) -> Row {
        self.gaps.fill(seq, self.max_gaps);
        reading.flags.set(Flags::LATE);
        let sample = self.sample(seq, reading, Output::Skipped("late".into()), since);
        let gaps = Some(self.gaps.ranges().to_vec());
        Row {
            gaps,
            ..self.row(What::Sample(Arc::new(sample)))
        }
    }

    /// Refuses a reading whose number is fresh or late: the number is used up.
    pub fn refuse(
        &mut self,
        numbers: Numbers,
        seq: u64,
        gap: Option<(u64, u64)>,
        refusal: (NackCode, String),
        at: i64,
    ) -> Row {
        let gaps = if self.gaps.contains(seq) {
            self.gaps.fill(seq, self.max_gaps);
            Some(self.gaps.ranges().to_vec())
        } else {
            self.consume(numbers, seq, gap)
        };
        let epoch = self.marks.epoch;
        Row {
            gaps,
            ..self.refusal_row(epoch, Some(seq), refusal, true, at)
        }
    }

    /// Records a refusal that uses up no number.
    pub fn refuse_apart(
        &mut self,
        epoch: u64,
        seq: Option<u64>,
        refusal: (NackCode, String),
        at: i64,
    ) -> Row {
        self.refusal_row(epoch, seq, refusal, false, at)
    }

    /// Records ground truth for a known reading.
    pub fn feedback(
        &mut self,
        epoch: u64,
        seq: u64,
        label: tidegate_protocol::message::Label,
    ) -> Row {
        self.row(What::Feedback { epoch, seq, label })
    }

    /// The stored version is gone: the next row is a switch to the one that serves now, which was warmed from this position.
    pub fn reopen(&mut self, warm_from: u64) {
        self.reopen = Some(warm_from);
    }

    /// Lets all of `witnesses` hear of pending rows' commits; false, and none does, when too many wait already.
    pub fn watch(&mut self, witnesses: impl IntoIterator<Item = Witness>) -> bool {
        let before = self.witnesses.len();
        self.witnesses.extend(witnesses);
        let fits = self.witnesses.len() <= self.max_repeats;
        if !fits {
            self.witnesses.truncate(before);
        }
        fits
    }

    /// The stream is stopped, nothing of it is on its way any more: returns who waited for its commits.
    pub fn stop(&mut self) -> Vec<Witness> {
        self.retired = true;
        self.ring.clear();
        std::mem::take(&mut self.witnesses)
    }

    /// The oldest pending row is durable; returns who else waited for it.
    pub fn settle(&mut self, row: &Row) -> Vec<Witness> {
        let oldest = self.ring.pop_front();
        debug_assert_eq!(
            oldest.map(|(pos, _)| pos),
            Some(row.after.pos),
            "rows commit in position order"
        );
        self.committed = row.after;
        if self.witnesses.is_empty() {
            return Vec::new();
        }
        self.witnesses
            .extract_if(.., |witness| witness.pos == row.after.pos)
            .collect()
    }

    fn consume(
        &mut self,
        numbers: Numbers,
        seq: u64,
        gap: Option<(u64, u64)>,
    ) -> Option<Vec<(u64, u64)>> {
        self.marks.high_water = Some(seq);
        if self.marks.numbering == Numbering::Open {
            self.marks.numbering = if numbers.seq.is_some() {
                Numbering::Device
            } else {
                Numbering::Server
            };
        }
        let (from, to) = gap?;
        self.gaps.open(from, to, self.max_gaps);
        Some(self.gaps.ranges().to_vec())
    }

    fn count_failures(&mut self, output: &Output) {
        if matches!(output, Output::Failed(_)) {
            self.failed = self.failed.saturating_add(1);
        } else {
            self.failed = 0;
            self.asked_for_help = false;
        }
    }

    fn sample(&self, seq: u64, reading: Checked, output: Output, since: Instant) -> SampleRow {
        SampleRow {
            stream: Arc::clone(&self.stream),
            pos: self.marks.pos + 1,
            epoch: self.marks.epoch,
            seq,
            ts: reading.ts,
            received_at: reading.received_at,
            values: reading.values,
            output,
            version: Arc::clone(&self.served().reference),
            arm: self.arm.clone(),
            latency_us: u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX),
            flags: reading.flags,
            numerics_rev: self.served().version.numerics_rev(),
        }
    }

    fn refusal_row(
        &mut self,
        epoch: u64,
        seq: Option<u64>,
        refusal: (NackCode, String),
        consumed: bool,
        at: i64,
    ) -> Row {
        let (code, message) = refusal;
        self.row(What::Refusal(Arc::new(RefusalRow {
            epoch,
            seq,
            code,
            message,
            consumed,
            at,
        })))
    }

    fn snapshot_if_due(&mut self) -> Option<Snapshot> {
        self.since_snapshot = self.since_snapshot.saturating_add(1);
        (self.since_snapshot >= self.snapshot_every).then(|| self.snapshot())
    }

    fn snapshot(&mut self) -> Snapshot {
        self.since_snapshot = 0;
        let served = self.served();
        Snapshot {
            version: Arc::clone(&served.reference),
            layout: Arc::clone(&served.layout),
            numerics_rev: served.version.numerics_rev(),
            last_ts: self.fold.last_ts(),
            state: self.fold.state().into(),
        }
    }

    /// Gives the next position. The only place where a stream moves.
    fn row(&mut self, what: What) -> Row {
        self.marks.pos += 1;
        self.ring.push_back((self.marks.pos, what.clone()));
        Row {
            id: 0,
            stream: Arc::clone(&self.stream),
            after: self.marks,
            what,
            gaps: None,
            snapshot: None,
            mark: None,
        }
    }
}
