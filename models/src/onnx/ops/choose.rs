//! Choices and running sums along one axis, and looking up by an index that a row computes.

use std::sync::Arc;

use super::super::graph::Node;
use super::super::tensor::{Tensor, Type, axis, check_work, checked_len};
use super::super::value::{
    Builder, Run, Step, Value, arena_input, arg, constant, labels_of, maybe,
};
use super::{Op, noted, op};

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
    /// Comparisons.
    work: usize,
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
        let work = check_work(&[shape.iter().product(), k])?;
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
                work,
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

fn best_work(node: &Node, inputs: &[Option<&Tensor>]) -> Result<usize, String> {
    let (best, _) = Best::of(node, maybe(inputs, 1), &arg(inputs, 0)?.shape)?;
    Ok(best.work)
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
    noted(
        "TopK",
        1,
        &["axis", "k", "largest", "sorted"],
        "constant k; always sorted",
        eval_best,
        build_best,
    )
    .costing(best_work),
];
