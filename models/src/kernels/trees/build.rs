//! Trees as people and file formats write them become a [`Forest`]: six comparisons, missing values, any order of nodes.
//!
//! Refused, with the place named: an index out of bounds, a node reached twice (a cycle or a shared branch), a number that is not
//! finite, sizes above the limits. Nodes that no root leads to are left out.

use std::collections::VecDeque;

use super::{Aggregate, EVERY_TARGET, Forest, MISSING_FIRST, Step, Tree};
use crate::manifest::{Mistake, check};

/// Most outputs of a forest.
pub const MAX_TARGETS: usize = 256;

/// Most nodes of a forest, leaves and the second halves of `==` included: 256 MiB.
pub const MAX_NODES: usize = 16 * 1024 * 1024;

/// Most comparisons from a root to a leaf.
pub const MAX_DEPTH: u32 = 4096;

/// Most numbers in the leaves of trees that speak of several targets: 256 MiB.
pub const MAX_LEAF_VALUES: usize = 64 * 1024 * 1024;

/// The comparison of a branch; where it holds, the way is `when_true`. They are those of ONNX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `x < threshold`.
    Less,
    /// `x <= threshold`.
    LessOrEqual,
    /// `x > threshold`.
    Greater,
    /// `x >= threshold`.
    GreaterOrEqual,
    /// `x == threshold`.
    Equal,
    /// `x != threshold`.
    NotEqual,
}

/// One node as it is written; ways are indices into the list of its tree.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// A comparison.
    Branch {
        /// Index into the row.
        feature: usize,
        /// The comparison.
        mode: Mode,
        /// Finite or infinite, not NaN.
        threshold: f32,
        /// Whether a NaN goes the way of `when_true`; otherwise it goes as IEEE 754 compares it: `!=` holds, the others do not.
        missing_goes_true: bool,
        /// Where the comparison holds.
        when_true: usize,
        /// Where it does not.
        when_false: usize,
    },
    /// An end: (target, value); a target named twice counts as the sum.
    Leaf(Vec<(usize, f32)>),
}

/// Collects trees; see [`Builder::tree`] and [`Builder::finish`].
#[derive(Debug)]
pub struct Builder {
    forest: Forest,
}

/// Where the ways of an old node begin in the new array.
struct Tracks<'n> {
    nodes: &'n [Node],
    /// New index by old one.
    placed: Vec<Option<u32>>,
    /// Old index and depth, in the order in which they were placed.
    waiting: VecDeque<(usize, u32)>,
}

impl Builder {
    /// For rows of `features` floats and outputs of `targets`.
    pub fn new(features: usize, targets: usize) -> Result<Self, Mistake> {
        let most = MISSING_FIRST as usize - 1;
        check(
            (1..=most).contains(&features),
            "features",
            "a forest needs at least one",
        )?;
        check(
            (1..=MAX_TARGETS).contains(&targets),
            "targets",
            &format!("{targets} is not in 1..={MAX_TARGETS}"),
        )?;
        Ok(Self {
            forest: Forest {
                features,
                targets,
                steps: Vec::new(),
                trees: Vec::new(),
                rows: Vec::new(),
                aggregate: Aggregate::Sum,
                base: vec![0.0; targets],
                single: false,
            },
        })
    }

    /// Adds a tree whose root is `nodes[root]`. A mistake names the node as `trees[3].nodes[7]`.
    pub fn tree(&mut self, nodes: &[Node], root: usize) -> Result<(), Mistake> {
        let name = format!("trees[{}]", self.forest.trees.len());
        let target = self.only_target(nodes);
        let mut tracks = Tracks {
            nodes,
            placed: vec![None; nodes.len()],
            waiting: VecDeque::new(),
        };
        let at_root = self.place(&mut tracks, root, 0, &name)?;
        let mut depth = 0;
        while let Some((index, level)) = tracks.waiting.pop_front() {
            depth = depth.max(level);
            let place = format!("{name}.nodes[{index}]");
            check(
                level <= MAX_DEPTH,
                &place,
                &format!("lies deeper than {MAX_DEPTH} comparisons"),
            )?;
            let slot = tracks.placed[index].expect("placed before it waits") as usize;
            match &nodes[index] {
                Node::Leaf(values) => self.leaf(slot, values, target, &place)?,
                Node::Branch { .. } => self.branch(&mut tracks, index, slot, level, &place)?,
            }
        }
        self.forest.trees.push(Tree {
            root: at_root,
            depth,
            target,
        });
        Ok(())
    }

    /// The forest. `base` is added to each target at the end: one value a target, or none for zeros.
    pub fn finish(mut self, aggregate: Aggregate, base: &[f32]) -> Result<Forest, Mistake> {
        check(!self.forest.trees.is_empty(), "trees", "there is none")?;
        check(
            base.is_empty() || base.len() == self.forest.targets,
            "base",
            &format!(
                "expected {} values, got {}",
                self.forest.targets,
                base.len()
            ),
        )?;
        check(
            base.iter().all(|value| value.is_finite()),
            "base",
            "holds a value that is not finite",
        )?;
        self.forest.aggregate = aggregate;
        if !base.is_empty() {
            self.forest.base = base.to_vec();
        }
        self.forest.steps.shrink_to_fit();
        Ok(self.forest)
    }

