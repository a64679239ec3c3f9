//! A tensor as the compiler and the reference see it: any element type, numbers as `f64`.
//!
//! Owns shapes, strides and broadcasting. `f64` holds every `f32`, `i32` and every whole number up to 2^53 exactly; a tensor's
//! element type says what its numbers are rounded to ([`Tensor::settled`]). Slow and plain: no step of a plan uses it.

use super::limits::{MAX_ELEMENTS, MAX_RANK, MAX_WORK};

/// What the elements are. Narrow integers count as `Int`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Float,
    Double,
    Int,
    Bool,
    Text,
}

impl Type {
    /// From the number in `TensorProto.DataType`.
    pub(super) fn from_code(code: i64) -> Result<Self, String> {
        Ok(match code {
            1 => Self::Float,
            11 => Self::Double,
            2..=7 | 12 | 13 => Self::Int,
            8 => Self::Text,
            9 => Self::Bool,
            10 => return Err("float16 is not supported: export with float32".to_owned()),
            16 => return Err("bfloat16 is not supported: export with float32".to_owned()),
            other => return Err(format!("element type {other} is not supported")),
        })
    }

    pub(super) fn is_float(self) -> bool {
        matches!(self, Self::Float | Self::Double)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Data {
    Numbers(Vec<f64>),
    Texts(Vec<String>),
}

/// Element type, shape and elements, row-major.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tensor {
    pub ty: Type,
    pub shape: Vec<usize>,
    pub data: Data,
}

impl Tensor {
    /// Numbers, rounded to what `ty` can hold. The lengths must agree.
    pub(super) fn numbers(ty: Type, shape: Vec<usize>, data: Vec<f64>) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), data.len());
        Self {
            ty,
            shape,
            data: Data::Numbers(data),
        }
        .settled()
    }

    pub(super) fn texts(shape: Vec<usize>, data: Vec<String>) -> Self {
        Self {
            ty: Type::Text,
            shape,
            data: Data::Texts(data),
        }
    }

    pub(super) fn ints(data: Vec<i64>) -> Self {
        let numbers = data.iter().map(|value| *value as f64).collect();
        Self::numbers(Type::Int, vec![data.len()], numbers)
    }

    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The numbers; a mistake for strings.
    pub(super) fn values(&self) -> Result<&[f64], String> {
        match &self.data {
            Data::Numbers(data) => Ok(data),
            Data::Texts(_) => Err("strings where numbers are expected".to_owned()),
        }
    }

    /// The only number of a tensor of one.
    pub(super) fn scalar(&self) -> Result<f64, String> {
        match self.values()? {
            [value] => Ok(*value),
            _ => Err(format!("{:?} where one number is expected", self.shape)),
        }
    }

    /// As whole numbers; `as` saturates, so `i64::MAX` (an open end of a slice) survives.
    pub(super) fn to_ints(&self) -> Result<Vec<i64>, String> {
        Ok(self.values()?.iter().map(|value| *value as i64).collect())
    }

    pub(super) fn to_floats(&self) -> Result<Vec<f32>, String> {
        Ok(self.values()?.iter().map(|value| *value as f32).collect())
    }

    pub(super) fn reshaped(mut self, shape: Vec<usize>) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), self.len());
        self.shape = shape;
        self
    }

    /// Rounds each number to what the element type can hold.
    fn settled(mut self) -> Self {
        let round: fn(f64) -> f64 = match self.ty {
            Type::Float => |value| f64::from(value as f32),
            Type::Int => f64::trunc,
            Type::Bool => |value| f64::from(u8::from(value != 0.0)),
            Type::Double | Type::Text => return self,
        };
        if let Data::Numbers(data) = &mut self.data {
            data.iter_mut().for_each(|value| *value = round(*value));
        }
        self
    }
}

/// The number of elements of a shape, within the limits.
pub(super) fn checked_len(shape: &[usize]) -> Result<usize, String> {
    if shape.len() > MAX_RANK {
        return Err(format!(
            "a tensor of {} dimensions: at most {MAX_RANK} are supported",
            shape.len()
        ));
    }
    // Zero must not hide a product that would overflow.
    let product = |len: usize, dim: &usize| len.checked_mul((*dim).max(1));
    let bound = shape.iter().try_fold(1, product);
    match bound {
        Some(len) if len <= MAX_ELEMENTS => Ok(shape.iter().product()),
        _ => Err(format!(
            "a tensor of shape {shape:?}: at most {MAX_ELEMENTS} elements are supported"
        )),
    }
}

/// The operations of a node, which the factors multiply to; refused where it would take too long.
pub(super) fn check_work(factors: &[usize]) -> Result<usize, String> {
    let work = factors
        .iter()
        .try_fold(1_usize, |work, factor| work.checked_mul(*factor));
    match work {
        Some(work) if work <= MAX_WORK => Ok(work),
        _ => Err(format!(
            "takes over {MAX_WORK} operations, the most of one node"
        )),
    }
}

/// Elements from one index of each dimension to the next.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// A possibly negative axis as an index below `rank`.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize, String> {
    let from_end = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(from_end)
        .ok()
        .filter(|axis| *axis < rank)
        .ok_or_else(|| format!("axis {axis} of a tensor of {rank} dimensions"))
}

/// The shape both are stretched to (numpy's rule).
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, String> {
    let rank = a.len().max(b.len());
    let dim = |shape: &[usize], i: usize| {
        (i + shape.len())
            .checked_sub(rank)
            .map_or(1, |at| shape[at])
    };
    let joined = (0..rank).map(|i| match (dim(a, i), dim(b, i)) {
        (1, y) => Ok(y),
        (x, y) if y == 1 || x == y => Ok(x),
        _ => Err(format!("shapes {a:?} and {b:?} do not fit together")),
    });
    let shape = joined.collect::<Result<Vec<_>, _>>()?;
    checked_len(&shape)?;
    Ok(shape)
}

/// For each element of `to`, the element of `from` that is stretched to it.
pub(super) fn stretch(from: &[usize], to: &[usize]) -> Vec<usize> {
    let lead = to.len() - from.len();
    let own = strides(from);
    let step = |axis: usize| match axis.checked_sub(lead) {
        Some(at) if from[at] != 1 => own[at],
        _ => 0,
    };
    let steps: Vec<usize> = (0..to.len()).map(step).collect();
    walk(to, &steps, 0)
}

/// The position of every index of `shape`, in row-major order, where a step along each axis moves `steps[axis]`.
pub(super) fn walk(shape: &[usize], steps: &[usize], start: usize) -> Vec<usize> {
    let mut places = vec![start];
    for (dim, step) in shape.iter().zip(steps) {
        let along = |place: usize| (0..*dim).map(move |i| place + i * step);
        places = places.into_iter().flat_map(along).collect();
    }
    places
}
