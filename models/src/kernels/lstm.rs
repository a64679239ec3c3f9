//! One step of a long short-term memory cell (Hochreiter and Schmidhuber, 1997; forget gate by Gers et al., 2000), in the gate
//! order of PyTorch.
//!
//! ```text
//! i, f, o = sigmoid(W_i x + b_i + W_h h + b_h), g = tanh(the same)      gates lie in the order i, f, g, o
//! c' = f c + i g
//! h' = o tanh(c')
//! ```

use super::transposed;
use crate::numerics::{dense_body, dispatch, sigmoid, tanh};

/// A cell's weights, input-major; each row holds the gates i, f, g, o.
#[derive(Debug, Clone, PartialEq)]
pub struct Lstm {
    inputs: usize,
    hidden: usize,
    input_weights: Vec<f32>,
    input_bias: Vec<f32>,
    hidden_weights: Vec<f32>,
    hidden_bias: Vec<f32>,
}

impl Lstm {
    /// From PyTorch's `weight_ih` `[4H, inputs]`, `weight_hh` `[4H, H]`, `bias_ih` and `bias_hh` `[4H]`; other lengths panic.
    pub fn new(weight_ih: &[f32], weight_hh: &[f32], bias_ih: &[f32], bias_hh: &[f32]) -> Self {
        let gates = bias_ih.len();
        let hidden = gates / 4;
        assert!(gates > 0 && gates == 4 * hidden, "an LSTM has four gates");
        assert_eq!(bias_hh.len(), gates, "both biases have four gates");
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

    /// Floats of the hidden state; the cell has as many.
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// Floats of scratch a step needs.
    pub fn scratch_len(&self) -> usize {
        8 * self.hidden
    }

    /// Moves `hidden` and `cell` on by one row; what `scratch` holds does not matter.
    pub fn step(&self, hidden: &mut [f32], cell: &mut [f32], input: &[f32], scratch: &mut [f32]) {
        dispatch(
            #[inline(always)]
            || self.body(hidden, cell, input, scratch),
        );
    }

    #[inline(always)]
    pub(crate) fn body(
        &self,
        hidden: &mut [f32],
        cell: &mut [f32],
        input: &[f32],
        scratch: &mut [f32],
    ) {
        let width = self.hidden;
        let (from_input, scratch) = scratch.split_at_mut(4 * width);
        let from_hidden = &mut scratch[..4 * width];
        dense_body(&self.input_weights, &self.input_bias, input, from_input);
        dense_body(&self.hidden_weights, &self.hidden_bias, hidden, from_hidden);
        for (sum, other) in from_input.iter_mut().zip(&*from_hidden) {
            *sum += other;
        }
        // One function a pass: each loop then becomes vectors.
        let (input_forget, rest) = from_input.split_at_mut(2 * width);
        let (g, o) = rest.split_at_mut(width);
        input_forget.iter_mut().for_each(|x| *x = sigmoid(*x));
        g.iter_mut().for_each(|x| *x = tanh(*x));
        o.iter_mut().for_each(|x| *x = sigmoid(*x));
        let (i, f) = input_forget.split_at(width);
        for (((cell, i), f), g) in cell.iter_mut().zip(i).zip(f).zip(&*g) {
            *cell = i.mul_add(*g, f * *cell);
        }
        for ((hidden, cell), o) in hidden.iter_mut().zip(&*cell).zip(&*o) {
            *hidden = o * tanh(*cell);
        }
    }
}
