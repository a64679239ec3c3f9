//! When things break: what each fault does while it lasts, and that nothing acknowledged is missing when it is over.
//!
//! A module is one kind of fault. A test makes the fault, sees the answer that the documents give for it, ends it, and then holds the same
//! three things: the backlog drains, every acked reading is stored once, and predictions are those of a run without the fault.

mod broker;
mod client;
mod clock;
mod drain;
mod gate;
mod lock;
mod redelivery;
pub mod steps;
mod store;

use crate::common::http::{request, samples};
use crate::common::{TestServer, bits};
use std::net::SocketAddr;
use std::time::Duration;
use tidegate_protocol::Sample;

/// What a stored row says of its reading and its answer, bit for bit.
pub fn row(sample: &Sample) -> (u64, i64, Vec<u32>, Vec<u8>) {
    let values = sample.values.iter().map(|value| value.to_bits()).collect();
    (sample.seq, sample.ts, values, bits(&sample.output))
}

/// The rows of a device that sends `values` to a server to which nothing happens.
pub async fn undisturbed(values: &[Vec<f32>]) -> Vec<(u64, i64, Vec<u32>, Vec<u8>)> {
    let server = TestServer::start().await;
    let mut device = server.device("calm").await;
    device.stream(values, 0, values.len()).await;
    server.samples("calm").await.iter().map(row).collect()
}

/// Waits for faults that take their time to be noticed: longer than for a message.
pub async fn patiently(what: &str, check: impl AsyncFn() -> bool) {
    let looks = async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let most = Duration::from_secs(30);
    let noticed = tokio::time::timeout(most, looks).await;
    assert!(noticed.is_ok(), "nothing within {most:?}: {what}");
}

/// The value of a metric, 0 where it has none yet. Only a server in a process of its own has metrics of its own.
pub async fn metric(addr: SocketAddr, name: &str) -> f64 {
    let metrics = request(addr, "GET", "/metrics", None).await.body;
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().expect("a number"))
}

/// Every reading of `values` is stored once, with the answer that it gets where nothing happens.
pub async fn stored_as_if_undisturbed(addr: SocketAddr, device: &str, values: &[Vec<f32>]) {
    let stored: Vec<_> = samples(addr, device).await.iter().map(row).collect();
    let expected = undisturbed(values).await;
    assert_eq!(stored.len(), expected.len(), "{device}");
    for (stored, expected) in stored.iter().zip(&expected) {
        assert_eq!(stored, expected, "{device}");
    }
}
