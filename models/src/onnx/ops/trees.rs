//! Tree ensembles of `ai.onnx.ml`: read, checked, and handed to the crate's forest.
//!
//! Comparisons are those of the file: a row is `f32`, so a `double` threshold becomes the `f32` that decides every `f32` alike. A
//! classifier's sums are rounded after each tree, as ONNX Runtime does, so that equal votes are settled equally.

use super::super::graph::Node;
use super::super::tensor::Tensor;
use super::super::value::{Builder, Step, Value, arena_input, arg};
use super::ensemble::{Ensemble, index};
use super::linear::{classes, floats};
use super::scores::{
    EXACT, FIXED, Functions, Second, Transform, class_labels, label_tensor, row_width, second_of,
};
use super::{Op, noted};
use crate::kernels::trees::{Forest, MAX_TARGETS};

/// A regressor's ensemble and transform. ONNX Runtime transforms a single target by `PROBIT` only.
fn regressor(node: &Node) -> Result<(Ensemble, Transform), String> {
    let (mut ensemble, transform) = if node.op == "TreeEnsemble" {
        let transform = match node.int("post_transform", 0)? {
            0 => Transform::None,
            1 => Transform::Softmax,
            2 => Transform::Logistic,
            3 => Transform::SoftmaxZero,
            4 => Transform::Probit,
            other => return Err(format!("attribute post_transform is {other}")),
        };
        (Ensemble::split(node)?, transform)
    } else {
        let targets = index(node.int("n_targets", 1)?, "n_targets")?;
        (
            Ensemble::listed(node, "target", targets)?,
            Transform::of(node)?,
        )
    };
    if !(1..=MAX_TARGETS).contains(&ensemble.targets) {
        return Err(format!(
            "{} targets; 1 to {MAX_TARGETS} are supported",
            ensemble.targets
        ));
    }
    if ensemble.base.is_empty() {
        ensemble.base = vec![0.0; ensemble.targets];
    } else if ensemble.base.len() != ensemble.targets {
        return Err(format!(
            "{} base values for {} targets",
            ensemble.base.len(),
            ensemble.targets
        ));
    }
    let single = ensemble.targets == 1 && transform != Transform::Probit;
    Ok((ensemble, if single { Transform::None } else { transform }))
}

fn eval_regressor(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    row_width(&x.shape)?;
    let (ensemble, transform) = regressor(node)?;
    let sums = ensemble.exact(x.values()?, false)?;
    let mut scores: Vec<f32> = sums
        .iter()
        .zip(&ensemble.base)
        .map(|(sum, base)| (sum + f64::from(*base)) as f32)
        .collect();
    transform.apply(&mut scores, EXACT);
    Ok(vec![floats(scores)])
}

fn build_regressor(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let x = arena_input(builder, inputs, 0)?;
    let (ensemble, transform) = regressor(node)?;
    let forest = ensemble.forest(row_width(&x.shape)?, false)?;
    let out = builder.fresh(super::super::tensor::Type::Float, vec![1, ensemble.targets])?;
    builder.push(Regress {
        forest,
        base: ensemble.base,
        transform,
        from: x.at,
        at: out.at,
    });
    Ok(vec![out.into()])
}

struct Regress {
    forest: Forest,
    base: Vec<f32>,
    transform: Transform,
    from: usize,
    at: usize,
}

impl Step for Regress {
    fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.at);
        let out = &mut out[..self.base.len()];
        self.forest
            .run(&below[self.from..self.from + self.forest.features()], out);
        out.iter_mut()
            .zip(&self.base)
            .for_each(|(out, base)| *out += base);
        self.transform.apply(out, FIXED);
    }
}

/// How a classifier answers from the sums of its trees.
struct Rule {
    classes: usize,
    base: Vec<f32>,
    transform: Transform,
    /// The classes that some leaf speaks of.
    spoken: Vec<bool>,
    /// Two classes of which the leaves speak of one.
    binary: bool,
    positive: bool,
}

impl Rule {
    fn of(node: &Node, ensemble: &Ensemble) -> Result<Self, String> {
        let (spoken, negative) = ensemble.spoken();
        let classes = ensemble.targets;
        let most = if classes == 2 { 2 } else { classes };
        if ensemble.base.len() > most
            || (classes > 2
                && !matches!(ensemble.base.len(), 0 | 1)
                && ensemble.base.len() != classes)
        {
            return Err(format!(
                "{} base values for {classes} classes",
                ensemble.base.len()
            ));
        }
        let transform = Transform::of(node)?;
        if classes == 2 && !spoken[1] && transform == Transform::Probit {
            return Err("post_transform PROBIT of a single score is not supported".to_owned());
        }
        Ok(Self {
            classes,
            base: ensemble.base.clone(),
            transform,
            binary: classes == 2 && spoken.iter().filter(|spoken| **spoken).count() == 1,
            spoken,
            positive: !negative,
        })
    }

    /// The label's index; the sums in `scores` become the answer.
    fn finish(&self, scores: &mut [f32], functions: Functions) -> usize {
        if self.classes == 2 {
            let mut pair = [scores[0], scores[1]];
            let label = self.finish_two(&mut pair, functions);
            scores.copy_from_slice(&pair);
            return label;
        }
        scores
            .iter_mut()
            .zip(&self.base)
            .for_each(|(score, base)| *score += base);
        let counts = |k: usize| self.spoken[k] || k < self.base.len();
        let mut label = None;
        for k in (0..self.classes).filter(|k| counts(*k)) {
            if label.is_none_or(|best: usize| scores[k] > scores[best]) {
                label = Some(k);
            }
        }
        self.transform.apply(scores, functions);
        label.unwrap_or(0)
    }

