//! What the numbers of an answer mean: which classes, which quantities in which units, what a forecast is about.
//!
//! Pure. Read from a version's head and its endpoint's schema, for people and pages that show answers; an answer itself carries names and
//! no units. A unit is told only where the schema has one for the number as it is.

use crate::inference::Served;
use serde::Serialize;
use tidegate_models::postprocess::Head;
use tidegate_models::preprocess::Stage;
use tidegate_models::{EndpointManifest, Feature, ModelManifest};
use tidegate_protocol::Output;
use utoipa::ToSchema;

/// What a version's answers are made of; what its task does not have is left out.
#[derive(Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct HeadBody {
    /// The feature that a forecast is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// The unit of a forecast's numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    /// Steps ahead of a forecast, in readings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    horizon: Vec<u32>,
    /// Classes in the model's order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    labels: Vec<String>,
    /// Quantities of a regression in the model's order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    values: Vec<QuantityBody>,
}

/// One quantity of a regression.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
struct QuantityBody {
    name: String,
    /// That of the feature of its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
}

impl HeadBody {
    /// Of a version that answers for an endpoint.
    pub fn new(endpoint: &EndpointManifest, served: &Served) -> Self {
        let manifest = &served.version.manifest;
        Self::of(&endpoint.features, manifest, served.template())
    }

    fn of(features: &[Feature], manifest: &ModelManifest, template: Option<Output>) -> Self {
        let mut head = Self::default();
        match template {
            Some(Output::Classification { probabilities, .. }) => {
                head.labels = probabilities.into_iter().map(|(label, _)| label).collect();
            }
            Some(Output::Regression { values }) => {
                let quantity = |(name, _): (String, f32)| QuantityBody {
                    unit: unit(features, &name),
                    name,
                };
                head.values = values.into_iter().map(quantity).collect();
            }
            _ => {}
        }
        if let Some(Head::Forecast(config)) = &manifest.postprocessing {
            head.horizon.clone_from(&config.horizon);
            head.target.clone_from(&config.target);
            let target = config.target.as_deref();
            let target = target.filter(|_| config.restore || keeps_units(manifest));
            head.unit = target.and_then(|target| unit(features, target));
        }
        head
    }
}

/// Whether the network is given readings in the units of the schema, and so may answer in them.
fn keeps_units(manifest: &ModelManifest) -> bool {
    let mut stages = manifest.preprocessing.stages().iter();
    !stages.any(|stage| matches!(stage, Stage::Standardise(_)))
}

fn unit(features: &[Feature], name: &str) -> Option<String> {
    let feature = features.iter().find(|feature| feature.name == name)?;
    Some(feature.unit.clone()).filter(|unit| !unit.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features() -> Vec<Feature> {
        let feature = |(name, unit): (&str, &str)| Feature {
            name: name.into(),
            unit: unit.into(),
            range: None,
            hard_range: None,
        };
        [("temperature", "degC"), ("share", "")].map(feature).into()
    }

    /// The forecast of the zoo, its manifest changed.
    fn forecast(from: &str, to: &str) -> HeadBody {
        let zoo = tidegate_models::load::embedded();
        let text =
            String::from_utf8_lossy(&zoo["rig-forecast/gru/1.0.0/model.toml"]).replace(from, to);
        let manifest = ModelManifest::parse(&text).unwrap();
        HeadBody::of(&features(), &manifest, None)
    }

    #[test]
    fn a_forecast_names_its_target_and_the_unit_of_what_was_restored() {
        let told = forecast("", "");
        assert_eq!(told.target.as_deref(), Some("temperature"));
        assert_eq!(told.unit.as_deref(), Some("degC"));
        assert_eq!(told.horizon, [10, 30, 60, 120]);
        let scaled = forecast("restore = true", "restore = false");
        assert_eq!(scaled.target.as_deref(), Some("temperature"));
        assert_eq!(scaled.unit, None, "standardised numbers have no unit");
    }

    #[test]
    fn a_quantity_has_the_unit_of_the_feature_of_its_name() {
        let zoo = tidegate_models::load::embedded();
        let text = String::from_utf8_lossy(&zoo["pump-health/mewma/1.0.0/model.toml"]).into_owned();
        let manifest = ModelManifest::parse(&text).unwrap();
        let names = ["temperature", "share", "other"];
        let values = names.map(|name| (name.to_owned(), 0.0)).into();
        let told = HeadBody::of(&features(), &manifest, Some(Output::Regression { values }));
        let units: Vec<_> = told.values.iter().map(|v| v.unit.as_deref()).collect();
        assert_eq!(units, [Some("degC"), None, None]);
        let json = serde_json::to_value(&told).unwrap();
        assert_eq!(json["values"][1], serde_json::json!({"name": "share"}));
        assert_eq!(json.get("labels"), None);
    }
}
