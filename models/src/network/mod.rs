//! A network: a row of numbers in, a row of numbers out, and the floats it carries from one row to the next.
//!
//! What stands between preprocessing and postprocessing: an architecture of ours with its weights, or a graph read from a file. It
//! knows no features, no labels of a task, no calibration and no time. A network is immutable and shared; state and scratch belong
//! to the caller. Promises: no allocation in [`Network::step`], one fixed order of operations, so that a row's bits are the same
//! alone and in any batch. One file an architecture of ours. It does not check what it is given beyond the lengths.

pub mod layers;
pub mod linear;
pub mod mlp;
pub mod pca;
pub mod recurrent;
pub mod tcn;
#[cfg(test)]
mod tests;
pub mod trees;

use std::ops::Range;
use std::sync::Arc;

use crate::manifest::{Mistake, check};

/// Most floats in a row between stages, layers and heads; bounds the scratch of a step.
pub const MAX_WIDTH: usize = 8192;

/// Most layers of one kind.
pub const MAX_LAYERS: usize = 16;

/// A named part of a network's output row.
#[derive(Debug, Clone, PartialEq)]
pub struct Port {
    /// Such as `output` or `probabilities`.
    pub name: String,
    /// Where it lies in the output row.
    pub range: Range<usize>,
    /// The names of classes, for a port that holds one probability a class or the index of one.
    pub classes: Option<Arc<[String]>>,
    /// What the numbers are.
    pub kind: PortKind,
}

impl Port {
    /// Numbers without classes.
    pub fn values(name: &str, range: Range<usize>) -> Self {
        Self {
            name: name.to_owned(),
            range,
            classes: None,
            kind: PortKind::Values,
        }
    }
}

/// What the numbers of a [`Port`] are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortKind {
    /// Any numbers.
    Values,
    /// One float: the index of the chosen class.
    Class,
}

/// An architecture with its weights.
pub trait Network: Send + Sync + 'static {
    /// Architecture and revision, such as `gru-1`: part of the description of a state.
    fn kind(&self) -> &str;

    /// Floats of an input row.
    fn inputs(&self) -> usize;

    /// The parts of an output row, end to end.
    fn ports(&self) -> &[Port];

    /// Floats of an output row.
    fn outputs(&self) -> usize {
        self.ports().last().map_or(0, |port| port.range.end)
    }

    /// Floats carried from one row to the next; 0 for a network without memory.
    fn state_len(&self) -> usize {
        0
    }

    /// Writes the state before the first row.
    fn init(&self, state: &mut [f32]) {
        state.fill(0.0);
    }

    /// Floats that [`Network::step`] may use as it likes; what they hold before does not matter.
    fn scratch_len(&self) -> usize {
        0
    }

    /// One row. The lengths are those named above; others are a mistake of the caller and panic.
    fn step(&self, state: &mut [f32], input: &[f32], output: &mut [f32], scratch: &mut [f32]);

    /// Many rows of many streams: `inputs` and `outputs` hold the rows end to end, row `i` uses `states[i]`. The bits of a row are
    /// those of [`Network::step`] alone.
    fn step_rows(
        &self,
        states: &mut [&mut [f32]],
        inputs: &[f32],
        outputs: &mut [f32],
        scratch: &mut [f32],
    ) {
        let rows = inputs.chunks_exact(self.inputs());
        let outputs = outputs.chunks_exact_mut(self.outputs());
        for ((state, input), output) in states.iter_mut().zip(rows).zip(outputs) {
            self.step(state, input, output, scratch);
        }
    }

    /// The same as a plain candle graph: the output row, and the state moved on. Agrees with [`Network::step`] within 1e-5 relative.
    fn reference(&self, state: &mut [f32], input: &[f32]) -> candle_core::Result<Vec<f32>>;

    /// Whether the bits hold for this build only, because some operation is candle's own.
    fn is_build_bound(&self) -> bool {
        false
    }
}

/// Checks a count of units or layers.
pub(crate) fn check_count(value: usize, most: usize, field: &str) -> Result<(), Mistake> {
    check(
        (1..=most).contains(&value),
        field,
        &format!("{value} is not in 1..={most}"),
    )
}
