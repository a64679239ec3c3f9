//! What a name of the graph stands for while it is compiled, and the list of steps that grows meanwhile.
//!
//! Owns the arena: places are handed out upwards and never again, so every step reads below what it writes and one `split_at_mut`
//! is all the borrowing there is. A value known while compiling is a constant and takes no place.

use std::collections::HashMap;
use std::sync::Arc;

use super::limits::MAX_ARENA;
use super::ops::dense::Dense;
use super::tensor::{Data, Tensor, Type, checked_len};

/// What an index stands for: the values of a label.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Labels {
    Ints(Vec<i64>),
    Texts(Vec<String>),
}

impl Labels {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Ints(values) => values.len(),
            Self::Texts(values) => values.len(),
        }
    }

    pub(super) fn names(&self) -> Arc<[String]> {
        match self {
            Self::Ints(values) => values.iter().map(ToString::to_string).collect(),
            Self::Texts(values) => values.iter().cloned().collect(),
        }
    }
}

/// Numbers that each row computes.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub ty: Type,
    pub shape: Vec<usize>,
    /// Where they begin in the arena.
    pub at: usize,
    /// The numbers are indices into these; `ty` is theirs.
    pub labels: Option<Arc<Labels>>,
    /// One name a number: what a `ZipMap` said of probabilities.
    pub names: Option<Arc<[String]>>,
    /// An index that was chosen among several (`ArgMax`).
    pub chosen: bool,
    /// Nothing else lies in this place, so that its only reader may write over it.
    pub owned: bool,
}

impl Run {
    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The same numbers under another shape.
    pub(super) fn viewed(&self, shape: Vec<usize>) -> Self {
        Self {
            shape,
            ..self.clone()
        }
    }
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Known(Arc<Tensor>),
    Run(Run),
}

impl Value {
    pub(super) fn shape(&self) -> &[usize] {
        match self {
            Self::Known(tensor) => &tensor.shape,
            Self::Run(run) => &run.shape,
        }
    }

    pub(super) fn ty(&self) -> Type {
        match self {
            Self::Known(tensor) => tensor.ty,
            Self::Run(run) => run.ty,
        }
    }

    pub(super) fn known(&self) -> Option<&Tensor> {
        match self {
            Self::Known(tensor) => Some(tensor),
            Self::Run(_) => None,
        }
    }
}

impl From<Tensor> for Value {
    fn from(tensor: Tensor) -> Self {
        Self::Known(Arc::new(tensor))
    }
}

impl From<Run> for Value {
    fn from(run: Run) -> Self {
        Self::Run(run)
    }
}

/// One operation of a plan on the arena of a row.
pub(super) trait Step: Send + Sync {
    /// No allocation, a fixed order of operations, no panic whatever the numbers are.
    fn run(&self, arena: &mut [f32]);
}

/// A layer is kept open for the bias that may follow; everything else is finished as it stands.
pub(super) enum Stage {
    Dense(Dense),
    Other(Box<dyn Step>),
}

impl Stage {
    #[inline]
    pub(super) fn run(&self, arena: &mut [f32]) {
        match self {
            Self::Dense(dense) => dense.run(arena),
            Self::Other(step) => step.run(arena),
        }
    }
}

/// A plan in the making.
#[derive(Default)]
pub(super) struct Builder {
    pub stages: Vec<Stage>,
    /// Floats handed out so far.
    pub arena: usize,
    /// How many readers each name has.
    pub uses: HashMap<String, usize>,
}

impl Builder {
    /// A place for as many floats.
    pub(super) fn reserve(&mut self, len: usize) -> Result<usize, String> {
        let at = self.arena;
        self.arena = at
            .checked_add(len)
            .filter(|end| *end <= MAX_ARENA)
            .ok_or_else(|| format!("the values of one row take over {MAX_ARENA} floats"))?;
        Ok(at)
    }

    /// A place of its own for a value of this shape.
    pub(super) fn fresh(&mut self, ty: Type, shape: Vec<usize>) -> Result<Run, String> {
        let len = checked_len(&shape)?;
        if len == 0 {
            return Err(format!(
                "a row computes nothing: a tensor of shape {shape:?}"
            ));
        }
        let at = self.reserve(len)?;
        Ok(Run {
            ty,
            shape,
            at,
            labels: None,
            names: None,
            chosen: false,
            owned: true,
        })
    }

