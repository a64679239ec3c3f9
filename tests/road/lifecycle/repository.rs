//! What lies in the folder of models: noticed, refused, kept; and what may be promoted.

use super::folder::{Folder, replace};
use super::{AUTOENCODER, MEWMA, change, path, production, promote, version};
use crate::common::server::{config, run};
use crate::common::{TestServer, eventually};
use serde_json::Value;
use std::fs;
use tidegate::config::RawConfig;

/// A server on a folder that it looks at only when it is told to.
async fn server_on(folder: &Folder) -> TestServer {
    TestServer::start_with(|raw| {
        raw.models_dir = Some(folder.path().to_owned());
        raw.inference.look_every_s = 0;
    })
    .await
}

async fn reload(server: &TestServer) -> Value {
    let answer = server.post("/api/v1/models/reload", "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn mistakes(of: &Value) -> String {
    of["mistakes"].to_string()
}

/// The server still answers by the version that it was started with.
async fn goes_on(server: &TestServer) {
    assert_eq!(production(server).await, MEWMA);
    let name = format!("still-{}", server.samples("any").await.len());
    server.device(&name).await.still_works(0).await;
}

#[tokio::test]
async fn a_version_that_is_added_is_noticed_and_can_be_promoted() {
    let folder = Folder::new();
    let server = TestServer::start_with(|raw| {
        raw.models_dir = Some(folder.path().to_owned());
        raw.inference.look_every_s = 1;
    })
    .await;
    let mut device = server.device("rig-1").await;
    device.still_works(0).await;
    folder.add("1.1.0");
    eventually("it is ready", || async {
        let answer = server.get(&path("mewma/1.1.0")).await;
        answer.status == 200 && answer.json()["ready"] == true
    })
    .await;
    promote(&server, "mewma/1.1.0").await;
    super::moved(&server).await;
    device.read(crate::common::plain(1)).await;
    assert_eq!(device.prediction(1).await.version, "1.1.0");
}

#[tokio::test]
async fn a_version_that_was_added_a_moment_ago_is_promoted_without_waiting_for_a_look() {
    let folder = Folder::new();
    let server = TestServer::start_with(|raw| {
        raw.models_dir = Some(folder.path().to_owned());
        raw.inference.look_every_s = 0;
    })
    .await;
    folder.add("1.1.0");
    promote(&server, "mewma/1.1.0").await;
    assert_eq!(production(&server).await, "mewma/1.1.0");
}

#[tokio::test]
async fn a_reload_tells_what_it_loaded_and_a_second_one_nothing() {
    let folder = Folder::new();
    let server = server_on(&folder).await;
    folder.add("1.1.0");
    let told = reload(&server).await;
    assert_eq!(
        told["loaded"],
        serde_json::json!(["pump-health/mewma/1.1.0"])
    );
    let told = reload(&server).await;
    assert_eq!(told["loaded"], serde_json::json!([]));
    assert_eq!(mistakes(&told), "[]");
}

#[tokio::test]
async fn a_version_that_fails_to_load_is_told_and_takes_nothing_from_the_others() {
    let folder = Folder::new();
    let server = server_on(&folder).await;
    folder.add_with("1.1.0", |dir| {
        replace(&dir.join("model.toml"), "lambda = 0.1 ", "lambda = 0.2 ");
    });
    folder.add_with("1.2.0", |dir| {
        fs::remove_file(dir.join("golden.json")).expect("a file");
        replace(
            &dir.join("model.toml"),
            "memory = 1000",
            "memory = \"many\"",
        );
    });
    folder.add("1.3.0");
    let told = reload(&server).await;
    assert_eq!(
        told["loaded"],
        serde_json::json!(["pump-health/mewma/1.3.0"])
    );
    for part in ["golden.json", "outputs[", "memory", "1.2.0/golden.json"] {
        assert!(mistakes(&told).contains(part), "{part} is not in {told}");
    }
    for broken in ["mewma/1.1.0", "mewma/1.2.0"] {
        assert_eq!(version(&server, broken).await["ready"], false);
        let refused = change(&server, &format!("{broken}/promote")).await;
        let detail = refused.problem(409, "not_ready");
        assert!(detail.contains("golden.json"), "{detail}");
    }
    let health = server.get("/metrics").await.body;
    assert!(
        health.contains("tidegate_versions{state=\"not_ready\"}"),
        "{health}"
    );
    goes_on(&server).await;
    // Put right, it is ready.
    folder.edit(
        "mewma/1.1.0",
        "model.toml",
        "lambda = 0.2 ",
        "lambda = 0.1 ",
    );
    assert_eq!(
        reload(&server).await["loaded"],
        serde_json::json!(["pump-health/mewma/1.1.0"])
    );
    promote(&server, "mewma/1.1.0").await;
}

#[tokio::test]
async fn two_versions_of_one_name_are_refused_with_both_hashes() {
    let folder = Folder::new();
    let server = server_on(&folder).await;
    let before = version(&server, MEWMA).await;
    let first = before["hash"].as_str().expect("a hash").to_owned();
    folder.edit(MEWMA, "model.toml", "The Tidegate authors", "Someone");
    let told = mistakes(&reload(&server).await);
    assert!(
        told.contains(&first) && told.contains("never changes"),
        "{told}"
    );
    let now = version(&server, MEWMA).await;
    assert_eq!(
        (&now["hash"], &now["ready"]),
        (&before["hash"], &false.into())
    );
    goes_on(&server).await;
    // A version that does not serve is refused at the next start, with both hashes; the server starts.
    folder.edit(MEWMA, "model.toml", "Someone", "The Tidegate authors");
    folder.edit(AUTOENCODER, "model.toml", "created", "# changed\ncreated");
    let server = server.restart().await;
    let told = version(&server, AUTOENCODER).await;
    let said = mistakes(&told);
    let hash = told["hash"].as_str().expect("a hash");
    assert!(
        said.contains(hash) && said.contains("recorded is"),
        "{said}"
    );
    assert_eq!(told["ready"], false);
    goes_on(&server).await;
}

#[tokio::test]
async fn a_half_written_folder_is_left_alone() {
    let folder = Folder::new();
    let server = server_on(&folder).await;
    let dir = folder.version("mewma/1.1.0");
    fs::create_dir_all(&dir).expect("a folder");
    let golden = folder.version(MEWMA).join("golden.json");
    fs::copy(golden, dir.join("golden.json")).expect("a copy");
    let told = reload(&server).await;
    assert_eq!(
        told["unsettled"],
        serde_json::json!(["pump-health/mewma/1.1.0"])
    );
    assert_eq!(mistakes(&told), "[]");
    let told = version(&server, "mewma/1.1.0").await;
    assert_eq!((&told["ready"], &told["hash"]), (&false.into(), &"".into()));
    assert!(mistakes(&told).contains("no model.toml yet"), "{told}");
    let refused = change(&server, "mewma/1.1.0/promote").await;
    let detail = refused.problem(409, "not_ready");
    assert!(detail.contains("no model.toml yet"), "{detail}");
    // One that is being put together under a dot is not seen at all.
    let aside = folder.version("mewma/.1.2.0-copying");
    fs::create_dir_all(&aside).expect("a folder");
    fs::write(aside.join("model.toml"), "half").expect("a file");
    assert_eq!(
        reload(&server).await["unsettled"].as_array().map(Vec::len),
        Some(1)
    );
    let text = fs::read_to_string(folder.version(MEWMA).join("model.toml")).expect("a file");
    let text = text.replacen("version = \"1.0.0\"", "version = \"1.1.0\"", 1);
    fs::write(dir.join("model.toml"), text).expect("a file");
    let told = reload(&server).await;
    assert_eq!(
        told["loaded"],
        serde_json::json!(["pump-health/mewma/1.1.0"])
    );
    assert_eq!(version(&server, "mewma/1.1.0").await["ready"], true);
    // One that is given up is not listed any more.
    let dir = folder.version("mewma/1.4.0");
    fs::create_dir_all(&dir).expect("a folder");
    reload(&server).await;
    assert_eq!(version(&server, "mewma/1.4.0").await["ready"], false);
    fs::remove_dir(dir).expect("gone");
    reload(&server).await;
    let gone = server.get(&path("mewma/1.4.0")).await;
    gone.problem(404, "unknown_version");
}

#[tokio::test]
async fn a_version_that_is_not_ready_is_told_as_such_to_whoever_asks_it() {
    let folder = Folder::new();
    folder.add_with("1.1.0", |dir| {
        replace(&dir.join("model.toml"), "lambda = 0.1 ", "lambda = 0.2 ");
    });
    let server = server_on(&folder).await;
    let expected = "pump-health: version mewma/1.1.0 is not ready: ";
    let reading = serde_json::to_string(&crate::common::plain(0)).expect("JSON");
    let predict = "/api/v1/pump-health/predict?device=rig-1";
    let told = server
        .post(&format!("{predict}&version=mewma/1.1.0"), &reading)
        .await;
    let detail = told.problem(409, "not_ready");
    assert!(
        detail.starts_with(expected) && detail.contains("outputs["),
        "{detail}"
    );
    let told = server
        .get("/v2/models/pump-health/versions/mewma-1.1.0")
        .await;
    assert_eq!(
        (told.status, &told.json()["error"]),
        (409, &Value::from(detail.as_str()))
    );
    for (query, said) in [
        ("version=mewma/1.1.0", &*detail),
        (
            "version=mewma/9.0.0",
            "has no version \"mewma/9.0.0\": it has",
        ),
        ("status=testing", "expected production or staging"),
        ("status=staging", "pump-health has no version in staging"),
        ("status=staging&version=mewma/1.0.0", "not both"),
    ] {
        let path = format!("pump-health?device=rig-1&{query}");
        let codec = tidegate_protocol::Codec::Json;
        let mut peer = crate::common::Device::connect(server.addr(), &path, codec).await;
        let (error, code) = crate::common::peer::error_and_close(&mut peer).await;
        assert_eq!(code, 4501, "{query}: {error:?}");
        assert!(error.message.contains(said), "{query}: {error:?}");
    }
    let told = server
        .post(&format!("{predict}&status=blue"), &reading)
        .await;
    let detail = told.problem(400, "bad_request");
    assert!(
        detail.contains("expected production or staging"),
        "{detail}"
    );
}

#[tokio::test]
async fn a_folder_that_goes_away_takes_nothing_from_a_running_server() {
    let folder = Folder::new();
    let server = server_on(&folder).await;
    fs::remove_dir_all(folder.version(MEWMA)).expect("gone");
    let told = mistakes(&reload(&server).await);
    assert!(told.contains("its folder is gone"), "{told}");
    goes_on(&server).await;
}

#[tokio::test]
async fn what_may_not_be_done_is_refused_with_a_reason_and_changes_nothing() {
    let server = TestServer::start().await;
    let archived = change(&server, &format!("{MEWMA}/archive")).await;
    let detail = archived.problem(409, "in_production");
    assert!(detail.contains("promote another version first"), "{detail}");
    let unknown = change(&server, "mewma/9.9.9/promote").await;
    let detail = unknown.problem(404, "unknown_version");
    assert!(detail.contains(MEWMA), "{detail}");
    let elsewhere = server
        .post("/api/v1/models/nowhere/m/1.0.0/promote", r#"{"who":"ann"}"#)
        .await;
    elsewhere.problem(404, "unknown_endpoint");
    let promote = path(&format!("{AUTOENCODER}/promote"));
    for body in ["", "{}", r#"{"who":" "}"#, "{\"who\":\"a\\nb\"}"] {
        let refused = server.post(&promote, body).await;
        let detail = refused.problem(400, "bad_request");
        assert!(detail.contains("who"), "{detail}");
    }
    let production_by_status = server
        .post(
            &path(&format!("{AUTOENCODER}/status")),
            r#"{"who":"ann","status":"production"}"#,
        )
        .await;
    let detail = production_by_status.problem(409, "by_promotion");
    assert!(detail.contains("promote it"), "{detail}");
    let status = path(&format!("{AUTOENCODER}/status"));
    let wrong = server
        .post(&status, r#"{"who":"ann","status":"best"}"#)
        .await;
    wrong.problem(400, "bad_request");
    assert_eq!(production(&server).await, MEWMA);
    assert_eq!(
        version(&server, AUTOENCODER).await["history"],
        serde_json::json!([])
    );
    let archived = change(&server, &format!("{AUTOENCODER}/archive")).await;
    assert_eq!(archived.json()["status"], "archived");
}

#[tokio::test]
async fn two_versions_are_compared_by_field() {
    let folder = Folder::new();
    folder.add("1.1.0");
    let server = server_on(&folder).await;
    let told = server
        .get(&path("diff?a=mewma/1.0.0&b=mewma/1.1.0"))
        .await
        .json();
    let fields: Vec<&Value> = told["differences"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|difference| &difference["field"])
        .collect();
    for field in ["hash", "status", "version"] {
        assert!(fields.contains(&&Value::from(field)), "{told}");
    }
    assert!(
        !fields.contains(&&Value::from("architecture.lambda")),
        "{told}"
    );
    let missing = server.get(&path("diff?a=mewma/1.0.0&b=mewma/7.0.0")).await;
    missing.problem(404, "unknown_version");
}

/// Why a server on this folder does not start.
async fn refusal(folder: &Folder, data: &std::path::Path) -> String {
    let raw = RawConfig {
        models_dir: Some(folder.path().to_owned()),
        ..config(data)
    };
    let refused = run(raw).await.err().expect("it does not start");
    refused.to_string()
}

#[tokio::test]
async fn a_broken_version_is_left_out_at_the_start_unless_it_serves() {
    let folder = Folder::new();
    folder.add_with("1.1.0", |dir| {
        fs::remove_file(dir.join("golden.json")).expect("a file");
    });
    let server = server_on(&folder).await;
    assert_eq!(version(&server, "mewma/1.1.0").await["ready"], false);
    goes_on(&server).await;
    drop(server);
    fs::remove_file(folder.version(MEWMA).join("golden.json")).expect("a file");
    let data = tempfile::tempdir().expect("a temporary folder");
    let refused = refusal(&folder, data.path()).await;
    assert!(refused.contains("mewma/1.0.0/golden.json"), "{refused}");
    assert_eq!(refused.lines().count(), 1, "{refused}");
}

#[tokio::test]
async fn a_server_without_its_production_version_does_not_start() {
    let folder = Folder::new();
    let data = tempfile::tempdir().expect("a temporary folder");
    let raw = RawConfig {
        models_dir: Some(folder.path().to_owned()),
        ..config(data.path())
    };
    let running = run(raw).await.expect("it starts");
    super::change_at(running.addr(), &format!("{AUTOENCODER}/promote")).await;
    assert!(running.stop().await);
    fs::remove_dir_all(folder.version(AUTOENCODER)).expect("gone");
    let refused = refusal(&folder, data.path()).await;
    assert!(
        refused.contains("autoencoder/1.0.0 is in production"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_changed_schema_needs_another_revision_and_the_next_start() {
    let folder = Folder::new();
    let data = tempfile::tempdir().expect("a temporary folder");
    let raw = RawConfig {
        models_dir: Some(folder.path().to_owned()),
        ..config(data.path())
    };
    let running = run(raw.clone()).await.expect("it starts");
    let file = folder.path().join("pump-health/endpoint.toml");
    replace(&file, "unit = \"", "unit = \"k");
    let told =
        crate::common::http::request(running.addr(), "POST", "/api/v1/models/reload", None).await;
    assert!(told.body.contains("at the next start"), "{told:?}");
    assert!(running.stop().await);
    let refused = refusal(&folder, data.path()).await;
    assert!(
        refused.contains("give the changed one the revision 2"),
        "{refused}"
    );
    replace(&file, "revision = 1", "revision = 2");
    let running = run(raw).await.expect("it starts");
    assert!(running.stop().await);
}

#[tokio::test]
async fn a_stream_whose_version_is_gone_goes_on_calibrated_under_the_one_that_serves() {
    let folder = Folder::new();
    folder.add("1.1.0");
    let server = server_on(&folder).await;
    let values = crate::common::rig(9, super::CALIBRATED + 40);
    let query = "device=rig-1&version=mewma/1.1.0";
    let mut device = server
        .device_with(query, tidegate_protocol::Codec::Json)
        .await;
    device.stream(&values, 0, super::CALIBRATED).await;
    drop(device);
    fs::remove_dir_all(folder.version("mewma/1.1.0")).expect("gone");
    let server = server.restart().await;
    let mut device = server.device("rig-1").await;
    let (from, to) = (super::CALIBRATED, super::CALIBRATED + 20);
    super::check(&device.stream(&values, from, to).await, MEWMA);
    // And over a restart it is that one's.
    drop(device);
    let server = server.restart().await;
    let mut device = server.device("rig-1").await;
    super::check(&device.stream(&values, to, to + 20).await, MEWMA);
}
