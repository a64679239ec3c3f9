//! One step of a gated recurrent unit (Cho et al., 2014), in the form and gate order of PyTorch and cuDNN.
//!
//! ```text
//! r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
//! z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
//! n  = tanh(W_in x + b_in + r (W_hn h + b_hn))
//! h' = (1 - z) n + z h
//! ```
//!
//! ONNX calls this `linear_before_reset = 1`, with the gates in the order z, r, h.

use super::transposed;
use crate::numerics::{dense_body, dispatch, sigmoid, tanh};

/// A cell's weights, input-major; each row holds the gates r, z, n.
#[derive(Debug, Clone, PartialEq)]
pub struct Gru {
    inputs: usize,
    hidden: usize,
    input_weights: Vec<f32>,
    input_bias: Vec<f32>,
    hidden_weights: Vec<f32>,
    hidden_bias: Vec<f32>,
}

impl Gru {
    /// From PyTorch's `weight_ih` `[3H, inputs]`, `weight_hh` `[3H, H]`, `bias_ih` and `bias_hh` `[3H]`; other lengths panic.
    pub fn new(weight_ih: &[f32], weight_hh: &[f32], bias_ih: &[f32], bias_hh: &[f32]) -> Self {
        let gates = bias_ih.len();
        let hidden = gates / 3;
        assert!(gates > 0 && gates == 3 * hidden, "a GRU has three gates");
        assert_eq!(bias_hh.len(), gates, "both biases have three gates");
        let inputs = weight_ih.len() / gates;
        Self {
            inputs,
            hidden,
            input_weights: transposed(weight_ih, inputs, gates),
            input_bias: bias_ih.to_vec(),
            hidden_weights: transposed(weight_hh, hidden, gates),
            hidden_bias: bias_hh.to_vec(),
        }
    }

    /// Floats of an input row.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Floats of the hidden state.
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// Floats of scratch a step needs.
    pub fn scratch_len(&self) -> usize {
        6 * self.hidden
    }

    /// Moves `hidden` on by one row; what `scratch` holds does not matter.
    pub fn step(&self, hidden: &mut [f32], input: &[f32], scratch: &mut [f32]) {
        dispatch(
            #[inline(always)]
            || self.body(hidden, input, scratch),
        );
    }

    #[inline(always)]
    pub(crate) fn body(&self, hidden: &mut [f32], input: &[f32], scratch: &mut [f32]) {
        let width = self.hidden;
        let (from_input, scratch) = scratch.split_at_mut(3 * width);
        let from_hidden = &mut scratch[..3 * width];
        dense_body(&self.input_weights, &self.input_bias, input, from_input);
        dense_body(&self.hidden_weights, &self.hidden_bias, hidden, from_hidden);
        let (input_r, rest) = from_input.split_at(width);
        let (input_z, input_n) = rest.split_at(width);
        let (hidden_r, rest) = from_hidden.split_at(width);
        let (hidden_z, hidden_n) = rest.split_at(width);
        let hidden = &mut hidden[..width];
        for j in 0..width {
            let r = sigmoid(input_r[j] + hidden_r[j]);
            let z = sigmoid(input_z[j] + hidden_z[j]);
            let n = tanh(r.mul_add(hidden_n[j], input_n[j]));
            hidden[j] = z.mul_add(hidden[j] - n, n);
        }
    }
}
