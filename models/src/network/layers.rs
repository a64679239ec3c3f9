//! Dense layers one behind the other: all of a perceptron, and the head of the networks with memory.

use candle_core::{Device, Tensor};
use candle_nn::{Linear, Module};

use super::{MAX_LAYERS, MAX_WIDTH, check_count};
use crate::kernels::{Activation, Dense};
use crate::load::LoadError;
use crate::manifest::{Mistake, check};
use crate::weights::Weights;

/// Rows that go through a layer together.
pub(crate) const ROWS: usize = 16;

/// Checked layers, ready to run; without any, a row goes through unchanged.
#[derive(Debug, Clone)]
pub struct Layers {
    inputs: usize,
    layers: Vec<Dense>,
    reference: Vec<(Linear, Activation)>,
}

/// Checks widths and the number of activations, one a layer.
pub(crate) fn check_layers(
    widths: &[usize],
    activations: &[Activation],
    field: &str,
) -> Result<(), Mistake> {
    check(
        widths.len() <= MAX_LAYERS,
        field,
        &format!("holds more than {MAX_LAYERS} layers"),
    )?;
    for (index, width) in widths.iter().enumerate() {
        check_count(*width, MAX_WIDTH, &format!("{field}[{index}]"))?;
    }
    check(
        activations.len() == widths.len(),
        "activations",
        &format!(
            "expected one for each of {} layers, got {}",
            widths.len(),
            activations.len()
        ),
    )
}

impl Layers {
    /// Takes `{prefix}{k}.weight` `[outputs, inputs]` and `{prefix}{k}.bias` `[outputs]` for each layer `k`.
    pub fn take(
        prefix: &str,
        inputs: usize,
        widths: &[usize],
        activations: &[Activation],
        weights: &mut Weights<'_>,
    ) -> Result<Self, LoadError> {
        let mut all = Self {
            inputs,
            layers: Vec::new(),
            reference: Vec::new(),
        };
        for (k, (outputs, activation)) in widths.iter().zip(activations).enumerate() {
            let names = (format!("{prefix}{k}.weight"), format!("{prefix}{k}.bias"));
            all.push((&names.0, &names.1), *outputs, *activation, weights)?;
        }
        Ok(all)
    }

    /// One layer, its tensors named as given.
    pub(crate) fn single(
        names: (&str, &str),
        (inputs, outputs): (usize, usize),
        activation: Activation,
        weights: &mut Weights<'_>,
    ) -> Result<Self, LoadError> {
        let mut all = Self {
            inputs,
            layers: Vec::new(),
            reference: Vec::new(),
        };
        all.push(names, outputs, activation, weights)?;
        Ok(all)
    }

    /// The same layers, their sums in chains: see [`Dense::in_chains`].
    pub(crate) fn in_chains(mut self) -> Self {
        self.layers = self.layers.into_iter().map(Dense::in_chains).collect();
        self
    }

    fn push(
        &mut self,
        names: (&str, &str),
        outputs: usize,
        activation: Activation,
        weights: &mut Weights<'_>,
    ) -> Result<(), LoadError> {
        let inputs = self.outputs();
        let weight = weights.take(names.0, &[outputs, inputs])?;
        let bias = weights.take(names.1, &[outputs])?;
        self.layers.push(Dense::new(&weight, &bias, activation));
        let tensor = |values, shape: &[usize]| {
            Tensor::from_vec(values, shape, &Device::Cpu)
                .map_err(|error| weights.refuse(names.0, error.to_string()))
        };
        let linear = Linear::new(
            tensor(weight, &[outputs, inputs])?,
            Some(tensor(bias, &[outputs])?),
        );
        self.reference.push((linear, activation));
        Ok(())
    }

    /// Floats of an input row.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Floats of an output row.
    pub fn outputs(&self) -> usize {
        self.layers.last().map_or(self.inputs, Dense::outputs)
    }

    /// Floats between two layers, the most.
    fn widest(&self) -> usize {
        self.layers.iter().map(Dense::outputs).max().unwrap_or(0)
    }

    /// Floats of scratch for `ROWS` rows at a time.
    pub fn scratch_len(&self) -> usize {
        2 * ROWS * self.widest()
    }

    /// Up to `ROWS` rows end to end, inside a dispatch.
    #[inline(always)]
    pub(crate) fn body(&self, inputs: &[f32], outputs: &mut [f32], scratch: &mut [f32]) {
        let Some((last, before)) = self.layers.split_last() else {
            outputs.copy_from_slice(inputs);
            return;
        };
        let rows = outputs.len() / last.outputs();
        let (mut front, mut back) = scratch.split_at_mut(ROWS * self.widest());
        let mut width = self.inputs;
        for (k, layer) in before.iter().enumerate() {
            let input = if k == 0 {
                inputs
            } else {
                &back[..rows * width]
            };
            width = layer.outputs();
            layer.rows_body(input, &mut front[..rows * width]);
            std::mem::swap(&mut front, &mut back);
        }
        let input = if before.is_empty() {
            inputs
        } else {
            &back[..rows * width]
        };
        last.rows_body(input, outputs);
    }

    /// The same as candle's own layers, `[rows, inputs]` to `[rows, outputs]`.
    pub fn reference(&self, rows: &Tensor) -> candle_core::Result<Tensor> {
        let mut x = rows.clone();
        for (linear, activation) in &self.reference {
            x = activation.reference(&linear.forward(&x)?)?;
        }
        Ok(x)
    }
}
