//! Tree ensembles as `ai.onnx.ml` writes them, in either of two forms, to lists of nodes and to the crate's forest.
//!
//! A row is `f32`, so a `double` threshold becomes the `f32` that decides every `f32` alike. Branches that several nodes of a list
//! lead to (a set of categories is a chain of `==` to one branch) are copied for the forest, within a limit.

use std::collections::HashMap;

use super::super::graph::Node;
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

/// A list of floats, or the same as a tensor of doubles.
fn numbers(node: &Node, name: &str) -> Result<Vec<f64>, String> {
    let wide = format!("{name}_as_tensor");
    match node.tensor(&wide)? {
        Some(tensor) => Ok(tensor.values()?.to_vec()),
        None => Ok(node.floats(name)?.iter().copied().map(f64::from).collect()),
    }
}

/// The `f32` that compares with every `f32` as `threshold` does.
fn narrow(threshold: f64, mode: Mode) -> Result<f32, String> {
    let near = threshold as f32;
    if threshold.is_nan() {
        return Err("a threshold is NaN".to_owned());
    }
    Ok(match mode {
        Mode::LessOrEqual | Mode::Greater if f64::from(near) > threshold => near.next_down(),
        Mode::Less | Mode::GreaterOrEqual if f64::from(near) < threshold => near.next_up(),
        Mode::Equal | Mode::NotEqual if f64::from(near) != threshold => {
            return Err(format!(
                "a comparison with {threshold}, which no float equals"
            ));
        }
        _ => near,
    })
}

fn mode(name: &str) -> Result<Option<Mode>, String> {
    Ok(Some(match name {
        "BRANCH_LEQ" => Mode::LessOrEqual,
        "BRANCH_LT" => Mode::Less,
        "BRANCH_GTE" => Mode::GreaterOrEqual,
        "BRANCH_GT" => Mode::Greater,
        "BRANCH_EQ" => Mode::Equal,
        "BRANCH_NEQ" => Mode::NotEqual,
        "LEAF" => return Ok(None),
        other => return Err(format!("a node of mode {other:?}")),
    }))
}

pub(super) fn index(value: i64, what: &str) -> Result<usize, String> {
    usize::try_from(value).map_err(|_| format!("{what} is {value}"))
}

impl Ensemble {
    /// `TreeEnsembleRegressor` and `TreeEnsembleClassifier`, whose leaves speak of `prefix`: `target` or `class`.
    pub(super) fn listed(node: &Node, prefix: &str, targets: usize) -> Result<Self, String> {
        let (tree_of, id_of) = (node.ints("nodes_treeids")?, node.ints("nodes_nodeids")?);
        let count = tree_of.len();
        let modes = node.texts("nodes_modes")?;
        let values = numbers(node, "nodes_values")?;
        let lists = [
            id_of,
            node.ints("nodes_featureids")?,
            node.ints("nodes_truenodeids")?,
            node.ints("nodes_falsenodeids")?,
        ];
        if count == 0
            || modes.len() != count
            || values.len() != count
            || lists.iter().any(|list| list.len() != count)
        {
            return Err("the lists of nodes differ in length, or are empty".to_owned());
        }
        let missing = node.ints("nodes_missing_value_tracks_true")?;
        let mut places = HashMap::with_capacity(count);
        let mut trees: Vec<(Vec<trees::Node>, usize)> = Vec::new();
        for at in 0..count {
            if at == 0 || tree_of[at] != tree_of[at - 1] {
                trees.push((Vec::new(), 0));
            }
            let tree = trees.len() - 1;
            let inside = trees[tree].0.len();
            if places
                .insert((tree_of[at], id_of[at]), (tree, inside))
                .is_some()
            {
                return Err(format!(
                    "node {} of tree {} is there twice",
                    id_of[at], tree_of[at]
                ));
            }
            trees[tree].0.push(trees::Node::Leaf(Vec::new()));
        }
        for at in 0..count {
            let Some(mode) = mode(&modes[at])? else {
                continue;
            };
            let way = |id: i64| {
                let found = places.get(&(tree_of[at], id));
                found
                    .copied()
                    .ok_or_else(|| format!("tree {} has no node {id}", tree_of[at]))
            };
            let (tree, inside) = way(id_of[at])?;
            let ways = [way(lists[2][at])?, way(lists[3][at])?];
            if ways.iter().any(|way| way.0 != tree) {
                return Err(format!(
                    "the nodes of tree {} are not side by side",
                    tree_of[at]
                ));
            }
            trees[tree].0[inside] = trees::Node::Branch {
                feature: index(lists[1][at], "a feature")?,
                mode,
                threshold: narrow(values[at], mode)?,
                missing_goes_true: missing.get(at).is_some_and(|goes| *goes != 0),
                when_true: ways[0].1,
                when_false: ways[1].1,
            };
        }
        Self::leaves(node, prefix, &places, &mut trees)?;
        Ok(Self {
            trees,
            targets,
            aggregate: aggregate(node.text("aggregate_function", "SUM")?)?,
            base: numbers(node, "base_values")?
                .iter()
                .map(|value| *value as f32)
                .collect(),
        })
    }

