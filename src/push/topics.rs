//! Topics of live events, and the patterns that subscribers listen with. Pure.
//!
//! A topic has one to three levels; `*` in a pattern stands for one level. Matching an event costs at most four look-ups,
//! whatever the number of subscriptions.

use crate::stream::StreamKey;
use tidegate_protocol::{DeviceId, EndpointName, IdError};

/// Longest pattern: `predictions/`, an endpoint, a device.
const MAX_PATTERN_BYTES: usize = 224;

/// Why a pattern was refused; tell the subscriber.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// None of the forms.
    #[error(
        "unknown topic: expected predictions/{{endpoint}}/{{device}}, devices/{{device}}, alerts, alerts/{{endpoint}}, alerts/{{endpoint}}/{{device}}, experiments/{{name}} or system"
    )]
    Unknown,
    /// A level that no endpoint or device can be called.
    #[error("{0}")]
    Name(#[from] IdError),
    /// Longer than any topic.
    #[error("topic of {0} bytes: at most {MAX_PATTERN_BYTES} are allowed")]
    TooLong(usize),
}

/// A checked pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// `predictions/{endpoint}/{device}`; `None` is `*`.
    Predictions(Option<EndpointName>, Option<DeviceId>),
    /// `devices/{device}`
    Devices(Option<DeviceId>),
    /// `alerts/{endpoint}/{device}`
    Alerts(Option<EndpointName>, Option<DeviceId>),
    /// `experiments/{name}`; `None` is `*`.
    Experiments(Option<String>),
    /// `alerts/{endpoint}`: about the endpoint as a whole.
    EndpointAlerts(Option<EndpointName>),
    /// `alerts`: about the server.
    ServerAlerts,
    /// `system`
    System,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// A text that is no topic.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        if text.len() > MAX_PATTERN_BYTES {
            return Err(TopicError::TooLong(text.len()));
        }
        let levels: Vec<&str> = text.split('/').collect();
        match levels[..] {
            ["predictions", endpoint, device] if is_level(endpoint) && is_level(device) => {
                Ok(Self::Predictions(name(endpoint)?, name(device)?))
            }
            ["alerts", endpoint, device] if is_level(endpoint) && is_level(device) => {
                Ok(Self::Alerts(name(endpoint)?, name(device)?))
            }
            ["experiments", name] if is_level(name) => {
                Ok(Self::Experiments((name != "*").then(|| name.to_owned())))
            }
            ["devices", device] if is_level(device) => Ok(Self::Devices(name(device)?)),
            ["alerts", endpoint] if is_level(endpoint) => Ok(Self::EndpointAlerts(name(endpoint)?)),
            ["alerts"] => Ok(Self::ServerAlerts),
            ["system"] => Ok(Self::System),
            _ => Err(TopicError::Unknown),
        }
    }

    /// Every pattern that matches the predictions of a stream.
    pub fn of_predictions(key: &StreamKey) -> [Self; 4] {
        Self::pairs(key, Self::Predictions)
    }

    /// Every pattern that matches the alerts of a stream.
    pub fn of_alerts(key: &StreamKey) -> [Self; 4] {
        Self::pairs(key, Self::Alerts)
    }

    /// Every pattern that matches the alerts of an endpoint as a whole.
    pub fn of_endpoint_alerts(endpoint: &EndpointName) -> [Self; 2] {
        [
            Self::EndpointAlerts(Some(endpoint.clone())),
            Self::EndpointAlerts(None),
        ]
    }

    /// Every pattern that matches what happens to a device.
    pub fn of_device(key: &StreamKey) -> [Self; 2] {
        [Self::Devices(Some(key.device.clone())), Self::Devices(None)]
    }

    /// Every pattern that matches an experiment.
    pub fn of_experiment(name: &str) -> [Self; 2] {
        [
            Self::Experiments(Some(name.to_owned())),
            Self::Experiments(None),
        ]
    }

    /// Whether its events are committed samples.
    pub fn is_predictions(&self) -> bool {
        matches!(self, Self::Predictions(..))
    }

    /// Whether it matches the predictions of a stream; what is imported is no news.
    pub fn hears_predictions_of(&self, key: &StreamKey) -> bool {
        let Self::Predictions(endpoint, device) = self else {
            return false;
        };
        key.is_live()
            && endpoint.as_ref().is_none_or(|name| *name == key.endpoint)
            && device.as_ref().is_none_or(|id| *id == key.device)
    }

    fn pairs(
        key: &StreamKey,
        make: fn(Option<EndpointName>, Option<DeviceId>) -> Self,
    ) -> [Self; 4] {
        let (endpoint, device) = (|| Some(key.endpoint.clone()), || Some(key.device.clone()));
        [
            make(endpoint(), device()),
            make(endpoint(), None),
            make(None, device()),
            make(None, None),
        ]
    }
}

