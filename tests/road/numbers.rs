//! One answer a reading: duplicates, reuse, gaps, late readings, epochs and numbering.

use crate::common::{TestServer, answer, plain, reading};
use tidegate_protocol::{Codec, NackCode, Output, Reading, ServerMessage};

fn unnumbered() -> Reading {
    Reading {
        seq: None,
        ..plain(0)
    }
}

#[tokio::test]
async fn a_duplicate_gets_the_same_prediction_and_no_second_sample() {
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    device.read(plain(0)).await;
    device.read(plain(1)).await;
    let first = device.prediction(1).await;
    device.ack(1).await;
    for _ in 0..2 {
        device.read(plain(1)).await;
        assert_eq!(answer(&device.prediction(1).await), answer(&first));
        device.ack(1).await;
    }
    let without_ts = Reading {
        ts: None,
        ..plain(1)
    };
    device.read(without_ts).await;
    assert_eq!(answer(&device.prediction(1).await), answer(&first));
    assert_eq!(server.samples("rig-1").await.len(), 2);
}

#[tokio::test]
async fn a_duplicate_is_answered_after_a_restart_too() {
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    device.read(plain(0)).await;
    let first = device.prediction(0).await;
    device.ack(0).await;
    drop(device);
    let server = server.restart().await;
    let mut device = server.device("rig-1").await;
    assert_eq!(device.welcome.resume_from, 1);
    device.read(plain(0)).await;
    assert_eq!(answer(&device.prediction(0).await), answer(&first));
    device.ack(0).await;
}

#[tokio::test]
async fn many_devices_that_send_what_is_stored_again_at_once_are_all_answered() {
    // Each holds a reader of the store while its number is looked for; there are fewer readers than devices.
    let server = TestServer::start().await;
    let again = (0..24).map(|number| {
        let (server, name) = (&server, format!("rig-{number}"));
        async move {
            let mut device = server.device(&name).await;
            device.read(plain(0)).await;
            let first = device.prediction(0).await;
            device.ack(0).await;
            for _ in 0..20 {
                device.read(plain(0)).await;
                assert_eq!(answer(&device.prediction(0).await), answer(&first));
            }
        }
    });
    futures_util::future::join_all(again).await;
}

#[tokio::test]
async fn other_values_under_a_known_number_are_refused() {
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    device.still_works(0).await;
    device.read(reading(0, &[0.5; 8])).await;
    device.nack(Some(0), NackCode::SeqReused).await;
    let other_time = Reading {
        ts: Some(1),
        ..plain(0)
    };
    device.read(other_time).await;
    device.nack(Some(0), NackCode::SeqReused).await;
    device.still_works(1).await;
    assert_eq!(server.samples("rig-1").await.len(), 2);
}

#[tokio::test]
async fn a_gap_is_told_before_the_ack_that_covers_it() {
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    // The first reading opens the stream without a gap.
    device.read(plain(7)).await;
    device.ack(7).await;
    device.read(plain(12)).await;
    let gap = device.gap().await;
    assert_eq!((gap.from, gap.to), (8, 11));
    device.ack(12).await;
    let place = |found: fn(&ServerMessage) -> bool| device.heard().iter().position(found).unwrap();
    let told = place(|message| matches!(message, ServerMessage::Gap(_)));
    let covered = place(|message| matches!(message, ServerMessage::Ack(ack) if ack.seq >= 12));
    assert!(told < covered);
}

#[tokio::test]
async fn a_late_reading_is_stored_unfolded_and_acked_by_number() {
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    device.read(plain(0)).await;
    device.read(plain(3)).await;
    device.ack(3).await;
    device.read(plain(2)).await;
    let late = device.prediction(2).await;
    assert_eq!(late.output, Output::Skipped("late".into()));
    assert_eq!(device.late_ack(2).await.seq, 3);
    device.read(plain(4)).await;
    let seen = device.prediction(4).await.output;
    let third = Output::Calibrating {
        seen: 3,
        needed: 400,
    };
    assert_eq!(seen, third);
    device.ack(4).await;
    drop(device);
    // The gap survives a restart, and so does what has come out of it.
    let server = server.restart().await;
    let mut device = server.device("rig-1").await;
    device.read(plain(1)).await;
    let late = device.prediction(1).await;
    assert_eq!(late.output, Output::Skipped("late".into()));
    device.late_ack(1).await;
    device.read(reading(2, &[0.5; 8])).await;
    device.nack(Some(2), NackCode::SeqReused).await;
}

