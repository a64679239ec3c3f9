//! MQTT topics: where devices publish readings and where the server answers.
//!
//! Pure text functions; the MQTT client itself is the server's.

use crate::id::{DeviceId, EndpointName};

/// First level of every topic.
pub const PREFIX: &str = "tidegate";
/// What the server subscribes to: `tidegate/{endpoint}/{device}/readings`.
pub const READINGS_FILTER: &str = "tidegate/+/+/readings";

/// The stream that a readings topic names, or `None` where it is not of the form.
pub fn parse_readings(topic: &str) -> Option<(EndpointName, DeviceId)> {
    let mut levels = topic.split('/');
    if levels.next() != Some(PREFIX) {
        return None;
    }
    let endpoint = EndpointName::new(levels.next()?).ok()?;
    let device = DeviceId::new(levels.next()?).ok()?;
    (levels.next() == Some("readings") && levels.next().is_none()).then_some((endpoint, device))
}

/// Where a device publishes its readings.
pub fn readings(endpoint: &str, device: &str) -> String {
    format!("{PREFIX}/{endpoint}/{device}/readings")
}

/// Where its predictions appear.
pub fn predictions(endpoint: &str, device: &str) -> String {
    format!("{PREFIX}/{endpoint}/{device}/predictions")
}

/// Where its acks, nacks and gaps appear.
pub fn acks(endpoint: &str, device: &str) -> String {
    format!("{PREFIX}/{endpoint}/{device}/acks")
}

/// Where its errors appear.
pub fn errors(endpoint: &str, device: &str) -> String {
    format!("{PREFIX}/{endpoint}/{device}/errors")
}

/// Where alerts about it appear.
pub fn alerts(endpoint: &str, device: &str) -> String {
    format!("{PREFIX}/{endpoint}/{device}/alerts")
}

/// Where alerts about an endpoint or the server itself appear.
pub fn node_alerts(node: &str) -> String {
    format!("{PREFIX}/nodes/{node}/alerts")
}

/// Retained status of a server.
pub fn node_status(node: &str) -> String {
    format!("{PREFIX}/nodes/{node}/status")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_readings_topic_names_its_stream() {
        let (endpoint, device) = parse_readings("tidegate/pump-health/rig-1/readings").unwrap();
        assert_eq!(
            (endpoint.as_str(), device.as_str()),
            ("pump-health", "rig-1")
        );
        assert_eq!(
            readings("pump-health", "rig-1"),
            "tidegate/pump-health/rig-1/readings"
        );
    }

    #[test]
    fn other_topics_name_no_stream() {
        for topic in [
            "",
            "tidegate",
            "tidegate/pump-health/rig-1",
            "tidegate/pump-health/rig-1/acks",
            "tidegate/pump-health/rig-1/readings/x",
            "tidegate/Pump/rig-1/readings",
            "tidegate/devices/rig-1/readings",
            "other/pump-health/rig-1/readings",
            "tidegate/pump-health/rig 1/readings",
        ] {
            assert!(parse_readings(topic).is_none(), "{topic}");
        }
    }
}
