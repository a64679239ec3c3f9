//! Versions come, are promoted, rolled back and put away while devices stream.

mod command;
mod folder;
mod lanes;
mod repository;
mod swap;

use crate::common::TestServer;
use crate::common::http::{Answer, request};
use serde_json::{Value, json};
use std::net::SocketAddr;
use tidegate_protocol::message::Prediction;
use tidegate_protocol::{Output, Sample};

/// Readings after which both built-in versions are calibrated.
pub const CALIBRATED: usize = 450;
pub const MEWMA: &str = "mewma/1.0.0";
pub const AUTOENCODER: &str = "autoencoder/1.0.0";

/// `/api/v1/models/pump-health` and what follows it.
fn path(rest: &str) -> String {
    format!("/api/v1/models/pump-health/{rest}")
}

/// Asks for a change: who and why are the test's.
pub async fn change_at(addr: SocketAddr, rest: &str) -> Answer {
    let body = json!({"who": "ann", "why": "a test"}).to_string();
    request(addr, "POST", &path(rest), Some(&body)).await
}

pub async fn change(server: &TestServer, rest: &str) -> Answer {
    change_at(server.addr(), rest).await
}

/// Promotes and checks that it was done.
pub async fn promote(server: &TestServer, version: &str) -> Value {
    let answer = change(server, &format!("{version}/promote")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// What is said of a version.
pub async fn version(server: &TestServer, version: &str) -> Value {
    let answer = server.get(&path(version)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// The version in production.
pub async fn production(server: &TestServer) -> String {
    let models = server.get("/api/v1/models").await.json();
    let endpoints = models["endpoints"].as_array().expect("endpoints");
    let endpoint = endpoints.iter().find(|e| e["endpoint"] == "pump-health");
    let production = endpoint.expect("the endpoint")["production"].as_str();
    production.expect("a version").to_owned()
}

/// Waits until every stream in memory is where it belongs.
pub async fn moved(server: &TestServer) {
    crate::common::eventually("all streams are moved", || async {
        server.get("/api/v1/models").await.json()["moving"] == 0
    })
    .await;
}

pub fn by(prediction: &Prediction) -> String {
    format!("{}/{}", prediction.model, prediction.version)
}

/// All of them are answered by `version`, and none is part of a calibration.
pub fn check(predictions: &[Prediction], version: &str) {
    for prediction in predictions {
        assert_eq!(by(prediction), version, "{prediction:?}");
        let is_score = matches!(prediction.output, Output::Anomaly { .. });
        assert!(is_score, "{prediction:?}");
    }
}

/// The versions of stored samples in their order, each once where it serves on.
pub fn versions_in_order(samples: &[Sample]) -> Vec<String> {
    let names = samples.iter();
    let mut names: Vec<_> = names
        .map(|sample| format!("{}/{}", sample.model, sample.version))
        .collect();
    names.dedup();
    names
}
