//! Pins: another version on a new and on an existing stream.

use crate::common::{Device, Home, TestServer, rig};
use crate::faults::{metric, stored_as_if_undisturbed};
use futures_util::future::join_all;
use tidegate_protocol::message::Prediction;
use tidegate_protocol::{Codec, Output};

/// Readings after which both versions are calibrated.
const CALIBRATED: usize = 450;

async fn pinned(server: &TestServer, version: &str) -> Device {
    let query = format!("device=rig-1&version={version}");
    let device = server.device_with(&query, Codec::Json).await;
    let told = format!("{}/{}", device.welcome.model, device.welcome.version);
    assert_eq!(told, version);
    device
}

/// All are answered by this version and none is part of a calibration.
fn check(predictions: &[Prediction], version: &str) {
    for prediction in predictions {
        let by = format!("{}/{}", prediction.model, prediction.version);
        assert_eq!(by, version, "{prediction:?}");
        assert!(
            matches!(prediction.output, Output::Anomaly { .. }),
            "{prediction:?}"
        );
    }
}

#[tokio::test]
async fn a_pin_on_a_new_stream_answers_from_the_first_reading() {
    let server = TestServer::start().await;
    let mut device = pinned(&server, "autoencoder/1.0.0").await;
    let values = rig(1, CALIBRATED);
    let predictions = device.stream(&values, 0, CALIBRATED).await;
    let first = &predictions[0];
    assert_eq!(
        (first.model.as_str(), first.version.as_str()),
        ("autoencoder", "1.0.0")
    );
    assert!(
        matches!(first.output, Output::Calibrating { seen: 1, .. }),
        "{first:?}"
    );
    check(&predictions[CALIBRATED - 1..], "autoencoder/1.0.0");
    let stored = server.samples("rig-1").await;
    assert!(stored.iter().all(|sample| sample.model == "autoencoder"));
}

#[tokio::test]
async fn a_pin_on_a_served_stream_switches_without_a_second_calibration_and_back() {
    let server = TestServer::start().await;
    let values = rig(1, CALIBRATED + 60);
    let mut device = server.device("rig-1").await;
    assert_eq!(device.welcome.model, "mewma");
    let served = device.stream(&values, 0, CALIBRATED).await;
    check(&served[CALIBRATED - 1..], "mewma/1.0.0");
    drop(device);
    let mut from = CALIBRATED;
    for version in ["autoencoder/1.0.0", "mewma/1.0.0", "autoencoder/1.0.0"] {
        let mut device = pinned(&server, version).await;
        assert_eq!(device.welcome.resume_from, from as u64);
        check(&device.stream(&values, from, from + 20).await, version);
        from += 20;
    }
    // The readings before the switch keep the answer they got.
    let stored = server.samples("rig-1").await;
    let by = |model: &str| stored.iter().filter(|s| s.model == model).count();
    assert_eq!((by("mewma"), by("autoencoder")), (CALIBRATED + 20, 40));
}

#[tokio::test]
async fn a_switched_stream_goes_on_after_a_restart() {
    let server = TestServer::start().await;
    let values = rig(2, CALIBRATED + 20);
    let mut device = server.device("rig-1").await;
    device.stream(&values, 0, CALIBRATED).await;
    let mut device = pinned(&server, "autoencoder/1.0.0").await;
    let (from, to) = (CALIBRATED, CALIBRATED + 10);
    check(&device.stream(&values, from, to).await, "autoencoder/1.0.0");
    drop(device);
    let server = server.restart().await;
    let mut device = pinned(&server, "autoencoder/1.0.0").await;
    let after = device.stream(&values, to, to + 10).await;
    check(&after, "autoencoder/1.0.0");
}

#[tokio::test]
async fn dear_steps_take_turns_and_answer_as_if_they_ran_where_the_reading_is() {
    let home = Home::sqlite();
    let server = home
        .serve_changed(&[], |command| {
            command.env("TIDEGATE_INFERENCE__INLINE_BELOW_US", "0");
            command.env("TIDEGATE_INFERENCE__CORES", "1");
        })
        .await;
    let streams = (0..4).map(async |seed| {
        let (values, name) = (rig(seed, CALIBRATED), format!("rig-{seed}"));
        let query = format!("device={name}");
        let mut device = Device::open(server.addr(), &query, Codec::Json).await;
        device.stream(&values, 0, values.len()).await;
        (name, values)
    });
    for (name, values) in join_all(streams).await {
        stored_as_if_undisturbed(server.addr(), &name, &values).await;
    }
    assert_eq!(metric(server.addr(), "tidegate_steps_waiting").await, 0.0);
}
