//! A dense layer with its activation: `output = f(W input + b)`.

use super::{Activation, transposed};
use crate::numerics::{dense_body, dense_in_chains_body, dispatch};

/// A layer's weights, input-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Dense {
    inputs: usize,
    outputs: usize,
    /// `[inputs][outputs]`.
    weights: Vec<f32>,
    bias: Vec<f32>,
    activation: Activation,
    /// Whether sums run in chains.
    in_chains: bool,
}

impl Dense {
    /// From PyTorch's `weight` `[outputs, inputs]` and `bias` `[outputs]`; other lengths panic.
    pub fn new(weight: &[f32], bias: &[f32], activation: Activation) -> Self {
        let outputs = bias.len();
        assert!(
            outputs > 0 && weight.len().is_multiple_of(outputs),
            "a dense layer has whole rows"
        );
        let inputs = weight.len() / outputs;
        Self {
            inputs,
            outputs,
            weights: transposed(weight, inputs, outputs),
            bias: bias.to_vec(),
            activation,
            in_chains: false,
        }
    }

    /// The same layer, its sums in chains beside each other: faster for a row alone, and other bits.
    #[must_use]
    pub fn in_chains(self) -> Self {
        Self {
            in_chains: true,
            ..self
        }
    }

    /// Floats of an input row.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Floats of an output row.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// One row.
    pub fn run(&self, input: &[f32], output: &mut [f32]) {
        dispatch(
            #[inline(always)]
            || self.body(input, output),
        );
    }

    /// Rows end to end; the bits of each are those of [`Dense::run`].
    pub fn run_rows(&self, inputs: &[f32], outputs: &mut [f32]) {
        dispatch(
            #[inline(always)]
            || self.rows_body(inputs, outputs),
        );
    }

    #[inline(always)]
    pub(crate) fn body(&self, input: &[f32], output: &mut [f32]) {
        self.sums(input, output);
        self.activation.body(output);
    }

    #[inline(always)]
    fn sums(&self, input: &[f32], output: &mut [f32]) {
        if self.in_chains {
            dense_in_chains_body(&self.weights, &self.bias, input, output);
        } else {
            dense_body(&self.weights, &self.bias, input, output);
        }
    }

    #[inline(always)]
    pub(crate) fn rows_body(&self, inputs: &[f32], outputs: &mut [f32]) {
        let rows = outputs.len() / self.outputs;
        assert_eq!(
            (inputs.len(), outputs.len()),
            (rows * self.inputs, rows * self.outputs),
            "dense: whole rows"
        );
        if self.outputs < 8 && !self.in_chains {
            self.narrow_rows_body(inputs, outputs);
        } else {
            for (input, output) in inputs
                .chunks_exact(self.inputs)
                .zip(outputs.chunks_exact_mut(self.outputs))
            {
                self.sums(input, output);
            }
        }
        self.activation.body(outputs);
    }

    /// Few outputs make short vectors and one long chain of additions: eight rows side by side hide its latency.
    #[inline(always)]
    fn narrow_rows_body(&self, inputs: &[f32], outputs: &mut [f32]) {
        const ROWS: usize = 8;
        let whole = outputs.len() / self.outputs / ROWS * ROWS;
        let (many, rest) = inputs.split_at(whole * self.inputs);
        let (out_many, out_rest) = outputs.split_at_mut(whole * self.outputs);
        for (block, out) in many
            .chunks_exact(ROWS * self.inputs)
            .zip(out_many.chunks_exact_mut(ROWS * self.outputs))
        {
            for o in 0..self.outputs {
                let mut sums = [self.bias[o]; ROWS];
                for i in 0..self.inputs {
                    let weight = self.weights[i * self.outputs + o];
                    for (row, sum) in sums.iter_mut().enumerate() {
                        *sum = weight.mul_add(block[row * self.inputs + i], *sum);
                    }
                }
                for (row, sum) in sums.iter().enumerate() {
                    out[row * self.outputs + o] = *sum;
                }
            }
        }
        for (input, output) in rest
            .chunks_exact(self.inputs)
            .zip(out_rest.chunks_exact_mut(self.outputs))
        {
            dense_body(&self.weights, &self.bias, input, output);
        }
    }
}
