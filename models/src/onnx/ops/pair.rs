//! Functions of several tensors, element by element, stretched to one shape.
//!
//! Each operator is one plain operation on `f32`, rounded as ONNX Runtime rounds it: nothing is fused across nodes, so that a
//! scaled value compares with a tree's threshold as it does there.

use std::sync::Arc;

use super::super::graph::Node;
use super::super::math;
use super::super::tensor::{Tensor, Type, broadcast, checked_len, stretch};
use super::super::value::{Builder, Run, Stage, Step, Value, arg, input};
use super::moves::Pick;
use super::{Op, noted, op};
use crate::numerics;

/// A function of two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Pair {
    Add,
    And,
    Div,
    Equal,
    Greater,
    GreaterOrEqual,
    IntDiv,
    Less,
    LessOrEqual,
    Max,
    Min,
    Fmod,
    Mod,
    Mul,
    Or,
    PRelu,
    Pow,
    Sub,
    Xor,
}

impl Pair {
    fn of(node: &Node, ty: Type) -> Result<Self, String> {
        Ok(match node.op.as_str() {
            "Add" | "Sum" | "Mean" => Self::Add,
            "And" => Self::And,
            "Div" if ty.is_float() => Self::Div,
            "Div" => Self::IntDiv,
            "Equal" => Self::Equal,
            "Greater" => Self::Greater,
            "GreaterOrEqual" => Self::GreaterOrEqual,
            "Less" => Self::Less,
            "LessOrEqual" => Self::LessOrEqual,
            "Max" => Self::Max,
            "Min" => Self::Min,
            "Mod" if node.flag("fmod", false)? => Self::Fmod,
            "Mod" => Self::Mod,
            "Mul" => Self::Mul,
            "Or" => Self::Or,
            "PRelu" => Self::PRelu,
            "Pow" => Self::Pow,
            "Sub" => Self::Sub,
            "Xor" => Self::Xor,
            other => return Err(format!("{other} is no function of two numbers")),
        })
    }

    fn gives(self, ty: Type) -> Type {
        match self {
            Self::And | Self::Or | Self::Xor | Self::Equal => Type::Bool,
            Self::Greater | Self::GreaterOrEqual | Self::Less | Self::LessOrEqual => Type::Bool,
            _ => ty,
        }
    }

    fn exact(self, x: f64, y: f64) -> f64 {
        let truth = |holds: bool| f64::from(u8::from(holds));
        match self {
            Self::Add => x + y,
            Self::Sub => x - y,
            Self::Mul => x * y,
            Self::Div => x / y,
            Self::IntDiv => (x / y).trunc(),
            Self::Pow => x.powf(y),
            Self::Fmod => x % y,
            Self::Mod => {
                let rest = x % y;
                if rest != 0.0 && (rest < 0.0) != (y < 0.0) {
                    rest + y
                } else {
                    rest
                }
            }
            Self::Max => {
                if x.is_nan() || x > y {
                    x
                } else {
                    y
                }
            }
            Self::Min => {
                if x.is_nan() || x < y {
                    x
                } else {
                    y
                }
            }
            Self::PRelu => {
                if x < 0.0 {
                    x * y
                } else {
                    x
                }
            }
            Self::Equal => truth(x == y),
            Self::Greater => truth(x > y),
            Self::GreaterOrEqual => truth(x >= y),
            Self::Less => truth(x < y),
            Self::LessOrEqual => truth(x <= y),
            Self::And => truth(x != 0.0 && y != 0.0),
            Self::Or => truth(x != 0.0 || y != 0.0),
            Self::Xor => truth((x != 0.0) != (y != 0.0)),
        }
    }

