//! Policies and bounds of a subscriber's queues, each subscription for itself and all of them together.

use super::{Event, Subscriber};
use crate::config::RawLive;
use proptest::collection::vec;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tidegate_protocol::live::{DeviceEvent, DeviceState};
use tidegate_protocol::{LiveData, Policy};
use tokio::time::Instant;

/// A bound in bytes that no test meets by accident.
const ROOMY: usize = 1 << 20;

/// A subscriber, and the count of bytes that it shares with all others.
fn subscriber(events: usize, bytes: usize) -> (Arc<Subscriber>, Arc<AtomicUsize>) {
    let config = RawLive {
        outbox: events,
        outbox_bytes: bytes,
        ..RawLive::default()
    };
    let everyone = Arc::new(AtomicUsize::new(0));
    (Subscriber::new(&config, Arc::clone(&everyone)), everyone)
}

fn event(offset: u64, device: &str) -> Arc<Event> {
    let data = DeviceEvent {
        device: device.into(),
        endpoint: "e".into(),
        state: DeviceState::Online,
        at: 0,
        gap: None,
    };
    let topic = format!("devices/{device}");
    Arc::new(Event::new(offset, topic, LiveData::Device(data)))
}

/// Offsets of what is due, which counts as written then.
fn take(subscriber: &Subscriber, now: Instant) -> (Vec<u64>, Vec<(u64, u64)>) {
    let taken = subscriber.take(now);
    subscriber.sent();
    let offsets = taken.events.iter().map(|event| event.offset());
    (offsets.collect(), taken.dropped)
}

fn offer(subscriber: &Subscriber, id: u64, offsets: std::ops::RangeInclusive<u64>, device: &str) {
    let events: Vec<_> = offsets.map(|offset| event(offset, device)).collect();
    subscriber.offer(id, &events);
}

#[test]
fn latest_keeps_the_newest_of_each_topic() {
    let (subscriber, _) = subscriber(16, ROOMY);
    subscriber.listen(1, Policy::Latest, None);
    for (offset, device) in [(1, "a"), (2, "b"), (3, "a")] {
        offer(&subscriber, 1, offset..=offset, device);
    }
    assert_eq!(take(&subscriber, Instant::now()), (vec![2, 3], vec![]));
}

#[test]
fn max_hz_holds_events_back_and_says_until_when() {
    let (subscriber, _) = subscriber(16, ROOMY);
    subscriber.listen(1, Policy::Latest, Some(10.0));
    let start = Instant::now() + Duration::from_millis(1);
    let later = |ms| start + Duration::from_millis(ms);
    offer(&subscriber, 1, 1..=1, "a");
    assert_eq!(take(&subscriber, start).0, [1]);
    offer(&subscriber, 1, 2..=2, "a");
    let held = subscriber.take(later(50));
    assert!(held.events.is_empty());
    assert_eq!(held.next, Some(later(100)));
    assert_eq!(take(&subscriber, later(100)).0, [2]);
}

#[test]
fn the_rate_of_one_subscription_is_not_that_of_another() {
    let (subscriber, _) = subscriber(16, ROOMY);
    subscriber.listen(1, Policy::Latest, Some(1.0));
    subscriber.listen(2, Policy::Latest, Some(10.0));
    subscriber.listen(3, Policy::DropOldest, None);
    let start = Instant::now() + Duration::from_millis(1);
    let later = |ms| start + Duration::from_millis(ms);
    let mut got = Vec::new();
    // One event each 50 ms on the same topic, to all three.
    for (offset, at) in (0..40).map(|step| (step + 1, later(step * 50))) {
        for id in 1..=3 {
            offer(&subscriber, id, offset..=offset, "a");
        }
        got.extend(take(&subscriber, at).0);
    }
    let times = |offset| got.iter().filter(|one| **one == offset).count();
    let heard: usize = (1..=40).map(times).sum();
    // All 40 by the third; one in two by the second; at 0 s and at 1 s by the first.
    assert_eq!(heard, 40 + 20 + 2, "{got:?}");
    assert_eq!([times(1), times(21), times(3), times(2)], [3, 3, 2, 1]);
}

