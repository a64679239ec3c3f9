//! A tree ensemble as lists of nodes, and from them the crate's forest, and the reference. `tree_lists` reads them from a node.
//!
//! Branches that several nodes of a list
//! lead to (a set of categories is a chain of `==` to one branch) are copied for the forest, within a limit.

use super::super::limits::MAX_TREE_NODES;
use crate::kernels::trees::{self, Aggregate, Forest, Mode};

/// The trees of a node as they are written.
pub(super) struct Ensemble {
    /// Nodes and root.
    pub trees: Vec<(Vec<trees::Node>, usize)>,
    pub targets: usize,
    pub aggregate: Aggregate,
    pub base: Vec<f32>,
}

pub(super) fn index(value: i64, what: &str) -> Result<usize, String> {
    usize::try_from(value).map_err(|_| format!("{what} is {value}"))
}

impl Ensemble {
    pub(super) fn forest(&self, features: usize, single: bool) -> Result<Forest, String> {
        let said = |mistake: crate::manifest::Mistake| mistake.to_string();
        let mut builder = trees::Builder::new(features, self.targets).map_err(said)?;
        let mut total = 0;
        for (at, (nodes, root)) in self.trees.iter().enumerate() {
            let mut sizes = Sizes::new(nodes.len());
            let size = sizes.below(nodes, *root);
            let size = size.map_err(|why| format!("trees[{at}].{why}"))?;
            let shares = size > sizes.distinct();
            total = size.saturating_add(total);
            if shares && total > MAX_TREE_NODES {
                return Err(format!(
                    "trees[{at}]: copies of its shared branches bring the nodes over {MAX_TREE_NODES}"
                ));
            }
            if shares {
                builder.tree(&laid_out(nodes, *root), 0).map_err(said)?;
            } else {
                builder.tree(nodes, *root).map_err(said)?;
            }
        }
        let forest = builder.finish(self.aggregate, &[]).map_err(said)?;
        Ok(if single { forest.in_single() } else { forest })
    }

    /// The reference: every tree walked by itself.
    pub(super) fn exact(&self, x: &[f64], single: bool) -> Result<Vec<f64>, String> {
        let mut sums: Vec<Option<f64>> = vec![None; self.targets];
        for (nodes, root) in &self.trees {
            for (target, value) in leaf(nodes, *root, x)? {
                let sum = sums
                    .get_mut(*target)
                    .ok_or_else(|| format!("there is no target {target}"))?;
                let value = f64::from(*value);
                let joined = match (self.aggregate, *sum) {
                    (_, None) => value,
                    (Aggregate::Sum | Aggregate::Mean, Some(sum)) => sum + value,
                    (Aggregate::Min, Some(sum)) => sum.min(value),
                    (Aggregate::Max, Some(sum)) => sum.max(value),
                };
                *sum = Some(if single {
                    f64::from(joined as f32)
                } else {
                    joined
                });
            }
        }
        let divisor = if self.aggregate == Aggregate::Mean {
            self.trees.len() as f64
        } else {
            1.0
        };
        Ok(sums
            .iter()
            .map(|sum| sum.unwrap_or(0.0) / divisor)
            .collect())
    }

    /// The classes that some leaf speaks of, and whether some weight is below zero.
    pub(super) fn spoken(&self) -> (Vec<bool>, bool) {
        let mut spoken = vec![false; self.targets];
        let mut negative = false;
        for node in self.trees.iter().flat_map(|(nodes, _)| nodes) {
            if let trees::Node::Leaf(values) = node {
                for (target, value) in values {
                    if let Some(spoken) = spoken.get_mut(*target) {
                        *spoken = true;
                    }
                    negative |= *value < 0.0;
                }
            }
        }
        (spoken, negative)
    }
}

/// How many nodes there are below each of a list, once each shared branch is copied.
pub(super) struct Sizes {
    /// Each included itself; 0 until it is known.
    sizes: Vec<usize>,
    above: Vec<bool>,
}

impl Sizes {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            sizes: vec![0; nodes],
            above: vec![false; nodes],
        }
    }

    /// Of the tree at `root`; all ways must lead to nodes of the list. A cycle is refused.
    pub(super) fn below(&mut self, nodes: &[trees::Node], root: usize) -> Result<usize, String> {
        let mut path = vec![root];
        while let Some(at) = path.last().copied() {
            let mut size = 1_usize;
            if let trees::Node::Branch {
                when_true,
                when_false,
                ..
            } = &nodes[at]
            {
                self.above[at] = true;
                let ways = [*when_true, *when_false];
                if let Some(way) = ways.into_iter().find(|way| self.sizes[*way] == 0) {
                    if self.above[way] {
                        return Err(format!(
                            "nodes[{at}]: leads to node {way} above it: a tree has no cycle"
                        ));
                    }
                    path.push(way);
                    continue;
                }
                let below = ways.into_iter().map(|way| self.sizes[way]);
                size = below.fold(size, usize::saturating_add);
            }
            self.sizes[at] = size;
            path.pop();
        }
        Ok(self.sizes[root])
    }

    /// The nodes that were reached.
    fn distinct(&self) -> usize {
        self.sizes.iter().filter(|size| **size > 0).count()
    }
}