    #[inline(always)]
    fn zip(self, x: Side<'_>, y: Side<'_>, out: &mut [f32]) {
        match self {
            Self::Add => zip(x, y, out, |x, y| x + y),
            Self::Sub => zip(x, y, out, |x, y| x - y),
            Self::Mul => zip(x, y, out, |x, y| x * y),
            Self::Div => zip(x, y, out, |x, y| x / y),
            Self::Max => zip(x, y, out, |x, y| if x.is_nan() || x > y { x } else { y }),
            Self::Min => zip(x, y, out, |x, y| if x.is_nan() || x < y { x } else { y }),
            Self::PRelu => zip(x, y, out, |x, y| if x < 0.0 { x * y } else { x }),
            Self::IntDiv => zip(x, y, out, |x, y| (x / y).trunc()),
            Self::Pow => zip(x, y, out, math::pow),
            Self::Fmod => zip(x, y, out, |x, y| x % y),
            Self::Mod => zip(x, y, out, |x, y| {
                let rest = x % y;
                let other = rest != 0.0 && (rest < 0.0) != (y < 0.0);
                if other { rest + y } else { rest }
            }),
            Self::Equal => zip(x, y, out, |x, y| truth(x == y)),
            Self::Greater => zip(x, y, out, |x, y| truth(x > y)),
            Self::GreaterOrEqual => zip(x, y, out, |x, y| truth(x >= y)),
            Self::Less => zip(x, y, out, |x, y| truth(x < y)),
            Self::LessOrEqual => zip(x, y, out, |x, y| truth(x <= y)),
            Self::And => zip(x, y, out, |x, y| truth(x != 0.0 && y != 0.0)),
            Self::Or => zip(x, y, out, |x, y| truth(x != 0.0 || y != 0.0)),
            Self::Xor => zip(x, y, out, |x, y| truth((x != 0.0) != (y != 0.0))),
        }
    }
}

#[inline(always)]
fn truth(holds: bool) -> f32 {
    f32::from(holds)
}

/// One side of a step at run time.
#[derive(Clone, Copy)]
enum Side<'a> {
    Many(&'a [f32]),
    One(f32),
}

#[inline(always)]
fn zip(x: Side<'_>, y: Side<'_>, out: &mut [f32], function: impl Fn(f32, f32) -> f32) {
    match (x, y) {
        (Side::Many(x), Side::Many(y)) => {
            for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
                *out = function(*x, *y);
            }
        }
        (Side::Many(x), Side::One(y)) => {
            out.iter_mut()
                .zip(x)
                .for_each(|(out, x)| *out = function(*x, y));
        }
        (Side::One(x), Side::Many(y)) => {
            out.iter_mut()
                .zip(y)
                .for_each(|(out, y)| *out = function(x, *y));
        }
        (Side::One(x), Side::One(y)) => out.fill(function(x, y)),
    }
}

/// One side of a step in a plan.
enum Operand {
    /// As many as the output has, from there in the arena.
    Arena(usize),
    /// One number of the arena.
    Cell(usize),
    Known(Arc<[f32]>),
    Number(f32),
}

impl Operand {
    #[inline]
    fn side<'a>(&'a self, below: &'a [f32], len: usize) -> Side<'a> {
        match self {
            Self::Arena(at) => Side::Many(&below[*at..*at + len]),
            Self::Cell(at) => Side::One(below[*at]),
            Self::Known(data) => Side::Many(data),
            Self::Number(value) => Side::One(*value),
        }
    }

    /// `value` stretched to `shape`.
    fn of(builder: &mut Builder, value: &Value, shape: &[usize]) -> Result<Self, String> {
        match value {
            Value::Known(tensor) if tensor.len() == 1 => Ok(Self::Number(tensor.scalar()? as f32)),
            Value::Known(tensor) => {
                let data = tensor.to_floats()?;
                let stretched = stretch(&tensor.shape, shape);
                Ok(Self::Known(
                    stretched.iter().map(|from| data[*from]).collect(),
                ))
            }
            Value::Run(run) => {
                let run = builder.plain(run)?;
                let len: usize = shape.iter().product();
                if run.len() == len {
                    Ok(Self::Arena(run.at))
                } else if run.len() == 1 {
                    Ok(Self::Cell(run.at))
                } else {
                    Ok(Self::Arena(Pick::stretched(builder, &run, shape)?.at))
                }
            }
        }
    }
}

struct Two {
    pair: Pair,
    x: Operand,
    y: Operand,
    at: usize,
    len: usize,
}

