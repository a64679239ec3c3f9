//! What goes on behind the road: retention, room, roll-ups, and recalibration from outside.

use crate::common::{Device, Process, TestServer, answer, eventually, reading, rig};
use std::time::Duration;
use tidegate_protocol::message::Prediction;
use tidegate_protocol::{Codec, DeviceMessage, NackCode, Output, Reading};

/// Readings that make a database of more than a megabyte.
const MANY: usize = 16_000;

fn answers(predictions: &[Prediction]) -> Vec<impl PartialEq + std::fmt::Debug + use<>> {
    predictions.iter().map(answer).collect()
}

async fn first_id(server: &TestServer) -> u64 {
    let page = server.get("/api/v1/samples?limit=1").await.json();
    page["samples"][0]["id"].as_u64().expect("a sample")
}

/// Readings in the roll-ups by hour.
async fn rolled_up(server: &TestServer, device: &str) -> u64 {
    let path = format!("/api/v1/rollups?endpoint=pump-health&device={device}&span=hour");
    let page = server.get(&path).await.json();
    let rollups = page["rollups"].as_array().expect("a list").clone();
    rollups.iter().filter_map(|r| r["count"].as_u64()).sum()
}

/// Readings of months ago that the device knows to be old.
fn back_filled(values: &[Vec<f32>]) -> DeviceMessage {
    let readings = (0..).zip(values).map(|(seq, values)| Reading {
        historical: true,
        ..reading(seq, values)
    });
    DeviceMessage::Batch(readings.collect())
}

async fn stream_all(
    device: &mut Device,
    values: &[Vec<f32>],
    from: usize,
    to: usize,
) -> Vec<Prediction> {
    let mut predictions = Vec::new();
    for start in (from..to).step_by(200) {
        predictions.extend(device.stream(values, start, to.min(start + 200)).await);
    }
    predictions
}

#[tokio::test]
async fn retention_takes_the_oldest_samples_and_never_what_a_fold_or_a_switch_needs() {
    let values = rig(31, MANY + 200);
    let whole = TestServer::start().await;
    let cut = TestServer::start_with(|raw| raw.store.max_bytes = 1_000_000).await;
    for server in [&whole, &cut] {
        stream_all(&mut server.device("rig-1").await, &values, 0, MANY).await;
    }
    eventually("retention", || async { first_id(&cut).await > 4_000 }).await;
    assert_eq!(first_id(&whole).await, 1);
    // Roll-ups outlive the readings.
    eventually("the roll-ups", || async {
        rolled_up(&cut, "rig-1").await == MANY as u64
    })
    .await;

    // Both come back from snapshot and log; one of them has little log left.
    let (whole, cut) = (whole.restart().await, cut.restart().await);
    let mut goes_on = Vec::new();
    for server in [&whole, &cut] {
        let mut device = server.device("rig-1").await;
        assert_eq!(device.welcome.resume_from, MANY as u64);
        let mut predictions = stream_all(&mut device, &values, MANY, MANY + 100).await;
        drop(device);
        // The other version calibrates on the stream's first readings, which retention has taken from the samples.
        let query = "device=rig-1&version=autoencoder/1.0.0";
        let mut device = server.device_with(query, Codec::Json).await;
        predictions.extend(stream_all(&mut device, &values, MANY + 100, MANY + 200).await);
        assert!(matches!(predictions[100].output, Output::Anomaly { .. }));
        goes_on.push(answers(&predictions));
    }
    assert_eq!(goes_on[0], goes_on[1]);
}

#[tokio::test]
async fn a_number_whose_row_is_retired_is_taken_for_good() {
    let values = rig(32, MANY);
    let server = TestServer::start_with(|raw| raw.store.max_bytes = 1_000_000).await;
    let mut device = server.device("rig-1").await;
    stream_all(&mut device, &values, 0, MANY).await;
    eventually("retention", || async { first_id(&server).await > 1_000 }).await;
    device.read(reading(5, &values[5])).await;
    device.nack(Some(5), NackCode::AlreadyTaken).await;
}

