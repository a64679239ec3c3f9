//! What a step of a model costs, beside the same network as a plain candle graph and, where there is a Python for it, beside
//! onnxruntime: one thread, the same run.
//!
//!     cargo xtask bench --only models [-- --python /path/to/python]
//!
//! Each figure is the middle of many slices of a fraction of a second; what is held against another takes turns with it, slice by
//! slice, so that both see the same machine. The candle graph gets its input as a ready tensor and nobody
//! reads its result; a step of ours gets and gives slices. The interpreter needs `onnx`, `onnxruntime` and `numpy`.

#[allow(dead_code, reason = "other benchmarks use the rest")]
#[path = "../common/figures.rs"]
mod figures;
mod make;

use anyhow::{Context, Result};
use candle_nn::{Module, RNN, VarBuilder};
use clap::Parser;
use figures::Figures;
use make::{INPUTS, numbers};
use std::hint::black_box;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use tidegate_models::candle_core::{DType, Device, Tensor};
use tidegate_models::{Model, Network, Output};

/// Slices a figure is the middle of.
const SLICES: usize = 15;
/// How long a slice is about.
const SLICE: Duration = Duration::from_millis(30);

/// Measures steps of models.
#[derive(Parser)]
struct Args {
    /// A Python with onnx, onnxruntime and numpy, for the yardsticks of trees and graph.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", "1") };
    let mut figures = Figures::default();
    let theirs = args.python.as_ref().map(onnxruntime).transpose()?;
    perceptron(&mut figures, theirs.as_ref())?;
    gru(&mut figures)?;
    trees(&mut figures, theirs.as_ref())?;
    detectors(&mut figures)?;
    figures.print();
    Ok(())
}

/// How many calls make a slice.
fn calls_of(work: &mut impl FnMut()) -> u32 {
    let mut calls = 1_u32;
    loop {
        let start = Instant::now();
        (0..calls).for_each(|_| work());
        if start.elapsed() * 3 > SLICE {
            return calls;
        }
        calls *= 2;
    }
}

/// Nanoseconds of a call in one slice.
fn slice(work: &mut impl FnMut(), calls: u32) -> f64 {
    let start = Instant::now();
    (0..calls).for_each(|_| work());
    start.elapsed().as_nanos() as f64 / f64::from(calls)
}

fn middle(mut slices: Vec<f64>) -> f64 {
    slices.sort_by(f64::total_cmp);
    slices[slices.len() / 2]
}

/// Nanoseconds of one call.
fn time(mut work: impl FnMut()) -> f64 {
    let calls = calls_of(&mut work);
    middle((0..SLICES).map(|_| slice(&mut work, calls)).collect())
}

/// Nanoseconds of one call of each, in turns.
fn time_both(mut one: impl FnMut(), mut other: impl FnMut()) -> (f64, f64) {
    let calls = (calls_of(&mut one), calls_of(&mut other));
    let turn = |_| (slice(&mut one, calls.0), slice(&mut other, calls.1));
    let (one, other) = (0..SLICES).map(turn).unzip();
    (middle(one), middle(other))
}

fn ns(ns: f64) -> String {
    if ns < 10_000.0 {
        format!("{ns:.0} ns")
    } else {
        format!("{:.1} us", ns / 1000.0)
    }
}

/// A call that runs `rows` rows through a network.
fn stepper(network: &dyn Network, rows: usize) -> impl FnMut() {
    let inputs = numbers(3, rows * network.inputs());
    let mut outputs = vec![0.0; rows * network.outputs()];
    let mut scratch = vec![0.0; network.scratch_len()];
    let mut states = vec![vec![0.0; network.state_len()]; rows];
    states.iter_mut().for_each(|state| network.init(state));
    move || {
        if let [state] = &mut states[..] {
            let (inputs, outputs) = (black_box(&inputs), black_box(&mut outputs));
            network.step(state, inputs, outputs, &mut scratch);
            return;
        }
        let mut states: Vec<_> = states.iter_mut().map(|state| &mut state[..]).collect();
        network.step_rows(
            &mut states,
            black_box(&inputs),
            black_box(&mut outputs),
            &mut scratch,
        );
    }
}

