//! The plain road: a device says hello, sends readings, gets predictions and acks, in both codecs.

use crate::common::{ENDPOINT, TestServer, answer, batch, bits, plain, reading, rig};
use tidegate_protocol::message::{Feedback, Label};
use tidegate_protocol::{Codec, DeviceMessage, NackCode, Output, Reading, ServerMessage, Values};

#[tokio::test]
async fn a_device_is_welcomed_predicted_and_acked_in_both_codecs() {
    let server = TestServer::start().await;
    for (id, codec) in [("rig-j", Codec::Json), ("rig-b", Codec::Bincode)] {
        let mut device = server.device_with(&format!("device={id}"), codec).await;
        let welcome = device.welcome.clone();
        assert_eq!(
            (welcome.endpoint.as_str(), welcome.device.as_str()),
            (ENDPOINT, id)
        );
        assert_eq!((welcome.epoch, welcome.resume_from), (0, 0));
        assert_eq!(welcome.features.len(), 8);
        assert_eq!(
            (welcome.model.as_str(), welcome.version.as_str()),
            ("mewma", "1.0.0")
        );
        device.read(plain(0)).await;
        let prediction = device.prediction(0).await;
        assert_eq!(prediction.ts, plain(0).ts.unwrap());
        let first = Output::Calibrating {
            seen: 1,
            needed: 400,
        };
        assert_eq!(prediction.output, first);
        assert_eq!(device.ack(0).await.seq, 0);
        assert_eq!(server.samples(id).await.len(), 1);
    }
}

#[tokio::test]
async fn json_and_bincode_give_the_same_predictions_bit_for_bit() {
    let server = TestServer::start().await;
    let values = rig(3, 450);
    let mut json = server.device_with("device=rig-j", Codec::Json).await;
    let mut bincode = server.device_with("device=rig-b", Codec::Bincode).await;
    let json = json.stream(&values, 0, 450).await;
    let bincode = bincode.stream(&values, 0, 450).await;
    for (one, other) in json.iter().zip(&bincode) {
        assert_eq!(answer(one), answer(other));
    }
    let calibrating = |output: &Output| matches!(output, Output::Calibrating { .. });
    assert!(json[..399].iter().all(|p| calibrating(&p.output)));
    let scored = json[400..]
        .iter()
        .all(|p| matches!(p.output, Output::Anomaly { .. }));
    assert!(scored, "{:?}", json[400].output);
}

#[tokio::test]
async fn what_is_stored_is_what_was_answered() {
    let server = TestServer::start().await;
    let values = rig(4, 420);
    let mut device = server.device("rig-1").await;
    let predictions = device.stream(&values, 0, 420).await;
    let samples = server.samples("rig-1").await;
    assert_eq!(samples.len(), 420);
    for ((sample, prediction), values) in samples.iter().zip(&predictions).zip(&values) {
        assert_eq!(sample.seq, prediction.seq);
        assert_eq!(bits(&sample.output), bits(&prediction.output));
        assert_eq!(&sample.values, values);
    }
    assert!(samples.is_sorted_by_key(|sample| sample.id));
}

#[tokio::test]
async fn batches_bare_arrays_and_names_are_readings_too() {
    let server = TestServer::start().await;
    let values = rig(5, 6);
    let mut singles = server.device("singles").await;
    for (seq, values) in values.iter().enumerate() {
        singles.read(reading(seq as u64, values)).await;
    }
    singles.ack(5).await;
    let mut batched = server.device("batched").await;
    batched.send(&batch(&values, 0, 6)).await;
    batched.ack(5).await;
    let mut bare = server.device("bare").await;
    for values in &values {
        bare.say(&serde_json::to_string(values).unwrap()).await;
    }
    bare.ack(5).await;
    let names: Vec<_> = singles
        .welcome
        .features
        .iter()
        .map(|f| f.name.clone())
        .collect();
    let mut named = server.device("named").await;
    for (seq, values) in values.iter().enumerate() {
        let pairs = names.iter().cloned().zip(values.iter().copied()).rev();
        let values = Values::Named(pairs.collect());
        named
            .read(Reading {
                values,
                ..reading(seq as u64, &[])
            })
            .await;
    }
    named.ack(5).await;
    let stored = server.samples("singles").await;
    for id in ["batched", "bare", "named"] {
        let other = server.samples(id).await;
        assert_eq!(other.len(), 6, "{id}");
        for (one, other) in stored.iter().zip(&other) {
            assert_eq!((one.seq, &one.values), (other.seq, &other.values), "{id}");
        }
    }
}

#[tokio::test]
async fn feedback_is_stored_and_echoed_and_an_unknown_reading_has_none() {
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    device.read(plain(0)).await;
    device
        .say(r#"{"type":"feedback","seq":0,"label":"normal","ref":5}"#)
        .await;
    let stored = device
        .expect("feedback", |message| match message {
            ServerMessage::Feedback(stored) => Some(stored.clone()),
            _ => None,
        })
        .await;
    assert_eq!((stored.seq, stored.reference), (0, Some(5)));
    let feedback = Feedback {
        epoch: None,
        seq: 77,
        label: Label::Number(1.0),
        reference: None,
    };
    device.send(&DeviceMessage::Feedback(feedback)).await;
    device.nack(Some(77), NackCode::UnknownReading).await;
    device.still_works(1).await;
}

#[tokio::test]
async fn a_reset_starts_a_new_calibration() {
    let server = TestServer::start().await;
    let values = rig(6, 410);
    let mut device = server.device("rig-1").await;
    device.stream(&values, 0, 405).await;
    device.send(&DeviceMessage::Reset).await;
    device
        .expect("reset", |message| match message {
            ServerMessage::Reset(done) => Some(done.epoch),
            _ => None,
        })
        .await;
    device.read(reading(405, &values[405])).await;
    let after = device.prediction(405).await;
    let first = Output::Calibrating {
        seen: 1,
        needed: 400,
    };
    assert_eq!(after.output, first);
}

#[tokio::test]
async fn committed_push_delivers_a_prediction_only_with_its_commit() {
    let server = TestServer::start().await;
    let mut device = server
        .device_with("device=rig-1&push=committed", Codec::Json)
        .await;
    for seq in 0..20 {
        device.read(plain(seq)).await;
        let prediction = device.any_prediction().await;
        assert_eq!(prediction.seq, seq);
        // Durable already: the store has it before anything else is waited for.
        assert_eq!(server.samples("rig-1").await.len() as u64, seq + 1);
        device.ack(seq).await;
    }
}
