//! Sums, means, extremes and choices along axes, pooling, and looking up by an index that a row computes.
//!
//! A plan holds for each number of the output the list of places it is made from, worked out once; a step runs along the list in
//! its order, so the bits of a sum depend on nothing else.

use std::sync::Arc;

use super::super::graph::Node;
use super::super::tensor::{Tensor, Type, axis, checked_len, strides, walk};
use super::super::value::{
    Builder, Run, Step, Value, arena_input, arg, constant, labels_of, maybe,
};
use super::moves::axes;
use super::{Op, noted, op};
use crate::numerics::{exp, ln};

/// What becomes of a list of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fold {
    L1,
    L2,
    LogSum,
    LogSumExp,
    Max,
    Mean,
    Min,
    Prod,
    Sum,
    SumSquare,
}

impl Fold {
    fn of(op: &str) -> Result<Self, String> {
        Ok(match op {
            "ReduceL1" => Self::L1,
            "ReduceL2" => Self::L2,
            "ReduceLogSum" => Self::LogSum,
            "ReduceLogSumExp" => Self::LogSumExp,
            "ReduceMax" => Self::Max,
            "ReduceMean" => Self::Mean,
            "ReduceMin" => Self::Min,
            "ReduceProd" => Self::Prod,
            "ReduceSum" => Self::Sum,
            "ReduceSumSquare" => Self::SumSquare,
            other => return Err(format!("{other} is no reduction")),
        })
    }

    fn exact(self, list: &[f64]) -> f64 {
        let sum = |term: fn(f64) -> f64| list.iter().map(|x| term(*x)).sum::<f64>();
        let largest = list.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        match self {
            Self::L1 => sum(f64::abs),
            Self::L2 => sum(|x| x * x).sqrt(),
            Self::LogSum => sum(|x| x).ln(),
            Self::LogSumExp => largest + list.iter().map(|x| (x - largest).exp()).sum::<f64>().ln(),
            Self::Max => largest,
            Self::Mean => sum(|x| x) / list.len() as f64,
            Self::Min => list.iter().copied().fold(f64::INFINITY, f64::min),
            Self::Prod => list.iter().product(),
            Self::Sum => sum(|x| x),
            Self::SumSquare => sum(|x| x * x),
        }
    }

    fn apply(self, list: impl Iterator<Item = f32> + Clone, count: f32) -> f32 {
        let sum = list.clone();
        match self {
            Self::Sum => sum.fold(0.0, |sum, x| sum + x),
            Self::Mean => sum.fold(0.0, |sum, x| sum + x) / count,
            Self::Max => list.fold(
                f32::NEG_INFINITY,
                |y, x| if x > y || x.is_nan() { x } else { y },
            ),
            Self::Min => list.fold(
                f32::INFINITY,
                |y, x| if x < y || x.is_nan() { x } else { y },
            ),
            Self::SumSquare => sum.fold(0.0, |sum, x| sum + x * x),
            Self::L2 => sum.fold(0.0, |sum, x| sum + x * x).sqrt(),
            Self::L1 => sum.fold(0.0, |sum, x| sum + x.abs()),
            Self::Prod => list.fold(1.0, |product, x| product * x),
            Self::LogSum => ln(sum.fold(0.0, |sum, x| sum + x)),
            Self::LogSumExp => {
                let most = Self::Max.apply(list.clone(), count);
                most + ln(list.fold(0.0, |sum, x| sum + exp(x - most)))
            }
        }
    }
}

/// Folds a list of places into each number of the output.
pub(super) struct Reduce {
    pub fold: Fold,
    /// Where each list ends.
    pub ends: Vec<u32>,
    pub places: Vec<u32>,
    /// What a mean divides by, for each list.
    pub counts: Vec<f32>,
    pub at: usize,
}

impl Step for Reduce {
    fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.at);
        let mut start = 0;
        for ((out, end), count) in out.iter_mut().zip(&self.ends).zip(&self.counts) {
            let list = &self.places[start..*end as usize];
            *out = self
                .fold
                .apply(list.iter().map(|place| below[*place as usize]), *count);
            start = *end as usize;
        }
    }
}

/// The output's shape, and the places of each list, one after the other.
struct Lists {
    shape: Vec<usize>,
    /// Numbers of one list.
    each: usize,
    places: Vec<usize>,
}

