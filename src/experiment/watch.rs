//! One experiment under analysis: what the committed log says of its devices, counted.
//!
//! Owns the [`Analysis`] and the breaker of one experiment, and where it stands in the log. A device is exposed by its first committed reading in
//! its arm, so that the same log gives the same numbers after a restart. Reads no clock and no store: it is given rows in the order of time.

use super::definition::{Definition, DefinitionError, Kind};
use super::outcome;
use crate::store::{ExperimentRow, FeedbackRow, StoredSample};
use crate::stream::SampleRow;
use serde::Serialize;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tidegate_experiments::Analysis;
use tidegate_experiments::assignment::{Split, bucket};
use tidegate_experiments::bandit::Bandit;
use tidegate_experiments::metric::Moments;
use tidegate_experiments::sequential::breaker::{Breaker, Fault, Tripped};
use tidegate_experiments::verdict::Report;
use tidegate_protocol::Output;

/// A committed reading, as far as an experiment looks at it.
pub struct Seen<'a> {
    /// Row id of its stream.
    pub stream: i64,
    /// Its device.
    pub device: &'a str,
    /// `experiment/arm`.
    pub arm: &'a str,
    /// Arrived, Unix ms.
    pub at: i64,
    /// The answer.
    pub output: &'a Output,
    /// From decode to step done, microseconds.
    pub latency_us: u32,
}

impl<'a> Seen<'a> {
    /// Of a row that was just committed; `None` outside of experiments.
    pub fn of(row: &'a SampleRow) -> Option<Self> {
        Some(Self {
            stream: row.stream.id,
            device: row.stream.key.device.as_str(),
            arm: &row.arm.as_ref()?.label,
            at: row.received_at,
            output: &row.output,
            latency_us: row.latency_us,
        })
    }

    /// Of a row of the store; `None` outside of experiments.
    pub fn of_stored(row: &'a StoredSample) -> Option<Self> {
        Some(Self {
            stream: row.stream,
            device: &row.device,
            arm: row.arm.as_deref()?,
            at: row.received_at,
            output: &row.output,
            latency_us: row.latency_us,
        })
    }
}

/// A device in an arm.
#[derive(Debug, Clone, Copy)]
struct Member {
    arm: u8,
    bucket: u16,
}

/// What an experiment's numbers say at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Results {
    /// Unix ms.
    pub at: i64,
    /// Names of the metrics, in the order of the report's.
    pub metrics: Vec<String>,
    /// The numbers.
    pub report: Report,
    /// Which limit of the breaker is exceeded.
    pub breaker: Option<String>,
    /// Feedback that was counted.
    pub feedback: u64,
    /// Feedback that came after its device's time, for readings outside of it, or of a kind that no metric takes.
    pub feedback_unused: u64,
    /// Predictions of challengers in the shadow.
    pub shadow_predictions: u64,
}

/// See the module.
pub struct Watch {
    /// As declared.
    pub definition: Arc<Definition>,
    /// Samples up to this id are counted.
    pub taken: u64,
    /// Feedback up to this row id is counted.
    pub feedback: u64,
    /// Refusals up to this row id are counted.
    pub refusals: u64,
    labels: Vec<String>,
    analysis: Analysis,
    breaker: Breaker,
    members: HashMap<i64, Member>,
    split: Split,
    /// Steps of the ramp that are still to be taken in: when, and which.
    steps: VecDeque<(i64, u32)>,
    /// The step that it is in, and since when.
    step: (u32, i64),
    /// What a bandit has learned, to be taken in: when, and what.
    learned: VecDeque<(i64, Arc<Bandit>)>,
    /// What it knows now, and since when.
    bandit: Option<(Arc<Bandit>, i64)>,
    /// Devices that it has learned from.
    learned_from: u64,
    used: u64,
    unused: u64,
}

fn ms(at: i64) -> u64 {
    u64::try_from(at).unwrap_or_default()
}

