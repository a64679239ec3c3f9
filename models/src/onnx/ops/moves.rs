//! Shape and order: operators that only move numbers.
//!
//! Each is written once, as `eval` on tensors. For a plan it is evaluated on the *places* of its inputs, which gives for each
//! number of the output where it comes from: one [`Pick`] step, or none at all where the places already lie in a row.

use super::super::graph::Node;
use super::super::limits::MAX_RANK;
use super::super::tensor::{
    Data, Tensor, Type, axis, broadcast, checked_len, stretch, strides, walk,
};
use super::super::value::{Builder, Run, Step, Value, arg, constant, input, maybe};
use super::{Op, noted, op};

/// Where nothing is copied from.
const FILL: u32 = u32::MAX;

/// Copies single numbers from anywhere below.
pub(in super::super) struct Pick {
    sources: Vec<u32>,
    fill: f32,
    at: usize,
}

impl Step for Pick {
    fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.at);
        for (out, source) in out.iter_mut().zip(&self.sources) {
            *out = below.get(*source as usize).copied().unwrap_or(self.fill);
        }
    }
}

impl Pick {
    /// `run` stretched to `shape`, in a place of its own.
    pub(in super::super) fn stretched(
        builder: &mut Builder,
        run: &Run,
        shape: &[usize],
    ) -> Result<Run, String> {
        let places = stretch(&run.shape, shape);
        let sources = places.iter().map(|place| (run.at + place) as u32).collect();
        let out = builder.fresh(run.ty, shape.to_vec())?;
        builder.push(Self {
            sources,
            fill: 0.0,
            at: out.at,
        });
        Ok(out)
    }

    /// Numbers from the places that `sources` holds (NaN: `fill`): a view where they lie in a row, else a copy.
    pub(in super::super) fn gather(
        builder: &mut Builder,
        ty: Type,
        sources: &Tensor,
        fill: f32,
    ) -> Result<Run, String> {
        let places = sources.values()?;
        let in_a_row = places.windows(2).all(|pair| pair[1] == pair[0] + 1.0);
        if let Some(first) = places.first().filter(|first| in_a_row && !first.is_nan()) {
            return Ok(Run {
                ty,
                shape: sources.shape.clone(),
                at: *first as usize,
                labels: None,
                names: None,
                chosen: false,
                owned: false,
            });
        }
        let place = |place: &f64| if place.is_nan() { FILL } else { *place as u32 };
        let sources_of = places.iter().map(place).collect();
        let out = builder.fresh(ty, sources.shape.clone())?;
        builder.push(Self {
            sources: sources_of,
            fill,
            at: out.at,
        });
        Ok(out)
    }
}

/// The places of a run, as a tensor.
pub(super) fn places(run: &Run) -> Tensor {
    let places = (run.at..run.at + run.len()).map(|at| at as f64).collect();
    Tensor::numbers(Type::Double, run.shape.clone(), places)
}

/// Input 0 moves; the others must be constants.
pub(super) fn build_with(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
    fill: f32,
    eval: super::Eval,
) -> Result<Vec<Value>, String> {
    let Value::Run(run) = input(inputs, 0)? else {
        return Err("places that a row computes are not supported".to_owned());
    };
    let from = places(run);
    let mut tensors = vec![Some(&from)];
    for index in 1..inputs.len() {
        tensors.push(constant(inputs, index, "a parameter")?);
    }
    let moved = eval(node, &tensors)?;
    let mut outputs = Vec::with_capacity(moved.len());
    for sources in &moved {
        if sources.len() == 0 {
            let nothing = Tensor::numbers(run.ty, sources.shape.clone(), Vec::new());
            outputs.push(nothing.into());
            continue;
        }
        let mut out = Pick::gather(builder, run.ty, sources, fill)?;
        out.labels.clone_from(&run.labels);
        out.chosen = run.chosen;
        if out.at == run.at && out.len() == run.len() {
            out.names.clone_from(&run.names);
            out.owned = moved.len() == 1 && builder.is_last_use(&node.inputs[0], run);
        }
        outputs.push(out.into());
    }
    Ok(outputs)
}

