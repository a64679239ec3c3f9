//! An ensemble of decision trees from flat arrays, as scikit-learn and XGBoost keep them.
//!
//! Tensors, the nodes of all trees end to end: `feature` `[N]` (integers; below 0: a leaf), `threshold` `[N]`, `left` and `right`
//! `[N]` (integers into the whole list), `value` `[N, targets]` (looked at in leaves), `root` `[trees]` (integers, rising from 0),
//! and, where missing values have a way of their own, `missing_left` `[N]` (0 or 1). A branch goes left where its comparison holds.

use serde::Deserialize;

use super::{Network, Port};
use crate::kernels::Activation;
use crate::kernels::trees::{Aggregate, Builder, Forest, MAX_TARGETS, Mode, Node};
use crate::load::LoadError;
use crate::manifest::{Mistake, check};
use crate::weights::Weights;

use candle_core::{Device, Tensor};

/// Parameters of `kind = "trees"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How the leaves make one number a target.
    #[serde(default)]
    pub aggregate: Sum,
    /// Which comparison goes left.
    #[serde(default)]
    pub comparison: Comparison,
    /// Added to each target; one value a target, or none.
    #[serde(default)]
    pub base: Vec<f32>,
    /// What is done to each target at the end.
    #[serde(default)]
    pub activation: Activation,
}

/// The aggregates of `kind = "trees"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sum {
    /// Of boosted trees.
    #[default]
    Sum,
    /// Of a random forest.
    Mean,
}

/// The comparisons of `kind = "trees"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Comparison {
    /// scikit-learn and LightGBM.
    #[default]
    #[serde(rename = "<=")]
    LessOrEqual,
    /// XGBoost.
    #[serde(rename = "<")]
    Less,
}

impl Config {
    /// Checks the base.
    pub fn check(&self) -> Result<(), Mistake> {
        let finite = self.base.iter().all(|value| value.is_finite());
        check(finite, "base", "holds a value that is not finite")?;
        let most = self.base.len() <= MAX_TARGETS;
        check(
            most,
            "base",
            &format!("holds more than {MAX_TARGETS} values"),
        )
    }
}

/// The forest as a network.
#[derive(Debug, Clone)]
pub struct Trees {
    forest: Forest,
    activation: Activation,
    ports: [Port; 1],
}

/// The arrays of the file.
struct Arrays {
    feature: Vec<i64>,
    threshold: Vec<f32>,
    left: Vec<i64>,
    right: Vec<i64>,
    value: Vec<f32>,
    missing_left: Option<Vec<i64>>,
    targets: usize,
}

impl Trees {
    /// Takes the arrays.
    pub fn new(
        config: &Config,
        inputs: usize,
        mut weights: Weights<'_>,
    ) -> Result<Self, LoadError> {
        let feature = weights.take_integers("feature", None)?;
        let count = feature.len();
        let targets = match weights.shape("value") {
            Some([_, targets]) => *targets,
            _ => 1,
        };
        let arrays = Arrays {
            threshold: weights.take("threshold", &[count])?,
            left: weights.take_integers("left", Some(count))?,
            right: weights.take_integers("right", Some(count))?,
            value: weights.take("value", &[count, targets])?,
            missing_left: match weights.shape("missing_left") {
                Some(_) => Some(weights.take_integers("missing_left", Some(count))?),
                None => None,
            },
            feature,
            targets,
        };
        let roots = weights.take_integers("root", None)?;
        let forest = arrays.forest(config, inputs, &roots);
        let forest = forest.map_err(|mistake| weights.refuse(&mistake.field, mistake.reason))?;
        weights.finish()?;
        Ok(Self {
            forest,
            activation: config.activation,
            ports: [Port::values("output", 0..targets)],
        })
    }
}

impl Arrays {
    fn forest(&self, config: &Config, inputs: usize, roots: &[i64]) -> Result<Forest, Mistake> {
        let count = self.feature.len();
        let rising = roots.first() == Some(&0) && roots.is_sorted_by(|a, b| a < b);
        let inside = roots.last().is_some_and(|last| (*last as usize) < count);
        check(
            rising && inside,
            "root",
            &format!("does not rise from 0 below the {count} nodes"),
        )?;
        let mut builder = Builder::new(inputs, self.targets)?;
        let ends = roots[1..].iter().map(|root| *root as usize).chain([count]);
        for (root, end) in roots.iter().zip(ends) {
            let start = *root as usize;
            let nodes: Vec<_> = (start..end)
                .map(|at| self.node(at, start, config))
                .collect();
            builder.tree(&nodes, 0)?;
        }
        let aggregate = match config.aggregate {
            Sum::Sum => Aggregate::Sum,
            Sum::Mean => Aggregate::Mean,
        };
        builder.finish(aggregate, &config.base)
    }

    /// Node `at` of the list; ways out of its tree become indices that the builder refuses.
    fn node(&self, at: usize, start: usize, config: &Config) -> Node {
        let Ok(feature) = usize::try_from(self.feature[at]) else {
            let row = &self.value[at * self.targets..][..self.targets];
            return Node::Leaf(row.iter().copied().enumerate().collect());
        };
        let way = |to: i64| {
            let to = usize::try_from(to).unwrap_or(usize::MAX);
            to.checked_sub(start).unwrap_or(usize::MAX)
        };
        Node::Branch {
            feature,
            mode: match config.comparison {
                Comparison::LessOrEqual => Mode::LessOrEqual,
                Comparison::Less => Mode::Less,
            },
            threshold: self.threshold[at],
            missing_goes_true: self.missing_left.as_ref().is_some_and(|left| left[at] != 0),
            when_true: way(self.left[at]),
            when_false: way(self.right[at]),
        }
    }
}

impl Network for Trees {
    fn kind(&self) -> &str {
        "trees-1"
    }

    fn inputs(&self) -> usize {
        self.forest.features()
    }

    fn ports(&self) -> &[Port] {
        &self.ports
    }

    fn step(&self, _: &mut [f32], input: &[f32], output: &mut [f32], _: &mut [f32]) {
        self.forest.run(input, output);
        self.activation.run(output);
    }

    fn step_rows(&self, _: &mut [&mut [f32]], inputs: &[f32], outputs: &mut [f32], _: &mut [f32]) {
        self.forest.run_rows(inputs, outputs);
        self.activation.run(outputs);
    }

    fn reference(&self, _: &mut [f32], input: &[f32]) -> candle_core::Result<Vec<f32>> {
        let sums = Tensor::new(self.forest.reference(input)?, &Device::Cpu)?;
        self.activation.reference(&sums)?.to_vec1()
    }
}