impl Watch {
    /// Of an experiment from its beginning; `steps` are those that its ramp has taken so far, oldest first.
    ///
    /// # Errors
    /// A declaration that cannot be analysed.
    pub fn new(
        row: &ExperimentRow,
        definition: &Arc<Definition>,
        steps: Vec<(i64, u32)>,
    ) -> Result<Self, DefinitionError> {
        let unfit = |error: &dyn std::error::Error| DefinitionError {
            code: "bad_request",
            message: error.to_string(),
        };
        let arms = definition.arms.len();
        let window_ms = (definition.breaker_window_s * 1e3) as u64;
        Ok(Self {
            taken: row.first_sample,
            feedback: row.first_feedback,
            refusals: row.first_refusal,
            labels: (0..arms).map(|arm| definition.label(arm)).collect(),
            analysis: Analysis::new(definition.plan()).map_err(|error| unfit(&error))?,
            breaker: Breaker::new(&definition.breaker, arms, window_ms),
            members: HashMap::new(),
            split: definition.split(0)?,
            steps: steps.into(),
            step: (0, row.created),
            learned: VecDeque::new(),
            bandit: match definition.kind {
                Kind::Bandit => Some((Arc::new(definition.bandit()?), row.created)),
                _ => None,
            },
            learned_from: 0,
            used: 0,
            unused: 0,
            definition: Arc::clone(definition),
        })
    }

    /// Its ramp goes on.
    pub fn note_step(&mut self, at: i64, step: u32) {
        self.steps.push_back((at, step));
    }

    /// A bandit has learned: devices are drawn by other shares from then on.
    pub fn note_learned(&mut self, at: i64, bandit: Arc<Bandit>) {
        self.learned.push_back((at, bandit));
    }

    /// What a bandit learns from the devices that have matured; `None` before it is time, or while nothing new has come of it.
    pub fn learns(&mut self, now: i64) -> Option<Arc<Bandit>> {
        let (bandit, since) = self.bandit.as_ref()?;
        let is_due = (now - since) as f64 >= self.definition.learn_s * 1e3;
        let primary = self.analysis.primary();
        let arms = (0..self.labels.len()).map(|arm| *self.analysis.moments(arm, primary));
        let arms: Vec<Moments> = arms.collect();
        let devices = arms.iter().map(Moments::devices).sum();
        if !is_due || !self.learned.is_empty() || devices == self.learned_from {
            return None;
        }
        self.learned_from = devices;
        let mut next = Bandit::clone(bandit);
        next.learn(&arms);
        Some(Arc::new(next))
    }

    /// The step that its ramp is in, and since when.
    pub fn step(&self) -> (u32, i64) {
        self.steps
            .back()
            .map_or(self.step, |(at, step)| (*step, *at))
    }

    /// Takes in what a bandit learned and steps of the ramp up to a moment: each of these draws every device of the control anew.
    fn advance(&mut self, at: i64) {
        while let Some((begins, bandit)) = self.learned.front().cloned()
            && begins <= at
        {
            self.learned.pop_front();
            self.analysis.refresh(ms(begins));
            // As many shares as arms, and they sum to 1.
            let _ = self.analysis.reweigh(bandit.shares());
            self.bandit = Some((bandit, begins));
        }
        while let Some((begins, step)) = self.steps.front().copied()
            && begins <= at
        {
            self.steps.pop_front();
            self.step = (step, begins);
            let Ok(next) = self.definition.split(step) else {
                continue;
            };
            let now = ms(begins);
            self.analysis.refresh(now);
            // The shares fit: they come from splits of as many arms.
            let _ = self.analysis.reweigh(&self.split.redraw(&next));
            for (stream, member) in &mut self.members {
                if member.arm == 0 {
                    let arm = next.arm_of(member.bucket).unwrap_or_default();
                    self.analysis.redraw(stream.cast_unsigned(), arm, now);
                    member.arm = arm as u8;
                }
            }
            let _ = self.analysis.reweigh(&next.shares());
            self.split = next;
        }
    }

    fn arm_of(&self, label: &str) -> Option<usize> {
        self.labels.iter().position(|known| known == label)
    }

