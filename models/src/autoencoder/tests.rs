//! The detector against its reference, its bounds, simulated rigs and, where they are, the SKAB files.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::rig::{Fault, Rig};

const CALIBRATION: u32 = 400;

static WEIGHTS: &[u8] =
    include_bytes!("../../zoo/pump-health/autoencoder/1.0.0/weights.safetensors");

fn config() -> Config {
    let text = include_str!("../../zoo/pump-health/autoencoder/1.0.0/model.toml");
    match crate::ModelManifest::parse(text).unwrap().architecture {
        crate::Architecture::Autoencoder(config) => config,
        other => panic!("{other:?}"),
    }
}

fn model() -> Autoencoder {
    Autoencoder::new(&config(), FEATURES, CALIBRATION, Some(WEIGHTS), "weights").unwrap()
}

fn new_state(model: &Autoencoder) -> Vec<f32> {
    let mut state = vec![0.0; model.layout().len()];
    model.init(&mut state);
    state
}

fn bits(state: &[f32]) -> Vec<u32> {
    state.iter().map(|v| v.to_bits()).collect()
}

/// True, false or, while calibrating, none.
fn alarm(output: &Output) -> Option<bool> {
    match output {
        Output::Anomaly { anomaly, .. } => Some(*anomaly),
        _ => None,
    }
}

/// Judged readings by (truth, alarm).
#[derive(Debug, Default)]
struct Tally {
    true_alarms: f64,
    false_alarms: f64,
    missed: f64,
    quiet: f64,
}

impl Tally {
    fn count(&mut self, truth: bool, alarm: bool) {
        match (truth, alarm) {
            (true, true) => self.true_alarms += 1.0,
            (false, true) => self.false_alarms += 1.0,
            (true, false) => self.missed += 1.0,
            (false, false) => self.quiet += 1.0,
        }
    }
    fn f1(&self) -> f64 {
        2.0 * self.true_alarms / (2.0 * self.true_alarms + self.false_alarms + self.missed)
    }
    fn false_rate(&self) -> f64 {
        self.false_alarms / (self.false_alarms + self.quiet)
    }
    fn missed_rate(&self) -> f64 {
        self.missed / (self.missed + self.true_alarms)
    }
}

