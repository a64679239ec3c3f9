//! What keeps a server from starting is said in one line.

use crate::common::server::{config, run};
use crate::common::{Process, TestServer, within};
use std::net::TcpListener;
use std::path::Path;
use tempfile::TempDir;
use tidegate::config::RawConfig;
use tokio::process::Command;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Why a server with this configuration does not start: one line.
async fn refusal(raw: RawConfig) -> String {
    let error = run(raw).await.err().expect("the server does not start");
    let text = error.to_string();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

/// What `tidegate serve --print-config` writes.
async fn printed(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["serve", "--print-config"]).args(arguments);
    let output = within("the configuration", command.kill_on_drop(true).output())
        .await
        .expect("the binary starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[tokio::test]
async fn a_second_server_on_the_same_data_dir_is_told_that_it_is_in_use() {
    let first = TestServer::start().await;
    let refused = refusal(config(&first.data_dir())).await;
    assert!(refused.contains("in use"), "{refused}");
    assert!(refused.contains(text(&first.data_dir())), "{refused}");
    first.device("rig-1").await.still_works(0).await;
}

#[tokio::test]
async fn a_port_in_use_is_named_and_the_data_dir_is_free_again() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = taken.local_addr().expect("its address").to_string();
    let dir = folder();
    let mut raw = config(dir.path());
    raw.listen.clone_from(&addr);
    let refused = refusal(raw).await;
    assert!(refused.contains(&addr), "{refused}");
    let running = run(config(dir.path())).await.expect("another port is free");
    assert!(running.stop().await);
}

#[tokio::test]
async fn a_data_dir_below_a_regular_file_is_named() {
    let dir = folder();
    let file = dir.path().join("file");
    std::fs::write(&file, "not a folder").expect("a file");
    let below = file.join("data");
    let refused = refusal(config(&below)).await;
    assert!(refused.contains(text(&below)), "{refused}");
    assert_eq!(std::fs::read(&file).expect("the file"), b"not a folder");
}

#[tokio::test]
async fn a_mistake_in_a_models_dir_is_told_by_file_field_and_reason() {
    let zoo = folder();
    let endpoint = zoo.path().join("pump-health");
    std::fs::create_dir(&endpoint).expect("a folder");
    let source = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/models/zoo/pump-health/endpoint.toml"
    );
    let right = std::fs::read_to_string(source).expect("the zoo");
    let wrong = right.replacen("range = [0.0, 120.0]", "range = [120.0, 0.0]", 1);
    assert_ne!(right, wrong);
    std::fs::write(endpoint.join("endpoint.toml"), wrong).expect("a manifest");

    let data = folder();
    let mut raw = config(data.path());
    raw.models_dir = Some(zoo.path().to_owned());
    let refused = refusal(raw).await;
    for part in [
        "pump-health/endpoint.toml",
        "features[4].range",
        "is two finite numbers, the lower first",
    ] {
        assert!(refused.contains(part), "{part} is not in {refused}");
    }
}

#[tokio::test]
async fn the_binary_says_why_in_one_line_and_fails() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = taken.local_addr().expect("its address").to_string();
    let dir = folder();
    // So few connections that no limit of open files is worth a warning.
    let file = dir.path().join("tidegate.toml");
    std::fs::write(&file, "[connections]\nmax = 10\n").expect("a file");
    let data = dir.path().join("data");
    let (status, said) = Process::run(&[
        "serve",
        "--config",
        text(&file),
        "--listen",
        &addr,
        "--data-dir",
        text(&data),
    ])
    .await;
    assert!(!status.success());
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("tidegate: "), "{said}");
    assert!(said.contains(&addr), "{said}");
}

#[tokio::test]
async fn check_config_reports_every_mistake_at_once() {
    let dir = folder();
    let file = dir.path().join("tidegate.toml");
    let mistakes =
        "listen = \"nowhere\"\nmodels_dir = \"/nope\"\n[store]\nqueue = 1\nurl = \"postgres://\"\n";
    std::fs::write(&file, mistakes).expect("a file");
    let (status, said) = Process::run(&["serve", "--check-config", "--config", text(&file)]).await;
    assert!(!status.success());
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("listen \"nowhere\""), "{said}");
    assert!(said.contains("store.queue 1"), "{said}");
    assert!(said.contains("models_dir /nope: no such folder"), "{said}");
    assert!(said.contains("store.url: no host"), "{said}");
}

#[tokio::test]
async fn print_config_prints_a_file_that_config_takes() {
    let dir = folder();
    let data = dir.path().join("data");
    let first = printed(&[
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        text(&data),
        "--mqtt-url",
        "mqtt://user:password@broker:1884",
    ])
    .await;
    let file = dir.path().join("tidegate.toml");
    std::fs::write(&file, &first).expect("a file");
    assert_eq!(printed(&["--config", text(&file)]).await, first);
    let (status, said) = Process::run(&["serve", "--check-config", "--config", text(&file)]).await;
    assert!(status.success(), "{said}");
    assert_eq!(said, "");
    assert!(!data.exists(), "neither makes a data dir");
}

#[tokio::test]
async fn a_log_in_a_file_has_no_colours() {
    let dir = folder();
    let log = dir.path().join("log");
    let to = std::fs::File::create(&log).expect("a file");
    let change = |command: &mut Command| {
        command.stderr(to);
    };
    let server = Process::serve_with(&dir.path().join("data"), &[], change).await;
    server.terminate().await;
    assert!(server.exit().await.success());
    let said = std::fs::read_to_string(&log).expect("a log");
    assert!(said.contains("INFO") && said.contains("stopped"), "{said}");
    assert!(!said.contains('\u{1b}'), "{said}");
}
