//! Softmax and the normalisations.
//!
//! Means and variances are plain sums in the order of the elements. Parameters are constants, spread over the whole tensor when
//! the plan is made.

use super::super::graph::Node;
use super::super::tensor::{Tensor, Type, axis, stretch};
use super::super::value::{Builder, Run, Step, Value, arena_input, arg, constant, maybe};
use super::choose::Along;
use super::{Op, noted, op};
use crate::numerics::{self, exp, ln};

/// Over which numbers a softmax goes: up to operator set 12 over everything from the axis on.
fn softmax_lines(node: &Node, shape: &[usize]) -> Result<Along, String> {
    let old = node.opset < 13;
    let at = axis(node.int("axis", if old { 1 } else { -1 })?, shape.len())?;
    let along = Along::of(shape, at);
    Ok(if old {
        Along {
            len: along.len * along.inner,
            inner: 1,
            ..along
        }
    } else {
        along
    })
}

fn eval_softmax(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let lines = softmax_lines(node, &x.shape)?;
    let mut values = x.values()?.to_vec();
    for start in lines.starts() {
        let at = |i: usize| start + i * lines.inner;
        let most = (0..lines.len)
            .map(|i| values[at(i)])
            .fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = (0..lines.len).map(|i| (values[at(i)] - most).exp()).sum();
        for i in 0..lines.len {
            let over = values[at(i)] - most;
            values[at(i)] = if node.op == "Softmax" {
                over.exp() / sum
            } else {
                over - sum.ln()
            };
        }
    }
    Ok(vec![Tensor::numbers(x.ty, x.shape.clone(), values)])
}

fn build_softmax(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let x = arena_input(builder, inputs, 0)?;
    let lines = softmax_lines(node, &x.shape)?;
    let out = builder.fresh(x.ty, x.shape.clone())?;
    builder.push(Softmax {
        lines,
        from: x.at,
        at: out.at,
        log: node.op == "LogSoftmax",
    });
    Ok(vec![out.into()])
}

struct Softmax {
    lines: Along,
    from: usize,
    at: usize,
    log: bool,
}

impl Softmax {
    #[inline(always)]
    fn line(&self, below: &[f32], out: &mut [f32], start: usize) {
        let Along { len, inner, .. } = self.lines;
        let x = &below[self.from + start..];
        let out = &mut out[start..];
        let places = || (0..len).map(|i| i * inner);
        let most = places().fold(
            f32::NEG_INFINITY,
            |most, i| if x[i] > most { x[i] } else { most },
        );
        places().for_each(|i| out[i] = exp(x[i] - most));
        let sum = places().fold(0.0_f32, |sum, i| sum + out[i]);
        if self.log {
            let log = ln(sum);
            places().for_each(|i| out[i] = x[i] - most - log);
        } else {
            places().for_each(|i| out[i] /= sum);
        }
    }
}

impl Step for Softmax {
    fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.at);
        numerics::dispatch(
            #[inline(always)]
            || {
                for start in self.lines.starts() {
                    self.line(below, out, start);
                }
            },
        );
    }
}

/// A normalisation over blocks of numbers that lie side by side.
struct Norm {
    /// Numbers of one block.
    each: usize,
    epsilon: f32,
    /// Whether the mean is taken off.
    centred: bool,
    /// Of every number of the tensor; `None` for 1 and 0.
    scale: Option<Vec<f64>>,
    bias: Option<Vec<f64>>,
}