fn beside(figures: &mut Figures, name: &str, ours: f64, candle: f64, least: f64) {
    let ratio = candle / ours;
    let measured = format!("{} ({} in candle): {ratio:.1}x", ns(ours), ns(candle));
    let target = if least > 1.0 {
        format!(">= {least}x candle")
    } else {
        "not slower than candle".to_owned()
    };
    figures.aim(name, measured, target, ratio >= least);
}

fn var_builder(tensors: &make::Tensors) -> VarBuilder<'static> {
    VarBuilder::from_tensors(tensors.iter().cloned().collect(), DType::F32, &Device::Cpu)
}

fn perceptron(figures: &mut Figures, theirs: Option<&Theirs>) -> Result<()> {
    let tensors = make::perceptron();
    let ours = make::mlp(&tensors)?;
    let vb = var_builder(&tensors);
    let layers = [(INPUTS, 32), (32, 32), (32, 1)]
        .into_iter()
        .enumerate()
        .map(|(k, (inputs, outputs))| {
            candle_nn::linear(inputs, outputs, vb.pp(format!("layer{k}")))
        });
    let [a, b, c]: [_; 3] = layers
        .collect::<Result<Vec<_>, _>>()?
        .try_into()
        .expect("three layers");
    for (rows, least) in [(1, 20.0), (64, 1.0)] {
        let x = Tensor::from_vec(numbers(3, rows * INPUTS), (rows, INPUTS), &Device::Cpu)?;
        let graph = || c.forward(&b.forward(&a.forward(&x)?.tanh()?)?.tanh()?);
        graph()?;
        let candle = || {
            black_box(graph().expect("it just ran"));
        };
        let (own, candle) = time_both(stepper(&ours, rows), candle);
        let name = format!("MLP 8-32-32-1, a row, {rows} at a time");
        let each = rows as f64;
        beside(figures, &name, own / each, candle / each, least);
    }
    exported(figures, &ours, theirs)?;
    let version = make::version(make::MLP, &tensors)?;
    let mut state = version.new_state();
    let reading = numbers(4, INPUTS);
    let whole = time(|| {
        black_box(version.step(&mut state, black_box(&reading), 1.0));
    });
    figures.note(
        "the same as a declared version: standardised, with its answer",
        ns(whole),
    );
    let served = &version.model;
    figures.note(
        "the same, a row of a batch of 64",
        ns(time_batch(&**served, 64)),
    );
    Ok(())
}

/// The same network as a graph of ONNX, beside its native form and onnxruntime.
fn exported(figures: &mut Figures, native: &dyn Network, theirs: Option<&Theirs>) -> Result<()> {
    let plan = make::exported()?;
    let row = numbers(3, INPUTS);
    let answer = |network: &dyn Network| {
        let (mut output, mut scratch) = ([0.0], vec![0.0; network.scratch_len()]);
        network.step(&mut [], &row, &mut output, &mut scratch);
        output[0]
    };
    let (one, other) = (answer(native), answer(&plan));
    anyhow::ensure!(
        (one - other).abs() < 1e-5,
        "the graph gives {other}, the network {one}"
    );
    let (own, native) = time_both(stepper(&plan, 1), stepper(native, 1));
    let told = format!("{} ({} native)", ns(own), ns(native));
    let name = "the same as an ONNX graph, one row";
    match theirs {
        None => figures.note(name, told),
        Some(theirs) => {
            let told = format!(
                "{told}; {} in onnxruntime: {:.1}x",
                ns(theirs.mlp),
                theirs.mlp / own
            );
            let target = "faster than onnxruntime from Python";
            figures.aim(name, told, target, own < theirs.mlp);
        }
    }
    Ok(())
}

fn time_batch(model: &dyn Model, rows: usize) -> f64 {
    let mut states = vec![vec![0.0; model.layout().len()]; rows];
    states.iter_mut().for_each(|state| model.init(state));
    let mut states: Vec<_> = states.iter_mut().map(|state| &mut state[..]).collect();
    let readings = numbers(5, rows * INPUTS);
    let readings: Vec<_> = readings.chunks_exact(INPUTS).collect();
    let mut outputs = vec![Output::Calibrating { seen: 0, needed: 0 }; rows];
    time(|| model.step_batch(&mut states, black_box(&readings), &mut outputs)) / rows as f64
}

