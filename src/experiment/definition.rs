//! An experiment as a person declares it, and everything that can be wrong with it before it starts.
//!
//! Pure: what versions there are is passed in. Promises that a definition that passed [`Definition::check`] gives a plan that can be analysed
//! and a split in which every arm has devices. Nothing in it changes afterwards.

use super::measure::{MetricDefinition, check_metric};
use crate::inference::{Engine, NoVersion, ServedEndpoint};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use tidegate_experiments::assignment::{BUCKETS, Layer, Split, fnv1a32};
use tidegate_experiments::bandit::Bandit;
use tidegate_experiments::plan::{DAY_MS, Estimator};
use tidegate_experiments::sequential::breaker::Limit;
use tidegate_experiments::{Plan, Role};

/// Steps of a ramp.
const MAX_STEPS: usize = 32;
/// Longest time of any kind, seconds: three years.
const MAX_S: f64 = 1e8;
/// The layer of experiments that name none.
const LAYER: &str = "default";

/// How devices come into arms, and what is done with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// 2 to 8 arms by weight.
    Ab,
    /// A challenger that gets more and more of the fleet.
    Canary,
    /// Challengers get the readings and are heard by nobody.
    Shadow,
    /// Each new device goes to an arm with the probability that this is the best one.
    Bandit,
}

/// One arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArmDefinition {
    /// Its name, `[a-z0-9-]{1,32}`.
    pub name: String,
    /// `model/version`.
    pub version: String,
    /// Its share; all weights sum to 1. A canary has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
}

/// One step of a canary's ramp.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepDefinition {
    /// Share of the fleet that the challenger gets, in 0..1.
    pub share: f64,
    /// How long it is watched before the next one.
    pub hold_s: f64,
}

/// See the module. Times are in seconds, as people write them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// `[a-z0-9-]{1,64}`; also what devices are hashed with.
    pub name: String,
    /// Where it takes place.
    pub endpoint: String,
    /// How devices come into arms.
    pub kind: Kind,
    /// The control first.
    pub arms: Vec<ArmDefinition>,
    /// What is measured; exactly one is primary.
    pub metrics: Vec<MetricDefinition>,
    /// Experiments of one layer never share a device.
    #[serde(default = "layer")]
    pub layer: String,
    /// Which part of the layer it takes, from and to in 0..1.
    #[serde(default = "whole")]
    pub slice: [f64; 2],
    /// No layer: devices of other experiments come here too, as far as those leave them.
    #[serde(default)]
    pub independent: bool,
    /// Share of its devices that take part; the rest keeps production.
    #[serde(default = "one")]
    pub coverage: f64,
    /// The share that a bandit leaves to every arm at least.
    #[serde(default = "floor")]
    pub floor: f64,
    /// How often a bandit learns.
    #[serde(default = "learn")]
    pub learn_s: f64,
    /// How long the blocks are over which a shadow is compared: longer than readings hang together.
    #[serde(default = "block")]
    pub block_s: f64,
    /// Blocks after which a shadow's interval is tightest.
    #[serde(default = "planned_blocks")]
    pub planned_blocks: f64,
    /// Blocks before a shadow's interval is read.
    #[serde(default = "min_blocks")]
    pub min_blocks: u64,
    /// A canary's ramp.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ramp: Vec<StepDefinition>,
    /// From a device's first reading in its arm to its frozen observation.
    #[serde(default = "day")]
    pub horizon_s: f64,
    /// How much longer feedback is waited for.
    #[serde(default)]
    pub wait_s: f64,
    /// How long it runs at least before it decides.
    #[serde(default = "day")]
    pub min_s: f64,
    /// The error that all comparisons together may make.
    #[serde(default = "alpha")]
    pub alpha: f64,
    /// Devices after which the interval is tightest.
    #[serde(default = "planned_devices")]
    pub planned_devices: f64,
    /// Devices an arm before the interval is read.
    #[serde(default = "min_devices")]
    pub min_devices: u64,
    /// The exact process, for small fleets and a yes-or-no metric.
    #[serde(default)]
    pub exact: bool,
    /// Devices that are counted at most.
    #[serde(default = "max_devices")]
    pub max_devices: usize,
    /// What a reading may take, decode to step done.
    #[serde(default = "budget")]
    pub latency_budget_us: u32,
    /// Promote a challenger when it may be.
    #[serde(default)]
    pub auto_promote: bool,
    /// Take challengers back when one is worse, harms a guardrail, or plainly does not work. A canary and a shadow do so unless told otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_rollback: Option<bool>,
    /// "No difference beyond the margin" suffices for a promotion.
    #[serde(default)]
    pub non_inferior: bool,
    /// When the breaker trips.
    #[serde(default = "limits")]
    pub breaker: Vec<Limit>,
    /// Over which time its shares are counted.
    #[serde(default = "window")]
    pub breaker_window_s: f64,
}

