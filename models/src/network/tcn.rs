//! A temporal convolutional network (Bai, Kolter, Koltun, 2018): causal dilated convolutions over the rows of a stream, and dense
//! layers behind the last one.
//!
//! Tensors `conv{k}.weight` `[channels[k], inputs, kernel]`, `conv{k}.bias`; with `residual`, where the number of channels changes,
//! `skip{k}.weight` `[channels[k], inputs]`, `skip{k}.bias`; the head `head0.weight`, ... Each convolution sees zeros before the
//! first row. The state is the past rows of each convolution: a step costs one row, however far the network sees back.

use candle_core::{Device, Tensor};
use serde::Deserialize;

use super::layers::{Layers, check_layers};
use super::{MAX_LAYERS, Network, Port, check_count};
use crate::kernels::{Activation, Conv};
use crate::load::LoadError;
use crate::manifest::{Mistake, check};
use crate::numerics::dispatch;
use crate::weights::Weights;

/// Most channels of a convolution.
pub const MAX_CHANNELS: usize = 512;
/// Most taps.
pub const MAX_KERNEL: usize = 64;
/// Largest dilation, in rows.
pub const MAX_DILATION: usize = 1024;

/// Parameters of `kind = "tcn"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Output channels of each convolution.
    pub channels: Vec<usize>,
    /// Taps of every convolution.
    pub kernel: usize,
    /// Rows between two taps, one a convolution.
    pub dilations: Vec<usize>,
    /// Behind every convolution.
    #[serde(default = "relu")]
    pub activation: Activation,
    /// Whether a convolution's input is added to what it gives.
    #[serde(default)]
    pub residual: bool,
    /// Outputs of the dense layers behind the convolutions.
    #[serde(default)]
    pub head: Vec<usize>,
    /// One a dense layer.
    #[serde(default)]
    pub activations: Vec<Activation>,
}

fn relu() -> Activation {
    Activation::Relu
}

impl Config {
    /// Checks the sizes.
    pub fn check(&self) -> Result<(), Mistake> {
        let layers = self.channels.len();
        check_count(layers, MAX_LAYERS, "channels")?;
        for (index, channels) in self.channels.iter().enumerate() {
            check_count(*channels, MAX_CHANNELS, &format!("channels[{index}]"))?;
        }
        check_count(self.kernel, MAX_KERNEL, "kernel")?;
        check(
            self.dilations.len() == layers,
            "dilations",
            &format!(
                "expected one for each of {layers} convolutions, got {}",
                self.dilations.len()
            ),
        )?;
        for (index, dilation) in self.dilations.iter().enumerate() {
            check_count(*dilation, MAX_DILATION, &format!("dilations[{index}]"))?;
        }
        check_layers(&self.head, &self.activations, "head")
    }
}

#[derive(Debug, Clone)]
struct Block {
    conv: Conv,
    /// What is added to the convolution's output: nothing, the input, or a linear map of it.
    skip: Option<Layers>,
    weight: Tensor,
    bias: Tensor,
    dilation: usize,
}

/// The convolutions and the head.
#[derive(Debug, Clone)]
pub struct Tcn {
    inputs: usize,
    activation: Activation,
    blocks: Vec<Block>,
    head: Layers,
    ports: [Port; 1],
}

impl Tcn {
    /// Takes the tensors.
    pub fn new(
        config: &Config,
        inputs: usize,
        mut weights: Weights<'_>,
    ) -> Result<Self, LoadError> {
        let (mut width, mut blocks) = (inputs, Vec::new());
        for (k, (channels, dilation)) in config.channels.iter().zip(&config.dilations).enumerate() {
            blocks.push(Block::take(
                k,
                width,
                (*channels, *dilation),
                config,
                &mut weights,
            )?);
            width = *channels;
        }
        let head = Layers::take(
            "head",
            width,
            &config.head,
            &config.activations,
            &mut weights,
        )?;
        weights.finish()?;
        Ok(Self {
            inputs,
            activation: config.activation,
            blocks,
            ports: [Port::values("output", 0..head.outputs())],
            head,
        })
    }

    fn widest(&self) -> usize {
        self.blocks
            .iter()
            .map(|block| block.conv.outputs())
            .max()
            .unwrap_or(0)
    }

