//! Support vector machines of `ai.onnx.ml`, in libsvm's form and in the linear one.
//!
//! Follows ONNX Runtime, votes and pairwise probabilities (Wu, Lin and Weng, 2004) included.

use super::super::graph::Node;
use super::super::math::{exp_wide, pow};
use super::super::tensor::{Tensor, Type};
use super::super::value::{Builder, Labels, Step, Value, arena_input, arg};
use super::linear::{classes, floats};
use super::scores::{
    EXACT, FIXED, Functions, Second, Transform, class_labels, label_tensor, largest, logistic,
    row_width, second_of,
};
use super::{Op, noted};
use crate::numerics::{self, tanh};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Linear,
    Poly,
    Rbf,
    Sigmoid,
}

/// The kernel between a row and each support vector.
struct Kernel {
    kind: Kind,
    gamma: f32,
    offset: f32,
    degree: f32,
    /// `[features][vectors]`.
    by_feature: Vec<f32>,
    features: usize,
}

impl Kernel {
    fn of(node: &Node, vectors: Vec<f32>, count: usize, width: usize) -> Result<Self, String> {
        let kind = match node.text("kernel_type", "LINEAR")? {
            "LINEAR" => Kind::Linear,
            "POLY" => Kind::Poly,
            "RBF" => Kind::Rbf,
            "SIGMOID" => Kind::Sigmoid,
            other => return Err(format!("attribute kernel_type is {other:?}")),
        };
        let (gamma, offset, degree) = match node.floats("kernel_params")? {
            [] => (0.0, 0.0, 0.0),
            [gamma, offset, degree, ..] => (*gamma, *offset, *degree),
            other => {
                return Err(format!(
                    "attribute kernel_params has {} values, not 3",
                    other.len()
                ));
            }
        };
        if count == 0 || count.checked_mul(width) != Some(vectors.len()) || width == 0 {
            return Err(format!(
                "{} numbers for {count} support vectors of {width} features",
                vectors.len()
            ));
        }
        Ok(Self {
            kind,
            gamma,
            offset,
            degree,
            by_feature: crate::kernels::transposed(&vectors, width, count),
            features: width,
        })
    }

    fn count(&self) -> usize {
        self.by_feature.len() / self.features
    }

    /// Fills `out`, one number a support vector; sums run along the features, vectors lie across the support vectors.
    fn fill(&self, x: &[f32], out: &mut [f32]) {
        numerics::dispatch(
            #[inline(always)]
            || self.fill_body(x, out),
        );
    }

    #[inline(always)]
    fn fill_body(&self, x: &[f32], out: &mut [f32]) {
        out.fill(0.0);
        let rows = self.by_feature.chunks_exact(out.len());
        for (x, row) in x.iter().zip(rows) {
            for (sum, v) in out.iter_mut().zip(row) {
                *sum = if self.kind == Kind::Rbf {
                    *sum + (x - v) * (x - v)
                } else {
                    x.mul_add(*v, *sum)
                };
            }
        }
        for sum in out.iter_mut() {
            let inner = self.gamma.mul_add(*sum, self.offset);
            *sum = match self.kind {
                Kind::Linear => *sum,
                Kind::Rbf => exp_wide(f64::from(-self.gamma * *sum)) as f32,
                Kind::Poly if self.degree == 3.0 => inner * inner * inner,
                Kind::Poly => pow(inner, self.degree),
                Kind::Sigmoid => tanh(inner),
            };
        }
    }

    /// The reference: each support vector by itself.
    fn exact(&self, x: &[f64]) -> Vec<f32> {
        let count = self.count();
        let kernel = |v: usize| {
            let vector = (0..x.len()).map(|i| f64::from(self.by_feature[i * count + v]));
            let pairs = || x.iter().zip(vector.clone());
            let (gamma, offset) = (f64::from(self.gamma), f64::from(self.offset));
            let dot: f64 = pairs().map(|(x, v)| x * v).sum();
            let apart: f64 = pairs().map(|(x, v)| (x - v) * (x - v)).sum();
            let value = match self.kind {
                Kind::Linear => dot,
                Kind::Rbf => (-gamma * apart).exp(),
                Kind::Poly => (gamma * dot + offset).powf(f64::from(self.degree)),
                Kind::Sigmoid => (gamma * dot + offset).tanh(),
            };
            value as f32
        };
        (0..count).map(kernel).collect()
    }
}