fn layer() -> String {
    LAYER.to_owned()
}
fn whole() -> [f64; 2] {
    [0.0, 1.0]
}
fn floor() -> f64 {
    0.05
}
fn learn() -> f64 {
    60.0
}
fn block() -> f64 {
    60.0
}
fn planned_blocks() -> f64 {
    1_440.0
}
fn min_blocks() -> u64 {
    30
}
fn one() -> f64 {
    1.0
}
fn day() -> f64 {
    DAY_MS as f64 / 1e3
}
fn alpha() -> f64 {
    0.05
}
fn planned_devices() -> f64 {
    5_000.0
}
fn min_devices() -> u64 {
    100
}
fn max_devices() -> usize {
    1_000_000
}
fn budget() -> u32 {
    50_000
}
fn limits() -> Vec<Limit> {
    Limit::defaults().to_vec()
}
fn window() -> f64 {
    60.0
}

/// Why an experiment cannot be; one line that names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DefinitionError {
    /// For programs.
    pub code: &'static str,
    /// For people.
    pub message: String,
}

/// A field that is wrong.
pub(super) fn wrong(message: impl Into<String>) -> DefinitionError {
    DefinitionError {
        code: "bad_request",
        message: message.into(),
    }
}

impl Definition {
    /// Checks everything that can be known before the start; gives the plan of its analysis.
    ///
    /// # Errors
    /// The first mistake.
    pub fn check(&self, engine: &Engine) -> Result<Plan, DefinitionError> {
        check_name("name", &self.name, 64)?;
        let endpoint = engine.endpoint(&self.endpoint);
        let endpoint = endpoint.ok_or_else(|| DefinitionError {
            code: "unknown_endpoint",
            message: format!("endpoint: there is no {:?}", shortened(&self.endpoint)),
        })?;
        self.check_arms(endpoint)?;
        self.check_times()?;
        self.slice_of()?;
        self.split(0)?;
        for (index, metric) in self.metrics.iter().enumerate() {
            let task = endpoint.manifest.task.as_str();
            check_metric(index, metric, task, self.kind)?;
        }
        let plan = self.plan();
        plan.check().map_err(|error| wrong(error.to_string()))?;
        Ok(plan)
    }

    fn check_arms(&self, endpoint: &ServedEndpoint) -> Result<(), DefinitionError> {
        for (index, arm) in self.arms.iter().enumerate() {
            check_name(&format!("arms[{index}].name"), &arm.name, 32)?;
            if self.arms[..index]
                .iter()
                .any(|other| other.name == arm.name)
            {
                return Err(wrong(format!(
                    "arms[{index}].name: `{}` is there twice",
                    arm.name
                )));
            }
            endpoint
                .version(&arm.version)
                .map_err(|error| DefinitionError {
                    code: match &error {
                        NoVersion::NotReady { .. } => "not_ready",
                        NoVersion::Unknown { .. } => "unknown_version",
                    },
                    message: format!("arms[{index}].version: {error}"),
                })?;
        }
        match self.kind {
            Kind::Ab => self.check_weights(),
            Kind::Canary => self.check_ramp(endpoint),
            Kind::Shadow => self.check_shadow(endpoint),
            Kind::Bandit => self.check_bandit(),
        }
    }

    fn check_weights(&self) -> Result<(), DefinitionError> {
        if !self.ramp.is_empty() {
            return Err(wrong("ramp: only a canary has one"));
        }
        match self.arms.iter().position(|arm| arm.weight.is_none()) {
            Some(index) => Err(wrong(format!(
                "arms[{index}].weight: missing; all weights sum to 1"
            ))),
            None => Ok(()),
        }
    }

