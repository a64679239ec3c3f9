//! The autoencoder as a plain candle graph: the reference of the row step and what training differentiates.
//!
//! window `[n, W*8]` -> tanh(hidden `[n, H]`) -> code `[n, B]` -> tanh(hidden `[n, H]`) -> window `[n, W*8]`, where W
//! is the window's length, oldest reading first. Denoising autoencoders: Vincent et al., "Extracting and composing
//! robust features with denoising autoencoders" (ICML 2008).

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::{Linear, Module, VarBuilder, linear};

use super::{Config, FEATURES};
use crate::load::LoadError;

/// Names of the four layers, in order; each has `.weight` `[out, in]` and `.bias` `[out]`.
pub const LAYERS: [&str; 4] = ["expand", "squeeze", "widen", "rebuild"];

/// Name of the tensor `[8]` with each feature's smoothed residual on healthy rigs (root mean square, in sigmas).
pub const RESIDUAL_SCALE: &str = "residual_scale";

/// The four layers as a candle graph.
#[derive(Debug, Clone)]
pub struct Network {
    layers: [Linear; 4],
}

impl Network {
    /// The layers of `vb`; in training they are new variables there.
    pub fn new(config: &Config, vb: &VarBuilder<'_>) -> candle_core::Result<Self> {
        let [a, b, c, d] = shapes(config);
        let layer = |k: usize, (inputs, outputs)| linear(inputs, outputs, vb.pp(LAYERS[k]));
        Ok(Self {
            layers: [layer(0, a)?, layer(1, b)?, layer(2, c)?, layer(3, d)?],
        })
    }

    /// Windows `[n, W*8]` to their reconstructions, the same shape.
    pub fn forward(&self, windows: &Tensor) -> candle_core::Result<Tensor> {
        let [expand, squeeze, widen, rebuild] = &self.layers;
        let code = squeeze.forward(&expand.forward(windows)?.tanh()?)?;
        rebuild.forward(&widen.forward(&code)?.tanh()?)
    }

    /// Window minus reconstruction, averaged over the window: 8 values, in sigmas of the stream.
    pub fn residual(&self, window: &[f32]) -> candle_core::Result<[f32; FEATURES]> {
        let x = Tensor::from_slice(window, (1, window.len()), &Device::Cpu)?;
        let left = (&x - self.forward(&x)?)?;
        let mean = left
            .reshape((window.len() / FEATURES, FEATURES))?
            .mean(0)?
            .to_vec1::<f32>()?;
        let mut residual = [0.0; FEATURES];
        residual.copy_from_slice(&mean);
        Ok(residual)
    }
}

/// (inputs, outputs) of the four layers.
fn shapes(config: &Config) -> [(usize, usize); 4] {
    let (wide, hidden, code) = (config.window * FEATURES, config.hidden, config.bottleneck);
    [
        (wide, hidden),
        (hidden, code),
        (code, hidden),
        (hidden, wide),
    ]
}

/// Checked weights: (weight, bias) of the four layers as in [`LAYERS`], flat, and the residual scale.
#[derive(Debug, Clone)]
pub(super) struct Weights {
    pub layers: [(Vec<f32>, Vec<f32>); 4],
    pub residual_scale: [f32; FEATURES],
    pub network: Network,
}

impl Weights {
    /// Reads safetensors; a missing, misshapen, unknown or non-finite tensor is an error naming it and both shapes.
    pub(super) fn read(config: &Config, bytes: &[u8], file: &str) -> Result<Self, LoadError> {
        let mut tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu)
            .map_err(|error| refuse(file, "file", &error.to_string()))?;
        let kept = tensors.clone();
        let mut take = |name: String, shape: &[usize]| take(&mut tensors, file, &name, shape);
        let mut layers = <[(Vec<f32>, Vec<f32>); 4]>::default();
        for ((layer, name), (inputs, outputs)) in layers.iter_mut().zip(LAYERS).zip(shapes(config))
        {
            layer.0 = take(format!("{name}.weight"), &[outputs, inputs])?;
            layer.1 = take(format!("{name}.bias"), &[outputs])?;
        }
        let scale = take(RESIDUAL_SCALE.to_owned(), &[FEATURES])?;
        if let Some(name) = tensors.keys().min() {
            return Err(refuse(file, name, "is not a tensor of this architecture"));
        }
        if scale.iter().any(|s| *s <= 0.0) {
            return Err(refuse(
                file,
                RESIDUAL_SCALE,
                "holds a value that is not positive",
            ));
        }
        let vb = VarBuilder::from_tensors(kept, DType::F32, &Device::Cpu);
        let network =
            Network::new(config, &vb).map_err(|error| refuse(file, "file", &error.to_string()))?;
        Ok(Self {
            layers,
            residual_scale: std::array::from_fn(|j| scale[j]),
            network,
        })
    }
}

fn take(
    tensors: &mut HashMap<String, Tensor>,
    file: &str,
    name: &str,
    shape: &[usize],
) -> Result<Vec<f32>, LoadError> {
    let tensor = tensors
        .remove(name)
        .ok_or_else(|| refuse(file, name, "is missing"))?;
    if tensor.dims() != shape {
        let reason = format!("expected shape {shape:?}, got {:?}", tensor.dims());
        return Err(refuse(file, name, &reason));
    }
    if tensor.dtype() != DType::F32 {
        let reason = format!("expected f32, got {:?}", tensor.dtype());
        return Err(refuse(file, name, &reason));
    }
    let values = tensor
        .flatten_all()
        .and_then(|flat| flat.to_vec1::<f32>())
        .map_err(|error| refuse(file, name, &error.to_string()))?;
    if values.iter().any(|v| !v.is_finite()) {
        return Err(refuse(file, name, "holds a value that is not finite"));
    }
    Ok(values)
}

pub(super) fn refuse(file: &str, tensor: &str, reason: &str) -> LoadError {
    LoadError::Weights {
        file: file.to_owned(),
        tensor: tensor.to_owned(),
        reason: reason.to_owned(),
    }
}