    /// Counts a committed reading; one of another experiment, or of a device on its way to another arm, is left out.
    pub fn sample(&mut self, seen: &Seen<'_>) {
        let Some(arm) = self.arm_of(seen.arm) else {
            return;
        };
        if matches!(seen.output, Output::Skipped(_)) {
            return;
        }
        self.advance(seen.at);
        let (device, at) = (seen.stream.cast_unsigned(), ms(seen.at));
        let name = &self.definition.name;
        let member = self.members.entry(seen.stream).or_insert_with(|| Member {
            arm: arm as u8,
            bucket: bucket(name, seen.device),
        });
        if usize::from(member.arm) == arm {
            self.analysis.expose(device, arm, at);
        } else if self.definition.kind == Kind::Canary {
            return;
        } else {
            // Counted by the analysis, and left out there.
            self.analysis.expose(device, arm, at);
            return;
        }
        let budget = self.definition.latency_budget_us;
        for (metric, declared) in self.definition.metrics.iter().enumerate() {
            let behaviour =
                outcome::behaviour(declared.measure, seen.output, seen.latency_us > budget);
            if let Some((y, n)) = behaviour {
                self.analysis.tally(device, metric, y, n, at);
            }
        }
        let mut faults = [Fault::OverBudget; 2];
        let mut count = 0;
        if seen.latency_us > budget {
            count += 1;
        }
        if matches!(seen.output, Output::Failed(_)) {
            faults[count] = Fault::FailedOutput;
            count += 1;
        }
        self.breaker.count(arm, &faults[..count], at);
    }

    /// Counts a refused reading of a stream; streams outside are left out.
    pub fn refused(&mut self, stream: i64, at: i64) {
        self.advance(at);
        let Some(member) = self.members.get(&stream) else {
            return;
        };
        for (metric, declared) in self.definition.metrics.iter().enumerate() {
            if let Some((y, n)) = outcome::refused(declared.measure) {
                let device = stream.cast_unsigned();
                self.analysis.tally(device, metric, y, n, ms(at));
            }
        }
        self.breaker
            .count(usize::from(member.arm), &[Fault::Nack], ms(at));
    }

    /// Counts ground truth for a reading; what it corrects is taken back.
    pub fn learn(&mut self, feedback: &FeedbackRow, sample: &StoredSample) {
        let arm = sample.arm.as_deref().and_then(|label| self.arm_of(label));
        let Some(arm) = arm else {
            return;
        };
        self.advance(feedback.at);
        self.analysis.refresh(ms(feedback.at));
        let member = self.members.get(&feedback.stream);
        let mut used = false;
        if member.is_some_and(|member| usize::from(member.arm) == arm) {
            let device = feedback.stream.cast_unsigned();
            for (metric, declared) in self.definition.metrics.iter().enumerate() {
                let of = |label| outcome::scored(declared.measure, &sample.output, label);
                let (at, now) = (ms(sample.received_at), of(&feedback.label));
                if let Some((y, n)) = feedback.before.as_ref().and_then(of) {
                    self.analysis.tally(device, metric, -y, -n, at);
                }
                if let Some((y, n)) = now {
                    used |= self.analysis.tally(device, metric, y, n, at);
                }
            }
        }
        self.used += u64::from(used);
        self.unused += u64::from(!used);
    }

    /// What the numbers say.
    pub fn results(&mut self, now: i64) -> Results {
        self.advance(now);
        let report = self.analysis.report(ms(now));
        let metrics = &self.analysis.plan().metrics;
        Results {
            at: now,
            metrics: metrics.iter().map(|metric| metric.name.clone()).collect(),
            report,
            breaker: self.tripped(now).map(|tripped| tripped.to_string()),
            feedback: self.used,
            feedback_unused: self.unused,
            shadow_predictions: 0,
        }
    }

    /// The limit that a challenger is over.
    pub fn tripped(&self, now: i64) -> Option<Tripped> {
        self.breaker.tripped(ms(now))
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