fn gru(figures: &mut Figures) -> Result<()> {
    let tensors = make::cell(3, 64);
    let ours = make::gru(&tensors)?;
    let theirs = candle_nn::gru(
        INPUTS,
        64,
        candle_nn::GRUConfig::default(),
        var_builder(&tensors),
    )?;
    let x = Tensor::from_vec(numbers(3, INPUTS), (1, INPUTS), &Device::Cpu)?;
    let mut state = theirs.zero_state(1)?;
    let candle = || state = theirs.step(&x, &state).expect("it fits");
    let (own, candle) = time_both(stepper(&ours, 1), candle);
    beside(figures, "GRU 8 to 64, a step", own, candle, 5.0);
    let tensors = make::cell(4, 64);
    let ours = make::lstm(&tensors)?;
    let theirs = candle_nn::lstm(
        INPUTS,
        64,
        candle_nn::LSTMConfig::default(),
        var_builder(&tensors),
    )?;
    let mut state = theirs.zero_state(1)?;
    let candle = || state = theirs.step(&x, &state).expect("it fits");
    let (measured, candle) = time_both(stepper(&ours, 1), candle);
    let told = format!(
        "{} ({} in candle): {:.1}x",
        ns(measured),
        ns(candle),
        candle / measured
    );
    figures.note("LSTM 8 to 64, a step", told);
    Ok(())
}

fn trees(figures: &mut Figures, theirs: Option<&Theirs>) -> Result<()> {
    let forest = make::forest()?;
    let rows = numbers(6, 256 * INPUTS);
    let mut output = [0.0];
    // One row after the other, so that the ways through the trees differ.
    let mut next = rows.chunks_exact(INPUTS).cycle();
    let alone = time(|| {
        forest.run(
            black_box(next.next().expect("it goes round")),
            black_box(&mut output),
        );
    });
    let mut outputs = vec![0.0; 256];
    let batch = time(|| forest.run_rows(black_box(&rows), black_box(&mut outputs))) / 256.0;
    let Some(theirs) = theirs else {
        figures.note("100 trees of depth 8, one row", ns(alone));
        figures.note("100 trees of depth 8, a row of 256", ns(batch));
        return Ok(());
    };
    let (their_row, their_batch) = (theirs.tree_row, theirs.tree_batch);
    let told = |ours: f64, theirs: f64| {
        format!(
            "{} ({} in onnxruntime): {:.1}x",
            ns(ours),
            ns(theirs),
            theirs / ours
        )
    };
    figures.aim(
        "100 trees of depth 8, one row",
        told(alone, their_row),
        "faster than onnxruntime from Python",
        alone < their_row,
    );
    figures.aim(
        "100 trees of depth 8, a row of 256",
        told(batch, their_batch),
        "under 2x the time of onnxruntime",
        batch < 2.0 * their_batch,
    );
    Ok(())
}

/// Nanoseconds a row of onnxruntime, called from Python.
struct Theirs {
    /// The trees, one row at a time.
    tree_row: f64,
    /// The trees, 256 rows at a time.
    tree_batch: f64,
    /// The perceptron, one row at a time.
    mlp: f64,
}

fn onnxruntime(python: &PathBuf) -> Result<Theirs> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/models/yardstick.py");
    let run = Command::new(python).arg(script).output();
    let run = run.with_context(|| format!("{} does not start", python.display()))?;
    let text = String::from_utf8_lossy(&run.stdout);
    let figures: Vec<f64> = text.split_whitespace().flat_map(str::parse).collect();
    match figures[..] {
        [tree_row, tree_batch, mlp] => Ok(Theirs {
            tree_row,
            tree_batch,
            mlp,
        }),
        _ => anyhow::bail!(
            "{script} gives no figures: {}",
            String::from_utf8_lossy(&run.stderr)
        ),
    }
}

/// The two detectors of the zoo, calibrated.
fn detectors(figures: &mut Figures) -> Result<()> {
    let zoo = tidegate_models::Zoo::embedded()?;
    for id in ["mewma/1.0.0", "autoencoder/1.0.0"] {
        let endpoint = &zoo.endpoints["pump-health"];
        let version = &endpoint.versions[id];
        let readings = tidegate_models::golden::generate(&endpoint.manifest.features, 1, 1000);
        let mut state = version.new_state();
        for reading in &readings {
            version.step(&mut state, reading, 1.0);
        }
        let mut next = readings.iter().cycle();
        let step = time(|| {
            black_box(version.step(&mut state, next.next().expect("it goes round"), 1.0));
        });
        figures.note(format!("{id}, a step"), ns(step));
    }
    Ok(())
}
