//! What a step may allocate: a network nothing, a version the numbers of its answer. A counting allocator watches each thread.

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "onnx/cases.rs"]
mod cases;
mod folder;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use folder::{endpoint, folder, load, manifest, numbers, weights};
use tidegate_models::candle_core::{Device, Tensor};
use tidegate_models::load::load_version;
use tidegate_models::{Network, Output, Version, Zoo, golden};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting touches only a thread-local cell that needs
// neither allocation nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `work` allocates, and what it gives.
fn allocations<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = ALLOCATIONS.get();
    let result = work();
    (result, ALLOCATIONS.get() - before)
}

/// The lists of numbers that an answer owns.
fn lists(output: &Output) -> usize {
    match output {
        Output::Classification { .. } | Output::Regression { .. } => 1,
        Output::Forecast { quantiles, .. } => {
            1 + quantiles.len() + usize::from(!quantiles.is_empty())
        }
        _ => 0,
    }
}

/// Steps through the readings and counts from the second on, then a batch.
fn assert_frugal(name: &str, version: &Version, readings: &[Vec<f32>]) {
    let mut state = version.new_state();
    let mut answered = 0;
    for (at, reading) in readings.iter().enumerate() {
        let (output, count) = allocations(|| version.step(&mut state, reading, 1.0));
        let failed = matches!(output, Output::Failed { .. });
        assert!(!failed, "{name}, reading {at}: {output:?}");
        assert!(
            at == 0 || count <= lists(&output),
            "{name}, reading {at}: {count}"
        );
        answered += usize::from(!matches!(output, Output::Calibrating { .. }));
    }
    assert!(answered > 0, "{name} never answers");
    let mut states: Vec<_> = readings.iter().map(|_| state.clone()).collect();
    let mut states: Vec<_> = states.iter_mut().map(|state| &mut state[..]).collect();
    let values: Vec<_> = readings.iter().map(|reading| &reading[..]).collect();
    let mut outputs = vec![Output::Calibrating { seen: 0, needed: 0 }; readings.len()];
    // The first batch makes room.
    for warm in [false, true] {
        let ((), count) =
            allocations(|| version.model.step_batch(&mut states, &values, &mut outputs));
        let most: usize = outputs.iter().map(lists).sum();
        assert!(
            !warm || count <= most,
            "{name}, a batch: {count}, allowed {most}"
        );
    }
}

const STAGES: &str = r#"memory = 64
calibration = 40

[[preprocessing]]
kind = "missing"
policy = "hold"

[[preprocessing]]
kind = "select"
features = ["temperature", "current"]

[[preprocessing]]
kind = "standardise"
calibrated = true

[[preprocessing]]
kind = "clip"
low = -8.0
high = 8.0

[[preprocessing]]
kind = "difference"
lag = 1

[[preprocessing]]
kind = "rolling"
window = 4
of = ["mean", "std", "min", "max"]

[[preprocessing]]
kind = "lags"
lags = [1, 3]

[[preprocessing]]
kind = "window"
length = 2

"#;

/// Values of a row behind the stages: 2 columns, 4 statistics of each, now and at 2 lags, 2 rows.
const WIDTH: usize = 48;

/// The architecture's keys and its tensors, for rows of `width`.
fn architectures(width: usize) -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let cell = |gates: usize| {
        let (w, r) = ([gates * 6, width], [gates * 6, 6]);
        weights(&[
            ("weight_ih_l0", &w),
            ("weight_hh_l0", &r),
            ("bias_ih_l0", &w[..1]),
            ("bias_hh_l0", &w[..1]),
            ("head0.weight", &[3, 6]),
            ("head0.bias", &[3]),
        ])
    };
    let head = "head = [3]\nactivations = [\"none\"]";
    let recurrent = format!("hidden = 6\n{head}").leak();
    let tcn = format!(
        "channels = [8]\nkernel = 3\ndilations = [2]\nactivation = \"relu\"\nresidual = true\n{head}"
    );
    vec![
        (
            "linear",
            "outputs = 3\nactivation = \"none\"",
            weights(&[("weight", &[3, width]), ("bias", &[3])]),
        ),
        (
            "mlp",
            "layers = [9, 3]\nactivations = [\"tanh\", \"none\"]",
            weights(&[
                ("layer0.weight", &[9, width]),
                ("layer0.bias", &[9]),
                ("layer1.weight", &[3, 9]),
                ("layer1.bias", &[3]),
            ]),
        ),
        ("gru", recurrent, cell(3)),
        ("lstm", recurrent, cell(4)),
        (
            "tcn",
            tcn.leak(),
            weights(&[
                ("conv0.weight", &[8, width, 3]),
                ("conv0.bias", &[8]),
                ("skip0.weight", &[8, width]),
                ("skip0.bias", &[8]),
                ("head0.weight", &[3, 8]),
                ("head0.bias", &[3]),
            ]),
        ),
        ("trees", "", trees()),
    ]
}

