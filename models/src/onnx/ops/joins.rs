//! Joining, picking, padding: operators that move numbers of several tensors or to chosen places.
//!
//! As in `moves`, each is written once on tensors and evaluated on places for a plan.

use super::super::graph::Node;
use super::super::tensor::{Data, Tensor, Type, axis, checked_len, strides, walk};
use super::super::value::{Builder, Value, arg, constant, input, maybe};
use super::moves::{Pick, along, build_with, places, take, take_all};
use super::{Op, noted, op};

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
        let value = input(inputs, index)?;
        if let Some(nothing) = value.known().filter(|tensor| tensor.len() == 0) {
            parts.push(Tensor::numbers(
                Type::Double,
                nothing.shape.clone(),
                Vec::new(),
            ));
            continue;
        }
        let run = builder.in_arena(value)?;
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
        return super::choose::gather_by(builder, node, input(inputs, 0)?, indices);
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
    if pads.len() != 2 * axes.len() || axes.len() > rank {
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

fn build_elements(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    build_with(builder, node, inputs, 0.0, eval_elements)
}

fn build_trilu(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    build_with(builder, node, inputs, 0.0, trilu_places)
}

const NONE: &[&str] = &[];

/// The rows of this family.
pub(in super::super) const OPS: &[Op] = &[
    op("Concat", 4, &["axis"], eval_concat, build_concat),
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
    noted(
        "Pad",
        2,
        &["mode", "pads", "value"],
        "constant, edge, reflect",
        eval_pad,
        build_pad,
    ),
    op("Trilu", 14, &["upper"], eval_trilu, build_trilu),
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
