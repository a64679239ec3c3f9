//! An ack is sent after the sync: shown from the system calls of a running server.
//!
//! One device sends a reading, waits for its ack and sends the next, under `strace`. With `store.synchronous = "full"` a sync of the
//! write-ahead log has returned between the write that carries a reading and the ack; with `"normal"` the same look at the
//! same trace must find that it has not, so that the test is known to be able to fail.

use super::door::{Door, WsDoor};
use super::server::Server;
use super::trace::{self, Ack};
use super::within;
use super::zoo::SmallZoo;
use std::path::Path;
use tidegate_protocol::{Codec, DeviceMessage, Reading, ServerMessage, Values, Wire};

/// Readings sent in lockstep.
const READINGS: u64 = 25;

/// Eight values that no other reading has, in range.
fn values(seq: u64) -> Vec<f32> {
    let seq = seq as f32;
    vec![
        0.1 + seq / 1_000.0,
        0.2 + seq / 1_000.0,
        1.0,
        0.5,
        60.0 + seq,
        30.0 + seq / 10.0,
        230.0,
        30.0,
    ]
}

/// How a reading's values stand in the database, and so in the log.
fn marker(seq: u64) -> Vec<u8> {
    values(seq).iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Sends all in lockstep to a traced server and gives every ack that left.
async fn acks(synchronous: &str) -> Vec<Ack> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let zoo = SmallZoo::write();
    let file = dir.path().join("trace");
    let store = format!("synchronous = {synchronous:?}\n");
    let mut server = Server::new(dir.path(), &dir.path().join("data"), &zoo.dir(), &store, "");
    server.trace(&strace(&file));
    let addr = server.start().await.expect("it starts under strace");
    let (mut door, _) = WsDoor::open(addr, "device=rig-1", Codec::Json)
        .await
        .expect("a stream");
    for seq in 0..READINGS {
        lockstep(&mut door, seq).await;
    }
    let status = server.stop().await.expect("it ends");
    assert!(status.success(), "{status}");
    let trace = std::fs::read_to_string(file).expect("a trace");
    let markers: Vec<_> = (0..READINGS).map(marker).collect();
    trace::acks(&trace, &markers)
}

/// Strings whole and in hex: a page of the log is 4 KiB.
fn strace(file: &Path) -> Vec<String> {
    let calls = format!("trace={}", trace::CALLS);
    let file = file.display().to_string();
    [
        "strace", "-f", "-qq", "-xx", "-s", "8192", "-e", &calls, "-o", &file,
    ]
    .map(str::to_owned)
    .to_vec()
}

async fn lockstep(door: &mut Door, seq: u64) {
    let reading = DeviceMessage::Reading(Reading {
        seq: Some(seq),
        values: Values::Ordered(values(seq)),
        ..Reading::default()
    });
    door.send(reading.to_bytes(Codec::Json))
        .await
        .expect("a connection");
    within("an ack", async {
        loop {
            let message = door.hear().await.expect("a connection");
            if matches!(message, ServerMessage::Ack(ack) if ack.seq == seq) {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn every_ack_leaves_after_the_sync_of_its_reading_returned() {
    let acks = acks("full").await;
    let seqs: Vec<u64> = acks.iter().map(|ack| ack.seq).collect();
    assert_eq!(seqs, (0..READINGS).collect::<Vec<_>>());
    assert!(acks.iter().all(|ack| ack.synced), "{acks:?}");
}

#[tokio::test]
async fn with_weaker_syncs_the_same_look_finds_acks_that_left_too_early() {
    let acks = acks("normal").await;
    let early = acks.iter().filter(|ack| !ack.synced).count();
    assert!(early * 2 > acks.len() && !acks.is_empty(), "{acks:?}");
}
