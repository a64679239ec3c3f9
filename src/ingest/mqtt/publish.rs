//! A publish taken apart: its readings, what its properties add, and what tells it from another one.

use crate::inference::ServedEndpoint;
use crate::ingest;
use crate::pipeline::{Arrival, Arrived};
use crate::session::Numbers;
use rumqttc::v5::mqttbytes::v5::{Publish, PublishProperties};
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::time::Instant;
use tidegate_protocol::Codec;

/// The readings of a publish; the payload wins over user properties.
pub fn decode(served: &ServedEndpoint, publish: &Publish) -> VecDeque<Arrival> {
    let none = PublishProperties::default();
    let properties = publish.properties.as_ref().unwrap_or(&none);
    let codec = properties
        .content_type
        .as_deref()
        .and_then(Codec::from_content_type)
        .unwrap_or_default();
    let mut arrivals = VecDeque::new();
    ingest::arrivals(
        served,
        codec,
        &publish.payload,
        Instant::now(),
        &mut arrivals,
    );
    let property = |name: &str| {
        properties
            .user_properties
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    };
    let number = |name: &str| {
        property(name)?
            .parse::<u64>()
            .ok()
            .filter(|n| *n <= tidegate_protocol::MAX_NUMBER)
    };
    let ts = property("ts").and_then(|ts| ts.parse::<i64>().ok());
    let numbers = Numbers {
        epoch: number("epoch"),
        seq: number("seq"),
    };
    // Numbers in properties name one reading.
    let single = arrivals.len() == 1;
    for arrival in &mut arrivals {
        arrival.numbers.epoch = arrival.numbers.epoch.or(numbers.epoch);
        arrival.numbers.seq = arrival.numbers.seq.or(numbers.seq.filter(|_| single));
        if let (Arrived::Reading(reading), Some(ts)) = (&mut arrival.what, ts)
            && single
        {
            ingest::check::set_ts(reading, ts);
        }
    }
    arrivals
}

/// Whether the numbers of these readings tell by themselves that they were taken before.
pub fn is_numbered(arrivals: &VecDeque<Arrival>) -> bool {
    arrivals.iter().all(|arrival| {
        let is_reading = matches!(arrival.what, Arrived::Reading(_) | Arrived::Refused(..));
        is_reading && arrival.numbers.seq.is_some()
    })
}

/// What a delivery and its redelivery have in common.
pub fn hash(publish: &Publish) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    add(&publish.topic);
    add(&publish.payload);
    if let Some(properties) = &publish.properties {
        add(properties
            .content_type
            .as_deref()
            .unwrap_or_default()
            .as_bytes());
        for (key, value) in &properties.user_properties {
            add(key.as_bytes());
            add(value.as_bytes());
        }
    }
    hash.finalize().into()
}
