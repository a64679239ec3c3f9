//! A challenger in the shadow: it gets the readings that production is asked, its predictions are stored and compared, and nobody hears them.
//!
//! Owns the state of each challenger on each stream, in memory only: it is warmed from the stored readings when a stream is first seen, as
//! in a switch, and again after a reset of the stream. Works behind the commit, so that a slow challenger delays nobody; what it has not
//! answered yet is read from the store. Both versions see the same readings, so they are compared block of time by block of time
//! (`tidegate_experiments::blocks`).

use super::definition::{Definition, DefinitionError};
use super::outcome;
use super::watch::Results;
use crate::inference::{Engine, Fold, Served};
use crate::store::{
    ExperimentRow, FeedbackRow, LoggedReading, ShadowRow, Store, StoreError, StoredSample,
};
use crate::stream::SampleRow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;
use tidegate_experiments::Role;
use tidegate_experiments::assignment::{BUCKETS, bucket};
use tidegate_experiments::blocks::{Blocks, Paired};
use tidegate_experiments::metric::outcome::Known;
use tidegate_experiments::sequential::breaker::{Breaker, Fault, Tripped};
use tidegate_experiments::sequential::per_comparison;
use tidegate_experiments::verdict::{ArmReport, Compared, Comparison, Report};
use tidegate_protocol::Output;

/// A committed reading with production's answer.
pub struct Read<'a> {
    /// The sample's id.
    pub id: u64,
    /// Row id of its stream.
    pub stream: i64,
    /// Its device.
    pub device: &'a str,
    /// Measured, Unix ms.
    pub ts: i64,
    /// Arrived, Unix ms.
    pub at: i64,
    /// In the order of the features.
    pub values: &'a [f32],
    /// The answer.
    pub output: &'a Output,
    /// From decode to step done, microseconds.
    pub latency_us: u32,
}

impl<'a> Read<'a> {
    /// Of a row that was just committed.
    pub fn of(id: u64, row: &'a SampleRow) -> Self {
        Self {
            id,
            stream: row.stream.id,
            device: row.stream.key.device.as_str(),
            ts: row.ts,
            at: row.received_at,
            values: &row.values,
            output: &row.output,
            latency_us: row.latency_us,
        }
    }

    /// Of a row of the store.
    pub fn of_stored(row: &'a StoredSample) -> Self {
        Self {
            id: row.id,
            stream: row.stream,
            device: &row.device,
            ts: row.ts,
            at: row.received_at,
            values: &row.values,
            output: &row.output,
            latency_us: row.latency_us,
        }
    }
}

/// See the module.
pub struct Shadow {
    /// As declared.
    pub definition: Arc<Definition>,
    /// Samples up to this id are answered and counted.
    pub taken: u64,
    /// Feedback up to this row id is counted.
    pub feedback: u64,
    /// The challengers, by arm from 1.
    served: Vec<Arc<Served>>,
    /// Their state on each stream.
    folds: HashMap<i64, Vec<Fold>>,
    /// By challenger, then metric.
    blocks: Vec<Vec<Blocks>>,
    breaker: Breaker,
    devices: HashSet<i64>,
    answers: u64,
    used: u64,
    unused: u64,
    began: i64,
}

fn ms(at: i64) -> u64 {
    u64::try_from(at).unwrap_or_default()
}

impl Shadow {
    /// Of an experiment from its beginning.
    ///
    /// # Errors
    /// A version that is not there any more.
    pub fn new(
        row: &ExperimentRow,
        definition: &Arc<Definition>,
        engine: &Engine,
    ) -> Result<Self, DefinitionError> {
        let plan = definition.check(engine)?;
        let endpoint = engine.endpoint(&definition.endpoint);
        let challengers = definition.arms.iter().skip(1);
        let served = challengers.filter_map(|arm| {
            let served = endpoint.and_then(|endpoint| endpoint.versions.get(&arm.version));
            served.cloned()
        });
        let served: Vec<_> = served.collect();
        let alpha = per_comparison(plan.alpha, definition.arms.len());
        let block_ms = (definition.block_s * 1e3) as u64;
        let blocks = |_: &Arc<Served>| {
            let metrics = plan.metrics.iter().cloned();
            let of = |metric| {
                Blocks::new(
                    metric,
                    block_ms,
                    alpha,
                    definition.planned_blocks,
                    definition.min_blocks,
                )
            };
            metrics.map(of).collect()
        };
        let window_ms = (definition.breaker_window_s * 1e3) as u64;
        Ok(Self {
            definition: Arc::clone(definition),
            taken: row.first_sample,
            feedback: row.first_feedback,
            blocks: served.iter().map(blocks).collect(),
            breaker: Breaker::new(&definition.breaker, definition.arms.len(), window_ms),
            served,
            folds: HashMap::new(),
            devices: HashSet::new(),
            answers: 0,
            used: 0,
            unused: 0,
            began: row.created,
        })
    }

    /// Row ids of the challengers' versions, by arm from 1.
    pub fn versions(&self) -> Vec<i64> {
        self.served
            .iter()
            .map(|served| served.reference.id)
            .collect()
    }