    /// As ONNX Runtime: a class that no leaf speaks of scores 0, and a single score becomes two.
    fn finish_two(&self, pair: &mut [f32; 2], functions: Functions) -> usize {
        let second = self.spoken[1];
        match self.base.as_slice() {
            [_, base] if second => {
                // The first base value is not used.
                let score = base + pair[0];
                *pair = [-score, score];
            }
            [base, ..] => pair[0] += base,
            [] => {}
        }
        let weight = if second { pair[1] } else { pair[0] };
        let likely = self.binary && self.positive;
        let label = usize::from(weight > if likely { 0.5 } else { 0.0 });
        if second || self.base.len() == 2 {
            for (score, spoken) in pair.iter_mut().zip(&self.spoken) {
                *score = if *spoken { *score } else { 0.0 };
            }
            self.transform.apply(pair, functions);
        } else {
            let kind = if likely {
                Second::Rest
            } else {
                Second::Opposite
            };
            second_of(pair, kind, self.transform, functions);
        }
        label
    }
}

fn classifier(node: &Node) -> Result<(Ensemble, super::super::value::Labels), String> {
    let labels = class_labels(node, "classlabels_int64s")?;
    if labels.len() > MAX_TARGETS {
        return Err(format!(
            "{} classes; at most {MAX_TARGETS} are supported",
            labels.len()
        ));
    }
    Ok((Ensemble::listed(node, "class", labels.len())?, labels))
}

fn eval_classifier(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    row_width(&x.shape)?;
    let (ensemble, labels) = classifier(node)?;
    let rule = Rule::of(node, &ensemble)?;
    let mut scores: Vec<f32> = ensemble
        .exact(x.values()?, true)?
        .iter()
        .map(|sum| *sum as f32)
        .collect();
    let label = rule.finish(&mut scores, EXACT);
    Ok(vec![label_tensor(&labels, label), floats(scores)])
}

fn build_classifier(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let x = arena_input(builder, inputs, 0)?;
    let (ensemble, labels) = classifier(node)?;
    let rule = Rule::of(node, &ensemble)?;
    let forest = ensemble.forest(row_width(&x.shape)?, true)?;
    let (label, scores) = classes(builder, labels, rule.classes)?;
    builder.push(Classify {
        forest,
        rule,
        from: x.at,
        label: label.at,
    });
    Ok(vec![label.into(), scores.into()])
}

struct Classify {
    forest: Forest,
    rule: Rule,
    from: usize,
    label: usize,
}

impl Step for Classify {
    fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.label);
        let (label, scores) = out.split_at_mut(1);
        let scores = &mut scores[..self.rule.classes];
        self.forest.run(
            &below[self.from..self.from + self.forest.features()],
            scores,
        );
        label[0] = self.rule.finish(scores, FIXED) as f32;
    }
}

const REGRESSOR: &[&str] = &[
    "aggregate_function",
    "base_values",
    "base_values_as_tensor",
    "n_targets",
    "nodes_falsenodeids",
    "nodes_featureids",
    "nodes_hitrates",
    "nodes_hitrates_as_tensor",
    "nodes_missing_value_tracks_true",
    "nodes_modes",
    "nodes_nodeids",
    "nodes_treeids",
    "nodes_truenodeids",
    "nodes_values",
    "nodes_values_as_tensor",
    "post_transform",
    "target_ids",
    "target_nodeids",
    "target_treeids",
    "target_weights",
    "target_weights_as_tensor",
];
const CLASSIFIER: &[&str] = &[
    "base_values",
    "base_values_as_tensor",
    "class_ids",
    "class_nodeids",
    "class_treeids",
    "class_weights",
    "class_weights_as_tensor",
    "classlabels_int64s",
    "classlabels_strings",
    "nodes_falsenodeids",
    "nodes_featureids",
    "nodes_hitrates",
    "nodes_hitrates_as_tensor",
    "nodes_missing_value_tracks_true",
    "nodes_modes",
    "nodes_nodeids",
    "nodes_treeids",
    "nodes_truenodeids",
    "nodes_values",
    "nodes_values_as_tensor",
    "post_transform",
];
const ENSEMBLE: &[&str] = &[
    "aggregate_function",
    "leaf_targetids",
    "leaf_weights",
    "membership_values",
    "n_targets",
    "nodes_falseleafs",
    "nodes_falsenodeids",
    "nodes_featureids",
    "nodes_hitrates",
    "nodes_missing_value_tracks_true",
    "nodes_modes",
    "nodes_splits",
    "nodes_trueleafs",
    "nodes_truenodeids",
    "post_transform",
    "tree_roots",
];

/// The rows of this family.
pub(in super::super) const OPS: &[Op] = &[
    noted(
        "TreeEnsemble",
        5,
        ENSEMBLE,
        "a set becomes a comparison a member; branches that several nodes lead to are copied",
        eval_regressor,
        build_regressor,
    ),
    noted(
        "TreeEnsembleClassifier",
        1,
        CLASSIFIER,
        "as ONNX Runtime where the specification is vague",
        eval_classifier,
        build_classifier,
    ),
    noted(
        "TreeEnsembleRegressor",
        1,
        REGRESSOR,
        "one target is transformed by PROBIT only, as ONNX Runtime does",
        eval_regressor,
        build_regressor,
    ),
];