/// One tree of one branch, three values a leaf.
fn trees() -> Vec<u8> {
    let device = &Device::Cpu;
    let values: Vec<f32> = (0..9_u8).map(f32::from).collect();
    let ways = |values: [i64; 3]| Tensor::new(&values, device).unwrap();
    let tensors = [
        ("feature", ways([1, -2, -2])),
        (
            "threshold",
            Tensor::new(&[0.1_f32, 0.0, 0.0], device).unwrap(),
        ),
        ("left", ways([1, -1, -1])),
        ("right", ways([2, -1, -1])),
        ("value", Tensor::from_vec(values, (3, 3), device).unwrap()),
        ("root", Tensor::new(&[0_i64], device).unwrap()),
    ];
    safetensors::serialize(tensors, None).unwrap()
}

fn readings(count: usize) -> Vec<Vec<f32>> {
    let values = numbers(11, 3 * count);
    values.chunks_exact(3).map(<[f32]>::to_vec).collect()
}

#[test]
fn a_version_of_every_architecture_allocates_the_numbers_of_its_answer_and_no_more() {
    let classes = "kind = \"classes\"\nlabels = [\"a\", \"b\", \"c\"]\nactivation = \"softmax\"\n";
    for (kind, keys, bytes) in architectures(WIDTH) {
        for (task, head) in [
            ("classification", classes),
            ("regression", "kind = \"values\"\nscale = [2.0, 1.0, 1.0]\n"),
            (
                "forecast",
                "kind = \"forecast\"\nhorizon = [1]\nquantiles = [0.1, 0.9]\n",
            ),
        ] {
            let text = format!(
                "{STAGES}[architecture]\nkind = \"{kind}\"\n{keys}\n[postprocessing]\n{head}"
            );
            let version = load(task, &manifest(&text), &bytes);
            assert_frugal(&format!("{kind}, {task}"), &version, &readings(90));
        }
    }
}

#[test]
fn a_version_that_scores_anomalies_allocates_nothing() {
    let pca = "[architecture]\nkind = \"pca\"\ncomponents = 2\nt2_limit = 4.0\nq_limit = 2.5\n\n[postprocessing]\nkind = \"score\"\nsmoothing = 0.5\nthreshold = { quantile = 0.9, margin = 1.25 }\n";
    let mut tensors = std::collections::BTreeMap::new();
    let device = &Device::Cpu;
    let numbers_of = |shape: &[usize]| {
        Tensor::from_vec(numbers(3, shape.iter().product()), shape, device).unwrap()
    };
    tensors.insert("mean", numbers_of(&[WIDTH]));
    tensors.insert("components", numbers_of(&[2, WIDTH]));
    tensors.insert("variance", Tensor::new(&[2.0_f32, 0.5], device).unwrap());
    let bytes = safetensors::serialize(tensors, None).unwrap();
    let version = load("anomaly", &manifest(&format!("{STAGES}{pca}")), &bytes);
    assert_frugal("pca", &version, &readings(90));
    let residual = "[architecture]\nkind = \"linear\"\noutputs = 2\nactivation = \"none\"\n\n[postprocessing]\nkind = \"residual\"\nof = \"forecast\"\ntargets = [\"temperature\", \"current\"]\nthreshold = { quantile = 0.9, margin = 1.25 }\n";
    let bytes = weights(&[("weight", &[2, WIDTH]), ("bias", &[2])]);
    let version = load("anomaly", &manifest(&format!("{STAGES}{residual}")), &bytes);
    assert_frugal("residual", &version, &readings(90));
}

#[test]
fn every_version_of_the_zoo_allocates_the_numbers_of_its_answer_and_no_more() {
    let zoo = Zoo::embedded().unwrap();
    for endpoint in zoo.endpoints.values() {
        let readings = golden::generate(&endpoint.manifest.features, 1, 600);
        for (id, version) in &endpoint.versions {
            assert_frugal(id, version, &readings);
        }
    }
}

#[test]
fn a_graph_of_every_fixture_allocates_nothing() {
    for case in cases::cases() {
        let plan = case.plan();
        let mut state = vec![0.0; plan.state_len()];
        plan.init(&mut state);
        let mut scratch = vec![0.0; plan.scratch_len()];
        let mut output = vec![0.0; plan.outputs()];
        for row in case.rows() {
            let ((), count) =
                allocations(|| plan.step(&mut state, &row, &mut output, &mut scratch));
            assert_eq!(count, 0, "{}", case.name);
        }
    }
}

#[test]
fn a_graph_behind_a_manifest_allocates_the_numbers_of_its_answer_and_no_more() {
    let cases = cases::cases();
    let case = cases
        .iter()
        .find(|case| case.name == "hand-einsum")
        .unwrap();
    let text = "memory = 11\ncalibration = 0\n[[preprocessing]]\nkind = \"window\"\nlength = 12\n[architecture]\nkind = \"onnx\"\noutputs = [\"y0\"]\n[postprocessing]\nkind = \"values\"\n";
    let mut files = folder(&manifest(text), &[]);
    files.remove("weights.safetensors");
    let graph = case.read().remove(&case.file()).unwrap();
    files.insert("model.onnx".to_owned(), graph);
    let version = load_version(&endpoint("regression"), folder::PATH, &files, false).unwrap();
    assert_frugal("onnx", &version, &readings(90));
}
