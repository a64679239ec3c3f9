//! Every network of ours: close to candle's own layers, the same bits alone, in batches and in the portable build, and strict about
//! its weights.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::{Conv1d, Conv1dConfig, Module, RNN, VarBuilder};

use super::mlp::Mlp;
use super::pca::Pca;
use super::recurrent::Recurrent;
use super::tcn::Tcn;
use super::trees::Trees;
use super::{Network, linear};
use crate::dispatch::tests::{at, widths};
use crate::weights::Weights;

/// Tensors by name, as they lie in a file.
pub(crate) type Tensors = Vec<(String, Tensor)>;

/// Seeded numbers between -1 and 1.
pub(crate) fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = move || {
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        let bits = random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40;
        bits as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn tensor(name: &str, shape: &[usize], seed: u64) -> (String, Tensor) {
    let size = shape.iter().product();
    // As wide as a trained layer: sums of some size 1.
    let fan = *shape.get(1).unwrap_or(&4) as f32;
    let values: Vec<_> = numbers(seed, size)
        .iter()
        .map(|x| x * 1.5 / fan.sqrt())
        .collect();
    (
        name.to_owned(),
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap(),
    )
}

pub(crate) fn bytes_of(tensors: &Tensors) -> Vec<u8> {
    let named = tensors
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.clone()));
    safetensors::serialize(named, None).unwrap()
}

fn parsed<T: serde::de::DeserializeOwned>(text: &str) -> T {
    toml::from_str(text).unwrap()
}

fn dense(prefix: &str, inputs: usize, widths: &[usize], seed: u64) -> Tensors {
    let mut below = inputs;
    let mut tensors = Vec::new();
    for (k, width) in widths.iter().enumerate() {
        tensors.push(tensor(
            &format!("{prefix}{k}.weight"),
            &[*width, below],
            seed + k as u64,
        ));
        tensors.push(tensor(
            &format!("{prefix}{k}.bias"),
            &[*width],
            seed + 50 + k as u64,
        ));
        below = *width;
    }
    tensors
}

fn cells(gates: usize, inputs: usize, hidden: usize, layers: usize) -> Tensors {
    (0..layers)
        .flat_map(|k| {
            let below = if k == 0 { inputs } else { hidden };
            let (seed, gates) = (100 + 10 * k as u64, gates * hidden);
            [
                tensor(&format!("weight_ih_l{k}"), &[gates, below], seed),
                tensor(&format!("weight_hh_l{k}"), &[gates, hidden], seed + 1),
                tensor(&format!("bias_ih_l{k}"), &[gates], seed + 2),
                tensor(&format!("bias_hh_l{k}"), &[gates], seed + 3),
            ]
        })
        .collect()
}

fn trees() -> Tensors {
    let device = &Device::Cpu;
    let integers = |values: &[i64]| Tensor::new(values, device).unwrap();
    let floats = |values: &[f32]| Tensor::new(values, device).unwrap();
    // Two trees: a stump, and one of depth 2.
    let value = floats(&[
        0.0, 0.0, 1.0, 0.5, -1.0, 0.25, 0.0, 0.0, 2.0, 1.0, 0.0, 0.0, 3.0, -1.0, 4.0, 0.5,
    ]);
    [
        ("feature", integers(&[0, -1, -1, 1, -2, 2, -2, -2])),
        (
            "threshold",
            floats(&[0.1, 0.0, 0.0, -0.2, 0.0, 0.3, 0.0, 0.0]),
        ),
        ("left", integers(&[1, -1, -1, 4, -1, 6, -1, -1])),
        ("right", integers(&[2, -1, -1, 5, -1, 7, -1, -1])),
        ("value", value.reshape((8, 2)).unwrap()),
        ("root", integers(&[0, 3])),
    ]
    .map(|(name, tensor)| (name.to_owned(), tensor))
    .into()
}

fn mlp(layers: &[usize], inputs: usize, activations: &str) -> (String, Tensors) {
    let text = format!("layers = {layers:?}\nactivations = {activations}");
    (text, dense("layer", inputs, layers, 1))
}

