//! Steps that panic or give no number, and versions that keep failing.
//!
//! No version of the zoo can be made to fail by a reading, so the server gets one more: the zoo's chart behind a shell that breaks where a
//! test wants it to.

use super::lock::Intruder;
use super::row;
use crate::common::peer::wish;
use crate::common::{Device, Subscriber, TestServer, answer, bits, reading, rig};
use std::sync::Arc;
use tidegate_models::candle_core;
use tidegate_models::{Layout, Model, Output as Answer, Version, Zoo};
use tidegate_protocol::message::Prediction;
use tidegate_protocol::{Codec, DeviceMessage, LiveData, Output};

/// Readings after which the chart is calibrated.
const CALIBRATED: usize = 450;
/// Failed steps in a row that the tests' servers put up with.
const MOST: usize = 3;
/// A pressure at which the shell breaks; others do not come near it.
const PANICS: f32 = 99.0;
pub const GIVES_NAN: f32 = 98.0;
const PRESSURE: usize = 3;

/// A model that breaks at two pressures, after it has spoilt the state it was given.
struct Brittle(Arc<dyn Model>);

impl Model for Brittle {
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
        let answer = self.0.step(state, values);
        if values[PRESSURE] == PANICS {
            state.fill(f32::NAN);
            panic!("a step breaks, as this test wants it to");
        }
        if values[PRESSURE] == GIVES_NAN {
            state.fill(f32::NAN);
            return Answer::Anomaly {
                score: f32::NAN,
                threshold: 1.0,
                anomaly: false,
            };
        }
        answer
    }

    fn reference(&self, state: &mut [f32], values: &[f32]) -> candle_core::Result<Answer> {
        self.0.reference(state, values)
    }
}

/// The zoo with the version `brittle/1.0.0`, and `default` as the endpoint's default.
pub fn zoo(default: &str) -> Zoo {
    let mut zoo = Zoo::embedded().expect("the built-in zoo");
    let endpoint = zoo.endpoints.get_mut("pump-health").expect("its endpoint");
    let chart = &endpoint.versions["mewma/1.0.0"];
    let mut manifest = chart.manifest.clone();
    manifest.name = "brittle".into();
    let model = Arc::new(Brittle(Arc::clone(&chart.model)));
    let name = Arc::clone(&chart.endpoint);
    let version = Version::new(name, manifest, [7; 32], model);
    endpoint
        .versions
        .insert("brittle/1.0.0".into(), Arc::new(version));
    endpoint.manifest.default = default.into();
    zoo
}

pub async fn server(default: &str) -> TestServer {
    TestServer::start_serving(zoo(default), |raw| {
        raw.sessions.max_failed_steps = MOST as u32;
        raw.store.queue = 1_024;
    })
    .await
}

pub async fn pinned(server: &TestServer, version: &str) -> Device {
    let query = format!("device=rig-1&version={version}");
    server.device_with(&query, Codec::Json).await
}

async fn alerts(server: &TestServer) -> Subscriber {
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe(wish(1, "alerts/*/*")).await;
    subscriber
}

/// The next alert: its name and its text.
async fn alert(subscriber: &mut Subscriber) -> (String, String) {
    match subscriber.event().await.data {
        LiveData::Alert(alert) => (alert.alert, alert.message),
        other => panic!("{other:?}"),
    }
}

/// Readings of a rig, `at` of which carry a pressure that breaks the shell.
pub fn broken(seed: u64, count: usize, at: &[usize], pressure: f32) -> Vec<Vec<f32>> {
    let mut values = rig(seed, count);
    at.iter().for_each(|at| values[*at][PRESSURE] = pressure);
    values
}

fn by(prediction: &Prediction) -> String {
    format!("{}/{}", prediction.model, prediction.version)
}

fn failed(prediction: &Prediction) -> bool {
    matches!(prediction.output, Output::Failed(_))
}

