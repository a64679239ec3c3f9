//! The walk agrees with the candle graph and with the tree as written, for every comparison, missing values and any batch.

use proptest::prelude::*;

use super::{Aggregate, Builder, Forest, Mode, Node};

const MODES: [Mode; 6] = [
    Mode::Less,
    Mode::LessOrEqual,
    Mode::Greater,
    Mode::GreaterOrEqual,
    Mode::Equal,
    Mode::NotEqual,
];

fn branch(feature: usize, mode: Mode, threshold: f32, ways: (usize, usize)) -> Node {
    Node::Branch {
        feature,
        mode,
        threshold,
        missing_goes_true: false,
        when_true: ways.0,
        when_false: ways.1,
    }
}

fn stump(mode: Mode, threshold: f32, missing_goes_true: bool) -> Forest {
    let mut builder = Builder::new(1, 1).unwrap();
    let root = Node::Branch {
        feature: 0,
        mode,
        threshold,
        missing_goes_true,
        when_true: 1,
        when_false: 2,
    };
    let nodes = [root, Node::Leaf(vec![(0, 1.0)]), Node::Leaf(vec![(0, 0.0)])];
    builder.tree(&nodes, 0).unwrap();
    builder.finish(Aggregate::Sum, &[]).unwrap()
}

fn holds(mode: Mode, x: f32, threshold: f32) -> bool {
    match mode {
        Mode::Less => x < threshold,
        Mode::LessOrEqual => x <= threshold,
        Mode::Greater => x > threshold,
        Mode::GreaterOrEqual => x >= threshold,
        Mode::Equal => x == threshold,
        Mode::NotEqual => x != threshold,
    }
}

#[test]
fn every_comparison_is_exact_at_its_threshold_and_for_missing_values() {
    let edges = [
        0.0_f32,
        -0.0,
        1.5,
        -3.25,
        f32::MIN_POSITIVE,
        f32::MAX,
        f32::INFINITY,
        f32::NEG_INFINITY,
    ];
    for mode in MODES {
        for threshold in edges {
            for missing_goes_true in [false, true] {
                let forest = stump(mode, threshold, missing_goes_true);
                let near = [
                    threshold.next_down(),
                    threshold,
                    threshold.next_up(),
                    f32::NAN,
                ];
                for x in near.into_iter().chain(edges) {
                    let expected = holds(mode, x, threshold) || (missing_goes_true && x.is_nan());
                    let mut output = [9.0];
                    forest.run(&[x], &mut output);
                    assert_eq!(
                        output[0] == 1.0,
                        expected,
                        "{x} {mode:?} {threshold} {missing_goes_true}"
                    );
                    assert_eq!(forest.reference(&[x]).unwrap(), output);
                }
            }
        }
    }
}

/// A tree of random shape; leaves speak of one target or of all.
fn tree(features: usize, targets: usize) -> impl Strategy<Value = Vec<Node>> {
    let split = (
        0..features,
        0..6_usize,
        -2.0_f32..2.0,
        any::<bool>(),
        any::<bool>(),
    );
    let leaf = proptest::collection::vec(-5.0_f32..5.0, targets);
    (
        proptest::collection::vec((split, leaf), 1..40),
        any::<bool>(),
    )
        .prop_map(move |(parts, one_target)| {
            // Node i is the child of an earlier one as long as splits last: a heap of the first half, leaves behind it.
            let branches = parts.len() / 2;
            let mut nodes = Vec::new();
            for (i, ((feature, mode, threshold, missing, flip), _)) in
                parts[..branches].iter().enumerate()
            {
                let (a, b) = (2 * i + 1, 2 * i + 2);
                let (when_true, when_false) = if *flip { (b, a) } else { (a, b) };
                nodes.push(Node::Branch {
                    feature: *feature,
                    mode: MODES[*mode],
                    threshold: (*threshold * 2.0).round() / 2.0,
                    missing_goes_true: *missing,
                    when_true,
                    when_false,
                });
            }
            for i in 0..=branches {
                let values = &parts[i % parts.len()].1;
                let said = values.iter().copied().enumerate();
                nodes.push(Node::Leaf(
                    said.take(if one_target { 1 } else { targets }).collect(),
                ));
            }
            nodes
        })
}

/// The tree as it is written, followed node by node.
fn plain(nodes: &[Node], row: &[f32], sums: &mut [f64]) {
    let mut at = 0;
    loop {
        match &nodes[at] {
            Node::Leaf(values) => {
                values
                    .iter()
                    .for_each(|(target, value)| sums[*target] += f64::from(*value));
                return;
            }
            Node::Branch {
                feature,
                mode,
                threshold,
                missing_goes_true,
                when_true,
                when_false,
            } => {
                let x = row[*feature];
                let yes = holds(*mode, x, *threshold) || (*missing_goes_true && x.is_nan());
                at = if yes { *when_true } else { *when_false };
            }
        }
    }
}

