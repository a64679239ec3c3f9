//! The Open Inference Protocol, as its clients speak it: JSON, binary tensors, a stream behind `parameters.device`.

use super::common::http::{Answer, request_with};
use super::common::{TestServer, rig};
use serde_json::{Value, json};

const MODEL: &str = "/v2/models/pump-health";

fn rows(count: usize) -> Vec<Vec<f32>> {
    rig(7, count)
}

fn infer_body(rows: &[Vec<f32>], parameters: Value) -> Value {
    json!({
        "id": "42",
        "parameters": parameters,
        "inputs": [{"name": "input", "shape": [rows.len(), 8], "datatype": "FP32", "data": rows}],
    })
}

fn error_of(answer: &Answer, status: u16) -> String {
    assert_eq!(answer.status, status, "{answer:?}");
    answer.json()["error"]
        .as_str()
        .expect("an error")
        .to_owned()
}

fn tensor<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let outputs = answer["outputs"].as_array().expect("outputs");
    let found = outputs.iter().find(|output| output["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {answer}"))
}

#[tokio::test]
async fn the_server_and_its_models_describe_themselves() {
    let server = TestServer::start().await;
    let about = server.get("/v2").await.json();
    assert_eq!(about["name"], "tidegate");
    assert_eq!(about["extensions"], json!(["binary_tensor_data"]));
    assert_eq!(server.get("/v2/health/live").await.json()["live"], true);
    assert_eq!(server.get("/v2/health/ready").await.json()["ready"], true);
    let model = server.get(MODEL).await.json();
    assert_eq!(model["name"], "pump-health");
    assert_eq!(
        model["versions"],
        json!(["autoencoder-1.0.0", "mewma-1.0.0"])
    );
    assert_eq!(model["inputs"][0]["shape"], json!([-1, 8]));
    let outputs = model["outputs"].as_array().expect("outputs");
    let names: Vec<_> = outputs
        .iter()
        .map(|output| output["name"].clone())
        .collect();
    assert_eq!(names, ["score", "threshold", "anomaly", "state"]);
    let version = format!("{MODEL}/versions/mewma-1.0.0");
    assert_eq!(server.get(&version).await.json()["name"], "pump-health");
    for ready in [format!("{MODEL}/ready"), format!("{version}/ready")] {
        assert_eq!(server.get(&ready).await.json()["ready"], true);
    }
}

#[tokio::test]
async fn tensors_are_described_before_a_version_has_answered() {
    let server = TestServer::start().await;
    let state = server.get("/v2/models/rig-state").await.json();
    let outputs = &state["outputs"];
    assert_eq!(outputs[1]["name"], "probabilities");
    let classes = outputs[1]["parameters"]["classes"].as_array();
    let count = classes.expect("classes by name").len();
    assert!(count > 1, "{state}");
    assert_eq!(outputs[1]["shape"], json!([-1, count]));
    let forecast = server.get("/v2/models/rig-forecast").await.json();
    assert_eq!(forecast["outputs"][0]["name"], "values");
    let horizon = &forecast["outputs"][0]["parameters"]["horizon"];
    assert_eq!(horizon, &json!([10.0, 30.0, 60.0, 120.0]));
}

#[tokio::test]
async fn rows_of_a_device_join_its_stream_and_are_answered_once_stored() {
    let server = TestServer::start().await;
    let (readings, infer) = (rows(450), format!("{MODEL}/infer"));
    let parameters = json!({"device": "rig-1", "epoch": 0, "seq": 0});
    let body = infer_body(&readings, parameters);
    let first = server.post(&infer, &body.to_string()).await;
    assert_eq!(first.status, 200, "{first:?}");
    let stored = server.samples("rig-1").await;
    assert_eq!(
        stored.len(),
        readings.len(),
        "stored before it was answered"
    );
    let answer = first.json();
    assert_eq!(
        (&answer["id"], &answer["model_version"]),
        (&json!("42"), &json!("mewma-1.0.0"))
    );
    assert_eq!(answer["parameters"]["last_seq"], 449);
    assert_eq!(tensor(&answer, "state")["data"][0], "calibrating 1/400");
    assert_eq!(tensor(&answer, "state")["data"][449], "ready");
    let tidegate_protocol::Output::Anomaly { score, .. } = stored[449].output else {
        panic!("calibrated by now: {:?}", stored[449]);
    };
    let told = tensor(&answer, "score")["data"][449]
        .as_f64()
        .expect("a score");
    assert_eq!((told as f32).to_bits(), score.to_bits());
    // The same rows again: the same answer, and nothing is stored twice.
    let again = server.post(&infer, &body.to_string()).await;
    assert_eq!(again.json()["outputs"], answer["outputs"]);
    assert_eq!(server.samples("rig-1").await.len(), readings.len());
}

