//! Linear regressors and classifiers of `ai.onnx.ml`.

use std::sync::Arc;

use super::super::graph::Node;
use super::super::tensor::{Tensor, Type};
use super::super::value::{Builder, Labels, Run, Step, Value, arena_input, arg};
use super::dense::layer;
use super::scores::{
    EXACT, FIXED, Functions, Second, Transform, class_labels, label_tensor, label_type, largest,
    row_width, second_of,
};
use super::{Op, noted};

/// The layer of a node.
struct Linear {
    targets: usize,
    /// `[targets][inputs]`.
    weights: Vec<f32>,
    bias: Vec<f32>,
}

impl Linear {
    fn of(node: &Node, targets: usize, width: usize) -> Result<Self, String> {
        let weights = node.floats("coefficients")?.to_vec();
        let bias = match node.floats("intercepts")? {
            [] => vec![0.0; targets],
            bias => bias.to_vec(),
        };
        if targets == 0
            || bias.len() != targets
            || targets.checked_mul(width) != Some(weights.len())
            || width == 0
        {
            return Err(format!(
                "{} coefficients and {} intercepts for {targets} targets of {width} features",
                weights.len(),
                bias.len()
            ));
        }
        Ok(Self {
            targets,
            weights,
            bias,
        })
    }

    fn exact(&self, x: &[f64]) -> Vec<f32> {
        let target = |t: usize| {
            let row = &self.weights[t * x.len()..(t + 1) * x.len()];
            let sum: f64 = row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum();
            (sum + f64::from(self.bias[t])) as f32
        };
        (0..self.targets).map(target).collect()
    }

    fn build(self, builder: &mut Builder, x: &Run) -> Result<Run, String> {
        let width = self.weights.len() / self.targets;
        let weights = crate::kernels::transposed(&self.weights, width, self.targets);
        layer(builder, x, weights, self.bias, vec![1, self.targets])
    }
}

fn targets(node: &Node) -> Result<usize, String> {
    usize::try_from(node.int("targets", 1)?).map_err(|_| "attribute targets is negative".to_owned())
}

fn eval_regressor(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let linear = Linear::of(node, targets(node)?, row_width(&x.shape)?)?;
    let mut scores = linear.exact(x.values()?);
    Transform::of(node)?.apply(&mut scores, EXACT);
    Ok(vec![floats(scores)])
}

/// A row of floats.
pub(super) fn floats(values: Vec<f32>) -> Tensor {
    let numbers = values.iter().copied().map(f64::from).collect();
    Tensor::numbers(Type::Float, vec![1, values.len()], numbers)
}

fn build_regressor(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let x = arena_input(builder, inputs, 0)?;
    let linear = Linear::of(node, targets(node)?, row_width(&x.shape)?)?;
    let out = linear.build(builder, &x)?;
    let transform = Transform::of(node)?;
    if transform != Transform::None {
        builder.push(Transformed {
            transform,
            at: out.at,
            len: out.len(),
        });
    }
    Ok(vec![out.into()])
}

/// A transform over a place.
pub(super) struct Transformed {
    pub transform: Transform,
    pub at: usize,
    pub len: usize,
}

impl Step for Transformed {
    fn run(&self, arena: &mut [f32]) {
        self.transform
            .apply(&mut arena[self.at..self.at + self.len], FIXED);
    }
}

/// A classifier's label and scores from raw scores.
#[derive(Clone, Copy)]
struct Rule {
    targets: usize,
    transform: Transform,
    /// One score for two classes.
    single: bool,
}

impl Rule {
    fn of(node: &Node, labels: &Labels) -> Result<Self, String> {
        let targets = node.floats("intercepts")?.len();
        let single = targets == 1 && labels.len() == 2;
        if !single && targets != labels.len() {
            return Err(format!("{targets} intercepts for {} classes", labels.len()));
        }
        let transform = Transform::of(node)?;
        if single && transform == Transform::Probit {
            return Err("post_transform PROBIT of a single score is not supported".to_owned());
        }
        Ok(Self {
            targets,
            transform,
            single,
        })
    }

    fn outputs(self) -> usize {
        if self.single { 2 } else { self.targets }
    }

    /// The label's index; `scores` becomes the answer.
    fn finish(self, scores: &mut [f32], functions: Functions) -> usize {
        if !self.single {
            let label = largest(scores);
            self.transform.apply(scores, functions);
            return label;
        }
        let mut pair = [scores[0], 0.0];
        let label = usize::from(pair[0] > 0.0);
        second_of(&mut pair, Second::Rest, self.transform, functions);
        scores.copy_from_slice(&pair);
        label
    }
}

fn eval_classifier(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let labels = class_labels(node, "classlabels_ints")?;
    let rule = Rule::of(node, &labels)?;
    let mut scores = Linear::of(node, rule.targets, row_width(&x.shape)?)?.exact(x.values()?);
    scores.resize(rule.outputs(), 0.0);
    let label = rule.finish(&mut scores, EXACT);
    Ok(vec![label_tensor(&labels, label), floats(scores)])
}

fn build_classifier(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let labels = class_labels(node, "classlabels_ints")?;
    let rule = Rule::of(node, &labels)?;
    let x = arena_input(builder, inputs, 0)?;
    let raw = Linear::of(node, rule.targets, row_width(&x.shape)?)?.build(builder, &x)?;
    let (label, scores) = classes(builder, labels, rule.outputs())?;
    builder.push(Classify {
        rule,
        from: raw.at,
        label: label.at,
    });
    Ok(vec![label.into(), scores.into()])
}

/// Places for a label and, right behind it, the scores.
pub(super) fn classes(
    builder: &mut Builder,
    labels: Labels,
    outputs: usize,
) -> Result<(Run, Run), String> {
    let mut label = builder.fresh(label_type(&labels), vec![1])?;
    let mut scores = builder.fresh(Type::Float, vec![1, outputs])?;
    if labels.len() == outputs {
        scores.names = Some(labels.names());
    }
    label.labels = Some(Arc::new(labels));
    label.owned = false;
    Ok((label, scores))
}

struct Classify {
    rule: Rule,
    from: usize,
    label: usize,
}

impl Step for Classify {
    fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.label);
        let (label, scores) = out.split_at_mut(1);
        let scores = &mut scores[..self.rule.outputs()];
        scores[..self.rule.targets]
            .copy_from_slice(&below[self.from..self.from + self.rule.targets]);
        label[0] = self.rule.finish(scores, FIXED) as f32;
    }
}

const CLASSIFIER: &[&str] = &[
    "classlabels_ints",
    "classlabels_strings",
    "coefficients",
    "intercepts",
    "multi_class",
    "post_transform",
];

/// The rows of this family.
pub(in super::super) const OPS: &[Op] = &[
    noted(
        "LinearClassifier",
        1,
        CLASSIFIER,
        "the label is the index of a class",
        eval_classifier,
        build_classifier,
    ),
    noted(
        "LinearRegressor",
        1,
        &["coefficients", "intercepts", "post_transform", "targets"],
        "",
        eval_regressor,
        build_regressor,
    ),
];