/// A regressor: one sum over the support vectors, or one row of coefficients.
struct Regressor {
    kernel: Kernel,
    coefficients: Vec<f32>,
    rho: f32,
    one_class: bool,
}

impl Regressor {
    fn of(node: &Node, width: usize) -> Result<Self, String> {
        let count = usize::try_from(node.int("n_supports", 0)?).unwrap_or(usize::MAX);
        let coefficients = node.floats("coefficients")?.to_vec();
        if Transform::of(node)? != Transform::None {
            return Err("attribute post_transform is not supported".to_owned());
        }
        let [rho, ..] = node.floats("rho")? else {
            return Err("attribute rho is missing".to_owned());
        };
        let (kernel, coefficients) = if count == 0 {
            let mut kernel = Kernel::of(node, coefficients, 1, width)?;
            kernel.kind = Kind::Linear;
            (kernel, vec![1.0])
        } else {
            (
                Kernel::of(node, node.floats("support_vectors")?.to_vec(), count, width)?,
                coefficients,
            )
        };
        if coefficients.len() != kernel.count() {
            return Err(format!(
                "{} coefficients for {} support vectors",
                coefficients.len(),
                kernel.count()
            ));
        }
        Ok(Self {
            kernel,
            coefficients,
            rho: *rho,
            one_class: node.flag("one_class", false)?,
        })
    }

    fn finish(&self, kernels: &[f32]) -> f32 {
        let pairs = kernels.iter().zip(&self.coefficients);
        let sum = pairs.fold(0.0_f64, |sum, (k, c)| sum + f64::from(*k) * f64::from(*c));
        let y = (sum + f64::from(self.rho)) as f32;
        if self.one_class {
            return if y > 0.0 { 1.0 } else { -1.0 };
        }
        y
    }
}

fn eval_regressor(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let regressor = Regressor::of(node, row_width(&x.shape)?)?;
    let kernels = regressor.kernel.exact(x.values()?);
    Ok(vec![floats(vec![regressor.finish(&kernels)])])
}

fn build_regressor(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let x = arena_input(builder, inputs, 0)?;
    let regressor = Regressor::of(node, row_width(&x.shape)?)?;
    let out = builder.fresh(Type::Float, vec![1, 1])?;
    builder.reserve(regressor.kernel.count())?;
    builder.push(Regress {
        regressor,
        from: x.at,
        at: out.at,
    });
    Ok(vec![out.into()])
}

/// Behind the output lie the kernels.
struct Regress {
    regressor: Regressor,
    from: usize,
    at: usize,
}

impl Step for Regress {
    fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.at);
        let (out, kernels) = out.split_at_mut(1);
        let kernel = &self.regressor.kernel;
        let kernels = &mut kernels[..kernel.count()];
        kernel.fill(&below[self.from..self.from + kernel.features], kernels);
        out[0] = self.regressor.finish(kernels);
    }
}

/// A classifier of one against one.
struct Classifier {
    kernel: Kernel,
    classes: usize,
    /// Where each class's support vectors begin, and the end; empty in the linear form.
    starts: Vec<usize>,
    /// `[classes - 1][vectors]`.
    coefficients: Vec<f32>,
    rho: Vec<f32>,
    /// Platt's A and B of each pair; empty without probabilities.
    probabilities: Vec<(f32, f32)>,
    transform: Transform,
    positive: bool,
}

impl Classifier {
    fn of(node: &Node, labels: &Labels, width: usize) -> Result<Self, String> {
        let classes = labels.len();
        let coefficients = node.floats("coefficients")?.to_vec();
        let rho = node.floats("rho")?.to_vec();
        let per_class = node.sizes("vectors_per_class")?;
        let count: usize = per_class.iter().sum();
        let pairs = classes * (classes - 1) / 2;
        let (a, b) = (node.floats("prob_a")?, node.floats("prob_b")?);
        let linear = count == 0;
        let vectors = if linear {
            coefficients.clone()
        } else {
            node.floats("support_vectors")?.to_vec()
        };
        let mut kernel = Kernel::of(node, vectors, if linear { classes } else { count }, width)?;
        if linear {
            kernel.kind = Kind::Linear;
        }
        let fits = linear && !rho.is_empty()
            || per_class.len() == classes
                && coefficients.len() == (classes - 1) * count
                && rho.len() >= pairs;
        if !fits || a.len() != b.len() || !(a.is_empty() || a.len() >= pairs) {
            return Err(format!(
                "{} coefficients and {} rho for {classes} classes and {count} support vectors",
                coefficients.len(),
                rho.len()
            ));
        }
        let mut starts = vec![0];
        for count in &per_class {
            starts.push(starts.last().copied().unwrap_or(0) + count);
        }
        Ok(Self {
            kernel,
            classes,
            starts: if linear { Vec::new() } else { starts },
            positive: coefficients.iter().all(|value| *value >= 0.0),
            coefficients,
            rho,
            probabilities: if linear {
                Vec::new()
            } else {
                a.iter().copied().zip(b.iter().copied()).collect()
            },
            transform: Transform::of(node)?,
        })
    }

