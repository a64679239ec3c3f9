//! A database that is slow, and a disk that is full.

use super::lock::Intruder;
use super::{metric, patiently, stored_as_if_undisturbed};
use crate::common::http::{request, samples};
use crate::common::{Device, Process, batch, rig};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tidegate_protocol::{Codec, NackCode, ServerMessage};

const READINGS: usize = 900;

/// What `/health/ready` says of the store.
async fn store_is(server: &Process, state: &str) {
    patiently(state, async || {
        let ready = request(server.addr(), "GET", "/health/ready", None).await;
        let is_ready = ready.status == 200;
        ready.json()["store"] == state && is_ready == (state == "ok")
    })
    .await;
}

/// Sends readings `from..to`, whose predictions come at once; nothing says that any of them is stored.
async fn predicted_and_not_acked(device: &mut Device, values: &[Vec<f32>], from: usize, to: usize) {
    let heard = device.heard().len();
    device.send(&batch(values, from, to)).await;
    device.prediction(to as u64 - 1).await;
    let acked = device.heard()[heard..]
        .iter()
        .any(|message| matches!(message, ServerMessage::Ack(ack) if ack.seq >= from as u64));
    assert!(!acked, "something was acked that is not stored");
}

/// Whether an ack comes within a moment.
async fn hears_an_ack(device: &mut Device, seq: usize) -> bool {
    let moment = Duration::from_millis(500);
    let ack = device.expect("an ack", |message| match message {
        ServerMessage::Ack(ack) if ack.seq >= seq as u64 => Some(()),
        _ => None,
    });
    tokio::time::timeout(moment, ack).await.is_ok()
}

#[tokio::test]
async fn a_slow_database_delays_acks_and_nothing_else() {
    let (dir, values) = (tempfile::tempdir().unwrap(), rig(71, READINGS));
    let server = Process::serve(dir.path(), &[]).await;
    let mut device = Device::open(server.addr(), "device=rig-1", Codec::Json).await;
    device.stream(&values, 0, 450).await;
    let mut intruder = Intruder::open(dir.path()).await;
    intruder.hold().await;
    predicted_and_not_acked(&mut device, &values, 450, 500).await;
    assert!(
        !hears_an_ack(&mut device, 450).await,
        "acked before the commit"
    );
    predicted_and_not_acked(&mut device, &values, 500, 600).await;
    // Past the time that a commit waits for the lock, it counts as failed and is tried again.
    store_is(&server, "failing").await;
    assert!(metric(server.addr(), "tidegate_store_failures_total").await >= 1.0);
    predicted_and_not_acked(&mut device, &values, 600, 700).await;
    intruder.release().await;
    device.ack(699).await;
    store_is(&server, "ok").await;
    device.stream(&values, 700, READINGS).await;
    stored_as_if_undisturbed(server.addr(), "rig-1", &values).await;
}

#[tokio::test]
async fn a_refusal_that_is_not_stored_yet_is_not_said_again_before_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let server = Process::serve(dir.path(), &[]).await;
    let mut device = Device::open(server.addr(), "device=rig-1", Codec::Json).await;
    device.stream(&rig(73, 3), 0, 3).await;
    let mut intruder = Intruder::open(dir.path()).await;
    intruder.hold().await;
    let bad = r#"{"seq":3,"values":[1,2]}"#;
    device.say(bad).await;
    device.say(bad).await;
    let nack = |message: &ServerMessage| matches!(message, ServerMessage::Nack(_)).then_some(());
    let early = tokio::time::timeout(Duration::from_millis(500), device.expect("a nack", nack));
    assert!(early.await.is_err(), "said before it was stored");
    intruder.release().await;
    for _ in 0..2 {
        device.nack(Some(3), NackCode::BadReading).await;
    }
    device.ack(3).await;
}

/// A disk that can be filled: a small tmpfs where this user may mount one, else a limit on the size of the server's files, beyond which a
/// write fails as it does on a full disk.
enum Disk {
    Mounted(TempDir),
    Limited(TempDir),
}

