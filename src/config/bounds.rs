//! The least and the most that each number of the configuration may be.

use super::raw::{
    RawConfig, RawConnections, RawInference, RawLive, RawMqtt, RawSessions, RawStore,
};
use tidegate_protocol::MAX_NUMBER;

/// Longest that anything is kept by its age: a hundred years.
const MOST_DAYS: u64 = 36_500;
const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;
const YEAR: u64 = 365 * DAY;

/// A key, its value, the least and the most that it may be.
type Bound = (&'static str, u64, u64, u64);

/// Adds a line for every number that is out of its bounds.
pub fn check(raw: &RawConfig, problems: &mut Vec<String>) {
    let all = of_connections(&raw.connections)
        .into_iter()
        .chain(of_sessions(&raw.sessions))
        .chain(of_inference(&raw.inference))
        .chain(of_store(&raw.store))
        .chain(of_live(&raw.live))
        .chain(of_mqtt(&raw.mqtt));
    for (key, value, least, most) in all {
        if !(least..=most).contains(&value) {
            problems.push(format!("{key} {value}: expected {least} to {most}"));
        }
    }
    let synchronous = raw.store.synchronous.as_str();
    if !matches!(synchronous, "full" | "normal") {
        problems.push(format!(
            "store.synchronous {synchronous:?}: expected full or normal"
        ));
    }
}

fn of_connections(raw: &RawConnections) -> [Bound; 10] {
    [
        ("connections.max", raw.max as u64, 1, 1_000_000),
        ("connections.ping_s", raw.ping_s.into(), 1, HOUR),
        ("connections.pong_s", raw.pong_s.into(), 1, HOUR),
        (
            "connections.overload_close_s",
            raw.overload_close_s.into(),
            1,
            HOUR,
        ),
        ("connections.drain_s", raw.drain_s.into(), 1, HOUR),
        ("connections.outbox", raw.outbox as u64, 64, 1_000_000),
        (
            "connections.receive_bytes",
            raw.receive_bytes as u64,
            0,
            16 * 1024 * 1024,
        ),
        (
            "connections.ack_linger_ms",
            raw.ack_linger_ms.into(),
            0,
            1_000,
        ),
        (
            "connections.commit_wait_s",
            raw.commit_wait_s.into(),
            1,
            HOUR,
        ),
        ("connections.request_s", raw.request_s.into(), 1, HOUR),
    ]
}

fn of_inference(raw: &RawInference) -> [Bound; 5] {
    let below = raw.inline_below_us.into();
    [
        ("inference.inline_below_us", below, 0, 1_000_000),
        ("inference.queue", raw.queue as u64, 1, 1_000_000),
        ("inference.cores", raw.cores as u64, 0, 1_024),
        ("inference.warm_percent", raw.warm_percent.into(), 1, 100),
        ("inference.look_every_s", raw.look_every_s.into(), 0, DAY),
    ]
}

fn of_sessions(raw: &RawSessions) -> [Bound; 7] {
    let failed_steps = raw.max_failed_steps.into();
    [
        ("sessions.max", raw.max as u64, 1, 100_000_000),
        ("sessions.idle_s", raw.idle_s.into(), 1, YEAR),
        (
            "sessions.snapshot_every",
            raw.snapshot_every.into(),
            1,
            100_000,
        ),
        ("sessions.max_gaps", raw.max_gaps as u64, 1, 10_000),
        (
            "sessions.offline_after_s",
            raw.offline_after_s.into(),
            1,
            DAY,
        ),
        ("sessions.max_repeats", raw.max_repeats as u64, 1, 1_000_000),
        ("sessions.max_failed_steps", failed_steps, 0, 1_000_000),
    ]
}

fn of_store(raw: &RawStore) -> [Bound; 9] {
    let days = |key, days: u32| (key, u64::from(days), 0, MOST_DAYS);
    let interval = raw.commit_interval_ms.into();
    [
        ("store.queue", raw.queue as u64, 1_024, 10_000_000),
        ("store.max_batch", raw.max_batch as u64, 1, 65_536),
        ("store.commit_interval_ms", interval, 0, 1_000),
        (
            "store.commit_timeout_s",
            raw.commit_timeout_s.into(),
            1,
            HOUR,
        ),
        days("store.keep_days", raw.keep_days),
        days("store.keep_minutes_days", raw.keep_minutes_days),
        days("store.keep_hours_days", raw.keep_hours_days),
        ("store.max_bytes", raw.max_bytes, 1_000_000, MAX_NUMBER),
        ("store.min_free_bytes", raw.min_free_bytes, 0, MAX_NUMBER),
    ]
}

fn of_live(raw: &RawLive) -> [Bound; 8] {
    let subscriptions = raw.max_subscriptions as u64;
    [
        ("live.max_subscriptions", subscriptions, 1, 10_000),
        ("live.outbox", raw.outbox as u64, 16, 1_000_000),
        (
            "live.outbox_bytes",
            raw.outbox_bytes as u64,
            64 * 1024,
            1 << 30,
        ),
        ("live.stall_s", raw.stall_s.into(), 1, 600),
        ("live.max_recover", raw.max_recover.into(), 0, 1_000_000),
        ("live.recover_s", raw.recover_s.into(), 1, HOUR),
        ("live.ring_bytes", raw.ring_bytes as u64, 0, 1 << 36),
        ("live.backlog", raw.backlog as u64, 16, 1_000_000),
    ]
}

fn of_mqtt(raw: &RawMqtt) -> [Bound; 5] {
    let receive = raw.receive_maximum.into();
    [
        ("mqtt.receive_maximum", receive, 1, 65_535),
        ("mqtt.outbox", raw.outbox as u64, 16, 1_000_000),
        ("mqtt.answer_wait_s", raw.answer_wait_s.into(), 0, 60),
        ("mqtt.keep_alive_s", raw.keep_alive_s.into(), 5, HOUR),
        ("mqtt.streams", raw.streams as u64, 1, 10_000_000),
    ]
}
