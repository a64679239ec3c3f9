//! Told to stop at an awkward moment: the stop is still one, and takes no longer than it must.

use super::common::{Device, TestServer, batch, rig, within};
use std::io::{Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tidegate_protocol::Codec;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// Bytes that a pipe holds on Linux before its writer waits.
const PIPE_BYTES: usize = 64 * 1024;

/// A supervisor may stop a server as soon as it knows that it runs. Standard output is a full pipe here, so the server is
/// held in the middle of its first line while the signal comes.
#[tokio::test]
async fn a_stop_at_the_very_first_line_drains_and_ends_cleanly() {
    let dir = tempfile::tempdir().unwrap();
    let (mut reader, mut full) = std::io::pipe().unwrap();
    full.write_all(&vec![b' '; PIPE_BYTES]).unwrap();
    let mut server = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path())
        .env("TIDEGATE_LOG", "info")
        .stdout(full)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = BufReader::new(server.stderr.take().unwrap()).lines();
    within("the server is ready", async {
        while let Some(line) = log.next_line().await.unwrap() {
            if line.contains("ready") {
                return;
            }
        }
        panic!("it ended before it was ready");
    })
    .await;
    let id = server.id().unwrap().to_string();
    let sent = Command::new("kill").args(["-TERM", &id]).status().await;
    assert!(sent.unwrap().success());
    tokio::task::spawn_blocking(move || reader.read_to_end(&mut Vec::new()));
    let status = within("its end", server.wait()).await.unwrap();
    assert!(status.success(), "{status}");
}

/// A switch says nothing to its device when it commits. A stop that came while one was on its way used to wait for word of it
/// until the deadline.
#[tokio::test]
async fn a_stop_behind_a_switch_waits_for_its_commit_and_no_longer() {
    // The switch commits a second after the readings before it.
    let server = TestServer::start_with(|raw| raw.store.commit_interval_ms = 1_000).await;
    let values = rig(21, 10);
    let mut device = server.device("rig-1").await;
    device.send(&batch(&values, 0, 10)).await;
    device.ack(9).await;
    let query = "device=rig-1&version=autoencoder/1.0.0";
    let pinned = Device::open(server.addr(), query, Codec::Json).await;
    assert_eq!(pinned.welcome.model, "autoencoder");
    let begun = Instant::now();
    assert!(server.stop().await);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}
