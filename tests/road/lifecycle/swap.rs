//! Promotions and rollbacks under streams that go on.

use super::{
    AUTOENCODER, CALIBRATED, MEWMA, by, change, check, moved, production, promote, version,
    versions_in_order,
};
use crate::common::{Device, Postgres, TestServer, batch, reading, rig};
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tidegate_models::rig::Rig;
use tidegate_protocol::message::Prediction;
use tidegate_protocol::{Codec, DeviceMessage, Output, ServerMessage};
use tokio::task::JoinSet;

/// Devices that stream while versions change.
const DEVICES: usize = 6;
/// Answers of each by one version before the next one is promoted.
const ENOUGH: u64 = 60;

/// Who answers each device, and how often in a row; and whether they are to stop.
struct Watch {
    answers: Vec<Mutex<(String, u64)>>,
    is_over: AtomicBool,
}

impl Watch {
    fn note(&self, device: usize, version: String, answers: u64) {
        let mut newest = self.answers[device].lock().expect("no panic before");
        if newest.0 != version {
            *newest = (version, 0);
        }
        newest.1 += answers;
    }

    /// Waits until each device was answered often enough by this version.
    async fn all_by(&self, version: &str) {
        let is_enough = |newest: &Mutex<(String, u64)>| {
            let newest = newest.lock().expect("no panic before");
            newest.0 == version && newest.1 >= ENOUGH
        };
        crate::common::eventually("each device is answered by it", async || {
            self.answers.iter().all(is_enough)
        })
        .await;
    }
}

/// Streams a few readings after the other, each few when those before are acked, until it is told to stop; all that was heard, and how
/// many readings there were.
async fn stream_on(
    mut device: Device,
    number: usize,
    watch: Arc<Watch>,
) -> (Vec<ServerMessage>, usize) {
    let mut source = Rig::new(number as u64);
    let mut values: Vec<Vec<f32>> = Vec::new();
    let mut take = |values: &mut Vec<Vec<f32>>, count: usize| {
        values.extend((0..count).map(|_| source.next_reading().0.to_vec()));
    };
    take(&mut values, CALIBRATED);
    while !watch.is_over.load(Ordering::Relaxed) {
        let from = values.len();
        take(&mut values, 5);
        device.send(&batch(&values, from, from + 5)).await;
        let last = device.prediction(from as u64 + 4).await;
        watch.note(number, by(&last), 5);
        device.ack(from as u64 + 4).await;
    }
    (device.heard().to_vec(), values.len())
}

/// One answer a reading, none of them a calibration or a failure; first by the one version, then by the other.
fn check_stream(heard: &[ServerMessage], count: usize, versions: &[&str]) {
    let mut seqs = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for message in heard {
        match message {
            ServerMessage::Prediction(prediction) if prediction.seq >= CALIBRATED as u64 => {
                seqs.push(prediction.seq);
                let is_score = matches!(prediction.output, Output::Anomaly { .. });
                assert!(is_score, "{prediction:?}");
                names.push(by(prediction));
            }
            ServerMessage::Error(_) | ServerMessage::Nack(_) | ServerMessage::Gap(_) => {
                panic!("{message:?}")
            }
            _ => {}
        }
    }
    let expected: Vec<u64> = (CALIBRATED as u64..count as u64).collect();
    assert_eq!(seqs, expected, "each reading has one prediction");
    names.dedup();
    assert_eq!(names, versions);
}

/// Promotes and rolls back while devices stream; a new one comes every now and then meanwhile.
async fn promotes_under_load(server: &TestServer) {
    let answers = (0..DEVICES).map(|_| Mutex::default()).collect();
    let is_over = AtomicBool::new(false);
    let watch = Arc::new(Watch { answers, is_over });
    let mut streaming = JoinSet::new();
    for number in 0..DEVICES {
        let mut device = server.device(&format!("rig-{number}")).await;
        let values = rig(number as u64, CALIBRATED);
        device.stream(&values, 0, CALIBRATED).await;
        let stream = stream_on(device, number, Arc::clone(&watch));
        streaming.spawn(async move { (number, stream.await) });
    }
    watch.all_by(MEWMA).await;
    let told = promote(server, AUTOENCODER).await;
    assert_eq!(told["replaced"], MEWMA, "{told}");
    for late in 0..3 {
        let device = server.device(&format!("late-{late}")).await;
        assert_eq!(device.welcome.model, "autoencoder");
    }
    moved(server).await;
    watch.all_by(AUTOENCODER).await;
    let told = change(server, "rollback").await.json();
    assert_eq!(told["version"], MEWMA, "{told}");
    watch.all_by(MEWMA).await;
    watch.is_over.store(true, Ordering::Relaxed);
    let versions = [MEWMA, AUTOENCODER, MEWMA];
    while let Some(ended) = streaming.join_next().await {
        let (number, (heard, count)) = ended.expect("it ends");
        check_stream(&heard, count, &versions);
        let stored = server.samples(&format!("rig-{number}")).await;
        let seqs: Vec<u64> = stored.iter().map(|sample| sample.seq).collect();
        assert_eq!(seqs, (0..count as u64).collect::<Vec<_>>());
        assert_eq!(versions_in_order(&stored), versions);
    }
}

