//! Declared versions as users bring them: a folder with manifest, weights and golden run becomes a model, or the mistake is named.

mod folder;

use folder::{PATH, endpoint, folder, load, manifest, numbers, weights};
use tidegate_models::load::load_version;
use tidegate_models::{Output, golden};

fn refusal(task: &str, manifest: &str, weights: &[u8]) -> String {
    let loaded = load_version(&endpoint(task), PATH, &folder(manifest, weights), false);
    loaded.expect_err("it is refused").to_string()
}

const GRU: &str = r#"memory = 64
calibration = 40
features = ["current", "pressure", "temperature"]

[[preprocessing]]
kind = "missing"
policy = "hold"

[[preprocessing]]
kind = "standardise"
calibrated = true

[[preprocessing]]
kind = "clip"
low = -8.0
high = 8.0

[[preprocessing]]
kind = "lags"
lags = [1, 3]

[architecture]
kind = "gru"
hidden = 16
head = [8, 3]
activations = ["silu", "none"]

[postprocessing]
kind = "residual"
of = "forecast"
smoothing = 0.5
threshold = { quantile = 0.9, margin = 1.25 }
"#;

fn gru_weights() -> Vec<u8> {
    weights(&[
        ("weight_ih_l0", &[48, 9]),
        ("weight_hh_l0", &[48, 16]),
        ("bias_ih_l0", &[48]),
        ("bias_hh_l0", &[48]),
        ("head0.weight", &[8, 16]),
        ("head0.bias", &[8]),
        ("head1.weight", &[3, 8]),
        ("head1.bias", &[3]),
    ])
}

const MLP: &str = r#"memory = 0
calibration = 0

[architecture]
kind = "mlp"
layers = [8, 3]
activations = ["tanh", "none"]

[postprocessing]
kind = "classes"
labels = ["ok", "worn", "broken"]
activation = "softmax"
"#;

fn mlp_weights() -> Vec<u8> {
    weights(&[
        ("layer0.weight", &[8, 3]),
        ("layer0.bias", &[8]),
        ("layer1.weight", &[3, 8]),
        ("layer1.bias", &[3]),
    ])
}

/// Readings of one stream, some values missing.
fn stream(seed: u64, count: usize) -> Vec<Vec<f32>> {
    let mut values = numbers(seed, 3 * count);
    values
        .iter_mut()
        .skip(7)
        .step_by(11)
        .for_each(|value| *value = f32::NAN);
    values.chunks_exact(3).map(<[f32]>::to_vec).collect()
}

fn same(a: &Output, b: &Output, tolerance: f32) -> bool {
    let close = |a: f32, b: f32| (a - b).abs() <= tolerance * a.abs().max(b.abs()).max(0.1);
    match (a, b) {
        (
            Output::Anomaly {
                score, threshold, ..
            },
            Output::Anomaly {
                score: s,
                threshold: t,
                ..
            },
        ) => close(*score, *s) && close(*threshold, *t),
        (
            Output::Classification { probabilities, .. },
            Output::Classification {
                probabilities: p, ..
            },
        ) => probabilities.iter().zip(p).all(|(a, b)| close(*a, *b)),
        (a, b) => a == b,
    }
}

#[test]
fn a_declared_version_agrees_with_its_reference_from_the_calibration_on() {
    for (task, text, bytes) in [
        ("anomaly", GRU, gru_weights()),
        ("classification", MLP, mlp_weights()),
    ] {
        let version = load(task, &manifest(text), &bytes);
        let (mut fast, mut slow) = (version.new_state(), version.new_state());
        for reading in stream(5, 120) {
            let a = version.step(&mut fast, &reading, 1.0);
            let b = version.model.reference(&mut slow, &reading).unwrap();
            assert!(same(&a, &b, 1e-5), "{a:?} {b:?}");
        }
    }
}

#[test]
fn the_bits_of_streams_are_those_alone_however_they_are_batched() {
    for (task, text, bytes) in [
        ("anomaly", GRU, gru_weights()),
        ("classification", MLP, mlp_weights()),
    ] {
        let version = load(task, &manifest(text), &bytes);
        let streams: Vec<_> = (0..70).map(|seed| stream(seed, 90)).collect();
        let mut alone = vec![version.new_state(); 70];
        let mut together = alone.clone();
        for t in 0..90 {
            // Batches of every size from 1 to 70, and streams that sit a turn out.
            let count = t * 7 % 70 + 1;
            let blank = Output::Calibrating { seen: 0, needed: 0 };
            let mut outputs = vec![blank; count];
            let mut states: Vec<_> = together[..count]
                .iter_mut()
                .map(|state| &mut state[..])
                .collect();
            let values: Vec<_> = streams[..count]
                .iter()
                .map(|stream| &stream[t][..])
                .collect();
            version.model.step_batch(&mut states, &values, &mut outputs);
            for ((state, values), output) in alone.iter_mut().zip(values).zip(outputs) {
                assert_eq!(version.step(state, values, 1.0), output);
            }
        }
        let bits = |states: &[Vec<f32>]| -> Vec<u32> {
            states.iter().flatten().map(|x| x.to_bits()).collect()
        };
        assert_eq!(bits(&alone), bits(&together));
    }
}

