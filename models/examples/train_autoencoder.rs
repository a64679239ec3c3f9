//! Trains `pump-health/autoencoder/1.0.0` on simulated healthy rigs and writes its folder.
//!
//! ```text
//! cargo run -p tidegate-models --example train_autoencoder [OUT_DIR]
//! ```
//!
//! A denoising autoencoder: windows of readings are standardised per rig as a stream would be, the six quick sensors
//! are pushed off their level at random, and the network learns to give the healthy window back. The two thermometers
//! are instead set to any level and slope, input and target alike: rooms and water may have any temperature. Seeded,
//! so two runs on one machine write the same bytes; a minute or two on one core. Set `RAYON_NUM_THREADS=1`, the
//! matrices are small.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, VarBuilder, VarMap};
use sha2::{Digest, Sha256};
use tidegate_models::autoencoder::{Autoencoder, Config, FEATURES, Network, RESIDUAL_SCALE};
use tidegate_models::load::{Files, load_version};
use tidegate_models::rig::{Random, Rig};
use tidegate_models::{EndpointManifest, Model, golden};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const SEED: u64 = 20_261_123;
const RIGS: u64 = 300;
const READINGS: usize = 1600;
const CALIBRATION: u32 = 400;
/// One window in this many readings is kept; neighbours say nearly the same.
const STRIDE: usize = 5;
const STEPS: usize = 3000;
const BATCH: usize = 256;
const LEARNING_RATE: f64 = 2e-3;
/// Features whose level and slope are free: engine body and water.
const THERMAL: std::ops::Range<usize> = 4..6;
/// Share of windows in which a sensor is pushed off, and how far, in sigmas.
const PUSH_CHANCE: f64 = 0.3;
const PUSH_SIGMAS: f64 = 2.0;
/// A smoothed residual below this many sigmas is never news, however well the simulation is learned.
const RESIDUAL_FLOOR: f32 = 0.3;

const CONFIG: Config = Config {
    window: 16,
    hidden: 32,
    bottleneck: 3,
    clip: 8.0,
    smoothing: 0.15,
    threshold_sigmas: 2.75,
    follow: 500.0,
};

fn main() -> Outcome<()> {
    let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("zoo/pump-health");
    let out = std::env::args().nth(1).map(PathBuf::from);
    let out = out.unwrap_or_else(|| zoo.join("autoencoder/1.0.0"));
    std::fs::create_dir_all(&out)?;

    println!("simulating {RIGS} healthy rigs of {READINGS} readings");
    let (windows, hash) = training_windows();
    println!(
        "training on {} windows, {STEPS} steps of {BATCH}",
        windows.len()
    );
    let mut tensors = train(&windows)?;

    let unit = Tensor::ones(FEATURES, DType::F32, &Device::Cpu)?;
    tensors.insert(RESIDUAL_SCALE.to_owned(), unit);
    let weights = out.join("weights.safetensors");
    save(&tensors, &weights)?;
    let scale = residual_scale(&std::fs::read(&weights)?)?;
    println!("smoothed residual of healthy rigs, in sigmas: {scale:.3?}");
    tensors.insert(
        RESIDUAL_SCALE.to_owned(),
        Tensor::new(&scale, &Device::Cpu)?,
    );
    save(&tensors, &weights)?;

    std::fs::write(out.join("model.toml"), manifest(&hash))?;
    std::fs::write(out.join("golden.json"), golden_run(&zoo, &out)?)?;
    println!("wrote {}", out.display());
    Ok(())
}

/// Tensors in name order; the file is readable by all, which candle's own `save` does not promise.
fn save(tensors: &HashMap<String, Tensor>, path: &Path) -> Outcome<()> {
    let named: BTreeMap<_, _> = tensors.iter().collect();
    std::fs::write(path, safetensors::serialize(named, None)?)?;
    Ok(())
}

/// Standardised, clipped windows of healthy rigs, and the SHA-256 over their readings (little-endian f32, in order).
fn training_windows() -> (Vec<Vec<f32>>, String) {
    let mut hash = Sha256::new();
    let mut windows = Vec::new();
    for rig in 0..RIGS {
        let mut rig = Rig::healthy(SEED + rig);
        let readings: Vec<_> = (0..READINGS).map(|_| rig.next_reading().0).collect();
        for value in readings.iter().flatten() {
            hash.update(value.to_le_bytes());
        }
        let standard = standardised(&readings);
        windows.extend(
            standard
                .windows(CONFIG.window)
                .step_by(STRIDE)
                .map(<[_]>::concat),
        );
    }
    let digits = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    (windows, digits)
}

