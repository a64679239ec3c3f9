//! An ensemble of decision trees over one row: walk every tree to its leaf, add up what the leaves say.
//!
//! All trees lie in one flat array of 16-byte nodes; every comparison became `x <= threshold` when the forest was built, and a
//! leaf is a node that leads to itself. So eight trees are walked side by side in one loop without a branch, and their loads
//! overlap. Sums are f64, in the order of the trees: the bits of a row are the same alone and in any batch. [`Builder`] makes one.

mod build;
#[cfg(test)]
mod tests;

pub use build::{Builder, MAX_DEPTH, MAX_LEAF_VALUES, MAX_NODES, MAX_TARGETS, Mode, Node};

use candle_core::{DType, Device, Tensor};

/// Trees walked side by side.
const SIDE_BY_SIDE: usize = 8;

/// Sums held on the stack while a block of rows goes through the trees.
const SUMS: usize = MAX_TARGETS;

/// How the leaves of the trees make one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Aggregate {
    /// Their sum.
    #[default]
    Sum,
    /// Their sum over the number of trees.
    Mean,
    /// The least.
    Min,
    /// The largest.
    Max,
}

/// A node ready to walk. In a leaf both ways lead to itself, and `threshold` holds its value (of a tree with one target) or the
/// bits of its row's number.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Step {
    threshold: f32,
    /// Index into the row; the highest bit says that a missing value takes the first way.
    feature: u32,
    first: u32,
    second: u32,
}

const MISSING_FIRST: u32 = 1 << 31;

/// Where a tree starts, how deep it is, and the one target it speaks of, or [`EVERY_TARGET`].
#[derive(Debug, Clone, Copy, PartialEq)]
struct Tree {
    root: u32,
    depth: u32,
    target: u32,
}

const EVERY_TARGET: u32 = u32::MAX;

/// Trees ready to run; immutable.
#[derive(Debug, Clone, PartialEq)]
pub struct Forest {
    features: usize,
    targets: usize,
    steps: Vec<Step>,
    trees: Vec<Tree>,
    /// One value a target, row after row, for the leaves of trees with several targets.
    rows: Vec<f32>,
    aggregate: Aggregate,
    /// Added to each target at the end.
    base: Vec<f32>,
    /// Whether a sum is rounded to `f32` after each tree.
    single: bool,
}

impl Forest {
    /// The same trees, a sum rounded to `f32` after each: votes that are equal there are equal here.
    #[must_use]
    pub fn in_single(self) -> Self {
        Self {
            single: true,
            ..self
        }
    }

    /// Floats of an input row.
    pub fn features(&self) -> usize {
        self.features
    }

    /// Floats of an output row.
    pub fn targets(&self) -> usize {
        self.targets
    }

    /// Number of trees.
    pub fn trees(&self) -> usize {
        self.trees.len()
    }

    /// One row. A NaN goes where the node says that a missing value goes. Other lengths panic.
    pub fn run(&self, input: &[f32], output: &mut [f32]) {
        assert_eq!(
            (input.len(), output.len()),
            (self.features, self.targets),
            "a forest's row"
        );
        self.block(input, output);
    }

    /// Rows end to end; the bits of each are those of [`Forest::run`].
    pub fn run_rows(&self, inputs: &[f32], outputs: &mut [f32]) {
        assert_eq!(
            inputs.len() * self.targets,
            outputs.len() * self.features,
            "a forest's rows"
        );
        let rows = SUMS / self.targets;
        for (inputs, outputs) in inputs
            .chunks(rows * self.features)
            .zip(outputs.chunks_mut(rows * self.targets))
        {
            self.block(inputs, outputs);
        }
    }

    /// A few rows through one group of trees after the other, so that the group's nodes stay close.
    fn block(&self, inputs: &[f32], outputs: &mut [f32]) {
        let mut sums = [self.neutral(); SUMS];
        let missing = inputs.iter().any(|x| x.is_nan());
        for group in self.trees.chunks(SIDE_BY_SIDE) {
            let depth = group.iter().map(|tree| tree.depth).max().unwrap_or(0);
            for (input, sums) in inputs
                .chunks_exact(self.features)
                .zip(sums.chunks_exact_mut(self.targets))
            {
                let leaves = if missing {
                    self.walk::<true>(group, depth, input)
                } else {
                    self.walk::<false>(group, depth, input)
                };
                for (tree, leaf) in group.iter().zip(leaves) {
                    self.take(tree, leaf, sums);
                }
            }
        }
        for (sums, output) in sums
            .chunks_exact(self.targets)
            .zip(outputs.chunks_exact_mut(self.targets))
        {
            self.finish(sums, output);
        }
    }

    /// The leaves of up to eight trees. `MISSING` says whether a value may be NaN.
    #[inline(always)]
    fn walk<const MISSING: bool>(
        &self,
        group: &[Tree],
        depth: u32,
        input: &[f32],
    ) -> [u32; SIDE_BY_SIDE] {
        // A group that is not full walks its first tree again.
        let mut at = [group[0].root; SIDE_BY_SIDE];
        for (at, tree) in at.iter_mut().zip(group) {
            *at = tree.root;
        }
        for _ in 0..depth {
            let mut moved = 0;
            for at in &mut at {
                let step = self.steps[*at as usize];
                let x = input[(step.feature & !MISSING_FIRST) as usize];
                let mut first = x <= step.threshold;
                if MISSING {
                    first |= x.is_nan() & (step.feature & MISSING_FIRST != 0);
                }
                // Which way is not to be guessed: a mask, no branch.
                let next =
                    step.second ^ ((step.first ^ step.second) & u32::from(first).wrapping_neg());
                moved |= next ^ *at;
                *at = next;
            }
            if moved == 0 {
                break;
            }
        }
        at
    }

