//! Principal components as a monitor of processes (Jackson and Mudholkar, 1979): T2, how far a row lies out within the plane of the
//! components, and Q, how far it lies from the plane.
//!
//! ```text
//! t  = components (x - mean)
//! T2 = sum of t^2 / variance                 Hotelling
//! Q  = |x - mean - components' t|^2          squared prediction error
//! ```
//!
//! Tensors `mean` `[inputs]`, `components` `[k, inputs]`, `variance` `[k]`: scikit-learn's `mean_`, `components_`,
//! `explained_variance_`.

use candle_core::{Device, Tensor};
use serde::Deserialize;

use super::{MAX_WIDTH, Network, Port, check_count};
use crate::kernels::{Activation, Dense, transposed};
use crate::load::LoadError;
use crate::manifest::{Mistake, check};
use crate::numerics::dispatch;
use crate::weights::Weights;

/// Parameters of `kind = "pca"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Components kept.
    pub components: usize,
    /// Largest usual T2; with `q_limit` there is a third output, `score`: the larger of T2 and Q over their limits.
    pub t2_limit: Option<f32>,
    /// Largest usual Q.
    pub q_limit: Option<f32>,
}

impl Config {
    /// Checks the sizes.
    pub fn check(&self) -> Result<(), Mistake> {
        check_count(self.components, MAX_WIDTH, "components")?;
        for (field, limit) in [("t2_limit", self.t2_limit), ("q_limit", self.q_limit)] {
            let positive = limit.is_none_or(|limit| limit.is_finite() && limit > 0.0);
            check(positive, field, "is not a positive number")?;
        }
        check(
            self.t2_limit.is_some() == self.q_limit.is_some(),
            "q_limit",
            "and t2_limit come together",
        )
    }
}

/// The components.
#[derive(Debug, Clone)]
pub struct Pca {
    mean: Vec<f32>,
    variance: Vec<f32>,
    /// `x - mean` to `t`.
    project: Dense,
    /// `t` back to the row.
    rebuild: Dense,
    components: Tensor,
    limits: Option<(f32, f32)>,
    ports: Vec<Port>,
}

impl Pca {
    /// Takes the tensors.
    pub fn new(
        config: &Config,
        inputs: usize,
        mut weights: Weights<'_>,
    ) -> Result<Self, LoadError> {
        let k = config.components;
        let mean = weights.take("mean", &[inputs])?;
        let components = weights.take("components", &[k, inputs])?;
        let variance = weights.take("variance", &[k])?;
        if let Some(at) = variance.iter().position(|value| *value <= 0.0) {
            let reason = format!("value {at} is {}, not positive", variance[at]);
            return Err(weights.refuse("variance", reason));
        }
        let tensor = Tensor::from_slice(&components, (k, inputs), &Device::Cpu)
            .map_err(|error| weights.refuse("components", error.to_string()))?;
        weights.finish()?;
        let back = transposed(&components, inputs, k);
        let limits = config.t2_limit.zip(config.q_limit);
        let names = ["t2", "q", "score"];
        let ports = names[..2 + usize::from(limits.is_some())]
            .iter()
            .enumerate();
        Ok(Self {
            mean,
            variance,
            project: Dense::new(&components, &vec![0.0; k], Activation::None),
            rebuild: Dense::new(&back, &vec![0.0; inputs], Activation::None),
            components: tensor,
            limits,
            ports: ports
                .map(|(at, name)| Port::values(name, at..at + 1))
                .collect(),
        })
    }

    fn put(&self, t2: f32, q: f32, output: &mut [f32]) {
        output[0] = t2;
        output[1] = q;
        if let Some((t2_limit, q_limit)) = self.limits {
            output[2] = (t2 / t2_limit).max(q / q_limit);
        }
    }

    #[inline(always)]
    fn body(&self, input: &[f32], output: &mut [f32], scratch: &mut [f32]) {
        let (centred, rest) = scratch.split_at_mut(self.mean.len());
        let (rebuilt, t) = rest.split_at_mut(self.mean.len());
        let t = &mut t[..self.variance.len()];
        for ((centred, x), mean) in centred.iter_mut().zip(input).zip(&self.mean) {
            *centred = x - mean;
        }
        self.project.body(centred, t);
        self.rebuild.body(t, rebuilt);
        let mut t2 = 0.0;
        for (t, variance) in t.iter().zip(&self.variance) {
            t2 += t * t / variance;
        }
        let mut q = 0.0_f32;
        for (x, rebuilt) in centred.iter().zip(&*rebuilt) {
            let rest = x - rebuilt;
            q = rest.mul_add(rest, q);
        }
        self.put(t2, q, output);
    }
}

impl Network for Pca {
    fn kind(&self) -> &str {
        "pca-1"
    }

    fn inputs(&self) -> usize {
        self.mean.len()
    }

    fn ports(&self) -> &[Port] {
        &self.ports
    }

    fn scratch_len(&self) -> usize {
        2 * self.mean.len() + self.variance.len()
    }

    fn step(&self, _: &mut [f32], input: &[f32], output: &mut [f32], scratch: &mut [f32]) {
        dispatch(
            #[inline(always)]
            || self.body(input, output, scratch),
        );
    }

    fn reference(&self, _: &mut [f32], input: &[f32]) -> candle_core::Result<Vec<f32>> {
        let row = |values: &[f32]| Tensor::from_slice(values, (1, values.len()), &Device::Cpu);
        let centred = (row(input)? - row(&self.mean)?)?;
        let t = centred.matmul(&self.components.t()?)?;
        let t2 = (t.sqr()? / row(&self.variance)?)?
            .sum_all()?
            .to_scalar::<f32>()?;
        let rest = (centred - t.matmul(&self.components)?)?;
        let mut output = vec![0.0; self.outputs()];
        self.put(t2, rest.sqr()?.sum_all()?.to_scalar()?, &mut output);
        Ok(output)
    }
}
