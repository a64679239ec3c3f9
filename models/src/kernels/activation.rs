//! What a layer does to each of its sums.

use candle_core::Tensor;
use serde::Deserialize;

use crate::numerics::{exp_m1, gelu, sigmoid, softplus, tanh};

/// A function of one number, written as in the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// The sum itself.
    #[default]
    None,
    /// `max(0, x)`.
    Relu,
    /// The hyperbolic tangent.
    Tanh,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `x`, below 0 a hundredth of it.
    LeakyRelu,
    /// `x`, below 0 `e^x - 1`.
    Elu,
    /// `x Phi(x)`, exact form.
    Gelu,
    /// `x sigmoid(x)`.
    Silu,
    /// `ln(1 + e^x)`.
    Softplus,
}

impl Activation {
    /// Each value in place; for use inside a dispatch. The choice is made once a slice, so that each loop vectorises.
    #[inline(always)]
    pub(crate) fn body(self, values: &mut [f32]) {
        #[inline(always)]
        fn each(values: &mut [f32], f: impl Fn(f32) -> f32) {
            for value in values {
                *value = f(*value);
            }
        }
        match self {
            Self::None => {}
            // Not `max`: a NaN stays one.
            Self::Relu => each(values, |x| if x < 0.0 { 0.0 } else { x }),
            Self::Tanh => each(values, tanh),
            Self::Sigmoid => each(values, sigmoid),
            Self::LeakyRelu => each(values, |x| if x < 0.0 { 0.01 * x } else { x }),
            Self::Elu => each(values, |x| if x < 0.0 { exp_m1(x) } else { x }),
            Self::Gelu => each(values, gelu),
            Self::Silu => each(values, |x| x * sigmoid(x)),
            Self::Softplus => each(values, softplus),
        }
    }

    /// Each value in place.
    pub fn run(self, values: &mut [f32]) {
        crate::numerics::dispatch(
            #[inline(always)]
            || self.body(values),
        );
    }

    /// The same as candle operators.
    pub fn reference(self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::None => Ok(x.clone()),
            Self::Relu => x.relu(),
            Self::Tanh => x.tanh(),
            Self::Sigmoid => candle_nn::ops::sigmoid(x),
            Self::LeakyRelu => candle_nn::ops::leaky_relu(x, 0.01),
            Self::Elu => x.elu(1.0),
            Self::Gelu => x.gelu_erf(),
            Self::Silu => x.silu(),
            Self::Softplus => x.relu()? + (x.abs()?.neg()?.exp()? + 1.0)?.log()?,
        }
    }
}
