//! A self-calibrating multivariate EWMA control chart: how far has this stream moved from its own normal?
//!
//! ```text
//! fast  += lambda * (x - fast)           exponentially weighted readings (Lowry et al. 1992)
//! base  += weight * (x - base)           the slow normal; weight `baseline` in control, `recovery` in alarm
//! z      = (fast - base) / scale         standardised deviation
//! score  = sqrt(z' R^-1 z)               Hotelling's T, R the shrunk correlation of z
//! ```
//!
//! Scale and correlation are those of `fast - base` itself over the first `calibration` readings, so slow drift and
//! autocorrelation widen the chart by themselves. Over the second half of the calibration each reading is scored by what the ones
//! before it taught; the threshold is `margin` times the largest of these scores. No labels, no training, all of it in the state.
//!
//! Lowry, Woodall, Champ, Rigdon: A Multivariate EWMA Control Chart, Technometrics 34 (1992). Shrinkage towards independence as
//! in Ledoit and Wolf (2004), with a fixed weight. The arithmetic is f64 on an f32 state, in one fixed order.

mod reference;
#[cfg(test)]
mod tests;

use std::ops::Range;

use serde::Deserialize;

use crate::manifest::{MAX_FEATURES, Mistake, check};
use crate::{Layout, Model, Output};

/// Largest score and threshold that are ever told.
pub const MAX_SCORE: f64 = 1e6;

/// Readings are clamped to this size, so that no square of one leaves f32.
const MAX_SIZE: f32 = 1e12;

/// Parameters of the chart, the same for every stream.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Weight of the newest reading in the fast average, 0.001..=1.
    pub lambda: f64,
    /// Weight of the newest reading in the slow normal while in control, below `lambda`.
    pub baseline: f64,
    /// The same while in alarm, at most `baseline`; above 0, so that a lasting change becomes the new normal in the end.
    pub recovery: f64,
    /// Weight of independence in the correlation, 0.01..=1; bounds the condition of R by features / shrinkage.
    pub shrinkage: f64,
    /// The threshold as a multiple of the largest score within the calibration, 1..=10.
    pub margin: f64,
}

impl Config {
    /// Checks the ranges of the parameters.
    pub fn check(&self) -> Result<(), Mistake> {
        check(
            (0.001..=1.0).contains(&self.lambda),
            "lambda",
            "is not in 0.001..=1",
        )?;
        let slower = self.baseline > 0.0 && self.baseline < self.lambda;
        check(slower, "baseline", "is not above 0 and below lambda")?;
        let slowest = self.recovery >= 0.0 && self.recovery <= self.baseline;
        check(slowest, "recovery", "is not in 0..=baseline")?;
        check(
            (0.01..=1.0).contains(&self.shrinkage),
            "shrinkage",
            "is not in 0.01..=1",
        )?;
        check(
            (1.0..=10.0).contains(&self.margin),
            "margin",
            "is not in 1..=10",
        )
    }

    /// Readings before the fast average has forgotten its start.
    fn settling(&self) -> u32 {
        (1.0 / self.lambda).ceil() as u32
    }
}

/// The chart over one endpoint's features; see the module.
pub struct Mewma {
    config: Config,
    features: usize,
    calibration: u32,
    layout: Layout,
    at: Places,
}

/// Where the buffers lie. Everything in sensor units is relative to `origin`, the first known value, which keeps the digits of a
/// small change on a large value.
struct Places {
    known: Range<usize>,
    origin: Range<usize>,
    last: Range<usize>,
    fast: Range<usize>,
    base: Range<usize>,
    scale: Range<usize>,
    second: Range<usize>,
    whiten: Range<usize>,
}

const COUNT: usize = 0;
const PEAK: usize = 1;
const THRESHOLD: usize = 2;

impl Mewma {
    /// A chart over `features` values that learns from its first `calibration` readings: half of them must settle the average
    /// four times over.
    pub fn new(config: &Config, features: usize, calibration: u32) -> Result<Self, Mistake> {
        let shortest = 8 * config.settling();
        check(
            calibration >= shortest,
            "calibration",
            &format!("at lambda {} at least {shortest} are needed", config.lambda),
        )?;
        check(
            (1..=MAX_FEATURES).contains(&features),
            "features",
            &format!("are not 1..={MAX_FEATURES}"),
        )?;
        let triangle = features * (features + 1) / 2;
        let layout = ["known", "origin", "last", "fast", "base", "scale"]
            .into_iter()
            .fold(
                Layout::new("mewma-1")
                    .with("count", 1)
                    .with("peak", 1)
                    .with("threshold", 1),
                |layout, name| layout.with(name, features),
            )
            .with("second", triangle)
            .with("whiten", triangle);
        let place = |name| layout.range(name).expect("named just above");
        let at = Places {
            known: place("known"),
            origin: place("origin"),
            last: place("last"),
            fast: place("fast"),
            base: place("base"),
            scale: place("scale"),
            second: place("second"),
            whiten: place("whiten"),
        };
        Ok(Self {
            config: config.clone(),
            features,
            calibration,
            layout,
            at,
        })
    }

