//! What a committed reading, or ground truth for it, contributes to a metric. Pure.
//!
//! Ground truth for anomaly detectors is `normal` or `anomaly`, or 0 or 1; for classes the name of one; for values a number. What does not
//! fit contributes nothing: missing is never wrong.

use tidegate_experiments::metric::outcome::{Known, Scored};
use tidegate_protocol::Output;
use tidegate_protocol::message::Label;

/// What a prediction by itself contributes: (y, n).
pub fn behaviour(measure: Known, output: &Output, over_budget: bool) -> Option<(f64, f64)> {
    let yes = |is: bool| Some((f64::from(u8::from(is)), 1.0));
    match (measure, output) {
        (Known::AnomalyShare, Output::Anomaly { anomaly, .. }) => yes(*anomaly),
        (Known::MeanScore, Output::Anomaly { score, .. }) => Some((f64::from(*score), 1.0)),
        (Known::OverBudget, _) => yes(over_budget),
        (Known::MissingPredictions, output) => yes(matches!(output, Output::Failed(_))),
        (Known::Nacks, _) => yes(false),
        _ => None,
    }
}

/// What a refused reading contributes.
pub fn refused(measure: Known) -> Option<(f64, f64)> {
    match measure {
        Known::Nacks | Known::MissingPredictions => Some((1.0, 1.0)),
        _ => None,
    }
}

/// Whether there was an anomaly, as ground truth says it.
fn is_anomaly(label: &Label) -> Option<bool> {
    match label {
        Label::Text(text) if text == "anomaly" => Some(true),
        Label::Text(text) if text == "normal" => Some(false),
        Label::Number(1.0) => Some(true),
        Label::Number(0.0) => Some(false),
        _ => None,
    }
}

/// What ground truth makes of a prediction: (y, n).
pub fn scored(measure: Known, output: &Output, label: &Label) -> Option<(f64, f64)> {
    let value = |served: Option<f32>| {
        let (Some(served), Label::Number(truth)) = (served, label) else {
            return None;
        };
        measure.of(Scored::Value {
            served: served.into(),
            truth: (*truth).into(),
        })
    };
    match output {
        Output::Classification {
            label: served,
            probabilities,
        } => {
            let Label::Text(truth) = label else {
                return None;
            };
            if measure == Known::LogLoss {
                let mut named = probabilities.iter();
                // A class that the version does not know had no chance.
                let p = named
                    .find(|(name, _)| name == truth)
                    .map_or(0.0, |(_, p)| *p);
                return measure.of(Scored::Probability(p.into()));
            }
            measure.of(Scored::Label { served, truth })
        }
        Output::Anomaly { anomaly, .. } => measure.of(Scored::Alarm {
            raised: *anomaly,
            truth: is_anomaly(label)?,
        }),
        Output::Regression { values } => value(values.first().map(|(_, value)| *value)),
        Output::Forecast { values, .. } => value(values.first().copied()),
        Output::Calibrating { .. } | Output::Failed(_) | Output::Skipped(_) => None,
    }
}

/// Whether ground truth is of the kind that an endpoint's task asks for; else what is expected.
///
/// # Errors
/// What is expected.
pub fn check(task: &str, label: &Label) -> Result<(), &'static str> {
    let (fits, expected) = match task {
        "anomaly" => (
            is_anomaly(label).is_some(),
            "\"normal\" or \"anomaly\", or 0 or 1",
        ),
        "classification" => (matches!(label, Label::Text(_)), "the name of a class"),
        _ => (matches!(label, Label::Number(_)), "a number"),
    };
    fits.then_some(()).ok_or(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Label {
        Label::Text(text.into())
    }

    #[test]
    fn predictions_are_scored_by_their_ground_truth() {
        let class = Output::Classification {
            label: "worn".into(),
            probabilities: vec![("ok".into(), 0.25), ("worn".into(), 0.75)],
        };
        assert_eq!(
            scored(Known::Accuracy, &class, &text("worn")),
            Some((1.0, 1.0))
        );
        assert_eq!(
            scored(Known::Accuracy, &class, &text("ok")),
            Some((0.0, 1.0))
        );
        let loss = scored(Known::LogLoss, &class, &text("ok")).unwrap().0;
        assert!((loss - 4.0_f64.ln()).abs() < 1e-12);
        assert!(
            scored(Known::LogLoss, &class, &text("unheard of"))
                .unwrap()
                .0
                > 30.0
        );
        let alarm = Output::Anomaly {
            score: 2.0,
            threshold: 1.0,
            anomaly: true,
        };
        for (label, expected) in [
            (text("normal"), (1.0, 1.0)),
            (Label::Number(1.0), (0.0, 0.0)),
        ] {
            assert_eq!(
                scored(Known::FalseAlarmRate, &alarm, &label),
                Some(expected)
            );
        }
        let value = Output::Regression {
            values: vec![("x".into(), 3.0)],
        };
        assert_eq!(
            scored(Known::Mae, &value, &Label::Number(1.0)),
            Some((2.0, 1.0))
        );
    }

    #[test]
    fn a_label_of_the_wrong_kind_is_told_and_counts_nothing() {
        let value = Output::Regression {
            values: vec![("x".into(), 3.0)],
        };
        assert_eq!(scored(Known::Mae, &value, &text("ok")), None);
        assert!(check("regression", &text("ok")).is_err());
        assert!(check("classification", &Label::Number(1.0)).is_err());
        assert!(check("anomaly", &text("worn")).is_err());
        for (task, label) in [
            ("regression", Label::Number(1.0)),
            ("classification", text("worn")),
            ("anomaly", text("normal")),
            ("anomaly", Label::Number(1.0)),
        ] {
            assert_eq!(check(task, &label), Ok(()));
        }
    }

    #[test]
    fn behaviour_needs_no_ground_truth() {
        let failed = Output::Failed("no".into());
        assert_eq!(
            behaviour(Known::MissingPredictions, &failed, false),
            Some((1.0, 1.0))
        );
        assert_eq!(behaviour(Known::AnomalyShare, &failed, false), None);
        assert_eq!(
            behaviour(Known::OverBudget, &failed, true),
            Some((1.0, 1.0))
        );
        assert_eq!(behaviour(Known::Accuracy, &failed, false), None);
        assert_eq!(refused(Known::Nacks), Some((1.0, 1.0)));
    }
}
