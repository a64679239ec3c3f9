//! The recorded versions run again: does every stored prediction and snapshot come out bit for bit?
//!
//! [`Walk`] folds one stream's log as the server did: a switch or reset goes on from the state that its row stored, a late reading is
//! not folded, a step that failed leaves the state as it was. A snapshot that differs from the fold may be the damaged part, or the sign
//! that something before it is; both states are folded on until a later prediction tells which of them the server had.

use super::log::{LogReader, LogRow, Logged};
use super::report::{Difference, SamplePlace, StreamVerified, Verified};
use super::versions::Unknown;
use super::{Context, Options, Progress, ReplayError, Versions, parallel};
use crate::inference::Fold;
use crate::store::history::{LoggedSample, LoggedStream, Turned};
use crate::store::{History, Place, StoreError, StoredSnapshot};
use crate::stream::{Flags, counted};
use std::sync::Arc;
use tidegate_protocol::Output;
use tidegate_protocol::codec::{decode_output, encode_output};

/// How often a stream is read again because retention moved under the replay.
const TRIES: usize = 3;

/// Replays `streams` through the versions that answered; the report is the same for any number of threads.
///
/// # Errors
/// A database that cannot be read.
pub async fn verify(
    history: Arc<dyn History>,
    versions: Arc<Versions>,
    endpoint: &str,
    streams: Vec<LoggedStream>,
    options: Options,
    progress: Arc<dyn Progress>,
) -> Result<Verified, ReplayError> {
    let context = Context {
        history,
        versions: Arc::clone(&versions),
        options,
        progress,
    };
    let parts = parallel::each(context, streams, verify_stream).await?;
    Ok(Verified::of(endpoint, parts, options.listed, |id| {
        versions.name(id)
    }))
}

async fn verify_stream(
    context: &Context,
    stream: &LoggedStream,
) -> Result<StreamVerified, StoreError> {
    let mut tries = TRIES;
    loop {
        tries -= 1;
        let (part, first, seen) = walk_stream(context, stream).await?;
        // A hole that retention made while the log was read looks like a difference, or leaves readings uncounted at the front: then
        // it is read once more.
        let is_whole = seen + part.counts.retired >= stream.samples;
        if (is_whole && !part.counts.differs()) || tries == 0 {
            return Ok(part);
        }
        if context.history.kept(stream.stream.id).await?.first == first {
            return Ok(part);
        }
    }
}

async fn walk_stream(
    context: &Context,
    stream: &LoggedStream,
) -> Result<(StreamVerified, Option<Place>, u64), StoreError> {
    let history = context.history.as_ref();
    let kept = history.kept(stream.stream.id).await?;
    let mut walk = Walk::new(&context.versions, context.options, stream);
    walk.report.counts.retired = stream.samples.saturating_sub(kept.count);
    let from = match kept.first {
        Some(first) if walk.report.counts.retired > 0 => walk.begin(history, first).await?,
        _ => Place::default(),
    };
    let mut log = LogReader::new(history, stream, from);
    loop {
        let rows = log.next_slice().await?;
        if rows.is_empty() {
            return Ok((walk.report, kept.first, walk.seen));
        }
        let before = walk.seen;
        rows.into_iter().for_each(|row| walk.row(row));
        context.progress.replayed(walk.seen - before);
        tokio::task::yield_now().await;
    }
}

/// One stream on its way through its log.
struct Walk<'a> {
    versions: &'a Versions,
    options: Options,
    stream: &'a LoggedStream,
    /// The state behind the last row, or why there is none.
    state: Result<Fold, Unknown>,
    /// What a snapshot said where it differed from the fold.
    rival: Option<Fold>,
    /// Samples walked, in the range or not.
    seen: u64,
    report: StreamVerified,
}

impl<'a> Walk<'a> {
    fn new(versions: &'a Versions, options: Options, stream: &'a LoggedStream) -> Self {
        Self {
            versions,
            options,
            stream,
            state: Err(Unknown::BeforeSnapshot),
            rival: None,
            seen: 0,
            report: StreamVerified::new(stream.stream.key.clone()),
        }
    }

    /// Where a log begins whose readings before `first` are retired: behind the first kept snapshot, if it lies before that reading.
    /// Retention leaves nothing out in between.
    async fn begin(&mut self, history: &dyn History, first: Place) -> Result<Place, StoreError> {
        let stream = self.stream.stream.id;
        let before = first.pos - 1;
        let kept = history.snapshots(stream, 0, before, 1).await?;
        if let Some(snapshot) = kept.first() {
            self.state = self.versions.resume(snapshot);
        }
        Ok(Place {
            pos: kept.first().map_or(before, |snapshot| snapshot.place.pos),
            sample_id: first.sample_id - 1,
        })
    }