    fn pairs(&self) -> usize {
        self.classes * (self.classes - 1) / 2
    }

    fn outputs(&self) -> usize {
        let by_class =
            self.starts.is_empty() || !self.probabilities.is_empty() || self.classes == 2;
        if by_class { self.classes } else { self.pairs() }
    }

    /// Floats that [`Classifier::finish`] works in.
    fn scratch(&self) -> usize {
        self.pairs() + self.classes + 2 * self.classes * self.classes + self.classes
    }

    /// The label's index; `scores` becomes the answer.
    fn finish(
        &self,
        kernels: &[f32],
        scores: &mut [f32],
        scratch: &mut [f32],
        functions: Functions,
    ) -> usize {
        if self.starts.is_empty() {
            for (score, kernel) in scores.iter_mut().zip(kernels) {
                *score = kernel + self.rho[0];
            }
            return self.settle(None, scores, functions);
        }
        let (margins, rest) = scratch.split_at_mut(self.pairs());
        let (votes, rest) = rest.split_at_mut(self.classes);
        self.duels(kernels, margins, votes);
        let winner = largest(votes);
        if self.probabilities.is_empty() {
            scores[..margins.len()].copy_from_slice(margins);
        } else {
            self.couple(margins, scores, rest, functions);
        }
        self.settle(Some(winner), scores, functions)
    }

    /// The margin of each pair of classes, and who wins it.
    fn duels(&self, kernels: &[f32], margins: &mut [f32], votes: &mut [f32]) {
        votes.fill(0.0);
        let count = self.kernel.count();
        let part = |row: usize, class: usize| {
            let range = self.starts[class]..self.starts[class + 1];
            let coefficients = &self.coefficients[row * count..(row + 1) * count];
            coefficients[range.clone()]
                .iter()
                .zip(&kernels[range])
                .fold(0.0_f64, |sum, (c, k)| sum + f64::from(c * k))
        };
        let mut pair = 0;
        for i in 0..self.classes {
            for j in i + 1..self.classes {
                let sum = part(j - 1, i) + part(i, j) + f64::from(self.rho[pair]);
                margins[pair] = sum as f32;
                votes[if sum > 0.0 { i } else { j }] += 1.0;
                pair += 1;
            }
        }
    }

    /// Probabilities of classes from those of pairs, at most 100 rounds.
    fn couple(&self, margins: &[f32], p: &mut [f32], scratch: &mut [f32], functions: Functions) {
        let k = self.classes;
        let (r, rest) = scratch.split_at_mut(k * k);
        let (q, qp) = rest.split_at_mut(k * k);
        let qp = &mut qp[..k];
        let mut pair = 0;
        r.fill(0.0);
        for i in 0..k {
            for j in i + 1..k {
                let (a, b) = self.probabilities[pair];
                let value = 1.0 - logistic(f64::from(margins[pair] * a + b), functions) as f32;
                let value = value.clamp(1e-7, 1.0 - 1e-7);
                (r[i * k + j], r[j * k + i]) = (value, 1.0 - value);
                pair += 1;
            }
        }
        q.fill(0.0);
        for i in 0..k {
            p[i] = 1.0 / k as f32;
            for j in (0..k).filter(|j| *j != i) {
                q[i * k + i] += r[j * k + i] * r[j * k + i];
                q[i * k + j] = -r[j * k + i] * r[i * k + j];
            }
        }
        balance(k, q, qp, p);
    }