impl Lists {
    fn over(shape: &[usize], axes: &[usize], keep: bool) -> Self {
        let own = strides(shape);
        let split = |inside: bool| -> (Vec<usize>, Vec<usize>) {
            let at = (0..shape.len()).filter(|at| axes.contains(at) == inside);
            at.map(|at| (shape[at], own[at])).unzip()
        };
        let ((kept, kept_steps), (gone, gone_steps)) = (split(false), split(true));
        let starts = walk(&kept, &kept_steps, 0);
        let places = starts
            .iter()
            .flat_map(|start| walk(&gone, &gone_steps, *start));
        let kept_shape = (0..shape.len()).filter_map(|at| match (axes.contains(&at), keep) {
            (true, false) => None,
            (true, true) => Some(1),
            (false, _) => Some(shape[at]),
        });
        Self {
            shape: kept_shape.collect(),
            each: gone.iter().product(),
            places: places.collect(),
        }
    }

    fn of(
        node: &Node,
        axes_given: Option<&Tensor>,
        shape: &[usize],
    ) -> Result<Option<Self>, String> {
        let mut axes = axes(node, axes_given, shape.len())?;
        if axes.is_empty() {
            if node.flag("noop_with_empty_axes", false)? {
                return Ok(None);
            }
            axes = (0..shape.len()).collect();
        }
        Ok(Some(Self::over(shape, &axes, node.flag("keepdims", true)?)))
    }
}

fn eval_reduce(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let Some(lists) = Lists::of(node, maybe(inputs, 1), &x.shape)? else {
        return Ok(vec![x.clone()]);
    };
    let (fold, values) = (Fold::of(&node.op)?, x.values()?);
    let count: usize = lists.shape.iter().product();
    let list = |o: usize| {
        let places = &lists.places[o * lists.each..(o + 1) * lists.each];
        let list: Vec<f64> = places.iter().map(|place| values[*place]).collect();
        fold.exact(&list)
    };
    let folded = (0..count).map(list).collect();
    Ok(vec![Tensor::numbers(x.ty, lists.shape, folded)])
}

fn build_reduce(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let x = arena_input(builder, inputs, 0)?;
    let Some(lists) = Lists::of(node, constant(inputs, 1, "axes")?, &x.shape)? else {
        return Ok(vec![x.into()]);
    };
    let out = builder.fresh(x.ty, lists.shape)?;
    builder.push(Reduce {
        fold: Fold::of(&node.op)?,
        ends: (1..=out.len()).map(|o| (o * lists.each) as u32).collect(),
        places: lists
            .places
            .iter()
            .map(|place| (x.at + place) as u32)
            .collect(),
        counts: vec![lists.each as f32; out.len()],
        at: out.at,
    });
    Ok(vec![out.into()])
}

/// An axis as `outer` blocks of `len` numbers, `inner` apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Along {
    pub outer: usize,
    pub len: usize,
    pub inner: usize,
}

impl Along {
    pub(super) fn of(shape: &[usize], at: usize) -> Self {
        Self {
            outer: shape[..at].iter().product(),
            len: shape[at],
            inner: shape[at + 1..].iter().product(),
        }
    }

    /// Where each line begins.
    pub(super) fn starts(self) -> impl Iterator<Item = usize> {
        let block = self.len * self.inner;
        (0..self.outer).flat_map(move |o| (0..self.inner).map(move |k| o * block + k))
    }
}

fn choice(node: &Node, shape: &[usize]) -> Result<(Along, Vec<usize>), String> {
    let at = axis(node.int("axis", 0)?, shape.len())?;
    if shape[at] == 0 {
        return Err("nothing to choose from".to_owned());
    }
    let mut out = shape.to_vec();
    if node.flag("keepdims", true)? {
        out[at] = 1;
    } else {
        out.remove(at);
    }
    Ok((Along::of(shape, at), out))
}

fn eval_choose(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let (along, shape) = choice(node, &x.shape)?;
    let values = x.values()?;
    let (largest, last) = (node.op == "ArgMax", node.flag("select_last_index", false)?);
    let pick = |start: usize| {
        let value = |i: usize| values[start + i * along.inner];
        let better = |i: usize, best: usize| {
            let (new, old) = if largest {
                (value(i), value(best))
            } else {
                (-value(i), -value(best))
            };
            new > old || (last && new == old)
        };
        (1..along.len).fold(0, |best, i| if better(i, best) { i } else { best }) as f64
    };
    let picked = along.starts().map(pick).collect();
    Ok(vec![Tensor::numbers(Type::Int, shape, picked)])
}

fn build_choose(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let x = arena_input(builder, inputs, 0)?;
    let (along, shape) = choice(node, &x.shape)?;
    let mut out = builder.fresh(Type::Int, shape)?;
    out.chosen = true;
    builder.push(Choose {
        along,
        from: x.at,
        at: out.at,
        sign: if node.op == "ArgMax" { 1.0 } else { -1.0 },
        last: node.flag("select_last_index", false)?,
    });
    Ok(vec![out.into()])
}

/// The index of the largest number of each line; of equal ones the first, or the last.
struct Choose {
    along: Along,
    from: usize,
    at: usize,
    /// -1 for the smallest.
    sign: f32,
    last: bool,
}