#[test]
fn a_stream_calibrates_once_and_a_fault_behind_it_is_not_learned() {
    let version = load("anomaly", &manifest(GRU), &gru_weights());
    let mut state = version.new_state();
    for (t, reading) in stream(5, 40).iter().enumerate() {
        let expected = Output::Calibrating {
            seen: t as u32 + 1,
            needed: 40,
        };
        assert_eq!(version.step(&mut state, reading, 1.0), expected);
    }
    let judge = |state: &mut Vec<f32>, reading: &[f32], silence: f64| match version
        .step(state, reading, silence)
    {
        Output::Anomaly {
            threshold, anomaly, ..
        } => (threshold, anomaly),
        other => panic!("expected an answer, got {other:?}"),
    };
    let (threshold, _) = judge(&mut state, &[0.1, 0.1, 0.1], 1.0);
    for _ in 0..500 {
        judge(&mut state, &[40.0, -40.0, 40.0], 1.0);
    }
    assert_eq!(
        judge(&mut state, &[40.0, -40.0, 40.0], 1.0),
        (threshold, true)
    );
    // A silence forgets the short memory, not what was learned: no second calibration.
    assert_eq!(judge(&mut state, &[0.1, 0.1, 0.1], 1e6), (threshold, false));
}

#[test]
fn folding_memory_readings_makes_states_that_began_apart_agree() {
    let text = MLP.replace("memory = 0", "memory = 3").replace(
        "[architecture]",
        "[[preprocessing]]\nkind = \"difference\"\nlag = 2\n[[preprocessing]]\nkind = \"rolling\"\nwindow = 2\nof = [\"max\"]\n\n[architecture]",
    );
    let version = load("classification", &manifest(&text), &mlp_weights());
    let (mut old, mut new) = (version.new_state(), version.new_state());
    let readings = stream(9, 40);
    readings[..20].iter().for_each(|reading| {
        version.step(&mut old, reading, 1.0);
    });
    let whole: Vec<_> = readings[20..]
        .iter()
        .filter(|reading| reading.iter().all(|x| x.is_finite()))
        .collect();
    for (t, reading) in whole.iter().enumerate() {
        let (a, b) = (
            version.step(&mut old, reading, 1.0),
            version.step(&mut new, reading, 1.0),
        );
        assert!(t < 3 || a == b, "reading {t}");
    }
}

#[test]
fn the_layout_says_what_a_state_is_made_of() {
    let version = load("anomaly", &manifest(GRU), &gru_weights());
    assert_eq!(
        version.layout().describe(),
        "declared-1 gru-1: count[1] missing.last[3] 1.standardise.seen[3] 1.standardise.origin[3] \
         1.standardise.mean[3] 1.standardise.squares[3] 3.lags.rows[14] network[16] head.threshold[4] \
         head.smooth[2] head.forecast[4]"
    );
}

#[test]
fn a_manifest_that_lies_is_refused() {
    let swapped = GRU.replace("[\"current\", \"pressure\"", "[\"pressure\", \"current\"");
    assert_eq!(
        refusal("anomaly", &manifest(&swapped), &gru_weights()),
        format!("{PATH}/model.toml: features[0]: \"pressure\", the endpoint has \"current\" there")
    );
    let fewer = GRU.replace("\"pressure\", \"temperature\"]", "\"pressure\"]");
    assert_eq!(
        refusal("anomaly", &manifest(&fewer), &gru_weights()),
        format!("{PATH}/model.toml: features: are 2, the endpoint has 3")
    );
    // One lag less than the weights were trained with.
    let narrow = GRU.replace("[1, 3]", "[1]");
    assert_eq!(
        refusal("anomaly", &manifest(&narrow), &gru_weights()),
        format!("{PATH}/weights.safetensors: weight_ih_l0: expected shape [48, 6], got [48, 9]")
    );
    assert_eq!(
        refusal("regression", &manifest(GRU), &gru_weights()),
        format!(
            "{PATH}/model.toml: postprocessing.kind: \"residual\" answers anomaly, the endpoint asks for regression"
        )
    );
    let no_memory = GRU.replace("memory = 64", "memory = 2");
    assert_eq!(
        refusal("anomaly", &manifest(&no_memory), &gru_weights()),
        format!("{PATH}/model.toml: memory: is 2, the stages look 3 readings back")
    );
}

