//! What the classifiers of `ai.onnx.ml` do with raw scores: the transforms, the label, the second of two classes.
//!
//! The specification is vague about two classes; this follows ONNX Runtime, whose answers the tests hold.

use super::super::graph::Node;
use super::super::tensor::{Data, Tensor, Type};
use super::super::value::Labels;

/// e^x and ln x: fixed ones in a step, the library's in the reference.
#[derive(Clone, Copy)]
pub(super) struct Functions {
    pub exp: fn(f64) -> f64,
    pub ln: fn(f64) -> f64,
}

pub(super) const FIXED: Functions = Functions {
    exp: super::super::math::exp_wide,
    ln: super::super::math::ln_wide,
};

pub(super) const EXACT: Functions = Functions {
    exp: f64::exp,
    ln: f64::ln,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transform {
    None,
    Logistic,
    Softmax,
    SoftmaxZero,
    Probit,
}

impl Transform {
    pub(super) fn of(node: &Node) -> Result<Self, String> {
        Ok(match node.text("post_transform", "NONE")? {
            "NONE" => Self::None,
            "LOGISTIC" => Self::Logistic,
            "SOFTMAX" => Self::Softmax,
            "SOFTMAX_ZERO" => Self::SoftmaxZero,
            "PROBIT" => Self::Probit,
            other => return Err(format!("attribute post_transform is {other:?}")),
        })
    }

    pub(super) fn apply(self, scores: &mut [f32], functions: Functions) {
        let each = |scores: &mut [f32], f: &dyn Fn(f64) -> f64| {
            scores.iter_mut().for_each(|x| *x = f(f64::from(*x)) as f32);
        };
        match self {
            Self::None => {}
            Self::Logistic => each(scores, &|x| logistic(x, functions)),
            Self::Probit => each(scores, &|x| probit(x, functions)),
            Self::Softmax | Self::SoftmaxZero => self.softmax(scores, functions),
        }
    }

    /// `SOFTMAX_ZERO` leaves zeros (almost) as they are.
    fn softmax(self, scores: &mut [f32], functions: Functions) {
        let most = scores
            .iter()
            .fold(f32::MIN, |most, x| if *x > most { *x } else { most });
        let most = f64::from(most);
        let mut sum = 0.0;
        for score in scores.iter_mut() {
            let x = f64::from(*score);
            let counts = self == Self::Softmax || x.abs() > 1e-7;
            let value = if counts {
                (functions.exp)(x - most)
            } else {
                x * (functions.exp)(-most)
            };
            sum += if counts { value } else { 0.0 };
            *score = value as f32;
        }
        scores
            .iter_mut()
            .for_each(|x| *x = (f64::from(*x) / sum) as f32);
    }
}

pub(super) fn logistic(x: f64, functions: Functions) -> f64 {
    1.0 / (1.0 + (functions.exp)(-x))
}

/// The quantile of the normal distribution, in the approximation that ONNX Runtime uses (Winitzki, 2008).
fn probit(p: f64, functions: Functions) -> f64 {
    const A: f64 = 0.147;
    let x = 2.0 * p - 1.0;
    let log = (functions.ln)((1.0 - x) * (1.0 + x));
    let v = 2.0 / (3.141_59 * A) + 0.5 * log;
    let root = (-v + (v * v - log / A).sqrt()).sqrt();
    std::f64::consts::SQRT_2 * if x < 0.0 { -root } else { root }
}

/// How the one score of two classes becomes two; under `LOGISTIC` always the logistic of `-s` and `s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Second {
    /// A probability: `1 - s` and `s`.
    Rest,
    /// A margin: `-s` and `s`.
    Opposite,
}

/// Fills `pair` from the single score in `pair[0]`.
pub(super) fn second_of(
    pair: &mut [f32; 2],
    second: Second,
    transform: Transform,
    functions: Functions,
) {
    let score = pair[0];
    *pair = match (second, transform) {
        (_, Transform::Logistic) => {
            let of = |x: f32| logistic(f64::from(x), functions) as f32;
            [of(-score), of(score)]
        }
        (Second::Rest, _) => [1.0 - score, score],
        (Second::Opposite, _) => [-score, score],
    };
}

/// The first of the largest.
pub(super) fn largest(scores: &[f32]) -> usize {
    let better = |best: usize, i: usize| if scores[i] > scores[best] { i } else { best };
    (1..scores.len()).fold(0, better)
}

/// The class labels of a classifier, under either of two names.
pub(super) fn class_labels(node: &Node, ints: &str) -> Result<Labels, String> {
    let texts = node.texts("classlabels_strings")?;
    let labels = if texts.is_empty() {
        Labels::Ints(node.ints(ints)?.to_vec())
    } else {
        Labels::Texts(texts.to_vec())
    };
    if labels.len() < 2 {
        return Err(format!(
            "{} classes; at least two are expected",
            labels.len()
        ));
    }
    Ok(labels)
}

pub(super) fn label_type(labels: &Labels) -> Type {
    match labels {
        Labels::Ints(_) => Type::Int,
        Labels::Texts(_) => Type::Text,
    }
}

/// For the reference: the label itself.
pub(super) fn label_tensor(labels: &Labels, index: usize) -> Tensor {
    match labels {
        Labels::Ints(values) => Tensor::ints(vec![values[index]]),
        Labels::Texts(texts) => Tensor {
            ty: Type::Text,
            shape: vec![1],
            data: Data::Texts(vec![texts[index].clone()]),
        },
    }
}

/// The features of the one row of an input.
pub(super) fn row_width(shape: &[usize]) -> Result<usize, String> {
    match shape {
        [width] | [1, width] => Ok(*width),
        _ => Err(format!("shape {shape:?} is not one row")),
    }
}
