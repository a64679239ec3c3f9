//! The networks that are measured: seeded weights, the sizes of the targets.

use anyhow::Result;
use std::borrow::Cow;
use tidegate_models::candle_core::{Device, Tensor};
use tidegate_models::kernels::trees::{Aggregate, Builder, Forest, Mode, Node};
use tidegate_models::load::{Files, load_version};
use tidegate_models::network::{mlp, recurrent};
use tidegate_models::onnx::{self, Plan};
use tidegate_models::weights::Weights;
use tidegate_models::{EndpointManifest, Version};

/// Values of a row.
pub const INPUTS: usize = 8;
const TREES: usize = 100;
const DEPTH: u32 = 8;

/// Tensors by name, as they lie in a file.
pub type Tensors = Vec<(String, Tensor)>;

/// Seeded numbers between -1 and 1.
pub fn numbers(seed: u64, count: usize) -> Vec<f32> {
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

fn tensor(name: String, shape: &[usize]) -> (String, Tensor) {
    let seed = name
        .bytes()
        .fold(7, |sum, byte| (sum * 31 + u64::from(byte)) % 1_000_003);
    let values: Vec<_> = numbers(seed, shape.iter().product())
        .iter()
        .map(|x| 0.3 * x)
        .collect();
    let tensor =
        Tensor::from_vec(values, shape, &Device::Cpu).expect("the shape is that of the values");
    (name, tensor)
}

pub fn perceptron() -> Tensors {
    [(INPUTS, 32), (32, 32), (32, 1)]
        .into_iter()
        .enumerate()
        .flat_map(|(k, (inputs, outputs))| {
            [
                tensor(format!("layer{k}.weight"), &[outputs, inputs]),
                tensor(format!("layer{k}.bias"), &[outputs]),
            ]
        })
        .collect()
}

pub fn cell(gates: usize, hidden: usize) -> Tensors {
    vec![
        tensor("weight_ih_l0".into(), &[gates * hidden, INPUTS]),
        tensor("weight_hh_l0".into(), &[gates * hidden, hidden]),
        tensor("bias_ih_l0".into(), &[gates * hidden]),
        tensor("bias_hh_l0".into(), &[gates * hidden]),
    ]
}

fn file_of(tensors: &Tensors) -> Result<Vec<u8>> {
    let named = tensors
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.clone()));
    Ok(safetensors::serialize(named, None)?)
}

const LAYERS: &str = "layers = [32, 32, 1]\nactivations = [\"tanh\", \"tanh\", \"none\"]";

pub fn mlp(tensors: &Tensors) -> Result<mlp::Mlp> {
    let (bytes, config) = (file_of(tensors)?, toml::from_str(LAYERS)?);
    Ok(mlp::Mlp::new(
        &config,
        INPUTS,
        Weights::read(Some(&bytes), "mlp")?,
    )?)
}

/// The perceptron as `yardstick.py` wrote it, with the same weights.
pub fn exported() -> Result<Plan> {
    let bytes = include_bytes!("mlp.onnx");
    let files = Files::from([("mlp.onnx".to_owned(), Cow::Borrowed(&bytes[..]))]);
    Ok(onnx::compile(
        &files,
        "mlp.onnx",
        &onnx::Options::default(),
    )?)
}

pub fn gru(tensors: &Tensors) -> Result<recurrent::Recurrent> {
    let (bytes, config) = (file_of(tensors)?, toml::from_str("hidden = 64")?);
    Ok(recurrent::Recurrent::gru(
        &config,
        INPUTS,
        Weights::read(Some(&bytes), "gru")?,
    )?)
}

pub fn lstm(tensors: &Tensors) -> Result<recurrent::Recurrent> {
    let (bytes, config) = (file_of(tensors)?, toml::from_str("hidden = 64")?);
    Ok(recurrent::Recurrent::lstm(
        &config,
        INPUTS,
        Weights::read(Some(&bytes), "lstm")?,
    )?)
}

/// A version around the perceptron.
pub const MLP: &str = r#"
name = "mlp"
version = "1.0.0"
memory = 0
calibration = 0
max_gap_s = 600.0
author = "bench"
created = "2026-11-24"
intended_use = "to be measured"
licence = "MIT"

[training]
data = "none"
hash = ""

[[preprocessing]]
kind = "standardise"
mean = [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
scale = [2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]

[architecture]
kind = "mlp"
layers = [32, 32, 1]
activations = ["tanh", "tanh", "none"]

[postprocessing]
kind = "values"
names = ["wear"]
"#;

/// Loads `manifest` with `tensors` under an endpoint of eight features.
pub fn version(manifest: &str, tensors: &Tensors) -> Result<Version> {
    let head = "name = \"bench\"\ndescription = \"bench\"\nrevision = 1\ntask = \"regression\"\ndefault = \"mlp/1.0.0\"\n";
    let feature = |k: usize| format!("[[features]]\nname = \"f{k}\"\nunit = \"\"\n");
    let endpoint = head.to_owned() + &(0..INPUTS).map(feature).collect::<String>();
    let endpoint =
        EndpointManifest::parse(&endpoint).map_err(|mistake| anyhow::anyhow!("{mistake}"))?;
    let files: Files = [
        (
            "model.toml".to_owned(),
            Cow::Owned(manifest.as_bytes().to_vec()),
        ),
        (
            "weights.safetensors".to_owned(),
            Cow::Owned(file_of(tensors)?),
        ),
    ]
    .into();
    Ok(load_version(&endpoint, "bench/mlp/1.0.0", &files, false)?)
}

/// Full trees, thresholds and leaves seeded.
pub fn forest() -> Result<Forest> {
    let wrong = |mistake| anyhow::anyhow!("{mistake}");
    let mut builder = Builder::new(INPUTS, 1).map_err(wrong)?;
    let branches = 2_usize.pow(DEPTH) - 1;
    for tree in 0..TREES {
        let random = numbers(1000 + tree as u64, 3 * branches);
        let nodes: Vec<_> = (0..2 * branches + 1)
            .map(|at| {
                if at >= branches {
                    return Node::Leaf(vec![(0, random[at - branches])]);
                }
                Node::Branch {
                    feature: ((random[branches + at] + 1.0) * 1e6) as usize % INPUTS,
                    mode: Mode::LessOrEqual,
                    threshold: random[2 * branches + at] * 0.5,
                    missing_goes_true: false,
                    when_true: 2 * at + 1,
                    when_false: 2 * at + 2,
                }
            })
            .collect();
        builder.tree(&nodes, 0).map_err(wrong)?;
    }
    builder.finish(Aggregate::Sum, &[]).map_err(wrong)
}
