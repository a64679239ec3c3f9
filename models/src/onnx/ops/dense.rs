//! Matrices and layers: MatMul, Gemm, and convolutions as a layer over patches.
//!
//! A product with a constant is a layer: its weights lie input-major and go through [`numerics::dense`], summed along the inputs
//! one by one. A convolution gathers each patch and is the same layer over it.

use super::super::graph::Node;
use super::super::tensor::{Tensor, Type, broadcast, check_work, checked_len, stretch};
use super::super::value::{
    Builder, Run, Stage, Step, Value, arena_input, arg, constant, input, maybe, optional,
};
use super::pair::{Pair, build_pair};
use super::{Op, noted, op};
use crate::numerics;

/// A layer over rows that lie end to end.
pub(in super::super) struct Dense {
    /// `[inputs][outputs]`.
    pub weights: Vec<f32>,
    pub bias: Vec<f32>,
    pub inputs: usize,
    pub rows: usize,
    pub from: usize,
    pub at: usize,
}

impl Dense {
    pub(in super::super) fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.at);
        let outputs = self.bias.len();
        let input = &below[self.from..self.from + self.rows * self.inputs];
        let rows = input.chunks_exact(self.inputs);
        for (input, out) in rows.zip(out.chunks_exact_mut(outputs)).take(self.rows) {
            numerics::dense(&self.weights, &self.bias, input, out);
        }
    }

    /// Takes a bias in, if this is the layer whose output lies at `at`.
    pub(in super::super) fn add_bias(&mut self, at: usize, bias: &[f32]) -> bool {
        let mine = self.at == at && self.bias.len() == bias.len();
        if mine {
            self.bias
                .iter_mut()
                .zip(bias)
                .for_each(|(own, new)| *own += new);
        }
        mine
    }
}

/// A layer over a run whose last dimension is its inputs.
pub(in super::super) fn layer(
    builder: &mut Builder,
    x: &Run,
    weights: Vec<f32>,
    bias: Vec<f32>,
    shape: Vec<usize>,
) -> Result<Run, String> {
    let out = builder.fresh(Type::Float, shape)?;
    let inputs = weights.len() / bias.len();
    let rows = x.len() / inputs.max(1);
    builder.stages.push(Stage::Dense(Dense {
        weights,
        bias,
        inputs,
        rows,
        from: x.at,
        at: out.at,
    }));
    Ok(out)
}

/// The shapes of a product: rows, terms of a sum, columns.
pub(super) struct Product {
    pub rows: usize,
    pub terms: usize,
    pub columns: usize,
    /// Where each batch begins, in matrices of `a` and of `b`.
    from_a: Vec<usize>,
    from_b: Vec<usize>,
    pub shape: Vec<usize>,
    /// Multiplications.
    pub work: usize,
}

impl Product {
    pub(super) fn of(a: &[usize], b: &[usize]) -> Result<Self, String> {
        if a.is_empty() || b.is_empty() {
            return Err(format!("a product of shapes {a:?} and {b:?}"));
        }
        let wide_a = if a.len() == 1 {
            vec![1, a[0]]
        } else {
            a.to_vec()
        };
        let wide_b = if b.len() == 1 {
            vec![b[0], 1]
        } else {
            b.to_vec()
        };
        let (batch_a, last_a) = wide_a.split_at(wide_a.len() - 2);
        let (batch_b, last_b) = wide_b.split_at(wide_b.len() - 2);
        if last_a[1] != last_b[0] {
            return Err(format!("a product of shapes {a:?} and {b:?}"));
        }
        let batch = broadcast(batch_a, batch_b)?;
        let mut shape = batch.clone();
        if a.len() > 1 {
            shape.push(last_a[0]);
        }
        if b.len() > 1 {
            shape.push(last_b[1]);
        }
        checked_len(&shape)?;
        let work = check_work(&[batch.iter().product(), last_a[0], last_a[1], last_b[1]])?;
        Ok(Self {
            work,
            from_a: stretch(batch_a, &batch),
            from_b: stretch(batch_b, &batch),
            rows: last_a[0],
            terms: last_a[1],
            columns: last_b[1],
            shape,
        })
    }
}

