//! What is measured: a metric's kind, its role, which direction is good, and the margin that matters.
//!
//! Owns the declaration and its checks; [`moments`] adds devices up, [`outcome`] says what one reading contributes. Every metric is a
//! ratio of sums over devices, R = sum(y) / sum(n): a mean per device has n = 1, accuracy counts right answers over labels, F1 is
//! 2 tp / (2 tp + fp + fn), and an RMSE is the root of one. So one estimator serves all (the delta method, [`moments`]), and the unit is
//! always the device: readings of one device are correlated, and a test that counts them rejects a true null in over half of the cases.

pub mod moments;
pub mod outcome;

use serde::{Deserialize, Serialize};

pub use moments::{Estimate, Moments};

/// Metrics of an experiment.
pub const MAX_METRICS: usize = 16;

/// What a metric decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The one that the verdict is about.
    Primary,
    /// Reported, never decides.
    Secondary,
    /// Must not be harmed by more than its margin; decides a rollback.
    Guardrail,
}

/// Which way is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Accuracy, F1.
    HigherIsBetter,
    /// Errors, alarms, latency.
    LowerIsBetter,
}

impl Direction {
    /// A difference turned so that above 0 is good.
    pub fn good(self, difference: f64) -> f64 {
        match self {
            Self::HigherIsBetter => difference,
            Self::LowerIsBetter => -difference,
        }
    }
}

/// How a metric comes from the sums over devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Yes or no, once a device: failed, alarmed, over budget at least once.
    Proportion,
    /// The mean over devices of y / n of each device: every device counts the same.
    Mean,
    /// sum(y) / sum(n): every reading counts the same, devices with many count more.
    Ratio,
    /// The root of the ratio (RMSE).
    RootRatio,
}

/// One metric of an experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// What it is called in reports.
    pub name: String,
    /// How it comes from the sums.
    pub form: Form,
    /// What it decides.
    pub role: Role,
    /// Which way is good.
    pub direction: Direction,
    /// The smallest difference that matters, in the metric's own unit, at least 0. Primary: "no difference" means within it. Guardrail:
    /// harm up to it is accepted.
    pub margin: f64,
}

/// Why a metric cannot be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MetricError {
    /// No name, or a long one.
    #[error("metrics[{0}].name: 1 to 64 characters are allowed")]
    Name(usize),
    /// Two of a name.
    #[error("metrics[{index}].name: `{name}` is there twice")]
    Twice {
        /// The second of them.
        index: usize,
        /// The name.
        name: String,
    },
    /// No number that makes sense.
    #[error("metrics[{index}].margin: {margin} is not a number of at least 0")]
    Margin {
        /// Which metric.
        index: usize,
        /// What was given.
        margin: f64,
    },
    /// None or several.
    #[error("metrics: exactly one is primary, not {0}; call the others secondary or guardrail")]
    Primaries(usize),
    /// Out of bounds.
    #[error("metrics: 1 to {MAX_METRICS} are allowed, not {0}")]
    Count(usize),
}

/// Checks the metrics of an experiment together.
///
/// # Errors
/// [`MetricError`] names the first that is wrong.
pub fn check(metrics: &[Metric]) -> Result<(), MetricError> {
    if !(1..=MAX_METRICS).contains(&metrics.len()) {
        return Err(MetricError::Count(metrics.len()));
    }
    for (index, metric) in metrics.iter().enumerate() {
        if !(1..=64).contains(&metric.name.chars().count()) {
            return Err(MetricError::Name(index));
        }
        if metrics[..index].iter().any(|one| one.name == metric.name) {
            let name = metric.name.clone();
            return Err(MetricError::Twice { index, name });
        }
        if !(metric.margin >= 0.0 && metric.margin.is_finite()) {
            let margin = metric.margin;
            return Err(MetricError::Margin { index, margin });
        }
    }
    match metrics
        .iter()
        .filter(|one| one.role == Role::Primary)
        .count()
    {
        1 => Ok(()),
        n => Err(MetricError::Primaries(n)),
    }
}

/// What one device contributes to one metric over its horizon: y and n.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Numerator.
    pub y: f64,
    /// Denominator.
    pub n: f64,
}

impl Tally {
    /// Adds a reading's contribution. One that is not finite is left out: missing, never wrong.
    #[inline]
    pub fn add(&mut self, y: f64, n: f64) {
        if y.is_finite() && n.is_finite() {
            self.y += y;
            self.n += n;
        }
    }

    /// The device's frozen observation under `form`; none when nothing was scored.
    pub fn frozen(self, form: Form) -> Option<(f64, f64)> {
        let scored = self.n > 0.0;
        match form {
            Form::Proportion => scored.then_some((f64::from(u8::from(self.y > 0.0)), 1.0)),
            Form::Mean => scored.then(|| (self.y / self.n, 1.0)),
            Form::Ratio | Form::RootRatio => scored.then_some((self.y, self.n)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(name: &str, role: Role) -> Metric {
        Metric {
            name: name.into(),
            form: Form::Mean,
            role,
            direction: Direction::LowerIsBetter,
            margin: 0.0,
        }
    }

    #[test]
    fn metrics_that_cannot_decide_are_refused() {
        let error = |metrics: &[Metric]| check(metrics).unwrap_err().to_string();
        assert!(error(&[]).contains("not 0"));
        assert!(error(&[metric("a", Role::Secondary)]).contains("exactly one is primary, not 0"));
        let two = [metric("a", Role::Primary), metric("a", Role::Guardrail)];
        assert_eq!(error(&two), "metrics[1].name: `a` is there twice");
        let mut bad = metric("a", Role::Primary);
        bad.margin = f64::NAN;
        assert!(error(&[bad]).contains("metrics[0].margin: NaN"));
        assert!(check(&[metric("a", Role::Primary)]).is_ok());
    }

    #[test]
    fn what_was_not_scored_is_missing_and_not_wrong() {
        let mut tally = Tally::default();
        assert_eq!(tally.frozen(Form::Ratio), None);
        tally.add(f64::NAN, 1.0);
        assert_eq!(tally.frozen(Form::Mean), None);
        tally.add(1.0, 1.0);
        tally.add(0.0, 1.0);
        assert_eq!(tally.frozen(Form::Mean), Some((0.5, 1.0)));
        assert_eq!(tally.frozen(Form::Proportion), Some((1.0, 1.0)));
        assert_eq!(tally.frozen(Form::Ratio), Some((1.0, 2.0)));
    }
}
