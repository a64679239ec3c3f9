//! Heads of anomaly endpoints: an output is the score, or what the network got wrong is.

use super::config::{Against, ResidualConfig, ScoreConfig};
use super::threshold::Threshold;
use super::{Answer, Place, Seen, failed, feature, port};
use crate::Output;
use crate::manifest::{Mistake, check};

/// Largest size of a score that is told.
const MAX_SCORE: f32 = 1e6;

/// The threshold and the running mean of scores. State: the threshold's, then `[known][mean]`.
struct Judge {
    threshold: Threshold,
    smoothing: f32,
}

impl Judge {
    fn buffers(&self) -> Vec<(&'static str, usize)> {
        vec![("threshold", self.threshold.state_len()), ("smooth", 2)]
    }

    fn init(&self, state: &mut [f32]) {
        state.fill(0.0);
        self.threshold
            .init(&mut state[..self.threshold.state_len()]);
    }

    fn forget(&self, state: &mut [f32]) {
        state[self.threshold.state_len()..].fill(0.0);
    }

    fn smooth(&self, state: &mut [f32], score: f32) -> f32 {
        let [known, mean] = &mut state[self.threshold.state_len()..][..2] else {
            unreachable!("two floats behind the threshold");
        };
        let score = score.clamp(-MAX_SCORE, MAX_SCORE);
        *mean = if *known == 0.0 {
            score
        } else {
            self.smoothing.mul_add(score - *mean, *mean)
        };
        *known = 1.0;
        *mean
    }

    /// A reading of the calibration; a score that is not finite teaches nothing.
    fn learn(&self, state: &mut [f32], score: Option<f32>, seen: &Seen<'_>) {
        let score = score.filter(|score| score.is_finite());
        let score = score.map(|score| self.smooth(state, score));
        self.threshold.learn(state, score, seen.now);
    }

    fn answer(&self, state: &mut [f32], score: f32) -> Output {
        if !score.is_finite() {
            return failed("the score is not finite");
        }
        let score = self.smooth(state, score);
        let threshold = self.threshold.value(state);
        Output::Anomaly {
            score,
            threshold,
            anomaly: score > threshold,
        }
    }
}

/// `sign * output[at] + offset`.
pub(super) struct Score {
    at: usize,
    sign: f32,
    offset: f32,
    judge: Judge,
}

impl Score {
    pub(super) fn fit(config: &ScoreConfig, place: &Place<'_>) -> Result<Self, Mistake> {
        let port = port(place, config.output.as_deref())?;
        let len = port.range.len();
        check(
            config.index < len,
            "index",
            &format!(
                "{} is not in the {len} values of \"{}\"",
                config.index, port.name
            ),
        )?;
        Ok(Self {
            at: port.range.start + config.index,
            sign: config.sign,
            offset: config.offset,
            judge: Judge {
                threshold: Threshold::fit(config.threshold, place.calibration)?,
                smoothing: config.smoothing,
            },
        })
    }

    fn score(&self, seen: &Seen<'_>) -> f32 {
        self.sign.mul_add(seen.output[self.at], self.offset)
    }
}

impl Answer for Score {
    fn buffers(&self) -> Vec<(&'static str, usize)> {
        self.judge.buffers()
    }

    fn init(&self, state: &mut [f32]) {
        self.judge.init(state);
    }

    fn forget(&self, state: &mut [f32]) {
        self.judge.forget(state);
    }

    fn learns(&self) -> bool {
        self.judge.threshold.learns()
    }

    fn learn(&self, state: &mut [f32], seen: &Seen<'_>) {
        self.judge.learn(state, Some(self.score(seen)), seen);
    }

    fn answer(&self, state: &mut [f32], seen: &Seen<'_>) -> Output {
        self.judge.answer(state, self.score(seen))
    }
}

/// Root mean square of the differences. State: the judge's, then `[known][forecast]` of `of = "forecast"`.
pub(super) struct Residual {
    port: std::ops::Range<usize>,
    against: Against,
    /// Columns of the base row that a forecast is for.
    columns: Vec<usize>,
    /// One over the scale of each difference.
    inverse: Vec<f32>,
    judge: Judge,
    judge_len: usize,
}

