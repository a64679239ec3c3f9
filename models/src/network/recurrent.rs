//! Networks with memory: stacked GRU or LSTM cells, and dense layers behind the last one's hidden state.
//!
//! Tensors of layer `k` as PyTorch names them: `weight_ih_l{k}` `[gates H, inputs]`, `weight_hh_l{k}` `[gates H, H]`,
//! `bias_ih_l{k}`, `bias_hh_l{k}` `[gates H]`; gates r, z, n of a GRU, i, f, g, o of an LSTM. The head: `head0.weight`, `head0.bias`,
//! ... The state is each layer's hidden state, then (LSTM) its cell; zeros before the first row.

use candle_core::{Device, Tensor};
use candle_nn::ops::sigmoid;
use serde::Deserialize;

use super::layers::{Layers, check_layers};
use super::{MAX_LAYERS, Network, Port, check_count};
use crate::kernels::{Activation, Gru, Lstm};
use crate::load::LoadError;
use crate::manifest::Mistake;
use crate::numerics::dispatch;
use crate::weights::Weights;

/// Most floats of a hidden state.
pub const MAX_HIDDEN: usize = 1024;

/// Parameters of `kind = "gru"` and `kind = "lstm"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Floats of each layer's hidden state.
    pub hidden: usize,
    /// Layers, one behind the other.
    #[serde(default = "one")]
    pub layers: usize,
    /// Outputs of the dense layers behind them; none: the hidden state is the output.
    #[serde(default)]
    pub head: Vec<usize>,
    /// One a dense layer.
    #[serde(default)]
    pub activations: Vec<Activation>,
}

fn one() -> usize {
    1
}

impl Config {
    /// Checks the sizes.
    pub fn check(&self) -> Result<(), Mistake> {
        check_count(self.hidden, MAX_HIDDEN, "hidden")?;
        check_count(self.layers, MAX_LAYERS, "layers")?;
        check_layers(&self.head, &self.activations, "head")
    }
}

/// What one layer does.
#[derive(Debug, Clone)]
enum Cell {
    Gru(Gru),
    Lstm(Lstm),
}

/// A layer's tensors as candle has them.
#[derive(Debug, Clone)]
struct Plain {
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor,
    bias_hh: Tensor,
}

/// The cells and the head.
#[derive(Debug, Clone)]
pub struct Recurrent {
    kind: &'static str,
    inputs: usize,
    hidden: usize,
    cells: Vec<Cell>,
    head: Layers,
    plain: Vec<Plain>,
    ports: [Port; 1],
}

impl Recurrent {
    /// Takes the tensors of a GRU.
    pub fn gru(config: &Config, inputs: usize, weights: Weights<'_>) -> Result<Self, LoadError> {
        Self::new("gru-1", 3, config, inputs, weights)
    }

    /// Takes the tensors of an LSTM.
    pub fn lstm(config: &Config, inputs: usize, weights: Weights<'_>) -> Result<Self, LoadError> {
        Self::new("lstm-1", 4, config, inputs, weights)
    }

    fn new(
        kind: &'static str,
        gates: usize,
        config: &Config,
        inputs: usize,
        mut weights: Weights<'_>,
    ) -> Result<Self, LoadError> {
        let hidden = config.hidden;
        let (mut cells, mut plain) = (Vec::new(), Vec::new());
        for k in 0..config.layers {
            let width = if k == 0 { inputs } else { hidden };
            let mut take = |name: &str, shape: &[usize]| {
                let name = format!("{name}_l{k}");
                let values = weights.take(&name, shape)?;
                let tensor = Tensor::from_slice(&values, shape, &Device::Cpu)
                    .map_err(|error| weights.refuse(&name, error.to_string()))?;
                Ok::<_, LoadError>((values, tensor))
            };
            let weight_ih = take("weight_ih", &[gates * hidden, width])?;
            let weight_hh = take("weight_hh", &[gates * hidden, hidden])?;
            let bias_ih = take("bias_ih", &[gates * hidden])?;
            let bias_hh = take("bias_hh", &[gates * hidden])?;
            let parts = (&weight_ih.0, &weight_hh.0, &bias_ih.0, &bias_hh.0);
            cells.push(if gates == 3 {
                Cell::Gru(Gru::new(parts.0, parts.1, parts.2, parts.3))
            } else {
                Cell::Lstm(Lstm::new(parts.0, parts.1, parts.2, parts.3))
            });
            plain.push(Plain {
                weight_ih: weight_ih.1,
                weight_hh: weight_hh.1,
                bias_ih: bias_ih.1,
                bias_hh: bias_hh.1,
            });
        }
        let (widths, activations) = (&config.head, &config.activations);
        let head = Layers::take("head", hidden, widths, activations, &mut weights)?;
        weights.finish()?;
        Ok(Self {
            kind,
            inputs,
            hidden,
            cells,
            ports: [Port::values("output", 0..head.outputs())],
            head,
            plain,
        })
    }