#[test]
fn drop_oldest_keeps_the_newest_and_counts_the_rest() {
    let (subscriber, _) = subscriber(2, ROOMY);
    subscriber.listen(7, Policy::DropOldest, None);
    offer(&subscriber, 7, 1..=5, "a");
    assert_eq!(
        take(&subscriber, Instant::now()),
        (vec![4, 5], vec![(7, 3)])
    );
    assert_eq!(take(&subscriber, Instant::now()), (vec![], vec![]));
}

#[test]
fn disconnect_ends_the_connection_instead_of_leaving_a_hole() {
    let (subscriber, everyone) = subscriber(2, ROOMY);
    subscriber.listen(7, Policy::Disconnect, None);
    offer(&subscriber, 7, 1..=3, "a");
    assert!(subscriber.take(Instant::now()).too_slow);
    assert_eq!(
        everyone.load(Ordering::Relaxed),
        0,
        "nothing is kept for it"
    );
    offer(&subscriber, 7, 4..=4, "a");
    assert_eq!(
        everyone.load(Ordering::Relaxed),
        0,
        "nothing is added either"
    );
}

#[tokio::test]
async fn an_overflow_is_told_to_a_task_that_is_busy_writing() {
    let (subscriber, _) = subscriber(2, ROOMY);
    subscriber.listen(7, Policy::Disconnect, None);
    offer(&subscriber, 7, 1..=3, "a");
    subscriber.overflowed().await;
}

#[test]
fn each_policy_speaks_at_the_bound_in_bytes_too() {
    let weight = event(1, "a").weight();
    // Half of it may wait: three events.
    let bytes = 2 * (3 * weight + weight / 2);
    let (dropping, _) = subscriber(1_000, bytes);
    dropping.listen(1, Policy::DropOldest, None);
    offer(&dropping, 1, 1..=5, "a");
    assert_eq!(
        take(&dropping, Instant::now()),
        (vec![3, 4, 5], vec![(1, 2)])
    );

    let (latest, _) = subscriber(1_000, bytes);
    latest.listen(1, Policy::Latest, None);
    for (offset, device) in [(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "a")] {
        offer(&latest, 1, offset..=offset, device);
    }
    assert_eq!(take(&latest, Instant::now()), (vec![2, 3, 5], vec![(1, 1)]));

    let (ending, _) = subscriber(1_000, bytes);
    ending.listen(1, Policy::Disconnect, None);
    offer(&ending, 1, 1..=3, "a");
    assert!(!ending.take(Instant::now()).too_slow);
    offer(&ending, 1, 4..=7, "a");
    assert!(ending.take(Instant::now()).too_slow);
}

#[test]
fn an_event_above_the_bound_passes_alone() {
    let (subscriber, _) = subscriber(16, 2);
    subscriber.listen(1, Policy::DropOldest, None);
    offer(&subscriber, 1, 1..=2, "a");
    assert_eq!(take(&subscriber, Instant::now()), (vec![2], vec![(1, 1)]));
}

#[test]
fn one_topic_may_be_heard_under_two_policies() {
    let (subscriber, _) = subscriber(3, ROOMY);
    subscriber.listen(1, Policy::Latest, None);
    subscriber.listen(2, Policy::DropOldest, None);
    for id in 1..=2 {
        offer(&subscriber, id, 1..=5, "a");
    }
    let (offsets, dropped) = take(&subscriber, Instant::now());
    assert_eq!((offsets, dropped), (vec![3, 4, 5, 5], vec![(2, 2)]));
}