fn build(kind: &str, config: &str, inputs: usize, tensors: &Tensors) -> Box<dyn Network> {
    let bytes = bytes_of(tensors);
    let weights = Weights::read(Some(&bytes), "weights.safetensors").unwrap();
    match kind {
        "linear" => Box::new(linear::network(&parsed(config), inputs, weights).unwrap()),
        "mlp" => Box::new(Mlp::new(&parsed(config), inputs, weights).unwrap()),
        "gru" => Box::new(Recurrent::gru(&parsed(config), inputs, weights).unwrap()),
        "lstm" => Box::new(Recurrent::lstm(&parsed(config), inputs, weights).unwrap()),
        "tcn" => Box::new(Tcn::new(&parsed(config), inputs, weights).unwrap()),
        "pca" => Box::new(Pca::new(&parsed(config), inputs, weights).unwrap()),
        "trees" => Box::new(Trees::new(&parsed(config), inputs, weights).unwrap()),
        other => panic!("no network {other}"),
    }
}

/// One of each kind, and odd sizes of some; all take rows of five.
fn all() -> Vec<(&'static str, Box<dyn Network>)> {
    const INPUTS: usize = 5;
    let every =
        r#"["none", "relu", "tanh", "sigmoid", "leaky_relu", "elu", "gelu", "silu", "softplus"]"#;
    let linear: Tensors = vec![tensor("weight", &[3, INPUTS], 1), tensor("bias", &[3], 2)];
    let (perceptron, perceptron_tensors) = mlp(&[32, 32, 1], INPUTS, r#"["tanh", "tanh", "none"]"#);
    let (deep, deep_tensors) = mlp(&[7, 41, 8, 96, 3, 12, 33, 9, 2], INPUTS, every);
    let mut gru = cells(3, INPUTS, 19, 2);
    gru.extend(dense("head", 19, &[8, 2], 31));
    let mut lstm = cells(4, INPUTS, 24, 2);
    lstm.extend(dense("head", 24, &[3], 33));
    let mut tcn = vec![
        tensor("conv0.weight", &[16, INPUTS, 3], 3),
        tensor("conv0.bias", &[16], 4),
        tensor("skip0.weight", &[16, INPUTS], 5),
        tensor("skip0.bias", &[16], 6),
        tensor("conv1.weight", &[16, 16, 3], 7),
        tensor("conv1.bias", &[16], 8),
    ];
    tcn.extend(dense("head", 16, &[2], 35));
    let variance = (
        "variance".to_owned(),
        Tensor::new(&[2.0_f32, 0.5], &Device::Cpu).unwrap(),
    );
    let pca = vec![
        tensor("mean", &[INPUTS], 9),
        tensor("components", &[2, INPUTS], 10),
        variance,
    ];
    let head = r#"activations = ["tanh", "none"]"#;
    vec![
        (
            "linear",
            build(
                "linear",
                "outputs = 3\nactivation = \"sigmoid\"",
                INPUTS,
                &linear,
            ),
        ),
        (
            "mlp",
            build("mlp", &perceptron, INPUTS, &perceptron_tensors),
        ),
        ("deep mlp", build("mlp", &deep, INPUTS, &deep_tensors)),
        (
            "gru",
            build(
                "gru",
                &format!("hidden = 19\nlayers = 2\nhead = [8, 2]\n{head}"),
                INPUTS,
                &gru,
            ),
        ),
        (
            "bare gru",
            build("gru", "hidden = 64", INPUTS, &cells(3, INPUTS, 64, 1)),
        ),
        (
            "lstm",
            build(
                "lstm",
                "hidden = 24\nlayers = 2\nhead = [3]\nactivations = [\"none\"]",
                INPUTS,
                &lstm,
            ),
        ),
        (
            "tcn",
            build(
                "tcn",
                "channels = [16, 16]\nkernel = 3\ndilations = [1, 2]\nactivation = \"gelu\"\nresidual = true\nhead = [2]\nactivations = [\"none\"]",
                INPUTS,
                &tcn,
            ),
        ),
        (
            "pca",
            build(
                "pca",
                "components = 2\nt2_limit = 4.0\nq_limit = 2.5",
                INPUTS,
                &pca,
            ),
        ),
        (
            "trees",
            build(
                "trees",
                "aggregate = \"mean\"\nbase = [0.5, -0.5]\nactivation = \"sigmoid\"",
                INPUTS,
                &trees(),
            ),
        ),
    ]
}

#[derive(Clone)]
struct Run {
    state: Vec<f32>,
    outputs: Vec<f32>,
}

impl Run {
    fn new(network: &dyn Network) -> Self {
        let mut state = vec![9.0; network.state_len()];
        network.init(&mut state);
        Self {
            state,
            outputs: Vec::new(),
        }
    }

    fn step(&mut self, network: &dyn Network, row: &[f32]) {
        // What lies in scratch and output before must not matter.
        let mut output = vec![f32::NAN; network.outputs()];
        let mut scratch = vec![f32::NAN; network.scratch_len()];
        network.step(&mut self.state, row, &mut output, &mut scratch);
        self.outputs.extend(output);
    }

    fn bits(&self) -> Vec<u32> {
        self.state
            .iter()
            .chain(&self.outputs)
            .map(|x| x.to_bits())
            .collect()
    }
}

fn assert_close(name: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{name}");
    for (a, b) in got.iter().zip(expected) {
        let allowed = 1e-5 * a.abs().max(b.abs()).max(0.1);
        assert!((a - b).abs() <= allowed, "{name}: {a} {b}");
    }
}

#[test]
fn every_step_agrees_with_its_candle_reference() {
    for (name, network) in all() {
        let (mut fast, mut slow) = (Run::new(&*network), Run::new(&*network));
        for row in numbers(7, 40 * network.inputs()).chunks_exact(network.inputs()) {
            fast.step(&*network, row);
            slow.outputs
                .extend(network.reference(&mut slow.state, row).unwrap());
        }
        assert_close(name, &fast.outputs, &slow.outputs);
        assert_close(name, &fast.state, &slow.state);
        let moving = fast.outputs.windows(2).any(|pair| pair[0] != pair[1]);
        assert!(moving, "{name} gives the same whatever it is given");
    }
}

#[test]
fn the_bits_of_a_row_are_those_alone_in_any_batch_and_at_any_vector_width() {
    for (name, network) in all() {
        let (inputs, outputs) = (network.inputs(), network.outputs());
        for streams in [1, 2, 3, 8, 17, 65] {
            let mut alone: Vec<_> = (0..streams).map(|_| Run::new(&*network)).collect();
            let narrow: Vec<_> = widths().collect();
            let mut plain: Vec<Vec<_>> =
                vec![(0..streams).map(|_| Run::new(&*network)).collect(); narrow.len()];
            let mut together: Vec<_> = (0..streams).map(|_| Run::new(&*network)).collect();
            for turn in 0..4 {
                let rows = numbers(1000 + turn, streams * inputs);
                for (index, row) in rows.chunks_exact(inputs).enumerate() {
                    alone[index].step(&*network, row);
                    for (width, plain) in narrow.iter().zip(&mut plain) {
                        at(*width, || plain[index].step(&*network, row));
                    }
                }
                let mut given = vec![f32::NAN; streams * outputs];
                let mut scratch = vec![f32::NAN; network.scratch_len()];
                let mut states: Vec<_> =
                    together.iter_mut().map(|run| &mut run.state[..]).collect();
                network.step_rows(&mut states, &rows, &mut given, &mut scratch);
                for (run, given) in together.iter_mut().zip(given.chunks_exact(outputs)) {
                    run.outputs.extend(given);
                }
            }
            for (index, (alone, together)) in alone.iter().zip(&together).enumerate() {
                assert_eq!(alone.bits(), together.bits(), "{name} of {streams}");
                for (width, plain) in narrow.iter().zip(&plain) {
                    assert_eq!(alone.bits(), plain[index].bits(), "{name}, {width:?}");
                }
            }
        }
    }
}

fn var_builder(tensors: &Tensors) -> VarBuilder<'static> {
    let map: HashMap<_, _> = tensors.iter().cloned().collect();
    VarBuilder::from_tensors(map, DType::F32, &Device::Cpu)
}

