//! What a stream's state holds and how a reading changes it, network aside.
//!
//! All values are kept relative to the feature's first one (`origin`), so that f32 holds a thermometer's hundredths as
//! well as a vibration's. Mean and squares follow Welford's recurrence; from the 32nd reading on, what enters it is
//! held within six sigmas, so that a spike in the calibration does not blind the detector.

use super::{Config, FEATURES};
use crate::{Layout, Output};

/// Readings of a feature before its spikes are held back.
const SETTLED: f32 = 32.0;
const SPIKE_SIGMAS: f32 = 6.0;
/// Under an alarm the mean follows this many times more slowly.
const ALARM_SLOWDOWN: f32 = 10.0;
/// The scores of a calibration are taken to spread by at least this share of their mean.
const LEAST_SPREAD: f32 = 0.2;
/// Magnitude at which a value is cut, so that squares stay finite.
const LARGEST: f32 = 1e12;

/// Buffers of the state, in order; `window` comes last.
pub(super) fn layout(config: &Config) -> Layout {
    Layout::new("autoencoder-1")
        .with("count", 1)
        .with("filled", 1)
        .with("head", 1)
        .with("score_count", 1)
        .with("score_mean", 1)
        .with("score_squares", 1)
        .with("threshold", 1)
        .with("seen", FEATURES)
        .with("origin", FEATURES)
        .with("mean", FEATURES)
        .with("squares", FEATURES)
        .with("last", FEATURES)
        .with("residual", FEATURES)
        .with("window", config.window * FEATURES)
}

const SCALARS: usize = 7;

/// A state seen by name; the order is that of [`layout`].
pub(super) struct State<'s> {
    scalars: &'s mut [f32; SCALARS],
    seen: &'s mut [f32; FEATURES],
    origin: &'s mut [f32; FEATURES],
    mean: &'s mut [f32; FEATURES],
    squares: &'s mut [f32; FEATURES],
    last: &'s mut [f32; FEATURES],
    residual: &'s mut [f32; FEATURES],
    window: &'s mut [f32],
}

const COUNT: usize = 0;
const FILLED: usize = 1;
const HEAD: usize = 2;
const SCORE_COUNT: usize = 3;
const SCORE_MEAN: usize = 4;
const SCORE_SQUARES: usize = 5;
const THRESHOLD: usize = 6;

fn cut<'s, const N: usize>(state: &mut &'s mut [f32]) -> &'s mut [f32; N] {
    state
        .split_off_mut(..N)
        .and_then(|part| part.try_into().ok())
        .expect("the state has the length of its layout")
}

impl<'s> State<'s> {
    pub(super) fn of(mut state: &'s mut [f32], config: &Config) -> Self {
        let state = &mut state;
        let view = Self {
            scalars: cut(state),
            seen: cut(state),
            origin: cut(state),
            mean: cut(state),
            squares: cut(state),
            last: cut(state),
            residual: cut(state),
            window: std::mem::take(state),
        };
        assert_eq!(
            view.window.len(),
            config.window * FEATURES,
            "the state has the length of its layout"
        );
        view
    }

    /// Forgets window and smoothed residual, keeps what the calibration learned.
    pub(super) fn forget(&mut self) {
        self.scalars[FILLED] = 0.0;
        self.scalars[HEAD] = 0.0;
        self.residual.fill(0.0);
    }

    /// Puts a reading into the window and, while calibrating, into mean and squares.
    pub(super) fn take(&mut self, values: &[f32; FEATURES], calibration: u32) {
        let calibrating = self.scalars[COUNT] < calibration as f32;
        self.scalars[COUNT] += f32::from(calibrating);
        for (j, value) in values.iter().enumerate().filter(|(_, v)| v.is_finite()) {
            let value = value.clamp(-LARGEST, LARGEST);
            if self.seen[j] == 0.0 && calibrating {
                self.origin[j] = value;
            }
            self.last[j] = value - self.origin[j];
            if calibrating {
                self.learn(j);
            }
        }
        let readings = self.window.len() / FEATURES;
        let head = self.scalars[HEAD] as usize % readings;
        self.window[head * FEATURES..][..FEATURES].copy_from_slice(self.last);
        self.scalars[HEAD] = ((head + 1) % readings) as f32;
        self.scalars[FILLED] = (self.scalars[FILLED] + 1.0).min(readings as f32);
    }

    fn learn(&mut self, j: usize) {
        self.seen[j] += 1.0;
        let mut delta = self.last[j] - self.mean[j];
        let variance = self.squares[j] / self.seen[j];
        if self.seen[j] > SETTLED && variance > 0.0 {
            let most = SPIKE_SIGMAS * variance.sqrt();
            delta = delta.clamp(-most, most);
        }
        let rest = delta - delta / self.seen[j];
        self.mean[j] += delta / self.seen[j];
        self.squares[j] = delta.mul_add(rest, self.squares[j]);
    }