#[tokio::test]
async fn every_reading_has_one_prediction_while_versions_are_promoted_and_rolled_back() {
    promotes_under_load(&TestServer::start().await).await;
}

#[tokio::test]
async fn a_promotion_on_postgres_answers_every_reading_too() {
    let postgres = Postgres::start().await;
    promotes_under_load(&TestServer::start_on(&postgres).await).await;
}

/// Streams `from..to` and checks who answers.
async fn answered(
    device: &mut Device,
    values: &[Vec<f32>],
    from: usize,
    to: usize,
    version: &str,
) -> Vec<Prediction> {
    let predictions = device.stream(values, from, to).await;
    check(&predictions, version);
    predictions
}

/// A rig whose vibration is far off from reading `from` on.
fn broken_from(seed: u64, count: usize, from: usize) -> Vec<Vec<f32>> {
    let mut values = rig(seed, count);
    for reading in &mut values[from..] {
        reading[0] *= 20.0;
        reading[1] *= 20.0;
    }
    values
}

#[tokio::test]
async fn a_fault_in_progress_is_not_learned_as_normal() {
    let server = TestServer::start().await;
    let fault = CALIBRATED + 50;
    let values = broken_from(3, fault + 100, fault);
    let mut device = server.device("rig-1").await;
    device.stream(&values, 0, CALIBRATED).await;
    let seen = answered(&mut device, &values, CALIBRATED, fault + 40, MEWMA).await;
    let is_anomaly = |prediction: &Prediction| {
        matches!(prediction.output, Output::Anomaly { anomaly: true, .. })
    };
    assert!(is_anomaly(seen.last().expect("some")), "the fault is seen");
    promote(&server, AUTOENCODER).await;
    moved(&server).await;
    let after = answered(&mut device, &values, fault + 40, fault + 100, AUTOENCODER).await;
    assert!(after.iter().all(is_anomaly), "and goes on being seen");
}

#[tokio::test]
async fn a_stream_that_still_calibrates_goes_on_where_it_was() {
    let server = TestServer::start().await;
    let values = rig(4, 300);
    let mut device = server.device("rig-1").await;
    device.stream(&values, 0, 200).await;
    promote(&server, AUTOENCODER).await;
    moved(&server).await;
    let first = device.stream(&values, 200, 300).await.remove(0);
    assert_eq!(by(&first), AUTOENCODER);
    let Output::Calibrating { seen, .. } = first.output else {
        panic!("{first:?}")
    };
    assert_eq!(seen, 201);
}

#[tokio::test]
async fn a_cold_stream_is_moved_when_it_loads() {
    let server = TestServer::start().await;
    let values = rig(5, CALIBRATED + 40);
    let mut device = server.device("rig-1").await;
    device.stream(&values, 0, CALIBRATED).await;
    drop(device);
    let server = server.restart().await;
    promote(&server, AUTOENCODER).await;
    let mut device = server.device("rig-1").await;
    assert_eq!(device.welcome.model, "autoencoder");
    answered(
        &mut device,
        &values,
        CALIBRATED,
        CALIBRATED + 20,
        AUTOENCODER,
    )
    .await;
    // The same over HTTP, where a stream is opened by its reading.
    drop(device);
    let server = server.restart().await;
    change(&server, "rollback").await;
    let next = reading(CALIBRATED as u64 + 20, &values[CALIBRATED + 20]);
    let body = serde_json::to_string(&next).expect("JSON");
    let told = server
        .post("/api/v1/pump-health/predict?device=rig-1", &body)
        .await;
    assert_eq!(told.json()["model"], "mewma", "{told:?}");
}