    fn row(&mut self, row: LogRow) {
        let snapshot = row.snapshot.as_ref();
        match row.what {
            Logged::Sample(sample) => {
                self.seen += 1;
                self.sample(&sample);
                self.check_snapshot(row.pos, Some(&sample), snapshot);
            }
            Logged::Turn(Turned::Switch(version)) => self.switch(row.pos, version, snapshot),
            Logged::Turn(Turned::Reset) => {
                self.rival = None;
                match &mut self.state {
                    Ok(fold) => fold.reset(),
                    Err(_) if snapshot.is_none() => self.state = Err(Unknown::NoState),
                    Err(_) => {}
                }
                self.check_snapshot(row.pos, None, snapshot);
            }
            // An epoch inherits the state.
            Logged::Turn(Turned::Epoch) | Logged::Other => {
                self.check_snapshot(row.pos, None, snapshot);
            }
        }
    }

    /// Another version serves, from the state that was warmed for it. The first row of a stream has that of a new one.
    fn switch(&mut self, pos: u64, version: i64, snapshot: Option<&StoredSnapshot>) {
        self.rival = None;
        let served = match self.versions.recorded(version) {
            Ok(served) => Arc::clone(served),
            Err(reason) => return self.state = Err(reason),
        };
        match snapshot {
            _ if pos == 1 => {
                self.state = Ok(Fold::new(served));
                self.check_snapshot(pos, None, snapshot);
            }
            None => self.state = Err(Unknown::NoState),
            Some(snapshot) => {
                self.state = self.versions.resume(snapshot);
                if snapshot.version_id != version {
                    let state_of = self.versions.name(snapshot.version_id);
                    self.differs(
                        pos,
                        None,
                        "snapshot",
                        state_of,
                        served.reference.to_string(),
                    );
                }
            }
        }
    }

    fn sample(&mut self, sample: &LoggedSample) {
        let is_counted = self.options.covers(sample.ts);
        let late = sample.flags.has(Flags::LATE);
        let outcome = if late {
            compare_bytes(&Output::Skipped("late".into()), &sample.output)
        } else {
            self.step(sample)
        };
        if !is_counted {
            return;
        }
        let counts = &mut self.report.counts;
        counts.readings += 1;
        *self.report.versions.entry(sample.version_id).or_default() += 1;
        match outcome {
            Replayed::Equal if late => counts.late += 1,
            Replayed::Equal => counts.equal += 1,
            Replayed::Unknown(reason) => {
                counts.not_reproducible += 1;
                *self.report.unknown.entry(reason).or_default() += 1;
            }
            Replayed::Different {
                what,
                recorded,
                replayed,
            } => self.differs(sample.pos, Some(sample), what, recorded, replayed),
        }
    }

    /// Folds a reading and holds the answer against the stored one.
    fn step(&mut self, sample: &LoggedSample) -> Replayed {
        let rev = sample.numerics_rev;
        if let Ok(fold) = &self.state
            && fold.served().version.numerics_rev() != rev
        {
            self.state = Err(Unknown::Numerics(rev));
        }
        let fold = match &mut self.state {
            Ok(fold) => fold,
            Err(reason) => return Replayed::Unknown(reason.clone()),
        };
        let served = Arc::clone(fold.served());
        let features = self.versions.endpoint();
        let width = features.map_or(sample.values.len(), |endpoint| endpoint.features.len());
        if sample.values.len() != width {
            return Replayed::Different {
                what: "values",
                recorded: format!("{} values", sample.values.len()),
                replayed: format!("{width} values"),
            };
        }
        let outcome = fold_as_recorded(fold, sample);
        if let Some(mut rival) = self.rival.take() {
            let other = fold_as_recorded(&mut rival, sample);
            match (&outcome, &other) {
                // This row tells them apart: the snapshot was right.
                (Replayed::Different { .. }, Replayed::Equal) => {
                    *fold = rival;
                    return other;
                }
                (Replayed::Equal, Replayed::Different { .. }) => {}
                _ => self.rival = Some(rival),
            }
        }
        if !self.versions.is_recorded(sample.version_id) {
            return Replayed::Unknown(Unknown::NotRecorded(sample.version_id));
        }
        if served.reference.id != sample.version_id {
            return Replayed::Different {
                what: "version",
                recorded: self.versions.name(sample.version_id),
                replayed: served.reference.to_string(),
            };
        }
        outcome
    }

