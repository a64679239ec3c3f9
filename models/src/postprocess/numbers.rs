//! Heads of regression and forecast endpoints: the output's numbers, in the units of people.

use std::ops::Range;
use std::sync::Arc;

use super::config::{ForecastConfig, ValuesConfig};
use super::{Answer, Place, Seen, feature, port};
use crate::Output;
use crate::manifest::{Mistake, check};

pub(super) struct Values {
    port: Range<usize>,
    names: Arc<[String]>,
    scale: Option<Vec<f32>>,
    offset: Option<Vec<f32>>,
}

impl Values {
    pub(super) fn fit(config: &ValuesConfig, place: &Place<'_>) -> Result<Self, Mistake> {
        let port = port(place, config.output.as_deref())?;
        let len = port.range.len();
        let names = config.names.clone().unwrap_or_else(|| match len {
            1 => vec![port.name.clone()],
            _ => (0..len).map(|k| format!("{}_{k}", port.name)).collect(),
        });
        let lists = [
            ("names", Some(names.len())),
            ("scale", config.scale.as_ref().map(Vec::len)),
            ("offset", config.offset.as_ref().map(Vec::len)),
        ];
        for (field, count) in lists {
            let count = count.unwrap_or(len);
            check(
                count == len,
                field,
                &format!(
                    "expected {len}, one a value of \"{}\", got {count}",
                    port.name
                ),
            )?;
        }
        Ok(Self {
            port: port.range.clone(),
            names: names.into(),
            scale: config.scale.clone(),
            offset: config.offset.clone(),
        })
    }
}

impl Answer for Values {
    fn template(&self) -> Option<Output> {
        Some(Output::Regression {
            names: self.names.clone(),
            values: vec![0.0; self.names.len()],
        })
    }

    fn answer(&self, _: &mut [f32], seen: &Seen<'_>) -> Output {
        let mut values = seen.output[self.port.clone()].to_vec();
        if let Some(scale) = &self.scale {
            values
                .iter_mut()
                .zip(scale)
                .for_each(|(value, scale)| *value *= scale);
        }
        if let Some(offset) = &self.offset {
            values
                .iter_mut()
                .zip(offset)
                .for_each(|(value, offset)| *value += offset);
        }
        Output::Regression {
            names: self.names.clone(),
            values,
        }
    }
}

pub(super) struct Forecast {
    port: Range<usize>,
    horizon: Arc<[u32]>,
    quantiles: Vec<f32>,
    /// The column of the target in the base row.
    column: usize,
    relative: bool,
    restore: bool,
    scale: f32,
    offset: f32,
}

impl Forecast {
    pub(super) fn fit(config: &ForecastConfig, place: &Place<'_>) -> Result<Self, Mistake> {
        let port = port(place, config.output.as_deref())?;
        let (steps, parts) = (config.horizon.len(), 1 + config.quantiles.len());
        let len = port.range.len();
        check(
            len == steps * parts,
            "horizon",
            &format!(
                "expected an output of {steps} steps x {parts}, \"{}\" holds {len}",
                port.name
            ),
        )?;
        let column = match &config.target {
            None => 0,
            Some(name) => {
                let feature = feature(place, "target", name)?;
                let column = place.pipeline.column_of(feature);
                column
                    .ok_or_else(|| Mistake::new("target", format!("\"{name}\" is not selected")))?
            }
        };
        check(
            !config.restore || place.pipeline.restores(),
            "restore",
            "differences and statistics cannot be undone",
        )?;
        Ok(Self {
            port: port.range.clone(),
            horizon: config.horizon.clone().into(),
            quantiles: config.quantiles.clone(),
            column,
            relative: config.relative,
            restore: config.restore,
            scale: config.scale,
            offset: config.offset,
        })
    }

    fn told(&self, value: f32, seen: &Seen<'_>) -> f32 {
        let mut value = self.scale.mul_add(value, self.offset);
        if self.relative {
            value += seen.base[self.column];
        }
        if self.restore {
            value = seen
                .pipeline
                .restore(seen.stages, self.column, value, seen.now);
        }
        value
    }
}

impl Answer for Forecast {
    fn template(&self) -> Option<Output> {
        let none = || vec![0.0; self.horizon.len()];
        let quantiles = self.quantiles.iter().map(|quantile| (*quantile, none()));
        Some(Output::Forecast {
            horizon: self.horizon.clone(),
            values: none(),
            quantiles: quantiles.collect(),
        })
    }

    fn answer(&self, _: &mut [f32], seen: &Seen<'_>) -> Output {
        let steps = self.horizon.len();
        let mut parts = seen.output[self.port.clone()]
            .chunks_exact(steps)
            .map(|part| {
                part.iter()
                    .map(|value| self.told(*value, seen))
                    .collect::<Vec<_>>()
            });
        let values = parts.next().unwrap_or_default();
        Output::Forecast {
            horizon: self.horizon.clone(),
            values,
            quantiles: self.quantiles.iter().copied().zip(parts).collect(),
        }
    }
}