    pub(super) fn push(&mut self, step: impl Step + 'static) {
        self.stages.push(Stage::Other(Box::new(step)));
    }

    /// Whether the reader of input `name` may write over its place.
    pub(super) fn is_last_use(&self, name: &str, run: &Run) -> bool {
        run.owned && self.uses.get(name) == Some(&1)
    }

    /// Numbers in the arena: a constant is copied there by each row, an index of integer labels looked up.
    pub(super) fn in_arena(&mut self, value: &Value) -> Result<Run, String> {
        match value {
            Value::Known(tensor) => {
                let data: Arc<[f32]> = tensor.to_floats()?.into();
                let run = self.fresh(tensor.ty, tensor.shape.clone())?;
                self.push(Load { data, at: run.at });
                Ok(run)
            }
            Value::Run(run) => self.plain(run),
        }
    }

    /// The numbers that an index of labels stands for; strings are refused.
    pub(super) fn plain(&mut self, run: &Run) -> Result<Run, String> {
        let Some(labels) = &run.labels else {
            return Ok(run.clone());
        };
        let Labels::Ints(values) = labels.as_ref() else {
            return Err("strings that a row computes cannot be input of this operator".to_owned());
        };
        let table = values.iter().map(|value| *value as f32).collect();
        let looked_up = self.fresh(Type::Int, run.shape.clone())?;
        self.push(LookUp {
            table,
            from: run.at,
            at: looked_up.at,
            len: run.len(),
        });
        Ok(looked_up)
    }
}

/// The value of input `index`, which must be there.
pub(super) fn input(inputs: &[Option<Value>], index: usize) -> Result<&Value, String> {
    optional(inputs, index).ok_or_else(|| format!("input {index} is missing"))
}

pub(super) fn optional(inputs: &[Option<Value>], index: usize) -> Option<&Value> {
    inputs.get(index).and_then(Option::as_ref)
}

/// Input `index` as a constant; a mistake where rows compute it.
pub(super) fn constant<'a>(
    inputs: &'a [Option<Value>],
    index: usize,
    what: &str,
) -> Result<Option<&'a Tensor>, String> {
    match optional(inputs, index) {
        None => Ok(None),
        Some(Value::Known(tensor)) => Ok(Some(tensor)),
        Some(Value::Run(_)) => Err(format!(
            "{what} (input {index}) is computed by each row; only constants are supported"
        )),
    }
}

/// Input `index` in the arena.
pub(super) fn arena_input(
    builder: &mut Builder,
    inputs: &[Option<Value>],
    index: usize,
) -> Result<Run, String> {
    builder.in_arena(input(inputs, index)?)
}

/// For the evaluation: input `index`, which must be there.
pub(super) fn arg<'a>(inputs: &[Option<&'a Tensor>], index: usize) -> Result<&'a Tensor, String> {
    maybe(inputs, index).ok_or_else(|| format!("input {index} is missing"))
}

pub(super) fn maybe<'a>(inputs: &[Option<&'a Tensor>], index: usize) -> Option<&'a Tensor> {
    inputs.get(index).copied().flatten()
}

/// The constants among the values; `None` for those that rows compute.
pub(super) fn known_only(inputs: &[Option<Value>]) -> Vec<Option<&Tensor>> {
    inputs
        .iter()
        .map(|value| value.as_ref().and_then(Value::known))
        .collect()
}

/// A label table from a constant.
pub(super) fn labels_of(tensor: &Tensor) -> Result<Labels, String> {
    Ok(match &tensor.data {
        Data::Texts(texts) => Labels::Texts(texts.clone()),
        Data::Numbers(_) => Labels::Ints(tensor.to_ints()?),
    })
}

/// Copies a constant into the arena.
struct Load {
    data: Arc<[f32]>,
    at: usize,
}

impl Step for Load {
    fn run(&self, arena: &mut [f32]) {
        arena[self.at..self.at + self.data.len()].copy_from_slice(&self.data);
    }
}

/// Replaces indices by what they stand for; NaN for an index outside the table.
struct LookUp {
    table: Vec<f32>,
    from: usize,
    at: usize,
    len: usize,
}

impl Step for LookUp {
    fn run(&self, arena: &mut [f32]) {
        for i in 0..self.len {
            let index = arena[self.from + i] as usize;
            arena[self.at + i] = self.table.get(index).copied().unwrap_or(f32::NAN);
        }
    }
}
