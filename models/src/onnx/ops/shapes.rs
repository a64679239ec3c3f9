//! Shapes and constants: what is known while the graph is compiled.
//!
//! Every shape is fixed here, so `Shape` and `Size` are constants whatever their input, and what is built from them folds away.

use super::super::graph::{Attribute, Node};
use super::super::limits::MAX_ELEMENTS;
use super::super::tensor::{Tensor, Type, checked_len};
use super::super::value::{Builder, Value, arg, input};
use super::moves::sizes;
use super::{Op, noted, op};

fn shape_of(node: &Node, shape: &[usize]) -> Result<Tensor, String> {
    let rank = shape.len() as i64;
    let end = |name: &str, otherwise: i64| {
        let at = node.int(name, otherwise)?;
        let at = if at < 0 { at.saturating_add(rank) } else { at };
        Ok::<usize, String>(at.clamp(0, rank) as usize)
    };
    let (start, stop) = (end("start", 0)?, end("end", rank)?);
    let dims = &shape[start.min(stop)..stop];
    Ok(Tensor::ints(dims.iter().map(|dim| *dim as i64).collect()))
}

fn eval_shape(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    Ok(vec![shape_of(node, &arg(inputs, 0)?.shape)?])
}

fn build_shape(
    _: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    Ok(vec![shape_of(node, input(inputs, 0)?.shape())?.into()])
}

fn size_of(shape: &[usize]) -> Tensor {
    let len: usize = shape.iter().product();
    Tensor::numbers(Type::Int, vec![], vec![len as f64])
}

fn eval_size(_: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    Ok(vec![size_of(&arg(inputs, 0)?.shape)])
}

fn build_size(_: &mut Builder, _: &Node, inputs: &[Option<Value>]) -> Result<Vec<Value>, String> {
    Ok(vec![size_of(input(inputs, 0)?.shape()).into()])
}

fn eval_constant(node: &Node, _: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let Some((name, value)) = node.attributes.iter().next() else {
        return Err("holds no value".to_owned());
    };
    Ok(vec![match value {
        Attribute::Tensor(tensor) => tensor.clone(),
        Attribute::Float(value) => Tensor::numbers(Type::Float, vec![], vec![f64::from(*value)]),
        Attribute::Int(value) => Tensor::numbers(Type::Int, vec![], vec![*value as f64]),
        Attribute::Text(text) => Tensor::texts(vec![], vec![text.clone()]),
        Attribute::Floats(values) => {
            let numbers = values.iter().copied().map(f64::from).collect();
            Tensor::numbers(Type::Float, vec![values.len()], numbers)
        }
        Attribute::Ints(values) => Tensor::ints(values.clone()),
        Attribute::Texts(texts) => Tensor::texts(vec![texts.len()], texts.clone()),
        Attribute::Other(kind) => return Err(format!("attribute {name} is a {kind}")),
    }])
}

fn eval_filled(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let shape = sizes(arg(inputs, 0)?)?;
    let (ty, value) = match node.tensor("value")? {
        Some(tensor) => (tensor.ty, tensor.scalar()?),
        None => (Type::Float, 0.0),
    };
    let len = checked_len(&shape)?;
    Ok(vec![Tensor::numbers(ty, shape, vec![value; len])])
}

fn eval_range(_: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let start = arg(inputs, 0)?;
    let (from, limit) = (start.scalar()?, arg(inputs, 1)?.scalar()?);
    let step = arg(inputs, 2)?.scalar()?;
    let count = ((limit - from) / step).ceil().max(0.0);
    if !count.is_finite() || count > MAX_ELEMENTS as f64 {
        return Err(format!("from {from} to {limit} by {step}"));
    }
    let values: Vec<f64> = (0..count as usize)
        .map(|i| from + i as f64 * step)
        .collect();
    Ok(vec![Tensor::numbers(start.ty, vec![values.len()], values)])
}

fn eval_eye(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let [rows, columns] = x.shape[..] else {
        return Err(format!("shape {:?} is no matrix", x.shape));
    };
    let ty = if node.has("dtype") {
        Type::from_code(node.int("dtype", 1)?)?
    } else {
        x.ty
    };
    let k = node.int("k", 0)?;
    let on = |i: usize| (i % columns) as i64 - (i / columns) as i64 == k;
    let values = (0..rows * columns)
        .map(|i| f64::from(u8::from(on(i))))
        .collect();
    Ok(vec![Tensor::numbers(ty, vec![rows, columns], values)])
}

fn eval_one_hot(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let (indices, values) = (arg(inputs, 0)?, arg(inputs, 2)?);
    let depth = arg(inputs, 1)?.scalar()? as i64;
    let axis = node.int("axis", -1)?;
    if axis != -1 && axis != indices.shape.len() as i64 {
        return Err("an axis other than the last is not supported".to_owned());
    }
    let depth = usize::try_from(depth).map_err(|_| format!("a depth of {depth}"))?;
    let mut shape = indices.shape.clone();
    shape.push(depth);
    checked_len(&shape)?;
    let [off, on] = values.values()? else {
        return Err("values are not two numbers".to_owned());
    };
    let mut hot = Vec::with_capacity(indices.len() * depth);
    for index in indices.to_ints()? {
        let wanted = if index < 0 {
            index + depth as i64
        } else {
            index
        };
        hot.extend((0..depth as i64).map(|i| if i == wanted { *on } else { *off }));
    }
    Ok(vec![Tensor::numbers(values.ty, shape, hot)])
}

fn build_none(_: &mut Builder, _: &Node, _: &[Option<Value>]) -> Result<Vec<Value>, String> {
    Err("depends on what a row computes; only constants are supported".to_owned())
}

const NONE: &[&str] = &[];
const CONSTANT: &[&str] = &[
    "value",
    "value_float",
    "value_floats",
    "value_int",
    "value_ints",
    "value_string",
    "value_strings",
];

/// The rows of this family.
pub(in super::super) const OPS: &[Op] = &[
    op("Constant", 1, CONSTANT, eval_constant, build_none),
    noted(
        "ConstantOfShape",
        9,
        &["value"],
        "constant shape",
        eval_filled,
        build_none,
    ),
    noted(
        "EyeLike",
        9,
        &["dtype", "k"],
        "constant input",
        eval_eye,
        build_none,
    ),
    noted(
        "OneHot",
        9,
        &["axis"],
        "constant inputs, last axis",
        eval_one_hot,
        build_none,
    ),
    noted("Range", 11, NONE, "constant inputs", eval_range, build_none),
    op("Shape", 1, &["end", "start"], eval_shape, build_shape),
    op("Size", 1, NONE, eval_size, build_size),
];
