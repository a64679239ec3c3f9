//! Golden runs: readings with the answers a version gave when it was made, kept beside it as `golden.json`.
//!
//! A run opens with `generated` seeded readings (enough to end a calibration; not written down) and goes on with written ones, at
//! least [`MIN_READINGS`], each with its expected output. Loading folds the whole run and refuses a version that answers
//! otherwise: weights, code or machine have changed what it says. [`record`] writes such a file.

use serde::{Deserialize, Serialize};

use crate::manifest::{Mistake, check};
use crate::{EndpointManifest, Feature, Output, Version};

/// Fewest written readings in a run.
pub const MIN_READINGS: usize = 12;

/// Most generated readings in a run.
pub const MAX_GENERATED: u32 = 200_000;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Golden {
    /// Starts the generator of the opening readings.
    seed: u64,
    /// Opening readings, folded and not compared.
    generated: u32,
    /// Largest relative difference of any number; below 0.001 a number's size counts as that.
    tolerance: f32,
    /// A difference up to this is none, however small the numbers.
    #[serde(default, skip_serializing_if = "is_zero")]
    absolute: f32,
    /// Whether the probabilities of a classification are followed by the index of the chosen class.
    #[serde(default, skip_serializing_if = "is_false")]
    labels: bool,
    /// Names of a classification's classes in their order: outputs hold their numbers only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    classes: Option<Vec<String>>,
    /// `null` is a missing value.
    readings: Vec<Vec<Option<f32>>>,
    /// One answer a written reading.
    outputs: Vec<Vec<f32>>,
}