impl Norm {
    fn of(
        node: &Node,
        shape: &[usize],
        scale: Option<&Tensor>,
        bias: Option<&Tensor>,
    ) -> Result<Self, String> {
        if node.wants(1) || node.wants(2) {
            return Err("mean and variance as outputs are not supported".to_owned());
        }
        let by_axis = matches!(node.op.as_str(), "LayerNormalization" | "RMSNormalization");
        let channels = match shape {
            [_, channels, ..] => *channels,
            // Without channels there is still the last axis.
            _ if by_axis => 1,
            _ => return Err(format!("shape {shape:?} has no channels")),
        };
        let each: usize = match node.op.as_str() {
            "InstanceNormalization" => shape[2..].iter().product(),
            "GroupNormalization" => {
                let groups = usize::try_from(node.int("num_groups", 1)?).unwrap_or(0);
                if groups == 0 || channels % groups != 0 {
                    return Err(format!("{channels} channels in {groups} groups"));
                }
                channels / groups * shape[2..].iter().product::<usize>()
            }
            _ => shape[axis(node.int("axis", -1)?, shape.len())?..]
                .iter()
                .product(),
        };
        let spread = |tensor: Option<&Tensor>| {
            let spread = |tensor: &Tensor| spread(tensor, shape, by_axis);
            tensor.map(spread).transpose()
        };
        Ok(Self {
            each,
            epsilon: node.float("epsilon", 1e-5)?,
            centred: node.op != "RMSNormalization",
            scale: spread(scale)?,
            bias: spread(bias)?,
        })
    }

    fn exact(&self, values: &[f64]) -> Vec<f64> {
        let mut all = Vec::with_capacity(values.len());
        for block in values.chunks_exact(self.each.max(1)) {
            let count = block.len() as f64;
            let mean = if self.centred {
                block.iter().sum::<f64>() / count
            } else {
                0.0
            };
            let square = block.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
            let width = (square + f64::from(self.epsilon)).sqrt();
            for x in block {
                let of = |list: &Option<Vec<f64>>, none: f64| {
                    list.as_ref().map_or(none, |list| list[all.len()])
                };
                let (scale, bias) = (of(&self.scale, 1.0), of(&self.bias, 0.0));
                all.push((x - mean) / width * scale + bias);
            }
        }
        all
    }
}

/// A parameter for every number of `shape`: by numpy's rule, or one a channel.
fn spread(tensor: &Tensor, shape: &[usize], by_axis: bool) -> Result<Vec<f64>, String> {
    let values = tensor.values()?;
    if by_axis {
        let fits = super::super::tensor::broadcast(&tensor.shape, shape)
            .is_ok_and(|joined| joined == shape);
        if !fits {
            return Err(format!(
                "a parameter of {:?} for shape {shape:?}",
                tensor.shape
            ));
        }
        return Ok(stretch(&tensor.shape, shape)
            .iter()
            .map(|from| values[*from])
            .collect());
    }
    if shape.len() < 2 || tensor.shape != [shape[1]] {
        return Err(format!(
            "a parameter of {:?} for shape {shape:?}",
            tensor.shape
        ));
    }
    let inner: usize = shape[2..].iter().product();
    let of = |i: usize| values[i / inner.max(1) % shape[1]];
    Ok((0..shape.iter().product()).map(of).collect())
}

fn eval_norm(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let norm = Norm::of(node, &x.shape, maybe(inputs, 1), maybe(inputs, 2))?;
    Ok(vec![Tensor::numbers(
        x.ty,
        x.shape.clone(),
        norm.exact(x.values()?),
    )])
}

fn build_norm(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let x = arena_input(builder, inputs, 0)?;
    let (scale, bias) = (
        constant(inputs, 1, "the scale")?,
        constant(inputs, 2, "the bias")?,
    );
    let norm = Norm::of(node, &x.shape, scale, bias)?;
    let floats = |list: Option<Vec<f64>>, none: f32| match list {
        Some(list) => list.iter().map(|value| *value as f32).collect(),
        None => vec![none; x.len()],
    };
    let out = builder.fresh(x.ty, x.shape.clone())?;
    builder.push(Normalise {
        each: norm.each,
        epsilon: norm.epsilon,
        centred: norm.centred,
        scale: floats(norm.scale, 1.0),
        bias: floats(norm.bias, 0.0),
        from: x.at,
        at: out.at,
    });
    Ok(vec![out.into()])
}