#[tokio::test]
async fn a_step_that_panics_or_gives_no_number_leaves_the_state_as_it_was() {
    const COUNT: usize = CALIBRATED + 100;
    for (pressure, said) in [
        (PANICS, "the step panicked"),
        (GIVES_NAN, "the answer is not finite"),
    ] {
        let at = [10, 11, CALIBRATED + 20, COUNT - 1];
        let values = broken(31, COUNT, &at, pressure);
        let faulty = server("brittle/1.0.0").await;
        let mut device = faulty.device("rig-1").await;
        let predictions = device.stream(&values, 0, COUNT).await;
        for place in at {
            assert_eq!(predictions[place].output, Output::Failed(said.into()));
        }
        // A server that never saw those readings gives the same answers to all others.
        let calm = server("brittle/1.0.0").await;
        let mut other = calm.device("rig-1").await;
        let others: Vec<usize> = (0..COUNT).filter(|seq| !at.contains(seq)).collect();
        for chunk in others.chunks(100) {
            let readings = chunk.iter().map(|seq| reading(*seq as u64, &values[*seq]));
            other.send(&DeviceMessage::Batch(readings.collect())).await;
            for seq in chunk {
                let calm = other.prediction(*seq as u64).await;
                assert_eq!(answer(&calm), answer(&predictions[*seq]));
            }
        }
        let stored = faulty.samples("rig-1").await;
        let numbers: Vec<u64> = stored.iter().map(|sample| sample.seq).collect();
        assert_eq!(numbers, (0..COUNT as u64).collect::<Vec<_>>());
        assert!(faulty.stop().await, "something was not acknowledged");
    }
}

#[tokio::test]
async fn a_version_that_keeps_failing_gives_way_to_the_one_that_served_before() {
    let server = server("autoencoder/1.0.0").await;
    let mut alerts = alerts(&server).await;
    let at: Vec<usize> = (CALIBRATED + 10..CALIBRATED + 10 + MOST).collect();
    let values = broken(32, CALIBRATED + 200, &at, PANICS);
    let mut device = pinned(&server, "mewma/1.0.0").await;
    device.stream(&values, 0, CALIBRATED).await;
    let mut device = pinned(&server, "brittle/1.0.0").await;
    let end = CALIBRATED + 10 + MOST;
    let predictions = device.stream(&values, CALIBRATED, end).await;
    assert!(predictions.iter().all(|one| by(one) == "brittle/1.0.0"));
    assert_eq!(predictions.iter().filter(|one| failed(one)).count(), MOST);
    let (name, text) = alert(&mut alerts).await;
    assert_eq!(name, "failing");
    assert!(
        text.contains("brittle/1.0.0: moved to mewma/1.0.0"),
        "{text}"
    );
    let rest = device.stream(&values, end, values.len()).await;
    for prediction in &rest {
        assert_eq!(by(prediction), "mewma/1.0.0");
        assert!(
            matches!(prediction.output, Output::Anomaly { .. }),
            "{prediction:?}"
        );
    }
    let mut database = Intruder::open(&server.data_dir()).await;
    let reasons = database
        .texts("SELECT reason FROM stream_log WHERE kind = 1 ORDER BY pos")
        .await;
    assert_eq!(reasons, ["pinned", "pinned", "failing"]);
    // Every reading was stored once under the answer that was given for it.
    let stored = server.samples("rig-1").await;
    assert_eq!(stored.len(), values.len());
    for (sample, told) in stored[end..].iter().zip(&rest) {
        assert_eq!(row(sample).3, bits(&told.output));
    }
    assert!(server.stop().await, "something was not acknowledged");
}

#[tokio::test]
async fn a_stream_that_only_knew_the_failing_version_gets_the_default() {
    let server = server("mewma/1.0.0").await;
    let mut alerts = alerts(&server).await;
    let values = broken(33, 60, &[20, 21, 22], GIVES_NAN);
    let mut device = pinned(&server, "brittle/1.0.0").await;
    device.stream(&values, 0, 23).await;
    let (_, text) = alert(&mut alerts).await;
    assert!(text.contains("moved to mewma/1.0.0"), "{text}");
    let first = device.stream(&values, 23, 60).await.remove(0);
    // It has folded what did not fail: readings 0 to 19, and now this one.
    let expected = Output::Calibrating {
        seen: 21,
        needed: 400,
    };
    assert_eq!(
        (by(&first).as_str(), first.output),
        ("mewma/1.0.0", expected)
    );
}