#[test]
fn the_step_agrees_with_the_candle_graph() {
    let model = model();
    let mut rig = Rig::new(11);
    let (mut fused, mut plain) = (new_state(&model), new_state(&model));
    for reading in 0..1200 {
        let values = rig.next_reading().0;
        let (a, b) = (
            model.step(&mut fused, &values),
            model.reference(&mut plain, &values).unwrap(),
        );
        if let (
            Output::Anomaly {
                score: a,
                threshold: s,
                ..
            },
            Output::Anomaly {
                score: b,
                threshold: t,
                ..
            },
        ) = (a, b)
        {
            assert!(
                (a - b).abs() <= 1e-5 * a.max(b),
                "reading {reading}: score {a} against {b}"
            );
            assert!(
                (s - t).abs() <= 1e-5 * s.max(t),
                "reading {reading}: threshold {s} against {t}"
            );
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_batch() {
    let model = model();
    let readings: Vec<Vec<_>> = (0..257)
        .map(|seed| {
            let mut rig = Rig::new(seed);
            (0..430).map(|_| rig.next_reading().0).collect()
        })
        .collect();
    let alone: Vec<_> = readings
        .iter()
        .map(|readings| {
            let mut state = new_state(&model);
            let last = readings
                .iter()
                .map(|values| model.step(&mut state, values))
                .last()
                .unwrap();
            (bits(&state), last)
        })
        .collect();
    for size in [1, 16, 257] {
        let mut states = vec![new_state(&model); size];
        let mut outputs = vec![Output::Calibrating { seen: 0, needed: 0 }; size];
        for t in 0..430 {
            let mut rows: Vec<_> = states.iter_mut().map(Vec::as_mut_slice).collect();
            let values: Vec<_> = readings[..size].iter().map(|r| &r[t][..]).collect();
            model.step_batch(&mut rows, &values, &mut outputs);
        }
        for (row, (state, output)) in states.iter().zip(&outputs).enumerate() {
            assert_eq!(
                (bits(state), output.clone()),
                alone[row],
                "row {row} of {size}"
            );
        }
    }
}

#[test]
fn the_portable_kernel_gives_the_bits_of_the_vector_one() {
    let model = model();
    let mut rig = Rig::healthy(5);
    for _ in 0..20 {
        let window: Vec<f32> = (0..config().window)
            .flat_map(|_| rig.next_reading().0)
            .map(|v| v % 8.0)
            .collect();
        let (a, b) = (
            model.kernel.residual(&window),
            model.kernel.residual_any(&window),
        );
        assert_eq!(bits(&a), bits(&b));
    }
}

#[test]
fn weights_of_another_shape_are_refused_naming_both() {
    let wider = Config {
        hidden: 40,
        ..config()
    };
    let error = Autoencoder::new(&wider, FEATURES, CALIBRATION, Some(WEIGHTS), "w")
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("expand.weight")
            && error.contains("[40, 128]")
            && error.contains("[32, 128]"),
        "{error}"
    );
    let error = Autoencoder::new(&config(), 5, CALIBRATION, Some(WEIGHTS), "w")
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("expected an endpoint of 8 features, got 5"),
        "{error}"
    );
    assert!(Autoencoder::new(&config(), FEATURES, CALIBRATION, None, "w").is_err());
    assert!(Autoencoder::new(&config(), FEATURES, CALIBRATION, Some(&WEIGHTS[..99]), "w").is_err());
}

#[test]
fn the_artifact_loads_and_gives_its_golden_answers() {
    let zoo = concat!(env!("CARGO_MANIFEST_DIR"), "/zoo/pump-health");
    let text = std::fs::read_to_string(format!("{zoo}/endpoint.toml")).unwrap();
    let endpoint = crate::EndpointManifest::parse(&text).unwrap();
    let path = "autoencoder/1.0.0";
    let mut files = crate::load::read_folder(format!("{zoo}/{path}").as_ref()).unwrap();
    let load = |files: &_| {
        crate::load::load_version(&endpoint, &format!("pump-health/{path}"), files, true)
    };
    assert_eq!(load(&files).unwrap().id(), path);
    let golden = std::str::from_utf8(&files["golden.json"]).unwrap();
    let moved = golden.replace("\"outputs\":[[", "\"outputs\":[[9");
    files.insert("golden.json".to_owned(), moved.into_bytes().into());
    assert!(load(&files).unwrap_err().to_string().contains("outputs[0]"));
}

#[test]
fn the_state_stays_below_four_kib_and_names_its_buffers() {
    let model = model();
    assert!(model.layout().len() * 4 < 4096);
    assert!(
        model
            .layout()
            .describe()
            .starts_with("autoencoder-1: count[1] filled[1]"),
        "{}",
        model.layout().describe()
    );
}

#[test]
fn a_silence_forgets_the_window_and_raises_no_alarm() {
    let model = model();
    let mut rig = Rig::healthy(3);
    let mut state = new_state(&model);
    (0..450).for_each(|_| drop(model.step(&mut state, &rig.next_reading().0)));
    let learned = model.layout().slice(&state, "mean").unwrap().to_vec();
    model.forget(&mut state);
    assert_eq!(model.layout().slice(&state, "filled"), Some(&[0.0][..]));
    assert_eq!(model.layout().slice(&state, "mean"), Some(&learned[..]));
    let alarms = (0..16)
        .filter(|_| alarm(&model.step(&mut state, &rig.next_reading().0)) == Some(true))
        .count();
    assert_eq!(alarms, 0);
}

#[test]
fn a_sensor_that_is_silent_from_the_start_is_left_out() {
    let model = model();
    let mut rig = Rig::healthy(4);
    let mut state = new_state(&model);
    for reading in 0..600 {
        let mut values = rig.next_reading().0;
        values[3] = if reading < 500 { f32::NAN } else { 7.0 };
        let output = model.step(&mut state, &values);
        assert!(output.is_finite());
        assert_ne!(
            (reading > 460).then(|| alarm(&output)).flatten(),
            Some(true),
            "reading {reading}"
        );
    }
}

#[test]
fn every_simulated_fault_is_seen() {
    let model = model();
    let mut seen = std::collections::HashMap::<Fault, Tally>::new();
    let mut all = Tally::default();
    let mut settled = Tally::default();
    for seed in 500..520 {
        let mut rig = Rig::new(seed);
        let mut state = new_state(&model);
        let mut since_fault = 1000;
        for _ in 0..2500 {
            let (values, fault) = rig.next_reading();
            since_fault = if fault.is_fault() { 0 } else { since_fault + 1 };
            if let Some(alarm) = alarm(&model.step(&mut state, &values)) {
                all.count(fault.is_fault(), alarm);
                seen.entry(fault)
                    .or_default()
                    .count(fault.is_fault(), alarm);
                if since_fault == 0 || since_fault > 40 {
                    settled.count(fault.is_fault(), alarm);
                }
            }
        }
    }
    for fault in Fault::ALL {
        println!("{}: missed {:.3}", fault.name(), seen[&fault].missed_rate());
        assert!(
            seen[&fault].missed_rate() < 0.15,
            "{}: {:?}",
            fault.name(),
            seen[&fault]
        );
    }
    println!(
        "all: F1 {:.3} false {:.3}; 40 s after a fault: false {:.3}",
        all.f1(),
        all.false_rate(),
        settled.false_rate()
    );
    assert!(all.f1() > 0.80, "{all:?}");
    assert!(settled.false_rate() < 0.11, "{settled:?}");
}

#[test]
fn healthy_rigs_stay_mostly_quiet() {
    let model = model();
    let mut tally = Tally::default();
    for seed in 600..620 {
        let mut rig = Rig::healthy(seed);
        let mut state = new_state(&model);
        for _ in 0..2500 {
            if let Some(alarm) = alarm(&model.step(&mut state, &rig.next_reading().0)) {
                tally.count(false, alarm);
            }
        }
    }
    println!("healthy rigs: false {:.3}", tally.false_rate());
    assert!(tally.false_rate() < 0.08, "{tally:?}");
}

/// Rows of a SKAB file: eight values and, where the file has labels, the anomaly column.
fn skab(name: &str) -> Option<Vec<([f32; FEATURES], bool)>> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/skab");
    let folder =
        std::env::var("TIDEGATE_SKAB_DIR").map_or_else(|_| PathBuf::from(default), PathBuf::from);
    let Ok(text) = std::fs::read_to_string(folder.join(name)) else {
        println!(
            "skipped: no {name} in {} (set TIDEGATE_SKAB_DIR)",
            folder.display()
        );
        return None;
    };
    let row = |line: &str| {
        let numbers: Vec<f32> = line
            .split(';')
            .skip(1)
            .map(|v| v.parse().unwrap())
            .collect();
        (
            numbers[..FEATURES].try_into().unwrap(),
            numbers.get(FEATURES).is_some_and(|label| *label > 0.5),
        )
    };
    Some(text.lines().skip(1).map(row).collect())
}