struct Normalise {
    each: usize,
    epsilon: f32,
    centred: bool,
    /// One a number of the output.
    scale: Vec<f32>,
    bias: Vec<f32>,
    from: usize,
    at: usize,
}

impl Step for Normalise {
    fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.at);
        let len = self.scale.len();
        let blocks = below[self.from..self.from + len].chunks_exact(self.each);
        let parameters = self
            .scale
            .chunks_exact(self.each)
            .zip(self.bias.chunks_exact(self.each));
        let outs = out[..len].chunks_exact_mut(self.each);
        let count = self.each as f32;
        for ((block, (scale, bias)), out) in blocks.zip(parameters).zip(outs) {
            let mean = if self.centred {
                block.iter().fold(0.0_f32, |sum, x| sum + x) / count
            } else {
                0.0
            };
            let square = block
                .iter()
                .fold(0.0_f32, |sum, x| sum + (x - mean) * (x - mean))
                / count;
            let width = (square + self.epsilon).sqrt();
            for (((out, x), scale), bias) in out.iter_mut().zip(block).zip(scale).zip(bias) {
                *out = (x - mean) / width * scale + bias;
            }
        }
    }
}

/// Mean, factor and bias of every number.
struct Batch {
    mean: Vec<f64>,
    factor: Vec<f64>,
    bias: Vec<f64>,
}

impl Batch {
    fn of(node: &Node, shape: &[usize], parameters: [&Tensor; 4]) -> Result<Self, String> {
        if node.flag("training_mode", false)? || node.int("spatial", 1)? != 1 {
            return Err("training mode is not supported".to_owned());
        }
        let epsilon = f64::from(node.float("epsilon", 1e-5)?);
        let spread = |tensor: &Tensor| spread(tensor, shape, false);
        let [scale, bias, mean, variance] = parameters;
        let widths = spread(variance)?;
        let factor = spread(scale)?
            .iter()
            .zip(&widths)
            .map(|(scale, variance)| scale / (variance + epsilon).sqrt())
            .collect();
        Ok(Self {
            mean: spread(mean)?,
            factor,
            bias: spread(bias)?,
        })
    }
}

fn eval_batch(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let parameters = [
        arg(inputs, 1)?,
        arg(inputs, 2)?,
        arg(inputs, 3)?,
        arg(inputs, 4)?,
    ];
    let batch = Batch::of(node, &x.shape, parameters)?;
    let normal = |(i, x): (usize, &f64)| (x - batch.mean[i]) * batch.factor[i] + batch.bias[i];
    let values = x.values()?.iter().enumerate().map(normal).collect();
    Ok(vec![Tensor::numbers(x.ty, x.shape.clone(), values)])
}

fn build_batch(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let parameter = |index| {
        constant(inputs, index, "a parameter")?.ok_or_else(|| format!("input {index} is missing"))
    };
    let parameters = [parameter(1)?, parameter(2)?, parameter(3)?, parameter(4)?];
    let x = arena_input(builder, inputs, 0)?;
    let batch = Batch::of(node, &x.shape, parameters)?;
    let floats = |list: &[f64]| list.iter().map(|value| *value as f32).collect();
    let out = affine(
        builder,
        &x,
        floats(&batch.mean),
        floats(&batch.factor),
        floats(&batch.bias),
    )?;
    Ok(vec![out.into()])
}

/// `(x - mean) * factor + bias`, rounded after each operation.
pub(super) fn affine(
    builder: &mut Builder,
    x: &Run,
    mean: Vec<f32>,
    factor: Vec<f32>,
    bias: Vec<f32>,
) -> Result<Run, String> {
    let out = builder.fresh(Type::Float, x.shape.clone())?;
    builder.push(Affine {
        mean,
        factor,
        bias,
        from: x.at,
        at: out.at,
    });
    Ok(out)
}