impl Product {
    /// The sums on `f64`, in the order of the shape; those of one output in the order of its terms.
    pub(super) fn exact(&self, xs: &[f64], ys: &[f64]) -> Vec<f64> {
        let Self {
            rows,
            terms,
            columns,
            ..
        } = *self;
        let mut sums = vec![0.0; self.shape.iter().product()];
        if sums.is_empty() {
            return sums;
        }
        let lines = sums.chunks_exact_mut(rows * columns);
        for (out, (from_a, from_b)) in lines.zip(self.from_a.iter().zip(&self.from_b)) {
            let xs = &xs[from_a * rows * terms..];
            let ys = &ys[from_b * terms * columns..];
            for (row, out) in out.chunks_exact_mut(columns).enumerate() {
                for k in 0..terms {
                    let x = xs[row * terms + k];
                    let ys = &ys[k * columns..][..columns];
                    out.iter_mut().zip(ys).for_each(|(out, y)| *out += x * y);
                }
            }
        }
        sums
    }
}

fn eval_product(_: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let (a, b) = (arg(inputs, 0)?, arg(inputs, 1)?);
    let product = Product::of(&a.shape, &b.shape)?;
    let values = product.exact(a.values()?, b.values()?);
    Ok(vec![Tensor::numbers(a.ty, product.shape, values)])
}

fn product_work(_: &Node, inputs: &[Option<&Tensor>]) -> Result<usize, String> {
    Ok(Product::of(&arg(inputs, 0)?.shape, &arg(inputs, 1)?.shape)?.work)
}

fn build_product(
    builder: &mut Builder,
    _: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let (a, b) = (input(inputs, 0)?, input(inputs, 1)?);
    let product = Product::of(a.shape(), b.shape())?;
    Ok(vec![multiply(builder, product, a, b)?.into()])
}

/// A layer where the right side is one constant matrix, else a product of what rows compute.
pub(super) fn multiply(
    builder: &mut Builder,
    product: Product,
    a: &Value,
    b: &Value,
) -> Result<Run, String> {
    let one = product.terms * product.columns;
    if let Some(weights) = b.known().filter(|b| b.len() > 0 && b.len() == one) {
        let weights = weights.to_floats()?;
        let a = builder.in_arena(a)?;
        let bias = vec![0.0; product.columns];
        return layer(builder, &a, weights, bias, product.shape);
    }
    let (a, b) = (builder.in_arena(a)?, builder.in_arena(b)?);
    let out = builder.fresh(a.ty, product.shape.clone())?;
    builder.push(MatMul {
        bias: vec![0.0; product.columns],
        product,
        a: a.at,
        b: b.at,
        at: out.at,
    });
    Ok(out)
}

/// A product of two computed tensors.
struct MatMul {
    product: Product,
    /// Zeros, what the sums begin with.
    bias: Vec<f32>,
    a: usize,
    b: usize,
    at: usize,
}

impl Step for MatMul {
    fn run(&self, arena: &mut [f32]) {
        let Product {
            rows,
            terms,
            columns,
            ..
        } = self.product;
        if columns == 0 {
            return;
        }
        let (below, out) = arena.split_at_mut(self.at);
        let batches = self.product.from_a.iter().zip(&self.product.from_b);
        for (batch, (from_a, from_b)) in batches.enumerate() {
            let b = &below[self.b + from_b * terms * columns..][..terms * columns];
            for row in 0..rows {
                let a = &below[self.a + (from_a * rows + row) * terms..][..terms];
                let out = &mut out[(batch * rows + row) * columns..][..columns];
                numerics::dense(b, &self.bias, a, out);
            }
        }
    }
}

/// A matrix, turned around where the attribute says so.
fn oriented(tensor: &Tensor, turned: bool) -> Result<Tensor, String> {
    let [rows, columns] = tensor.shape[..] else {
        return Err(format!("shape {:?} is no matrix", tensor.shape));
    };
    if !turned {
        return Ok(tensor.clone());
    }
    let values = tensor.values()?;
    let moved = (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c]));
    Ok(Tensor::numbers(
        tensor.ty,
        vec![columns, rows],
        moved.collect(),
    ))
}