    fn leaves(
        node: &Node,
        prefix: &str,
        places: &HashMap<(i64, i64), (usize, usize)>,
        trees: &mut [(Vec<trees::Node>, usize)],
    ) -> Result<(), String> {
        let list = |name: &str| node.ints(&format!("{prefix}_{name}"));
        let (tree_of, id_of, target_of) = (list("treeids")?, list("nodeids")?, list("ids")?);
        let weights = numbers(node, &format!("{prefix}_weights"))?;
        if [id_of.len(), target_of.len(), weights.len()] != [tree_of.len(); 3] {
            return Err("the lists of leaves differ in length".to_owned());
        }
        for at in 0..tree_of.len() {
            let place = places.get(&(tree_of[at], id_of[at]));
            let (tree, inside) =
                *place.ok_or_else(|| format!("tree {} has no node {}", tree_of[at], id_of[at]))?;
            if let trees::Node::Leaf(values) = &mut trees[tree].0[inside] {
                values.push((index(target_of[at], "a target")?, weights[at] as f32));
            }
        }
        Ok(())
    }

    /// `TreeEnsemble` of operator set 5: branches and leaves in lists of their own.
    pub(super) fn split(node: &Node) -> Result<Self, String> {
        let tensor = |name: &str| {
            node.tensor(name)?
                .ok_or_else(|| format!("attribute {name} is missing"))
        };
        let (modes, splits) = (
            tensor("nodes_modes")?.to_ints()?,
            tensor("nodes_splits")?.values()?,
        );
        let branches = modes.len();
        let list = |name: &str| {
            let list = node.ints(name)?;
            (list.len() == branches)
                .then_some(list)
                .ok_or_else(|| format!("{name} has {} of {branches} nodes", list.len()))
        };
        let (features, when_true, when_false) = (
            list("nodes_featureids")?,
            list("nodes_truenodeids")?,
            list("nodes_falsenodeids")?,
        );
        let (true_leaf, false_leaf) = (list("nodes_trueleafs")?, list("nodes_falseleafs")?);
        let missing = node.ints("nodes_missing_value_tracks_true")?;
        let (targets_of, weights) = (
            node.ints("leaf_targetids")?,
            tensor("leaf_weights")?.to_floats()?,
        );
        if splits.len() != branches || targets_of.len() != weights.len() {
            return Err("the lists of nodes or leaves differ in length".to_owned());
        }
        // Leaves lie behind the branches. Each reference to one is a leaf of its own: leaves may be shared.
        let mut nodes: Vec<trees::Node> = Vec::with_capacity(branches * 2 + 1);
        nodes.resize(branches, trees::Node::Leaf(Vec::new()));
        let way = |nodes: &mut Vec<trees::Node>, to: i64, leaf: bool| {
            let to = index(to, "a way")?;
            if !leaf {
                return Ok(to);
            }
            let lies = targets_of
                .get(to)
                .ok_or_else(|| format!("there is no leaf {to}"))?;
            nodes.push(trees::Node::Leaf(vec![(
                index(*lies, "a target")?,
                weights[to],
            )]));
            Ok::<usize, String>(nodes.len() - 1)
        };
        for at in 0..branches {
            let mode = match modes[at] {
                0 => Mode::LessOrEqual,
                1 => Mode::Less,
                2 => Mode::GreaterOrEqual,
                3 => Mode::Greater,
                4 => Mode::Equal,
                5 => Mode::NotEqual,
                other => {
                    return Err(format!(
                        "nodes_modes holds {other}; set membership is not supported"
                    ));
                }
            };
            let yes = way(&mut nodes, when_true[at], true_leaf[at] != 0)?;
            let no = way(&mut nodes, when_false[at], false_leaf[at] != 0)?;
            nodes[at] = trees::Node::Branch {
                feature: index(features[at], "a feature")?,
                mode,
                threshold: narrow(splits[at], mode)?,
                missing_goes_true: missing.get(at).is_some_and(|goes| *goes != 0),
                when_true: yes,
                when_false: no,
            };
        }
        Self::split_trees(node, &nodes)
    }

