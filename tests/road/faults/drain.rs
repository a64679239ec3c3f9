//! A server that is told to stop in the middle of work: it finishes what it took, or says how much of it it did not.

use super::lock::Intruder;
use super::stored_as_if_undisturbed;
use crate::common::http::{Answer, request, samples};
use crate::common::{Broker, Device, Process, batch, eventually, reading, rig};
use crate::mqtt::{passes, subscribed};
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use tempfile::TempDir;
use tidegate_protocol::Codec;

/// A server whose log goes to a file as JSON.
async fn serve(dir: &TempDir, more: &[&str], variables: &[(&str, &str)]) -> Process {
    Process::serve_with(&dir.path().join("data"), more, |command| {
        let log = File::create(log_of(dir)).expect("a file for the log");
        command
            .env("TIDEGATE_LOG_FORMAT", "json")
            .envs(variables.iter().copied())
            .stderr(log);
    })
    .await
}

fn log_of(dir: &TempDir) -> std::path::PathBuf {
    dir.path().join("log")
}

/// What the log says was left undone.
fn left(dir: &TempDir) -> serde_json::Value {
    let log = std::fs::read_to_string(log_of(dir)).expect("a log");
    let line = log.lines().find(|line| line.contains("not_committed"));
    let line = line.unwrap_or_else(|| panic!("nothing was left undone: {log}"));
    let event: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
    event["fields"].clone()
}

/// Sends reading `seq` over HTTP and waits for the answer in a task of its own.
fn ask(addr: SocketAddr, seq: u64) -> tokio::task::JoinHandle<Answer> {
    tokio::spawn(async move {
        let path = "/api/v1/pump-health/predict?device=caller";
        let values = "[0.02,0.04,1.33,0.05,79.3,26.0,233.1,32.0]";
        let body = format!(r#"{{"seq":{seq},"ts":1770000000000,"values":{values}}}"#);
        request(addr, "POST", path, Some(&body)).await
    })
}

/// Until so many readings came over HTTP.
async fn asked(addr: SocketAddr, count: u32) {
    let wanted = format!("tidegate_readings_total{{door=\"http\"}} {count}\n");
    eventually("the request", || async {
        let metrics = request(addr, "GET", "/metrics", None).await;
        metrics.body.contains(&wanted)
    })
    .await;
}

async fn intruder(dir: &TempDir) -> Intruder {
    let data: &Path = &dir.path().join("data");
    let mut intruder = Intruder::open(data).await;
    intruder.hold().await;
    intruder
}

#[tokio::test]
async fn a_stop_acknowledges_and_answers_everything_that_came_over_mqtt() {
    const COUNT: usize = 200;
    let (dir, values) = (tempfile::tempdir().unwrap(), rig(41, COUNT));
    let broker = Broker::start().await;
    let url = broker.url();
    let more = ["--mqtt-url", url.as_str()];
    // Commits are rare, so that the stop finds readings that are not committed.
    let variables = [("TIDEGATE_STORE__COMMIT_INTERVAL_MS", "500")];
    let server = serve(&dir, &more, &variables).await;
    let mut peer = broker.peer().await;
    subscribed(&mut peer).await;
    for (seq, values) in values.iter().enumerate() {
        peer.read("rig-1", Codec::Json, reading(seq as u64, values))
            .await;
    }
    peer.prediction("rig-1", COUNT as u64 - 1).await;
    server.terminate().await;
    peer.ack("rig-1", COUNT as u64 - 1).await;
    assert!(server.exit().await.success(), "the stop was not clean");

    // The broker has nothing to deliver again.
    let server = serve(&dir, &more, &[]).await;
    peer.read("rig-1", Codec::Json, reading(COUNT as u64, &values[0]))
        .await;
    peer.ack("rig-1", COUNT as u64).await;
    let metrics = request(server.addr(), "GET", "/metrics", None).await.body;
    assert!(!metrics.contains("tidegate_duplicates_total"), "{metrics}");
    assert_eq!(samples(server.addr(), "rig-1").await.len(), COUNT + 1);
}

#[tokio::test]
async fn a_stop_waits_for_requests_until_their_reading_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&dir, &[], &[]).await;
    let addr = server.addr();
    let mut intruder = intruder(&dir).await;
    let answer = ask(addr, 0);
    asked(addr, 1).await;
    server.terminate().await;
    // The listener closes first: from then on the request is one that a stop found in flight.
    eventually("a closed port", || async {
        tokio::net::TcpStream::connect(addr).await.is_err()
    })
    .await;
    intruder.release().await;
    let answer = answer.await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(server.exit().await.success(), "the stop was not clean");
    let server = serve(&dir, &[], &[]).await;
    assert_eq!(samples(server.addr(), "caller").await.len(), 1);
}

