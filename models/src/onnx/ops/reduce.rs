//! Sums, means, extremes and choices along axes, pooling, and looking up by an index that a row computes.
//!
//! A plan holds for each number of the output the list of places it is made from, worked out once; a step runs along the list in
//! its order, so the bits of a sum depend on nothing else.

use super::super::graph::Node;
use super::super::tensor::{Tensor, strides, walk};
use super::super::value::{Builder, Step, Value, arena_input, arg, constant, maybe};
use super::moves::axes;
use super::{Op, op};
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

const REDUCE: &[&str] = &["axes", "keepdims", "noop_with_empty_axes"];

/// The rows of this family.
pub(in super::super) const OPS: &[Op] = &[
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
];
