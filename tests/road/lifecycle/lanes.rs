//! Versions whose steps are dear take turns, and answer the same.

use super::{CALIBRATED, MEWMA, by, change, moved, promote};
use crate::common::{Device, TestServer, answer, batch, bits, plain, rig};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_models::candle_core;
use tidegate_models::{Layout, Model, Output as Answer, Version, Zoo};
use tidegate_protocol::{Codec, Output};

const SLOW: &str = "slow/1.0.0";
/// What a step of it takes at least: three times what runs where a reading is.
const DEAR: Duration = Duration::from_micros(60);

/// The zoo's chart with steps that take a while.
struct Slow(Arc<dyn Model>);

impl Model for Slow {
    fn layout(&self) -> &Layout {
        self.0.layout()
    }

    fn init(&self, state: &mut [f32]) {
        self.0.init(state);
    }

    fn forget(&self, state: &mut [f32]) {
        self.0.forget(state);
    }

    fn step(&self, state: &mut [f32], values: &[f32]) -> Answer {
        let begin = Instant::now();
        while begin.elapsed() < DEAR {
            std::hint::spin_loop();
        }
        self.0.step(state, values)
    }

    fn reference(&self, state: &mut [f32], values: &[f32]) -> candle_core::Result<Answer> {
        self.0.reference(state, values)
    }
}

/// A server with the slow version beside the others.
async fn server() -> TestServer {
    let mut zoo = Zoo::embedded().expect("the built-in zoo");
    let endpoint = zoo.endpoints.get_mut("pump-health").expect("its endpoint");
    let chart = &endpoint.versions[MEWMA];
    let mut manifest = chart.manifest.clone();
    manifest.name = "slow".into();
    let model = Slow(Arc::clone(&chart.model));
    let name = Arc::clone(&chart.endpoint);
    let version = Version::new(name, manifest, [8; 32], Arc::new(model));
    endpoint.versions.insert(SLOW.into(), Arc::new(version));
    TestServer::start_serving(zoo, |raw| raw.inference.cores = 2).await
}

async fn pinned(server: &TestServer, device: &str) -> Device {
    let query = format!("device={device}&version={SLOW}");
    server.device_with(&query, Codec::Json).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dear_version_answers_what_a_cheap_one_does() {
    const COUNT: usize = CALIBRATED + 50;
    let server = server().await;
    let values = rig(41, COUNT);
    let mut dear = pinned(&server, "dear").await;
    let answers = dear.stream(&values, 0, COUNT).await;
    let mut cheap = server.device("cheap").await;
    let others = cheap.stream(&values, 0, COUNT).await;
    for (dear, cheap) in answers.iter().zip(&others) {
        assert_eq!(
            (dear.seq, bits(&dear.output)),
            (cheap.seq, bits(&cheap.output))
        );
    }
    let stored = server.samples("dear").await;
    let seqs: Vec<u64> = stored.iter().map(|sample| sample.seq).collect();
    assert_eq!(seqs, (0..COUNT as u64).collect::<Vec<_>>());
    // What is known already is answered without a step.
    dear.send(&batch(&values, 10, 12)).await;
    assert_eq!(answer(&dear.prediction(10).await), answer(&answers[10]));
    assert!(server.stop().await, "everything was told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_move_between_cheap_and_dear_versions_while_they_go_on() {
    let server = server().await;
    let values = rig(42, CALIBRATED + 300);
    let mut device = server.device("rig-1").await;
    device.stream(&values, 0, CALIBRATED).await;
    promote(&server, SLOW).await;
    let first = device.stream(&values, CALIBRATED, CALIBRATED + 150).await;
    moved(&server).await;
    let dear = device
        .stream(&values, CALIBRATED + 150, CALIBRATED + 200)
        .await;
    assert!(dear.iter().all(|one| by(one) == SLOW));
    change(&server, "rollback").await;
    moved(&server).await;
    let last = device.stream(&values, CALIBRATED + 200, values.len()).await;
    assert!(last.iter().all(|one| by(one) == MEWMA));
    for prediction in first.iter().chain(&dear).chain(&last) {
        let is_score = matches!(prediction.output, Output::Anomaly { .. });
        assert!(is_score, "{prediction:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_takes_what_waits_for_a_dear_version_along() {
    let server = server().await;
    let mut devices = Vec::new();
    for number in 0..4 {
        devices.push(pinned(&server, &format!("rig-{number}")).await);
    }
    let values = rig(43, 200);
    for device in &mut devices {
        device.send(&batch(&values, 0, 200)).await;
    }
    for device in &mut devices {
        device.prediction(0).await;
    }
    assert!(server.stop().await, "everything that was taken was told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newer_connection_takes_a_stream_over_from_dear_steps_too() {
    let server = server().await;
    let values = rig(44, 120);
    let mut older = pinned(&server, "rig-1").await;
    older.send(&batch(&values, 0, 100)).await;
    older.prediction(0).await;
    let mut newer = pinned(&server, "rig-1").await;
    let (_, code) = older.error_and_close().await;
    assert_eq!(code, 4502);
    let from = newer.welcome.resume_from as usize;
    newer.send(&batch(&values, from, 120)).await;
    newer.ack(119).await;
    let stored = server.samples("rig-1").await;
    let seqs: Vec<u64> = stored.iter().map(|sample| sample.seq).collect();
    assert_eq!(seqs, (0..120).collect::<Vec<u64>>());
    newer.read(plain(120)).await;
    newer.prediction(120).await;
}