macro_rules! mover {
    ($build:ident, $eval:ident) => {
        fn $build(
            builder: &mut Builder,
            node: &Node,
            inputs: &[Option<Value>],
        ) -> Result<Vec<Value>, String> {
            build_with(builder, node, inputs, 0.0, $eval)
        }
    };
}

mover!(build_same, eval_same);
mover!(build_reshape, eval_reshape);
mover!(build_flatten, eval_flatten);
mover!(build_squeeze, eval_squeeze);
mover!(build_unsqueeze, eval_unsqueeze);
mover!(build_transpose, eval_transpose);
mover!(build_slice, eval_slice);
mover!(build_split, eval_split);
mover!(build_expand, eval_expand);
mover!(build_tile, eval_tile);

/// Elements of `x` at `from`, under `shape`; NaN (or an empty string) where `from` is `None`.
pub(super) fn take(x: &Tensor, shape: Vec<usize>, from: &[Option<usize>], fill: f64) -> Tensor {
    match &x.data {
        Data::Numbers(data) => {
            let number = |place: &Option<usize>| place.map_or(fill, |place| data[place]);
            Tensor::numbers(x.ty, shape, from.iter().map(number).collect())
        }
        Data::Texts(data) => {
            let text = |place: &Option<usize>| place.map_or_else(String::new, |p| data[p].clone());
            Tensor::texts(shape, from.iter().map(text).collect())
        }
    }
}

pub(super) fn take_all(x: &Tensor, shape: Vec<usize>, from: Vec<usize>) -> Tensor {
    let from: Vec<_> = from.into_iter().map(Some).collect();
    take(x, shape, &from, 0.0)
}

fn eval_same(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    if node.flag("training_mode", false)? || maybe(inputs, 2).is_some_and(|t| t.scalar() == Ok(1.0))
    {
        return Err("training mode is not supported".to_owned());
    }
    Ok(vec![arg(inputs, 0)?.clone()])
}

fn eval_reshape(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let wanted = arg(inputs, 1)?.to_ints()?;
    let keep_zero = node.flag("allowzero", false)?;
    let mut shape = Vec::with_capacity(wanted.len());
    let mut open = None;
    for (i, dim) in wanted.iter().enumerate() {
        shape.push(match dim {
            0 if !keep_zero => *x.shape.get(i).ok_or("a 0 beyond the input's dimensions")?,
            -1 if open.is_none() => {
                open = Some(i);
                1
            }
            _ => usize::try_from(*dim).map_err(|_| format!("cannot take the shape {wanted:?}"))?,
        });
    }
    let len = checked_len(&shape)?;
    if let Some(open) = open.filter(|_| len > 0) {
        shape[open] = x.len() / len;
    }
    if checked_len(&shape)? != x.len() {
        return Err(format!("shape {:?} cannot become {wanted:?}", x.shape));
    }
    Ok(vec![x.clone().reshaped(shape)])
}

fn eval_flatten(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let at = node.int("axis", 1)?;
    let at = if at == x.shape.len() as i64 {
        x.shape.len()
    } else {
        axis(at, x.shape.len())?
    };
    let outer: usize = x.shape[..at].iter().product();
    let inner: usize = x.shape[at..].iter().product();
    Ok(vec![x.clone().reshaped(vec![outer, inner])])
}

/// Axes from input `index`, or from the attribute of older operator sets.
pub(in super::super) fn axes(
    node: &Node,
    given: Option<&Tensor>,
    rank: usize,
) -> Result<Vec<usize>, String> {
    let raw = match given {
        Some(tensor) => tensor.to_ints()?,
        None => node.ints("axes")?.to_vec(),
    };
    if raw.len() > MAX_RANK {
        return Err(format!("{} axes", raw.len()));
    }
    raw.iter().map(|at| axis(*at, rank)).collect()
}

