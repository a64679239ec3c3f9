//! The score above which a reading is an anomaly: given, or a quantile of the stream's own scores.
//!
//! The quantile is exact: the largest scores of the second half of the calibration are kept in the state, as many as it takes to
//! know the one asked for. State: `[threshold][largest scores, falling]`.

use super::config::{LearnedConfig, ThresholdConfig};
use crate::manifest::{Mistake, check};
use crate::preprocess::Moment;

/// Most scores kept.
const MAX_KEPT: usize = 2048;

#[derive(Debug, Clone, Copy)]
pub(super) enum Threshold {
    Fixed(f32),
    Learned {
        config: LearnedConfig,
        calibration: u32,
        kept: usize,
    },
}

impl Threshold {
    pub(super) fn fit(config: ThresholdConfig, calibration: u32) -> Result<Self, Mistake> {
        let config = match config {
            ThresholdConfig::Fixed(value) => return Ok(Self::Fixed(value)),
            ThresholdConfig::Learned(config) => config,
        };
        let scores = calibration - calibration / 2;
        // A share so small that no whole score is above it: then the largest is the threshold.
        let above = ((1.0 - config.quantile) * f64::from(scores) + 1e-6).floor() as usize;
        let kept = above + 1;
        check(
            kept <= MAX_KEPT,
            "threshold.quantile",
            &format!(
                "needs the {kept} largest of {scores} scores kept, at most {MAX_KEPT}: raise it, or shorten the calibration"
            ),
        )?;
        Ok(Self::Learned {
            config,
            calibration,
            kept,
        })
    }

    pub(super) fn state_len(&self) -> usize {
        match self {
            Self::Fixed(_) => 0,
            Self::Learned { kept, .. } => 1 + kept,
        }
    }

    pub(super) fn init(&self, state: &mut [f32]) {
        state.fill(f32::MIN);
    }

    pub(super) fn learns(&self) -> bool {
        matches!(self, Self::Learned { .. })
    }

    /// A reading of the calibration and its score (`state` may go on behind the threshold's own); without one it teaches nothing.
    pub(super) fn learn(&self, state: &mut [f32], score: Option<f32>, now: Moment) {
        let Self::Learned {
            config,
            calibration,
            kept,
        } = self
        else {
            return;
        };
        if now.seen <= calibration / 2 {
            return;
        }
        let (threshold, largest) = state[..1 + kept].split_at_mut(1);
        if let Some(score) = score {
            let place = largest.partition_point(|kept| *kept >= score);
            if place < largest.len() {
                largest[place..].rotate_right(1);
                largest[place] = score;
            }
        }
        if now.seen == *calibration {
            // Fewer scores than places: the least there is.
            let scores = largest.iter().rev().find(|kept| **kept > f32::MIN);
            let quantile = scores.copied().unwrap_or(f32::MAX);
            let raised = (config.margin - 1.0).mul_add(quantile.abs(), quantile);
            let least = config.least.unwrap_or(f32::MIN);
            threshold[0] = raised.clamp(least, f32::MAX);
        }
    }

    pub(super) fn value(&self, state: &[f32]) -> f32 {
        match self {
            Self::Fixed(value) => *value,
            Self::Learned { .. } => state[0],
        }
    }
}
