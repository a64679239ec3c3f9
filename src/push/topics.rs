//! Topics of live events, and the patterns that subscribers listen with. Pure.
//!
//! A topic has one to three levels; `*` in a pattern stands for one level. Matching an event costs at most four look-ups,
//! whatever the number of subscriptions.

use crate::stream::StreamKey;

/// Longest pattern: `predictions/`, an endpoint, a device.
const MAX_PATTERN_BYTES: usize = 224;

/// Why a pattern was refused; tell the subscriber.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// None of the forms.
    #[error(
        "unknown topic: expected predictions/{{endpoint}}/{{device}}, devices/{{device}}, alerts/{{endpoint}}/{{device}} or system"
    )]
    Unknown,
    /// Longer than any topic.
    #[error("topic of {0} bytes: at most {MAX_PATTERN_BYTES} are allowed")]
    TooLong(usize),
}

/// A checked pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// `predictions/{endpoint}/{device}`; `None` is `*`.
    Predictions(Option<String>, Option<String>),
    /// `devices/{device}`
    Devices(Option<String>),
    /// `alerts/{endpoint}/{device}`
    Alerts(Option<String>, Option<String>),
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
        let level = |text: &str| (text != "*").then(|| text.to_owned());
        match levels[..] {
            ["predictions", endpoint, device] if is_level(endpoint) && is_level(device) => {
                Ok(Self::Predictions(level(endpoint), level(device)))
            }
            ["alerts", endpoint, device] if is_level(endpoint) && is_level(device) => {
                Ok(Self::Alerts(level(endpoint), level(device)))
            }
            ["devices", device] if is_level(device) => Ok(Self::Devices(level(device))),
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

    /// Every pattern that matches what happens to a device.
    pub fn of_device(key: &StreamKey) -> [Self; 2] {
        [
            Self::Devices(Some(key.device.to_string())),
            Self::Devices(None),
        ]
    }

    fn pairs(key: &StreamKey, make: fn(Option<String>, Option<String>) -> Self) -> [Self; 4] {
        let (endpoint, device) = (
            || Some(key.endpoint.to_string()),
            || Some(key.device.to_string()),
        );
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
            assert!(
                Pattern::of_predictions(&key()).contains(&Pattern::parse(text).unwrap()),
                "{text}"
            );
        }
        for text in ["predictions/other/*", "alerts/*/*", "devices/*", "system"] {
            assert!(
                !Pattern::of_predictions(&key()).contains(&Pattern::parse(text).unwrap()),
                "{text}"
            );
        }
        assert!(Pattern::of_device(&key()).contains(&Pattern::parse("devices/rig-1").unwrap()));
    }

    #[test]
    fn what_is_no_topic_is_refused() {
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
            Pattern::parse(&"x".repeat(1000)),
            Err(TopicError::TooLong(1000))
        ));
    }
}
