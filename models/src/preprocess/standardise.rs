//! `(x - mean) / scale`, a column at a time: with fixed numbers, or with the stream's own, learned in its calibration.
//!
//! Learning follows Welford's recurrence on values relative to the column's first one, so that f32 holds a thermometer's hundredths;
//! from the 32nd value on, what enters is held within six standard deviations, so that one spike does not blind the stream. Columns
//! present in less than half of the calibration give 0. After the calibration nothing changes any more.

use super::Moment;
use super::map::Map;
use crate::numerics::dispatch;

/// Fixed numbers.
pub(super) struct Fixed {
    pub mean: Vec<f64>,
    pub scale: Vec<f64>,
}

impl Map for Fixed {
    fn outputs(&self) -> usize {
        self.mean.len()
    }

    fn apply(&self, _: &mut [f32], _: &[f32], row: &[f32], output: &mut [f32], _: Moment) {
        dispatch(
            #[inline(always)]
            || {
                let numbers = self.mean.iter().zip(&self.scale);
                for ((output, x), (mean, scale)) in output.iter_mut().zip(row).zip(numbers) {
                    // In f64, as Python does: a large mean takes no digits.
                    *output = ((f64::from(*x) - mean) / scale) as f32;
                }
            },
        );
    }

    fn restore(&self, _: &[f32], column: usize, value: f32, _: Moment) -> (usize, f32) {
        let value = f64::from(value) * self.scale[column] + self.mean[column];
        (column, value as f32)
    }
}

/// Values of a column before its spikes are held back, and how far.
const SETTLED: f32 = 32.0;
const SPIKE_SIGMAS: f32 = 6.0;

/// The stream's own numbers; one buffer of each a column.
pub(super) struct Calibrated {
    /// The feature of each column.
    pub columns: Vec<usize>,
}

struct State<'s> {
    seen: &'s mut [f32],
    origin: &'s mut [f32],
    mean: &'s mut [f32],
    squares: &'s mut [f32],
}

impl Calibrated {
    fn view<'s>(&self, state: &'s mut [f32]) -> State<'s> {
        let width = self.columns.len();
        let (seen, rest) = state.split_at_mut(width);
        let (origin, rest) = rest.split_at_mut(width);
        let (mean, squares) = rest.split_at_mut(width);
        State {
            seen,
            origin,
            mean,
            squares,
        }
    }

    /// Level, scale (0: not known) of a column.
    fn numbers(&self, state: &[f32], j: usize, now: Moment) -> (f32, f32) {
        let width = self.columns.len();
        let (seen, origin) = (state[j], state[width + j]);
        let (mean, squares) = (state[2 * width + j], state[3 * width + j]);
        if 2.0 * seen < now.seen as f32 || seen == 0.0 {
            return (origin + mean, 0.0);
        }
        let least = (1e-4 * (origin + mean).abs()).max(1e-6);
        (origin + mean, (squares / seen).sqrt().max(least))
    }
}

impl State<'_> {
    fn learn(&mut self, j: usize, value: f32) {
        if self.seen[j] == 0.0 {
            self.origin[j] = value;
        }
        self.seen[j] += 1.0;
        let mut delta = value - self.origin[j] - self.mean[j];
        let variance = self.squares[j] / self.seen[j];
        if self.seen[j] > SETTLED && variance > 0.0 {
            let most = SPIKE_SIGMAS * variance.sqrt();
            delta = delta.clamp(-most, most);
        }
        let step = delta / self.seen[j];
        self.mean[j] += step;
        self.squares[j] = delta.mul_add(delta - step, self.squares[j]);
    }
}

impl Map for Calibrated {
    fn outputs(&self) -> usize {
        self.columns.len()
    }

    fn buffers(&self) -> Vec<(&'static str, usize)> {
        ["seen", "origin", "mean", "squares"]
            .map(|name| (name, self.columns.len()))
            .to_vec()
    }

    fn learns(&self) -> bool {
        true
    }

    fn apply(
        &self,
        state: &mut [f32],
        present: &[f32],
        row: &[f32],
        output: &mut [f32],
        now: Moment,
    ) {
        if now.learning {
            let mut view = self.view(state);
            for (j, feature) in self.columns.iter().enumerate() {
                if present[*feature] != 0.0 && row[j].is_finite() {
                    view.learn(j, row[j]);
                }
            }
        }
        let width = self.columns.len();
        for (j, (output, x)) in output.iter_mut().zip(row).enumerate() {
            let (_, scale) = self.numbers(state, j, now);
            let (origin, mean) = (state[width + j], state[2 * width + j]);
            *output = if scale > 0.0 {
                (x - origin - mean) / scale
            } else {
                0.0
            };
        }
    }

    fn restore(&self, state: &[f32], column: usize, value: f32, now: Moment) -> (usize, f32) {
        let (level, scale) = self.numbers(state, column, now);
        (column, value.mul_add(scale, level))
    }
}
