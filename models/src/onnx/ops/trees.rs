//! Tree ensembles of `ai.onnx.ml`: read, checked, and handed to the crate's forest.
//!
//! Comparisons are those of the file: a row is `f32`, so a `double` threshold becomes the `f32` that decides every `f32` alike. A
//! classifier's sums are rounded after each tree, as ONNX Runtime does, so that equal votes are settled equally.

use std::collections::HashMap;

use super::super::graph::Node;
use super::super::tensor::Tensor;
use super::super::value::{Builder, Step, Value, arena_input, arg};
use super::linear::{classes, floats};
use super::scores::{
    EXACT, FIXED, Functions, Second, Transform, class_labels, label_tensor, row_width, second_of,
};
use super::{Op, noted};
use crate::kernels::trees::{self, Aggregate, Forest, MAX_TARGETS, Mode};

/// The trees of a node as they are written.
struct Ensemble {
    /// Nodes and root.
    trees: Vec<(Vec<trees::Node>, usize)>,
    targets: usize,
    aggregate: Aggregate,
    base: Vec<f32>,
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

fn index(value: i64, what: &str) -> Result<usize, String> {
    usize::try_from(value).map_err(|_| format!("{what} is {value}"))
}

impl Ensemble {
    /// `TreeEnsembleRegressor` and `TreeEnsembleClassifier`, whose leaves speak of `prefix`: `target` or `class`.
    fn listed(node: &Node, prefix: &str, targets: usize) -> Result<Self, String> {
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
    fn split(node: &Node) -> Result<Self, String> {
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

    fn forest(&self, features: usize, single: bool) -> Result<Forest, String> {
        let said = |mistake: crate::manifest::Mistake| mistake.to_string();
        let mut builder = trees::Builder::new(features, self.targets).map_err(said)?;
        for (nodes, root) in &self.trees {
            builder.tree(nodes, *root).map_err(said)?;
        }
        let forest = builder.finish(self.aggregate, &[]).map_err(said)?;
        Ok(if single { forest.in_single() } else { forest })
    }

    /// The reference: every tree walked by itself.
    fn exact(&self, x: &[f64], single: bool) -> Result<Vec<f64>, String> {
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
    fn spoken(&self) -> (Vec<bool>, bool) {
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

/// The nodes of one tree, the root first.
fn reachable(
    nodes: &[trees::Node],
    root: usize,
    taken: &mut [bool],
) -> Result<Vec<trees::Node>, String> {
    let mut list: Vec<trees::Node> = Vec::new();
    let mut waiting = std::collections::VecDeque::from([root]);
    let mut placed = 0;
    while let Some(at) = waiting.pop_front() {
        let node = nodes
            .get(at)
            .ok_or_else(|| format!("there is no node {at}"))?;
        if std::mem::replace(&mut taken[at], true) {
            return Err(format!("node {at} is reached twice: a tree has no cycle"));
        }
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

/// A regressor's ensemble and transform. ONNX Runtime transforms a single target by `PROBIT` only.
fn regressor(node: &Node) -> Result<(Ensemble, Transform), String> {
    let (mut ensemble, transform) = if node.op == "TreeEnsemble" {
        let transform = match node.int("post_transform", 0)? {
            0 => Transform::None,
            1 => Transform::Softmax,
            2 => Transform::Logistic,
            3 => Transform::SoftmaxZero,
            4 => Transform::Probit,
            other => return Err(format!("attribute post_transform is {other}")),
        };
        (Ensemble::split(node)?, transform)
    } else {
        let targets = index(node.int("n_targets", 1)?, "n_targets")?;
        (
            Ensemble::listed(node, "target", targets)?,
            Transform::of(node)?,
        )
    };
    if !(1..=MAX_TARGETS).contains(&ensemble.targets) {
        return Err(format!(
            "{} targets; 1 to {MAX_TARGETS} are supported",
            ensemble.targets
        ));
    }
    if ensemble.base.is_empty() {
        ensemble.base = vec![0.0; ensemble.targets];
    } else if ensemble.base.len() != ensemble.targets {
        return Err(format!(
            "{} base values for {} targets",
            ensemble.base.len(),
            ensemble.targets
        ));
    }
    let single = ensemble.targets == 1 && transform != Transform::Probit;
    Ok((ensemble, if single { Transform::None } else { transform }))
}

fn eval_regressor(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    row_width(&x.shape)?;
    let (ensemble, transform) = regressor(node)?;
    let sums = ensemble.exact(x.values()?, false)?;
    let mut scores: Vec<f32> = sums
        .iter()
        .zip(&ensemble.base)
        .map(|(sum, base)| (sum + f64::from(*base)) as f32)
        .collect();
    transform.apply(&mut scores, EXACT);
    Ok(vec![floats(scores)])
}

fn build_regressor(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let x = arena_input(builder, inputs, 0)?;
    let (ensemble, transform) = regressor(node)?;
    let forest = ensemble.forest(row_width(&x.shape)?, false)?;
    let out = builder.fresh(super::super::tensor::Type::Float, vec![1, ensemble.targets])?;
    builder.push(Regress {
        forest,
        base: ensemble.base,
        transform,
        from: x.at,
        at: out.at,
    });
    Ok(vec![out.into()])
}

struct Regress {
    forest: Forest,
    base: Vec<f32>,
    transform: Transform,
    from: usize,
    at: usize,
}

impl Step for Regress {
    fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.at);
        let out = &mut out[..self.base.len()];
        self.forest
            .run(&below[self.from..self.from + self.forest.features()], out);
        out.iter_mut()
            .zip(&self.base)
            .for_each(|(out, base)| *out += base);
        self.transform.apply(out, FIXED);
    }
}

/// How a classifier answers from the sums of its trees.
struct Rule {
    classes: usize,
    base: Vec<f32>,
    transform: Transform,
    /// The classes that some leaf speaks of.
    spoken: Vec<bool>,
    /// Two classes of which the leaves speak of one.
    binary: bool,
    positive: bool,
}

impl Rule {
    fn of(node: &Node, ensemble: &Ensemble) -> Result<Self, String> {
        let (spoken, negative) = ensemble.spoken();
        let classes = ensemble.targets;
        let most = if classes == 2 { 2 } else { classes };
        if ensemble.base.len() > most
            || (classes > 2
                && !matches!(ensemble.base.len(), 0 | 1)
                && ensemble.base.len() != classes)
        {
            return Err(format!(
                "{} base values for {classes} classes",
                ensemble.base.len()
            ));
        }
        let transform = Transform::of(node)?;
        if classes == 2 && !spoken[1] && transform == Transform::Probit {
            return Err("post_transform PROBIT of a single score is not supported".to_owned());
        }
        Ok(Self {
            classes,
            base: ensemble.base.clone(),
            transform,
            binary: classes == 2 && spoken.iter().filter(|spoken| **spoken).count() == 1,
            spoken,
            positive: !negative,
        })
    }

    /// The label's index; the sums in `scores` become the answer.
    fn finish(&self, scores: &mut [f32], functions: Functions) -> usize {
        if self.classes == 2 {
            let mut pair = [scores[0], scores[1]];
            let label = self.finish_two(&mut pair, functions);
            scores.copy_from_slice(&pair);
            return label;
        }
        scores
            .iter_mut()
            .zip(&self.base)
            .for_each(|(score, base)| *score += base);
        let counts = |k: usize| self.spoken[k] || k < self.base.len();
        let mut label = None;
        for k in (0..self.classes).filter(|k| counts(*k)) {
            if label.is_none_or(|best: usize| scores[k] > scores[best]) {
                label = Some(k);
            }
        }
        self.transform.apply(scores, functions);
        label.unwrap_or(0)
    }

    /// As ONNX Runtime: a class that no leaf speaks of scores 0, and a single score becomes two.
    fn finish_two(&self, pair: &mut [f32; 2], functions: Functions) -> usize {
        let second = self.spoken[1];
        match self.base.as_slice() {
            [_, base] if second => {
                // The first base value is not used.
                let score = base + pair[0];
                *pair = [-score, score];
            }
            [base, ..] => pair[0] += base,
            [] => {}
        }
        let weight = if second { pair[1] } else { pair[0] };
        let likely = self.binary && self.positive;
        let label = usize::from(weight > if likely { 0.5 } else { 0.0 });
        if second || self.base.len() == 2 {
            for (score, spoken) in pair.iter_mut().zip(&self.spoken) {
                *score = if *spoken { *score } else { 0.0 };
            }
            self.transform.apply(pair, functions);
        } else {
            let kind = if likely {
                Second::Rest
            } else {
                Second::Opposite
            };
            second_of(pair, kind, self.transform, functions);
        }
        label
    }
}

fn classifier(node: &Node) -> Result<(Ensemble, super::super::value::Labels), String> {
    let labels = class_labels(node, "classlabels_int64s")?;
    if labels.len() > MAX_TARGETS {
        return Err(format!(
            "{} classes; at most {MAX_TARGETS} are supported",
            labels.len()
        ));
    }
    Ok((Ensemble::listed(node, "class", labels.len())?, labels))
}

fn eval_classifier(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, String> {
    let x = arg(inputs, 0)?;
    row_width(&x.shape)?;
    let (ensemble, labels) = classifier(node)?;
    let rule = Rule::of(node, &ensemble)?;
    let mut scores: Vec<f32> = ensemble
        .exact(x.values()?, true)?
        .iter()
        .map(|sum| *sum as f32)
        .collect();
    let label = rule.finish(&mut scores, EXACT);
    Ok(vec![label_tensor(&labels, label), floats(scores)])
}

fn build_classifier(
    builder: &mut Builder,
    node: &Node,
    inputs: &[Option<Value>],
) -> Result<Vec<Value>, String> {
    let x = arena_input(builder, inputs, 0)?;
    let (ensemble, labels) = classifier(node)?;
    let rule = Rule::of(node, &ensemble)?;
    let forest = ensemble.forest(row_width(&x.shape)?, true)?;
    let (label, scores) = classes(builder, labels, rule.classes)?;
    builder.push(Classify {
        forest,
        rule,
        from: x.at,
        label: label.at,
    });
    Ok(vec![label.into(), scores.into()])
}

struct Classify {
    forest: Forest,
    rule: Rule,
    from: usize,
    label: usize,
}

impl Step for Classify {
    fn run(&self, arena: &mut [f32]) {
        let (below, out) = arena.split_at_mut(self.label);
        let (label, scores) = out.split_at_mut(1);
        let scores = &mut scores[..self.rule.classes];
        self.forest.run(
            &below[self.from..self.from + self.forest.features()],
            scores,
        );
        label[0] = self.rule.finish(scores, FIXED) as f32;
    }
}

const REGRESSOR: &[&str] = &[
    "aggregate_function",
    "base_values",
    "base_values_as_tensor",
    "n_targets",
    "nodes_falsenodeids",
    "nodes_featureids",
    "nodes_hitrates",
    "nodes_hitrates_as_tensor",
    "nodes_missing_value_tracks_true",
    "nodes_modes",
    "nodes_nodeids",
    "nodes_treeids",
    "nodes_truenodeids",
    "nodes_values",
    "nodes_values_as_tensor",
    "post_transform",
    "target_ids",
    "target_nodeids",
    "target_treeids",
    "target_weights",
    "target_weights_as_tensor",
];
const CLASSIFIER: &[&str] = &[
    "base_values",
    "base_values_as_tensor",
    "class_ids",
    "class_nodeids",
    "class_treeids",
    "class_weights",
    "class_weights_as_tensor",
    "classlabels_int64s",
    "classlabels_strings",
    "nodes_falsenodeids",
    "nodes_featureids",
    "nodes_hitrates",
    "nodes_hitrates_as_tensor",
    "nodes_missing_value_tracks_true",
    "nodes_modes",
    "nodes_nodeids",
    "nodes_treeids",
    "nodes_truenodeids",
    "nodes_values",
    "nodes_values_as_tensor",
    "post_transform",
];
const ENSEMBLE: &[&str] = &[
    "aggregate_function",
    "leaf_targetids",
    "leaf_weights",
    "n_targets",
    "nodes_falseleafs",
    "nodes_falsenodeids",
    "nodes_featureids",
    "nodes_hitrates",
    "nodes_missing_value_tracks_true",
    "nodes_modes",
    "nodes_splits",
    "nodes_trueleafs",
    "nodes_truenodeids",
    "post_transform",
    "tree_roots",
];

/// The rows of this family.
pub(in super::super) const OPS: &[Op] = &[
    noted(
        "TreeEnsemble",
        5,
        ENSEMBLE,
        "no set membership",
        eval_regressor,
        build_regressor,
    ),
    noted(
        "TreeEnsembleClassifier",
        1,
        CLASSIFIER,
        "as ONNX Runtime where the specification is vague",
        eval_classifier,
        build_classifier,
    ),
    noted(
        "TreeEnsembleRegressor",
        1,
        REGRESSOR,
        "one target is transformed by PROBIT only, as ONNX Runtime does",
        eval_regressor,
        build_regressor,
    ),
];