    /// One list of nodes a tree, from its root.
    fn split_trees(node: &Node, nodes: &[trees::Node]) -> Result<Self, String> {
        let mut taken = vec![false; nodes.len()];
        let mut trees = Vec::new();
        for root in node.ints("tree_roots")? {
            trees.push((reachable(nodes, index(*root, "a root")?, &mut taken)?, 0));
        }
        let aggregates = ["AVERAGE", "SUM", "MIN", "MAX"];
        let named = usize::try_from(node.int("aggregate_function", 1)?).ok();
        let named = named
            .and_then(|at| aggregates.get(at))
            .ok_or("attribute aggregate_function")?;
        Ok(Self {
            trees,
            targets: index(node.int("n_targets", 1)?, "n_targets")?,
            aggregate: aggregate(named)?,
            base: Vec::new(),
        })
    }

    pub(super) fn forest(&self, features: usize, single: bool) -> Result<Forest, String> {
        let said = |mistake: crate::manifest::Mistake| mistake.to_string();
        let mut builder = trees::Builder::new(features, self.targets).map_err(said)?;
        let mut total = 0;
        for (at, (nodes, root)) in self.trees.iter().enumerate() {
            let (size, shares) =
                spread(nodes, *root).map_err(|why| format!("trees[{at}].{why}"))?;
            total = size.saturating_add(total);
            if shares && total > MAX_TREE_NODES {
                return Err(format!(
                    "trees[{at}]: copies of its shared branches bring the nodes over {MAX_TREE_NODES}"
                ));
            }
            if shares {
                let copies = laid_out(nodes, *root, |_| Ok(()))?;
                builder.tree(&copies, 0).map_err(said)?;
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

/// How many nodes a tree has once each shared branch is copied, and whether there is one. A cycle is refused.
fn spread(nodes: &[trees::Node], root: usize) -> Result<(usize, bool), String> {
    // Nodes below and including each; 0 until it is known.
    let mut sizes = vec![0_usize; nodes.len()];
    let mut above = vec![false; nodes.len()];
    let mut path = vec![root];
    while let Some(at) = path.last().copied() {
        let mut size = 1_usize;
        if let trees::Node::Branch {
            when_true,
            when_false,
            ..
        } = &nodes[at]
        {
            above[at] = true;
            let ways = [*when_true, *when_false];
            if let Some(way) = ways.into_iter().find(|way| sizes[*way] == 0) {
                if above[way] {
                    return Err(format!(
                        "nodes[{at}]: leads to node {way} above it: a tree has no cycle"
                    ));
                }
                path.push(way);
                continue;
            }
            size = ways
                .into_iter()
                .fold(size, |size, way| size.saturating_add(sizes[way]));
        }
        sizes[at] = size;
        path.pop();
    }
    let distinct = sizes.iter().filter(|size| **size > 0).count();
    Ok((sizes[root], sizes[root] > distinct))
}

/// The nodes of one tree, each reached only once.
fn reachable(
    nodes: &[trees::Node],
    root: usize,
    taken: &mut [bool],
) -> Result<Vec<trees::Node>, String> {
    laid_out(nodes, root, |at| {
        if std::mem::replace(&mut taken[at], true) {
            return Err(format!("node {at} is reached twice: a tree has no cycle"));
        }
        Ok(())
    })
}

/// The nodes of one tree, the root first, one as often as ways lead to it. `visit` must end a cycle.
fn laid_out(
    nodes: &[trees::Node],
    root: usize,
    mut visit: impl FnMut(usize) -> Result<(), String>,
) -> Result<Vec<trees::Node>, String> {
    let mut list: Vec<trees::Node> = Vec::new();
    let mut waiting = std::collections::VecDeque::from([root]);
    let mut placed = 0;
    while let Some(at) = waiting.pop_front() {
        let node = nodes
            .get(at)
            .ok_or_else(|| format!("there is no node {at}"))?;
        visit(at)?;
        let mut node = node.clone();
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
    Ok(list)
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

fn aggregate(name: &str) -> Result<Aggregate, String> {
    Ok(match name {
        "SUM" => Aggregate::Sum,
        "AVERAGE" => Aggregate::Mean,
        "MIN" => Aggregate::Min,
        "MAX" => Aggregate::Max,
        other => return Err(format!("attribute aggregate_function is {other:?}")),
    })
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
