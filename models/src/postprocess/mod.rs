//! What is made of a network's output row: an answer in the words of the endpoint's task.
//!
//! [`Head`] is what the manifest says; `Answer` is the head fitted to a network and an endpoint, with its floats in the stream's
//! state. A calibrated threshold is learned in the second half of the calibration and never after. No allocation per row besides
//! the numbers of the [`Output`] itself.

mod anomaly;
mod classes;
mod config;
mod numbers;
#[cfg(test)]
mod tests;
mod threshold;

use std::sync::Arc;

use crate::Output;
use crate::manifest::{Feature, Mistake, Task, check};
use crate::network::{Port, PortKind};
use crate::preprocess::{Moment, Pipeline};

pub use config::{
    Against, ClassesConfig, ForecastConfig, Head, Link, ResidualConfig, ScoreConfig,
    ThresholdConfig, ValuesConfig,
};

/// What a head is fitted to.
pub(crate) struct Place<'p> {
    pub task: Task,
    pub features: &'p [Feature],
    pub pipeline: &'p Pipeline,
    pub ports: &'p [Port],
    pub calibration: u32,
}

/// What a head sees of one reading.
pub(crate) struct Seen<'s> {
    /// The row before the stages that widen it.
    pub base: &'s [f32],
    /// What the network took.
    pub row: &'s [f32],
    /// What the network gave.
    pub output: &'s [f32],
    pub now: Moment,
    pub pipeline: &'s Pipeline,
    /// The stages' part of the state.
    pub stages: &'s [f32],
}

/// A head fitted to its place.
pub(crate) trait Answer: Send + Sync {
    /// Names and lengths of its buffers.
    fn buffers(&self) -> Vec<(&'static str, usize)> {
        Vec::new()
    }

    /// Writes its state before the first reading.
    fn init(&self, state: &mut [f32]) {
        state.fill(0.0);
    }

    /// Drops what it knows of past rows, keeps what was learned.
    fn forget(&self, _state: &mut [f32]) {}

    /// Whether it learns in the calibration.
    fn learns(&self) -> bool {
        false
    }

    /// A reading of the calibration: learns, and keeps up what follows the rows.
    fn learn(&self, _state: &mut [f32], _seen: &Seen<'_>) {}

    /// What an answer is made of, its numbers all 0; `None` where the task alone says it.
    fn template(&self) -> Option<Output> {
        None
    }

    /// A reading after it.
    fn answer(&self, state: &mut [f32], seen: &Seen<'_>) -> Output;
}

impl Head {
    /// Fits the head; a mistake names the key.
    pub(crate) fn fit(&self, place: &Place<'_>) -> Result<Box<dyn Answer>, Mistake> {
        let (answers, asked) = (self.task(), place.task);
        check(
            answers == asked,
            "kind",
            &format!(
                "\"{}\" answers {}, the endpoint asks for {}",
                self.kind(),
                answers.as_str(),
                asked.as_str()
            ),
        )?;
        Ok(match self {
            Self::Values(config) => Box::new(numbers::Values::fit(config, place)?),
            Self::Forecast(config) => Box::new(numbers::Forecast::fit(config, place)?),
            Self::Classes(config) => Box::new(classes::Classes::fit(config, place)?),
            Self::Score(config) => Box::new(anomaly::Score::fit(config, place)?),
            Self::Residual(config) => Box::new(anomaly::Residual::fit(config, place)?),
        })
    }
}

/// The port that `output` names; the first one with numbers where nothing is named.
fn port<'p>(place: &Place<'p>, output: Option<&str>) -> Result<&'p Port, Mistake> {
    let numbers = |port: &&Port| port.kind == PortKind::Values;
    let found = match output {
        Some(name) => place.ports.iter().find(|port| port.name == name),
        None => place.ports.iter().find(numbers),
    };
    found.ok_or_else(|| {
        let names: Vec<_> = place.ports.iter().map(|port| port.name.as_str()).collect();
        let reason = match output {
            Some(name) => format!(
                "\"{name}\" is not an output; there are {}",
                names.join(", ")
            ),
            None => format!("no output holds numbers; there are {}", names.join(", ")),
        };
        Mistake::new("output", reason)
    })
}

/// The index of a feature by name.
fn feature(place: &Place<'_>, field: &str, name: &str) -> Result<usize, Mistake> {
    let found = place
        .features
        .iter()
        .position(|feature| feature.name == name);
    found.ok_or_else(|| {
        Mistake::new(
            field,
            format!("\"{name}\" is not a feature of the endpoint"),
        )
    })
}

fn failed(reason: &str) -> Output {
    Output::Failed {
        reason: Arc::from(reason),
    }
}
