//! What an experiment fixes before it starts: arms, metrics, horizon, error, and when a verdict may be read.
//!
//! Owns the checks. Promises that a plan that passed [`Plan::check`] can be analysed; nothing in it may change afterwards, because the
//! error that a verdict may make holds for the plan as it was declared.

use crate::assignment::MAX_ARMS;
use crate::metric::{self, Form, Metric, MetricError, Role};
use crate::sequential::interval::Tuning;
use crate::sequential::per_comparison;
use serde::{Deserialize, Serialize};

/// A day, the cycle that most readings follow.
pub const DAY_MS: u64 = 86_400_000;
/// Devices that a plan may ask for at most; each costs up to 40 bytes, and 48 + 16 a metric while its horizon lasts.
pub const MAX_DEVICES: usize = 10_000_000;

/// How arms are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Estimator {
    /// The split stays: the difference of two independent samples.
    TwoSample,
    /// The split moves (a canary's ramp, a bandit): every device counts with the propensity it was drawn with.
    Weighted,
}

/// An experiment as declared. Arm 0 is the control.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Names of the arms.
    pub arms: Vec<String>,
    /// Their shares at the start; sum to 1.
    pub shares: Vec<f64>,
    /// What is measured.
    pub metrics: Vec<Metric>,
    /// How arms are compared.
    pub estimator: Estimator,
    /// From a device's first exposure to its frozen observation.
    pub horizon_ms: u64,
    /// How much longer feedback on readings of the horizon is waited for.
    pub wait_ms: u64,
    /// The error that all comparisons with the control together may make.
    pub alpha: f64,
    /// N*: devices after which the interval is tightest.
    pub planned_devices: f64,
    /// Devices an arm before the interval is read.
    pub min_devices: u64,
    /// How long an experiment runs at least before it decides (a guardrail does not wait).
    pub min_ms: u64,
    /// Use the exact e-process for the primary metric, which must be a proportion; for fleets of fewer than some 100 devices an arm.
    pub exact: bool,
    /// Devices that are taken at most; those beyond are counted and left out.
    pub max_devices: usize,
}

/// Why a plan cannot be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// Arms and shares must fit.
    #[error("arms: {arms} names and {shares} shares; 2 to {MAX_ARMS} of both")]
    Arms {
        /// Names.
        arms: usize,
        /// Shares.
        shares: usize,
    },
    /// They must make a whole.
    #[error("shares: they sum to {0}, not to 1")]
    Shares(f64),
    /// A number that makes no sense.
    #[error("{field}: {value} is out of bounds ({allowed})")]
    Bounds {
        /// Which field.
        field: &'static str,
        /// What was given.
        value: f64,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The exact process counts yes and no.
    #[error(
        "exact: the primary metric `{0}` is no proportion; the exact process needs one yes or no a device"
    )]
    Exact(String),
    /// A moving split cannot weigh a ratio.
    #[error("metrics: `{0}` is a ratio over readings; with a moving split use its mean a device")]
    Ratio(String),
    /// A metric is wrong.
    #[error(transparent)]
    Metric(#[from] MetricError),
}

impl Plan {
    /// Two arms, half and half, one day's horizon, 5%.
    pub fn two_arms(metrics: Vec<Metric>) -> Self {
        Self {
            arms: vec!["control".into(), "challenger".into()],
            shares: vec![0.5, 0.5],
            metrics,
            estimator: Estimator::TwoSample,
            horizon_ms: DAY_MS,
            wait_ms: 0,
            alpha: 0.05,
            planned_devices: 5_000.0,
            min_devices: 100,
            min_ms: DAY_MS,
            exact: false,
            max_devices: MAX_DEVICES,
        }
    }

    /// Checks everything that can be known before the start.
    ///
    /// # Errors
    /// [`PlanError`] names the field.
    pub fn check(&self) -> Result<(), PlanError> {
        let (arms, shares) = (self.arms.len(), self.shares.len());
        if arms != shares || !(2..=MAX_ARMS).contains(&arms) {
            return Err(PlanError::Arms { arms, shares });
        }
        let sum: f64 = self.shares.iter().sum();
        if self.shares.iter().any(|s| !(0.0..=1.0).contains(s)) || (sum - 1.0).abs() > 1e-6 {
            return Err(PlanError::Shares(sum));
        }
        metric::check(&self.metrics)?;
        self.check_bounds()?;
        self.check_forms()
    }