impl Residual {
    pub(super) fn fit(config: &ResidualConfig, place: &Place<'_>) -> Result<Self, Mistake> {
        let port = port(place, config.output.as_deref())?;
        let columns = match config.of {
            Against::Input => Vec::new(),
            Against::Forecast => columns(config, place)?,
        };
        let (expected, what) = match config.of {
            Against::Input => (place.pipeline.width(), "the row that the network takes"),
            Against::Forecast => (columns.len(), "the targets"),
        };
        let len = port.range.len();
        check(
            len == expected,
            "output",
            &format!("\"{}\" holds {len} values, {what} {expected}", port.name),
        )?;
        let scale = config.scale.clone().unwrap_or_else(|| vec![1.0; len]);
        check(
            scale.len() == len,
            "scale",
            &format!("expected {len} values, got {}", scale.len()),
        )?;
        let judge = Judge {
            threshold: Threshold::fit(config.threshold, place.calibration)?,
            smoothing: config.smoothing,
        };
        Ok(Self {
            port: port.range.clone(),
            against: config.of,
            columns,
            inverse: scale.iter().map(|scale| 1.0 / scale).collect(),
            judge_len: judge.threshold.state_len() + 2,
            judge,
        })
    }

    /// What was got wrong; none for a forecast not made. Keeps the newest forecast for the next row.
    fn score(&self, state: &mut [f32], seen: &Seen<'_>) -> Option<f32> {
        let output = &seen.output[self.port.clone()];
        let size = |sum: f32| (sum / output.len() as f32).sqrt();
        let mut sum = 0.0_f32;
        if self.against == Against::Input {
            for ((x, y), inverse) in seen.row.iter().zip(output).zip(&self.inverse) {
                let off = (x - y) * inverse;
                sum = off.mul_add(off, sum);
            }
            return Some(size(sum));
        }
        let (known, forecast) = state[self.judge_len..].split_at_mut(1);
        for ((column, y), inverse) in self.columns.iter().zip(&*forecast).zip(&self.inverse) {
            let off = (seen.base[*column] - y) * inverse;
            sum = off.mul_add(off, sum);
        }
        let made = known[0] != 0.0;
        forecast.copy_from_slice(output);
        known[0] = 1.0;
        made.then(|| size(sum))
    }
}

/// The base columns of the targets.
fn columns(config: &ResidualConfig, place: &Place<'_>) -> Result<Vec<usize>, Mistake> {
    let Some(targets) = &config.targets else {
        return Ok((0..place.pipeline.base()).collect());
    };
    let column = |(index, name): (usize, &String)| {
        let field = format!("targets[{index}]");
        let feature = feature(place, &field, name)?;
        let column = place.pipeline.column_of(feature);
        column.ok_or_else(|| Mistake::new(field, format!("\"{name}\" is not selected")))
    };
    targets.iter().enumerate().map(column).collect()
}

impl Answer for Residual {
    fn buffers(&self) -> Vec<(&'static str, usize)> {
        let mut buffers = self.judge.buffers();
        if self.against == Against::Forecast {
            buffers.push(("forecast", 1 + self.columns.len()));
        }
        buffers
    }

    fn init(&self, state: &mut [f32]) {
        state.fill(0.0);
        self.judge.init(&mut state[..self.judge_len]);
    }

    fn forget(&self, state: &mut [f32]) {
        self.judge.forget(state);
    }

    fn learns(&self) -> bool {
        self.judge.threshold.learns()
    }

    fn learn(&self, state: &mut [f32], seen: &Seen<'_>) {
        let score = self.score(state, seen);
        self.judge.learn(&mut state[..self.judge_len], score, seen);
    }

    fn answer(&self, state: &mut [f32], seen: &Seen<'_>) -> Output {
        // Without a forecast there is nothing strange yet.
        let score = self.score(state, seen).unwrap_or(0.0);
        self.judge.answer(&mut state[..self.judge_len], score)
    }
}