/// What a full disk is made of.
enum Full {
    Ballast(PathBuf),
    Limit(u32),
}

impl Disk {
    fn small() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"])
            .arg(dir.path())
            .status();
        match mounted {
            Ok(status) if status.success() => Self::Mounted(dir),
            _ => Self::Limited(dir),
        }
    }

    fn limited() -> Self {
        Self::Limited(tempfile::tempdir().expect("a temporary folder"))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Mounted(dir) | Self::Limited(dir) => dir.path(),
        }
    }

    /// Leaves no room for another byte.
    fn fill(&self, server: &Process) -> Full {
        match self {
            Self::Mounted(dir) => {
                let ballast = dir.path().join("ballast");
                // Ends with the disk.
                let filled = std::fs::write(&ballast, vec![0; 16 << 20]);
                assert!(filled.is_err(), "the disk is larger than it should be");
                Full::Ballast(ballast)
            }
            Self::Limited(dir) => {
                let size = |name| std::fs::metadata(dir.path().join(name)).map_or(0, |f| f.len());
                let most = size("tidegate.db").max(size("tidegate.db-wal"));
                limit(server.id(), &most.to_string());
                Full::Limit(server.id())
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Self::Mounted(dir) = self {
            // Lazily: the server that was killed may still be on its way out.
            let _ = Command::new("umount").arg("-l").arg(dir.path()).status();
        }
    }
}

impl Full {
    /// Makes room.
    fn end(self) {
        match self {
            Self::Ballast(path) => std::fs::remove_file(path).expect("the ballast"),
            Self::Limit(process) => limit(process, "unlimited"),
        }
    }
}

/// Lets a process write files of at most so many bytes.
fn limit(process: u32, bytes: &str) {
    let done = Command::new("prlimit")
        .args(["--pid", &process.to_string()])
        .arg(format!("--fsize={bytes}:"))
        .status();
    assert!(done.expect("prlimit is there").success());
}

/// Starts the server from a shell that ignores the signal of a write beyond the limit, so that the write fails instead.
fn without_signal(command: &mut tokio::process::Command) {
    let server = command.as_std();
    let mut shell = tokio::process::Command::new("sh");
    shell
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(server.get_program())
        .args(server.get_args())
        .kill_on_drop(true);
    *command = shell;
}

#[tokio::test]
async fn a_full_disk_acks_nothing_until_there_is_room_and_loses_nothing() {
    fills_up_and_goes_on(Disk::small()).await;
}

#[tokio::test]
async fn files_that_may_not_grow_ack_nothing_until_they_may_and_lose_nothing() {
    fills_up_and_goes_on(Disk::limited()).await;
}

async fn fills_up_and_goes_on(disk: Disk) {
    let values = rig(72, READINGS);
    // Nothing is kept out before the disk is full: the fault itself is to be met.
    let settings = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(settings.path(), "[store]\nmin_free_bytes = 0\n").unwrap();
    let arguments = ["--config", settings.path().to_str().unwrap()];
    let server = Process::serve_with(disk.path(), &arguments, without_signal).await;
    let mut device = Device::open(server.addr(), "device=rig-1", Codec::Json).await;
    device.stream(&values, 0, 450).await;
    let full = disk.fill(&server);
    // The write-ahead log has room in its file for a while.
    let mut at = 450;
    while at < 850 {
        device.send(&batch(&values, at, at + 50)).await;
        at += 50;
        device.prediction(at as u64 - 1).await;
        if !hears_an_ack(&mut device, at - 1).await {
            break;
        }
    }
    assert!(at < 850, "the disk was not full");
    store_is(&server, "failing").await;
    assert!(samples(server.addr(), "rig-1").await.len() < at);
    full.end();
    device.ack(at as u64 - 1).await;
    store_is(&server, "ok").await;
    device.stream(&values, at, READINGS).await;
    stored_as_if_undisturbed(server.addr(), "rig-1", &values).await;
}