    /// Floats of one layer's part of the state.
    fn part(&self) -> usize {
        match self.cells[0] {
            Cell::Gru(_) => self.hidden,
            Cell::Lstm(_) => 2 * self.hidden,
        }
    }

    fn cell_scratch(&self) -> usize {
        match &self.cells[0] {
            Cell::Gru(cell) => cell.scratch_len(),
            Cell::Lstm(cell) => cell.scratch_len(),
        }
    }

    #[inline(always)]
    fn body(&self, state: &mut [f32], input: &[f32], output: &mut [f32], scratch: &mut [f32]) {
        let (cell_scratch, head_scratch) = scratch.split_at_mut(self.cell_scratch());
        let mut below = input;
        for (cell, part) in self.cells.iter().zip(state.chunks_exact_mut(self.part())) {
            let (hidden, memory) = part.split_at_mut(self.hidden);
            match cell {
                Cell::Gru(cell) => cell.body(hidden, below, cell_scratch),
                Cell::Lstm(cell) => cell.body(hidden, memory, below, cell_scratch),
            }
            below = hidden;
        }
        self.head.body(below, output, head_scratch);
    }
}

impl Network for Recurrent {
    fn kind(&self) -> &str {
        self.kind
    }

    fn inputs(&self) -> usize {
        self.inputs
    }

    fn ports(&self) -> &[Port] {
        &self.ports
    }

    fn state_len(&self) -> usize {
        self.part() * self.cells.len()
    }

    fn scratch_len(&self) -> usize {
        self.cell_scratch() + self.head.scratch_len()
    }

    fn step(&self, state: &mut [f32], input: &[f32], output: &mut [f32], scratch: &mut [f32]) {
        dispatch(
            #[inline(always)]
            || self.body(state, input, output, scratch),
        );
    }

    fn reference(&self, state: &mut [f32], input: &[f32]) -> candle_core::Result<Vec<f32>> {
        let row = |values: &[f32]| Tensor::from_slice(values, (1, values.len()), &Device::Cpu);
        let mut x = row(input)?;
        for (plain, part) in self.plain.iter().zip(state.chunks_exact_mut(self.part())) {
            let (hidden, memory) = part.split_at_mut(self.hidden);
            let h = row(hidden)?;
            let gi = x
                .matmul(&plain.weight_ih.t()?)?
                .broadcast_add(&plain.bias_ih)?;
            let gh = h
                .matmul(&plain.weight_hh.t()?)?
                .broadcast_add(&plain.bias_hh)?;
            let gate = |all: &Tensor, k: usize| all.narrow(1, k * self.hidden, self.hidden);
            x = if memory.is_empty() {
                let r = sigmoid(&(gate(&gi, 0)? + gate(&gh, 0)?)?)?;
                let z = sigmoid(&(gate(&gi, 1)? + gate(&gh, 1)?)?)?;
                let n = (gate(&gi, 2)? + (r * gate(&gh, 2)?)?)?.tanh()?;
                ((&n - (&z * &n)?)? + (&z * &h)?)?
            } else {
                let sums = (gi + gh)?;
                let kept = (sigmoid(&gate(&sums, 1)?)? * row(memory)?)?;
                let c = (kept + (sigmoid(&gate(&sums, 0)?)? * gate(&sums, 2)?.tanh()?)?)?;
                memory.copy_from_slice(&c.flatten_all()?.to_vec1::<f32>()?);
                (sigmoid(&gate(&sums, 3)?)? * c.tanh()?)?
            };
            hidden.copy_from_slice(&x.flatten_all()?.to_vec1::<f32>()?);
        }
        self.head.reference(&x)?.flatten_all()?.to_vec1()
    }
}