fn eval_squeeze(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let axes = axes(node, maybe(inputs, 1), x.shape.len())?;
    if let Some(wide) = axes.iter().find(|at| x.shape[**at] != 1) {
        return Err(format!("axis {wide} of shape {:?} is not 1", x.shape));
    }
    let goes = |at: usize| {
        if axes.is_empty() {
            x.shape[at] == 1
        } else {
            axes.contains(&at)
        }
    };
    let kept = (0..x.shape.len()).filter(|at| !goes(*at));
    Ok(vec![
        x.clone().reshaped(kept.map(|at| x.shape[at]).collect()),
    ])
}

fn eval_unsqueeze(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let added = maybe(inputs, 1).map_or(node.ints("axes")?.len(), Tensor::len);
    let rank = x.shape.len() + added.min(MAX_RANK);
    let axes = axes(node, maybe(inputs, 1), rank)?;
    let mut old = x.shape.iter();
    let dims = (0..rank).map(|at| {
        if axes.contains(&at) {
            Some(1)
        } else {
            old.next().copied()
        }
    });
    let shape: Option<Vec<usize>> = dims.collect();
    let shape = shape
        .filter(|_| old.next().is_none())
        .ok_or("an axis is named twice")?;
    checked_len(&shape)?;
    Ok(vec![x.clone().reshaped(shape)])
}

fn eval_transpose(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let rank = x.shape.len();
    let order: Vec<usize> = if node.has("perm") {
        node.sizes("perm")?
    } else {
        (0..rank).rev().collect()
    };
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if !sorted.into_iter().eq(0..rank) {
        return Err(format!("perm {order:?} of shape {:?}", x.shape));
    }
    let own = strides(&x.shape);
    let shape: Vec<usize> = order.iter().map(|at| x.shape[*at]).collect();
    let steps: Vec<usize> = order.iter().map(|at| own[*at]).collect();
    let from = walk(&shape, &steps, 0);
    Ok(vec![take_all(x, shape, from)])
}

/// Places of `x` where axis `at` runs through `picked`.
pub(super) fn along(x: &Tensor, at: usize, picked: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let inner: usize = x.shape[at + 1..].iter().product();
    let outer: usize = x.shape[..at].iter().product();
    let mut shape = x.shape.clone();
    shape[at] = picked.len();
    let block = x.shape[at] * inner;
    let places = (0..outer).flat_map(|o| {
        picked
            .iter()
            .flat_map(move |i| (0..inner).map(move |k| o * block + i * inner + k))
    });
    let places = places.collect();
    (shape, places)
}

fn eval_slice(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let mut x = arg(inputs, 0)?.clone();
    let list = |index: usize, name: &str| match maybe(inputs, index) {
        Some(tensor) => tensor.to_ints(),
        None => Ok(node.ints(name)?.to_vec()),
    };
    let (starts, ends) = (list(1, "starts")?, list(2, "ends")?);
    let (named, steps) = (list(3, "axes")?, list(4, "steps")?);
    if starts.len() > x.shape.len() || starts.len() != ends.len() {
        return Err(format!(
            "slices {starts:?} to {ends:?} of shape {:?}",
            x.shape
        ));
    }
    for (i, (start, end)) in starts.iter().zip(&ends).enumerate() {
        let at = axis(named.get(i).copied().unwrap_or(i as i64), x.shape.len())?;
        let step = steps.get(i).copied().unwrap_or(1);
        let picked = slice_of(x.shape[at], *start, *end, step)?;
        let (shape, from) = along(&x, at, &picked);
        x = take_all(&x, shape, from);
    }
    Ok(vec![x])
}

/// The indices that a slice takes of a dimension.
fn slice_of(dim: usize, start: i64, end: i64, step: i64) -> Result<Vec<usize>, String> {
    if step == 0 {
        return Err("a step of 0".to_owned());
    }
    let len = dim as i64;
    let inside = |value: i64| {
        if value < 0 {
            value.saturating_add(len)
        } else {
            value
        }
    };
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let first = inside(start).clamp(low.max(0), high.max(0));
    let last = inside(end).clamp(low, high);
    let mut picked = Vec::new();
    let mut at = first;
    while (step > 0 && at < last) || (step < 0 && at > last && at < len) {
        picked.push(at as usize);
        at = at.saturating_add(step);
    }
    Ok(picked)
}

