//! `tidegate model` as users run it.

use super::folder::{Folder, replace};
use super::{AUTOENCODER, production, version};
use crate::common::{TestServer, within};
use serde_json::Value;
use std::fs;
use std::path::Path;
use tempfile::TempDir;
use tokio::process::Command;

/// What the command wrote, and whether it did what it was asked for.
struct Said {
    ok: bool,
    out: String,
    err: String,
}

async fn model(arguments: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("model").args(arguments).kill_on_drop(true);
    command.env("USER", "ann");
    let output = within("the end", command.output())
        .await
        .expect("it starts");
    Said {
        ok: output.status.success(),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

/// The same against a server.
async fn ask(server: &TestServer, arguments: &[&str]) -> Said {
    let url = format!("http://{}", server.addr());
    model(&[arguments, &["--url", &url]].concat()).await
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// `add` of a folder or file for an endpoint, into a folder of models.
fn add_of<'a>(version: &'a Path, endpoint: &'a str, models_dir: &'a str) -> [&'a str; 6] {
    let version = text(version);
    [
        "add",
        version,
        "--endpoint",
        endpoint,
        "--models-dir",
        models_dir,
    ]
}

/// A folder with a version that is no part of any folder of models yet.
fn own_version(number: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let folder = Folder::new();
    folder.add(number);
    for entry in fs::read_dir(folder.version(&format!("mewma/{number}"))).expect("a folder") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("a copy");
    }
    dir
}

#[tokio::test]
async fn an_added_version_is_promoted_and_rolled_back_by_command() {
    let models = tempfile::tempdir().expect("a temporary folder");
    let own = own_version("2.0.0");
    let dir = text(models.path());
    let add = add_of(own.path(), "pump-health", dir);
    let said = model(&add).await;
    assert!(said.ok, "{}", said.err);
    assert!(
        said.out.contains("built-in models were written there"),
        "{}",
        said.out
    );
    assert!(
        said.out.contains("pump-health/mewma/2.0.0: added"),
        "{}",
        said.out
    );
    let server =
        TestServer::start_with(|raw| raw.models_dir = Some(models.path().to_owned())).await;
    let listed = ask(&server, &["list"]).await.out;
    assert!(listed.contains("mewma/2.0.0"), "{listed}");
    let promote = ["promote", "pump-health/mewma/2.0.0", "--why", "mine"];
    let said = ask(&server, &promote).await;
    assert!(
        said.ok && said.out.contains("is in production (before: mewma/1.0.0)"),
        "{}",
        said.out
    );
    let history = version(&server, "mewma/2.0.0").await["history"][0].clone();
    assert_eq!(
        (&history["who"], &history["why"]),
        (&"ann".into(), &"mine".into())
    );
    let shown = ask(&server, &["show", "mewma/2.0.0", "-e", "pump-health"])
        .await
        .out;
    assert!(shown.contains("production by ann: mine"), "{shown}");
    let said = ask(
        &server,
        &["diff", "mewma/1.0.0", "mewma/2.0.0", "-e", "pump-health"],
    )
    .await;
    assert!(said.out.contains("fields are the same"), "{}", said.out);
    let said = ask(&server, &["archive", "pump-health/mewma/2.0.0"]).await;
    assert!(
        !said.ok && said.err.contains("in production"),
        "{}",
        said.err
    );
    let said = ask(&server, &["rollback", "-e", "pump-health", "--json"]).await;
    let told: Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(told["version"], "mewma/1.0.0");
    assert_eq!(production(&server).await, "mewma/1.0.0");
    let name = format!("pump-health/{AUTOENCODER}");
    let said = ask(&server, &["status", &name, "staging"]).await;
    assert!(said.out.contains("staging"), "{}", said.out);
    let said = ask(&server, &["status", &name, "production"]).await;
    assert!(!said.ok && said.err.contains("promote it"), "{}", said.err);
}

#[tokio::test]
async fn adding_names_every_mistake_and_writes_nothing() {
    let folder = Folder::new();
    let own = own_version("2.0.0");
    fs::remove_file(own.path().join("golden.json")).expect("a file");
    replace(
        &own.path().join("model.toml"),
        "memory = 1000",
        "memory = -1",
    );
    let dir = text(folder.path());
    let add = add_of(own.path(), "pump-health", dir);
    let said = model(&add).await;
    assert!(!said.ok);
    for part in ["model.toml: memory", "golden.json"] {
        assert!(said.err.contains(part), "{part} is not in {}", said.err);
    }
    assert!(!folder.version("mewma/2.0.0").exists());
    let elsewhere = add_of(own.path(), "nowhere", dir);
    let said = model(&elsewhere).await;
    assert!(!said.ok && said.err.contains("--schema"), "{}", said.err);
    let said = model(&["add", text(own.path()), "--endpoint", "pump-health"]).await;
    assert!(
        !said.ok && said.err.contains("--models-dir"),
        "{}",
        said.err
    );
}

#[tokio::test]
async fn a_name_that_is_taken_is_refused_with_both_hashes() {
    let folder = Folder::new();
    let own = own_version("2.0.0");
    let dir = text(folder.path());
    let add = add_of(own.path(), "pump-health", dir);
    assert!(model(&add).await.ok);
    let said = model(&add).await;
    assert!(
        said.ok && said.out.contains("is there already"),
        "{}",
        said.out
    );
    replace(
        &own.path().join("model.toml"),
        "The Tidegate authors",
        "Ann",
    );
    let said = model(&add).await;
    assert!(
        !said.ok && said.err.contains("never changes"),
        "{}",
        said.err
    );
    let hashes = said.err.split(|c: char| !c.is_ascii_hexdigit());
    assert_eq!(
        hashes.filter(|word| word.len() == 64).count(),
        2,
        "{}",
        said.err
    );
}

#[tokio::test]
async fn a_new_endpoint_comes_with_its_first_version() {
    let folder = Folder::new();
    let own = own_version("1.0.1");
    let schema = own.path().join(".endpoint.toml");
    fs::copy(folder.path().join("pump-health/endpoint.toml"), &schema).expect("a copy");
    replace(&schema, "name = \"pump-health\"", "name = \"fan-health\"");
    let dir = text(folder.path());
    let add = add_of(own.path(), "fan-health", dir);
    let add = [&add[..], &["--schema", text(&schema)]].concat();
    let said = model(&add).await;
    assert!(
        !said.ok && said.err.contains("first version of a new endpoint"),
        "{}",
        said.err
    );
    replace(
        &schema,
        "default = \"mewma/1.0.0\"",
        "default = \"mewma/1.0.1\"",
    );
    let server = TestServer::start_with(|raw| {
        raw.models_dir = Some(folder.path().to_owned());
        raw.inference.look_every_s = 0;
    })
    .await;
    let said = model(&add).await;
    assert!(said.ok, "{}", said.err);
    let said = ask(&server, &["reload"]).await;
    assert!(
        said.out.contains("fan-health/mewma/1.0.1: ready"),
        "{}",
        said.out
    );
    let mut peer = crate::common::Device::connect(
        server.addr(),
        "fan-health?device=f",
        tidegate_protocol::Codec::Json,
    )
    .await;
    let version = peer
        .expect("a welcome", |message| match message {
            tidegate_protocol::ServerMessage::Welcome(welcome) => Some(welcome.version.clone()),
            _ => None,
        })
        .await;
    assert_eq!(version, "1.0.1");
}

#[tokio::test]
async fn a_folder_is_verified_without_a_server() {
    let folder = Folder::new();
    let inside = folder.version(AUTOENCODER);
    let said = model(&["verify", text(&inside)]).await;
    assert!(
        said.ok && said.out.contains("golden run reproduced"),
        "{}",
        said.err
    );
    let own = own_version("2.0.0");
    let said = model(&["verify", text(own.path())]).await;
    assert!(!said.ok && said.err.contains("--endpoint"), "{}", said.err);
    let said = model(&["verify", text(own.path()), "-e", "pump-health", "--json"]).await;
    let told: Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(
        (&told["ok"], &told["version"]),
        (&true.into(), &"mewma/2.0.0".into())
    );
    replace(
        &own.path().join("model.toml"),
        "lambda = 0.1 ",
        "lambda = 0.2 ",
    );
    let said = model(&["verify", text(own.path()), "-e", "pump-health"]).await;
    assert!(!said.ok && said.err.contains("outputs["), "{}", said.err);
}

#[tokio::test]
async fn a_bare_graph_gets_its_manifest_and_answers() {
    let models = tempfile::tempdir().expect("a temporary folder");
    let dir = text(models.path());
    let zoo = concat!(env!("CARGO_MANIFEST_DIR"), "/models/zoo/rig-state");
    let graph = format!("{zoo}/extra-trees/1.0.0/model.onnx");
    let add = add_of(Path::new(&graph), "rig-state", dir);
    let said = model(&add).await;
    assert!(
        !said.ok && said.err.contains("--name and --version"),
        "{}",
        said.err
    );
    let named = ["--name", "bare", "--version", "0.1.0"];
    let labels = ["--labels", "normal,valve-closing,cavitation,imbalance"];
    let said = model(&[&add[..], &named, &labels].concat()).await;
    assert!(said.ok, "{}", said.err);
    assert!(said.out.contains("own answers"), "{}", said.out);
    let server =
        TestServer::start_with(|raw| raw.models_dir = Some(models.path().to_owned())).await;
    let reading = r#"{"values":[0.03,0.04,1.3,0.3,79.0,26.0,230.0,31.0]}"#;
    let path = "/api/v1/rig-state/predict?version=bare/0.1.0";
    let told = server.post(path, reading).await;
    assert_eq!(told.status, 200, "{told:?}");
    assert!(told.json()["output"]["label"].is_string(), "{told:?}");
    // One that is cut off is told as such, and nothing is written.
    let cut = models.path().join(".cut.onnx");
    let bytes = fs::read(&graph).expect("a graph");
    fs::write(&cut, &bytes[..bytes.len() / 2]).expect("a file");
    let add = add_of(&cut, "rig-state", dir);
    let said = model(&[&add[..], &["--name", "cut", "--version", "0.1.0"]].concat()).await;
    assert!(!said.ok && said.err.contains("model.onnx"), "{}", said.err);
    assert!(!models.path().join("rig-state/cut").exists());
}