fn is_zero(value: &f32) -> bool {
    *value == 0.0
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// Folds the run in `text` and compares. A [`Mistake`] names the place, such as `outputs[3]`.
pub fn verify(version: &Version, endpoint: &EndpointManifest, text: &str) -> Result<(), Mistake> {
    let golden: Golden =
        serde_json::from_str(text).map_err(|error| Mistake::new("json", error.to_string()))?;
    golden.check(endpoint.features.len())?;
    golden.check_classes(version)?;
    let (answers, _) = golden.fold(version, endpoint);
    for (index, (got, expected)) in answers.iter().zip(&golden.outputs).enumerate() {
        let place = format!("outputs[{index}]");
        let got = got.as_ref().map_err(|reason| {
            Mistake::new(
                &place,
                format!("expected {expected:?}, got no answer: {reason}"),
            )
        })?;
        check(
            got.len() == expected.len(),
            &place,
            &format!("expected {expected:?}, got {got:?}"),
        )?;
        for (k, (a, b)) in got.iter().zip(expected).enumerate() {
            let (off, allowed) = ((a - b).abs(), golden.allowed(*a, *b));
            check(
                off <= allowed,
                &format!("{place}[{k}]"),
                &format!("expected {b}, got {a}: off by {off:e}, allowed is {allowed:e}"),
            )?;
        }
    }
    Ok(())
}

/// The text of a `golden.json` for `version` as it answers now: `generated` seeded readings, then `readings` (NaN is missing).
pub fn record(
    version: &Version,
    endpoint: &EndpointManifest,
    seed: u64,
    generated: u32,
    readings: &[Vec<f32>],
) -> String {
    let missing = |value: &f32| value.is_finite().then_some(*value);
    let readings = readings
        .iter()
        .map(|reading| reading.iter().map(missing).collect())
        .collect();
    let mut golden = Golden {
        seed,
        generated,
        tolerance: 1e-4,
        absolute: 0.0,
        labels: false,
        classes: classes(version),
        readings,
        outputs: Vec::new(),
    };
    let answers = golden.fold(version, endpoint).0;
    golden.outputs = answers.into_iter().map(Result::unwrap_or_default).collect();
    serde_json::to_string(&golden).expect("plain numbers serialise") + "\n"
}

/// `count` plausible readings: a triangular spread around each feature's usual middle, the same on every machine.
pub fn generate(features: &[Feature], seed: u64, count: u32) -> Vec<Vec<f32>> {
    let mut random = seed | 1;
    let mut uniform = move || {
        // xorshift64*; 24 bits make an exact f32 in 0..1.
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        (random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40) as f32 / (1 << 24) as f32
    };
    let mut value = |feature: &Feature| {
        let (low, high) = feature.range.unwrap_or((-1.0, 1.0));
        (low + high) / 2.0 + (high - low) * 0.1 * (uniform() + uniform() - 1.0)
    };
    (0..count)
        .map(|_| features.iter().map(&mut value).collect())
        .collect()
}

impl Golden {
    fn check(&self, features: usize) -> Result<(), Mistake> {
        check(
            self.generated <= MAX_GENERATED,
            "generated",
            &format!("is above {MAX_GENERATED}"),
        )?;
        check(
            self.tolerance > 0.0 && self.tolerance <= 0.01,
            "tolerance",
            "is not in 0..0.01",
        )?;
        check(
            (0.0..=0.01).contains(&self.absolute),
            "absolute",
            "is not in 0..=0.01",
        )?;
        check(
            self.readings.len() >= MIN_READINGS,
            "readings",
            &format!("at least {MIN_READINGS} are needed"),
        )?;
        check(
            self.outputs.len() == self.readings.len(),
            "outputs",
            "one is needed for each of readings",
        )?;
        for (index, reading) in self.readings.iter().enumerate() {
            let reason = format!("expected {features} values, got {}", reading.len());
            check(
                reading.len() == features,
                &format!("readings[{index}]"),
                &reason,
            )?;
        }
        Ok(())
    }

    fn check_classes(&self, version: &Version) -> Result<(), Mistake> {
        let Some(expected) = &self.classes else {
            return Ok(());
        };
        let got = classes(version).unwrap_or_default();
        check(
            got == *expected,
            "classes",
            &format!("expected {expected:?}, the version answers {got:?}"),
        )
    }

    /// How far two numbers may lie apart.
    fn allowed(&self, a: f32, b: f32) -> f32 {
        let relative = self.tolerance * a.abs().max(b.abs()).max(1e-3);
        relative.max(self.absolute)
    }

    /// The answers to the written readings as plain numbers (or the reason of none), and the state behind them.
    fn fold(&self, version: &Version, endpoint: &EndpointManifest) -> (Vec<Answer>, Vec<f32>) {
        let mut state = version.new_state();
        for reading in generate(&endpoint.features, self.seed, self.generated) {
            version.step(&mut state, &reading, 0.0);
        }
        let fold_one = |reading: &Vec<Option<f32>>| {
            let values: Vec<_> = reading
                .iter()
                .map(|value| value.unwrap_or(f32::NAN))
                .collect();
            // An answer that failed leaves the state before it, as in the server.
            let before = state.clone();
            let output = version.step(&mut state, &values, 0.0);
            let answer = numbers(&output, self.labels);
            if answer.is_err() {
                state = before;
            }
            answer
        };
        (self.readings.iter().map(fold_one).collect(), state)
    }
}

/// The classes that a version's answers name, in their order.
fn classes(version: &Version) -> Option<Vec<String>> {
    match version.model.template()? {
        Output::Classification { labels, .. } => Some(labels.to_vec()),
        _ => None,
    }
}

/// The numbers of an answer, or why there is none.
type Answer = Result<Vec<f32>, String>;

/// Every number of an output in its order; flags as 0 and 1, with `labels` the index of the chosen class behind the probabilities.
fn numbers(output: &Output, labels: bool) -> Answer {
    Ok(match output {
        Output::Failed { reason } => return Err(reason.to_string()),
        Output::Calibrating { seen, needed } => vec![*seen as f32, *needed as f32],
        Output::Anomaly {
            score,
            threshold,
            anomaly,
        } => vec![*score, *threshold, f32::from(*anomaly)],
        Output::Classification {
            probabilities,
            label,
            ..
        } => {
            let chosen = labels.then_some(*label as f32);
            probabilities.iter().copied().chain(chosen).collect()
        }
        Output::Regression { values, .. } => values.clone(),
        Output::Forecast {
            values, quantiles, ..
        } => values
            .iter()
            .chain(quantiles.iter().flat_map(|(_, values)| values))
            .copied()
            .collect(),
    })
}