    fn check_shadow(&self, endpoint: &ServedEndpoint) -> Result<(), DefinitionError> {
        if self.arms.iter().any(|arm| arm.weight.is_some()) || !self.ramp.is_empty() {
            return Err(wrong(
                "arms: a shadow has no weights and no ramp: every challenger gets every reading",
            ));
        }
        self.check_control(endpoint)?;
        if !(self.coverage > 0.0 && self.coverage <= 1.0) {
            return Err(wrong(format!(
                "coverage: {} is not above 0 and at most 1",
                self.coverage
            )));
        }
        if !(self.planned_blocks >= 2.0 && self.planned_blocks <= 1e9) || self.min_blocks < 2 {
            return Err(wrong("planned_blocks is 2 to 1e9, min_blocks at least 2"));
        }
        Ok(())
    }

    fn check_bandit(&self) -> Result<(), DefinitionError> {
        if self.arms.iter().any(|arm| arm.weight.is_some()) || !self.ramp.is_empty() {
            return Err(wrong(
                "arms: a bandit has no weights and no ramp: it learns them",
            ));
        }
        if self.coverage < 1.0 {
            return Err(wrong(
                "coverage: a bandit takes all devices of its slice; give it a smaller slice",
            ));
        }
        self.bandit().map(|_| ())
    }

    /// A bandit that has learned nothing yet.
    ///
    /// # Errors
    /// A floor that is none, or a primary metric that it cannot learn from.
    pub fn bandit(&self) -> Result<Bandit, DefinitionError> {
        let primary = self.metrics.iter().find(|one| one.role == Role::Primary);
        let primary = primary.or(self.metrics.first()).map(|one| one.metric(true));
        let primary = primary.ok_or_else(|| wrong("metrics: exactly one is primary, not 0"))?;
        let seed = u64::from(fnv1a32(self.name.as_bytes()));
        let (form, direction) = (primary.form, primary.direction);
        Bandit::new(self.arms.len(), form, direction, self.floor, seed)
            .map_err(|error| wrong(error.to_string()))
    }

    /// What everybody else gets is what challengers are compared with.
    fn check_control(&self, endpoint: &ServedEndpoint) -> Result<(), DefinitionError> {
        let production = endpoint.production.reference.to_string();
        match self.arms.first() {
            Some(control) if control.version != production => Err(wrong(format!(
                "arms[0].version: the control is the version in production, {production}"
            ))),
            _ => Ok(()),
        }
    }

    fn check_ramp(&self, endpoint: &ServedEndpoint) -> Result<(), DefinitionError> {
        if self.arms.len() != 2 || self.arms.iter().any(|arm| arm.weight.is_some()) {
            return Err(wrong(
                "arms: a canary has two, the control and the challenger, without weights: its ramp says who gets how much",
            ));
        }
        self.check_control(endpoint)?;
        if !(1..=MAX_STEPS).contains(&self.ramp.len()) {
            return Err(wrong(format!(
                "ramp: {} steps; a canary has 1 to {MAX_STEPS}",
                self.ramp.len()
            )));
        }
        let mut before = 0.0;
        for (index, step) in self.ramp.iter().enumerate() {
            if !(step.share > before && step.share <= 1.0) {
                return Err(wrong(format!(
                    "ramp[{index}].share: {} is not above {before} and at most 1: a ramp only grows",
                    step.share
                )));
            }
            if !(step.hold_s >= 0.0 && step.hold_s <= MAX_S) {
                return Err(wrong(format!(
                    "ramp[{index}].hold_s: {} is not between 0 and {MAX_S}",
                    step.hold_s
                )));
            }
            before = step.share;
        }
        if self.coverage < 1.0 {
            return Err(wrong(
                "coverage: a canary's ramp says how much of the fleet takes part",
            ));
        }
        Ok(())
    }

    fn check_times(&self) -> Result<(), DefinitionError> {
        let times = [
            ("horizon_s", self.horizon_s, 0.001),
            ("wait_s", self.wait_s, 0.0),
            ("min_s", self.min_s, 0.0),
            ("block_s", self.block_s, 0.001),
            ("learn_s", self.learn_s, 0.001),
            ("breaker_window_s", self.breaker_window_s, 1.0),
        ];
        for (field, value, least) in times {
            if !(value >= least && value <= MAX_S) {
                return Err(wrong(format!(
                    "{field}: {value} is not between {least} and {MAX_S}"
                )));
            }
        }
        if self.breaker.len() > 16 {
            return Err(wrong("breaker: at most 16 limits"));
        }
        Ok(())
    }