    fn check_bounds(&self) -> Result<(), PlanError> {
        let rows = [
            ("alpha", self.alpha, 1e-6, 0.2, "0.000001 to 0.2"),
            (
                "planned_devices",
                self.planned_devices,
                10.0,
                1e9,
                "10 to 1e9",
            ),
            ("min_devices", self.min_devices as f64, 2.0, 1e9, "2 to 1e9"),
            (
                "max_devices",
                self.max_devices as f64,
                2.0,
                MAX_DEVICES as f64,
                "2 to 10,000,000",
            ),
            (
                "horizon_ms",
                self.horizon_ms as f64,
                1.0,
                1e11,
                "1 ms to 3 years",
            ),
            ("wait_ms", self.wait_ms as f64, 0.0, 1e11, "0 to 3 years"),
            ("min_ms", self.min_ms as f64, 0.0, 1e11, "0 to 3 years"),
        ];
        for (field, value, low, high, allowed) in rows {
            if !(low..=high).contains(&value) {
                return Err(PlanError::Bounds {
                    field,
                    value,
                    allowed,
                });
            }
        }
        Ok(())
    }

    fn check_forms(&self) -> Result<(), PlanError> {
        let primary = &self.metrics[self.primary()];
        if self.exact && primary.form != Form::Proportion {
            return Err(PlanError::Exact(primary.name.clone()));
        }
        let ratio = |one: &&Metric| matches!(one.form, Form::Ratio | Form::RootRatio);
        match self.metrics.iter().find(ratio) {
            Some(one) if self.estimator == Estimator::Weighted => {
                Err(PlanError::Ratio(one.name.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Which metric is the primary one; 0 if none is, which [`Plan::check`] refuses.
    pub fn primary(&self) -> usize {
        let primary = |one: &Metric| one.role == Role::Primary;
        self.metrics.iter().position(primary).unwrap_or(0)
    }

    /// The error of one comparison with the control.
    pub fn alpha_each(&self) -> f64 {
        per_comparison(self.alpha, self.arms.len())
    }

    /// The parameters of a metric's sequence: guardrails one-sided, so that all of them in all arms raise a false alarm with probability
    /// `alpha` at most.
    pub fn tuning(&self, metric: usize) -> Tuning {
        let guards = |one: &&Metric| one.role == Role::Guardrail;
        let guardrails = self.metrics.iter().filter(guards).count().max(1) as f64;
        match self.metrics[metric].role {
            Role::Guardrail => {
                Tuning::one_sided(self.alpha_each() / guardrails, self.planned_devices)
            }
            Role::Primary | Role::Secondary => {
                Tuning::two_sided(self.alpha_each(), self.planned_devices)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::Direction;

    fn metric(form: Form) -> Metric {
        Metric {
            name: "error".into(),
            form,
            role: Role::Primary,
            direction: Direction::LowerIsBetter,
            margin: 0.01,
        }
    }

    #[test]
    fn a_plan_that_cannot_be_analysed_names_its_field() {
        let good = Plan::two_arms(vec![metric(Form::Mean)]);
        assert_eq!(good.check(), Ok(()));
        let with = |change: fn(&mut Plan)| {
            let mut plan = good.clone();
            change(&mut plan);
            plan.check().unwrap_err().to_string()
        };
        assert!(with(|p| p.shares = vec![0.5, 0.4]).starts_with("shares: they sum to 0.9"));
        assert!(with(|p| p.arms.truncate(1)).contains("1 names and 2 shares"));
        assert!(with(|p| p.alpha = 0.5).starts_with("alpha: 0.5 is out of bounds"));
        assert!(with(|p| p.alpha = f64::NAN).starts_with("alpha: NaN"));
        assert!(with(|p| p.horizon_ms = 0).starts_with("horizon_ms: 0"));
        assert!(with(|p| p.exact = true).contains("`error` is no proportion"));
        assert!(with(|p| p.metrics.clear()).contains("not 0"));
        let mut moving = Plan::two_arms(vec![metric(Form::Ratio)]);
        moving.estimator = Estimator::Weighted;
        assert!(
            moving
                .check()
                .unwrap_err()
                .to_string()
                .contains("is a ratio")
        );
    }

    #[test]
    fn several_arms_share_the_error() {
        let mut plan = Plan::two_arms(vec![metric(Form::Mean)]);
        plan.arms = vec![
            "a".into(),
            "b".into(),
            "c".into(),
            "d".into(),
            "e".into(),
            "f".into(),
        ];
        plan.shares = vec![1.0 / 6.0; 6];
        assert!((plan.tuning(0).alpha() - 0.01).abs() < 1e-15);
    }
}
