//! The HTTP API: predictions, pages of samples and devices, problems, metrics.

use super::common::{TestServer, plain, rig};

const READING: &str =
    r#"{"seq":0,"ts":1770000000000,"values":[0.02,0.04,1.33,0.05,79.3,26.0,233.1,32.0]}"#;

#[tokio::test]
async fn a_prediction_is_answered_once_its_reading_is_stored() {
    let server = TestServer::start().await;
    let answer = server
        .post("/api/v1/pump-health/predict?device=rig-1", READING)
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = answer.json();
    assert_eq!(body["seq"], 0);
    assert_eq!(body["output"]["calibrating"]["seen"], 1);
    let stored = server.samples("rig-1").await;
    assert_eq!(stored.len(), 1, "stored before it was answered");
    let again = server
        .post("/api/v1/pump-health/predict?device=rig-1", READING)
        .await;
    assert_eq!(
        (again.status, again.json()["output"].clone()),
        (200, body["output"].clone())
    );
    assert_eq!(server.samples("rig-1").await.len(), 1);
}

#[tokio::test]
async fn what_cannot_be_predicted_is_a_problem_with_a_code() {
    let server = TestServer::start().await;
    let predict = "/api/v1/pump-health/predict?device=rig-1";
    server
        .post("/api/v1/nothing/predict?device=rig-1", READING)
        .await
        .problem(404, "unknown_endpoint");
    server
        .post(&format!("{predict}&version=none/1.0.0"), READING)
        .await
        .problem(404, "unknown_version");
    server
        .post("/api/v1/pump-health/predict", READING)
        .await
        .problem(422, "needs_history");
    server
        .post("/api/v1/pump-health/predict?device=rig%201", READING)
        .await
        .problem(400, "bad_request");
    server
        .post(predict, "not json")
        .await
        .problem(400, "bad_reading");
    server
        .post(predict, r#"{"seq":0,"values":[1,2]}"#)
        .await
        .problem(400, "bad_reading");
    let far = r#"{"seq":1,"values":[0.02,0.04,1.33,0.05,79.3,26.0,1e9,32.0]}"#;
    server.post(predict, far).await.problem(422, "out_of_range");
    assert_eq!(
        server
            .post(predict, &READING.replace("\"seq\":0", "\"seq\":2"))
            .await
            .status,
        200
    );
    let other = READING
        .replace("\"seq\":0", "\"seq\":2")
        .replace("1.33", "1.34");
    server
        .post(predict, &other)
        .await
        .problem(409, "seq_reused");
    server
        .post(predict, "[0.02,0.04,1.33,0.05,79.3,26.0,233.1,32.0]")
        .await
        .problem(409, "numbering");
    server
        .get("/api/v1/nothing")
        .await
        .problem(404, "not_found");
    server
        .post("/api/v1/devices", "")
        .await
        .problem(405, "method_not_allowed");
}

#[tokio::test]
async fn samples_are_paged_filtered_and_ordered() {
    let server = TestServer::start().await;
    let values = rig(3, 25);
    for name in ["rig-1", "rig-2"] {
        server.device(name).await.stream(&values, 0, 25).await;
    }
    assert_eq!(server.samples("rig-2").await.len(), 25);
    let first = server
        .get("/api/v1/samples?device=rig-1&limit=10")
        .await
        .json();
    assert_eq!(first["samples"].as_array().unwrap().len(), 10);
    let cursor = first["next_cursor"].as_str().unwrap();
    let next = server
        .get(&format!(
            "/api/v1/samples?device=rig-1&limit=10&cursor={cursor}"
        ))
        .await
        .json();
    assert_eq!(next["samples"][0]["seq"], 10);
    let newest = server
        .get("/api/v1/samples?device=rig-1&order=desc&limit=1")
        .await
        .json();
    assert_eq!(newest["samples"][0]["seq"], 24);
    let (from, to) = (
        super::common::START_MS + 3_000,
        super::common::START_MS + 6_000,
    );
    let window = server
        .get(&format!("/api/v1/samples?device=rig-1&from={from}&to={to}"))
        .await
        .json();
    let seqs: Vec<_> = window["samples"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(seqs, [3, 4, 5], "from is inclusive, to is exclusive");
    assert!(window["next_cursor"].is_null());
    for bad in [
        "limit=0",
        "limit=1001",
        "order=up",
        "cursor=x",
        "epoch=9007199254740992",
    ] {
        server
            .get(&format!("/api/v1/samples?{bad}"))
            .await
            .problem(400, "bad_request");
    }
}

#[tokio::test]
async fn devices_are_listed_with_their_last_answer() {
    let server = TestServer::start().await;
    let mut here = server.device("rig-1").await;
    here.still_works(0).await;
    let mut gone = server.device("rig-2").await;
    gone.still_works(4).await;
    drop(gone);
    super::common::eventually("rig-2 is offline", async || {
        let list = server.get("/api/v1/devices").await.json();
        list["devices"][1]["online"] == false
    })
    .await;
    let list = server
        .get("/api/v1/devices?endpoint=pump-health")
        .await
        .json();
    let devices = list["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 2);
    assert_eq!(devices[0]["device"], "rig-1");
    assert_eq!(devices[0]["online"], true);
    assert_eq!(devices[1]["last_seq"], 4);
    assert_eq!(devices[1]["samples"], 1);
    assert_eq!(devices[1]["output"]["calibrating"]["needed"], 400);
    let page = server.get("/api/v1/devices?limit=1").await.json();
    let cursor = page["next_cursor"].as_str().unwrap();
    let next = server
        .get(&format!("/api/v1/devices?limit=1&cursor={cursor}"))
        .await
        .json();
    assert_eq!(next["devices"][0]["device"], "rig-2");
}

#[tokio::test]
async fn endpoints_models_metrics_health_and_the_api_describe_the_server() {
    let server = TestServer::start().await;
    server
        .device("rig-1")
        .await
        .still_works(plain(0).seq.unwrap())
        .await;
    let endpoints = server.get("/api/v1/endpoints").await.json();
    assert_eq!(
        endpoints["endpoints"][0]["features"]
            .as_array()
            .unwrap()
            .len(),
        8
    );
    let models = server.get("/api/v1/models").await.json();
    let names: Vec<_> = models["models"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|m| m["endpoint"] == "pump-health")
        .map(|m| m["model"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["autoencoder", "mewma"]);
    let metrics = server.get("/metrics").await.body;
    for name in [
        "tidegate_readings_total",
        "tidegate_store_commits_total",
        "tidegate_stage_seconds_bucket",
    ] {
        assert!(metrics.contains(name), "{name} is missing");
    }
    assert!(!metrics.contains("rig-1"), "device ids are no labels");
    let ready = server.get("/health/ready").await;
    assert_eq!(
        (ready.status, ready.json()["ready"].clone()),
        (200, true.into())
    );
    let api = server.get("/openapi.json").await.json();
    for path in [
        "/api/v1/samples",
        "/api/v1/devices",
        "/api/v1/models",
        "/api/v1/models/reload",
        "/api/v1/models/{endpoint}/diff",
        "/api/v1/models/{endpoint}/rollback",
        "/api/v1/models/{endpoint}/{model}/{version}/promote",
        "/api/v1/endpoints",
        "/api/v1/{endpoint}/predict",
        "/metrics",
        "/health/live",
        "/health/ready",
        "/v1/live",
        "/v1/stream/{endpoint}",
    ] {
        assert!(api["paths"][path].is_object(), "{path} is not described");
    }
    let page = server.get("/").await;
    assert!(page.status == 200 && page.head.to_lowercase().contains("content-security-policy"));
}
