//! A server clock that jumps, made by libfaketime: it shifts the wall clock of one process and leaves the monotonic one alone.

use super::stored_as_if_undisturbed;
use crate::common::http::{request, samples};
use crate::common::peer::wish;
use crate::common::{Device, Process, Subscriber, eventually, rig};
use std::net::SocketAddr;
use std::path::Path;
use tempfile::TempDir;
use tidegate_protocol::live::{DeviceState, Event};
use tidegate_protocol::{Codec, LiveData};

const DAY_S: i64 = 24 * 3_600;

/// A wall clock that can be shifted.
struct Clock(TempDir);

impl Clock {
    fn new() -> Self {
        let clock = Self(tempfile::tempdir().expect("a temporary folder"));
        clock.shift(0);
        clock
    }

    /// From now on the clock is so far from the true time.
    fn shift(&self, by_s: i64) {
        // A rename, so that no reader sees half of it.
        let (next, file) = (self.0.path().join("next"), self.file());
        std::fs::write(&next, format!("{by_s:+}\n")).expect("the clock's file");
        std::fs::rename(next, file).expect("the clock's file");
    }

    fn file(&self) -> std::path::PathBuf {
        self.0.path().join("shift")
    }

    /// A server with this clock.
    async fn serve(&self, data_dir: &Path, variables: &[(&str, &str)]) -> Process {
        Process::serve_with(data_dir, &[], |command| {
            // The loader puts the folder of this machine's libraries in place of $LIB.
            command
                .env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1")
                .env("FAKETIME_TIMESTAMP_FILE", self.file())
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
                .envs(variables.iter().copied());
        })
        .await
    }
}

/// One reading over HTTP: a device without a connection. Gives its arrival time.
async fn speak(addr: SocketAddr, device: &str, seq: u64) -> i64 {
    let path = format!("/api/v1/pump-health/predict?device={device}");
    let body = format!(
        r#"{{"seq":{seq},"ts":1770000000000,"values":[0.02,0.04,1.33,0.05,79.3,26.0,233.1,32.0]}}"#
    );
    let answer = request(addr, "POST", &path, Some(&body)).await;
    assert_eq!(
        answer.status, 200,
        "{answer:?} (is the package libfaketime installed?)"
    );
    let stored = samples(addr, device).await;
    stored.last().expect("a sample").received_at
}

/// A subscriber who hears every second how the server is, and of devices that come and go.
async fn watcher(addr: SocketAddr) -> Subscriber {
    let mut subscriber = Subscriber::connect(addr, Codec::Json).await;
    subscriber.subscribe(wish(1, "system")).await;
    subscriber.subscribe(wish(2, "devices/*")).await;
    subscriber
}

fn is_offline(event: &Event) -> bool {
    matches!(&event.data, LiveData::Device(device) if device.state == DeviceState::Offline)
}

/// Sessions in memory.
async fn sessions(addr: SocketAddr) -> f64 {
    let metrics = request(addr, "GET", "/metrics", None).await.body;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("tidegate_sessions "));
    line.expect("the gauge").parse().expect("a number")
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_makes_nobody_silent_or_idle() {
    let (clock, dir, values) = (Clock::new(), tempfile::tempdir().unwrap(), rig(21, 600));
    // Looked for every other second, so that a jump would show at once.
    let server = clock
        .serve(dir.path(), &[("TIDEGATE_SESSIONS__IDLE_S", "8")])
        .await;
    let addr = server.addr();
    let mut device = Device::open(addr, "device=rig-1", Codec::Json).await;
    device.stream(&values, 0, 450).await;
    let before = speak(addr, "rig-2", 0).await;
    let mut watcher = watcher(addr).await;
    clock.shift(DAY_S);
    let mut looks = 0;
    while looks < 4 {
        let event = watcher.event().await;
        assert!(!is_offline(&event), "{event:?}");
        looks += u32::from(matches!(event.data, LiveData::System(_)));
    }
    assert_eq!(sessions(addr).await, 2.0);
    let after = speak(addr, "rig-2", 1).await;
    assert!(
        after - before > (DAY_S - 60) * 1000,
        "the clock did not jump"
    );
    device.stream(&values, 450, 600).await;
    stored_as_if_undisturbed(addr, "rig-1", &values).await;
}

#[tokio::test]
async fn a_clock_that_jumps_back_keeps_nobody_online_or_in_memory() {
    let (clock, dir, values) = (Clock::new(), tempfile::tempdir().unwrap(), rig(22, 600));
    let variables = [
        ("TIDEGATE_SESSIONS__IDLE_S", "4"),
        ("TIDEGATE_SESSIONS__OFFLINE_AFTER_S", "1"),
    ];
    let server = clock.serve(dir.path(), &variables).await;
    let addr = server.addr();
    let mut device = Device::open(addr, "device=rig-1", Codec::Json).await;
    device.stream(&values, 0, 450).await;
    let mut watcher = watcher(addr).await;
    let before = speak(addr, "rig-2", 0).await;
    clock.shift(-DAY_S);
    while !is_offline(&watcher.event().await) {}
    eventually("an empty memory but for the connected device", || async {
        sessions(addr).await == 1.0
    })
    .await;
    let after = speak(addr, "rig-2", 1).await;
    assert!(
        before - after > (DAY_S - 60) * 1000,
        "the clock did not jump"
    );
    device.stream(&values, 450, 600).await;
    stored_as_if_undisturbed(addr, "rig-1", &values).await;
}