/// Readings in sigmas of their calibration, as a stream would see them.
fn standardised(readings: &[[f32; FEATURES]]) -> Vec<[f32; FEATURES]> {
    let first = &readings[..CALIBRATION as usize];
    let count = first.len() as f64;
    let of = |j: usize| first.iter().map(move |r| f64::from(r[j]));
    let mean: [f64; FEATURES] = std::array::from_fn(|j| of(j).sum::<f64>() / count);
    let scale: [f64; FEATURES] =
        std::array::from_fn(|j| (of(j).map(|v| (v - mean[j]).powi(2)).sum::<f64>() / count).sqrt());
    let sigmas = |r: &[f32; FEATURES]| {
        std::array::from_fn(|j| clip(((f64::from(r[j]) - mean[j]) / scale[j]) as f32))
    };
    readings.iter().map(sigmas).collect()
}

fn clip(z: f32) -> f32 {
    z.clamp(-CONFIG.clip, CONFIG.clip)
}

/// The trained tensors by name.
fn train(windows: &[Vec<f32>]) -> Outcome<HashMap<String, Tensor>> {
    let mut random = Random::new(SEED);
    let variables = VarMap::new();
    let builder = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let network = Network::new(&CONFIG, &builder)?;
    seed_variables(&variables, &mut random)?;
    // In name order: the map's own order differs from run to run.
    let named: BTreeMap<_, _> = variables
        .data()
        .lock()
        .expect("no other thread")
        .clone()
        .into_iter()
        .collect();
    let parameters = ParamsAdamW {
        lr: LEARNING_RATE,
        weight_decay: 1e-3,
        ..ParamsAdamW::default()
    };
    let mut optimiser = AdamW::new(named.values().cloned().collect(), parameters)?;
    for step in 1..=STEPS {
        let (seen, wanted) = batch(windows, &mut random)?;
        let loss = network.forward(&seen)?.sub(&wanted)?.sqr()?.mean_all()?;
        let turn = std::f64::consts::PI * step as f64 / STEPS as f64;
        optimiser.set_learning_rate(LEARNING_RATE * 0.5 * (1.0 + turn.cos()));
        optimiser.backward_step(&loss)?;
        if step % 250 == 0 {
            println!("step {step:5}  loss {:.4}", loss.to_scalar::<f32>()?);
        }
    }
    Ok(named
        .into_iter()
        .map(|(name, var)| (name, var.as_detached_tensor()))
        .collect())
}

/// Replaces candle's unseeded start: weights of variance 1/inputs, biases 0, in name order.
fn seed_variables(variables: &VarMap, random: &mut Random) -> Outcome<()> {
    let data = variables.data().lock().expect("no other thread");
    let named: BTreeMap<_, _> = data.iter().collect();
    for var in named.into_values() {
        let spread = match var.dims() {
            [_, inputs] => (1.0 / *inputs as f64).sqrt(),
            _ => 0.0,
        };
        let values: Vec<f32> = (0..var.elem_count())
            .map(|_| (spread * random.noise()) as f32)
            .collect();
        var.set(&Tensor::from_vec(values, var.dims(), &Device::Cpu)?)?;
    }
    Ok(())
}

/// A batch of disturbed windows and the healthy ones behind them.
fn batch(windows: &[Vec<f32>], random: &mut Random) -> candle_core::Result<(Tensor, Tensor)> {
    let (mut seen, mut wanted) = (Vec::new(), Vec::new());
    for _ in 0..BATCH {
        let mut healthy = windows[random.below(windows.len() as u32) as usize].clone();
        for j in THERMAL {
            let (level, slope) = (3.0 * random.noise(), 0.1 * random.noise());
            let middle = CONFIG.window as f64 / 2.0;
            add(&mut healthy, j, |t| {
                (level + slope * (t as f64 - middle)) as f32
            });
        }
        let mut disturbed = healthy.clone();
        for j in (0..FEATURES).filter(|j| !THERMAL.contains(j)) {
            if random.chance(PUSH_CHANCE) {
                let push = (PUSH_SIGMAS * random.noise()) as f32;
                add(&mut disturbed, j, |_| push);
            }
        }
        wanted.extend(healthy);
        seen.extend(disturbed);
    }
    let shape = (BATCH, CONFIG.window * FEATURES);
    let tensor = |values| Tensor::from_vec(values, shape, &Device::Cpu);
    Ok((tensor(seen)?, tensor(wanted)?))
}

