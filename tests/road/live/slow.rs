//! Slow subscribers: they lose what their policy says, cost what is configured, and delay nobody.

use super::*;
use crate::common::eventually;

const READINGS: usize = 6_000;
/// Events in one second of a stuck dashboard are more than this holds.
const BYTES: usize = 256 * 1024;

/// A subscriber that will not read any more.
async fn stuck(server: &Own, policy: Policy) -> Subscriber {
    let mut subscriber = server.subscriber().await;
    let wish = Subscribe {
        policy,
        ..wish(1, RIG)
    };
    subscriber.subscribe(wish).await;
    subscriber
}

#[tokio::test]
async fn a_subscriber_that_never_reads_delays_neither_the_device_nor_another_subscriber() {
    let values = rig(21, READINGS);
    let server = Own::start_with(|raw| {
        raw.live.outbox_bytes = BYTES;
        raw.live.stall_s = 600;
    })
    .await;
    let mut follower = stuck(&server, Policy::DropOldest).await;
    let mut never = Vec::new();
    for policy in [Policy::Latest, Policy::DropOldest, Policy::Disconnect] {
        never.push(stuck(&server, policy).await);
    }
    let mut device = server.device("rig-1").await;
    // Every prediction and ack comes, and the follower hears every event, while the others are full.
    for from in (0..READINGS).step_by(100) {
        device.stream(&values, from, from + 100).await;
        let heard = seqs(&mut follower, 100).await;
        assert_eq!(heard, (from as u64..from as u64 + 100).collect::<Vec<_>>());
    }
    // The one that wanted everything or nothing is closed though its socket is full; the others lost what their policy says.
    let closed = "tidegate_closed_total{code=\"4008\"}";
    eventually("the close of one", || async {
        server.metric(closed).await == 1.0
    })
    .await;
    assert!(server.metric("tidegate_events_dropped_total").await > 0.0);
    let waiting = server.metric("tidegate_live_waiting_bytes").await;
    assert!(waiting > 0.0 && waiting <= (3 * BYTES) as f64, "{waiting}");
}

#[tokio::test]
async fn a_subscriber_that_takes_nothing_for_too_long_is_closed_and_costs_nothing_more() {
    let values = rig(22, READINGS);
    let server = Own::start_with(|raw| {
        raw.live.outbox_bytes = BYTES;
        raw.live.stall_s = 1;
    })
    .await;
    let _never = [
        stuck(&server, Policy::DropOldest).await,
        stuck(&server, Policy::DropOldest).await,
    ];
    let mut device = server.device("rig-1").await;
    device.stream(&values, 0, READINGS).await;
    let closed = "tidegate_closed_total{code=\"4008\"}";
    eventually("the close of both", || async {
        server.metric(closed).await == 2.0
    })
    .await;
    eventually("that they are gone", || async {
        server.metric("tidegate_connections{kind=\"live\"}").await == 0.0
    })
    .await;
    assert_eq!(server.metric("tidegate_live_waiting_bytes").await, 0.0);
    assert_eq!(server.metric("tidegate_subscriptions").await, 0.0);
}

#[tokio::test]
async fn a_disconnect_subscription_that_overflows_hears_why_it_is_closed() {
    let values = rig(23, 400);
    let server = TestServer::start_with(|raw| {
        raw.live.outbox = 16;
        raw.store.commit_interval_ms = 100;
    })
    .await;
    let mut subscriber = server.subscriber().await;
    let wish = Subscribe {
        policy: Policy::Disconnect,
        ..wish(1, RIG)
    };
    subscriber.subscribe(wish).await;
    let mut device = server.device("rig-1").await;
    // One commit of more than may wait; the socket itself has room.
    device.send(&batch(&values, 0, 400)).await;
    let error = subscriber.error().await;
    assert_eq!(error.code, ErrorCode::TooSlow);
    assert_eq!(subscriber.close_code().await, 4008);
    device.ack(399).await;
}

#[tokio::test]
async fn subscriptions_of_one_connection_keep_their_own_policies_and_rates() {
    const HZ: f32 = 5.0;
    const COUNT: u64 = 60;
    let server = TestServer::start().await;
    let mut subscriber = server.subscriber().await;
    let start = Instant::now();
    let latest = |id, topic, max_hz| Subscribe {
        policy: Policy::Latest,
        max_hz,
        ..wish(id, topic)
    };
    subscriber.subscribe(wish(1, RIG)).await;
    subscriber.subscribe(latest(2, RIG, Some(HZ))).await;
    subscriber
        .subscribe(latest(3, "predictions/*/rig-1", None))
        .await;
    let mut device = server.device("rig-1").await;
    for seq in 0..COUNT {
        send(&mut device, seq, seq + 1).await;
    }
    // All three end with the newest.
    let mut heard = Vec::new();
    let newest = |heard: &[u64]| heard.iter().filter(|seq| **seq == COUNT - 1).count();
    while newest(&heard) < 3 {
        heard.push(sample(&subscriber.event().await).seq);
    }
    let each: std::collections::BTreeSet<u64> = heard.iter().copied().collect();
    assert_eq!(
        each.len() as u64,
        COUNT,
        "drop_oldest leaves nothing out while it is read"
    );
    // All to the first, at most all to the third, and one at once and one an interval to the second.
    let most = 2.0 * COUNT as f32 + 1.0 + start.elapsed().as_secs_f32() * HZ;
    assert!(
        heard.len() as f32 <= most,
        "{} events, at most {most}",
        heard.len()
    );
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_subscriber_that_never_reads() {
    let values = rig(24, READINGS);
    let server = TestServer::start().await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe(wish(1, RIG)).await;
    let mut device = server.device("rig-1").await;
    device.stream(&values, 0, READINGS).await;
    assert!(server.stop().await, "the stop was not clean");
}
