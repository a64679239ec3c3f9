//! What one reading, or one label, contributes to each metric: a numerator and a denominator.
//!
//! Two families. *Outcome* metrics need feedback; a reading without it contributes nothing (missing is never wrong). *Behaviour* metrics
//! need none. Pure functions of a prediction and its truth; who is asked, and when a device's horizon ends, is the caller's business.
//!
//! F1 is the ratio 2 tp / (2 tp + fp + fn) (van Rijsbergen, 1979), a ratio of sums over devices and so within reach of the delta method;
//! log loss is clipped at 1e-15, as scikit-learn does, so that one sure and wrong answer stays finite.

use super::{Direction, Form};
use serde::{Deserialize, Serialize};

/// Probabilities are kept this far from 0 and 1 in the log loss.
const CLIP: f64 = 1e-15;

/// A prediction or a truth, as far as a score needs it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scored<'a> {
    /// The served label and the true one.
    Label {
        /// What was served.
        served: &'a str,
        /// What was true.
        truth: &'a str,
    },
    /// The probability that was served for what turned out to be true.
    Probability(f64),
    /// An alarm, and whether it was right to raise one.
    Alarm {
        /// The prediction said anomaly.
        raised: bool,
        /// There was one.
        truth: bool,
    },
    /// Numbers.
    Value {
        /// What was served.
        served: f64,
        /// What was true.
        truth: f64,
    },
}

/// Metrics known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// Right answers over labels.
    Accuracy,
    /// 2 tp / (2 tp + fp + fn) of alarms.
    F1,
    /// Mean of -ln(probability of the truth).
    LogLoss,
    /// Mean absolute error.
    Mae,
    /// Root of the mean squared error.
    Rmse,
    /// Alarms over readings in which all was well.
    FalseAlarmRate,
    /// Share of readings called an anomaly.
    AnomalyShare,
    /// Mean of the score.
    MeanScore,
    /// Share of readings on which the versions disagree (shadow).
    Disagreement,
    /// Share of readings whose latency was over the budget.
    OverBudget,
    /// Share of readings refused.
    Nacks,
    /// Share of readings without a prediction.
    MissingPredictions,
}

impl Known {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Accuracy,
        Self::F1,
        Self::LogLoss,
        Self::Mae,
        Self::Rmse,
        Self::FalseAlarmRate,
        Self::AnomalyShare,
        Self::MeanScore,
        Self::Disagreement,
        Self::OverBudget,
        Self::Nacks,
        Self::MissingPredictions,
    ];

    /// How it comes from the sums.
    pub fn form(self) -> Form {
        match self {
            Self::Rmse => Form::RootRatio,
            _ => Form::Ratio,
        }
    }

    /// Which way is good; for the anomaly share and the mean score less is calmer, which an experiment may turn round.
    pub fn direction(self) -> Direction {
        match self {
            Self::Accuracy | Self::F1 => Direction::HigherIsBetter,
            _ => Direction::LowerIsBetter,
        }
    }

    /// Whether it needs feedback.
    pub fn needs_feedback(self) -> bool {
        matches!(
            self,
            Self::Accuracy
                | Self::F1
                | Self::LogLoss
                | Self::Mae
                | Self::Rmse
                | Self::FalseAlarmRate
        )
    }

    /// What a scored reading adds to an outcome metric: (y, n), or none when this metric cannot use it.
    pub fn of(self, scored: Scored<'_>) -> Option<(f64, f64)> {
        let yes = |is: bool| f64::from(u8::from(is));
        let (y, n) = match (self, scored) {
            (Self::Accuracy, Scored::Label { served, truth }) => (yes(served == truth), 1.0),
            (Self::Accuracy, Scored::Alarm { raised, truth }) => (yes(raised == truth), 1.0),
            (Self::F1, Scored::Alarm { raised, truth }) => {
                let hit = 2.0 * yes(raised && truth);
                (hit, hit + yes(raised != truth))
            }
            (Self::FalseAlarmRate, Scored::Alarm { raised, truth }) => {
                (yes(raised && !truth), yes(!truth))
            }
            (Self::LogLoss, Scored::Probability(p)) if (0.0..=1.0).contains(&p) => {
                (-p.clamp(CLIP, 1.0 - CLIP).ln(), 1.0)
            }
            (Self::Mae, Scored::Value { served, truth }) => ((served - truth).abs(), 1.0),
            (Self::Rmse, Scored::Value { served, truth }) => ((served - truth).powi(2), 1.0),
            _ => return None,
        };
        (y.is_finite() && n.is_finite()).then_some((y, n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::Tally;

    fn total(metric: Known, scored: &[Scored<'_>]) -> f64 {
        let mut tally = Tally::default();
        for one in scored {
            let (y, n) = metric.of(*one).unwrap();
            tally.add(y, n);
        }
        tally.y / tally.n
    }

    /// tp 2, fp 1, fn 1, tn 4: F1 = 4/6, false alarms 1 in 5, accuracy 6 in 8.
    #[test]
    fn alarms_score_as_computed_by_hand() {
        let one = |raised, truth| Scored::Alarm { raised, truth };
        let mut all = vec![
            one(true, true),
            one(true, true),
            one(true, false),
            one(false, true),
        ];
        all.extend(vec![one(false, false); 4]);
        assert!((total(Known::F1, &all) - 4.0 / 6.0).abs() < 1e-15);
        assert!((total(Known::FalseAlarmRate, &all) - 0.2).abs() < 1e-15);
        assert!((total(Known::Accuracy, &all) - 0.75).abs() < 1e-15);
    }

    #[test]
    fn numbers_and_probabilities_score_as_computed_by_hand() {
        let value = |served, truth| Scored::Value { served, truth };
        let all = [value(1.0, 2.0), value(5.0, 2.0)];
        assert!((total(Known::Mae, &all) - 2.0).abs() < 1e-15);
        assert!((total(Known::Rmse, &all).sqrt() - 5.0_f64.sqrt()).abs() < 1e-15);
        let loss = total(
            Known::LogLoss,
            &[Scored::Probability(0.5), Scored::Probability(0.25)],
        );
        assert!((loss - 1.5 * 2.0_f64.ln()).abs() < 1e-15);
        assert!(total(Known::LogLoss, &[Scored::Probability(0.0)]).is_finite());
    }

    #[test]
    fn a_label_of_the_wrong_kind_scores_nothing() {
        let number = Scored::Value {
            served: 1.0,
            truth: f64::NAN,
        };
        assert_eq!(Known::Mae.of(number), None);
        assert_eq!(Known::Accuracy.of(number), None);
        assert_eq!(Known::F1.of(Scored::Probability(0.3)), None);
        assert_eq!(Known::LogLoss.of(Scored::Probability(1.5)), None);
    }
}