fn forests() -> impl Strategy<Value = (Vec<Vec<Node>>, usize, usize)> {
    (1..6_usize, prop_oneof![Just(1), Just(3), Just(17)]).prop_flat_map(|(features, targets)| {
        (
            proptest::collection::vec(tree(features, targets), 1..20),
            Just(features),
            Just(targets),
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_forest_says_what_its_trees_say_alone_and_in_batches(
        (trees, features, targets) in forests(),
        values in proptest::collection::vec(prop_oneof![9 => -3.0_f32..3.0, 1 => Just(f32::NAN)], 300),
    ) {
        let mut builder = Builder::new(features, targets).unwrap();
        for nodes in &trees {
            builder.tree(nodes, 0).unwrap();
        }
        let base: Vec<_> = (0..targets).map(|k| k as f32 * 0.25).collect();
        let forest = builder.finish(Aggregate::Mean, &base).unwrap();
        let rows = values.len() / features;
        let inputs = &values[..rows * features];
        let mut outputs = vec![0.0; rows * targets];
        forest.run_rows(inputs, &mut outputs);
        for (row, output) in inputs.chunks_exact(features).zip(outputs.chunks_exact(targets)) {
            let mut alone = vec![0.0; targets];
            forest.run(row, &mut alone);
            prop_assert_eq!(&alone, output);
            let mut sums = vec![0.0; targets];
            trees.iter().for_each(|nodes| plain(nodes, row, &mut sums));
            for ((sum, base), got) in sums.iter().zip(&base).zip(output) {
                let exact = sum / trees.len() as f64 + f64::from(*base);
                prop_assert!((exact - f64::from(*got)).abs() <= 1e-6 * exact.abs().max(1.0));
            }
        }
        let reference = forest.reference(&inputs[..features]).unwrap();
        for (a, b) in reference.iter().zip(&outputs) {
            prop_assert!((a - b).abs() <= 1e-5 * a.abs().max(1e-3));
        }
    }
}

#[test]
fn the_least_and_the_largest_leave_out_trees_of_other_targets() {
    let nodes = |target, low, high| {
        [
            branch(0, Mode::LessOrEqual, 0.0, (1, 2)),
            Node::Leaf(vec![(target, low)]),
            Node::Leaf(vec![(target, high)]),
        ]
    };
    for (aggregate, expected) in [
        (Aggregate::Min, [2.0, 7.0, 0.5]),
        (Aggregate::Max, [4.0, 7.0, 0.5]),
    ] {
        let mut builder = Builder::new(1, 3).unwrap();
        for (target, low) in [(0, 2.0), (1, 7.0), (0, 4.0)] {
            builder.tree(&nodes(target, low, 9.0), 0).unwrap();
        }
        let forest = builder.finish(aggregate, &[0.0, 0.0, 0.5]).unwrap();
        let mut output = [0.0; 3];
        forest.run(&[-1.0], &mut output);
        assert_eq!(output, expected);
        assert_eq!(forest.reference(&[-1.0]).unwrap(), expected);
    }
}

#[test]
fn a_broken_tree_is_refused_and_the_node_named() {
    let refusal = |nodes: &[Node]| {
        let mut builder = Builder::new(2, 1).unwrap();
        builder
            .tree(nodes, 0)
            .expect_err("it is broken")
            .to_string()
    };
    let leaf = Node::Leaf(vec![(0, 1.0)]);
    let cycle = [branch(0, Mode::Less, 0.0, (0, 1)), leaf.clone()];
    assert!(
        refusal(&cycle).starts_with("trees[0].nodes[0]: leads to node 0, which is reached already")
    );
    let shared = [branch(0, Mode::Less, 0.0, (1, 1)), leaf.clone()];
    assert!(refusal(&shared).contains("reached already"));
    let beyond = [branch(0, Mode::Less, 0.0, (1, 5)), leaf.clone()];
    assert_eq!(refusal(&beyond), "trees[0].nodes[0]: leads to node 5, of 2");
    let blind = [
        branch(2, Mode::Less, 0.0, (1, 2)),
        leaf.clone(),
        leaf.clone(),
    ];
    assert_eq!(
        refusal(&blind),
        "trees[0].nodes[0]: looks at feature 2, of 2"
    );
    let nan = [branch(1, Mode::Less, f32::NAN, (1, 2)), leaf.clone(), leaf];
    assert_eq!(refusal(&nan), "trees[0].nodes[0]: compares with NaN");
    assert_eq!(
        refusal(&[Node::Leaf(vec![(3, 1.0)])]),
        "trees[0].nodes[0]: speaks of target 3, of 1"
    );
    assert!(refusal(&[Node::Leaf(vec![(0, f32::NAN)])]).contains("holds the value NaN"));
    assert!(refusal(&[]).contains("leads to node 0, of 0"));
    let none = Builder::new(1, 1).unwrap().finish(Aggregate::Sum, &[]);
    assert_eq!(none.unwrap_err().to_string(), "trees: there is none");
}
