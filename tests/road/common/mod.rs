//! What the tests share: a server in this process, a server in its own process, devices, subscribers, HTTP, a broker and a
//! database server.

pub mod broker;
pub mod home;
pub mod http;
pub mod lossy;
pub mod peer;
#[path = "../../common/postgres.rs"]
pub mod postgres;
pub mod process;
pub mod server;

pub use broker::{Broker, MqttPeer};
pub use home::Home;
pub use lossy::Lossy;
pub use peer::{Device, Subscriber};
pub use postgres::Postgres;
pub use process::Process;
pub use server::TestServer;

use std::time::Duration;
use tidegate_models::rig::Rig;
use tidegate_protocol::codec::encode_output;
use tidegate_protocol::message::Prediction;
use tidegate_protocol::{DeviceMessage, Output, Reading, Values};

/// The endpoint that every test speaks to.
pub const ENDPOINT: &str = "pump-health";

/// Longest wait for a message.
pub const WAIT: Duration = Duration::from_secs(10);

/// Measured time of reading 0, Unix ms; readings follow each other by a second.
pub const START_MS: i64 = 1_770_000_000_000;

/// The outcome of `future`, or a panic that says what did not come.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(WAIT, future)
        .await
        .unwrap_or_else(|_| panic!("nothing came within {WAIT:?}: {what}"))
}

/// Looks again until `check` holds: for states that nobody announces.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    within(what, async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// The first `count` readings of a rig: values only, the same for the same seed.
pub fn rig(seed: u64, count: usize) -> Vec<Vec<f32>> {
    let mut rig = Rig::new(seed);
    (0..count).map(|_| rig.next_reading().0.to_vec()).collect()
}

/// A reading as the tests' devices send it: numbered, measured a second after the one before.
pub fn reading(seq: u64, values: &[f32]) -> Reading {
    Reading {
        seq: Some(seq),
        ts: Some(START_MS + i64::try_from(seq).unwrap() * 1000),
        values: Values::Ordered(values.to_vec()),
        ..Reading::default()
    }
}

/// One plain reading, the same for every number but for its first value.
pub fn plain(seq: u64) -> Reading {
    let first = 0.02 + (seq % 100) as f32 * 1e-4;
    reading(seq, &[first, 0.04, 1.33, 0.05, 79.3, 26.0, 233.1, 32.0])
}

/// Readings `from..to` of `values` as one batch.
pub fn batch(values: &[Vec<f32>], from: usize, to: usize) -> DeviceMessage {
    let readings = (from..to).map(|seq| reading(seq as u64, &values[seq]));
    DeviceMessage::Batch(readings.collect())
}

/// What makes two predictions the same answer, bit for bit: all but the latency.
pub fn answer(prediction: &Prediction) -> (u64, i64, String, Vec<u8>) {
    let version = format!("{}/{}", prediction.model, prediction.version);
    (
        prediction.seq,
        prediction.ts,
        version,
        bits(&prediction.output),
    )
}

/// An output's exact bytes.
pub fn bits(output: &Output) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_output(output, &mut bytes);
    bytes
}