#[test]
fn gates_lie_in_the_order_of_candle_s_own_cells() {
    let rows = numbers(5, 30 * 4);
    let row = |values: &[f32]| Tensor::from_slice(values, (1, values.len()), &Device::Cpu).unwrap();
    let tensors = cells(3, 4, 16, 1);
    let ours = build("gru", "hidden = 16", 4, &tensors);
    let theirs = candle_nn::gru(4, 16, Default::default(), var_builder(&tensors)).unwrap();
    let (mut run, mut state) = (Run::new(&*ours), theirs.zero_state(1).unwrap());
    for values in rows.chunks_exact(4) {
        run.outputs.clear();
        run.step(&*ours, values);
        state = theirs.step(&row(values), &state).unwrap();
        assert_close(
            "gru",
            &run.outputs,
            &state.h().flatten_all().unwrap().to_vec1::<f32>().unwrap(),
        );
    }
    let tensors = cells(4, 4, 16, 1);
    let ours = build("lstm", "hidden = 16", 4, &tensors);
    let theirs = candle_nn::lstm(4, 16, Default::default(), var_builder(&tensors)).unwrap();
    let (mut run, mut state) = (Run::new(&*ours), theirs.zero_state(1).unwrap());
    for values in rows.chunks_exact(4) {
        run.outputs.clear();
        run.step(&*ours, values);
        state = theirs.step(&row(values), &state).unwrap();
        assert_close(
            "lstm",
            &run.outputs,
            &state.h().flatten_all().unwrap().to_vec1::<f32>().unwrap(),
        );
    }
}