    /// Relative values of this reading into `last`: a missing one keeps the last known, one never known stays at the origin.
    fn take(&self, state: &mut [f32], values: &[f32]) {
        for (j, value) in values
            .iter()
            .enumerate()
            .filter(|(_, value)| value.is_finite())
        {
            let value = value.clamp(-MAX_SIZE, MAX_SIZE);
            if state[self.at.known.start + j] == 0.0 {
                state[self.at.known.start + j] = 1.0;
                state[self.at.origin.start + j] = value;
            }
            state[self.at.last.start + j] = value - state[self.at.origin.start + j];
        }
    }

    /// Moves the average in `place` towards the values taken.
    fn follow(&self, state: &mut [f32], place: &Range<usize>, weight: f64) {
        for j in 0..self.features {
            let (x, average) = (
                f64::from(state[self.at.last.start + j]),
                &mut state[place.start + j],
            );
            *average = (f64::from(*average) + weight * (x - f64::from(*average))) as f32;
        }
    }

    /// Learns from one reading of the calibration; `seen` counts it.
    fn calibrate(&self, state: &mut [f32], seen: u32) {
        let slow = self.config.baseline.max(1.0 / f64::from(seen));
        self.follow(state, &self.at.fast, self.config.lambda);
        self.follow(state, &self.at.base, slow);
        if seen > self.calibration / 2 {
            self.factorise(state);
            state[PEAK] = state[PEAK].max(self.distance(state) as f32);
        }
        if seen > self.config.settling() {
            self.spread(state, 1.0 / f64::from(seen - self.config.settling()));
        }
        if seen == self.calibration {
            self.factorise(state);
            // At least the distance a normal reading has on average: a stream that never moved has no peak.
            let usual = (self.features as f64).sqrt().max(f64::from(state[PEAK]));
            state[THRESHOLD] = (self.config.margin * usual).min(MAX_SCORE) as f32;
        }
    }

    /// Takes `fast - base` into its mean second moments.
    fn spread(&self, state: &mut [f32], weight: f64) {
        let mut place = self.at.second.start;
        for i in 0..self.features {
            let a = self.deviation(state, i);
            for j in 0..=i {
                let moment = f64::from(state[place]);
                state[place] = (moment + weight * (a * self.deviation(state, j) - moment)) as f32;
                place += 1;
            }
        }
    }

    fn deviation(&self, state: &[f32], j: usize) -> f64 {
        f64::from(state[self.at.fast.start + j]) - f64::from(state[self.at.base.start + j])
    }

    /// The scale of a sensor, from its second moment. One that did not move beyond the digits of f32 has no scale of its own:
    /// it gets a hundredth of its size, so that a later change counts without being infinite.
    fn scale(&self, state: &[f32], j: usize) -> f64 {
        let own = f64::from(state[self.at.second.start + triangle(j, j)])
            .max(0.0)
            .sqrt();
        let size = (f64::from(state[self.at.origin.start + j])
            + f64::from(state[self.at.base.start + j]))
        .abs();
        if own > 1e-6 * size + 1e-9 {
            own
        } else {
            0.01 * size + 1e-3
        }
    }

    /// `scale` and `whiten` from `second`: whiten is the inverse of the lower Cholesky factor of R, stored by columns.
    fn factorise(&self, state: &mut [f32]) {
        let n = self.features;
        for j in 0..n {
            state[self.at.scale.start + j] = self.scale(state, j) as f32;
        }
        let correlation = |i: usize, j: usize| {
            let scales = f64::from(state[self.at.scale.start + i])
                * f64::from(state[self.at.scale.start + j]);
            let raw =
                (f64::from(state[self.at.second.start + triangle(i, j)]) / scales).clamp(-1.0, 1.0);
            if i == j {
                1.0
            } else {
                (1.0 - self.config.shrinkage) * raw
            }
        };
        let mut factor = [0.0; MAX_TRIANGLE];
        cholesky(n, correlation, &mut factor);
        let mut column = [0.0; MAX_FEATURES];
        let mut place = self.at.whiten.start;
        for j in 0..n {
            invert_column(n, j, &factor, &mut column);
            for value in &column[j..n] {
                state[place] = *value as f32;
                place += 1;
            }
        }
    }

