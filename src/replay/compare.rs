//! Another version over the same readings: fresh on each stream, calibrating on the stream's own first kept readings.
//!
//! It folds what the recorded version folded, in the same order, and a device's reset resets it too; switches of the recorded version do
//! not touch it. Beside each stored answer stands its own. Nothing but the readings is needed, so every kept reading takes part.

use super::figures::{Comparison, Kind, Sketches, StreamCompared};
use super::log::{LogReader, LogRow, Logged};
use super::{Context, Options, Progress, ReplayError, Versions, parallel};
use crate::inference::{Fold, Served};
use crate::store::history::{LoggedSample, LoggedStream, Turned};
use crate::store::{History, Place, StoreError};
use crate::stream::Flags;
use parking_lot::Mutex;
use std::sync::Arc;
use tidegate_protocol::Output;
use tidegate_protocol::codec::decode_output;

/// Runs `version` over the readings of `streams`; the report is the same for any number of threads.
///
/// # Errors
/// A version that is not there, a database that cannot be read.
pub async fn compare(
    history: Arc<dyn History>,
    versions: Arc<Versions>,
    (endpoint, version): (&str, &str),
    streams: Vec<LoggedStream>,
    options: Options,
    progress: Arc<dyn Progress>,
) -> Result<Comparison, ReplayError> {
    let served = Arc::clone(versions.by_name(version)?);
    let context = Context {
        history,
        versions: Arc::clone(&versions),
        options,
        progress,
    };
    let sketches = Arc::new(Mutex::new(Sketches::default()));
    let all = Arc::clone(&sketches);
    let work = async move |context: &Context, stream: &LoggedStream| {
        compare_stream(context, stream, &served, &all).await
    };
    let parts = parallel::each(context, streams, work).await?;
    let sketches = sketches.lock();
    Ok(Comparison::of(endpoint, version, parts, &sketches, |id| {
        versions.name(id)
    }))
}

async fn compare_stream(
    context: &Context,
    stream: &LoggedStream,
    served: &Arc<Served>,
    all: &Mutex<Sketches>,
) -> Result<StreamCompared, StoreError> {
    let mut pair = Pair {
        options: context.options,
        fold: Fold::new(Arc::clone(served)),
        width: context
            .versions
            .endpoint()
            .map_or(0, |endpoint| endpoint.features.len()),
        part: StreamCompared::new(stream.stream.key.clone()),
        sketches: Sketches::default(),
    };
    let mut log = LogReader::new(context.history.as_ref(), stream, Place::default());
    loop {
        let rows = log.next_slice().await?;
        if rows.is_empty() {
            all.lock().add(&pair.sketches);
            return Ok(pair.part);
        }
        let samples = rows
            .iter()
            .filter(|row| matches!(row.what, Logged::Sample(_)))
            .count();
        rows.into_iter().for_each(|row| pair.row(row));
        context.progress.replayed(samples as u64);
    }
}

/// One stream under both versions.
struct Pair {
    options: Options,
    fold: Fold,
    /// Values in a reading.
    width: usize,
    part: StreamCompared,
    sketches: Sketches,
}

impl Pair {
    fn row(&mut self, row: LogRow) {
        match row.what {
            Logged::Sample(sample) => self.sample(&sample),
            Logged::Turn(Turned::Reset) => self.fold.reset(),
            Logged::Turn(Turned::Switch(_) | Turned::Epoch) | Logged::Other => {}
        }
    }

    fn sample(&mut self, sample: &LoggedSample) {
        let late = sample.flags.has(Flags::LATE);
        let fits = sample.values.len() == self.width;
        let other = (!late && fits).then(|| self.fold.step(&sample.values, sample.ts));
        if !self.options.covers(sample.ts) {
            return;
        }
        self.part.rows.readings += 1;
        *self.part.versions.entry(sample.version_id).or_default() += 1;
        match (other, decode_output(&sample.output)) {
            _ if late => self.part.rows.late += 1,
            (Some(other), Ok(recorded)) => self.outputs(&recorded, &other),
            _ => self.part.rows.not_comparable += 1,
        }
    }

    fn outputs(&mut self, recorded: &Output, other: &Output) {
        let rows = &mut self.part.rows;
        let calibrates = |output: &Output| matches!(output, Output::Calibrating { .. });
        if matches!(recorded, Output::Failed(_)) || matches!(other, Output::Failed(_)) {
            rows.failed += 1;
            return;
        }
        if calibrates(recorded) || calibrates(other) {
            rows.calibrating += 1;
            rows.calibrating_recorded += u64::from(calibrates(recorded));
            rows.calibrating_other += u64::from(calibrates(other));
            return;
        }
        match self.answers(recorded, other) {
            Some(kind) => {
                self.part.rows.compared += 1;
                self.part.kind = Some(kind);
            }
            None => self.part.rows.not_comparable += 1,
        }
    }

    /// Two answers of one kind; `None` when they are of two.
    fn answers(&mut self, recorded: &Output, other: &Output) -> Option<Kind> {
        match (recorded, other) {
            (
                Output::Anomaly { score, anomaly, .. },
                Output::Anomaly {
                    score: other_score,
                    anomaly: other_anomaly,
                    ..
                },
            ) => {
                self.decide(*anomaly, *other_anomaly);
                self.numbers(*score, *other_score);
                Some(Kind::Anomaly)
            }
            (
                Output::Classification { label, .. },
                Output::Classification {
                    label: other_label, ..
                },
            ) => {
                self.decide(false, label != other_label);
                Some(Kind::Classification)
            }
            (
                Output::Regression { values },
                Output::Regression {
                    values: other_values,
                },
            ) => {
                for (name, value) in values {
                    let found = other_values.iter().find(|(known, _)| known == name);
                    if let Some((_, other)) = found {
                        self.numbers(*value, *other);
                    }
                }
                Some(Kind::Regression)
            }
            (
                Output::Forecast { values, .. },
                Output::Forecast {
                    values: other_values,
                    ..
                },
            ) => {
                let pairs = values.iter().zip(other_values);
                pairs.for_each(|(value, other)| self.numbers(*value, *other));
                Some(Kind::Forecast)
            }
            _ => None,
        }
    }

    fn decide(&mut self, recorded: bool, other: bool) {
        let decisions = &mut self.part.decisions;
        *match (recorded, other) {
            (false, false) => &mut decisions.both_normal,
            (true, true) => &mut decisions.both_anomaly,
            (true, false) => &mut decisions.only_recorded,
            (false, true) => &mut decisions.only_other,
        } += 1;
    }

    fn numbers(&mut self, recorded: f32, other: f32) {
        let difference = f64::from(other) - f64::from(recorded);
        self.part.recorded.take(recorded.into());
        self.part.other.take(other.into());
        self.part.difference.take(difference);
        self.sketches.recorded.take(recorded);
        self.sketches.other.take(other);
        self.sketches.difference.take(difference as f32);
    }
}
