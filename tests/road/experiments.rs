//! Experiments on live devices: who gets which version, what is told of it, and what happens when one is stopped, promoted or fails.

use super::common::peer::wish;
use super::common::{Device, Postgres, TestServer, eventually, plain, reading, rig};
use super::faults::steps;
use super::lifecycle::{AUTOENCODER, MEWMA, by, moved, production};
use serde_json::{Value, json};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tidegate_experiments::Split;
use tidegate_protocol::live::Event;
use tidegate_protocol::{Codec, LiveData, LiveMessage, Output};

/// Two arms, half and half, with what `change` changes.
pub fn declared(name: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut experiment = json!({
        "name": name,
        "endpoint": "pump-health",
        "kind": "ab",
        "arms": [
            {"name": "control", "version": MEWMA, "weight": 0.5},
            {"name": "challenger", "version": AUTOENCODER, "weight": 0.5}
        ],
        "metrics": [
            {"measure": "missing_predictions", "role": "primary", "direction": "lower_is_better", "margin": 0.01}
        ]
    });
    change(&mut experiment);
    json!({"who": "ann", "why": "a test", "experiment": experiment}).to_string()
}

pub async fn begin(server: &TestServer, body: &str) -> Value {
    let answer = server.post("/api/v1/experiments", body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

pub async fn act(server: &TestServer, rest: &str, more: Value) -> Value {
    let mut body = json!({"who": "bob", "why": "enough"});
    if let Some(arm) = more.as_str() {
        body["arm"] = arm.into();
    }
    let path = format!("/api/v1/experiments/{rest}");
    let answer = server.post(&path, &body.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

pub async fn shown(server: &TestServer, name: &str) -> Value {
    server
        .get(&format!("/api/v1/experiments/{name}"))
        .await
        .json()
}

/// The arm that the hash gives a device, and its version.
fn expected(name: &str, device: &str) -> (&'static str, &'static str) {
    let split = Split::new(&[0.5, 0.5], 1.0).expect("a split");
    match split.assign(name, device).expect("all take part").arm {
        0 => ("control", MEWMA),
        _ => ("challenger", AUTOENCODER),
    }
}

pub async fn serves(device: &mut Device, seq: u64) -> String {
    device.read(plain(seq)).await;
    let prediction = device.prediction(seq).await;
    device.ack(seq).await;
    by(&prediction)
}

#[tokio::test]
async fn a_declaration_that_cannot_be_is_refused_with_its_field() {
    let server = TestServer::start().await;
    let refused = async |status: u16, code: &str, body: String| {
        server
            .post("/api/v1/experiments", &body)
            .await
            .problem(status, code)
    };
    let one = |change: fn(&mut Value)| declared("one", change);
    let said = refused(
        404,
        "unknown_endpoint",
        one(|e| e["endpoint"] = "nowhere".into()),
    )
    .await;
    assert!(said.contains("nowhere"), "{said}");
    let unknown = one(|e| e["arms"][1]["version"] = "mewma/9.0.0".into());
    let said = refused(404, "unknown_version", unknown).await;
    assert!(said.starts_with("arms[1].version: "), "{said}");
    let said = refused(
        400,
        "bad_request",
        one(|e| e["arms"][1]["weight"] = json!(0.4)),
    )
    .await;
    assert!(said.contains("sum to 0.9"), "{said}");
    let margin = one(|e| _ = e["metrics"][0].as_object_mut().unwrap().remove("margin"));
    let said = refused(400, "bad_request", margin).await;
    assert!(said.starts_with("metrics[0].margin"), "{said}");
    let said = refused(400, "bad_request", one(|e| e["horizont_s"] = json!(5))).await;
    assert!(said.contains("horizont_s"), "{said}");
    let said = refused(
        400,
        "bad_request",
        one(|e| e["arms"][0]["weight"] = json!("half")),
    )
    .await;
    assert!(said.starts_with("experiment.arms[0].weight"), "{said}");
    begin(&server, &one(|_| {})).await;
    let said = refused(409, "name_taken", one(|_| {})).await;
    assert!(said.contains("one"), "{said}");
    let said = refused(409, "layer_taken", declared("two", |_| {})).await;
    assert!(said.contains("`one`"), "{said}");
    let body = json!({"who": "ann", "arm": "third"}).to_string();
    let promote = "/api/v1/experiments/one/promote";
    let said = server
        .post(promote, &body)
        .await
        .problem(404, "unknown_arm");
    assert!(said.contains("control, challenger"), "{said}");
    act(&server, "one/stop", Value::Null).await;
    let again = server.post("/api/v1/experiments/one/stop", &body).await;
    assert!(again.problem(409, "wrong_state").contains("is stopped"));
    begin(&server, &declared("two", |_| {})).await;
    let nobody = server.get("/api/v1/experiments/nobody").await;
    nobody.problem(404, "unknown_experiment");
    let listed = server.get("/api/v1/experiments").await.json();
    assert_eq!(listed["experiments"].as_array().expect("a list").len(), 2);
}

/// Devices get their arms, keep them over a restart, and go back to production when it is stopped.
async fn keeps_arms(server: TestServer) {
    const DEVICES: usize = 24;
    let names: Vec<String> = (0..DEVICES).map(|index| format!("rig-{index}")).collect();
    // One that streams already, and one that is there and cold.
    let mut early = server.device(&names[0]).await;
    assert_eq!(serves(&mut early, 0).await, MEWMA);
    begin(&server, &declared("one", |_| {})).await;
    moved(&server).await;
    assert_eq!(serves(&mut early, 1).await, expected("one", &names[0]).1);
    drop(early);
    for name in &names[1..] {
        let mut device = server.device(name).await;
        let (_, version) = expected("one", name);
        let welcome = &device.welcome;
        assert_eq!(
            format!("{}/{}", welcome.model, welcome.version),
            version,
            "{name}"
        );
        assert_eq!(serves(&mut device, 0).await, version);
    }
    let first = server.samples(&names[0]).await;
    assert_eq!(first[0].arm, None);
    assert_eq!(
        first[1].arm.as_deref(),
        Some(&*format!("one/{}", expected("one", &names[0]).0))
    );
    let server = server.restart().await;
    for name in &names[1..] {
        let (arm, version) = expected("one", name);
        let mut device = server.device(name).await;
        assert_eq!(serves(&mut device, 1).await, version);
        for sample in server.samples(name).await {
            assert_eq!(sample.arm, Some(format!("one/{arm}")));
        }
    }
    let mut open = server.device(&names[3]).await;
    act(&server, "one/stop", Value::Null).await;
    moved(&server).await;
    assert_eq!(serves(&mut open, 2).await, MEWMA);
    // One that was not in memory goes back when it loads.
    let server = server.restart().await;
    let mut cold = server.device(&names[4]).await;
    assert_eq!(serves(&mut cold, 2).await, MEWMA);
    for name in [&names[3], &names[4]] {
        let samples = server.samples(name).await;
        assert_eq!(samples[2].arm, None, "{samples:?}");
    }
    let shown = shown(&server, "one").await;
    assert_eq!(shown["state"], "stopped");
    let history = shown["history"].as_array().expect("a history");
    let told: Vec<_> = history
        .iter()
        .map(|row| (&row["who"], &row["what"], &row["evidence"]))
        .collect();
    assert_eq!(
        told,
        [
            (&json!("ann"), &json!("created"), &json!("a test")),
            (&json!("bob"), &json!("stopped"), &json!("enough"))
        ]
    );
}

#[tokio::test]
async fn devices_keep_their_arms_and_go_back_when_it_is_stopped() {
    keeps_arms(TestServer::start().await).await;
}

#[tokio::test]
async fn devices_keep_their_arms_on_postgres() {
    let postgres = Postgres::start().await;
    keeps_arms(TestServer::start_on(&postgres).await).await;
}

#[tokio::test]
async fn the_winner_is_promoted_and_pinned_streams_and_requests_stay_as_they_are() {
    let server = TestServer::start().await;
    let query = format!("device=rig-pinned&version={AUTOENCODER}");
    let mut pinned = server.device_with(&query, Codec::Json).await;
    assert_eq!(serves(&mut pinned, 0).await, AUTOENCODER);
    begin(&server, &declared("one", |_| {})).await;
    let names: Vec<String> = (0..8).map(|index| format!("rig-{index}")).collect();
    let mut devices = Vec::new();
    for name in &names {
        let mut device = server.device(name).await;
        assert_eq!(serves(&mut device, 0).await, expected("one", name).1);
        devices.push(device);
    }
    // A request over HTTP is of its device's stream.
    let path = "/api/v1/pump-health/predict?device=rig-http";
    let body = json!({"values": [0.02, 0.04, 1.33, 0.05, 79.3, 26.0, 233.1, 32.0]}).to_string();
    let answer = server.post(path, &body).await.json();
    let served = format!(
        "{}/{}",
        answer["model"].as_str().unwrap(),
        answer["version"].as_str().unwrap()
    );
    assert_eq!(served, expected("one", "rig-http").1);
    act(&server, "one/pause", Value::Null).await;
    let mut late = server.device("rig-late-1").await;
    assert_eq!(serves(&mut late, 0).await, MEWMA);
    assert_eq!(
        serves(&mut devices[1], 1).await,
        expected("one", &names[1]).1
    );
    act(&server, "one/resume", Value::Null).await;
    let told = act(&server, "one/promote", "challenger".into()).await;
    assert_eq!(told["state"], "promoted");
    assert_eq!(production(&server).await, AUTOENCODER);
    moved(&server).await;
    for (index, device) in devices.iter_mut().enumerate() {
        assert_eq!(serves(device, 2).await, AUTOENCODER, "{index}");
    }
    for name in &names {
        let samples = server.samples(name).await;
        assert_eq!(samples.last().expect("samples").arm, None, "{samples:?}");
    }
    assert_eq!(serves(&mut pinned, 1).await, AUTOENCODER);
    assert!(
        server
            .samples("rig-pinned")
            .await
            .iter()
            .all(|sample| sample.arm.is_none())
    );
}

/// Devices that are affected before a broken version must be gone.
const AFFECTED: usize = 100;

#[tokio::test]
async fn a_canary_with_a_broken_version_rolls_back_within_ten_seconds() {
    const BROKEN: &str = "brittle/1.0.0";
    let server = TestServer::start_serving(steps::zoo(MEWMA), |_| {}).await;
    let body = declared("canary", |e| {
        e["kind"] = "canary".into();
        e["arms"] = json!([{"name": "control", "version": MEWMA}, {"name": "challenger", "version": BROKEN}]);
        e["ramp"] = json!([{"share": 0.5, "hold_s": 3600}, {"share": 1.0, "hold_s": 3600}]);
    });
    begin(&server, &body).await;
    let mut broken = rig(1, 1).remove(0);
    broken[3] = steps::GIVES_NAN;
    let mut devices = Vec::new();
    let mut affected = 0;
    let mut since = Instant::now();
    for index in 0.. {
        if affected == AFFECTED {
            break;
        }
        let mut device = server.device(&format!("rig-{index}")).await;
        device.read(reading(0, &broken)).await;
        let prediction = device.prediction(0).await;
        let is_broken = by(&prediction) == BROKEN;
        assert_eq!(matches!(prediction.output, Output::Failed(_)), is_broken);
        affected += usize::from(is_broken);
        if affected < AFFECTED {
            since = Instant::now();
        }
        devices.push((device, is_broken));
    }
    eventually("the rollback", async || {
        shown(&server, "canary").await["state"] == "rolled_back"
    })
    .await;
    moved(&server).await;
    let took = since.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    for (device, _) in devices
        .iter_mut()
        .filter(|(_, is_broken)| *is_broken)
        .take(5)
    {
        device.read(reading(1, &broken)).await;
        assert_eq!(by(&device.prediction(1).await), MEWMA);
    }
    let shown = shown(&server, "canary").await;
    let last = shown["history"]
        .as_array()
        .expect("a history")
        .last()
        .cloned()
        .expect("a row");
    assert_eq!(last["who"], "tidegate");
    let evidence = last["evidence"].as_str().expect("a text");
    assert!(evidence.contains("outputs failed in arm 1"), "{evidence}");
    assert_eq!(production(&server).await, MEWMA);
}

/// A device at `rig-state` that has calibrated.
async fn calibrated(server: &TestServer, device: &str, values: &[Vec<f32>]) -> Device {
    let path = format!("rig-state?device={device}");
    let socket = Device::connect(server.addr(), &path, Codec::Json).await;
    let mut device = Device::welcomed(socket).await;
    device.stream(values, 0, values.len() - 2).await;
    device
}

#[tokio::test]
async fn labels_bring_a_verdict_that_promotes_the_better_version() {
    const DEVICES: usize = 32;
    const CHALLENGER: &str = "extra-trees/1.0.0";
    let server = TestServer::start().await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe(wish(1, "experiments/labels")).await;
    let body = declared("labels", |e| {
        e["endpoint"] = "rig-state".into();
        e["arms"][0]["version"] = "forest/1.1.0".into();
        e["arms"][1]["version"] = CHALLENGER.into();
        e["metrics"] = json!([{"measure": "accuracy", "role": "primary", "direction": "higher_is_better", "margin": 0.01}]);
        for (field, value) in [
            ("horizon_s", 3),
            ("wait_s", 2),
            ("min_s", 0),
            ("min_devices", 10),
            ("planned_devices", 32),
        ] {
            e[field] = value.into();
        }
        e["auto_promote"] = true.into();
    });
    let values = rig(1, 403);
    let mut devices = Vec::new();
    for index in 0..DEVICES {
        devices.push(calibrated(&server, &format!("rig-{index}"), &values).await);
    }
    begin(&server, &body).await;
    moved(&server).await;
    for (index, socket) in devices.iter_mut().enumerate() {
        let device = format!("rig-{index}");
        let predictions = socket.stream(&values, 401, 403).await;
        let version = by(predictions.last().expect("predictions"));
        let classes = predictions
            .into_iter()
            .filter_map(|prediction| match prediction.output {
                Output::Classification { label, .. } => Some((prediction.seq, label)),
                _ => None,
            });
        let classes: Vec<(u64, String)> = classes.collect();
        assert_eq!(classes.len(), 2, "{version} has calibrated");
        // The challenger is always right, the control in one of four devices.
        let is_right = version == CHALLENGER || index % 4 == 0;
        let item = |(seq, class): &(u64, String)| {
            let label = if is_right { class } else { "something else" };
            json!({"endpoint": "rig-state", "device": device, "seq": seq, "label": label})
        };
        let items: Vec<Value> = classes.iter().map(item).collect();
        let body = json!({ "feedback": items }).to_string();
        let given = server.post("/api/v1/feedback", &body).await.json();
        assert_eq!(given["stored"], json!(items.len()), "{given}");
    }
    let newest = Mutex::new(Value::Null);
    eventually("the promotion", async || {
        let results = server
            .get("/api/v1/experiments/labels/results")
            .await
            .json();
        *newest.lock().expect("no panic before") = results;
        shown(&server, "labels").await["state"] == "promoted"
    })
    .await;
    let results = newest.into_inner().expect("no panic before");
    let arms = &results["report"]["arms"];
    assert_eq!(arms[1]["coverage"], 1.0, "{results}");
    let words = results["report"]["comparisons"][0]["words"]
        .as_str()
        .expect("words");
    assert!(words.contains("better"), "{words}");
    let endpoints = server.get("/api/v1/models").await.json()["endpoints"].clone();
    let endpoint = endpoints
        .as_array()
        .expect("a list")
        .iter()
        .find(|e| e["endpoint"] == "rig-state");
    assert_eq!(endpoint.expect("it is there")["production"], CHALLENGER);
    let last = subscriber
        .expect("the end", |message| match message {
            LiveMessage::Event(Event {
                data: LiveData::Experiment(told),
                ..
            }) if told.state == "promoted" => Some(told.clone()),
            _ => None,
        })
        .await;
    assert_eq!(last.verdicts[0].verdict, "better", "{last:?}");
    let history = shown(&server, "labels").await["history"].clone();
    assert_eq!(history[1]["who"], "tidegate");
    assert!(
        history[1]["evidence"]
            .as_str()
            .expect("a text")
            .contains("better"),
        "{history}"
    );
    // After a restart the log gives the same numbers while it runs; this one is over and is in its history.
    let server = server.restart().await;
    assert_eq!(shown(&server, "labels").await["state"], "promoted");
}

#[tokio::test]
async fn the_same_log_gives_the_same_numbers_after_a_restart() {
    let server = TestServer::start().await;
    begin(&server, &declared("again", |e| e["horizon_s"] = json!(0.5))).await;
    for index in 0..10 {
        let mut device = server.device(&format!("rig-{index}")).await;
        for seq in 0..3 {
            serves(&mut device, seq).await;
        }
    }
    let results = async |server: &TestServer| {
        server.get("/api/v1/experiments/again/results").await.json()["report"]["arms"].clone()
    };
    let matured = |arms: &Value| {
        arms[0]["matured"].as_u64().unwrap_or(0) + arms[1]["matured"].as_u64().unwrap_or(0)
    };
    let newest = Mutex::new(Value::Null);
    eventually("all devices have matured", async || {
        let arms = results(&server).await;
        let matured = matured(&arms);
        *newest.lock().expect("no panic before") = arms;
        matured == 10
    })
    .await;
    let before = newest.into_inner().expect("no panic before");
    let server = server.restart().await;
    eventually("the same numbers", async || {
        results(&server).await == before
    })
    .await;
}

#[tokio::test]
async fn feedback_over_http_names_what_it_does_not_take_and_labels_a_stretch() {
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    for seq in 0..5 {
        serves(&mut device, seq).await;
    }
    let samples = server.samples("rig-1").await;
    let give = async |body: Value| {
        let answer = server.post("/api/v1/feedback", &body.to_string()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    let of = |seq: u64, label: Value| json!({"endpoint": "pump-health", "device": "rig-1", "seq": seq, "label": label});
    let told = give(json!({"sample": samples[0].id, "label": "normal"})).await;
    assert_eq!(
        (&told["stored"], &told["waiting"]),
        (&json!(1), &json!(0)),
        "{told}"
    );
    let told = give(json!({"feedback": [
        of(1, "anomaly".into()),
        of(1, "normal".into()),
        of(2, "worn".into()),
        of(77, "normal".into()),
        {"endpoint": "nowhere", "device": "rig-1", "seq": 1, "label": "normal"},
        {"sample": 999_999, "label": "normal"},
        {"device": "rig-1", "label": "normal"},
        {"endpoint": "pump-health", "device": "stranger", "seq": 1, "label": 1}
    ]}))
    .await;
    assert_eq!(
        (&told["stored"], &told["waiting"]),
        (&json!(2), &json!(2)),
        "{told}"
    );
    let refused: Vec<_> = told["refused"].as_array().expect("a list").iter().collect();
    let places: Vec<_> = refused
        .iter()
        .map(|one| one["index"].as_u64().expect("a place"))
        .collect();
    assert_eq!(places, [2, 4, 5, 6], "{told}");
    assert!(
        refused[0]["detail"]
            .as_str()
            .expect("a text")
            .contains("\"normal\" or \"anomaly\""),
        "{told}"
    );
    // It failed at the fourth reading: that one and the two before are labelled.
    let failed_at = samples[3].ts;
    let told = give(json!({"endpoint": "pump-health", "device": "rig-1", "failed_at": failed_at, "window_s": 2.5, "label": "anomaly"})).await;
    assert_eq!(told["stored"], 3, "{told}");
    let wrong = server.post("/api/v1/feedback", "[1]").await;
    wrong.problem(400, "bad_request");
    // A stranger's feedback makes no device of it.
    let devices = server.get("/api/v1/devices").await.json();
    assert_eq!(
        devices["devices"].as_array().expect("a list").len(),
        1,
        "{devices}"
    );
    device
        .say(r#"{"type":"feedback","seq":1,"label":"worn"}"#)
        .await;
    device
        .nack(Some(1), tidegate_protocol::NackCode::BadReading)
        .await;
}

#[tokio::test]
async fn a_bandit_sends_new_devices_to_the_version_that_answers() {
    const BROKEN: &str = "brittle/1.0.0";
    let server = TestServer::start_serving(steps::zoo(MEWMA), |_| {}).await;
    let body = declared("bandit", |e| {
        e["kind"] = "bandit".into();
        e["arms"] = json!([{"name": "control", "version": MEWMA}, {"name": "challenger", "version": BROKEN}]);
        for (field, value) in [("horizon_s", 0.2), ("min_s", 3600.0), ("learn_s", 0.2)] {
            e[field] = value.into();
        }
    });
    begin(&server, &body).await;
    let mut broken = rig(1, 1).remove(0);
    broken[3] = steps::GIVES_NAN;
    let broken = &broken;
    let send = async |from: usize, to: usize| {
        let mut challenged = 0;
        for index in from..to {
            let mut device = server.device(&format!("rig-{index}")).await;
            device.read(reading(0, broken)).await;
            challenged += usize::from(by(&device.prediction(0).await) == BROKEN);
            device.ack(0).await;
        }
        challenged
    };
    let before = send(0, 40).await;
    assert!((10..30).contains(&before), "{before}");
    let learned = async || {
        let shown = shown(&server, "bandit").await;
        let rows = shown["history"].as_array().expect("a history").clone();
        let last = rows.last().expect("a row")["what"]
            .as_str()
            .expect("a text")
            .to_owned();
        last.starts_with("learned: 0.9")
    };
    eventually("that the control is better", learned).await;
    let after = send(40, 80).await;
    assert!(after < 10, "{after}");
    // A device that came early is where it was drawn.
    let results = server
        .get("/api/v1/experiments/bandit/results")
        .await
        .json();
    assert_eq!(results["report"]["other_arm"], 0, "{results}");
}