#[test]
fn what_was_taken_counts_until_it_is_written() {
    let (subscriber, everyone) = subscriber(16, ROOMY);
    let held = || everyone.load(Ordering::Relaxed);
    let weight = event(1, "a").weight();
    subscriber.listen(1, Policy::DropOldest, None);
    offer(&subscriber, 1, 1..=2, "a");
    let taken = subscriber.take(Instant::now());
    assert_eq!((taken.events.len(), held()), (2, 2 * weight));
    offer(&subscriber, 1, 3..=3, "a");
    subscriber.sent();
    assert_eq!(held(), weight);
    assert!(subscriber.forget(1));
    assert_eq!(held(), 0);
    subscriber.carry(&taken.events);
    assert_eq!(held(), 2 * weight);
    drop(subscriber);
    assert_eq!(held(), 0);
}

#[test]
fn an_id_is_taken_once() {
    let (subscriber, _) = subscriber(2, ROOMY);
    assert!(subscriber.listen(1, Policy::Latest, None));
    assert!(!subscriber.listen(1, Policy::Latest, None));
    assert!(subscriber.forget(1));
    assert!(!subscriber.forget(1));
}

/// What happens to a subscriber.
#[derive(Debug, Clone)]
enum Act {
    Listen(u64, Policy),
    Forget(u64),
    /// To one of the subscriptions that come and go.
    Offer(u64, u8, u64),
    /// To the one that stays.
    OfferOwn(u64),
    Take,
    Sent,
}

fn act() -> impl Strategy<Value = Act> {
    let policy = prop_oneof![Just(Policy::Latest), Just(Policy::DropOldest)];
    prop_oneof![
        1 => (0..3u64, policy).prop_map(|(id, policy)| Act::Listen(id, policy)),
        1 => (0..3u64).prop_map(Act::Forget),
        8 => (0..3u64, 0..6u8, 1..5u64).prop_map(|(id, device, count)| Act::Offer(id, device, count)),
        4 => (1..5u64).prop_map(Act::OfferOwn),
        2 => Just(Act::Take),
        2 => Just(Act::Sent),
    ]
}

proptest! {
    /// Whoever else comes, goes and takes the room: the bound in bytes holds, and a subscription gets each of its events in order or
    /// hears that it was left out.
    #[test]
    fn nothing_is_lost_without_a_count_and_no_bound_is_passed(acts in vec(act(), 1..200)) {
        const OWN: u64 = 9;
        let bytes = 12 * event(1, "own").weight();
        let (subscriber, everyone) = subscriber(8, bytes);
        subscriber.listen(OWN, Policy::DropOldest, None);
        let (mut offset, mut offered, mut taken, mut in_flight) = (0, 0, Vec::new(), false);
        for act in acts {
            match act {
                Act::Listen(id, policy) => _ = subscriber.listen(id, policy, None),
                Act::Forget(id) => _ = subscriber.forget(id),
                Act::Offer(id, device, count) => {
                    offer(&subscriber, id, offset + 1..=offset + count, &format!("d{device}"));
                    offset += count;
                }
                Act::OfferOwn(count) => {
                    offer(&subscriber, OWN, offset + 1..=offset + count, "own");
                    offset += count;
                    offered += count;
                }
                Act::Take if in_flight => {}
                Act::Take => {
                    taken.push(subscriber.take(Instant::now()));
                    in_flight = true;
                }
                Act::Sent => {
                    subscriber.sent();
                    in_flight = false;
                }
            }
            prop_assert!(everyone.load(Ordering::Relaxed) <= bytes);
        }
        taken.push(subscriber.take(Instant::now()));
        let (mut own, mut dropped) = (Vec::new(), 0);
        for one in &taken {
            prop_assert!(one.events.is_sorted_by_key(|event| event.offset()));
            own.extend(one.events.iter().filter(|event| &**event.topic() == "devices/own"));
            dropped += one.dropped.iter().filter(|(id, _)| *id == OWN).map(|(_, count)| count).sum::<u64>();
        }
        prop_assert!(own.is_sorted_by(|a, b| a.offset() < b.offset()));
        prop_assert_eq!(own.len() as u64 + dropped, offered);
        drop(subscriber);
        prop_assert_eq!(everyone.load(Ordering::Relaxed), 0);
    }
}
