//! The `[[preprocessing]]` tables of a manifest: kinds, keys and their bounds, and the stages they become.

use serde::Deserialize;

use super::MAX_ROWS;
use super::history::{Differences, Earlier, Ring, Window};
use super::map::{Clip, Map, Select};
use super::missing::Policy;
use super::rolling::{Rolled, Statistic};
use super::standardise::{Calibrated, Fixed};
use crate::manifest::{Feature, Mistake, check, parameters_of};
use crate::network::check_count;

/// One stage as it is written.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Stage {
    /// What stands for missing values; only as the first stage.
    Missing(MissingConfig),
    /// Some of the features, in the order named.
    Select(SelectConfig),
    /// Mean and scale.
    Standardise(StandardiseConfig),
    /// Bounds.
    Clip(Bounds),
    /// `x[t] - x[t - lag]`.
    Difference(Difference),
    /// Earlier rows behind the row.
    Lags(Lags),
    /// Statistics of the last rows.
    Rolling(Rolling),
    /// The last rows end to end.
    Window(Length),
}

/// Keys of `kind = "missing"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MissingConfig {
    /// What to do.
    pub policy: Policy,
    /// One a feature: of `mean`, and of `hold` before the first known value.
    pub values: Option<Vec<f64>>,
}

/// Keys of `kind = "select"`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectConfig {
    /// Names of the endpoint's features.
    pub features: Vec<String>,
}

/// Keys of `kind = "standardise"`: either `mean` and `scale`, or `calibrated = true`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StandardiseConfig {
    /// One a column.
    pub mean: Option<Vec<f64>>,
    /// One a column, above 0.
    pub scale: Option<Vec<f64>>,
    /// Whether the stream's own are learned in its calibration.
    #[serde(default)]
    pub calibrated: bool,
}

/// Keys of `kind = "clip"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Least value.
    pub low: f32,
    /// Largest value.
    pub high: f32,
}

/// Keys of `kind = "difference"`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// Rows between the two.
    #[serde(default = "one")]
    pub lag: usize,
    /// Whether the row itself stays in front.
    #[serde(default)]
    pub keep: bool,
}

/// Keys of `kind = "lags"`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lags {
    /// How many rows before the newest, rising.
    pub lags: Vec<usize>,
}

/// Keys of `kind = "rolling"`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rolling {
    /// Rows, the newest included.
    pub window: usize,
    /// What is computed, in this order; each gives as many values as the row has.
    pub of: Vec<Statistic>,
    /// Whether the row itself stays in front.
    #[serde(default)]
    pub keep: bool,
}

/// Keys of `kind = "window"`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Length {
    /// Rows, the newest included.
    pub length: usize,
}

fn one() -> usize {
    1
}

impl Stage {
    /// The word in the manifest.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Missing(_) => "missing",
            Self::Select(_) => "select",
            Self::Standardise(_) => "standardise",
            Self::Clip(_) => "clip",
            Self::Difference(_) => "difference",
            Self::Lags(_) => "lags",
            Self::Rolling(_) => "rolling",
            Self::Window(_) => "window",
        }
    }

    /// Reads the keys of a stage; what depends on the features is checked in [`super::Pipeline::new`].
    pub(crate) fn parse(kind: &str, table: toml::Table, path: &str) -> Result<Self, Mistake> {
        match kind {
            "missing" => parameters_of(table, path, |_| Ok(())).map(Self::Missing),
            "select" => parameters_of(table, path, |_| Ok(())).map(Self::Select),
            "standardise" => {
                parameters_of(table, path, StandardiseConfig::check).map(Self::Standardise)
            }
            "clip" => parameters_of(table, path, Bounds::check).map(Self::Clip),
            "difference" => parameters_of(table, path, |stage: &Difference| {
                check_count(stage.lag, MAX_ROWS, "lag")
            })
            .map(Self::Difference),
            "lags" => parameters_of(table, path, Lags::check).map(Self::Lags),
            "rolling" => parameters_of(table, path, Rolling::check).map(Self::Rolling),
            "window" => parameters_of(table, path, |stage: &Length| {
                check_count(stage.length, MAX_ROWS, "length")
            })
            .map(Self::Window),
            other => Err(Mistake::new(
                format!("{path}.kind"),
                format!("\"{other}\" is not a stage of this build"),
            )),
        }
    }

    /// The stage for rows of `width`. `columns` says which feature each column is, as long as no stage has `widened` the row.
    pub(super) fn fit(
        &self,
        width: usize,
        columns: &mut Vec<usize>,
        widened: bool,
        features: &[Feature],
    ) -> Result<Box<dyn Map>, Mistake> {
        let ring = |rows| Ring { rows, width };
        let narrow = |kind: &str| {
            let reason = format!("\"{kind}\" stands before the stages that widen the row");
            check(!widened, "kind", &reason)
        };
        Ok(match self {
            Self::Missing(_) => {
                return Err(Mistake::new(
                    "kind",
                    "\"missing\" is the first stage or none",
                ));
            }
            Self::Select(stage) => {
                narrow("select")?;
                let chosen = stage.columns(columns, features)?;
                *columns = chosen.iter().map(|column| columns[*column]).collect();
                Box::new(Select { columns: chosen })
            }
            Self::Standardise(stage) if stage.calibrated => {
                narrow("standardise, calibrated")?;
                Box::new(Calibrated {
                    columns: columns.clone(),
                })
            }
            Self::Standardise(stage) => Box::new(stage.fixed(width)?),
            Self::Clip(stage) => Box::new(Clip {
                width,
                low: stage.low,
                high: stage.high,
            }),
            Self::Difference(stage) => Box::new(Differences {
                ring: ring(stage.lag + 1),
                keep: stage.keep,
            }),
            Self::Lags(stage) => Box::new(Earlier {
                ring: ring(stage.lags.last().map_or(1, |lag| lag + 1)),
                lags: stage.lags.clone(),
            }),
            Self::Rolling(stage) => Box::new(Rolled {
                ring: ring(stage.window),
                of: stage.of.clone(),
                keep: stage.keep,
            }),
            Self::Window(stage) => Box::new(Window {
                ring: ring(stage.length),
            }),
        })
    }
}

