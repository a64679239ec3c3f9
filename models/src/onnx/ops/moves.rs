//! Shape and order: operators that only move numbers.
//!
//! Each is written once, as `eval` on tensors. For a plan it is evaluated on the *places* of its inputs, which gives for each
//! number of the output where it comes from: one [`Pick`] step, or none at all where the places already lie in a row.

use super::super::graph::Node;
use super::super::tensor::{
    Data, Tensor, Type, axis, broadcast, checked_len, stretch, strides, walk,
};
use super::super::value::{Builder, Run, Step, Value, arena_input, arg, constant, input, maybe};
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
pub(in super::super) fn places(run: &Run) -> Tensor {
    let places = (run.at..run.at + run.len()).map(|at| at as f64).collect();
    Tensor::numbers(Type::Double, run.shape.clone(), places)
}

/// Input 0 moves; the others must be constants.
fn build_with(
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
mover!(build_elements, eval_elements);
mover!(build_trilu, trilu_places);

/// Elements of `x` at `from`, under `shape`; NaN (or an empty string) where `from` is `None`.
fn take(x: &Tensor, shape: Vec<usize>, from: &[Option<usize>], fill: f64) -> Tensor {
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

fn take_all(x: &Tensor, shape: Vec<usize>, from: Vec<usize>) -> Tensor {
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
    let rank = x.shape.len() + added;
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
fn along(x: &Tensor, at: usize, picked: &[usize]) -> (Vec<usize>, Vec<usize>) {
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

fn eval_concat(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let first = arg(inputs, 0)?;
    let at = if node.op == "FeatureVectorizer" {
        first.shape.len().saturating_sub(1)
    } else {
        axis(node.int("axis", 1)?, first.shape.len())?
    };
    let mut shape = first.shape.clone();
    shape[at] = 0;
    let mut parts = Vec::new();
    for index in 0..inputs.len() {
        let part = arg(inputs, index)?;
        let fits = part.shape.len() == shape.len()
            && (0..shape.len()).all(|i| i == at || part.shape[i] == shape[i]);
        if !fits {
            return Err(format!(
                "shapes {:?} and {:?} side by side",
                first.shape, part.shape
            ));
        }
        shape[at] += part.shape[at];
        parts.push(part);
    }
    checked_len(&shape)?;
    let outer: usize = shape[..at].iter().product();
    let mut joined = Concat {
        numbers: Vec::new(),
        texts: Vec::new(),
    };
    for o in 0..outer {
        for part in &parts {
            joined.add(part, o, outer);
        }
    }
    Ok(vec![match first.data {
        Data::Numbers(_) if joined.texts.is_empty() => {
            Tensor::numbers(first.ty, shape, joined.numbers)
        }
        Data::Texts(_) if joined.numbers.is_empty() => Tensor::texts(shape, joined.texts),
        _ => return Err("strings and numbers side by side".to_owned()),
    }])
}

struct Concat {
    numbers: Vec<f64>,
    texts: Vec<String>,
}

impl Concat {
    /// Block `o` of `outer` of a part.
    fn add(&mut self, part: &Tensor, o: usize, outer: usize) {
        let block = part.len() / outer.max(1);
        let range = o * block..(o + 1) * block;
        match &part.data {
            Data::Numbers(data) => self.numbers.extend_from_slice(&data[range]),
            Data::Texts(data) => self.texts.extend_from_slice(&data[range]),
        }
    }
}

fn build_concat(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let mut ty = None;
    let mut parts = Vec::new();
    for index in 0..inputs.len() {
        let run = arena_input(builder, inputs, index)?;
        ty.get_or_insert(run.ty);
        parts.push(places(&run));
    }
    let parts: Vec<_> = parts.iter().map(Some).collect();
    let sources = eval_concat(node, &parts)?;
    let ty = ty.unwrap_or(Type::Float);
    Ok(vec![Pick::gather(builder, ty, &sources[0], 0.0)?.into()])
}

/// Gather along an axis, and `ArrayFeatureExtractor`, which is that along the last.
fn eval_gather(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let (x, indices) = (arg(inputs, 0)?, arg(inputs, 1)?);
    let extractor = node.op == "ArrayFeatureExtractor";
    let at = axis(
        if extractor { -1 } else { node.int("axis", 0)? },
        x.shape.len(),
    )?;
    let index = |index: &i64| axis(*index, x.shape[at]);
    let picked = indices
        .to_ints()?
        .iter()
        .map(index)
        .collect::<Result<Vec<_>, _>>()?;
    let mut shape = x.shape[..at].to_vec();
    if extractor {
        shape.push(picked.len());
        if shape.len() == 1 {
            shape.insert(0, 1);
        }
    } else {
        shape.extend(&indices.shape);
        shape.extend(&x.shape[at + 1..]);
    }
    checked_len(&shape)?;
    let (_, from) = along(x, at, &picked);
    Ok(vec![take_all(x, shape, from)])
}

fn build_gather(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    if let Some(Value::Run(indices)) = inputs.get(1).and_then(Option::as_ref) {
        return super::reduce::gather_by(builder, node, input(inputs, 0)?, indices);
    }
    build_with(builder, node, inputs, 0.0, eval_gather)
}

fn eval_elements(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let (x, indices) = (arg(inputs, 0)?, arg(inputs, 1)?);
    let at = axis(node.int("axis", 0)?, x.shape.len())?;
    let fits = indices.shape.len() == x.shape.len()
        && (0..x.shape.len()).all(|i| i == at || indices.shape[i] <= x.shape[i]);
    if !fits {
        return Err(format!(
            "indices {:?} of shape {:?}",
            indices.shape, x.shape
        ));
    }
    let mut steps = strides(&x.shape);
    let own = std::mem::replace(&mut steps[at], 0);
    let bases = walk(&indices.shape, &steps, 0);
    let place = |(base, index): (&usize, &i64)| Ok(base + own * axis(*index, x.shape[at])?);
    let from = bases
        .iter()
        .zip(&indices.to_ints()?)
        .map(place)
        .collect::<Result<Vec<_>, String>>()?;
    Ok(vec![take_all(x, indices.shape.clone(), from)])
}

fn eval_pad(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let mut x = arg(inputs, 0)?.clone();
    let rank = x.shape.len();
    let pads = match maybe(inputs, 1) {
        Some(tensor) => tensor.to_ints()?,
        None => node.ints("pads")?.to_vec(),
    };
    let axes: Vec<usize> = match maybe(inputs, 3) {
        Some(tensor) => tensor
            .to_ints()?
            .iter()
            .map(|at| axis(*at, rank))
            .collect::<Result<_, _>>()?,
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(format!("pads {pads:?} of shape {:?}", x.shape));
    }
    let fill = match maybe(inputs, 2) {
        Some(tensor) => tensor.scalar()?,
        None => f64::from(node.float("value", 0.0)?),
    };
    let mode = node.text("mode", "constant")?;
    for (i, at) in axes.iter().enumerate() {
        x = padded(&x, *at, (pads[i], pads[i + axes.len()]), mode, fill)?;
    }
    Ok(vec![x])
}

/// One axis longer (or, by negative pads, shorter) at both ends.
fn padded(
    x: &Tensor,
    at: usize,
    (before, after): (i64, i64),
    mode: &str,
    fill: f64,
) -> Result<Tensor, String> {
    let dim = x.shape[at] as i64;
    let wide = before.saturating_add(after).saturating_add(dim);
    let mut shape = x.shape.clone();
    shape[at] = usize::try_from(wide).map_err(|_| format!("pads {before} and {after} of {dim}"))?;
    checked_len(&shape)?;
    let source = |i: i64| match (i - before, mode) {
        (at, _) if (0..dim).contains(&at) => Ok(Some(at as usize)),
        (_, "constant") => Ok(None),
        (at, "edge") if dim > 0 => Ok(Some(at.clamp(0, dim - 1) as usize)),
        (at, "reflect") => {
            let mirrored = if at < 0 { -at } else { 2 * (dim - 1) - at };
            let inside = (0..dim).contains(&mirrored).then_some(mirrored as usize);
            inside
                .map(Some)
                .ok_or_else(|| "reflects beyond the other end".to_owned())
        }
        _ => Err(format!("mode {mode:?} is not supported")),
    };
    let picked = (0..wide).map(source).collect::<Result<Vec<_>, _>>()?;
    let inner: usize = x.shape[at + 1..].iter().product();
    let outer: usize = x.shape[..at].iter().product();
    let mut from = Vec::with_capacity(outer * picked.len() * inner);
    for o in 0..outer {
        for index in &picked {
            let base = index.map(|index| (o * x.shape[at] + index) * inner);
            from.extend((0..inner).map(|k| base.map(|base| base + k)));
        }
    }
    Ok(take(x, shape, &from, fill))
}

fn build_pad(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let fill = match constant(inputs, 2, "the value to pad with")? {
        Some(tensor) => tensor.scalar()? as f32,
        None => node.float("value", 0.0)?,
    };
    let nowhere = Tensor::numbers(Type::Double, vec![], vec![f64::NAN]);
    let mut inputs = inputs.to_vec();
    inputs.resize(inputs.len().max(3), None);
    inputs[2] = Some(nowhere.into());
    build_with(builder, node, &inputs, fill, eval_pad)
}

fn eval_trilu(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    trilu(node, inputs, 0.0)
}

/// On places, what falls away is nowhere: NaN.
fn trilu_places(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    trilu(node, inputs, f64::NAN)
}

fn trilu(node: &Node, inputs: &[Option<&Tensor>], gone: f64) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let [.., rows, columns] = x.shape[..] else {
        return Err(format!("shape {:?} is no matrix", x.shape));
    };
    let k = match maybe(inputs, 1) {
        Some(tensor) => tensor.scalar()? as i64,
        None => 0,
    };
    let upper = node.flag("upper", true)?;
    let keeps = |i: usize| {
        let (row, column) = ((i / columns) % rows, i % columns);
        let over = column as i64 - row as i64;
        if upper { over >= k } else { over <= k }
    };
    let from: Vec<_> = (0..x.len()).map(|i| keeps(i).then_some(i)).collect();
    Ok(vec![take(x, x.shape.clone(), &from, gone)])
}

const NONE: &[&str] = &[];

/// The rows of this family.
pub(in super::super) const OPS: &[Op] = &[
    op("Concat", 4, &["axis"], eval_concat, build_concat),
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
    noted(
        "Gather",
        1,
        &["axis"],
        "an index outside that a row computes gives NaN",
        eval_gather,
        build_gather,
    ),
    noted(
        "GatherElements",
        11,
        &["axis"],
        "constant indices",
        eval_elements,
        build_elements,
    ),
    op("Identity", 1, NONE, eval_same, build_same),
    noted(
        "Pad",
        2,
        &["mode", "pads", "value"],
        "constant, edge, reflect",
        eval_pad,
        build_pad,
    ),
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
    op("Trilu", 14, &["upper"], eval_trilu, build_trilu),
    op("Unsqueeze", 1, &["axes"], eval_unsqueeze, build_unsqueeze),
];

/// The rows of this family in `ai.onnx.ml`.
pub(in super::super) const ML_OPS: &[Op] = &[
    op("ArrayFeatureExtractor", 1, NONE, eval_gather, build_gather),
    op(
        "FeatureVectorizer",
        1,
        &["inputdimensions"],
        eval_concat,
        build_concat,
    ),
];