fn eval_gemm(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let a = oriented(arg(inputs, 0)?, node.flag("transA", false)?)?;
    let b = oriented(arg(inputs, 1)?, node.flag("transB", false)?)?;
    let (alpha, beta) = (
        f64::from(node.float("alpha", 1.0)?),
        f64::from(node.float("beta", 1.0)?),
    );
    let product = Product::of(&a.shape, &b.shape)?;
    let mut values = product.exact(a.values()?, b.values()?);
    values.iter_mut().for_each(|value| *value *= alpha);
    if let Some(c) = maybe(inputs, 2) {
        let added = c.values()?;
        fits_under(&c.shape, &product.shape)?;
        let from = stretch(&c.shape, &product.shape);
        for (value, from) in values.iter_mut().zip(from) {
            *value += beta * added[from];
        }
    }
    Ok(vec![Tensor::numbers(a.ty, product.shape, values)])
}

fn gemm_work(node: &Node, inputs: &[Option<&Tensor>]) -> Result<usize, String> {
    let turned = |index: usize, flag: &str| {
        let mut shape = arg(inputs, index)?.shape.clone();
        if node.flag(flag, false)? {
            shape.reverse();
        }
        Ok::<_, String>(shape)
    };
    Ok(Product::of(&turned(0, "transA")?, &turned(1, "transB")?)?.work)
}

fn fits_under(shape: &[usize], whole: &[usize]) -> Result<(), String> {
    let fits = broadcast(shape, whole).is_ok_and(|joined| joined == whole);
    fits.then_some(())
        .ok_or_else(|| format!("shape {shape:?} does not fit into {whole:?}"))
}

fn scaled(tensor: &Tensor, factor: f32) -> Result<Tensor, String> {
    let values = tensor.values()?.iter();
    let values = values.map(|value| value * f64::from(factor)).collect();
    Ok(Tensor::numbers(tensor.ty, tensor.shape.clone(), values))
}

fn build_gemm(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    if node.flag("transA", false)? {
        return Err("attribute transA with an input that rows compute is not supported".to_owned());
    }
    let Some(b) = constant(inputs, 1, "input B")? else {
        return Err("input 1 is missing".to_owned());
    };
    let (alpha, beta) = (node.float("alpha", 1.0)?, node.float("beta", 1.0)?);
    let b = oriented(b, node.flag("transB", false)?)?;
    let a = arena_input(builder, inputs, 0)?;
    if a.shape.len() != 2 {
        return Err(format!("shape {:?} is no matrix", a.shape));
    }
    let product = Product::of(&a.shape, &b.shape)?;
    let weights: Vec<f32> = b.to_floats()?.iter().map(|weight| alpha * weight).collect();
    if weights.is_empty() {
        return Err("a matrix without numbers".to_owned());
    }
    let mut bias = vec![0.0; product.columns];
    let mut late = None;
    match optional(inputs, 2) {
        Some(Value::Known(c))
            if c.len() == 1
                || c.len() == product.columns && product.rows == 1
                || c.shape == [product.columns] =>
        {
            fits_under(&c.shape, &product.shape)?;
            let values = c.to_floats()?;
            bias.iter_mut()
                .enumerate()
                .for_each(|(i, bias)| *bias = beta * values[i % values.len()]);
        }
        Some(Value::Run(_)) if beta != 1.0 => {
            return Err(
                "attribute beta with an input C that rows compute is not supported".to_owned(),
            );
        }
        Some(c) => {
            fits_under(c.shape(), &product.shape)?;
            late = Some(match c {
                Value::Known(c) => scaled(c, beta)?.into(),
                Value::Run(_) => c.clone(),
            });
        }
        None => {}
    }
    let out = layer(builder, &a, weights, bias, product.shape)?;
    Ok(vec![match late {
        None => out.into(),
        Some(c) => build_pair(builder, Pair::Add, &out.into(), &c)?.into(),
    }])
}

const NONE: &[&str] = &[];
const GEMM: &[&str] = &["alpha", "beta", "transA", "transB"];

/// The rows of this family.
pub(in super::super) const OPS: &[Op] = &[
    noted(
        "Conv",
        1,
        super::conv::ATTRIBUTES,
        "1 to 3 dimensions, constant weights",
        super::conv::eval,
        super::conv::build,
    )
    .costing(super::conv::work),
    noted(
        "Gemm",
        7,
        GEMM,
        "constant B; transA only on constants",
        eval_gemm,
        build_gemm,
    )
    .costing(gemm_work),
    op("MatMul", 1, NONE, eval_product, build_product).costing(product_work),
];
