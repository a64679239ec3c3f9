//! A multilayer perceptron: dense layers, each with its activation.
//!
//! Revision 2 sums in chains. Tensors `layer0.weight` `[layers[0], inputs]`, `layer0.bias` `[layers[0]]`, `layer1.weight`, ... as PyTorch's `nn.Linear`.

use candle_core::{Device, Tensor};
use serde::Deserialize;

use super::layers::{Layers, ROWS, check_layers};
use super::{Network, Port};
use crate::kernels::Activation;
use crate::load::LoadError;
use crate::manifest::{Mistake, check};
use crate::numerics::dispatch;
use crate::weights::Weights;

/// Parameters of `kind = "mlp"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Outputs of each layer; the last is the network's.
    pub layers: Vec<usize>,
    /// One a layer.
    pub activations: Vec<Activation>,
}

impl Config {
    /// Checks the sizes.
    pub fn check(&self) -> Result<(), Mistake> {
        check(!self.layers.is_empty(), "layers", "is empty")?;
        check_layers(&self.layers, &self.activations, "layers")
    }
}

/// The layers as a network; also of `kind = "linear"`.
#[derive(Debug, Clone)]
pub struct Mlp {
    kind: &'static str,
    layers: Layers,
    ports: [Port; 1],
}

impl Mlp {
    /// Takes the layers' tensors.
    pub fn new(
        config: &Config,
        inputs: usize,
        mut weights: Weights<'_>,
    ) -> Result<Self, LoadError> {
        let layers = Layers::take(
            "layer",
            inputs,
            &config.layers,
            &config.activations,
            &mut weights,
        )?;
        weights.finish()?;
        Ok(Self::of("mlp-2", layers))
    }

    pub(super) fn of(kind: &'static str, layers: Layers) -> Self {
        let ports = [Port::values("output", 0..layers.outputs())];
        Self {
            kind,
            layers: layers.in_chains(),
            ports,
        }
    }
}

impl Network for Mlp {
    fn kind(&self) -> &str {
        self.kind
    }

    fn inputs(&self) -> usize {
        self.layers.inputs()
    }

    fn ports(&self) -> &[Port] {
        &self.ports
    }

    fn scratch_len(&self) -> usize {
        self.layers.scratch_len()
    }

    fn step(&self, _: &mut [f32], input: &[f32], output: &mut [f32], scratch: &mut [f32]) {
        dispatch(
            #[inline(always)]
            || self.layers.body(input, output, scratch),
        );
    }

    fn step_rows(
        &self,
        _: &mut [&mut [f32]],
        inputs: &[f32],
        outputs: &mut [f32],
        scratch: &mut [f32],
    ) {
        let blocks = inputs.chunks(ROWS * self.inputs());
        for (input, output) in blocks.zip(outputs.chunks_mut(ROWS * self.outputs())) {
            dispatch(
                #[inline(always)]
                || self.layers.body(input, output, scratch),
            );
        }
    }

    fn reference(&self, _: &mut [f32], input: &[f32]) -> candle_core::Result<Vec<f32>> {
        let row = Tensor::from_slice(input, (1, input.len()), &Device::Cpu)?;
        self.layers.reference(&row)?.flatten_all()?.to_vec1()
    }
}