    /// The one target that every leaf speaks of, or [`EVERY_TARGET`].
    fn only_target(&self, nodes: &[Node]) -> u32 {
        let mut targets = nodes.iter().flat_map(|node| match node {
            Node::Leaf(values) if values.is_empty() => &[(usize::MAX, 0.0)][..],
            Node::Leaf(values) => values,
            Node::Branch { .. } => &[],
        });
        let Some((first, _)) = targets.next() else {
            return EVERY_TARGET;
        };
        if *first < self.forest.targets && targets.all(|(target, _)| target == first) {
            *first as u32
        } else {
            EVERY_TARGET
        }
    }

    /// Gives an old node its place: one step, two for `==` and `!=`.
    fn place(
        &mut self,
        tracks: &mut Tracks<'_>,
        index: usize,
        level: u32,
        from: &str,
    ) -> Result<u32, Mistake> {
        let count = tracks.nodes.len();
        let node = tracks
            .nodes
            .get(index)
            .ok_or_else(|| Mistake::new(from, format!("leads to node {index}, of {count}")))?;
        check(
            tracks.placed[index].is_none(),
            from,
            &format!(
                "leads to node {index}, which is reached already: a tree has no cycle and no shared branch"
            ),
        )?;
        let twice = matches!(
            node,
            Node::Branch {
                mode: Mode::Equal | Mode::NotEqual,
                ..
            }
        );
        let at = self.forest.steps.len();
        let steps = at + 1 + usize::from(twice);
        check(
            steps <= MAX_NODES,
            from,
            &format!("is one of more than {MAX_NODES} nodes"),
        )?;
        let empty = Step {
            threshold: 0.0,
            feature: 0,
            first: at as u32,
            second: at as u32,
        };
        self.forest.steps.resize(steps, empty);
        tracks.placed[index] = Some(at as u32);
        tracks.waiting.push_back((index, level));
        Ok(at as u32)
    }

    fn leaf(
        &mut self,
        slot: usize,
        values: &[(usize, f32)],
        target: u32,
        place: &str,
    ) -> Result<(), Mistake> {
        let targets = self.forest.targets;
        for (target, value) in values {
            check(
                *target < targets,
                place,
                &format!("speaks of target {target}, of {targets}"),
            )?;
            check(
                value.is_finite(),
                place,
                &format!("holds the value {value}"),
            )?;
        }
        let step = &mut self.forest.steps[slot];
        if target == EVERY_TARGET {
            let start = self.forest.rows.len();
            step.threshold = f32::from_bits((start / targets) as u32);
            check(
                start + targets <= MAX_LEAF_VALUES,
                place,
                &format!("makes more than {MAX_LEAF_VALUES} numbers in leaves"),
            )?;
            self.forest.rows.resize(start + targets, 0.0);
            for (target, value) in values {
                self.forest.rows[start + target] += value;
            }
        } else {
            step.threshold = values.iter().map(|(_, value)| value).sum();
        }
        Ok(())
    }

    fn branch(
        &mut self,
        tracks: &mut Tracks<'_>,
        index: usize,
        slot: usize,
        level: u32,
        place: &str,
    ) -> Result<(), Mistake> {
        let Node::Branch {
            feature,
            mode,
            threshold,
            missing_goes_true,
            when_true,
            when_false,
        } = tracks.nodes[index]
        else {
            unreachable!("the caller saw a branch");
        };
        let features = self.forest.features;
        check(
            feature < features,
            place,
            &format!("looks at feature {feature}, of {features}"),
        )?;
        check(!threshold.is_nan(), place, "compares with NaN")?;
        let both = matches!(mode, Mode::Equal | Mode::NotEqual);
        let below = level + 1 + u32::from(both);
        let yes = self.place(tracks, when_true, below, place)?;
        let no = self.place(tracks, when_false, below, place)?;
        let step = |threshold, missing_first: bool, first, second| Step {
            threshold,
            feature: feature as u32 | if missing_first { MISSING_FIRST } else { 0 },
            first,
            second,
        };
        // Below negative infinity there is nothing: NaN, which nothing is `<=`.
        let before = if threshold == f32::NEG_INFINITY {
            f32::NAN
        } else {
            threshold.next_down()
        };
        let missing = missing_goes_true;
        let half = slot as u32 + 1;
        let steps = &mut self.forest.steps;
        match mode {
            Mode::LessOrEqual => steps[slot] = step(threshold, missing, yes, no),
            Mode::Less => steps[slot] = step(before, missing, yes, no),
            Mode::Greater => steps[slot] = step(threshold, !missing, no, yes),
            Mode::GreaterOrEqual => steps[slot] = step(before, !missing, no, yes),
            Mode::Equal => {
                steps[slot] = step(threshold, missing, half, no);
                steps[slot + 1] = step(before, false, no, yes);
            }
            Mode::NotEqual => {
                steps[slot] = step(threshold, false, half, yes);
                steps[slot + 1] = step(before, false, yes, no);
            }
        }
        Ok(())
    }
}
