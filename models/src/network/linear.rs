//! One dense layer: linear regression, or logistic regression with a sigmoid or softmax behind it.
//!
//! Tensors `weight` `[outputs, inputs]` (scikit-learn's `coef_`) and `bias` `[outputs]` (`intercept_`).

use serde::Deserialize;

use super::layers::Layers;
use super::mlp::Mlp;
use super::{MAX_WIDTH, check_count};
use crate::kernels::Activation;
use crate::load::LoadError;
use crate::manifest::Mistake;
use crate::weights::Weights;

/// Parameters of `kind = "linear"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Numbers it gives.
    #[serde(default = "one")]
    pub outputs: usize,
    /// What is done to each.
    #[serde(default)]
    pub activation: Activation,
}

fn one() -> usize {
    1
}

impl Config {
    /// Checks the size.
    pub fn check(&self) -> Result<(), Mistake> {
        check_count(self.outputs, MAX_WIDTH, "outputs")
    }
}

/// Takes the two tensors.
pub fn network(config: &Config, inputs: usize, mut weights: Weights<'_>) -> Result<Mlp, LoadError> {
    let layers = Layers::single(
        ("weight", "bias"),
        (inputs, config.outputs),
        config.activation,
        &mut weights,
    )?;
    weights.finish()?;
    Ok(Mlp::of("linear-2", layers))
}