    /// One over the scale of each feature; 0, which silences it, for one hardly ever seen in the calibration.
    fn inverse_scale(&self) -> [f32; FEATURES] {
        std::array::from_fn(|j| {
            let level = (self.origin[j] + self.mean[j]).abs();
            let least = (1e-4 * level).max(1e-6);
            let scale = (self.squares[j] / self.seen[j].max(1.0)).sqrt().max(least);
            let known = 2.0 * self.seen[j] >= self.scalars[COUNT];
            if known { 1.0 / scale } else { 0.0 }
        })
    }

    /// The window in sigmas, oldest reading first, clipped. A window not yet full is filled up in front with the mean
    /// of what it has, so that the first readings after a silence weigh no more than later ones.
    pub(super) fn standardised_window(&self, out: &mut [f32], clip: f32) {
        let (filled, head) = (self.scalars[FILLED] as usize, self.scalars[HEAD] as usize);
        let readings = self.window.len() / FEATURES;
        let inverse = self.inverse_scale();
        let (front, back) = out.split_at_mut((readings - filled) * FEATURES);
        for (age, z) in back.chunks_exact_mut(FEATURES).enumerate() {
            let slot = (head + readings - filled + age) % readings;
            let reading = &self.window[slot * FEATURES..][..FEATURES];
            for j in 0..FEATURES {
                z[j] = ((reading[j] - self.mean[j]) * inverse[j]).clamp(-clip, clip);
            }
        }
        if !front.is_empty() {
            let mean = super::kernel::mean_of(back);
            front
                .chunks_exact_mut(FEATURES)
                .for_each(|z| z.copy_from_slice(&mean));
        }
    }

    /// Smooths the residual and gives its size: the root mean square over the features, each in units of `scale`.
    /// A window not yet full counts by its filled share.
    pub(super) fn score(
        &mut self,
        residual: &[f32; FEATURES],
        scale: &[f32; FEATURES],
        smoothing: f32,
    ) -> f32 {
        let share = self.scalars[FILLED] / (self.window.len() / FEATURES) as f32;
        let weight = smoothing * share;
        let mut sum = 0.0f32;
        for j in 0..FEATURES {
            self.residual[j] = weight.mul_add(residual[j] - self.residual[j], self.residual[j]);
            let sigmas = self.residual[j] / scale[j];
            sum = sigmas.mul_add(sigmas, sum);
        }
        (sum / FEATURES as f32).sqrt().min(1e6)
    }

    /// Learns from the score while calibrating; afterwards judges it and lets the mean follow the stream.
    pub(super) fn judge(
        &mut self,
        score: f32,
        values: &[f32; FEATURES],
        calibration: u32,
        config: &Config,
    ) -> Output {
        let count = self.scalars[COUNT];
        if self.scalars[THRESHOLD] == 0.0 {
            if 2.0 * count > calibration as f32 {
                self.learn_score(score);
            }
            if count >= calibration as f32 {
                self.scalars[THRESHOLD] = self.threshold(config.threshold_sigmas);
            }
            return Output::Calibrating {
                seen: count as u32,
                needed: calibration,
            };
        }
        let threshold = self.scalars[THRESHOLD];
        let anomaly = score > threshold;
        let slowdown = if anomaly { ALARM_SLOWDOWN } else { 1.0 };
        self.follow(values, 1.0 / (config.follow * slowdown));
        Output::Anomaly {
            score,
            threshold,
            anomaly,
        }
    }

    fn learn_score(&mut self, score: f32) {
        self.scalars[SCORE_COUNT] += 1.0;
        let delta = score - self.scalars[SCORE_MEAN];
        self.scalars[SCORE_MEAN] += delta / self.scalars[SCORE_COUNT];
        let rest = score - self.scalars[SCORE_MEAN];
        self.scalars[SCORE_SQUARES] = delta.mul_add(rest, self.scalars[SCORE_SQUARES]);
    }

    fn threshold(&self, sigmas: f32) -> f32 {
        let mean = self.scalars[SCORE_MEAN];
        let spread = (self.scalars[SCORE_SQUARES] / self.scalars[SCORE_COUNT].max(1.0)).sqrt();
        sigmas
            .mul_add(spread.max(LEAST_SPREAD * mean), mean)
            .max(0.1)
    }

    /// The mean moves towards the reading by `rate`, at most three sigmas of it.
    fn follow(&mut self, values: &[f32; FEATURES], rate: f32) {
        let inverse = self.inverse_scale();
        for j in 0..FEATURES {
            if values[j].is_finite() && inverse[j] > 0.0 {
                let most = 3.0 / inverse[j];
                let delta = (self.last[j] - self.mean[j]).clamp(-most, most);
                self.mean[j] = rate.mul_add(delta, self.mean[j]);
            }
        }
    }
}
