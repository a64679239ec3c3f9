//! What a subscriber says, as JSON: read flat, so that an unknown field is skipped and never kept in memory.

use crate::live::{LiveRequest, Policy, Position, Subscribe};
use serde::de::{self, Deserialize, Deserializer};

#[derive(serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Subscribe,
    Unsubscribe,
}

/// Every field that a subscriber may send, whatever its `type`.
#[derive(serde::Deserialize)]
#[serde(expecting = "a request object")]
struct RequestFields {
    #[serde(rename = "type")]
    kind: Kind,
    id: u64,
    topic: Option<String>,
    from: Option<Position>,
    #[serde(default)]
    policy: Policy,
    max_hz: Option<f32>,
}

impl<'de> Deserialize<'de> for LiveRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = RequestFields::deserialize(deserializer)?;
        Ok(match fields.kind {
            Kind::Unsubscribe => Self::Unsubscribe { id: fields.id },
            Kind::Subscribe => Self::Subscribe(Subscribe {
                id: fields.id,
                topic: fields
                    .topic
                    .ok_or_else(|| de::Error::missing_field("topic"))?,
                from: fields.from,
                policy: fields.policy,
                max_hz: fields.max_hz,
            }),
        })
    }
}