#[test]
fn a_convolution_row_by_row_is_that_over_the_whole_stream_with_zeros_before() {
    let tensors: Tensors = vec![
        tensor("conv0.weight", &[6, 4, 3], 3),
        tensor("conv0.bias", &[6], 4),
    ];
    let config = "channels = [6]\nkernel = 3\ndilations = [4]\nactivation = \"none\"";
    let ours = build("tcn", config, 4, &tensors);
    let rows = numbers(6, 25 * 4);
    let mut run = Run::new(&*ours);
    rows.chunks_exact(4).for_each(|row| run.step(&*ours, row));
    let whole = Tensor::from_slice(&rows, (1, 25, 4), &Device::Cpu).unwrap();
    let whole = whole
        .transpose(1, 2)
        .unwrap()
        .pad_with_zeros(2, 8, 0)
        .unwrap();
    let config = Conv1dConfig {
        dilation: 4,
        ..Default::default()
    };
    let conv = Conv1d::new(tensors[0].1.clone(), Some(tensors[1].1.clone()), config);
    let expected = conv.forward(&whole).unwrap().transpose(1, 2).unwrap();
    assert_close(
        "conv",
        &run.outputs,
        &expected.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
    );
}

#[test]
fn trees_walk_left_where_the_comparison_holds_and_take_the_mean() {
    let network = build(
        "trees",
        "aggregate = \"mean\"\nbase = [0.5, -0.5]",
        3,
        &trees(),
    );
    let mut run = Run::new(&*network);
    run.step(&*network, &[0.1, -0.1, 0.5]);
    // The stump goes left (0.1 <= 0.1): [1, 0.5]; the other right (-0.1 > -0.2), right (0.5 > 0.3): [4, 0.5].
    assert_eq!(run.outputs, [3.0, 0.0]);
    let less = build("trees", "comparison = \"<\"", 3, &trees());
    let mut run = Run::new(&*less);
    run.step(&*less, &[0.1, -0.1, 0.5]);
    assert_eq!(run.outputs, [3.0, 0.75]);
}