fn is_level(text: &str) -> bool {
    text == "*" || (!text.is_empty() && !text.contains('*'))
}

/// One level as the name it stands for; `None` is `*`.
fn name<T: std::str::FromStr<Err = IdError>>(level: &str) -> Result<Option<T>, IdError> {
    (level != "*").then(|| level.parse()).transpose()
}

/// Topic of a stream's predictions.
pub fn predictions(key: &StreamKey) -> String {
    format!("predictions/{}/{}", key.endpoint, key.device)
}

/// Topic of what happens to a device.
pub fn device(key: &StreamKey) -> String {
    format!("devices/{}", key.device)
}

/// Topic of a stream's alerts.
pub fn alerts(key: &StreamKey) -> String {
    format!("alerts/{}/{}", key.endpoint, key.device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_protocol::{DeviceId, EndpointName};

    fn key() -> StreamKey {
        StreamKey::live(
            EndpointName::new("pump-health").unwrap(),
            DeviceId::new("rig-1").unwrap(),
        )
    }

    #[test]
    fn a_stream_is_matched_by_its_own_topic_and_by_each_wildcard() {
        for text in [
            "predictions/pump-health/rig-1",
            "predictions/pump-health/*",
            "predictions/*/rig-1",
            "predictions/*/*",
        ] {
            let pattern = Pattern::parse(text).unwrap();
            assert!(Pattern::of_predictions(&key()).contains(&pattern), "{text}");
            assert!(pattern.hears_predictions_of(&key()), "{text}");
        }
        for text in ["predictions/other/*", "alerts/*/*", "devices/*", "system"] {
            let pattern = Pattern::parse(text).unwrap();
            assert!(
                !Pattern::of_predictions(&key()).contains(&pattern),
                "{text}"
            );
            assert!(!pattern.hears_predictions_of(&key()), "{text}");
        }
        let experiments = Pattern::parse("experiments/one").unwrap();
        assert!(Pattern::of_experiment("one").contains(&experiments));
        assert!(!Pattern::of_experiment("two").contains(&experiments));
        assert!(Pattern::of_experiment("two").contains(&Pattern::parse("experiments/*").unwrap()));
        assert!(Pattern::of_device(&key()).contains(&Pattern::parse("devices/rig-1").unwrap()));
    }

    #[test]
    fn what_is_no_topic_is_refused() {
        assert_eq!(Pattern::parse("alerts"), Ok(Pattern::ServerAlerts));
        assert_eq!(
            Pattern::parse("alerts/*"),
            Ok(Pattern::EndpointAlerts(None))
        );
        for text in [
            "",
            "predictions",
            "predictions/a",
            "predictions/a/b/c",
            "predictions//b",
            "predictions/a*/b",
            "devices/",
            "other/x",
        ] {
            assert_eq!(Pattern::parse(text), Err(TopicError::Unknown), "{text}");
        }
        assert!(matches!(
            Pattern::parse("predictions/Not_A_Name/*"),
            Err(TopicError::Name(_))
        ));
        assert!(matches!(
            Pattern::parse(&"x".repeat(1000)),
            Err(TopicError::TooLong(1000))
        ));
    }
}
