//! Reads the trees of a node of `ai.onnx.ml`, in either of two forms, to lists of nodes.
//!
//! A row is `f32`, so a `double` threshold becomes the `f32` that decides every `f32` alike. Where a set is tested, each of its
//! members becomes a comparison, all with one branch behind them.

use std::collections::HashMap;

use super::super::graph::Node;
use super::super::limits::MAX_TREE_NODES;
use super::ensemble::{Ensemble, Sizes, index, laid_out};
use crate::kernels::trees::{self, Aggregate, Mode};

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

fn aggregate(name: &str) -> Result<Aggregate, String> {
    Ok(match name {
        "SUM" => Aggregate::Sum,
        "AVERAGE" => Aggregate::Mean,
        "MIN" => Aggregate::Min,
        "MAX" => Aggregate::Max,
        other => return Err(format!("attribute aggregate_function is {other:?}")),
    })
}

/// Nodes and root of each tree.
type Trees = Vec<(Vec<trees::Node>, usize)>;

/// The tree and the place in it of each (tree, node) of a file.
type Places = HashMap<(i64, i64), (usize, usize)>;

/// The lists of `TreeEnsembleRegressor` and `TreeEnsembleClassifier`, one entry a node.
struct Listed<'n> {
    trees: &'n [i64],
    ids: &'n [i64],
    features: &'n [i64],
    when_true: &'n [i64],
    when_false: &'n [i64],
    modes: &'n [String],
    values: Vec<f64>,
    missing: &'n [i64],
}

impl<'n> Listed<'n> {
    fn of(node: &'n Node) -> Result<Self, String> {
        let lists = Self {
            trees: node.ints("nodes_treeids")?,
            ids: node.ints("nodes_nodeids")?,
            features: node.ints("nodes_featureids")?,
            when_true: node.ints("nodes_truenodeids")?,
            when_false: node.ints("nodes_falsenodeids")?,
            modes: node.texts("nodes_modes")?,
            values: numbers(node, "nodes_values")?,
            missing: node.ints("nodes_missing_value_tracks_true")?,
        };
        let lens = [
            lists.ids.len(),
            lists.features.len(),
            lists.when_true.len(),
            lists.when_false.len(),
            lists.modes.len(),
            lists.values.len(),
        ];
        if lists.trees.is_empty() || lens != [lists.trees.len(); 6] {
            return Err("the lists of nodes differ in length, or are empty".to_owned());
        }
        Ok(lists)
    }

    /// A leaf without values for each node, and where each lies.
    fn places(&self) -> Result<(Trees, Places), String> {
        let mut places = HashMap::with_capacity(self.trees.len());
        let mut trees: Trees = Vec::new();
        for (at, (tree, id)) in self.trees.iter().zip(self.ids).enumerate() {
            if at == 0 || *tree != self.trees[at - 1] {
                trees.push((Vec::new(), 0));
            }
            let last = trees.len() - 1;
            let place = (last, trees[last].0.len());
            if places.insert((*tree, *id), place).is_some() {
                return Err(format!("node {id} of tree {tree} is there twice"));
            }
            trees[last].0.push(trees::Node::Leaf(Vec::new()));
        }
        Ok((trees, places))
    }

    /// The branch that entry `at` says, with its tree and its place there.
    fn branch(
        &self,
        at: usize,
        mode: Mode,
        places: &Places,
    ) -> Result<(usize, usize, trees::Node), String> {
        let own = self.trees[at];
        let way = |id: i64| {
            let found = places.get(&(own, id)).copied();
            found.ok_or_else(|| format!("tree {own} has no node {id}"))
        };
        let (tree, inside) = way(self.ids[at])?;
        let ways = [way(self.when_true[at])?, way(self.when_false[at])?];
        if ways.iter().any(|way| way.0 != tree) {
            return Err(format!("the nodes of tree {own} are not side by side"));
        }
        let branch = trees::Node::Branch {
            feature: index(self.features[at], "a feature")?,
            mode,
            threshold: narrow(self.values[at], mode)?,
            missing_goes_true: self.missing.get(at).is_some_and(|goes| *goes != 0),
            when_true: ways[0].1,
            when_false: ways[1].1,
        };
        Ok((tree, inside, branch))
    }
}

/// Gives the leaves their values.
fn leaves(node: &Node, prefix: &str, places: &Places, trees: &mut Trees) -> Result<(), String> {
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

/// The lists of `TreeEnsemble`: branches and leaves in lists of their own.
struct Split<'n> {
    modes: Vec<i64>,
    splits: &'n [f64],
    features: &'n [i64],
    /// Each way: where to, and whether that is a leaf.
    ways: [(&'n [i64], &'n [i64]); 2],
    missing: &'n [i64],
    targets: &'n [i64],
    weights: Vec<f32>,
    /// The sets of the nodes that test one, in their order.
    members: std::vec::IntoIter<Vec<f64>>,
    /// Nodes so far: the branches, then leaves and further comparisons.
    nodes: Vec<trees::Node>,
}

impl<'n> Split<'n> {
    fn of(node: &'n Node) -> Result<Self, String> {
        let tensor = |name: &str| {
            node.tensor(name)?
                .ok_or_else(|| format!("attribute {name} is missing"))
        };
        let modes = tensor("nodes_modes")?.to_ints()?;
        let branches = modes.len();
        let list = |name: &str| {
            let list = node.ints(name)?;
            (list.len() == branches)
                .then_some(list)
                .ok_or_else(|| format!("{name} has {} of {branches} nodes", list.len()))
        };
        let lists = Self {
            splits: tensor("nodes_splits")?.values()?,
            features: list("nodes_featureids")?,
            ways: [
                (list("nodes_truenodeids")?, list("nodes_trueleafs")?),
                (list("nodes_falsenodeids")?, list("nodes_falseleafs")?),
            ],
            missing: node.ints("nodes_missing_value_tracks_true")?,
            targets: node.ints("leaf_targetids")?,
            weights: tensor("leaf_weights")?.to_floats()?,
            members: sets(node)?.into_iter(),
            nodes: vec![trees::Node::Leaf(Vec::new()); branches],
            modes,
        };
        if lists.splits.len() != branches || lists.targets.len() != lists.weights.len() {
            return Err("the lists of nodes or leaves differ in length".to_owned());
        }
        Ok(lists)
    }

