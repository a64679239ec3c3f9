//! A prediction's output as JSON: which fields are there tells its kind.

use super::{Pairs, PairsRef, Value};
use crate::message::{Output, Values};
use serde::de::{self, Deserialize, Deserializer};
use serde::ser::{Serialize, SerializeMap, Serializer};

#[derive(serde::Serialize, serde::Deserialize)]
struct Progress {
    seen: u32,
    needed: u32,
}

impl Serialize for Output {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Calibrating { seen, needed } => {
                map.serialize_entry(
                    "calibrating",
                    &Progress {
                        seen: *seen,
                        needed: *needed,
                    },
                )?;
            }
            Self::Anomaly {
                score,
                threshold,
                anomaly,
            } => {
                map.serialize_entry("score", score)?;
                map.serialize_entry("threshold", threshold)?;
                map.serialize_entry("anomaly", anomaly)?;
            }
            Self::Classification {
                label,
                probabilities,
            } => {
                map.serialize_entry("label", label)?;
                map.serialize_entry("probabilities", &PairsRef(probabilities))?;
            }
            Self::Regression { values } => map.serialize_entry("values", &PairsRef(values))?,
            Self::Forecast {
                horizon,
                values,
                quantiles,
            } => {
                map.serialize_entry("horizon", horizon)?;
                map.serialize_entry("values", values)?;
                map.serialize_entry("quantiles", &PairsRef(quantiles))?;
            }
            Self::Failed(reason) => map.serialize_entry("failed", reason)?,
            Self::Skipped(reason) => map.serialize_entry("skipped", reason)?,
        }
        map.end()
    }
}

/// Every field that an output may have; which are there tells the kind.
#[derive(serde::Deserialize)]
struct OutputFields {
    calibrating: Option<Progress>,
    score: Option<f32>,
    threshold: Option<f32>,
    anomaly: Option<bool>,
    label: Option<String>,
    probabilities: Option<Pairs<Value>>,
    values: Option<Values>,
    horizon: Option<Vec<f32>>,
    quantiles: Option<Pairs<Vec<f32>>>,
    failed: Option<String>,
    skipped: Option<String>,
}

impl<'de> Deserialize<'de> for Output {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = OutputFields::deserialize(deserializer)?;
        output(fields).ok_or_else(|| de::Error::custom("an output of no known kind"))
    }
}

fn output(fields: OutputFields) -> Option<Output> {
    if let Some(Progress { seen, needed }) = fields.calibrating {
        return Some(Output::Calibrating { seen, needed });
    }
    if let Some(reason) = fields.failed {
        return Some(Output::Failed(reason));
    }
    if let Some(reason) = fields.skipped {
        return Some(Output::Skipped(reason));
    }
    if let Some(score) = fields.score {
        return Some(Output::Anomaly {
            score,
            threshold: fields.threshold?,
            anomaly: fields.anomaly?,
        });
    }
    if let Some(label) = fields.label {
        return Some(Output::Classification {
            label,
            probabilities: numbers(fields.probabilities?),
        });
    }
    match (fields.values?, fields.horizon) {
        (Values::Named(values), None) => Some(Output::Regression { values }),
        (Values::Ordered(values), Some(horizon)) => {
            let quantiles = fields.quantiles.map_or_else(Vec::new, |pairs| pairs.0);
            Some(Output::Forecast {
                horizon,
                values,
                quantiles,
            })
        }
        _ => None,
    }
}

fn numbers(pairs: Pairs<Value>) -> Vec<(String, f32)> {
    pairs
        .0
        .into_iter()
        .map(|(name, value)| (name, value.0))
        .collect()
}