#[tokio::test]
async fn a_stop_that_cannot_commit_says_how_many_readings_it_left() {
    const COUNT: usize = 500;
    const LEFT: usize = 25;
    let (dir, values) = (tempfile::tempdir().unwrap(), rig(42, COUNT));
    let server = serve(&dir, &[], &[("TIDEGATE_CONNECTIONS__DRAIN_S", "1")]).await;
    let addr = server.addr();
    let mut device = Device::open(addr, "device=rig-1", Codec::Json).await;
    device.stream(&values, 0, COUNT - LEFT).await;
    let mut intruder = intruder(&dir).await;
    device.send(&batch(&values, COUNT - LEFT, COUNT)).await;
    device.prediction(COUNT as u64 - 1).await;
    let answer = ask(addr, 0);
    asked(addr, 1).await;
    server.terminate().await;
    let (error, code) = device.error_and_close().await;
    assert_eq!((error.code.as_str(), code), ("shutting_down", 4001));
    assert!(
        error.message.contains("send what is not acked again"),
        "{error:?}"
    );
    answer.await.unwrap().problem(503, "overloaded");
    assert_eq!(server.exit().await.code(), Some(1));
    let left = left(&dir);
    assert_eq!(left["readings_not_committed"], LEFT + 1, "{left}");
    assert_eq!(left["readings_not_acked"], LEFT, "{left}");
    assert_eq!(left["peers_not_told"], 0, "{left}");

    intruder.release().await;
    let server = serve(&dir, &[], &[]).await;
    let mut device = Device::open(server.addr(), "device=rig-1", Codec::Json).await;
    let from = usize::try_from(device.welcome.resume_from).unwrap();
    assert_eq!(from, COUNT - LEFT);
    device.stream(&values, from, COUNT).await;
    stored_as_if_undisturbed(server.addr(), "rig-1", &values).await;
}

#[tokio::test]
async fn a_stop_without_its_broker_says_how_many_publishes_and_answers_it_left() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start().await;
    let url = broker.url();
    let server = serve(&dir, &["--mqtt-url", &url], &[]).await;
    let mut peer = broker.peer().await;
    subscribed(&mut peer).await;
    passes(&mut peer, "rig-1", 0).await;
    let mut intruder = intruder(&dir).await;
    for seq in 1..5 {
        peer.read("rig-1", Codec::Json, crate::common::plain(seq))
            .await;
        peer.prediction("rig-1", seq).await;
    }
    drop(broker);
    intruder.release().await;
    eventually("the commits", || async {
        samples(server.addr(), "rig-1").await.len() == 5
    })
    .await;
    server.terminate().await;
    assert_eq!(server.exit().await.code(), Some(1));
    let left = left(&dir);
    assert_eq!(left["readings_not_committed"], 0, "{left}");
    assert_eq!(
        left["publishes_not_acknowledged"], 0,
        "a lost connection's: {left}"
    );
    // One cumulative ack at least.
    assert!(left["answers_not_said"].as_u64() >= Some(1), "{left}");
}
