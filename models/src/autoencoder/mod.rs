//! A neural autoencoder over a short window: how far is the stream from anything a healthy rig can look like?
//!
//! Readings are standardised with the stream's own mean and scale, learned in its calibration. The last `window` of
//! them pass through a bottleneck trained on simulated healthy rigs; what the reconstruction leaves over, averaged over
//! the window, smoothed and divided by what healthy rigs leave over, gives the score (root mean square over the
//! features, in sigmas). The threshold comes from the second half of the calibration, without labels. Afterwards the
//! mean follows the stream slowly, and ten times more slowly under an alarm, so that a season is no fault.
//!
//! A missing value (NaN or infinite) holds the feature's last one. Everything learned is state (`state`); the row step
//! is `kernel`, the candle graph `network`. No training here: that is `examples/train_autoencoder.rs`.

mod kernel;
mod network;
mod state;

pub use network::{LAYERS, Network, RESIDUAL_SCALE};

use serde::Deserialize;

use crate::load::LoadError;
use crate::manifest::{Mistake, check};
use crate::{Layout, Model, Output};
use kernel::Kernel;
use network::{Weights, refuse};
use state::State;

/// Values in a reading; the artifact is trained on the eight sensors of a pump rig.
pub const FEATURES: usize = 8;
/// Most readings in a window; bounds the scratch of a step.
pub const MAX_WINDOW: usize = 32;
/// Most hidden units.
pub const MAX_HIDDEN: usize = 128;
/// Most units in the bottleneck.
pub const MAX_BOTTLENECK: usize = 32;

/// Parameters of the detector.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Readings in the window.
    pub window: usize,
    /// Units of the two hidden layers.
    pub hidden: usize,
    /// Units of the bottleneck.
    pub bottleneck: usize,
    /// Standardised values are clipped to plus or minus this many sigmas.
    pub clip: f32,
    /// Weight of the newest window in the smoothed residual.
    pub smoothing: f32,
    /// The threshold lies this many standard deviations above the mean score of the calibration.
    pub threshold_sigmas: f32,
    /// Readings over which the stream's mean follows it after the calibration.
    pub follow: f32,
}

impl Config {
    /// Checks the ranges of the parameters.
    pub fn check(&self) -> Result<(), Mistake> {
        let within = |value: usize, max: usize, field: &str| {
            check(
                (1..=max).contains(&value),
                field,
                &format!("is not in 1..={max}"),
            )
        };
        within(self.window, MAX_WINDOW, "window")?;
        within(self.hidden, MAX_HIDDEN, "hidden")?;
        within(self.bottleneck, MAX_BOTTLENECK, "bottleneck")?;
        check(
            (1.0..=100.0).contains(&self.clip),
            "clip",
            "is not in 1..=100",
        )?;
        check(
            self.smoothing > 0.0 && self.smoothing <= 1.0,
            "smoothing",
            "is not above 0 and at most 1",
        )?;
        check(
            (0.0..=100.0).contains(&self.threshold_sigmas),
            "threshold_sigmas",
            "is not in 0..=100",
        )?;
        check(
            (1.0..=1e6).contains(&self.follow),
            "follow",
            "is not in 1..=1000000",
        )
    }
}

/// The detector with its weights.
pub struct Autoencoder {
    config: Config,
    calibration: u32,
    layout: Layout,
    kernel: Kernel,
    weights: Weights,
}

impl Autoencoder {
    /// Reads `weights` (safetensors; `file` names it in errors) and checks every shape against `config`.
    pub fn new(
        config: &Config,
        features: usize,
        calibration: u32,
        weights: Option<&[u8]>,
        file: &str,
    ) -> Result<Self, LoadError> {
        if features != FEATURES {
            let reason = format!("expected an endpoint of {FEATURES} features, got {features}");
            return Err(refuse(file, "file", &reason));
        }
        let bytes = weights.ok_or_else(|| refuse(file, "file", "is missing"))?;
        let weights = Weights::read(config, bytes, file)?;
        Ok(Self {
            config: config.clone(),
            calibration,
            layout: state::layout(config),
            kernel: Kernel::new(&weights),
            weights,
        })
    }

    /// The one way of a reading; only the network's arithmetic differs between step and reference.
    #[inline]
    fn fold<E>(
        &self,
        state: &mut [f32],
        values: &[f32],
        residual_of: impl FnOnce(&[f32]) -> Result<[f32; FEATURES], E>,
    ) -> Result<Output, E> {
        let values = values.try_into().expect("a reading has eight values");
        let mut state = State::of(state, &self.config);
        state.take(values, self.calibration);
        let mut window = [0.0; MAX_WINDOW * FEATURES];
        let window = &mut window[..self.config.window * FEATURES];
        state.standardised_window(window, self.config.clip);
        let residual = residual_of(window)?;
        let score = state.score(
            &residual,
            &self.weights.residual_scale,
            self.config.smoothing,
        );
        Ok(state.judge(score, values, self.calibration, &self.config))
    }
}

impl Model for Autoencoder {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn init(&self, state: &mut [f32]) {
        state.fill(0.0);
    }

    fn forget(&self, state: &mut [f32]) {
        State::of(state, &self.config).forget();
    }

    fn step(&self, state: &mut [f32], values: &[f32]) -> Output {
        let residual = |window: &[f32]| Ok(self.kernel.residual(window));
        self.fold::<std::convert::Infallible>(state, values, residual)
            .unwrap_or_else(|never| match never {})
    }

    fn reference(&self, state: &mut [f32], values: &[f32]) -> candle_core::Result<Output> {
        self.fold(state, values, |window| {
            self.weights.network.residual(window)
        })
    }
}

#[cfg(test)]
mod tests;
