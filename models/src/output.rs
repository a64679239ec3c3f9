//! What a model answers for one reading, by task kind. No wire types here: the server maps these to its messages. Names are
//! shared, so that an answer allocates its own numbers only.

use std::sync::Arc;

/// A model's answer for one reading.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// The stream's own normal is still being learned; no answer yet.
    Calibrating {
        /// Readings taken so far, this one included.
        seen: u32,
        /// Readings the calibration takes.
        needed: u32,
    },
    /// How far the stream is from its normal.
    Anomaly {
        /// A distance in standard deviations, 0 and up.
        score: f32,
        /// The score above which the reading counts as an anomaly; learned without labels.
        threshold: f32,
        /// Whether the score is above the threshold.
        anomaly: bool,
    },
    /// Which class the stream is in; both lists have one length.
    Classification {
        /// The classes' names, in the model's order.
        labels: Arc<[String]>,
        /// One probability a class. A model that gives none says 1 for the class it chose.
        probabilities: Vec<f32>,
        /// Index of the chosen class: the model's own choice, otherwise the first of the most probable.
        label: usize,
    },
    /// Named quantities estimated from the reading.
    Regression {
        /// The quantities' names, in the model's order.
        names: Arc<[String]>,
        /// One value a name.
        values: Vec<f32>,
    },
    /// What the stream will do next.
    Forecast {
        /// Steps ahead, in readings, rising.
        horizon: Arc<[u32]>,
        /// One expected value a step.
        values: Vec<f32>,
        /// (probability, one value a step), probabilities rising.
        quantiles: Vec<(f32, Vec<f32>)>,
    },
    /// No answer to this reading, and the state is not to be gone on with: whoever folds keeps the one before.
    Failed {
        /// Lowercase, no full stop.
        reason: Arc<str>,
    },
}

impl Output {
    /// Whether every number in it is finite. An answer that is not must never be served.
    pub fn is_finite(&self) -> bool {
        let all = |values: &[f32]| values.iter().all(|value| value.is_finite());
        match self {
            Self::Calibrating { .. } | Self::Failed { .. } => true,
            Self::Anomaly {
                score, threshold, ..
            } => score.is_finite() && threshold.is_finite(),
            Self::Classification { probabilities, .. } => all(probabilities),
            Self::Regression { values, .. } => all(values),
            Self::Forecast {
                values, quantiles, ..
            } => all(values) && quantiles.iter().all(|(p, q)| p.is_finite() && all(q)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Output;

    #[test]
    fn one_bad_number_anywhere_makes_an_output_not_finite() {
        let good = Output::Anomaly {
            score: 1.0,
            threshold: 3.0,
            anomaly: false,
        };
        let bad = Output::Anomaly {
            score: f32::NAN,
            threshold: 3.0,
            anomaly: false,
        };
        let forecast = Output::Forecast {
            horizon: [1].into(),
            values: vec![0.0],
            quantiles: vec![(0.9, vec![f32::INFINITY])],
        };
        assert!(good.is_finite());
        assert!(!bad.is_finite());
        assert!(!forecast.is_finite());
        assert!(
            Output::Calibrating {
                seen: 1,
                needed: 400
            }
            .is_finite()
        );
    }
}
