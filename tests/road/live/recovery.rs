//! Recovery: whole, from memory or from the store, or not at all.

use super::*;
use crate::common::{eventually, within};
use futures_util::future::join_all;
use sqlx::{Connection, SqliteConnection};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use tidegate_protocol::message::ServerError;
use tokio::time::Instant;

const ALL: &str = "predictions/*/*";

/// Every number in `from..to`.
fn numbers(from: u64, to: u64) -> Vec<u64> {
    (from..to).collect()
}

/// What retention does last in its transaction: nothing below `id` is promised any more.
async fn raise_first_kept(data_dir: &Path, id: i64) {
    let url = format!("sqlite:{}", data_dir.join("tidegate.db").display());
    let mut database = SqliteConnection::connect(&url).await.expect("the database");
    sqlx::query("UPDATE log SET first_kept = ?")
        .bind(id)
        .execute(&mut database)
        .await
        .expect("the mark is raised");
}

/// Hears events until the server ends the connection; their numbers, the error and the close code.
async fn hear_to_the_end(subscriber: &mut Subscriber) -> (Vec<u64>, ServerError, u16) {
    let mut seqs = Vec::new();
    loop {
        let heard = subscriber
            .expect("an event or an error", |m| Some(m.clone()))
            .await;
        match heard {
            LiveMessage::Event(event) => seqs.push(sample(&event).seq),
            LiveMessage::Error(error) => return (seqs, error, subscriber.close_code().await),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_subscriber_that_comes_back_gets_exactly_what_it_missed() {
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    let mut subscriber = server.subscriber().await;
    let (Position { log, .. }, _) = subscriber.subscribe(wish(1, RIG)).await;
    send(&mut device, 0, 10).await;
    let mut offset = 0;
    for _ in 0..6 {
        offset = subscriber.event().await.offset;
    }
    drop(subscriber);
    send(&mut device, 10, 20).await;
    let mut subscriber = server.subscriber().await;
    let again = Subscribe {
        from: Some(Position { log, offset }),
        ..wish(4, RIG)
    };
    let (_, recovered) = subscriber.subscribe(again).await;
    assert!(recovered);
    send(&mut device, 20, 25).await;
    let missed: Vec<u64> = (6..25).collect();
    assert_eq!(seqs(&mut subscriber, missed.len()).await, missed);
}

#[tokio::test]
async fn a_position_is_good_after_a_restart_too() {
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    let mut subscriber = server.subscriber().await;
    let (Position { log, .. }, _) = subscriber.subscribe(wish(1, RIG)).await;
    send(&mut device, 0, 5).await;
    let offset = subscriber.event().await.offset;
    drop((device, subscriber));
    let server = server.restart().await;
    let mut subscriber = server.subscriber().await;
    let again = Subscribe {
        from: Some(Position { log, offset }),
        ..wish(1, RIG)
    };
    let (_, recovered) = subscriber.subscribe(again).await;
    assert!(recovered);
    let mut device = server.device("rig-1").await;
    send(&mut device, 5, 7).await;
    assert_eq!(seqs(&mut subscriber, 6).await, [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn a_position_in_another_log_is_not_recovered_but_gets_the_latest_sample() {
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    let mut witness = server.subscriber().await;
    witness.subscribe(wish(1, RIG)).await;
    send(&mut device, 0, 5).await;
    // Once they were given out nothing of them is still to come.
    seqs(&mut witness, 5).await;
    let mut subscriber = server.subscriber().await;
    let from = Position {
        log: "another".into(),
        offset: 1,
    };
    let foreign = Subscribe {
        from: Some(from),
        ..wish(1, RIG)
    };
    let (position, recovered) = subscriber.subscribe(foreign).await;
    assert!(!recovered);
    assert_ne!(position.log, "another");
    send(&mut device, 5, 6).await;
    assert_eq!(seqs(&mut subscriber, 2).await, [4, 5]);
}

#[tokio::test]
async fn a_short_absence_is_recovered_from_memory_alone() {
    let server = Own::start_with(|_| {}).await;
    let mut device = server.device("rig-1").await;
    device.stream(&rig(1, 1_000), 0, 1_000).await;
    let mut subscriber = server.subscriber().await;
    let log = log_of(&mut subscriber).await;
    let (position, recovered) = subscriber.subscribe(since(&log, 300, wish(1, RIG))).await;
    assert!(recovered);
    assert_eq!(position.offset, 300, "the position that events follow");
    assert_eq!(seqs(&mut subscriber, 700).await, numbers(300, 1_000));
    send(&mut device, 1_000, 1_001).await;
    assert_eq!(seqs(&mut subscriber, 1).await, [1_000]);
    let from = |place| format!("tidegate_recovered_events_total{{from=\"{place}\"}}");
    assert_eq!(server.metric(&from("memory")).await, 700.0);
    assert_eq!(server.metric(&from("store")).await, 0.0);
    assert!(server.metric("tidegate_live_ring_bytes").await > 0.0);
}

#[tokio::test]
async fn a_recovery_meets_the_live_flow_without_hole_or_repeat_while_the_device_streams_on() {
    const READINGS: usize = 2_000;
    let values = rig(2, READINGS);
    // Nothing in memory, a ring that reaches a little way back, everything in memory.
    for ring_bytes in [0, 100_000, 16 << 20] {
        let server = TestServer::start_with(|raw| {
            raw.live.ring_bytes = ring_bytes;
            raw.live.outbox = READINGS;
            raw.live.outbox_bytes = 16 << 20;
        })
        .await;
        let mut device = server.device("rig-1").await;
        device.stream(&values, 0, READINGS / 2).await;
        let mut subscribers = Vec::new();
        for (topic, policy) in [
            (RIG, Policy::DropOldest),
            (ALL, Policy::Disconnect),
            ("predictions/*/rig-1", Policy::DropOldest),
        ] {
            let mut subscriber = server.subscriber().await;
            let log = log_of(&mut subscriber).await;
            let wish = Subscribe {
                policy,
                ..wish(1, topic)
            };
            let (_, recovered) = subscriber.subscribe(since(&log, 0, wish)).await;
            assert!(recovered);
            subscribers.push(subscriber);
        }
        let everyone = join_all(subscribers.iter_mut().map(|one| seqs(one, READINGS)));
        let (_, heard) = tokio::join!(device.stream(&values, READINGS / 2, READINGS), everyone);
        for heard in heard {
            assert_eq!(heard, numbers(0, READINGS as u64));
        }
    }
}

#[tokio::test]
async fn what_is_recovered_comes_whole_whatever_policy_and_rate() {
    let server = TestServer::start_with(|raw| raw.live.outbox = 16).await;
    let mut device = server.device("rig-1").await;
    device.stream(&rig(3, 300), 0, 300).await;
    let mut subscriber = server.subscriber().await;
    let log = log_of(&mut subscriber).await;
    let slow = Subscribe {
        policy: Policy::Latest,
        max_hz: Some(0.01),
        ..wish(1, RIG)
    };
    assert!(subscriber.subscribe(since(&log, 0, slow)).await.1);
    assert_eq!(seqs(&mut subscriber, 300).await, numbers(0, 300));
}

#[tokio::test]
async fn a_position_is_recovered_up_to_max_recover_events_of_its_own_topic() {
    let server = TestServer::start_with(|raw| raw.live.max_recover = 10).await;
    let mut one = server.device("rig-1").await;
    send(&mut one, 0, 5).await;
    let mut other = server.device("rig-2").await;
    send(&mut other, 0, 200).await;
    send(&mut one, 5, 10).await;
    let mut subscriber = server.subscriber().await;
    let log = log_of(&mut subscriber).await;
    // Ten of its own among two hundred of another.
    let (_, recovered) = subscriber.subscribe(since(&log, 0, wish(1, RIG))).await;
    assert!(recovered);
    assert_eq!(seqs(&mut subscriber, 10).await, numbers(0, 10));
    // Eleven of all are too many: the latest of each stream, once.
    let far = since(&log, 210 - 11, wish(2, ALL));
    let (position, recovered) = subscriber.subscribe(far).await;
    assert_eq!((position.offset, recovered), (210, false));
    assert_eq!(seqs(&mut subscriber, 2).await, [199, 9]);
    let near = since(&log, 210 - 10, wish(3, ALL));
    assert!(subscriber.subscribe(near).await.1);
    assert_eq!(seqs(&mut subscriber, 10).await.len(), 10);
}

#[tokio::test]
async fn a_position_beyond_the_end_is_not_recovered() {
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    send(&mut device, 0, 5).await;
    let mut subscriber = server.subscriber().await;
    let log = log_of(&mut subscriber).await;
    assert!(subscriber.subscribe(since(&log, 5, wish(1, RIG))).await.1);
    let (position, recovered) = subscriber.subscribe(since(&log, 6, wish(2, RIG))).await;
    assert_eq!((position.offset, recovered), (5, false));
    assert_eq!(seqs(&mut subscriber, 1).await, [4]);
}

#[tokio::test]
async fn a_position_whose_samples_are_retired_is_not_recovered() {
    let server = TestServer::start_with(|raw| raw.live.ring_bytes = 0).await;
    let mut device = server.device("rig-1").await;
    send(&mut device, 0, 20).await;
    raise_first_kept(&server.data_dir(), 11).await;
    let mut subscriber = server.subscriber().await;
    let log = log_of(&mut subscriber).await;
    let (_, recovered) = subscriber.subscribe(since(&log, 9, wish(1, RIG))).await;
    assert!(!recovered, "sample 10 may be gone");
    assert_eq!(seqs(&mut subscriber, 1).await, [19]);
    let (_, recovered) = subscriber.subscribe(since(&log, 10, wish(2, RIG))).await;
    assert!(recovered, "everything from 11 on is kept");
    assert_eq!(seqs(&mut subscriber, 10).await, numbers(10, 20));
}

#[tokio::test]
async fn samples_that_retire_before_they_were_recovered_end_the_connection_instead_of_leaving_a_hole()
 {
    const READINGS: usize = 3_000;
    let server = TestServer::start_with(|raw| raw.live.ring_bytes = 0).await;
    let mut device = server.device("rig-1").await;
    device.stream(&rig(4, READINGS), 0, READINGS).await;
    let mut subscriber = server.subscriber().await;
    let log = log_of(&mut subscriber).await;
    // Reads no further: what is left does not fit between server and client.
    assert!(subscriber.subscribe(since(&log, 0, wish(1, RIG))).await.1);
    raise_first_kept(&server.data_dir(), READINGS as i64 + 1).await;
    let (heard, error, code) = hear_to_the_end(&mut subscriber).await;
    assert!(heard.len() < READINGS, "{}", heard.len());
    assert_eq!(heard, numbers(0, heard.len() as u64));
    assert_eq!(
        (error.code, code),
        (ErrorCode::Overloaded, 4013),
        "{error:?}"
    );
    assert!(error.message.contains("retired"), "{error:?}");
}

#[tokio::test]
async fn a_subscriber_that_does_not_catch_up_in_time_is_closed() {
    const READINGS: usize = 3_000;
    let server = TestServer::start_with(|raw| raw.live.recover_s = 1).await;
    let mut device = server.device("rig-1").await;
    device.stream(&rig(5, READINGS), 0, READINGS).await;
    let mut subscriber = server.subscriber().await;
    let log = log_of(&mut subscriber).await;
    assert!(subscriber.subscribe(since(&log, 0, wish(1, RIG))).await.1);
    let start = Instant::now();
    let mut sent = READINGS as u64;
    while start.elapsed() < Duration::from_millis(1_100) {
        send(&mut device, sent, sent + 1).await;
        sent += 1;
    }
    let (heard, error, code) = hear_to_the_end(&mut subscriber).await;
    assert_eq!(heard, numbers(0, heard.len() as u64));
    assert_eq!((error.code, code), (ErrorCode::TooSlow, 4008), "{error:?}");
    assert!(error.message.contains("not caught up"), "{error:?}");
}

#[tokio::test]
async fn recovering_subscribers_that_do_not_read_cost_a_portion_each_and_get_everything_in_the_end()
{
    const READINGS: usize = 2_500;
    const SUBSCRIBERS: usize = 8;
    const BYTES: usize = 64 * 1024;
    let values = rig(6, 2 * READINGS);
    let server = Own::start_with(|raw| {
        raw.live.outbox_bytes = BYTES;
        raw.live.ring_bytes = 200_000;
    })
    .await;
    let mut device = server.device("rig-1").await;
    device.stream(&values, 0, READINGS).await;
    let mut subscribers = Vec::new();
    for _ in 0..SUBSCRIBERS {
        let mut subscriber = server.subscriber().await;
        let log = log_of(&mut subscriber).await;
        assert!(subscriber.subscribe(since(&log, 0, wish(1, RIG))).await.1);
        subscribers.push(subscriber);
    }
    // None of them reads, and the device is not kept.
    device.stream(&values, READINGS, 2 * READINGS).await;
    assert_eq!(
        server.metric("tidegate_recovering_subscriptions").await,
        SUBSCRIBERS as f64
    );
    let waiting = server.metric("tidegate_live_waiting_bytes").await;
    assert!(waiting <= (SUBSCRIBERS * BYTES) as f64, "{waiting}");
    for subscriber in &mut subscribers {
        let heard = within("all of it", seqs(subscriber, 2 * READINGS)).await;
        assert_eq!(heard, numbers(0, 2 * READINGS as u64));
    }
    eventually("all are live", || async {
        server.metric("tidegate_recovering_subscriptions").await == 0.0
    })
    .await;
}

#[tokio::test]
async fn a_subscription_that_starts_anew_gets_the_latest_of_every_stream_once() {
    // More than two pages.
    const STREAMS: usize = 230;
    let server = TestServer::start().await;
    let values: Vec<String> = rig(7, 1)[0].iter().map(ToString::to_string).collect();
    let body = format!("{{\"seq\":0,\"values\":[{}]}}", values.join(","));
    let paths: Vec<_> = (0..STREAMS)
        .map(|rig| format!("/api/v1/pump-health/predict?device=rig-{rig}"))
        .collect();
    for answer in join_all(paths.iter().map(|path| server.post(path, &body))).await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    send(&mut server.device("rig-5").await, 1, 3).await;
    let mut subscriber = server.subscriber().await;
    let foreign = since("another", 1, wish(1, ALL));
    let (position, recovered) = subscriber.subscribe(foreign).await;
    assert_eq!((position.offset, recovered), (STREAMS as u64 + 2, false));
    let mut topics = BTreeSet::new();
    for _ in 0..STREAMS {
        let event = subscriber.event().await;
        let expected = if event.topic.ends_with("/rig-5") {
            2
        } else {
            0
        };
        assert_eq!(sample(&event).seq, expected, "{event:?}");
        assert!(topics.insert(event.topic.clone()), "twice: {event:?}");
    }
    // The log follows, and nothing of the snapshot again.
    send(&mut server.device("rig-9").await, 1, 2).await;
    assert_eq!(seqs(&mut subscriber, 1).await, [1]);
}

#[tokio::test]
async fn a_subscription_to_devices_that_starts_anew_hears_who_is_online() {
    let server = TestServer::start().await;
    let _first = server.device("rig-1").await;
    let _second = server.device("rig-2").await;
    let mut subscriber = server.subscriber().await;
    let (_, recovered) = subscriber
        .subscribe(since("another", 1, wish(1, "devices/*")))
        .await;
    assert!(!recovered);
    for expected in ["rig-1", "rig-2"] {
        let event = device_event(&mut subscriber).await;
        assert_eq!(
            (event.device.as_str(), event.state),
            (expected, DeviceState::Online)
        );
    }
    let _third = server.device("rig-3").await;
    assert_eq!(device_event(&mut subscriber).await.device, "rig-3");
}

#[tokio::test]
async fn a_subscription_may_be_given_up_while_it_recovers() {
    const READINGS: usize = 2_000;
    let server = Own::start_with(|raw| raw.live.ring_bytes = 0).await;
    let mut device = server.device("rig-1").await;
    device.stream(&rig(8, READINGS), 0, READINGS).await;
    let mut subscriber = server.subscriber().await;
    let log = log_of(&mut subscriber).await;
    assert!(subscriber.subscribe(since(&log, 0, wish(1, RIG))).await.1);
    unsubscribe(&mut subscriber, 1).await;
    assert_eq!(
        server.metric("tidegate_recovering_subscriptions").await,
        0.0
    );
    // The same number may be used again at once.
    let again = since(
        &log,
        READINGS as u64 - 1,
        wish(1, "predictions/pump-health/rig-2"),
    );
    assert!(subscriber.subscribe(again).await.1);
    send(&mut server.device("rig-2").await, 7, 8).await;
    let heard = subscriber
        .expect("an event of rig-2", |m| match m {
            LiveMessage::Event(event) if event.topic.ends_with("rig-2") => Some(sample(event).seq),
            _ => None,
        })
        .await;
    assert_eq!(heard, 7);
}