#[test]
fn real_valve_closings_are_seen_without_labels() {
    let model = model();
    let mut tally = Tally::default();
    for file in 0..8 {
        let Some(rows) = skab(&format!("valve1-{file}.csv")) else {
            return;
        };
        let mut state = new_state(&model);
        for (values, truth) in rows {
            if let Some(alarm) = alarm(&model.step(&mut state, &values)) {
                tally.count(truth, alarm);
            }
        }
    }
    println!(
        "SKAB valve1: F1 {:.3} false {:.3} missed {:.3}",
        tally.f1(),
        tally.false_rate(),
        tally.missed_rate()
    );
    assert!(
        tally.f1() >= 0.75 && tally.false_rate() <= 0.30,
        "{tally:?}"
    );
    let Some(rows) = skab("anomaly-free.csv") else {
        return;
    };
    let mut state = new_state(&model);
    let alarms = rows
        .iter()
        .filter(|(values, _)| alarm(&model.step(&mut state, values)) == Some(true))
        .count();
    println!(
        "SKAB anomaly-free: {:.3} of readings alarm",
        alarms as f64 / (rows.len() - 400) as f64
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn no_reading_leaves_a_state_that_is_not_finite(
        readings in prop::collection::vec(prop::array::uniform8(prop_oneof![
            any::<f32>(), Just(f32::NAN), Just(f32::MAX), Just(f32::MIN), Just(f32::INFINITY), Just(0.0), -100f32..100.0,
        ]), 1..120),
    ) {
        let model = Autoencoder::new(&config(), FEATURES, 40, Some(WEIGHTS), "w").unwrap();
        let mut state = new_state(&model);
        for values in &readings {
            prop_assert!(model.step(&mut state, values).is_finite());
            prop_assert!(state.iter().all(|v| v.is_finite()), "{state:?}");
        }
    }
}