    /// Which of the layer's buckets are its own.
    ///
    /// # Errors
    /// A slice that is none, or a layer without a name.
    pub fn slice_of(&self) -> Result<Range<u16>, DefinitionError> {
        let [from, to] = self.slice;
        if !(from >= 0.0 && to <= 1.0 && from < to) {
            return Err(wrong(format!("slice: {from} to {to} is no part of 0 to 1")));
        }
        Layer::new(&self.layer).map_err(|error| wrong(format!("layer: {error}")))?;
        let bucket = |share: f64| (share * f64::from(BUCKETS)).round() as u16;
        Ok(bucket(from)..bucket(to))
    }

    /// Refuses a layer that other experiments of the endpoint have taken: `others`, those that run.
    ///
    /// # Errors
    /// Who has it.
    pub fn check_layer<'a>(
        &self,
        others: impl Iterator<Item = &'a Self>,
    ) -> Result<(), DefinitionError> {
        if self.independent || self.kind == Kind::Shadow {
            return Ok(());
        }
        let mut layer = Layer::new(&self.layer).map_err(|error| wrong(error.to_string()))?;
        let same = |other: &&Self| {
            !other.independent
                && other.kind != Kind::Shadow
                && other.endpoint == self.endpoint
                && other.layer == self.layer
        };
        for other in others.filter(same) {
            // Two that run were both let in.
            let _ = layer.take(&other.name, other.slice_of()?);
        }
        let taken = layer.take(&self.name, self.slice_of()?);
        taken.map_err(|error| DefinitionError {
            code: "layer_taken",
            message: error.to_string(),
        })
    }

    /// The buckets of its arms at a step of its ramp.
    ///
    /// # Errors
    /// Weights that make no whole.
    pub fn split(&self, step: u32) -> Result<Split, DefinitionError> {
        let split = match self.kind {
            Kind::Ab => {
                let weights = self.arms.iter().map(|arm| arm.weight.unwrap_or_default());
                Split::new(&weights.collect::<Vec<_>>(), self.coverage)
            }
            Kind::Shadow | Kind::Bandit => {
                let each = 1.0 / self.arms.len().max(1) as f64;
                Split::new(&vec![each; self.arms.len()], 1.0)
            }
            Kind::Canary => {
                let step = self.ramp.get(step as usize).or(self.ramp.last());
                Split::canary(step.map_or(0.0, |step| step.share))
            }
        };
        split.map_err(|error| wrong(error.to_string()))
    }

    /// What its analysis is told.
    pub fn plan(&self) -> Plan {
        let moves = matches!(self.kind, Kind::Canary | Kind::Bandit);
        let metrics = self.metrics.iter().map(|metric| metric.metric(moves));
        let shares = self.split(0).map(|split| split.shares());
        let ms = |s: f64| (s * 1e3).round() as u64;
        Plan {
            arms: self.arms.iter().map(|arm| arm.name.clone()).collect(),
            shares: shares.unwrap_or_default(),
            metrics: metrics.collect(),
            estimator: if moves {
                Estimator::Weighted
            } else {
                Estimator::TwoSample
            },
            horizon_ms: ms(self.horizon_s),
            wait_ms: ms(self.wait_s),
            alpha: self.alpha,
            planned_devices: self.planned_devices,
            min_devices: self.min_devices,
            min_ms: ms(self.min_s),
            exact: self.exact,
            max_devices: self.max_devices,
        }
    }

    /// Whether challengers are taken back without a person.
    pub fn rolls_back(&self) -> bool {
        let careful = matches!(self.kind, Kind::Canary | Kind::Shadow);
        self.auto_rollback.unwrap_or(careful)
    }

    /// `experiment/arm`, as samples keep it.
    pub fn label(&self, arm: usize) -> String {
        format!("{}/{}", self.name, self.arms[arm].name)
    }
}

fn check_name(field: &str, name: &str, most: usize) -> Result<(), DefinitionError> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if (1..=most).contains(&name.len()) && name.chars().all(fits) {
        return Ok(());
    }
    Err(wrong(format!(
        "{field}: {:?}: expected 1-{most} characters of a-z, 0-9 and -",
        shortened(name)
    )))
}

fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
#[path = "definition_tests.rs"]
pub(super) mod tests;