#[test]
fn a_state_beyond_its_bound_is_refused() {
    let rolling = "[[preprocessing]]\nkind = \"rolling\"\nwindow = 1024\nof = [\"mean\", \"std\", \"min\", \"max\"]\n";
    let change = "[[preprocessing]]\nkind = \"difference\"\nlag = 8\n";
    let text = MLP.replace("memory = 0", "memory = 3100").replace(
        "[architecture]",
        &format!("{}{change}[architecture]", rolling.repeat(3)),
    );
    let mut bytes = mlp_weights();
    assert!(
        refusal("classification", &manifest(&text), &bytes)
            .contains("expected shape [8, 192], got [8, 3]")
    );
    bytes = weights(&[
        ("layer0.weight", &[8, 192]),
        ("layer0.bias", &[8]),
        ("layer1.weight", &[3, 8]),
        ("layer1.bias", &[3]),
    ]);
    let text = refusal("classification", &manifest(&text), &bytes);
    assert!(
        text.contains("a stream's state would be 66252 floats, more than 65536"),
        "{text}"
    );
}

#[test]
fn a_graph_that_is_missing_or_no_graph_is_refused_by_the_name_of_its_file() {
    let text = MLP.replace(
        "kind = \"mlp\"\nlayers = [8, 3]\nactivations = [\"tanh\", \"none\"]",
        "kind = \"onnx\"",
    );
    let missing = refusal("classification", &manifest(&text), &mlp_weights());
    assert!(
        missing.starts_with(&format!("{PATH}/model.onnx: ")),
        "{missing}"
    );
    for bytes in [&b"not a graph"[..], &[0x08, 0x07, 0x3a, 0xff], &[]] {
        let mut files = folder(&manifest(&text), &mlp_weights());
        files.insert("model.onnx".to_owned(), bytes.to_vec().into());
        let loaded = load_version(&endpoint("classification"), PATH, &files, false);
        let text = loaded.expect_err("it is refused").to_string();
        assert!(
            text.starts_with(&format!("{PATH}/model.onnx: ")) && !text.contains('\n'),
            "{text}"
        );
    }
}

fn golden_refusal(change: impl FnOnce(&mut serde_json::Value)) -> Option<String> {
    let version = load("classification", &manifest(MLP), &mlp_weights());
    let readings: Vec<_> = stream(3, 12);
    let text = golden::record(&version, &endpoint("classification"), 1, 0, &readings);
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    change(&mut json);
    let mut files = folder(&manifest(MLP), &mlp_weights());
    files.insert(
        "golden.json".to_owned(),
        json.to_string().into_bytes().into(),
    );
    let loaded = load_version(&endpoint("classification"), PATH, &files, true);
    loaded.err().map(|error| error.to_string())
}

#[test]
fn a_golden_run_says_which_number_is_off_and_by_how_much() {
    assert_eq!(golden_refusal(|_| ()), None);
    let off = |by: f64| {
        move |json: &mut serde_json::Value| {
            let number = &mut json["outputs"][4][1];
            *number = (number.as_f64().unwrap() + by).into();
        }
    };
    let text = golden_refusal(off(0.25)).expect("it is off");
    let expected = format!("{PATH}/golden.json: outputs[4][1]: expected ");
    assert!(
        text.starts_with(&expected) && text.contains(": off by 2.5"),
        "{text}"
    );
    assert!(text.contains(", allowed is "), "{text}");
    // An absolute tolerance lets small numbers be off by more of themselves.
    let wide = |json: &mut serde_json::Value| {
        off(0.001)(json);
        json["tolerance"] = 1e-9.into();
        json["absolute"] = 0.002.into();
    };
    assert_eq!(golden_refusal(wide), None);
}

#[test]
fn a_golden_run_holds_the_names_of_the_classes_and_tells_one_that_changed() {
    let renamed = |json: &mut serde_json::Value| json["classes"][1] = "leak".into();
    let text = golden_refusal(renamed).expect("a class has another name");
    let expected = format!("{PATH}/golden.json: classes: expected [");
    assert!(
        text.starts_with(&expected) && text.contains("leak"),
        "{text}"
    );
    // Runs that name none are taken as they are.
    let unnamed = |json: &mut serde_json::Value| {
        let named = json.as_object_mut().unwrap().remove("classes");
        assert!(named.is_some(), "recorded without its classes");
    };
    assert_eq!(golden_refusal(unnamed), None);
}

#[test]
fn a_golden_run_may_hold_the_chosen_class() {
    let labelled = |shift: f64| {
        move |json: &mut serde_json::Value| {
            json["labels"] = true.into();
            for row in json["outputs"].as_array_mut().unwrap() {
                let row = row.as_array_mut().unwrap();
                let p: Vec<_> = row.iter().map(|p| p.as_f64().unwrap()).collect();
                let best = (0..3).rev().max_by(|a, b| p[*a].total_cmp(&p[*b])).unwrap();
                row.push(((best as f64 + shift) % 3.0).into());
            }
        }
    };
    assert_eq!(golden_refusal(labelled(0.0)), None);
    let text = golden_refusal(labelled(1.0)).expect("the labels are wrong");
    assert!(text.contains("outputs[0][3]: expected"), "{text}");
}