    #[inline(always)]
    fn take(&self, tree: &Tree, leaf: u32, sums: &mut [f64]) {
        let said = self.steps[leaf as usize].threshold;
        let add = |sum: &mut f64, value: f32| {
            let value = f64::from(value);
            *sum = match self.aggregate {
                // Two f32 added in f64 and rounded once are what f32 alone gives.
                Aggregate::Sum | Aggregate::Mean if self.single => f64::from((*sum + value) as f32),
                Aggregate::Sum | Aggregate::Mean => *sum + value,
                // Not `min` and `max`: of 0 and -0 they may give either.
                Aggregate::Min if value < *sum => value,
                Aggregate::Max if value > *sum => value,
                Aggregate::Min | Aggregate::Max => *sum,
            };
        };
        if tree.target == EVERY_TARGET {
            let row = &self.rows[said.to_bits() as usize * self.targets..][..self.targets];
            sums.iter_mut()
                .zip(row)
                .for_each(|(sum, value)| add(sum, *value));
        } else {
            add(&mut sums[tree.target as usize], said);
        }
    }

    fn neutral(&self) -> f64 {
        match self.aggregate {
            Aggregate::Sum | Aggregate::Mean => 0.0,
            Aggregate::Min => f64::INFINITY,
            Aggregate::Max => f64::NEG_INFINITY,
        }
    }

    #[inline(always)]
    fn finish(&self, sums: &[f64], output: &mut [f32]) {
        for ((sum, base), output) in sums.iter().zip(&self.base).zip(output) {
            let value = match self.aggregate {
                Aggregate::Mean => sum / self.trees.len() as f64,
                // No tree spoke of this target.
                Aggregate::Min | Aggregate::Max if sum.is_infinite() => 0.0,
                _ => *sum,
            };
            *output = (value + f64::from(*base)) as f32;
        }
    }

    /// The same as a candle graph: all trees a level at a time, by gathering.
    pub fn reference(&self, input: &[f32]) -> candle_core::Result<Vec<f32>> {
        let cpu = &Device::Cpu;
        let column = |f: fn(&Step) -> u32| Tensor::from_iter(self.steps.iter().map(f), cpu);
        let threshold = Tensor::from_iter(self.steps.iter().map(|step| step.threshold), cpu)?;
        let (first, second) = (column(|step| step.first)?, column(|step| step.second)?);
        let feature = column(|step| step.feature & !MISSING_FIRST)?;
        let missing_first = column(|step| step.feature >> 31)?;
        let row = Tensor::new(input, cpu)?;
        let mut at = Tensor::from_iter(self.trees.iter().map(|tree| tree.root), cpu)?;
        for _ in 0..self.trees.iter().map(|tree| tree.depth).max().unwrap_or(0) {
            let x = row.index_select(&feature.index_select(&at, 0)?, 0)?;
            let below = x.le(&threshold.index_select(&at, 0)?)?;
            let missing = x.ne(&x)?.to_dtype(DType::U32)?;
            let missing = (missing * missing_first.index_select(&at, 0)?)?;
            let goes_first = below.to_dtype(DType::U32)?.add(&missing)?;
            at = goes_first
                .where_cond(&first.index_select(&at, 0)?, &second.index_select(&at, 0)?)?;
        }
        let said = threshold.index_select(&at, 0)?.to_vec1::<f32>()?;
        self.reference_sums(&said)
    }

    /// What the leaves say, `[trees, targets]` in f64, aggregated.
    fn reference_sums(&self, said: &[f32]) -> candle_core::Result<Vec<f32>> {
        let silent = match self.aggregate {
            Aggregate::Sum | Aggregate::Mean => 0.0,
            Aggregate::Min => f64::MAX,
            Aggregate::Max => f64::MIN,
        };
        let mut values = Vec::with_capacity(said.len() * self.targets);
        for (tree, said) in self.trees.iter().zip(said) {
            let row = said.to_bits() as usize * self.targets;
            values.extend((0..self.targets).map(|target| match tree.target {
                EVERY_TARGET => f64::from(self.rows[row + target]),
                one if one as usize == target => f64::from(*said),
                _ => silent,
            }));
        }
        let values = Tensor::from_vec(values, (said.len(), self.targets), &Device::Cpu)?;
        let sums = match self.aggregate {
            Aggregate::Sum => values.sum(0)?,
            Aggregate::Mean => values.mean(0)?,
            Aggregate::Min => values.min(0)?,
            Aggregate::Max => values.max(0)?,
        };
        let sums: Vec<f64> = sums.to_vec1()?;
        let spoken = |sum: &f64| if sum.abs() == f64::MAX { 0.0 } else { *sum };
        Ok(sums
            .iter()
            .zip(&self.base)
            .map(|(sum, base)| (spoken(sum) + f64::from(*base)) as f32)
            .collect())
    }
}