    /// Where way `which` of branch `at` leads. Each reference to a leaf is one of its own: leaves may be shared.
    fn way(&mut self, which: usize, at: usize) -> Result<usize, String> {
        let (to, is_leaf) = self.ways[which];
        let (to, is_leaf) = (index(to[at], "a way")?, is_leaf[at] != 0);
        if !is_leaf {
            let inside = to < self.modes.len();
            return inside
                .then_some(to)
                .ok_or_else(|| format!("there is no node {to}"));
        }
        let target = self.targets.get(to);
        let target = index(
            *target.ok_or_else(|| format!("there is no leaf {to}"))?,
            "a target",
        )?;
        let leaf = trees::Node::Leaf(vec![(target, self.weights[to])]);
        self.nodes.push(leaf);
        Ok(self.nodes.len() - 1)
    }

    fn branch(&mut self, at: usize) -> Result<(), String> {
        let mode = match self.modes[at] {
            0 => Mode::LessOrEqual,
            1 => Mode::Less,
            2 => Mode::GreaterOrEqual,
            3 => Mode::Greater,
            4 | 6 => Mode::Equal,
            5 => Mode::NotEqual,
            other => return Err(format!("nodes_modes holds {other}")),
        };
        let set = if self.modes[at] == 6 {
            let set = self.members.next();
            set.ok_or("membership_values has fewer sets than nodes test one")?
        } else {
            vec![self.splits[at]]
        };
        let feature = index(self.features[at], "a feature")?;
        let missing_goes_true = self.missing.get(at).is_some_and(|goes| *goes != 0);
        let (yes, no) = (self.way(0, at)?, self.way(1, at)?);
        // The first test lies at the branch's own place, what it does not hold for goes on to the next.
        let mut place = at;
        for (i, value) in set.iter().enumerate() {
            let is_last = i + 1 == set.len();
            let next = if is_last { no } else { self.nodes.len() };
            self.nodes[place] = trees::Node::Branch {
                feature,
                mode,
                threshold: narrow(*value, mode)?,
                missing_goes_true,
                when_true: yes,
                when_false: next,
            };
            if !is_last {
                self.nodes.push(trees::Node::Leaf(Vec::new()));
                place = next;
            }
        }
        Ok(())
    }
}

/// The sets of `membership_values`, each ended by NaN. Members that no float equals hold for no row and are left out.
fn sets(node: &Node) -> Result<Vec<Vec<f64>>, String> {
    let Some(tensor) = node.tensor("membership_values")? else {
        return Ok(Vec::new());
    };
    let values = match tensor.values()? {
        [] => return Ok(Vec::new()),
        [sets @ .., last] if last.is_nan() => sets,
        sets => sets,
    };
    let sets = values.split(|value| value.is_nan()).map(|set| {
        let held = set
            .iter()
            .filter(|value| f64::from(**value as f32) == **value);
        let held: Vec<f64> = held.copied().collect();
        (!held.is_empty())
            .then_some(held)
            .ok_or_else(|| "membership_values holds an empty set".to_owned())
    });
    sets.collect()
}

impl Ensemble {
    /// `TreeEnsembleRegressor` and `TreeEnsembleClassifier`, whose leaves speak of `prefix`: `target` or `class`.
    pub(super) fn listed(node: &Node, prefix: &str, targets: usize) -> Result<Self, String> {
        let lists = Listed::of(node)?;
        let (mut trees, places) = lists.places()?;
        for at in 0..lists.trees.len() {
            if let Some(mode) = mode(&lists.modes[at])? {
                let (tree, inside, branch) = lists.branch(at, mode, &places)?;
                trees[tree].0[inside] = branch;
            }
        }
        leaves(node, prefix, &places, &mut trees)?;
        let base = numbers(node, "base_values")?;
        Ok(Self {
            trees,
            targets,
            aggregate: aggregate(node.text("aggregate_function", "SUM")?)?,
            base: base.iter().map(|value| *value as f32).collect(),
        })
    }

    /// `TreeEnsemble` of operator set 5: one list of nodes, out of which each tree is laid out from its root.
    pub(super) fn split(node: &Node) -> Result<Self, String> {
        let mut lists = Split::of(node)?;
        for at in 0..lists.modes.len() {
            lists.branch(at)?;
        }
        if lists.members.next().is_some() {
            return Err("membership_values has more sets than nodes test one".to_owned());
        }
        let mut sizes = Sizes::new(lists.nodes.len());
        let (mut trees, mut total) = (Vec::new(), 0_usize);
        for (at, root) in node.ints("tree_roots")?.iter().enumerate() {
            let root = index(*root, "a root")?;
            if root >= lists.modes.len() {
                return Err(format!("tree_roots[{at}]: there is no node {root}"));
            }
            let size = sizes.below(&lists.nodes, root);
            let size = size.map_err(|why| format!("trees[{at}].{why}"))?;
            total = total.saturating_add(size);
            if total > MAX_TREE_NODES {
                return Err(format!(
                    "trees[{at}]: brings the nodes, shared branches copied, over {MAX_TREE_NODES}"
                ));
            }
            trees.push((laid_out(&lists.nodes, root), 0));
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
}