    /// The label, and the transform of the scores.
    fn settle(&self, winner: Option<usize>, scores: &mut [f32], functions: Functions) -> usize {
        let most = winner.unwrap_or_else(|| largest(scores));
        let weight = if winner.is_some() { 0.0 } else { scores[most] };
        let two = self.classes == 2 && self.probabilities.is_empty();
        let label = match () {
            () if two && self.positive && weight >= 0.5 => 1,
            () if two && !self.positive && weight > 0.0 => 1,
            () => most,
        };
        if two && winner.is_some() {
            let mut pair = [scores[0], 0.0];
            let second = if self.transform == Transform::None {
                Second::Opposite
            } else {
                Second::Rest
            };
            second_of(&mut pair, second, self.transform, functions);
            scores[..2].copy_from_slice(&pair);
        } else {
            self.transform.apply(scores, functions);
        }
        label
    }
}

/// The iteration of Wu, Lin and Weng (2004), algorithm 2, as libsvm has it.
fn balance(k: usize, q: &[f32], qp: &mut [f32], p: &mut [f32]) {
    for _ in 0..100 {
        let mut all = 0.0;
        for i in 0..k {
            qp[i] = (0..k).fold(0.0, |sum, j| sum + q[i * k + j] * p[j]);
            all += p[i] * qp[i];
        }
        let worst = qp
            .iter()
            .fold(0.0_f32, |worst, x| worst.max((x - all).abs()));
        if worst < 0.005 / k as f32 {
            break;
        }
        for i in 0..k {
            let diff = (all - qp[i]) / q[i * k + i];
            p[i] += diff;
            all = (all + diff * (diff * q[i * k + i] + 2.0 * qp[i])) / (1.0 + diff) / (1.0 + diff);
            for j in 0..k {
                qp[j] = (qp[j] + diff * q[i * k + j]) / (1.0 + diff);
                p[j] /= 1.0 + diff;
            }
        }
    }
}

fn eval_classifier(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let labels = class_labels(node, "classlabels_ints")?;
    let classifier = Classifier::of(node, &labels, row_width(&x.shape)?)?;
    let kernels = classifier.kernel.exact(x.values()?);
    let mut scores = vec![0.0; classifier.outputs()];
    let mut scratch = vec![0.0; classifier.scratch()];
    let label = classifier.finish(&kernels, &mut scores, &mut scratch, EXACT);
    Ok(vec![label_tensor(&labels, label), floats(scores)])
}

fn build_classifier(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let x = arena_input(builder, inputs, 0)?;
    let labels = class_labels(node, "classlabels_ints")?;
    if labels.len() > 256 {
        return Err(format!(
            "{} classes; at most 256 are supported",
            labels.len()
        ));
    }
    let classifier = Classifier::of(node, &labels, row_width(&x.shape)?)?;
    let (label, scores) = classes(builder, labels, classifier.outputs())?;
    builder.reserve(classifier.kernel.count() + classifier.scratch())?;
    builder.push(Classify {
        classifier,
        from: x.at,
        label: label.at,
    });
    Ok(vec![label.into(), scores.into()])
}

/// The label, the scores, the kernels, scratch.
struct Classify {
    classifier: Classifier,
    from: usize,
    label: usize,
}

impl Step for Classify {
    fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.label);
        let (label, rest) = out.split_at_mut(1);
        let (scores, rest) = rest.split_at_mut(self.classifier.outputs());
        let kernel = &self.classifier.kernel;
        let (kernels, scratch) = rest.split_at_mut(kernel.count());
        kernel.fill(&below[self.from..self.from + kernel.features], kernels);
        label[0] = self.classifier.finish(kernels, scores, scratch, FIXED) as f32;
    }
}

const CLASSIFIER: &[&str] = &[
    "classlabels_ints",
    "classlabels_strings",
    "coefficients",
    "kernel_params",
    "kernel_type",
    "post_transform",
    "prob_a",
    "prob_b",
    "rho",
    "support_vectors",
    "vectors_per_class",
];
const REGRESSOR: &[&str] = &[
    "coefficients",
    "kernel_params",
    "kernel_type",
    "n_supports",
    "one_class",
    "post_transform",
    "rho",
    "support_vectors",
];

/// The rows of this family.
pub(in super::super) const OPS: &[Op] = &[
    noted(
        "SVMClassifier",
        1,
        CLASSIFIER,
        "as ONNX Runtime where the specification is vague",
        eval_classifier,
        build_classifier,
    ),
    noted(
        "SVMRegressor",
        1,
        REGRESSOR,
        "post_transform NONE",
        eval_regressor,
        build_regressor,
    ),
];
