//! Folding: a node whose inputs are all known is computed while compiling.
//!
//! Owns the two bounds of it, over the whole graph: how many numbers the constants may hold, and how many operations computing them
//! may take. Operations are counted before they are done, so that a file of some hundred bytes cannot keep the machine busy.

use super::graph::Node;
use super::limits::{MAX_CONSTANTS, MAX_FOLDING};
use super::ops::Op;
use super::tensor::Tensor;

/// What is left to spend on the constants of a graph.
pub(super) struct Folding {
    numbers: usize,
    work: usize,
}

impl Folding {
    /// `numbers` are held already.
    pub(super) fn new(numbers: usize) -> Self {
        Self {
            numbers: MAX_CONSTANTS.saturating_sub(numbers),
            work: MAX_FOLDING,
        }
    }

    /// The outputs of a node, from constants.
    ///
    /// # Errors
    /// The operator's own, and one for what brings the graph over a bound.
    pub(super) fn fold(
        &mut self,
        op: &Op,
        node: &Node,
        inputs: &[Option<&Tensor>],
    ) -> Result<Vec<Tensor>, String> {
        self.spend((op.work)(node, inputs)?)?;
        let outputs = (op.eval)(node, inputs)?;
        let numbers = outputs.iter().map(Tensor::len).sum();
        self.spend(numbers)?;
        self.numbers = self
            .numbers
            .checked_sub(numbers)
            .ok_or_else(|| format!("brings the constants over {MAX_CONSTANTS} numbers"))?;
        Ok(outputs)
    }

    fn spend(&mut self, work: usize) -> Result<(), String> {
        let left = self.work.checked_sub(work);
        self.work = left.ok_or_else(|| {
            format!(
                "folding constants takes more than {MAX_FOLDING} operations: compute them before the export"
            )
        })?;
        Ok(())
    }
}