/// The nodes of one tree, the root first, one as often as ways lead to it; [`Sizes::below`] knows that the ways end.
pub(super) fn laid_out(nodes: &[trees::Node], root: usize) -> Vec<trees::Node> {
    let mut list: Vec<trees::Node> = Vec::new();
    let mut waiting = std::collections::VecDeque::from([root]);
    let mut placed = 0;
    while let Some(at) = waiting.pop_front() {
        let mut node = nodes[at].clone();
        if let trees::Node::Branch {
            when_true,
            when_false,
            ..
        } = &mut node
        {
            waiting.extend([*when_true, *when_false]);
            (*when_true, *when_false) = (placed + 1, placed + 2);
            placed += 2;
        }
        list.push(node);
    }
    list
}

/// The leaf that a row reaches.
fn leaf<'n>(
    nodes: &'n [trees::Node],
    root: usize,
    x: &[f64],
) -> Result<&'n [(usize, f32)], String> {
    let mut at = root;
    // A walk longer than the tree has nodes goes in a circle.
    for _ in 0..=nodes.len() {
        match nodes
            .get(at)
            .ok_or_else(|| format!("there is no node {at}"))?
        {
            trees::Node::Leaf(values) => return Ok(values),
            trees::Node::Branch {
                feature,
                mode,
                threshold,
                missing_goes_true,
                when_true,
                when_false,
            } => {
                let x = *x
                    .get(*feature)
                    .ok_or_else(|| format!("there is no feature {feature}"))?;
                let t = f64::from(*threshold);
                let holds = match mode {
                    Mode::Less => x < t,
                    Mode::LessOrEqual => x <= t,
                    Mode::Greater => x > t,
                    Mode::GreaterOrEqual => x >= t,
                    Mode::Equal => x == t,
                    Mode::NotEqual => x != t,
                };
                let holds = holds || (x.is_nan() && *missing_goes_true);
                at = if holds { *when_true } else { *when_false };
            }
        }
    }
    Err("a tree is cyclic".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn equal(threshold: f32, when_true: usize, when_false: usize) -> trees::Node {
        trees::Node::Branch {
            feature: 0,
            mode: Mode::Equal,
            threshold,
            missing_goes_true: false,
            when_true,
            when_false,
        }
    }

    fn ensemble(nodes: Vec<trees::Node>) -> Ensemble {
        Ensemble {
            trees: vec![(nodes, 0)],
            targets: 1,
            aggregate: Aggregate::Sum,
            base: Vec::new(),
        }
    }

    fn leaf_of(value: f32) -> trees::Node {
        trees::Node::Leaf(vec![(0, value)])
    }

    #[test]
    fn a_branch_that_several_nodes_lead_to_is_copied() {
        let nodes = vec![
            equal(1.0, 3, 1),
            equal(4.0, 3, 2),
            equal(6.0, 3, 5),
            equal(4.0, 4, 5),
            leaf_of(2.0),
            leaf_of(-1.0),
        ];
        let ensemble = ensemble(nodes);
        let forest = ensemble.forest(1, false).unwrap();
        for x in 0..8_u8 {
            let x = f32::from(x);
            let mut output = [0.0];
            forest.run(&[x], &mut output);
            assert_eq!(output, [if x == 4.0 { 2.0 } else { -1.0 }], "{x}");
            let exact = ensemble.exact(&[f64::from(x)], false).unwrap();
            assert_eq!(exact, [f64::from(output[0])]);
        }
    }

    #[test]
    fn a_cycle_is_refused_where_it_closes() {
        let nodes = vec![equal(1.0, 2, 1), equal(2.0, 2, 0), leaf_of(1.0)];
        assert_eq!(
            ensemble(nodes).forest(1, false).unwrap_err(),
            "trees[0].nodes[1]: leads to node 0 above it: a tree has no cycle"
        );
        let itself = vec![equal(1.0, 0, 1), leaf_of(1.0)];
        assert!(ensemble(itself).forest(1, false).is_err());
    }

    #[test]
    fn copies_beyond_the_limit_are_refused_before_they_are_made() {
        // Each node leads twice to the next: a leaf is reached 2^200 ways.
        let mut nodes: Vec<_> = (1..=200).map(|next| equal(1.0, next, next)).collect();
        nodes.push(leaf_of(1.0));
        assert_eq!(
            ensemble(nodes).forest(1, false).unwrap_err(),
            "trees[0]: copies of its shared branches bring the nodes over 4000000"
        );
    }
}