#[tokio::test]
async fn a_small_database_makes_room_in_time_and_keeps_nobody_out() {
    let values = rig(34, 3 * MANY);
    let server = TestServer::start_with(|raw| raw.store.max_bytes = 1_000_000).await;
    let mut device = server.device("rig-1").await;
    let streaming = async {
        stream_all(&mut device, &values, 0, 3 * MANY).await;
    };
    tokio::pin!(streaming);
    let refused = |body: &str| body.contains(r#""store":"full""#);
    loop {
        tokio::select! {
            () = &mut streaming => break,
            ready = server.get("/health/ready") => assert!(!refused(&ready.body), "{ready:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(first_id(&server).await > 1_000, "it had to make room");
    // Each reading counts once, however the roll-ups were hurried.
    eventually("the roll-ups", || async {
        rolled_up(&server, "rig-1").await == 3 * MANY as u64
    })
    .await;
}

#[tokio::test]
async fn a_nearly_full_disk_keeps_new_readings_out_and_says_so() {
    let server = TestServer::start_with(|raw| {
        raw.store.min_free_bytes = 1 << 52;
        raw.connections.overload_close_s = 1;
    })
    .await;
    eventually("the look at the disk", || async {
        server
            .get("/metrics")
            .await
            .body
            .contains("tidegate_store_full 1")
    })
    .await;
    let mut device = server.device("rig-1").await;
    device.read(crate::common::plain(0)).await;
    let (error, code) = device.error_and_close().await;
    assert_eq!((error.code.as_str(), code), ("overloaded", 4013));
    assert!(error.message.contains("store.min_free_bytes"), "{error:?}");
    assert!(error.retry_after_ms.is_some());
    let body = r#"{"seq":0,"values":[0.02,0.04,1.33,0.05,79.3,26.0,233.1,32.0]}"#;
    let answer = server
        .post("/api/v1/pump-health/predict?device=rig-2", body)
        .await;
    let detail = answer.problem(503, "overloaded");
    assert!(detail.contains("store.min_free_bytes"), "{detail}");
    assert!(server.samples("rig-1").await.is_empty());
    assert!(
        server
            .get("/health/ready")
            .await
            .body
            .contains(r#""store":"full""#)
    );
}

#[tokio::test]
async fn roll_ups_add_readings_up_by_the_minute_they_were_measured_in() {
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    // Reading n is measured n seconds after the start, which is a full minute.
    let values: Vec<_> = (0..130)
        .map(|n| vec![n as f32 / 128.0, 0.04, 1.33, 0.05, 79.3, 26.0, 233.1, 32.0])
        .collect();
    device.send(&back_filled(&values)).await;
    device.ack(129).await;
    eventually("the roll-ups", || async {
        rolled_up(&server, "rig-1").await == 130
    })
    .await;
    let path = "/api/v1/rollups?endpoint=pump-health&device=rig-1";
    let page = server.get(path).await.json();
    let counts: Vec<_> = page["rollups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["count"].as_u64().unwrap())
        .collect();
    assert_eq!(counts, [60, 60, 10]);
    let first = &page["rollups"][0]["features"][0];
    assert_eq!(
        (
            first["mean"].as_f64(),
            first["min"].as_f64(),
            first["max"].as_f64()
        ),
        (Some(29.5 / 128.0), Some(0.0), Some(59.0 / 128.0))
    );
    // A restart counts nothing twice.
    let server = server.restart().await;
    let mut device = server.device("rig-1").await;
    device.stream(&rig(1, 140), 130, 140).await;
    eventually("the roll-ups", || async {
        rolled_up(&server, "rig-1").await == 140
    })
    .await;
    assert_eq!(page["feature_names"][2], "current");
    let minute = format!("{path}&from=2026-02-02T02:41:00Z&to=2026-02-02T02:42:00Z");
    let page = server.get(&minute).await.json();
    assert_eq!(page["rollups"][0]["count"], 60, "{page}");
}

#[tokio::test]
async fn roll_ups_of_nothing_say_what_is_not_there() {
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    device.stream(&rig(1, 3), 0, 3).await;
    let path = "/api/v1/rollups?endpoint=pump-health&device=rig-1";
    for (more, said) in [
        ("&span=day", "span"),
        ("&from=soon", "from: \"soon\": expected RFC 3339"),
        ("&epoch=5", "unknown field \"epoch\""),
        ("&import=9007199254740992", "import is at most"),
    ] {
        let problem = server.get(&format!("{path}{more}")).await;
        let detail = problem.problem(400, "bad_request");
        assert!(detail.contains(said), "{more}: {detail}");
    }
    let other = |device: &str| format!("/api/v1/rollups?endpoint=pump-health&device={device}");
    let answer = server.get(&other("rig-2")).await;
    answer.problem(404, "unknown_device");
    let answer = server.get(&format!("{path}&import=5")).await;
    assert!(answer.problem(404, "unknown_device").contains("import 5"));
    let answer = server
        .get("/api/v1/rollups?endpoint=nothing&device=rig-1")
        .await;
    answer.problem(404, "unknown_endpoint");
    // A device that is known and has none in the range is no mistake.
    let answer = server
        .get(&format!("{path}&from=9999-01-01T00:00:00Z"))
        .await;
    assert_eq!(answer.json()["rollups"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn an_operator_sets_a_device_back_and_it_calibrates_anew_over_a_kill() {
    let values = rig(33, 60);
    let dir = tempfile::tempdir().unwrap();
    let server = Process::serve(dir.path(), &[]).await;
    let mut device = Device::open(server.addr(), "device=rig-1", Codec::Json).await;
    device.stream(&values, 0, 50).await;
    let url = format!("http://{}", server.addr());
    let reset = |device: &'static str| {
        let url = url.clone();
        async move {
            Process::run(&[
                "reset",
                "--endpoint",
                "pump-health",
                "--device",
                device,
                "--url",
                &url,
            ])
            .await
        }
    };
    let (status, said) = reset("rig-1").await;
    assert!(status.success(), "{said}");
    server.kill().await;

    let server = Process::serve(dir.path(), &[]).await;
    let mut device = Device::open(server.addr(), "device=rig-1", Codec::Json).await;
    let predictions = device.stream(&values, 50, 60).await;
    assert!(
        matches!(predictions[0].output, Output::Calibrating { seen: 1, .. }),
        "{:?}",
        predictions[0]
    );
    let answer = crate::common::http::request(
        server.addr(),
        "POST",
        "/api/v1/pump-health/reset?device=nobody",
        None,
    )
    .await;
    answer.problem(404, "unknown_device");
}