impl Step for Two {
    fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.at);
        let out = &mut out[..self.len];
        let (x, y) = (self.x.side(below, self.len), self.y.side(below, self.len));
        numerics::dispatch(
            #[inline(always)]
            || self.pair.zip(x, y, out),
        );
    }
}

fn eval(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let first = arg(inputs, 0)?;
    let mut joined = first.clone();
    for index in 1..inputs.len() {
        let next = arg(inputs, index)?;
        joined = eval_pair(Pair::of(node, first.ty)?, &joined, next)?;
    }
    if node.op == "Mean" {
        let count = Tensor::numbers(Type::Float, vec![], vec![inputs.len() as f64]);
        joined = eval_pair(Pair::Div, &joined, &count)?;
    }
    Ok(vec![joined])
}

fn eval_pair(pair: Pair, x: &Tensor, y: &Tensor) -> Result<Tensor, String> {
    let shape = broadcast(&x.shape, &y.shape)?;
    let (from_x, from_y) = (stretch(&x.shape, &shape), stretch(&y.shape, &shape));
    let (xs, ys) = (x.values()?, y.values()?);
    let values = from_x
        .iter()
        .zip(&from_y)
        .map(|(x, y)| pair.exact(xs[*x], ys[*y]))
        .collect();
    Ok(Tensor::numbers(pair.gives(x.ty), shape, values))
}

/// Each further input goes over all that the inputs are stretched to.
fn stretched_work(_: &Node, inputs: &[Option<&Tensor>]) -> Result<usize, String> {
    let mut shape = Vec::new();
    for tensor in inputs.iter().flatten() {
        shape = broadcast(&shape, &tensor.shape)?;
    }
    Ok(checked_len(&shape)?.saturating_mul(inputs.len()))
}

fn build(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let first = input(inputs, 0)?.clone();
    let pair = Pair::of(node, first.ty())?;
    if let [_, Some(second)] = inputs
        && pair == Pair::Add
        && let Some(run) = add_bias(builder, node, &first, second)?
    {
        return Ok(vec![run.into()]);
    }
    if let [_, Some(Value::Known(power))] = inputs
        && pair == Pair::Pow
        && power.len() == 1
        && power.shape.len() <= first.shape().len()
        && power.scalar()? == 2.0
    {
        // The usual power costs one product.
        return Ok(vec![build_pair(builder, Pair::Mul, &first, &first)?.into()]);
    }
    let mut joined = first;
    for index in 1..inputs.len() {
        joined = build_pair(builder, pair, &joined, input(inputs, index)?)?.into();
    }
    if node.op == "Mean" {
        let count = Tensor::numbers(Type::Float, vec![], vec![inputs.len() as f64]);
        joined = build_pair(builder, Pair::Div, &joined, &count.into())?.into();
    }
    Ok(vec![joined])
}

/// `pair` of two values, in a place of its own.
pub(in super::super) fn build_pair(
    builder: &mut Builder,
    pair: Pair,
    x: &Value,
    y: &Value,
) -> Result<Run, String> {
    let shape = broadcast(x.shape(), y.shape())?;
    let ty = pair.gives(x.ty());
    let x = Operand::of(builder, x, &shape)?;
    let y = Operand::of(builder, y, &shape)?;
    let out = builder.fresh(ty, shape)?;
    builder.push(Two {
        pair,
        x,
        y,
        at: out.at,
        len: out.len(),
    });
    Ok(out)
}

/// A constant added to a layer's output becomes the layer's bias.
fn add_bias(
    builder: &mut Builder,
    node: &Node,
    first: &Value,
    second: &Value,
) -> Result<Option<Run>, String> {
    let (run, name, bias) = match (first, second) {
        (Value::Run(run), Value::Known(bias)) => (run, &node.inputs[0], bias),
        (Value::Known(bias), Value::Run(run)) => (run, &node.inputs[1], bias),
        _ => return Ok(None),
    };
    let wide = run.shape.last().copied();
    let fits = Some(bias.len()) == wide && bias.shape.last().copied() == wide;
    if !fits || bias.shape.len() > run.shape.len() || !builder.is_last_use(name, run) {
        return Ok(None);
    }
    let bias = bias.to_floats()?;
    let added = match builder.stages.last_mut() {
        Some(Stage::Dense(dense)) => dense.add_bias(run.at, &bias),
        _ => false,
    };
    Ok(added.then(|| run.clone()))
}

