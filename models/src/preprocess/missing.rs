//! Missing values: NaN or infinite ones of a reading become numbers, or the reading cannot be answered.

use serde::Deserialize;

use super::LARGEST;
use super::stage::{MissingConfig, check_numbers};
use crate::manifest::{Feature, Mistake, check};

/// What stands for a missing value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// The feature's last known value; before the first, `values` or 0.
    Hold,
    /// A fixed value a feature: `values`.
    Mean,
    /// Nothing: the reading is answered with the reason.
    Refuse,
    /// NaN, for networks that have a way for it (trees).
    Keep,
}

pub(super) struct Missing {
    policy: Policy,
    /// One a feature.
    values: Vec<f32>,
}

impl Missing {
    pub(super) fn new(config: &MissingConfig, features: &[Feature]) -> Result<Self, Mistake> {
        let uses_values = matches!(config.policy, Policy::Hold | Policy::Mean);
        let values = match &config.values {
            Some(values) => {
                check(uses_values, "values", "are of no use to this policy")?;
                check_numbers("values", values, features.len())?;
                values.iter().map(|value| *value as f32).collect()
            }
            None => {
                let reason = "is missing: policy \"mean\" needs one value a feature";
                check(config.policy != Policy::Mean, "values", reason)?;
                vec![0.0; features.len()]
            }
        };
        Ok(Self {
            policy: config.policy,
            values,
        })
    }

    /// Without such a stage.
    pub(super) fn hold(features: usize) -> Self {
        Self {
            policy: Policy::Hold,
            values: vec![0.0; features],
        }
    }

    pub(super) fn state_len(&self) -> usize {
        match self.policy {
            Policy::Hold => self.values.len(),
            Policy::Mean | Policy::Refuse | Policy::Keep => 0,
        }
    }

    pub(super) fn init(&self, last: &mut [f32]) {
        if self.policy == Policy::Hold {
            last.copy_from_slice(&self.values);
        }
    }

    pub(super) fn refuses(&self, values: &[f32]) -> Option<usize> {
        match self.policy {
            Policy::Refuse => values.iter().position(|value| !value.is_finite()),
            Policy::Hold | Policy::Mean | Policy::Keep => None,
        }
    }

    /// `state` opens with the last known values.
    pub(super) fn apply(&self, state: &mut [f32], values: &[f32], output: &mut [f32]) {
        let known = |value: f32| value.clamp(-LARGEST, LARGEST);
        let or = |value: f32, other: f32| {
            if value.is_finite() {
                known(value)
            } else {
                other
            }
        };
        let rows = values.iter().zip(output);
        // The choice is made once, so that each loop is one without branches.
        match self.policy {
            Policy::Hold => {
                for ((value, output), last) in rows.zip(state) {
                    *last = or(*value, *last);
                    *output = *last;
                }
            }
            Policy::Mean => {
                for ((value, output), mean) in rows.zip(&self.values) {
                    *output = or(*value, *mean);
                }
            }
            // One fixed NaN: the bits of a state must not depend on where it came from.
            Policy::Keep | Policy::Refuse => {
                rows.for_each(|(value, output)| *output = or(*value, f32::NAN));
            }
        }
    }
}
