//! The `[postprocessing]` table of a manifest: kinds, keys and their bounds.

use serde::Deserialize;

use crate::manifest::{Mistake, Task, check, parameters_of};

/// Most steps ahead of a forecast, most quantiles, longest horizon in readings.
const MAX_STEPS: usize = 256;
const MAX_QUANTILES: usize = 32;
const MAX_HORIZON: u32 = 100_000;

/// Most classes.
pub const MAX_CLASSES: usize = 1024;

/// One head as it is written.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Head {
    /// Regression.
    Values(ValuesConfig),
    /// Classification.
    Classes(ClassesConfig),
    /// Anomaly: an output is the score.
    Score(ScoreConfig),
    /// Anomaly: the score is what the network got wrong.
    Residual(ResidualConfig),
    /// Forecast.
    Forecast(ForecastConfig),
}

/// Keys of `kind = "values"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValuesConfig {
    /// The output to tell.
    pub output: Option<String>,
    /// One a value; the output's name, numbered, where they are left out.
    pub names: Option<Vec<String>>,
    /// Each value is multiplied by its scale (1), then its offset (0) is added.
    pub scale: Option<Vec<f32>>,
    /// See `scale`.
    pub offset: Option<Vec<f32>>,
}

/// What makes probabilities of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// They are probabilities.
    #[default]
    None,
    /// Each by itself; of several, divided by their sum.
    Sigmoid,
    /// All together.
    Softmax,
}

/// Keys of `kind = "classes"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassesConfig {
    /// The output with one number a class (or the second class's, of two).
    pub output: Option<String>,
    /// Names of the classes; may be left out where the network knows them.
    pub labels: Option<Vec<String>>,
    /// What makes probabilities of the output.
    #[serde(default)]
    pub activation: Link,
}

/// The score above which a reading is an anomaly: a number, or learned.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum ThresholdConfig {
    /// The same for every stream.
    Fixed(f32),
    /// From the stream's own scores in the second half of its calibration.
    Learned(LearnedConfig),
}

/// Keys of a learned threshold.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearnedConfig {
    /// The share of the calibration's scores that are not above it.
    pub quantile: f64,
    /// What the quantile is multiplied by (a negative one moves up by the same share).
    #[serde(default = "one")]
    pub margin: f32,
    /// Lowest threshold.
    pub least: Option<f32>,
}

fn one() -> f32 {
    1.0
}

/// Keys of `kind = "score"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreConfig {
    /// The output that holds the score.
    pub output: Option<String>,
    /// Which of its values.
    #[serde(default)]
    pub index: usize,
    /// The score is this times the value (-1 for a network whose low values are strange), plus `offset`.
    #[serde(default = "one")]
    pub sign: f32,
    /// See `sign`.
    #[serde(default)]
    pub offset: f32,
    /// The score above which a reading is an anomaly.
    pub threshold: ThresholdConfig,
    /// Weight of the newest score in a running mean of scores.
    #[serde(default = "one")]
    pub smoothing: f32,
}

/// What the output is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// The network's own input: a reconstruction.
    #[default]
    Input,
    /// The next row: a forecast one step ahead.
    Forecast,
}

/// Keys of `kind = "residual"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResidualConfig {
    /// The output that is held against something.
    pub output: Option<String>,
    /// What it is held against.
    #[serde(default)]
    pub of: Against,
    /// Features that a forecast is for; all in the row where they are left out.
    pub targets: Option<Vec<String>>,
    /// What each difference is divided by (1).
    pub scale: Option<Vec<f32>>,
    /// The score above which a reading is an anomaly.
    pub threshold: ThresholdConfig,
    /// Weight of the newest score in a running mean of scores.
    #[serde(default = "one")]
    pub smoothing: f32,
}

/// Keys of `kind = "forecast"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForecastConfig {
    /// The output: one value a step, then one a step for each quantile.
    pub output: Option<String>,
    /// Steps ahead, in readings, rising.
    pub horizon: Vec<u32>,
    /// The feature that is forecast; of no effect without `restore` or `relative`.
    pub target: Option<String>,
    /// Whether the output is the change from the newest value of the target.
    #[serde(default)]
    pub relative: bool,
    /// Whether the stages of the target are undone, so that the answer is in its units.
    #[serde(default)]
    pub restore: bool,
    /// Probabilities, rising.
    #[serde(default)]
    pub quantiles: Vec<f32>,
    /// Every number is multiplied by this, then `offset` is added.
    #[serde(default = "one")]
    pub scale: f32,
    /// See `scale`.
    #[serde(default)]
    pub offset: f32,
}