fn refusal(change: impl FnOnce(&mut Tensors)) -> String {
    let (config, mut tensors) = mlp(&[3, 1], 2, r#"["tanh", "none"]"#);
    change(&mut tensors);
    let bytes = bytes_of(&tensors);
    let weights = Weights::read(Some(&bytes), "m/weights.safetensors").unwrap();
    let refused = Mlp::new(&parsed(&config), 2, weights);
    refused.expect_err("it is refused").to_string()
}

#[test]
fn weights_that_do_not_fit_are_refused_with_tensor_and_both_shapes() {
    let replace = |tensors: &mut Tensors, name: &str, tensor: Tensor| {
        let place = tensors.iter_mut().find(|(known, _)| known == name).unwrap();
        place.1 = tensor;
    };
    let floats = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
    assert_eq!(
        refusal(|tensors| replace(
            tensors,
            "layer1.weight",
            floats(&[0.0; 4]).reshape((1, 4)).unwrap()
        )),
        "m/weights.safetensors: layer1.weight: expected shape [1, 3], got [1, 4]"
    );
    assert_eq!(
        refusal(|tensors| replace(tensors, "layer0.bias", floats(&[0.0, f32::NAN, 0.0]))),
        "m/weights.safetensors: layer0.bias: value 1 is NaN"
    );
    assert_eq!(
        refusal(|tensors| replace(tensors, "layer0.bias", floats(&[0.0, 0.0, f32::INFINITY]))),
        "m/weights.safetensors: layer0.bias: value 2 is inf"
    );
    assert_eq!(
        refusal(|tensors| {
            let doubles = Tensor::new(&[0.0_f64, 0.0, 0.0], &Device::Cpu).unwrap();
            replace(tensors, "layer0.bias", doubles);
        }),
        "m/weights.safetensors: layer0.bias: expected F32, got F64"
    );
    assert_eq!(
        refusal(|tensors| tensors[0].0 = "fc.weight".to_owned()),
        "m/weights.safetensors: layer0.weight: is missing; what is left in the file: \
         fc.weight, layer0.bias, layer1.bias, layer1.weight"
    );
    assert_eq!(
        refusal(|tensors| tensors.push(tensor("extra", &[1], 1))),
        "m/weights.safetensors: extra: is not a tensor of this architecture"
    );
}

#[test]
fn a_file_that_is_cut_off_or_missing_is_refused() {
    let bytes = bytes_of(&mlp(&[3, 1], 2, r#"["tanh", "none"]"#).1);
    for len in [0, 7, 20, bytes.len() - 1] {
        assert!(
            Weights::read(Some(&bytes[..len]), "w").is_err(),
            "{len} bytes"
        );
    }
    let missing = Weights::read(None, "w")
        .err()
        .map(|error| error.to_string());
    assert_eq!(missing.as_deref(), Some("w: file: is missing"));
}

#[test]
fn a_forest_whose_arrays_lie_is_refused_with_the_node() {
    let refusal = |name: &str, values: &[i64]| {
        let mut tensors = trees();
        let place = tensors.iter_mut().find(|(known, _)| known == name).unwrap();
        place.1 = Tensor::new(values, &Device::Cpu).unwrap();
        let bytes = bytes_of(&tensors);
        let weights = Weights::read(Some(&bytes), "w").unwrap();
        Trees::new(&parsed(""), 3, weights)
            .expect_err("it is refused")
            .to_string()
    };
    let cyclic = refusal("left", &[1, -1, -1, 4, -1, 3, -1, -1]);
    assert!(
        cyclic.starts_with("w: trees[1].nodes[2]: leads to node 0, which is reached"),
        "{cyclic}"
    );
    let beyond = refusal("right", &[2, -1, -1, 5, -1, 99, -1, -1]);
    assert_eq!(beyond, "w: trees[1].nodes[2]: leads to node 96, of 5");
    let wide = refusal("feature", &[0, -1, -1, 3, -2, 2, -2, -2]);
    assert_eq!(wide, "w: trees[1].nodes[0]: looks at feature 3, of 3");
    let roots = refusal("root", &[0, 8]);
    assert_eq!(roots, "w: root: does not rise from 0 below the 8 nodes");
}