/// It never knew another one: as if it had been there before the promotion.
#[tokio::test]
async fn a_new_stream_under_a_production_version_that_fails_gets_the_one_before() {
    let server = server("mewma/1.0.0").await;
    let mut alerts = alerts(&server).await;
    for version in ["autoencoder/1.0.0", "brittle/1.0.0"] {
        let path = format!("/api/v1/models/pump-health/{version}/promote");
        let told = server.post(&path, r#"{"who":"ann"}"#).await;
        assert_eq!(told.status, 200, "{told:?}");
    }
    let values = broken(39, 60, &[0, 1, 2], GIVES_NAN);
    let mut device = server.device("rig-1").await;
    let predictions = device.stream(&values, 0, MOST).await;
    assert!(predictions.iter().all(|one| by(one) == "brittle/1.0.0"));
    let (name, text) = alert(&mut alerts).await;
    assert_eq!(name, "failing");
    assert!(text.contains("moved to autoencoder/1.0.0"), "{text}");
    let rest = device.stream(&values, MOST, 60).await;
    assert!(rest.iter().all(|one| by(one) == "autoencoder/1.0.0"));
    assert!(!rest.iter().any(failed));
    // The version that was taken back is no one to go to.
    let rollback = "/api/v1/models/pump-health/rollback";
    let told = server.post(rollback, r#"{"who":"ann"}"#).await;
    assert_eq!(told.json()["version"], "autoencoder/1.0.0", "{told:?}");
}

#[tokio::test]
async fn a_failing_version_without_another_one_stays_and_says_so_once() {
    let server = server("brittle/1.0.0").await;
    let mut alerts = alerts(&server).await;
    let at: Vec<usize> = (10..30).chain(40..45).collect();
    let values = broken(34, 60, &at, PANICS);
    let mut device = server.device("rig-1").await;
    let predictions = device.stream(&values, 0, 60).await;
    assert!(predictions.iter().all(|one| by(one) == "brittle/1.0.0"));
    // Once for each run of failures: a good step lies between the two.
    for _ in 0..2 {
        let (name, text) = alert(&mut alerts).await;
        assert_eq!(name, "failing");
        assert!(text.contains("no other version"), "{text}");
    }
    let none = tokio::time::timeout(std::time::Duration::from_millis(200), alert(&mut alerts));
    assert!(none.await.is_err(), "a third alert");
}

#[tokio::test]
async fn fewer_failures_in_a_row_move_nothing_and_zero_turns_it_off() {
    // Never three in a row.
    let at: Vec<usize> = (10..50).filter(|seq| seq % 3 != 0).collect();
    let patient = server("mewma/1.0.0").await;
    let mut device = pinned(&patient, "brittle/1.0.0").await;
    let values = broken(35, 60, &at, PANICS);
    let predictions = device.stream(&values, 0, 60).await;
    assert!(predictions.iter().all(|one| by(one) == "brittle/1.0.0"));

    let never = TestServer::start_serving(zoo("mewma/1.0.0"), |raw| {
        raw.sessions.max_failed_steps = 0;
    })
    .await;
    let mut device = pinned(&never, "brittle/1.0.0").await;
    let at: Vec<usize> = (10..50).collect();
    let values = broken(36, 60, &at, PANICS);
    let predictions = device.stream(&values, 0, 60).await;
    assert!(predictions.iter().all(|one| by(one) == "brittle/1.0.0"));
}

#[tokio::test]
async fn a_reading_that_failed_under_one_version_is_not_folded_by_the_next_one_either() {
    let server = TestServer::start_serving(zoo("mewma/1.0.0"), |raw| {
        raw.sessions.max_failed_steps = 0;
    })
    .await;
    let values = broken(38, 30, &[20, 21, 22], PANICS);
    let mut device = pinned(&server, "brittle/1.0.0").await;
    // Stored with its answer, and not on its way any more.
    device.stream(&values, 0, 23).await;
    let mut device = pinned(&server, "mewma/1.0.0").await;
    let first = device.stream(&values, 23, 30).await.remove(0);
    let expected = Output::Calibrating {
        seen: 21,
        needed: 400,
    };
    assert_eq!(first.output, expected);
}

/// Rows that wait for the store are folded from where they wait.
#[tokio::test]
async fn a_failing_version_gives_way_while_the_store_takes_no_commit() {
    let server = server("mewma/1.0.0").await;
    let mut alerts = alerts(&server).await;
    let values = broken(37, 300, &[200, 201, 202], PANICS);
    let mut device = pinned(&server, "brittle/1.0.0").await;
    device.stream(&values, 0, 50).await;
    let mut intruder = Intruder::open(&server.data_dir()).await;
    intruder.hold().await;
    device.send(&crate::common::batch(&values, 50, 203)).await;
    device.prediction(202).await;
    let (_, text) = alert(&mut alerts).await;
    assert!(text.contains("moved to mewma/1.0.0"), "{text}");
    device.send(&crate::common::batch(&values, 203, 300)).await;
    let first = device.prediction(203).await;
    let expected = Output::Calibrating {
        seen: 201,
        needed: 400,
    };
    assert_eq!(
        (by(&first).as_str(), first.output),
        ("mewma/1.0.0", expected)
    );
    intruder.release().await;
    device.ack(299).await;
    let stored = server.samples("rig-1").await;
    assert_eq!(stored.len(), values.len());
}