#[tokio::test]
async fn binary_tensors_say_the_same_as_json() {
    let server = TestServer::start().await;
    let (readings, infer) = (rows(3), format!("{MODEL}/versions/mewma-1.0.0/infer"));
    let json_body = infer_body(&readings, json!({"device": "by-json"})).to_string();
    let by_json = server.post(&infer, &json_body).await.json();
    let bytes: Vec<u8> = readings
        .iter()
        .flatten()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let head = json!({
        "parameters": {"device": "by-bytes", "binary_data_output": true},
        "inputs": [{"name": "input", "shape": [3, 8], "datatype": "FP32",
            "parameters": {"binary_data_size": bytes.len()}}],
        "outputs": [{"name": "score"}, {"name": "state", "parameters": {"binary_data": false}}],
    })
    .to_string();
    let length = format!("Inference-Header-Content-Length: {}", head.len());
    let body = [head.as_bytes(), &bytes].concat();
    let answer = request_with(server.addr(), "POST", &infer, &[&length], &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let json_length = answer.header("inference-header-content-length");
    let (head, tail) = answer
        .bytes
        .split_at(json_length.expect("a length").parse().expect("a number"));
    let by_bytes: Value = serde_json::from_slice(head).expect("JSON");
    assert_eq!(tail.len(), 3 * size_of::<f32>());
    assert_eq!(
        tensor(&by_bytes, "score")["parameters"]["binary_data_size"],
        12
    );
    assert_eq!(
        tensor(&by_bytes, "state")["data"],
        tensor(&by_json, "state")["data"]
    );
}

#[tokio::test]
async fn what_cannot_be_inferred_is_an_error_of_the_protocol() {
    let server = TestServer::start().await;
    let (good, infer) = (rows(2), format!("{MODEL}/infer"));
    let post = async |path: &str, body: Value| server.post(path, &body.to_string()).await;
    let unknown = post("/v2/models/nothing/infer", infer_body(&good, json!({}))).await;
    assert_eq!(error_of(&unknown, 404), "no model \"nothing\"");
    let unknown = post(
        &format!("{MODEL}/versions/9/infer"),
        infer_body(&good, json!({})),
    )
    .await;
    assert!(error_of(&unknown, 404).contains("it has autoencoder-1.0.0, mewma-1.0.0"));
    let alone = post(&infer, infer_body(&good, json!({}))).await;
    assert!(error_of(&alone, 422).contains("parameters.device"));
    let device = post(&infer, infer_body(&good, json!({"device": "rig 1"}))).await;
    assert!(error_of(&device, 400).starts_with("parameters.device"));
    let mut short = infer_body(&good, json!({"device": "rig-1"}));
    short["inputs"][0]["shape"] = json!([2, 7]);
    let short = post(&infer, short).await;
    assert_eq!(
        error_of(&short, 400),
        "input \"input\": data has more than 14 elements"
    );
    let mut wild = good.clone();
    wild[1][6] = 1e9;
    let wild = post(&infer, infer_body(&wild, json!({"device": "rig-1"}))).await;
    assert!(error_of(&wild, 422).starts_with("row 1: voltage"));
    let broken = server.post(&infer, "{").await;
    assert!(error_of(&broken, 400).starts_with("request: "));
    assert!(
        server.samples("rig-1").await.is_empty(),
        "nothing of a refused request is taken"
    );
}
