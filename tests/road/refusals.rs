//! Bad input: each kind gets the answer that the protocol's table states, and what was accepted before stays.

use crate::common::peer::error_and_close;
use crate::common::{Device, ENDPOINT, TestServer, plain, reading};
use tidegate_protocol::{
    Codec, DeviceMessage, ErrorCode, MAX_FRAME_BYTES, NackCode, Reading, Values, Wire,
};

/// Reading `seq` as JSON with `values` as they stand.
fn text(seq: u64, values: &str) -> String {
    format!(r#"{{"seq":{seq},"values":{values}}}"#)
}

#[tokio::test]
async fn what_is_no_message_is_nacked_and_the_connection_lives_on() {
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    device.still_works(0).await;
    for (sent, seq) in [
        ("not json", None),
        ("{", None),
        ("42", None),
        (r#"{"type":"other"}"#, None),
        (r#"{"seq":-1,"values":[1]}"#, None),
        (r#"{"seq":9007199254740992,"values":[1]}"#, None),
    ] {
        device.say(sent).await;
        device.nack(seq, NackCode::BadReading).await;
    }
    device.still_works(1).await;
    assert_eq!(server.samples("rig-1").await.len(), 2);
    let mut binary = server.device_with("device=rig-2", Codec::Bincode).await;
    binary.still_works(0).await;
    for sent in [vec![], vec![9, 0], vec![1, 200], vec![1, 3, 0]] {
        binary.say_binary(sent).await;
        binary.nack(None, NackCode::BadReading).await;
    }
    binary.still_works(1).await;
}

#[tokio::test]
async fn values_of_the_wrong_number_name_or_kind_are_nacked() {
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    device.still_works(0).await;
    let bad = [
        "[1,2,3,4,5,6,7]",
        "[1,2,3,4,5,6,7,8,9]",
        "[1,2,3,4,5,6,7,1e39]",
        "[1,2,3,4,5,6,7,NaN]",
        r#"[1,2,3,4,5,6,7,"8"]"#,
        r#"{"flux":1}"#,
        "{}",
        "[null,null,null,null,null,null,null,null]",
    ];
    let mut seq = 1;
    for values in bad {
        device.say(&text(seq, values)).await;
        let nack = device.nack(Some(seq), NackCode::BadReading).await;
        assert!(!nack.message.is_empty());
        device.ack(seq).await;
        seq += 1;
    }
    device.still_works(seq).await;
    assert_eq!(server.samples("rig-1").await.len(), 2);
}

#[tokio::test]
async fn nan_and_infinity_are_refused_in_bincode() {
    let server = TestServer::start().await;
    let mut device = server.device_with("device=rig-1", Codec::Bincode).await;
    device.still_works(0).await;
    let odd = [
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::from_bits(0x7fc0_0001),
    ];
    for (seq, value) in (1..).zip(odd) {
        let mut values = [1.0; 8];
        values[3] = value;
        device.read(reading(seq, &values)).await;
        device.nack(Some(seq), NackCode::BadReading).await;
    }
    device.still_works(4).await;
}

#[tokio::test]
async fn a_value_no_sensor_can_give_is_refused_and_an_unusual_one_is_flagged() {
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    let with_first = |seq, first| {
        let Values::Ordered(mut values) = plain(seq).values else {
            unreachable!("plain readings are ordered")
        };
        values[0] = first;
        reading(seq, &values)
    };
    device.read(with_first(0, 1000.0)).await;
    device.nack(Some(0), NackCode::OutOfRange).await;
    device.read(with_first(1, 3.0)).await;
    device.ack(1).await;
    let samples = server.samples("rig-1").await;
    assert_eq!(samples.len(), 1);
    assert!(samples[0].flags.contains(&"out_of_range".to_owned()));
}

#[tokio::test]
async fn an_absurd_time_is_stored_as_sent_and_flagged() {
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    for (seq, ts) in [(0, i64::MIN), (1, i64::MAX), (2, 0)] {
        let absurd = Reading {
            ts: Some(ts),
            ..plain(seq)
        };
        device.read(absurd).await;
        assert_eq!(device.prediction(seq).await.ts, ts);
        device.ack(seq).await;
    }
    for (sample, ts) in server
        .samples("rig-1")
        .await
        .iter()
        .zip([i64::MIN, i64::MAX, 0])
    {
        assert_eq!(sample.ts, ts);
        assert!(sample.flags.contains(&"clock_skew".to_owned()));
    }
}

#[tokio::test]
async fn a_batch_with_one_undecodable_reading_is_refused_whole() {
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    device.still_works(0).await;
    let good = r#"{"seq":1,"values":[1,2,3,4,5,6,7,8]}"#;
    device
        .say(&format!(r#"{{"type":"batch","readings":[{good},7]}}"#))
        .await;
    device.nack(None, NackCode::BadReading).await;
    let many = (1..=1025).map(plain).collect();
    let mut binary = server.device_with("device=rig-2", Codec::Bincode).await;
    binary.send(&DeviceMessage::Batch(many)).await;
    binary.nack(None, NackCode::BadReading).await;
    device.still_works(1).await;
    assert_eq!(server.samples("rig-2").await.len(), 0);
}

#[tokio::test]
async fn the_wrong_kind_of_frame_closes_and_loses_nothing() {
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    device.read(plain(0)).await;
    device
        .say_binary(DeviceMessage::Reading(plain(1)).to_bytes(Codec::Bincode))
        .await;
    let (error, code) = device.error_and_close().await;
    assert_eq!((error.code, code), (ErrorCode::WrongFrame, 4506));
    let mut device = server.device_with("device=rig-2", Codec::Bincode).await;
    device.say(r#"{"seq":0,"values":[1]}"#).await;
    let (error, code) = device.error_and_close().await;
    assert_eq!((error.code, code), (ErrorCode::WrongFrame, 4506));
    let mut device = server.device("rig-1").await;
    device.read(plain(0)).await;
    device.ack(0).await;
    assert_eq!(server.samples("rig-1").await.len(), 1);
}

#[tokio::test]
async fn a_frame_over_the_limit_closes_with_1009() {
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    device.still_works(0).await;
    device.say(&" ".repeat(MAX_FRAME_BYTES + 1)).await;
    assert_eq!(device.close_code().await, 1009);
    let device = server.device("rig-1").await;
    assert_eq!(device.welcome.resume_from, 1);
}

#[tokio::test]
async fn a_request_that_cannot_be_served_is_answered_on_the_socket() {
    let server = TestServer::start().await;
    let long = "x".repeat(129);
    for (path, expected) in [
        (
            "nowhere?device=rig-1".to_owned(),
            ErrorCode::UnknownEndpoint,
        ),
        (format!("{ENDPOINT}?device=a%2Fb"), ErrorCode::BadRequest),
        (format!("{ENDPOINT}?device={long}"), ErrorCode::BadRequest),
        (format!("{ENDPOINT}?device="), ErrorCode::BadRequest),
        (ENDPOINT.to_owned(), ErrorCode::BadRequest),
        (
            format!("{ENDPOINT}?device=a&epoch=-1"),
            ErrorCode::BadRequest,
        ),
        (
            format!("{ENDPOINT}?device=a&push=never"),
            ErrorCode::BadRequest,
        ),
        (
            format!("{ENDPOINT}?device=a&version=x/9"),
            ErrorCode::UnknownVersion,
        ),
        (
            format!("{ENDPOINT}?device=a&status=staging"),
            ErrorCode::UnknownVersion,
        ),
    ] {
        let mut peer = Device::connect(server.addr(), &path, Codec::Json).await;
        let (error, code) = error_and_close(&mut peer).await;
        assert_eq!((error.code, code), (expected, 4501), "{path}");
    }
}

/// A query that names a parameter twice got a plain HTTP 400, which a browser cannot read.
#[tokio::test]
async fn a_parameter_given_twice_is_answered_on_the_socket() {
    let server = TestServer::start().await;
    let path = format!("{ENDPOINT}?device=a&device=b");
    let mut peer = Device::connect(server.addr(), &path, Codec::Json).await;
    let (error, code) = error_and_close(&mut peer).await;
    assert_eq!((error.code, code), (ErrorCode::BadRequest, 4501));
}