    /// Whether a reading belongs to it: of a device within its coverage, and one that was folded or tried to be.
    fn wants(&self, read: &Read<'_>) -> bool {
        let share = f64::from(bucket(&self.definition.name, read.device)) / f64::from(BUCKETS);
        let is_new = !self.devices.contains(&read.stream);
        share < self.definition.coverage
            && !matches!(read.output, Output::Skipped(_))
            && !(is_new && self.devices.len() >= self.definition.max_devices)
    }

    /// Answers a reading by every challenger and counts; the predictions are the caller's to store.
    ///
    /// # Errors
    /// A store that cannot be read: nothing was counted.
    pub async fn answer(
        &mut self,
        store: &dyn Store,
        read: &Read<'_>,
    ) -> Result<Vec<ShadowRow>, StoreError> {
        if !self.wants(read) {
            return Ok(Vec::new());
        }
        if !self.folds.contains_key(&read.stream) {
            let mut folds = Vec::with_capacity(self.served.len());
            for served in &self.served {
                folds.push(warmed(store, served, read).await?);
            }
            self.folds.insert(read.stream, folds);
        }
        let mut rows = Vec::with_capacity(self.served.len());
        for fold in self.folds.get_mut(&read.stream).into_iter().flatten() {
            let since = Instant::now();
            let output = fold.step(read.values, read.ts);
            rows.push(ShadowRow {
                sample: read.id,
                version: fold.served().reference.id,
                output,
                latency_us: u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX),
            });
        }
        for (index, row) in rows.iter().enumerate() {
            self.compare(index, read, row);
        }
        self.note(read);
        Ok(rows)
    }

    /// Counts a reading whose predictions are stored already.
    pub fn recall(&mut self, read: &Read<'_>, rows: &[Option<ShadowRow>]) {
        if rows.iter().all(Option::is_none) || !self.wants(read) {
            return;
        }
        for (index, row) in rows.iter().enumerate() {
            if let Some(row) = row {
                self.compare(index, read, row);
            }
        }
        self.note(read);
    }

    fn note(&mut self, read: &Read<'_>) {
        self.devices.insert(read.stream);
        self.answers += 1;
        let budget = self.definition.latency_budget_us;
        let failed = matches!(read.output, Output::Failed(_));
        self.count(0, failed, read.latency_us > budget, read.at);
    }

    fn count(&mut self, arm: usize, failed: bool, over_budget: bool, at: i64) {
        let all = [
            (failed, Fault::FailedOutput),
            (over_budget, Fault::OverBudget),
        ];
        let faults: Vec<Fault> = all
            .into_iter()
            .filter(|one| one.0)
            .map(|one| one.1)
            .collect();
        self.breaker.count(arm, &faults, ms(at));
    }

    /// What one challenger's answer tells beside production's.
    fn compare(&mut self, index: usize, read: &Read<'_>, row: &ShadowRow) {
        let budget = self.definition.latency_budget_us;
        let over = |latency_us: u32| latency_us > budget;
        for (metric, declared) in self.definition.metrics.iter().enumerate() {
            let measure = declared.measure;
            let pair = match measure {
                Known::Disagreement => {
                    disagree(read.output, &row.output).map(|is| (0.0, f64::from(u8::from(is))))
                }
                _ => {
                    let control = outcome::behaviour(measure, read.output, over(read.latency_us));
                    let challenger = outcome::behaviour(measure, &row.output, over(row.latency_us));
                    control.zip(challenger).map(|(a, b)| (a.0, b.0))
                }
            };
            if let Some((control, challenger)) = pair {
                self.blocks[index][metric].tally(control, challenger, ms(read.at));
            }
        }
        let failed = matches!(row.output, Output::Failed(_));
        self.count(index + 1, failed, over(row.latency_us), read.at);
    }

    /// Counts ground truth for a reading with the challengers' answers to it. What it corrects stays counted: its block is over.
    pub fn learn(
        &mut self,
        feedback: &FeedbackRow,
        sample: &StoredSample,
        rows: &[Option<ShadowRow>],
    ) {
        let mut used = false;
        for (index, row) in rows.iter().enumerate() {
            let Some(row) = row else { continue };
            for (metric, declared) in self.definition.metrics.iter().enumerate() {
                let of = |output| outcome::scored(declared.measure, output, &feedback.label);
                let pair = of(&sample.output).zip(of(&row.output));
                if let Some(((control, n), (challenger, _))) = pair
                    && n > 0.0
                    && feedback.before.is_none()
                {
                    self.blocks[index][metric].tally(control, challenger, ms(feedback.at));
                    used = true;
                }
            }
        }
        self.used += u64::from(used);
        self.unused += u64::from(!used);
    }

    /// A stream was set back: its challengers calibrate with it, from the store.
    pub fn forget(&mut self, stream: i64) {
        self.folds.remove(&stream);
    }

    /// The limit that a challenger is over.
    pub fn tripped(&self, now: i64) -> Option<Tripped> {
        self.breaker.tripped(ms(now))
    }

    /// What the numbers say.
    pub fn results(&mut self, now: i64) -> Results {
        for blocks in self.blocks.iter_mut().flatten() {
            blocks.advance(ms(now));
        }
        let plan = self.definition.plan();
        let devices = self.devices.len() as u64;
        let arm = |name: &String| ArmReport {
            name: name.clone(),
            exposed: devices,
            matured: devices,
            coverage: None,
            metrics: vec![None; plan.metrics.len()],
        };
        let challengers = self.blocks.iter().enumerate();
        let comparisons = challengers.map(|(index, blocks)| self.comparison(index, blocks));
        let report = Report {
            elapsed_ms: ms(now - self.began),
            arms: plan.arms.iter().map(arm).collect(),
            comparisons: comparisons.collect(),
            p_split: 1.0,
            p_split_once: None,
            left_out: 0,
            other_arm: 0,
        };
        Results {
            at: now,
            metrics: plan
                .metrics
                .iter()
                .map(|metric| metric.name.clone())
                .collect(),
            report,
            breaker: self.tripped(now).map(|tripped| tripped.to_string()),
            feedback: self.used,
            feedback_unused: self.unused,
            shadow_predictions: self.answers * self.served.len() as u64,
        }
    }

    fn comparison(&self, index: usize, blocks: &[Blocks]) -> Comparison {
        let definition = &self.definition;
        let plan = definition.plan();
        let paired: Vec<Paired> = blocks.iter().map(Blocks::report).collect();
        let metrics = plan.metrics.iter().zip(&paired);
        let compared = metrics.map(|(metric, paired)| {
            // From "up is good" (guardrail: "up is harm") back to the metric's own direction.
            let sign = metric.direction.good(1.0)
                * if metric.role == Role::Guardrail {
                    -1.0
                } else {
                    1.0
                };
            let (a, b) = (sign * paired.sequence.lower, sign * paired.sequence.upper);
            let finite = |x: f64| x.is_finite().then_some(x);
            Compared {
                metric: metric.name.clone(),
                role: metric.role,
                difference: paired.difference.map(|one| one.value),
                se: paired.difference.map(|one| one.se),
                lower: finite(a.min(b)),
                upper: finite(a.max(b)),
                p: paired.sequence.p,
                harmed: metric.role == Role::Guardrail && paired.sequence.lower > metric.margin,
                moved: paired.sequence.contradicts_itself(),
            }
        });
        let primary = &paired[plan.primary()];
        let name = &definition.arms[index + 1].name;
        let by = primary.difference.map_or_else(
            || "too few blocks to read".to_owned(),
            |one| {
                format!(
                    "`{}` by {:.4} a reading",
                    plan.metrics[plan.primary()].name,
                    one.value
                )
            },
        );
        let needed = primary
            .blocks_needed
            .map(|needed| needed.saturating_sub(primary.blocks));
        let rest = match (primary.verdict, needed) {
            (tidegate_experiments::Verdict::Collecting, Some(needed)) => {
                format!("; {needed} more blocks needed if things stay as they are")
            }
            _ => String::new(),
        };
        let words = format!(
            "`{name}`: {}; {by} over {} blocks{rest}",
            primary.verdict, primary.blocks
        );
        Comparison {
            arm: index + 1,
            name: name.clone(),
            verdict: primary.verdict,
            not_worse: !primary.sequence.contradicts_itself()
                && primary.sequence.lower > -plan.metrics[plan.primary()].margin,
            metrics: compared.collect(),
            p_exact: None,
            coverage_differs: false,
            needed: None,
            words,
        }
    }
}