impl Step for Choose {
    fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.at);
        for (out, start) in out.iter_mut().zip(self.along.starts()) {
            let value = |i: usize| self.sign * below[self.from + start + i * self.along.inner];
            let (mut best, mut most) = (0, value(0));
            for i in 1..self.along.len {
                let new = value(i);
                if new > most || (self.last && new == most) {
                    (best, most) = (i, new);
                }
            }
            *out = best as f32;
        }
    }
}

fn cumulative(node: &Node, given: Option<&Tensor>, shape: &[usize]) -> Result<Along, String> {
    let at = given.ok_or("input 1 is missing")?.scalar()? as i64;
    if node.flag("exclusive", false)? || node.flag("reverse", false)? {
        return Err("attributes exclusive and reverse are not supported".to_owned());
    }
    Ok(Along::of(shape, axis(at, shape.len())?))
}

fn eval_cumulative(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let along = cumulative(node, maybe(inputs, 1), &x.shape)?;
    let mut values = x.values()?.to_vec();
    for start in along.starts() {
        for i in 1..along.len {
            values[start + i * along.inner] += values[start + (i - 1) * along.inner];
        }
    }
    Ok(vec![Tensor::numbers(x.ty, x.shape.clone(), values)])
}

fn build_cumulative(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let x = arena_input(builder, inputs, 0)?;
    let along = cumulative(node, constant(inputs, 1, "the axis")?, &x.shape)?;
    let out = builder.fresh(x.ty, x.shape.clone())?;
    builder.push(Cumulative {
        along,
        from: x.at,
        at: out.at,
    });
    Ok(vec![out.into()])
}

struct Cumulative {
    along: Along,
    from: usize,
    at: usize,
}

impl Step for Cumulative {
    fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.at);
        for start in self.along.starts() {
            let mut sum = 0.0;
            for i in 0..self.along.len {
                let place = start + i * self.along.inner;
                sum += below[self.from + place];
                out[place] = sum;
            }
        }
    }
}

struct Best {
    along: Along,
    k: usize,
    sign: f32,
}

impl Best {
    fn of(node: &Node, k: Option<&Tensor>, shape: &[usize]) -> Result<(Self, Vec<usize>), String> {
        let at = axis(node.int("axis", -1)?, shape.len())?;
        let k = match k {
            Some(tensor) => tensor.scalar()? as i64,
            None => node.int("k", 1)?,
        };
        let k = usize::try_from(k).ok().filter(|k| *k <= shape[at]);
        let k = k.ok_or_else(|| format!("more than shape {shape:?} has"))?;
        let mut out = shape.to_vec();
        out[at] = k;
        let sign = if node.flag("largest", true)? {
            1.0
        } else {
            -1.0
        };
        Ok((
            Self {
                along: Along::of(shape, at),
                k,
                sign,
            },
            out,
        ))
    }

    /// Calls back with (place in the output, index along the axis), best first, the lower index first among equals.
    fn each(&self, value: impl Fn(usize) -> f32, mut found: impl FnMut(usize, usize)) {
        let along = self.along;
        for (line, start) in along.starts().enumerate() {
            let (o, inner) = (line / along.inner, line % along.inner);
            let mut before: Option<(f32, usize)> = None;
            for rank in 0..self.k {
                let mut best: Option<(f32, usize)> = None;
                for i in 0..along.len {
                    let new = self.sign * value(start + i * along.inner);
                    let later =
                        before.is_none_or(|(most, at)| new < most || (new == most && i > at));
                    if later && best.is_none_or(|(most, _)| new > most) {
                        best = Some((new, i));
                    }
                }
                // NaN has no order: where nothing is left, the first stands in.
                let (most, i) = best.unwrap_or((f32::NEG_INFINITY, 0));
                found((o * self.k + rank) * along.inner + inner, i);
                before = Some((most, i));
            }
        }
    }
}

fn eval_best(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    let (best, shape) = Best::of(node, maybe(inputs, 1), &x.shape)?;
    let values = x.to_floats()?;
    let len: usize = shape.iter().product();
    let (mut top, mut indices) = (vec![0.0; len], vec![0.0; len]);
    let inner = best.along.inner;
    best.each(
        |place| values[place],
        |place, i| {
            let o = place / (best.k * inner);
            top[place] = f64::from(values[(o * best.along.len + i) * inner + place % inner]);
            indices[place] = i as f64;
        },
    );
    Ok(vec![
        Tensor::numbers(x.ty, shape.clone(), top),
        Tensor::numbers(Type::Int, shape, indices),
    ])
}

