//! How devices and versions are, as people and Prometheus are told.

use crate::common::{ENDPOINT, TestServer, eventually, plain, reading};
use serde_json::{Value, json};

async fn device(server: &TestServer, id: &str) -> Value {
    let answer = server
        .get(&format!("/api/v1/devices/{ENDPOINT}/{id}"))
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[tokio::test]
async fn a_device_says_what_is_missing_and_what_is_odd() {
    let server = TestServer::start().await;
    let mut rig = server.device("rig-1").await;
    rig.read(plain(0)).await;
    // Numbers 1 to 3 are skipped; a temperature far outside of its range.
    let mut odd = reading(4, &[0.02, 0.04, 1.33, 0.05, 79.3, 26.0, 233.1, 32.0]);
    odd.ts = None;
    rig.read(odd).await;
    rig.ack(4).await;
    eventually("both readings are seen", || async {
        device(&server, "rig-1").await["readings"]["readings"] == 2
    })
    .await;
    let one = device(&server, "rig-1").await;
    assert_eq!(one["online"], true);
    assert_eq!(one["gaps"], json!([[1, 3]]), "{one}");
    assert_eq!(one["missing_readings"], 3);
    assert_eq!(one["calibration"], "calibrating");
    assert_eq!(one["readings"]["calibrating"], json!([2, 400]), "{one}");
    assert_eq!(one["features"].as_array().map(Vec::len), Some(8));
    assert_eq!(one["features"][1]["unchanged"], 2);
    // The tests' devices send times of long ago.
    assert_eq!(one["issues"], json!(["clock_skew"]), "{one}");
    let listed = server.get("/api/v1/devices").await.json();
    assert_eq!(listed["devices"][0]["issues"], json!(["clock_skew"]));
    assert!(
        listed["devices"][0]["rate"]
            .as_f64()
            .is_some_and(|rate| rate > 0.0)
    );
}

#[tokio::test]
async fn a_device_that_never_came_is_not_found() {
    let server = TestServer::start().await;
    let path = |endpoint: &str, id: &str| format!("/api/v1/devices/{endpoint}/{id}");
    let answer = server.get(&path(ENDPOINT, "nobody")).await;
    answer.problem(404, "unknown_device");
    let answer = server.get(&path("nothing", "rig-1")).await;
    answer.problem(404, "unknown_endpoint");
    server
        .get(&path("No-Name", "x"))
        .await
        .problem(400, "bad_request");
}

#[tokio::test]
async fn each_version_has_its_rate_its_times_and_its_scores() {
    let server = TestServer::start().await;
    let mut rig = server.device("rig-of-versions").await;
    rig.read(plain(0)).await;
    rig.ack(0).await;
    let labels = r#"endpoint="pump-health",version="mewma/1.0.0""#;
    eventually("the version is counted", || async {
        let metrics = server.get("/metrics").await.body;
        let counted = format!("tidegate_version_predictions_total{{{labels}}}");
        let timed = format!("tidegate_version_seconds_count{{{labels},stage=\"commit\"}}");
        metrics.contains(&counted) && metrics.contains(&timed)
    })
    .await;
}