/// A device sent a late reading and lost the connection before its ack. What a gap named is settled only by its number, so the
/// duplicate has to be acked by number again, or the device keeps it for ever.
#[tokio::test]
async fn a_late_reading_sent_again_is_acked_by_number_again() {
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    device.read(plain(0)).await;
    device.read(plain(3)).await;
    device.read(plain(2)).await;
    device.late_ack(2).await;
    drop(device);
    let mut device = server.device("rig-1").await;
    device.read(plain(2)).await;
    let late = device.prediction(2).await;
    assert_eq!(late.output, Output::Skipped("late".into()));
    assert_eq!(device.any_ack().await.late, [2]);
}

#[tokio::test]
async fn a_refused_number_is_used_up_and_its_nack_is_repeated() {
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    device.still_works(0).await;
    device.read(reading(1, &[0.5; 7])).await;
    device.nack(Some(1), NackCode::BadReading).await;
    device.ack(1).await;
    device.read(plain(1)).await;
    device.nack(Some(1), NackCode::BadReading).await;
    device.still_works(2).await;
    drop(device);
    let server = server.restart().await;
    let mut device = server.device("rig-1").await;
    assert_eq!(device.welcome.resume_from, 3);
    device.read(plain(1)).await;
    device.nack(Some(1), NackCode::BadReading).await;
}

#[tokio::test]
async fn the_first_reading_fixes_who_numbers() {
    let server = TestServer::start().await;
    let mut counted = server.device("counted").await;
    counted.read(unnumbered()).await;
    counted.read(unnumbered()).await;
    counted.prediction(0).await;
    counted.prediction(1).await;
    counted.ack(1).await;
    counted.read(plain(2)).await;
    counted.nack(Some(2), NackCode::Numbering).await;
    counted.read(unnumbered()).await;
    counted.prediction(2).await;
    let mut counting = server.device("counting").await;
    counting.still_works(0).await;
    counting.read(unnumbered()).await;
    counting.nack(None, NackCode::Numbering).await;
    counting.still_works(1).await;
}

#[tokio::test]
async fn a_new_epoch_starts_at_zero_and_inherits_the_state() {
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    device.read(plain(0)).await;
    device.read(plain(1)).await;
    device.ack(1).await;
    drop(device);
    let mut device = server
        .device_with("device=rig-1&epoch=4", Codec::Json)
        .await;
    assert_eq!((device.welcome.epoch, device.welcome.resume_from), (4, 0));
    device.read(plain(0)).await;
    let first = device.prediction(0).await;
    let third = Output::Calibrating {
        seen: 3,
        needed: 400,
    };
    assert_eq!((first.epoch, first.output), (None, third));
    device.ack(0).await;
    let samples = server.samples("rig-1").await;
    let numbers: Vec<_> = samples.iter().map(|s| (s.epoch, s.seq)).collect();
    assert_eq!(numbers, [(0, 0), (0, 1), (4, 0)]);
}

#[tokio::test]
async fn an_old_epoch_is_answered_from_the_store_or_refused() {
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    device.read(plain(0)).await;
    let known = device.prediction(0).await;
    let next = Reading {
        epoch: Some(1),
        ..plain(0)
    };
    device.read(next).await;
    device
        .expect("ack of epoch 1", |message| match message {
            ServerMessage::Ack(ack) if ack.epoch == Some(1) => Some(()),
            _ => None,
        })
        .await;
    let old = |seq| Reading {
        epoch: Some(0),
        ..plain(seq)
    };
    device.read(old(0)).await;
    let again = device
        .expect("the old prediction", |message| match message {
            ServerMessage::Prediction(p) if p.epoch.is_none() => Some(p.clone()),
            _ => None,
        })
        .await;
    assert_eq!(answer(&again), answer(&known));
    device.read(old(1)).await;
    device.nack(Some(1), NackCode::OldEpoch).await;
}

/// A device that had moved its stream to epoch 1 sent a reading of the connection's own epoch 0 again, without naming it: it was
/// taken as a new reading of epoch 1.
#[tokio::test]
async fn a_reading_without_an_epoch_belongs_to_the_welcomes_wherever_the_stream_has_moved() {
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    for seq in 0..3 {
        device.still_works(seq).await;
    }
    let later = Reading {
        epoch: Some(1),
        ..plain(0)
    };
    device.read(later).await;
    device
        .expect("ack of epoch 1", |message| match message {
            ServerMessage::Ack(ack) if ack.epoch == Some(1) => Some(()),
            _ => None,
        })
        .await;
    device.read(plain(2)).await;
    let again = device.prediction(2).await;
    assert_eq!(again.epoch, None, "the welcome's epoch");
    device.read(plain(7)).await;
    device.nack(Some(7), NackCode::OldEpoch).await;
    let samples = server.samples("rig-1").await;
    let numbers: Vec<_> = samples.iter().map(|s| (s.epoch, s.seq)).collect();
    assert_eq!(numbers, [(0, 0), (0, 1), (0, 2), (1, 0)]);
}