fn build_best(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let x = arena_input(builder, inputs, 0)?;
    let (best, shape) = Best::of(node, constant(inputs, 1, "k")?, &x.shape)?;
    let top = builder.fresh(x.ty, shape.clone())?;
    let indices = builder.fresh(Type::Int, shape)?;
    builder.push(TopK {
        best,
        from: x.at,
        at: top.at,
        len: top.len(),
    });
    Ok(vec![top.into(), indices.into()])
}

/// The values, and behind them their indices.
struct TopK {
    best: Best,
    from: usize,
    at: usize,
    len: usize,
}

impl Step for TopK {
    fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.at);
        let (top, indices) = out.split_at_mut(self.len);
        let Along { len, inner, .. } = self.best.along;
        let values = &below[self.from..];
        self.best.each(
            |place| values[place],
            |place, i| {
                let o = place / (self.best.k * inner);
                top[place] = values[(o * len + i) * inner + place % inner];
                indices[place] = i as f32;
            },
        );
    }
}

/// `Gather` and `ArrayFeatureExtractor` where a row computes the index.
pub(super) fn gather_by(
    builder: &mut Builder,
    node: &Node,
    data: &Value,
    indices: &Run,
) -> Result<Vec<Value>, String> {
    let rank = data.shape().len();
    let extractor = node.op == "ArrayFeatureExtractor";
    let at = axis(if extractor { -1 } else { node.int("axis", 0)? }, rank)?;
    let along = Along::of(data.shape(), at);
    if let Some(table) = data.known().filter(|table| table.len() == along.len) {
        // An index among constants is a label.
        let mut out = indices.viewed(if extractor {
            vec![1, indices.len()]
        } else {
            indices.shape.clone()
        });
        if !table.ty.is_float() && indices.labels.is_none() && (extractor || rank == 1) {
            out.ty = table.ty;
            out.labels = Some(Arc::new(labels_of(table)?));
            out.owned = false;
            return Ok(vec![out.into()]);
        }
    }
    let indices = builder.plain(indices)?;
    let x = builder.in_arena(data)?;
    let mut shape = x.shape[..at].to_vec();
    shape.extend(&indices.shape);
    shape.extend(&x.shape[at + 1..]);
    checked_len(&shape)?;
    let out = builder.fresh(x.ty, shape)?;
    builder.push(GatherBy {
        along,
        from: x.at,
        indices: indices.at,
        count: indices.len(),
        at: out.at,
    });
    Ok(vec![out.into()])
}

struct GatherBy {
    along: Along,
    from: usize,
    indices: usize,
    count: usize,
    at: usize,
}

impl Step for GatherBy {
    fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.at);
        let Along { outer, len, inner } = self.along;
        for o in 0..outer {
            for i in 0..self.count {
                let index = below[self.indices + i];
                let index = if index < 0.0 {
                    index + len as f32
                } else {
                    index
                };
                let out = &mut out[(o * self.count + i) * inner..][..inner];
                if index >= 0.0 && (index as usize) < len {
                    let start = self.from + (o * len + index as usize) * inner;
                    out.copy_from_slice(&below[start..start + inner]);
                } else {
                    out.fill(f32::NAN);
                }
            }
        }
    }
}

const REDUCE: &[&str] = &["axes", "keepdims", "noop_with_empty_axes"];

/// The rows of this family.
pub(in super::super) const OPS: &[Op] = &[
    op(
        "ArgMax",
        1,
        &["axis", "keepdims", "select_last_index"],
        eval_choose,
        build_choose,
    ),
    op(
        "ArgMin",
        1,
        &["axis", "keepdims", "select_last_index"],
        eval_choose,
        build_choose,
    ),
    noted(
        "CumSum",
        11,
        &["exclusive", "reverse"],
        "neither exclusive nor reverse",
        eval_cumulative,
        build_cumulative,
    ),
    op("ReduceL1", 1, REDUCE, eval_reduce, build_reduce),
    op("ReduceL2", 1, REDUCE, eval_reduce, build_reduce),
    op("ReduceLogSum", 1, REDUCE, eval_reduce, build_reduce),
    op("ReduceLogSumExp", 1, REDUCE, eval_reduce, build_reduce),
    op("ReduceMax", 1, REDUCE, eval_reduce, build_reduce),
    op("ReduceMean", 1, REDUCE, eval_reduce, build_reduce),
    op("ReduceMin", 1, REDUCE, eval_reduce, build_reduce),
    op("ReduceProd", 1, REDUCE, eval_reduce, build_reduce),
    op("ReduceSum", 1, REDUCE, eval_reduce, build_reduce),
    op("ReduceSumSquare", 1, REDUCE, eval_reduce, build_reduce),
    noted(
        "TopK",
        1,
        &["axis", "k", "largest", "sorted"],
        "constant k; always sorted",
        eval_best,
        build_best,
    ),
];