fn eval_where(_: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let (condition, x, y) = (arg(inputs, 0)?, arg(inputs, 1)?, arg(inputs, 2)?);
    let shape = broadcast(&broadcast(&condition.shape, &x.shape)?, &y.shape)?;
    let places = [condition, x, y].map(|tensor| stretch(&tensor.shape, &shape));
    let (holds, xs, ys) = (condition.values()?, x.values()?, y.values()?);
    let pick = |i: usize| {
        if holds[places[0][i]] != 0.0 {
            xs[places[1][i]]
        } else {
            ys[places[2][i]]
        }
    };
    let values = (0..places[0].len()).map(pick).collect();
    Ok(vec![Tensor::numbers(x.ty, shape, values)])
}

fn build_where(
    builder: &mut Builder,
    _: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let (condition, x, y) = (input(inputs, 0)?, input(inputs, 1)?, input(inputs, 2)?);
    let shape = broadcast(&broadcast(condition.shape(), x.shape())?, y.shape())?;
    let ty = x.ty();
    let operands = [
        Operand::of(builder, condition, &shape)?,
        Operand::of(builder, x, &shape)?,
        Operand::of(builder, y, &shape)?,
    ];
    let out = builder.fresh(ty, shape)?;
    builder.push(Where {
        operands,
        at: out.at,
        len: out.len(),
    });
    Ok(vec![out.into()])
}

struct Where {
    /// Condition, then, else.
    operands: [Operand; 3],
    at: usize,
    len: usize,
}

impl Step for Where {
    fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.at);
        let [condition, x, y] = self
            .operands
            .each_ref()
            .map(|operand| operand.side(below, self.len));
        let at = |side: Side<'_>, i: usize| match side {
            Side::Many(values) => values[i],
            Side::One(value) => value,
        };
        for (i, out) in out[..self.len].iter_mut().enumerate() {
            *out = if at(condition, i) != 0.0 {
                at(x, i)
            } else {
                at(y, i)
            };
        }
    }
}

const NONE: &[&str] = &[];

/// The rows of this family.
pub(in super::super) const OPS: &[Op] = &[
    noted(
        "Add",
        7,
        NONE,
        "a constant after MatMul or Gemm becomes the layer's bias",
        eval,
        build,
    )
    .costing(stretched_work),
    op("And", 7, NONE, eval, build).costing(stretched_work),
    op("Div", 7, NONE, eval, build).costing(stretched_work),
    op("Equal", 7, NONE, eval, build).costing(stretched_work),
    op("Greater", 7, NONE, eval, build).costing(stretched_work),
    op("GreaterOrEqual", 12, NONE, eval, build).costing(stretched_work),
    op("Less", 7, NONE, eval, build).costing(stretched_work),
    op("LessOrEqual", 12, NONE, eval, build).costing(stretched_work),
    op("Max", 6, NONE, eval, build).costing(stretched_work),
    op("Mean", 6, NONE, eval, build).costing(stretched_work),
    op("Min", 6, NONE, eval, build).costing(stretched_work),
    op("Mod", 10, &["fmod"], eval, build).costing(stretched_work),
    op("Mul", 7, NONE, eval, build).costing(stretched_work),
    op("Or", 7, NONE, eval, build).costing(stretched_work),
    op("Pow", 7, NONE, eval, build).costing(stretched_work),
    op("PRelu", 7, NONE, eval, build).costing(stretched_work),
    op("Sub", 7, NONE, eval, build).costing(stretched_work),
    op("Sum", 6, NONE, eval, build).costing(stretched_work),
    op("Where", 9, NONE, eval_where, build_where).costing(stretched_work),
    op("Xor", 7, NONE, eval, build).costing(stretched_work),
];
