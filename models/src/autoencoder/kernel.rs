//! The autoencoder's fused row: one window in, eight mean residuals out, in fixed order and without allocation.
//!
//! Weights lie input-major, so a layer is `out += x[i] * row[i]`: vectorised across outputs, never along a sum, each
//! term one fused multiply-add. The same inlined code is compiled with AVX2 + FMA and portably and gives the same bits.
//! Only the mean residual over the window is scored, so the last layer is folded to its mean over the window at load:
//! the reconstruction costs 8 outputs instead of `window * 8`.

use super::network::Weights;
use super::{FEATURES, MAX_BOTTLENECK, MAX_HIDDEN};
use crate::numerics::tanh;

/// The weights as the row step wants them. Layers are `[inputs][outputs]`, flat.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    layers: [Dense; 4],
}

#[derive(Debug, Clone)]
struct Dense {
    outputs: usize,
    rows: Vec<f32>,
    bias: Vec<f32>,
}

impl Kernel {
    pub(super) fn new(weights: &Weights) -> Self {
        let [expand, squeeze, widen, last] = &weights.layers;
        let hidden = expand.1.len();
        let dense = |layer: &(Vec<f32>, Vec<f32>)| Dense::transposed(&layer.0, &layer.1);
        Self {
            layers: [
                dense(expand),
                dense(squeeze),
                dense(widen),
                Dense::transposed(
                    &mean_over_window(&last.0, hidden),
                    &mean_over_window(&last.1, 1),
                ),
            ],
        }
    }

    /// What the network's reconstruction leaves of `window` (oldest reading first), averaged over the window per
    /// feature.
    pub(super) fn residual(&self, window: &[f32]) -> [f32; FEATURES] {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
        {
            // SAFETY: the two features were just detected on this machine.
            return unsafe { self.residual_avx2(window) };
        }
        self.residual_any(window)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn residual_avx2(&self, window: &[f32]) -> [f32; FEATURES] {
        self.residual_any(window)
    }

    #[inline(always)]
    pub(super) fn residual_any(&self, window: &[f32]) -> [f32; FEATURES] {
        let [expand, squeeze, widen, last] = &self.layers;
        let mut hidden = [0.0; MAX_HIDDEN];
        let mut code = [0.0; MAX_BOTTLENECK];
        let mut rebuilt = [0.0; FEATURES];
        let hidden = &mut hidden[..expand.outputs];
        let code = &mut code[..squeeze.outputs];
        expand.apply(window, hidden);
        tanh_all(hidden);
        squeeze.apply(hidden, code);
        widen.apply(code, hidden);
        tanh_all(hidden);
        last.apply(hidden, &mut rebuilt);
        let mean = mean_of(window);
        std::array::from_fn(|j| mean[j] - rebuilt[j])
    }
}

impl Dense {
    /// From the `[outputs][inputs]` order of safetensors.
    fn transposed(weight: &[f32], bias: &[f32]) -> Self {
        let (outputs, inputs) = (bias.len(), weight.len() / bias.len());
        let rows = (0..inputs)
            .flat_map(|i| (0..outputs).map(move |o| weight[o * inputs + i]))
            .collect();
        Self {
            outputs,
            rows,
            bias: bias.to_vec(),
        }
    }

    #[inline(always)]
    fn apply(&self, x: &[f32], out: &mut [f32]) {
        out.copy_from_slice(&self.bias);
        for (x, row) in x.iter().zip(self.rows.chunks_exact(self.outputs)) {
            for (o, w) in out.iter_mut().zip(row) {
                *o = x.mul_add(*w, *o);
            }
        }
    }
}

/// Each feature's mean over the window, summed oldest first.
#[inline(always)]
pub(super) fn mean_of(window: &[f32]) -> [f32; FEATURES] {
    let mut sum = [0.0f32; FEATURES];
    for reading in window.chunks_exact(FEATURES) {
        for (s, z) in sum.iter_mut().zip(reading) {
            *s += z;
        }
    }
    let count = (window.len() / FEATURES) as f32;
    sum.map(|s| s / count)
}

/// Rows `[window * 8][width]` to their mean over the window, `[8][width]`; f64 sums, once at load.
fn mean_over_window(rows: &[f32], width: usize) -> Vec<f32> {
    let window = rows.len() / (FEATURES * width);
    let mean = |k: usize| {
        let sum: f64 = (0..window)
            .map(|t| f64::from(rows[t * FEATURES * width + k]))
            .sum();
        (sum / window as f64) as f32
    };
    (0..FEATURES * width).map(mean).collect()
}

#[inline(always)]
fn tanh_all(values: &mut [f32]) {
    for v in values {
        *v = tanh(*v);
    }
}
