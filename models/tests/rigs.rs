//! The endpoints that Python made, on simulated rigs which no version has seen: their figures hold in Rust.
//!
//! Seeds from [`FIRST_SEED`] on; `examples/python/make_zoo.sh` trains on 1000 to 1119.

use tidegate_models::rig::Rig;
use tidegate_models::{Output, Version, Zoo};

const FIRST_SEED: u64 = 50_000;
const RIGS: u64 = 8;
const READINGS: usize = 3000;
/// Where `temperature` lies in a reading.
const TEMPERATURE: usize = 4;

/// Readings and the name of what ails the rig.
fn rig(seed: u64) -> Vec<([f32; 8], &'static str)> {
    let mut rig = Rig::new(FIRST_SEED + seed);
    let next = |_| {
        let (values, fault) = rig.next_reading();
        (values, fault.name())
    };
    (0..READINGS).map(next).collect()
}

fn answers(version: &Version, readings: &[([f32; 8], &str)]) -> Vec<Output> {
    let mut state = version.new_state();
    let step = |(values, _): &([f32; 8], &str)| version.step(&mut state, values, 1.0);
    readings.iter().map(step).collect()
}

/// Right and all readings of one true label.
#[derive(Default, Clone, Copy)]
struct Count {
    right: usize,
    all: usize,
}

impl Count {
    fn share(self) -> f64 {
        self.right as f64 / self.all as f64
    }
}

/// Counts a label, in the order of the version's labels.
fn judged(version: &Version) -> [Count; 4] {
    let mut counts = [Count::default(); 4];
    for readings in (0..RIGS).map(rig) {
        for (output, (_, truth)) in answers(version, &readings).iter().zip(&readings) {
            if let Output::Classification { labels, label, .. } = output {
                let truth = labels.iter().position(|name| name == truth);
                let count = &mut counts[truth.expect("a label of the version")];
                count.all += 1;
                count.right += usize::from(Some(*label) == truth);
            }
        }
    }
    counts
}

#[test]
fn every_rig_state_names_what_ails_rigs_it_has_not_seen() {
    let zoo = Zoo::embedded().unwrap();
    for version in zoo.endpoints["rig-state"].versions.values() {
        let counts = judged(version);
        let shares = counts.map(Count::share);
        let all = counts.iter().map(|count| count.all).sum::<usize>();
        let right = counts.iter().map(|count| count.right).sum::<usize>();
        println!(
            "{}: {right} of {all} right, by label {shares:.3?}",
            version.id()
        );
        assert_eq!(all, (READINGS - 400) * RIGS as usize, "{}", version.id());
        assert!(
            right as f64 > 0.93 * all as f64,
            "{}: {right} of {all}",
            version.id()
        );
        assert!(
            shares.iter().all(|share| *share > 0.7),
            "{}: {shares:?}",
            version.id()
        );
    }
}

/// Mean squares of the errors at each horizon: of the forecasts, and of the temperature as it was.
fn errors(outputs: &[Output], readings: &[([f32; 8], &str)]) -> [[f64; 4]; 2] {
    let mut sums = [[0.0; 4]; 2];
    let mut count = 0.0;
    // A state has settled by then, and each horizon still ends within the run.
    for now in 200..READINGS - 120 {
        let Output::Forecast {
            horizon, values, ..
        } = &outputs[now]
        else {
            panic!("a forecast, got {:?}", outputs[now]);
        };
        for (k, (step, value)) in horizon.iter().zip(values).enumerate() {
            let truth = readings[now + *step as usize].0[TEMPERATURE];
            sums[0][k] += f64::from(value - truth).powi(2);
            sums[1][k] += f64::from(readings[now].0[TEMPERATURE] - truth).powi(2);
        }
        count += 1.0;
    }
    sums.map(|of| of.map(|sum| sum / count))
}

#[test]
fn both_forms_of_the_forecast_agree_and_beat_a_temperature_that_stays() {
    let zoo = Zoo::embedded().unwrap();
    let versions = &zoo.endpoints["rig-forecast"].versions;
    let mut total = [[0.0; 4]; 2];
    for readings in (0..RIGS).map(rig) {
        let native = answers(&versions["gru/1.0.0"], &readings);
        let graph = answers(&versions["gru-onnx/1.0.0"], &readings);
        for (a, b) in native.iter().zip(&graph) {
            let (Output::Forecast { values: a, .. }, Output::Forecast { values: b, .. }) = (a, b)
            else {
                panic!("two forecasts, got {a:?} and {b:?}");
            };
            assert!(
                a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3),
                "{a:?} {b:?}"
            );
        }
        let errors = errors(&native, &readings);
        for (total, errors) in total.iter_mut().zip(errors) {
            total
                .iter_mut()
                .zip(errors)
                .for_each(|(total, error)| *total += error);
        }
    }
    let [forecast, still] = total.map(|of| of.map(|sum| (sum / RIGS as f64).sqrt()));
    println!("forecast {forecast:.3?} degC, as it was {still:.3?} degC");
    let better = forecast
        .iter()
        .zip(&still)
        .all(|(forecast, still)| forecast < &(0.9 * still));
    assert!(better, "{forecast:?} against {still:?}");
}
