//! What an experiment measures, as a person declares it: one metric, and whether it can be measured at an endpoint. Pure.

use super::definition::{DefinitionError, Kind, wrong};
use serde::{Deserialize, Serialize};
use tidegate_experiments::metric::outcome::Known;
use tidegate_experiments::{Direction, Form, Metric, Role};

/// One metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricDefinition {
    /// What is measured.
    pub measure: Known,
    /// What it is called; the measure's name where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it decides.
    pub role: Role,
    /// Which way is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// The smallest difference that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// How it comes from the sums; the measure's own where left out, a mean a device where the split moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<Form>,
}

impl MetricDefinition {
    /// What the analysis is told; `moves`: the split does, so that a device counts once.
    pub(super) fn metric(&self, moves: bool) -> Metric {
        let own = match self.measure.form() {
            Form::Ratio if moves => Form::Mean,
            form => form,
        };
        Metric {
            name: self.name.clone().unwrap_or_else(|| word(self.measure)),
            form: self.form.unwrap_or(own),
            role: self.role,
            direction: self.direction.unwrap_or(self.measure.direction()),
            margin: self.margin.unwrap_or_default(),
        }
    }
}

/// The measure's name, as it is declared.
fn word(measure: Known) -> String {
    match serde_json::to_value(measure) {
        Ok(serde_json::Value::String(word)) => word,
        _ => format!("{measure:?}"),
    }
}

/// Checks one of them, the one at `index`, for an endpoint's task.
///
/// # Errors
/// What is missing or cannot be measured there.
pub(super) fn check_metric(
    index: usize,
    metric: &MetricDefinition,
    task: &str,
    kind: Kind,
) -> Result<(), DefinitionError> {
    let name = word(metric.measure);
    if metric.direction.is_none() {
        return Err(wrong(format!(
            "metrics[{index}].direction: missing for `{name}`: higher_is_better or lower_is_better"
        )));
    }
    if metric.margin.is_none() {
        return Err(wrong(format!(
            "metrics[{index}].margin: missing for `{name}`: the smallest difference that matters, such as 0.01"
        )));
    }
    let fits = match metric.measure {
        Known::Accuracy => matches!(task, "classification" | "anomaly"),
        Known::LogLoss => task == "classification",
        Known::F1 | Known::FalseAlarmRate | Known::AnomalyShare | Known::MeanScore => {
            task == "anomaly"
        }
        Known::Mae | Known::Rmse => matches!(task, "regression" | "forecast"),
        Known::Disagreement => kind == Kind::Shadow && matches!(task, "classification" | "anomaly"),
        Known::Nacks => kind != Kind::Shadow,
        Known::OverBudget | Known::MissingPredictions => true,
    };
    if !fits {
        return Err(wrong(format!(
            "metrics[{index}].measure: `{name}` cannot be measured here: the endpoint's task is {task}{}",
            if kind == Kind::Shadow {
                ", in a shadow"
            } else {
                ""
            }
        )));
    }
    Ok(())
}