struct Affine {
    mean: Vec<f32>,
    factor: Vec<f32>,
    bias: Vec<f32>,
    from: usize,
    at: usize,
}

impl Step for Affine {
    fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.at);
        let parameters = self.mean.iter().zip(&self.factor).zip(&self.bias);
        let x = &below[self.from..];
        for ((out, x), ((mean, factor), bias)) in out.iter_mut().zip(x).zip(parameters) {
            *out = (x - mean) * factor + bias;
        }
    }
}

/// `LpNormalization` of `ai.onnx`.
fn lp(node: &Node, shape: &[usize]) -> Result<(Along, bool), String> {
    let at = axis(node.int("axis", -1)?, shape.len())?;
    match node.int("p", 2)? {
        1 => Ok((Along::of(shape, at), false)),
        2 => Ok((Along::of(shape, at), true)),
        p => Err(format!("attribute p is {p}")),
    }
}

fn eval_lp(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let (lines, squares) = lp(node, &x.shape)?;
    let mut values = x.values()?.to_vec();
    for start in lines.starts() {
        let at = |i: usize| start + i * lines.inner;
        let size = |x: f64| if squares { x * x } else { x.abs() };
        let sum: f64 = (0..lines.len).map(|i| size(values[at(i)])).sum();
        let norm = if squares { sum.sqrt() } else { sum };
        (0..lines.len)
            .filter(|_| norm != 0.0)
            .for_each(|i| values[at(i)] /= norm);
    }
    Ok(vec![Tensor::numbers(x.ty, x.shape.clone(), values)])
}

fn build_lp(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let x = arena_input(builder, inputs, 0)?;
    let (lines, squares) = lp(node, &x.shape)?;
    let out = builder.fresh(x.ty, x.shape.clone())?;
    builder.push(Lp {
        lines,
        squares,
        from: x.at,
        at: out.at,
    });
    Ok(vec![out.into()])
}

struct Lp {
    lines: Along,
    squares: bool,
    from: usize,
    at: usize,
}

impl Step for Lp {
    fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.at);
        for start in self.lines.starts() {
            let (x, out) = (&below[self.from + start..], &mut out[start..]);
            let places = || (0..self.lines.len).map(|i| i * self.lines.inner);
            let size = |x: f32| if self.squares { x * x } else { x.abs() };
            let sum = places().fold(0.0_f32, |sum, i| sum + size(x[i]));
            let norm = if self.squares { sum.sqrt() } else { sum };
            let norm = if norm == 0.0 { 1.0 } else { norm };
            places().for_each(|i| out[i] = x[i] / norm);
        }
    }
}

/// The rows of this family.
pub(in super::super) const OPS: &[Op] = &[
    noted(
        "BatchNormalization",
        7,
        &["epsilon", "momentum", "spatial", "training_mode"],
        "not in training mode; constant parameters",
        eval_batch,
        build_batch,
    ),
    noted(
        "GroupNormalization",
        21,
        &["epsilon", "num_groups", "stash_type"],
        "constant parameters",
        eval_norm,
        build_norm,
    ),
    noted(
        "InstanceNormalization",
        6,
        &["epsilon"],
        "constant parameters",
        eval_norm,
        build_norm,
    ),
    noted(
        "LayerNormalization",
        17,
        &["axis", "epsilon", "stash_type"],
        "constant parameters; first output only",
        eval_norm,
        build_norm,
    ),
    op("LogSoftmax", 1, &["axis"], eval_softmax, build_softmax),
    op("LpNormalization", 1, &["axis", "p"], eval_lp, build_lp),
    noted(
        "RMSNormalization",
        23,
        &["axis", "epsilon", "stash_type"],
        "constant parameters",
        eval_norm,
        build_norm,
    ),
    op("Softmax", 1, &["axis"], eval_softmax, build_softmax),
];