impl Head {
    /// The word in the manifest.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Values(_) => "values",
            Self::Classes(_) => "classes",
            Self::Score(_) => "score",
            Self::Residual(_) => "residual",
            Self::Forecast(_) => "forecast",
        }
    }

    /// What it answers.
    pub fn task(&self) -> Task {
        match self {
            Self::Values(_) => Task::Regression,
            Self::Classes(_) => Task::Classification,
            Self::Score(_) | Self::Residual(_) => Task::Anomaly,
            Self::Forecast(_) => Task::Forecast,
        }
    }

    /// Reads the keys; what depends on network and endpoint is checked when the version is built.
    pub(crate) fn parse(kind: &str, table: toml::Table, path: &str) -> Result<Self, Mistake> {
        match kind {
            "values" => parameters_of(table, path, ValuesConfig::check).map(Self::Values),
            "classes" => parameters_of(table, path, ClassesConfig::check).map(Self::Classes),
            "score" => parameters_of(table, path, ScoreConfig::check).map(Self::Score),
            "residual" => parameters_of(table, path, ResidualConfig::check).map(Self::Residual),
            "forecast" => parameters_of(table, path, ForecastConfig::check).map(Self::Forecast),
            other => Err(Mistake::new(
                format!("{path}.kind"),
                format!("\"{other}\" is not a head of this build"),
            )),
        }
    }
}

impl ValuesConfig {
    fn check(&self) -> Result<(), Mistake> {
        check_names("names", self.names.as_deref())?;
        check_finite("scale", self.scale.as_deref())?;
        check_finite("offset", self.offset.as_deref())
    }
}

impl ClassesConfig {
    fn check(&self) -> Result<(), Mistake> {
        check_names("labels", self.labels.as_deref())
    }
}

impl ThresholdConfig {
    fn check(&self) -> Result<(), Mistake> {
        match self {
            Self::Fixed(value) => check(value.is_finite(), "threshold", "is not finite"),
            Self::Learned(learned) => {
                let quantile = (0.5..1.0).contains(&learned.quantile);
                check(quantile, "threshold.quantile", "is not in 0.5..1")?;
                let margin = (1.0..=100.0).contains(&learned.margin);
                check(margin, "threshold.margin", "is not in 1..=100")?;
                let least = learned.least.is_none_or(f32::is_finite);
                check(least, "threshold.least", "is not finite")
            }
        }
    }
}

impl ScoreConfig {
    fn check(&self) -> Result<(), Mistake> {
        let sign = self.sign.is_finite() && self.sign != 0.0;
        check(sign, "sign", "is 0 or not finite")?;
        check(self.offset.is_finite(), "offset", "is not finite")?;
        self.threshold.check()?;
        check_smoothing(self.smoothing)
    }
}

impl ResidualConfig {
    fn check(&self) -> Result<(), Mistake> {
        check_finite("scale", self.scale.as_deref())?;
        let mut scales = self.scale.iter().flatten();
        check(
            scales.all(|scale| *scale > 0.0),
            "scale",
            "holds a value that is not above 0",
        )?;
        check_names("targets", self.targets.as_deref())?;
        check(
            self.targets.is_none() || self.of == Against::Forecast,
            "targets",
            "are those of a forecast: of = \"forecast\"",
        )?;
        self.threshold.check()?;
        check_smoothing(self.smoothing)
    }
}

impl ForecastConfig {
    fn check(&self) -> Result<(), Mistake> {
        let steps = (1..=MAX_STEPS).contains(&self.horizon.len());
        check(
            steps,
            "horizon",
            &format!("does not hold 1..={MAX_STEPS} steps"),
        )?;
        let rising = self.horizon[0] >= 1 && self.horizon.is_sorted_by(|a, b| a < b);
        check(rising, "horizon", "does not rise from 1 or more")?;
        let near = self.horizon.iter().all(|step| *step <= MAX_HORIZON);
        check(near, "horizon", &format!("goes beyond {MAX_HORIZON}"))?;
        let few = self.quantiles.len() <= MAX_QUANTILES;
        check(
            few,
            "quantiles",
            &format!("holds more than {MAX_QUANTILES}"),
        )?;
        let rising = self.quantiles.is_sorted_by(|a, b| a < b);
        let inside = self.quantiles.iter().all(|p| *p > 0.0 && *p < 1.0);
        check(rising && inside, "quantiles", "do not rise between 0 and 1")?;
        check(self.scale.is_finite(), "scale", "is not finite")?;
        check(self.offset.is_finite(), "offset", "is not finite")?;
        check(
            self.target.is_some() || !(self.relative || self.restore),
            "target",
            "is missing: restore and relative need it",
        )
    }
}

fn check_smoothing(weight: f32) -> Result<(), Mistake> {
    let inside = weight > 0.0 && weight <= 1.0;
    check(inside, "smoothing", "is not above 0 and at most 1")
}

fn check_finite(field: &str, values: Option<&[f32]>) -> Result<(), Mistake> {
    let finite = values.is_none_or(|values| values.iter().all(|value| value.is_finite()));
    check(finite, field, "holds a value that is not finite")
}

fn check_names(field: &str, names: Option<&[String]>) -> Result<(), Mistake> {
    let Some(names) = names else { return Ok(()) };
    let count = (1..=MAX_CLASSES).contains(&names.len());
    check(
        count,
        field,
        &format!("does not hold 1..={MAX_CLASSES} names"),
    )?;
    for (index, name) in names.iter().enumerate() {
        let field = format!("{field}[{index}]");
        check(
            (1..=64).contains(&name.len()),
            &field,
            "is not 1..=64 bytes long",
        )?;
        let twice = names[..index].contains(name);
        check(!twice, &field, &format!("\"{name}\" is named twice"))?;
    }
    Ok(())
}