fn eval_split(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let at = axis(node.int("axis", 0)?, x.shape.len())?;
    let given = match maybe(inputs, 1) {
        Some(tensor) => tensor.to_ints()?,
        None => node.ints("split")?.to_vec(),
    };
    let dim = x.shape[at];
    let sizes: Vec<usize> = if given.is_empty() {
        let parts = node.int("num_outputs", node.outputs.len() as i64)?;
        let parts = usize::try_from(parts)
            .ok()
            .filter(|parts| (1..=dim.max(1)).contains(parts));
        let each = dim.div_ceil(parts.ok_or("split into no parts, or too many")?);
        (0..dim)
            .step_by(each.max(1))
            .map(|start| each.min(dim - start))
            .collect()
    } else {
        let size = |size: &i64| usize::try_from(*size).ok().filter(|size| *size <= dim);
        given
            .iter()
            .map(size)
            .collect::<Option<_>>()
            .ok_or("split into negative parts")?
    };
    if sizes.iter().sum::<usize>() != dim || sizes.len() < node.outputs.len() {
        return Err(format!("split {sizes:?} of a dimension of {dim}"));
    }
    let mut start = 0;
    let mut parts = Vec::with_capacity(sizes.len());
    for size in sizes {
        let picked: Vec<usize> = (start..start + size).collect();
        let (shape, from) = along(x, at, &picked);
        parts.push(take_all(x, shape, from));
        start += size;
    }
    Ok(parts)
}

fn eval_expand(_: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let wanted = sizes(arg(inputs, 1)?)?;
    let shape = broadcast(&x.shape, &wanted)?;
    let from = stretch(&x.shape, &shape);
    Ok(vec![take_all(x, shape, from)])
}

/// A shape that a constant holds.
pub(in super::super) fn sizes(tensor: &Tensor) -> Result<Vec<usize>, String> {
    let dims = tensor.to_ints()?;
    let shape: Option<Vec<usize>> = dims.iter().map(|dim| usize::try_from(*dim).ok()).collect();
    let shape = shape.ok_or_else(|| format!("a shape of {dims:?}"))?;
    checked_len(&shape)?;
    Ok(shape)
}

fn eval_tile(_: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let mut x = arg(inputs, 0)?.clone();
    let repeats = sizes(arg(inputs, 1)?)?;
    if repeats.len() != x.shape.len() {
        return Err(format!("repeats {repeats:?} of shape {:?}", x.shape));
    }
    for (at, times) in repeats.iter().enumerate() {
        let dim = x.shape[at];
        let mut wide = x.shape.clone();
        wide[at] = dim.saturating_mul(*times);
        checked_len(&wide)?;
        let picked: Vec<usize> = (0..dim * times).map(|i| i % dim).collect();
        let (shape, from) = along(&x, at, &picked);
        x = take_all(&x, shape, from);
    }
    Ok(vec![x])
}

const NONE: &[&str] = &[];

/// The rows of this family.
pub(in super::super) const OPS: &[Op] = &[
    noted(
        "Dropout",
        7,
        &["ratio", "seed", "training_mode"],
        "passes through",
        eval_same,
        build_same,
    ),
    op("Expand", 8, NONE, eval_expand, build_expand),
    op("Flatten", 1, &["axis"], eval_flatten, build_flatten),
    op("Identity", 1, NONE, eval_same, build_same),
    op("Reshape", 5, &["allowzero"], eval_reshape, build_reshape),
    op(
        "Slice",
        1,
        &["axes", "ends", "starts"],
        eval_slice,
        build_slice,
    ),
    op(
        "Split",
        2,
        &["axis", "num_outputs", "split"],
        eval_split,
        build_split,
    ),
    op("Squeeze", 1, &["axes"], eval_squeeze, build_squeeze),
    op("Tile", 6, NONE, eval_tile, build_tile),
    op("Transpose", 1, &["perm"], eval_transpose, build_transpose),
    op("Unsqueeze", 1, &["axes"], eval_unsqueeze, build_unsqueeze),
];
