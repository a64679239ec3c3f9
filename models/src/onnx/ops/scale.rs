//! Scalers and the like of `ai.onnx.ml`.

use super::super::graph::Node;
use super::super::tensor::{Tensor, Type};
use super::super::value::{Builder, Step, Value, arena_input, arg};
use super::normal::affine;
use super::scores::row_width;
use super::{Op, noted, op};

/// One value a feature, from one value or as many.
fn per_feature(values: &[f32], width: usize, name: &str) -> Result<Vec<f32>, String> {
    match values.len() {
        1 => Ok(vec![values[0]; width]),
        len if len == width => Ok(values.to_vec()),
        len => Err(format!("{name} has {len} values for {width} features")),
    }
}

fn scaler(node: &Node, shape: &[usize]) -> Result<(Vec<f32>, Vec<f32>), String> {
    let width = row_width(shape)?;
    let offset = per_feature(node.floats("offset")?, width, "offset")?;
    Ok((offset, per_feature(node.floats("scale")?, width, "scale")?))
}

fn eval_scaler(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let (offset, scale) = scaler(node, &x.shape)?;
    let parameters = offset.iter().zip(&scale);
    // Rounded in between, as a float is.
    let scaled = |(x, (offset, scale)): (&f64, (&f32, &f32))| {
        f64::from((x - f64::from(*offset)) as f32) * f64::from(*scale)
    };
    let values = x.values()?.iter().zip(parameters).map(scaled).collect();
    Ok(vec![Tensor::numbers(Type::Float, x.shape.clone(), values)])
}

fn build_scaler(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let x = arena_input(builder, inputs, 0)?;
    let (offset, scale) = scaler(node, &x.shape)?;
    let zeros = vec![0.0; offset.len()];
    Ok(vec![affine(builder, &x, offset, scale, zeros)?.into()])
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Norm {
    Max,
    L1,
    L2,
}

fn norm(node: &Node, shape: &[usize]) -> Result<Norm, String> {
    row_width(shape)?;
    Ok(match node.text("norm", "MAX")? {
        "MAX" => Norm::Max,
        "L1" => Norm::L1,
        "L2" => Norm::L2,
        other => return Err(format!("attribute norm is {other:?}")),
    })
}

fn eval_normalizer(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let norm = norm(node, &x.shape)?;
    let values = x.values()?;
    let size = match norm {
        Norm::Max => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        Norm::L1 => values.iter().map(|x| x.abs()).sum(),
        Norm::L2 => values.iter().map(|x| x * x).sum::<f64>().sqrt(),
    };
    let size = if size == 0.0 { 1.0 } else { size };
    let values = values.iter().map(|x| x / size).collect();
    Ok(vec![Tensor::numbers(Type::Float, x.shape.clone(), values)])
}

fn build_normalizer(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let x = arena_input(builder, inputs, 0)?;
    let norm = norm(node, &x.shape)?;
    let out = builder.fresh(Type::Float, x.shape.clone())?;
    builder.push(Normalize {
        norm,
        from: x.at,
        at: out.at,
        len: out.len(),
    });
    Ok(vec![out.into()])
}

struct Normalize {
    norm: Norm,
    from: usize,
    at: usize,
    len: usize,
}

impl Step for Normalize {
    fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.at);
        let (x, out) = (
            &below[self.from..self.from + self.len],
            &mut out[..self.len],
        );
        let size = match self.norm {
            Norm::Max => x
                .iter()
                .fold(f32::MIN, |most, x| if *x > most { *x } else { most }),
            Norm::L1 => x.iter().fold(0.0, |sum, x| sum + x.abs()),
            Norm::L2 => x.iter().fold(0.0, |sum, x| sum + x * x),
        };
        for (out, x) in out.iter_mut().zip(x) {
            *out = match self.norm {
                _ if size == 0.0 => *x,
                Norm::L2 => ((x * x) / size).sqrt().copysign(*x),
                _ => x / size,
            };
        }
    }
}

/// What replaces a value: `(wanted, its replacement of each feature)`.
fn imputer(node: &Node, shape: &[usize]) -> Result<(f32, Vec<f32>), String> {
    let width = row_width(shape)?;
    let (ints, floats) = (
        node.ints("imputed_value_int64s")?,
        node.floats("imputed_value_floats")?,
    );
    if ints.is_empty() {
        let replaced = node.float("replaced_value_float", 0.0)?;
        return Ok((
            replaced,
            per_feature(floats, width, "imputed_value_floats")?,
        ));
    }
    let ints: Vec<f32> = ints.iter().map(|value| *value as f32).collect();
    let replaced = node.int("replaced_value_int64", 0)? as f32;
    Ok((replaced, per_feature(&ints, width, "imputed_value_int64s")?))
}

fn eval_imputer(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let (replaced, by) = imputer(node, &x.shape)?;
    let replace = |(x, by): (&f64, &f32)| {
        let goes = *x == f64::from(replaced) || (x.is_nan() && replaced.is_nan());
        if goes { f64::from(*by) } else { *x }
    };
    let values = x.values()?.iter().zip(&by).map(replace).collect();
    Ok(vec![Tensor::numbers(x.ty, x.shape.clone(), values)])
}

fn build_imputer(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let x = arena_input(builder, inputs, 0)?;
    let (replaced, by) = imputer(node, &x.shape)?;
    let out = builder.fresh(x.ty, x.shape.clone())?;
    builder.push(Impute {
        replaced,
        by,
        from: x.at,
        at: out.at,
    });
    Ok(vec![out.into()])
}

struct Impute {
    replaced: f32,
    by: Vec<f32>,
    from: usize,
    at: usize,
}

impl Step for Impute {
    fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.at);
        for ((out, x), by) in out.iter_mut().zip(&below[self.from..]).zip(&self.by) {
            let goes = *x == self.replaced || (x.is_nan() && self.replaced.is_nan());
            *out = if goes { *by } else { *x };
        }
    }
}

fn eval_binarizer(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let threshold = f64::from(node.float("threshold", 0.0)?);
    let values = x
        .values()?
        .iter()
        .map(|x| f64::from(u8::from(*x > threshold)))
        .collect();
    Ok(vec![Tensor::numbers(x.ty, x.shape.clone(), values)])
}

fn build_binarizer(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let x = arena_input(builder, inputs, 0)?;
    let out = builder.fresh(x.ty, x.shape.clone())?;
    let threshold = node.float("threshold", 0.0)?;
    builder.push(Binarize {
        threshold,
        from: x.at,
        at: out.at,
        len: out.len(),
    });
    Ok(vec![out.into()])
}

struct Binarize {
    threshold: f32,
    from: usize,
    at: usize,
    len: usize,
}

impl Step for Binarize {
    fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.at);
        for (out, x) in out[..self.len].iter_mut().zip(&below[self.from..]) {
            *out = f32::from(*x > self.threshold);
        }
    }
}

const IMPUTER: &[&str] = &[
    "imputed_value_floats",
    "imputed_value_int64s",
    "replaced_value_float",
    "replaced_value_int64",
];

/// The rows of this family.
pub(in super::super) const OPS: &[Op] = &[
    op(
        "Binarizer",
        1,
        &["threshold"],
        eval_binarizer,
        build_binarizer,
    ),
    op("Imputer", 1, IMPUTER, eval_imputer, build_imputer),
    noted(
        "Normalizer",
        1,
        &["norm"],
        "MAX divides by the largest, not by the largest size, as ONNX Runtime does",
        eval_normalizer,
        build_normalizer,
    ),
    op("Scaler", 1, &["offset", "scale"], eval_scaler, build_scaler),
];