    /// A stored state against the fold; where there is no fold, it is where one begins.
    fn check_snapshot(
        &mut self,
        pos: u64,
        sample: Option<&LoggedSample>,
        snapshot: Option<&StoredSnapshot>,
    ) {
        let Some(snapshot) = snapshot else { return };
        let fold = match &self.state {
            Ok(fold) => fold,
            Err(_) => return self.state = self.versions.resume(snapshot),
        };
        let is_counted = snapshot.last_ts.is_none_or(|ts| self.options.covers(ts));
        let Some((recorded, replayed)) = compare_state(fold, snapshot, self.versions) else {
            self.rival = None;
            self.report.counts.snapshots_equal += u64::from(is_counted);
            return;
        };
        let agrees = |rival: &Fold| compare_state(rival, snapshot, self.versions).is_none();
        if let Some(rival) = self.rival.take_if(|rival| agrees(rival)) {
            // Two snapshots that follow from each other: the damage lies before both.
            self.state = Ok(rival);
            self.report.counts.snapshots_equal += u64::from(is_counted);
            return;
        }
        self.rival = self.versions.resume(snapshot).ok();
        if is_counted {
            self.differs(pos, sample, "snapshot", recorded, replayed);
        }
    }

    fn differs(
        &mut self,
        pos: u64,
        sample: Option<&LoggedSample>,
        what: &'static str,
        recorded: String,
        replayed: String,
    ) {
        let counts = &mut self.report.counts;
        if what == "snapshot" {
            counts.snapshots_different += 1;
        } else {
            counts.different += 1;
        }
        if self.report.differences.len() >= self.options.listed {
            return;
        }
        let key = &self.stream.stream.key;
        self.report.differences.push(Difference {
            device: key.device.to_string(),
            import: key.import,
            pos,
            sample: sample.map(|sample| SamplePlace {
                id: sample.id,
                epoch: sample.epoch,
                seq: sample.seq,
                ts: sample.ts,
            }),
            what,
            recorded,
            replayed,
        });
    }
}

/// What became of one reading.
enum Replayed {
    Equal,
    Different {
        what: &'static str,
        recorded: String,
        replayed: String,
    },
    Unknown(Unknown),
}

/// One step. Where the recorded one failed the state stays as it was, as it did then.
fn fold_as_recorded(fold: &mut Fold, sample: &LoggedSample) -> Replayed {
    let failed = matches!(decode_output(&sample.output), Ok(Output::Failed(_)));
    let before = failed.then(|| fold.clone());
    let output = fold.step(&sample.values, sample.ts);
    if let Some(before) = before {
        *fold = before;
    }
    compare_bytes(&output, &sample.output)
}

fn compare_bytes(output: &Output, stored: &[u8]) -> Replayed {
    let mut bytes = Vec::with_capacity(stored.len());
    encode_output(output, &mut bytes);
    if bytes == stored {
        return Replayed::Equal;
    }
    let recorded = match decode_output(stored) {
        Ok(output) => in_words(&output),
        Err(_) => {
            let bytes = counted(stored.len() as u64, "byte");
            format!("no output: {bytes}")
        }
    };
    Replayed::Different {
        what: "output",
        recorded,
        replayed: in_words(output),
    }
}

fn in_words(output: &Output) -> String {
    serde_json::to_string(output).unwrap_or_else(|error| error.to_string())
}

/// What a snapshot says against the fold, and what the fold says; `None` when they are the same bits.
fn compare_state(
    fold: &Fold,
    snapshot: &StoredSnapshot,
    versions: &Versions,
) -> Option<(String, String)> {
    let served = fold.served();
    if snapshot.version_id != served.reference.id {
        let recorded = versions.name(snapshot.version_id);
        return Some((recorded, served.reference.to_string()));
    }
    if snapshot.layout != *served.layout {
        return Some((snapshot.layout.clone(), served.layout.to_string()));
    }
    if snapshot.numerics_rev != served.version.numerics_rev() {
        let rev = |rev: u32| format!("numerics revision {rev}");
        return Some((
            rev(snapshot.numerics_rev),
            rev(served.version.numerics_rev()),
        ));
    }
    if snapshot.last_ts != fold.last_ts() {
        let last = |ts: Option<i64>| format!("last_ts {ts:?}");
        return Some((last(snapshot.last_ts), last(fold.last_ts())));
    }
    compare_floats(&snapshot.state, fold.state())
}

fn compare_floats(stored: &[f32], folded: &[f32]) -> Option<(String, String)> {
    if stored.len() != folded.len() {
        let floats = |state: &[f32]| format!("{} floats", state.len());
        return Some((floats(stored), floats(folded)));
    }
    let differ = |at: &usize| stored[*at].to_bits() != folded[*at].to_bits();
    let first = (0..stored.len()).find(differ)?;
    let count = (first..stored.len()).filter(differ).count();
    let of = stored.len();
    let recorded = format!(
        "float {first} is {} ({count} of {of} differ)",
        stored[first]
    );
    Some((recorded, folded[first].to_string()))
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
