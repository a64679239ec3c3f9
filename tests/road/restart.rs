//! A process that is killed or told to stop: nothing acknowledged is lost, and predictions go on bit for bit.
//!
//! What has to hold on every database is a function over a [`Home`]; `postgres.rs` calls it too.

use super::common::http::{request, samples};
use super::common::{
    Device, Home, Process, TestServer, answer, batch, bits, eventually, reading, rig,
};
use tidegate_protocol::{Codec, Sample};

/// Readings of a whole run: more than two snapshots and the calibration.
const READINGS: usize = 700;

/// What a stored row says of its reading, bit for bit.
fn row(sample: &Sample) -> (u64, i64, Vec<u32>, Vec<u8>) {
    let values = sample.values.iter().map(|value| value.to_bits()).collect();
    (sample.seq, sample.ts, values, bits(&sample.output))
}

#[tokio::test]
async fn a_killed_server_goes_on_where_it_was_bit_for_bit() {
    goes_on_bit_for_bit(&Home::sqlite()).await;
}

pub async fn goes_on_bit_for_bit(home: &Home) {
    let values = rig(11, READINGS);
    let whole = TestServer::start().await;
    let mut device = whole.device("rig-1").await;
    let expected = device.stream(&values, 0, READINGS).await;

    let mut predictions = Vec::new();
    // Killed inside the calibration, right behind it, and between two snapshots.
    for until in [150, 420, 611, READINGS] {
        let server = home.serve().await;
        let mut device = Device::open(server.addr(), "device=rig-1", Codec::Json).await;
        let from = usize::try_from(device.welcome.resume_from).unwrap();
        assert_eq!(
            from,
            predictions.len(),
            "everything acked is there, nothing else is"
        );
        predictions.extend(device.stream(&values, from, until).await);
        server.kill().await;
    }
    let answers = |list: &[_]| list.iter().map(answer).collect::<Vec<_>>();
    assert_eq!(answers(&predictions), answers(&expected));

    let server = home.serve().await;
    let stored = samples(server.addr(), "rig-1").await;
    let uninterrupted = whole.samples("rig-1").await;
    assert_eq!(
        stored.iter().map(row).collect::<Vec<_>>(),
        uninterrupted.iter().map(row).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_kill_in_mid_stream_loses_nothing_that_was_acked() {
    loses_nothing_that_was_acked(&Home::sqlite()).await;
}

pub async fn loses_nothing_that_was_acked(home: &Home) {
    let values = rig(12, READINGS);
    let server = home.serve().await;
    let mut device = Device::open(server.addr(), "device=rig-1", Codec::Bincode).await;
    // Everything is on its way when the first ack comes; then the process dies.
    device.send(&batch(&values, 0, 350)).await;
    device.send(&batch(&values, 350, READINGS)).await;
    let acked = device.any_ack().await.seq;
    server.kill().await;

    let server = home.serve().await;
    let mut device = Device::open(server.addr(), "device=rig-1", Codec::Bincode).await;
    let resume_from = device.welcome.resume_from;
    assert!(
        resume_from > acked,
        "acked {acked}, resumes from {resume_from}"
    );
    let from = usize::try_from(resume_from).unwrap();
    if from < READINGS {
        device.stream(&values, from, READINGS).await;
    }
    let stored = samples(server.addr(), "rig-1").await;
    let numbers: Vec<u64> = stored.iter().map(|sample| sample.seq).collect();
    assert_eq!(numbers, (0..READINGS as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_stop_commits_and_acks_everything_that_was_taken() {
    stops_clean(&Home::sqlite()).await;
}

pub async fn stops_clean(home: &Home) {
    let values = rig(13, 300);
    let server = home.serve().await;
    let addr = server.addr();
    let mut device = Device::open(addr, "device=rig-1", Codec::Json).await;
    device.send(&batch(&values, 0, 300)).await;
    // The last prediction tells that all were taken; their commit may still be on its way.
    device.prediction(299).await;
    server.terminate().await;
    device.ack(299).await;
    let (error, code) = device.error_and_close().await;
    assert_eq!((error.code.as_str(), code), ("shutting_down", 4001));
    assert!(server.exit().await.success());

    let server = home.serve().await;
    assert_eq!(samples(server.addr(), "rig-1").await.len(), 300);
}

#[tokio::test]
async fn a_stream_remembers_its_gaps_and_refusals_over_a_kill() {
    remembers_its_gaps(&Home::sqlite()).await;
}

pub async fn remembers_its_gaps(home: &Home) {
    let values = rig(14, 10);
    let server = home.serve().await;
    let mut device = Device::open(server.addr(), "device=rig-1", Codec::Json).await;
    device.read(reading(0, &values[0])).await;
    device.read(reading(5, &values[5])).await;
    device.ack(5).await;
    server.kill().await;

    let server = home.serve().await;
    let mut device = Device::open(server.addr(), "device=rig-1", Codec::Json).await;
    assert_eq!(device.welcome.resume_from, 6);
    device.read(reading(3, &values[3])).await;
    device.late_ack(3).await;
}

#[tokio::test]
async fn a_session_that_left_memory_comes_back_bit_for_bit() {
    let values = rig(15, READINGS);
    let whole = TestServer::start().await;
    let expected = whole
        .device("rig-1")
        .await
        .stream(&values, 0, READINGS)
        .await;

    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("tidegate.toml");
    std::fs::write(&config, "[sessions]\nidle_s = 1\n").unwrap();
    let server = Process::serve(dir.path(), &["--config", config.to_str().unwrap()]).await;
    let mut predictions = Vec::new();
    for until in [300, 450, READINGS] {
        let mut device = Device::open(server.addr(), "device=rig-1", Codec::Json).await;
        predictions.extend(device.stream(&values, predictions.len(), until).await);
        drop(device);
        eventually("an empty memory", || async {
            let metrics = request(server.addr(), "GET", "/metrics", None).await.body;
            metrics.lines().any(|line| line == "tidegate_sessions 0")
        })
        .await;
    }
    let answers = |list: &[_]| list.iter().map(answer).collect::<Vec<_>>();
    assert_eq!(answers(&predictions), answers(&expected));
}

#[tokio::test]
async fn a_stream_that_is_loaded_for_a_reading_at_a_time_gets_its_snapshots_too() {
    let values = rig(16, 12);
    let mut server = TestServer::start_with(|raw| raw.sessions.snapshot_every = 4).await;
    for seq in 0..12 {
        let mut device = server.device("rig-1").await;
        device.stream(&values, seq, seq + 1).await;
        drop(device);
        server = server.restart().await;
    }
    let file = server.data_dir().join("tidegate.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(file)
        .read_only(true);
    let mut connection = sqlx::ConnectOptions::connect(&options).await.unwrap();
    let newest: i64 = sqlx::query_scalar("SELECT max(pos) FROM snapshots")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert!(newest > 8, "the newest snapshot stands at {newest} of 13");
}