    #[inline(always)]
    fn body(&self, mut state: &mut [f32], input: &[f32], output: &mut [f32], scratch: &mut [f32]) {
        let widest = self.widest();
        let (mut front, rest) = scratch.split_at_mut(widest);
        let (mut back, rest) = rest.split_at_mut(widest);
        let (skipped, rest) = rest.split_at_mut(widest);
        let mut width = self.inputs;
        for (k, block) in self.blocks.iter().enumerate() {
            let (mine, others) = state.split_at_mut(block.conv.state_len());
            state = others;
            let below = if k == 0 { input } else { &back[..width] };
            width = block.conv.outputs();
            block.conv.body(mine, below, &mut front[..width]);
            if let Some(skip) = &block.skip {
                skip.body(below, &mut skipped[..width], rest);
                front[..width]
                    .iter_mut()
                    .zip(&*skipped)
                    .for_each(|(y, x)| *y += x);
            }
            std::mem::swap(&mut front, &mut back);
        }
        self.head.body(&back[..width], output, rest);
    }
}

impl Block {
    fn take(
        k: usize,
        inputs: usize,
        (channels, dilation): (usize, usize),
        config: &Config,
        weights: &mut Weights<'_>,
    ) -> Result<Self, LoadError> {
        let name = format!("conv{k}.weight");
        let shape = (channels, inputs, config.kernel);
        let weight = weights.take(&name, &[shape.0, shape.1, shape.2])?;
        let bias = weights.take(&format!("conv{k}.bias"), &[channels])?;
        let refuse = |error: candle_core::Error| weights.refuse(&name, error.to_string());
        let tensors = (
            Tensor::from_slice(&weight, shape, &Device::Cpu).map_err(refuse)?,
            Tensor::from_slice(&bias, (1, channels, 1), &Device::Cpu).map_err(refuse)?,
        );
        let conv = Conv::new(&weight, &bias, config.kernel, dilation, config.activation);
        let skip = config.residual.then(|| {
            if inputs == channels {
                return Layers::take("skip", inputs, &[], &[], weights);
            }
            let names = (&*format!("skip{k}.weight"), &*format!("skip{k}.bias"));
            Layers::single(names, (inputs, channels), Activation::None, weights)
        });
        Ok(Self {
            conv,
            skip: skip.transpose()?,
            weight: tensors.0,
            bias: tensors.1,
            dilation,
        })
    }
}

impl Network for Tcn {
    fn kind(&self) -> &str {
        "tcn-1"
    }

    fn inputs(&self) -> usize {
        self.inputs
    }

    fn ports(&self) -> &[Port] {
        &self.ports
    }

    fn state_len(&self) -> usize {
        self.blocks.iter().map(|block| block.conv.state_len()).sum()
    }

    fn scratch_len(&self) -> usize {
        let skips = self.blocks.iter().filter_map(|block| block.skip.as_ref());
        let layers = skips.map(Layers::scratch_len).max().unwrap_or(0);
        3 * self.widest() + layers.max(self.head.scratch_len())
    }

    fn step(&self, state: &mut [f32], input: &[f32], output: &mut [f32], scratch: &mut [f32]) {
        dispatch(
            #[inline(always)]
            || self.body(state, input, output, scratch),
        );
    }

    fn reference(&self, mut state: &mut [f32], input: &[f32]) -> candle_core::Result<Vec<f32>> {
        let mut x = input.to_vec();
        for block in &self.blocks {
            let (mine, others) = state.split_at_mut(block.conv.state_len());
            state = others;
            let mut rows = block.conv.past_rows(mine);
            rows.extend_from_slice(&x);
            let count = rows.len() / x.len();
            let rows = Tensor::from_vec(rows, (1, count, x.len()), &Device::Cpu)?;
            let rows = rows.transpose(1, 2)?.contiguous()?;
            let sums = rows.conv1d(&block.weight, 0, 1, block.dilation, 1)?;
            let mut y = self
                .activation
                .reference(&sums.broadcast_add(&block.bias)?)?;
            if let Some(skip) = &block.skip {
                let row = Tensor::from_slice(&x, (1, x.len()), &Device::Cpu)?;
                y = (y + skip.reference(&row)?.unsqueeze(2)?)?;
            }
            // The ring moves on as in the step; its own output is not looked at.
            block
                .conv
                .step(mine, &x, &mut vec![0.0; block.conv.outputs()]);
            x = y.flatten_all()?.to_vec1()?;
        }
        let row = Tensor::from_slice(&x, (1, x.len()), &Device::Cpu)?;
        self.head.reference(&row)?.flatten_all()?.to_vec1()
    }
}