impl SelectConfig {
    /// Where the named features stand now.
    fn columns(&self, now: &[usize], features: &[Feature]) -> Result<Vec<usize>, Mistake> {
        check(!self.features.is_empty(), "features", "is empty")?;
        let place = |(index, name): (usize, &String)| {
            let field = format!("features[{index}]");
            let twice = self.features[..index].contains(name);
            check(!twice, &field, &format!("\"{name}\" is named twice"))?;
            now.iter()
                .position(|feature| features[*feature].name == *name)
                .ok_or_else(|| Mistake::new(field, format!("\"{name}\" is not in the row here")))
        };
        self.features.iter().enumerate().map(place).collect()
    }
}

impl StandardiseConfig {
    fn check(&self) -> Result<(), Mistake> {
        let given = self.mean.is_some() as u8 + self.scale.is_some() as u8;
        check(
            given == if self.calibrated { 0 } else { 2 },
            "calibrated",
            "is true, or mean and scale are both given",
        )
    }

    fn fixed(&self, width: usize) -> Result<Fixed, Mistake> {
        let (mean, scale) = (self.mean.clone(), self.scale.clone());
        let (mean, scale) = (mean.unwrap_or_default(), scale.unwrap_or_default());
        check_numbers("mean", &mean, width)?;
        check_numbers("scale", &scale, width)?;
        let positive = scale.iter().all(|scale| *scale > 0.0);
        check(positive, "scale", "holds a value that is not above 0")?;
        Ok(Fixed { mean, scale })
    }
}

impl Bounds {
    fn check(&self) -> Result<(), Mistake> {
        let ordered = self.low.is_finite() && self.high.is_finite() && self.low < self.high;
        check(
            ordered,
            "low",
            "and high are not two finite numbers, the lower first",
        )
    }
}

impl Lags {
    fn check(&self) -> Result<(), Mistake> {
        check_count(self.lags.len(), 64, "lags")?;
        let rising = self.lags[0] >= 1 && self.lags.is_sorted_by(|a, b| a < b);
        check(rising, "lags", "do not rise from 1 or more")?;
        let last = self.lags[self.lags.len() - 1];
        check_count(last, MAX_ROWS, "lags")
    }
}

impl Rolling {
    fn check(&self) -> Result<(), Mistake> {
        check_count(self.window, MAX_ROWS, "window")?;
        check_count(self.of.len(), 4, "of")?;
        let once = |index: usize| !self.of[..index].contains(&self.of[index]);
        check(
            (0..self.of.len()).all(once),
            "of",
            "names a statistic twice",
        )
    }
}

/// Checks a list of finite numbers, one a column.
pub(super) fn check_numbers(field: &str, values: &[f64], width: usize) -> Result<(), Mistake> {
    check(
        values.len() == width,
        field,
        &format!(
            "expected {width} values, one a column of the row, got {}",
            values.len()
        ),
    )?;
    let size = |value: &f64| value.is_finite() && value.abs() <= f64::from(f32::MAX);
    check(
        values.iter().all(size),
        field,
        "holds a value that is not a finite f32",
    )
}