    /// Hotelling's T of `fast - base`, capped; the product runs column by column, so it vectorises across rows.
    fn distance(&self, state: &[f32]) -> f64 {
        let n = self.features;
        let mut y = [0.0_f64; MAX_FEATURES];
        let mut columns = &state[self.at.whiten.clone()];
        for j in 0..n {
            let z = self.deviation(state, j) / f64::from(state[self.at.scale.start + j]);
            let (column, rest) = columns.split_at(n - j);
            for (y, w) in y[j..n].iter_mut().zip(column) {
                *y += f64::from(*w) * z;
            }
            columns = rest;
        }
        let mut square = 0.0;
        for value in &y[..n] {
            square += value * value;
        }
        square.sqrt().min(MAX_SCORE)
    }

    fn judge(&self, state: &mut [f32]) -> Output {
        self.follow(state, &self.at.fast, self.config.lambda);
        let (score, threshold) = (self.distance(state) as f32, state[THRESHOLD]);
        let anomaly = score > threshold;
        self.follow(
            state,
            &self.at.base,
            if anomaly {
                self.config.recovery
            } else {
                self.config.baseline
            },
        );
        Output::Anomaly {
            score,
            threshold,
            anomaly,
        }
    }

    fn expect_lengths(&self, state: &[f32], values: &[f32]) {
        assert_eq!(
            state.len(),
            self.layout.len(),
            "mewma: the state has another layout"
        );
        assert_eq!(
            values.len(),
            self.features,
            "mewma: the reading has another number of values"
        );
    }
}

impl Model for Mewma {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn init(&self, state: &mut [f32]) {
        state.fill(0.0);
    }

    /// The fast average and the last known values return to the slow normal; what was learned stays.
    fn forget(&self, state: &mut [f32]) {
        state.copy_within(self.at.base.clone(), self.at.fast.start);
        state.copy_within(self.at.base.clone(), self.at.last.start);
    }

    fn step(&self, state: &mut [f32], values: &[f32]) -> Output {
        self.expect_lengths(state, values);
        self.take(state, values);
        let seen = state[COUNT] as u32;
        if seen >= self.calibration {
            return self.judge(state);
        }
        state[COUNT] = (seen + 1) as f32;
        self.calibrate(state, seen + 1);
        Output::Calibrating {
            seen: seen + 1,
            needed: self.calibration,
        }
    }

    fn reference(&self, state: &mut [f32], values: &[f32]) -> candle_core::Result<Output> {
        self.expect_lengths(state, values);
        self.step_on_candle(state, values)
    }
}

const MAX_TRIANGLE: usize = MAX_FEATURES * (MAX_FEATURES + 1) / 2;

/// Where row `i`, column `j` (either order) lies in a lower triangle stored by rows.
fn triangle(i: usize, j: usize) -> usize {
    let (row, column) = (i.max(j), i.min(j));
    row * (row + 1) / 2 + column
}

/// The lower factor of a positive definite matrix, by rows. Shrinkage keeps every pivot above 0; the floor covers rounding.
fn cholesky(n: usize, matrix: impl Fn(usize, usize) -> f64, factor: &mut [f64; MAX_TRIANGLE]) {
    for i in 0..n {
        for j in 0..=i {
            let mut rest = matrix(i, j);
            for k in 0..j {
                rest -= factor[triangle(i, k)] * factor[triangle(j, k)];
            }
            factor[triangle(i, j)] = if i == j {
                rest.max(1e-6).sqrt()
            } else {
                rest / factor[triangle(j, j)]
            };
        }
    }
}

/// Column `j` of the inverse of a lower factor, by forward substitution; entries above `j` are not written.
fn invert_column(
    n: usize,
    j: usize,
    factor: &[f64; MAX_TRIANGLE],
    column: &mut [f64; MAX_FEATURES],
) {
    column[j] = 1.0 / factor[triangle(j, j)];
    for i in j + 1..n {
        let mut rest = 0.0;
        for k in j..i {
            rest -= factor[triangle(i, k)] * column[k];
        }
        column[i] = rest / factor[triangle(i, i)];
    }
}
