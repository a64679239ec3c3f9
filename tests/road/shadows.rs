//! Challengers in the shadow: answered for, compared, never heard.

use super::common::{Postgres, TestServer, eventually, rig};
use super::experiments::{act, begin, declared, serves, shown};
use super::faults::steps;
use super::lifecycle::{AUTOENCODER, MEWMA, by};
use serde_json::{Value, json};
use tidegate_protocol::Output;

/// A challenger in the shadow is answered for, compared and never heard.
async fn stays_in_the_shadow(server: TestServer) {
    const READINGS: usize = 460;
    let body = declared("shadow", |e| {
        e["kind"] = "shadow".into();
        e["arms"] = json!([{"name": "control", "version": MEWMA}, {"name": "challenger", "version": AUTOENCODER}]);
        e["metrics"] = json!([
            {"measure": "disagreement", "role": "primary", "direction": "lower_is_better", "margin": 0.05},
            {"measure": "mean_score", "role": "secondary", "direction": "lower_is_better", "margin": 0.1}
        ]);
        e["block_s"] = json!(0.05);
        e["min_blocks"] = 2.into();
        e["auto_rollback"] = false.into();
    });
    // One that was calibrated before the challenger came.
    let values = rig(4, READINGS);
    let mut early = server.device("rig-early").await;
    early.stream(&values, 0, 450).await;
    begin(&server, &body).await;
    let results = async || server.get("/api/v1/experiments/shadow/results").await;
    eventually("the shadow is there", async || {
        results().await.status == 200
    })
    .await;
    let mut heard = early.stream(&values, 450, READINGS).await;
    let mut device = server.device("rig-1").await;
    heard.extend(device.stream(&rig(5, READINGS), 0, READINGS).await);
    assert!(heard.iter().all(|prediction| by(prediction) == MEWMA));
    let expected = (READINGS + READINGS - 450) as u64;
    let answered = async || results().await.json()["shadow_predictions"] == json!(expected);
    eventually("an answer to every reading", answered).await;
    let told = results().await.json();
    let words = told["report"]["comparisons"][0]["words"]
        .as_str()
        .expect("words")
        .to_owned();
    assert!(
        words.contains("challenger") && words.contains("blocks"),
        "{words}"
    );
    assert_eq!(told["report"]["arms"][1]["exposed"], 2);
    for sample in server.samples("rig-1").await {
        assert_eq!((sample.model.as_str(), sample.arm), ("mewma", None));
    }
    // What is stored is counted again, and readings go on being answered.
    let server = server.restart().await;
    let results = async || server.get("/api/v1/experiments/shadow/results").await;
    let answered = async |count: u64| {
        let told = results().await;
        told.status == 200 && told.json()["shadow_predictions"] == json!(count)
    };
    eventually("the same count", async || answered(expected).await).await;
    let mut device = server.device("rig-1").await;
    serves(&mut device, READINGS as u64).await;
    eventually("one more", async || answered(expected + 1).await).await;
    act(&server, "shadow/stop", Value::Null).await;
}

#[tokio::test]
async fn a_challenger_in_the_shadow_is_compared_and_never_heard() {
    stays_in_the_shadow(TestServer::start().await).await;
}

#[tokio::test]
async fn a_challenger_stays_in_the_shadow_on_postgres() {
    let postgres = Postgres::start().await;
    stays_in_the_shadow(TestServer::start_on(&postgres).await).await;
}

#[tokio::test]
async fn a_shadow_that_fails_is_ended_and_no_device_notices() {
    const BROKEN: &str = "brittle/1.0.0";
    let server = TestServer::start_serving(steps::zoo(MEWMA), |_| {}).await;
    let body = declared("shadow", |e| {
        e["kind"] = "shadow".into();
        e["arms"] = json!([{"name": "control", "version": MEWMA}, {"name": "challenger", "version": BROKEN}]);
    });
    begin(&server, &body).await;
    let mut values = rig(1, 150);
    values
        .iter_mut()
        .for_each(|reading| reading[3] = steps::GIVES_NAN);
    let mut device = server.device("rig-1").await;
    let predictions = device.stream(&values, 0, 150).await;
    assert!(
        predictions
            .iter()
            .all(|one| !matches!(one.output, Output::Failed(_)))
    );
    eventually("its end", async || {
        shown(&server, "shadow").await["state"] == "rolled_back"
    })
    .await;
    let history = shown(&server, "shadow").await["history"].clone();
    assert!(
        history[1]["evidence"]
            .as_str()
            .expect("a text")
            .contains("outputs failed"),
        "{history}"
    );
}