#[tokio::test]
async fn a_pinned_stream_stays_until_it_is_released() {
    let server = TestServer::start().await;
    let values = rig(6, CALIBRATED + 200);
    let query = format!("device=rig-1&version={MEWMA}");
    let mut device = server.device_with(&query, Codec::Json).await;
    device.stream(&values, 0, CALIBRATED).await;
    promote(&server, AUTOENCODER).await;
    moved(&server).await;
    let mut at = CALIBRATED;
    let mut next = || {
        at += 20;
        (at - 20, at)
    };
    let (from, to) = next();
    answered(&mut device, &values, from, to, MEWMA).await;
    drop(device);
    // Over a restart, and with its pin asked for again, it is the same.
    let server = server.restart().await;
    let mut device = server.device_with(&query, Codec::Json).await;
    let (from, to) = next();
    answered(&mut device, &values, from, to, MEWMA).await;
    // A connection that asks for nothing gets what is in production.
    let mut device = server.device("rig-1").await;
    assert_eq!(device.welcome.model, "autoencoder");
    let (from, to) = next();
    answered(&mut device, &values, from, to, AUTOENCODER).await;
    // And follows it from then on.
    change(&server, "rollback").await;
    moved(&server).await;
    let (from, to) = next();
    answered(&mut device, &values, from, to, MEWMA).await;
}

#[tokio::test]
async fn a_pin_on_the_version_in_production_holds_when_another_is_promoted() {
    let server = TestServer::start().await;
    let values = rig(7, CALIBRATED + 60);
    let mut device = server.device("rig-1").await;
    device.stream(&values, 0, CALIBRATED).await;
    let query = format!("device=rig-1&version={MEWMA}");
    let mut device = server.device_with(&query, Codec::Json).await;
    answered(&mut device, &values, CALIBRATED, CALIBRATED + 20, MEWMA).await;
    promote(&server, AUTOENCODER).await;
    moved(&server).await;
    let (from, to) = (CALIBRATED + 20, CALIBRATED + 40);
    answered(&mut device, &values, from, to, MEWMA).await;
}

#[tokio::test]
async fn a_status_asks_for_the_version_that_has_it() {
    let server = TestServer::start().await;
    let query = "device=rig-1&status=staging";
    let mut peer = Device::connect(
        server.addr(),
        &format!("{}?{query}", crate::common::ENDPOINT),
        Codec::Json,
    )
    .await;
    let (error, code) = crate::common::peer::error_and_close(&mut peer).await;
    assert_eq!(code, 4501, "{error:?}");
    let body = r#"{"who":"ann","why":"a candidate","status":"staging"}"#;
    let told = server
        .post(&super::path(&format!("{AUTOENCODER}/status")), body)
        .await;
    assert_eq!(told.status, 200, "{told:?}");
    let mut device = server.device_with(query, Codec::Json).await;
    assert_eq!(device.welcome.model, "autoencoder");
    device.still_works(0).await;
    assert_eq!(production(&server).await, MEWMA);
}

#[tokio::test]
async fn the_status_and_its_history_are_there_after_a_restart() {
    let server = TestServer::start().await;
    promote(&server, AUTOENCODER).await;
    let server = server.restart().await;
    assert_eq!(production(&server).await, AUTOENCODER);
    let device = server.device("new").await;
    assert_eq!(device.welcome.model, "autoencoder");
    let told = version(&server, AUTOENCODER).await;
    let newest = &told["history"][0];
    assert_eq!(
        (&newest["status"], &newest["who"], &newest["why"]),
        (&"production".into(), &"ann".into(), &"a test".into())
    );
    assert!(newest["at"].as_i64() > Some(0), "{newest}");
    let told = version(&server, MEWMA).await;
    let statuses: Vec<&Value> = told["history"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| &row["status"])
        .collect();
    assert_eq!(statuses, ["production", "archived"]);
    change(&server, "rollback").await;
    assert_eq!(production(&server).await, MEWMA);
    let nothing = change(&server, "rollback").await;
    let detail = nothing.problem(409, "nothing_before");
    assert!(detail.contains("pump-health"), "{detail}");
    let server = server.restart().await;
    assert_eq!(production(&server).await, MEWMA);
}

#[tokio::test]
async fn a_device_that_resets_meanwhile_calibrates_anew_under_either_version() {
    let server = TestServer::start().await;
    let values = rig(8, CALIBRATED + 40);
    let mut device = server.device("rig-1").await;
    device.stream(&values, 0, CALIBRATED).await;
    device.send(&DeviceMessage::Reset).await;
    promote(&server, AUTOENCODER).await;
    moved(&server).await;
    let first = device
        .stream(&values, CALIBRATED, CALIBRATED + 20)
        .await
        .remove(0);
    assert_eq!(by(&first), AUTOENCODER);
    let is_first = matches!(first.output, Output::Calibrating { seen: 1, .. });
    assert!(is_first, "{first:?}");
}