/// Whether two answers say different things; none where one of them says nothing yet.
fn disagree(a: &Output, b: &Output) -> Option<bool> {
    match (a, b) {
        (Output::Anomaly { anomaly: a, .. }, Output::Anomaly { anomaly: b, .. }) => Some(a != b),
        (Output::Classification { label: a, .. }, Output::Classification { label: b, .. }) => {
            Some(a != b)
        }
        _ => None,
    }
}

/// A version as it would stand before a reading: calibrated on what its stream was calibrated on, then folded over as many of the readings
/// before as it asks for.
async fn warmed(
    store: &dyn Store,
    served: &Arc<Served>,
    read: &Read<'_>,
) -> Result<Fold, StoreError> {
    let manifest = &served.version.manifest;
    let begin = store.last_reset(read.stream).await?;
    let learned = store
        .calibration(read.stream, begin, manifest.calibration)
        .await?;
    let recent = store.newest_folded(read.stream, manifest.memory).await?;
    let mut fold = Fold::new(Arc::clone(served));
    let mut pos = begin.pos;
    let before = |reading: &&LoggedReading| reading.folded && reading.place.sample_id < read.id;
    for reading in learned.iter().chain(&recent).filter(before) {
        if reading.place.pos > pos {
            fold.step(&reading.values, reading.ts);
            pos = reading.place.pos;
        }
    }
    Ok(fold)
}