fn add(window: &mut [f32], feature: usize, by: impl Fn(usize) -> f32) {
    for (t, reading) in window.chunks_exact_mut(FEATURES).enumerate() {
        reading[feature] = clip(reading[feature] + by(t));
    }
}

/// Root mean square of each feature's smoothed residual on healthy rigs not trained on, with the floor added.
fn residual_scale(weights: &[u8]) -> Outcome<[f32; FEATURES]> {
    let model = Autoencoder::new(&CONFIG, FEATURES, CALIBRATION, Some(weights), "weights")?;
    let (mut squares, mut count) = ([0.0f64; FEATURES], 0.0);
    for rig in 0..40 {
        let mut rig = Rig::healthy(SEED + RIGS + rig);
        let mut state = vec![0.0; model.layout().len()];
        model.init(&mut state);
        for reading in 0..READINGS {
            model.step(&mut state, &rig.next_reading().0);
            if reading >= CALIBRATION as usize {
                let residual = model
                    .layout()
                    .slice(&state, "residual")
                    .expect("named in the layout");
                squares
                    .iter_mut()
                    .zip(residual)
                    .for_each(|(s, r)| *s += f64::from(r * r));
                count += 1.0;
            }
        }
    }
    Ok(squares
        .map(|s| (s / count) as f32 + RESIDUAL_FLOOR * RESIDUAL_FLOOR)
        .map(f32::sqrt))
}

/// The text of `golden.json`: two dozen readings after a calibration, the later ones off their level, one missing.
fn golden_run(zoo: &Path, out: &Path) -> Outcome<String> {
    let endpoint = EndpointManifest::parse(&std::fs::read_to_string(zoo.join("endpoint.toml"))?)
        .map_err(|mistake| mistake.to_string())?;
    let mut files = Files::new();
    for name in ["model.toml", "weights.safetensors"] {
        files.insert(name.to_owned(), std::fs::read(out.join(name))?.into());
    }
    let version = load_version(&endpoint, "pump-health/autoencoder/1.0.0", &files, false)?;
    let mut readings = golden::generate(&endpoint.features, SEED + 1, 24);
    for (index, reading) in readings.iter_mut().enumerate().skip(8) {
        reading[FEATURES - 1] *= 0.8;
        reading[1] *= 1.0 + 0.02 * index as f32;
    }
    readings[5][2] = f32::NAN;
    Ok(golden::record(
        &version,
        &endpoint,
        SEED,
        CALIBRATION + 20,
        &readings,
    ))
}

fn manifest(hash: &str) -> String {
    let Config {
        window,
        hidden,
        bottleneck,
        clip,
        smoothing,
        threshold_sigmas,
        follow,
    } = CONFIG;
    format!(
        r#"name = "autoencoder"
version = "1.0.0"
preprocessing = "standardise-per-stream"
# The mean follows the stream over `follow` readings; after four times as many, what it started from no longer shows.
memory = 2000
calibration = {CALIBRATION}
max_gap_s = 600.0
author = "The Tidegate authors"
created = "2026-11-23"
intended_use = "Tells when a pump rig leaves what healthy rigs look like around its own level; not a safety device, and blind to a fault present from the start."
licence = "MIT OR Apache-2.0"

[architecture]
kind = "autoencoder"
window = {window}
hidden = {hidden}
bottleneck = {bottleneck}
clip = {clip:?}
smoothing = {smoothing:?}
threshold_sigmas = {threshold_sigmas:?}
follow = {follow:?}

[training]
data = "{RIGS} simulated healthy pump rigs (models/src/rig, seeds from {SEED}), {READINGS} readings each; models/examples/train_autoencoder.rs"
hash = "{hash}"
"#
    )
}
