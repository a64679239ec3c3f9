//! A causal dilated convolution, one row at a time: `y[t] = f(b + sum over taps j of W_j x[t - (kernel - 1 - j) dilation])`.
//!
//! The state is the ring of past input rows, zero before the first (as causal zero padding), and its head. Taps are summed oldest
//! first.

use super::Activation;
use crate::numerics::{accumulate_body, dispatch};

/// A layer's weights: one input-major matrix a tap.
#[derive(Debug, Clone, PartialEq)]
pub struct Conv {
    inputs: usize,
    outputs: usize,
    kernel: usize,
    dilation: usize,
    /// `[kernel][inputs][outputs]`, oldest tap first.
    weights: Vec<f32>,
    bias: Vec<f32>,
    activation: Activation,
}

impl Conv {
    /// From PyTorch's `weight` `[outputs, inputs, kernel]` and `bias` `[outputs]`; other lengths panic.
    pub fn new(
        weight: &[f32],
        bias: &[f32],
        kernel: usize,
        dilation: usize,
        activation: Activation,
    ) -> Self {
        let outputs = bias.len();
        assert!(
            outputs > 0 && kernel > 0 && dilation > 0,
            "a convolution has a size"
        );
        let inputs = weight.len() / (outputs * kernel);
        assert_eq!(weight.len(), outputs * inputs * kernel, "whole taps");
        let at = |tap, i, o| weight[(o * inputs + i) * kernel + tap];
        let weights = (0..kernel)
            .flat_map(|tap| (0..inputs).map(move |i| (tap, i)))
            .flat_map(|(tap, i)| (0..outputs).map(move |o| at(tap, i, o)))
            .collect();
        Self {
            inputs,
            outputs,
            kernel,
            dilation,
            weights,
            bias: bias.to_vec(),
            activation,
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

    /// Past rows that a step looks at.
    pub fn past(&self) -> usize {
        (self.kernel - 1) * self.dilation
    }

    /// Floats of the state: the head and the ring; all zero at the start.
    pub fn state_len(&self) -> usize {
        1 + self.past() * self.inputs
    }

    /// One row.
    pub fn step(&self, state: &mut [f32], input: &[f32], output: &mut [f32]) {
        dispatch(
            #[inline(always)]
            || self.body(state, input, output),
        );
    }

    #[inline(always)]
    pub(crate) fn body(&self, state: &mut [f32], input: &[f32], output: &mut [f32]) {
        let past = self.past();
        let (head, ring) = state.split_at_mut(1);
        let newest = head[0] as usize;
        output.copy_from_slice(&self.bias);
        let taps = self.weights.chunks_exact(self.inputs * self.outputs);
        for (tap, weights) in taps.enumerate() {
            let age = (self.kernel - 1 - tap) * self.dilation;
            let row = if age == 0 {
                input
            } else {
                &ring[(newest + past - age) % past * self.inputs..][..self.inputs]
            };
            accumulate_body(weights, row, output);
        }
        self.activation.body(output);
        if past > 0 {
            let slot = newest % past;
            ring[slot * self.inputs..][..self.inputs].copy_from_slice(input);
            head[0] = ((slot + 1) % past) as f32;
        }
    }

    /// The past rows of `state`, oldest first.
    pub fn past_rows(&self, state: &[f32]) -> Vec<f32> {
        let mut rows = state[1..].to_vec();
        rows.rotate_left(state[0] as usize * self.inputs);
        rows
    }
}
