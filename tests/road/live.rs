//! Subscribers: events in commit order, policies; recovery and slow readers in modules of their own.

mod recovery;
mod slow;

use crate::common::http::request;
use crate::common::peer::wish;
use crate::common::server::config;
use crate::common::{Device, Process, Subscriber, TestServer, batch, plain, rig};
use std::net::SocketAddr;
use std::time::Instant;
use tidegate::config::RawConfig;
use tidegate_protocol::live::{DeviceEvent, DeviceState, Event, Subscribe};
use tidegate_protocol::{
    Codec, ErrorCode, LiveData, LiveMessage, LiveRequest, Policy, Position, Sample,
};

const RIG: &str = "predictions/pump-health/rig-1";

/// The sample of an event, whose offset is the sample's id.
fn sample(event: &Event) -> &Sample {
    let LiveData::Sample(sample) = &event.data else {
        panic!("no sample: {event:?}");
    };
    assert_eq!(event.offset, sample.id);
    sample
}

/// The next `count` events, which must rise by offset; their numbers.
async fn seqs(subscriber: &mut Subscriber, count: usize) -> Vec<u64> {
    let mut seqs = Vec::new();
    let mut last = 0;
    for _ in 0..count {
        let event = subscriber.event().await;
        assert!(event.offset > last, "{event:?} after {last}");
        last = event.offset;
        seqs.push(sample(&event).seq);
    }
    seqs
}

/// The next event of a device.
async fn device_event(subscriber: &mut Subscriber) -> DeviceEvent {
    match subscriber.event().await.data {
        LiveData::Device(event) => event,
        other => panic!("no device event: {other:?}"),
    }
}

/// The log's id, as any subscription tells it.
async fn log_of(subscriber: &mut Subscriber) -> String {
    let log = subscriber.subscribe(wish(1, "devices/nobody")).await.0.log;
    unsubscribe(subscriber, 1).await;
    log
}

async fn unsubscribe(subscriber: &mut Subscriber, wanted: u64) {
    subscriber
        .send(&LiveRequest::Unsubscribe { id: wanted })
        .await;
    subscriber
        .expect("unsubscribed", |message| {
            matches!(message, LiveMessage::Unsubscribed { id } if *id == wanted).then_some(())
        })
        .await;
}

/// A wish to go on after `offset`.
fn since(log: &str, offset: u64, wish: Subscribe) -> Subscribe {
    let from = Some(Position {
        log: log.to_owned(),
        offset,
    });
    Subscribe { from, ..wish }
}

/// A server in its own process, so that its metrics are its own.
struct Own {
    process: Process,
    _dir: tempfile::TempDir,
}

impl Own {
    async fn start_with(change: impl FnOnce(&mut RawConfig)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut raw = config(dir.path());
        change(&mut raw);
        let file = dir.path().join("tidegate.toml");
        std::fs::write(&file, raw.to_toml()).expect("its configuration");
        let file = file.to_str().expect("a path in UTF-8");
        let process = Process::serve(dir.path(), &["--config", file]).await;
        Self { process, _dir: dir }
    }

    fn addr(&self) -> SocketAddr {
        self.process.addr()
    }

    async fn device(&self, id: &str) -> Device {
        Device::open(self.addr(), &format!("device={id}"), Codec::Json).await
    }

    async fn subscriber(&self) -> Subscriber {
        Subscriber::connect(self.addr(), Codec::Json).await
    }

    /// A metric's value, with its labels if it has any; 0 while nothing was counted.
    async fn metric(&self, name: &str) -> f64 {
        let page = request(self.addr(), "GET", "/metrics", None).await.body;
        let value = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().expect("a number"))
    }
}

/// Sends readings `from..to` and waits for their ack.
async fn send(device: &mut Device, from: u64, to: u64) {
    for seq in from..to {
        device.read(plain(seq)).await;
    }
    device.ack(to - 1).await;
}

#[tokio::test]
async fn a_subscriber_gets_every_committed_sample_once_and_in_order() {
    let server = TestServer::start().await;
    for codec in [Codec::Json, Codec::Bincode] {
        let mut subscriber = Subscriber::connect(server.addr(), codec).await;
        let name = codec.subprotocol();
        let (_, recovered) = subscriber
            .subscribe(wish(1, &format!("predictions/pump-health/{name}")))
            .await;
        assert!(recovered);
        let mut device = server
            .device_with(&format!("device={name}"), Codec::Json)
            .await;
        send(&mut device, 0, 50).await;
        let stored = server.samples(name).await;
        let mut last = 0;
        for (seq, row) in (0..50).zip(&stored) {
            let event = subscriber.event().await;
            assert!(event.offset > last, "{event:?} after {last}");
            last = event.offset;
            assert_eq!(sample(&event).seq, seq);
            assert_eq!(sample(&event), row);
        }
        // The next event is a new one: nothing came twice.
        send(&mut device, 50, 51).await;
        assert_eq!(seqs(&mut subscriber, 1).await, [50]);
    }
}

#[tokio::test]
async fn a_wildcard_matches_every_device_and_a_name_only_its_own() {
    let server = TestServer::start().await;
    let mut all = server.subscriber().await;
    all.subscribe(wish(1, "predictions/*/*")).await;
    let mut one = server.subscriber().await;
    one.subscribe(wish(1, RIG)).await;
    let mut other = server.device("rig-2").await;
    send(&mut other, 0, 1).await;
    let mut device = server.device("rig-1").await;
    send(&mut device, 7, 8).await;
    assert_eq!(seqs(&mut all, 2).await, [0, 7]);
    assert_eq!(seqs(&mut one, 1).await, [7]);
}

#[tokio::test]
async fn an_unsubscribed_topic_is_silent_while_the_other_goes_on() {
    let server = TestServer::start().await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe(wish(1, RIG)).await;
    subscriber
        .subscribe(wish(2, "predictions/pump-health/rig-2"))
        .await;
    unsubscribe(&mut subscriber, 1).await;
    send(&mut server.device("rig-1").await, 0, 3).await;
    send(&mut server.device("rig-2").await, 5, 6).await;
    assert_eq!(seqs(&mut subscriber, 1).await, [5]);
}

#[tokio::test]
async fn latest_with_a_rate_never_sends_more_and_ends_with_the_newest() {
    const HZ: f32 = 10.0;
    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    let mut subscriber = server.subscriber().await;
    let start = Instant::now();
    let slow = Subscribe {
        policy: Policy::Latest,
        max_hz: Some(HZ),
        ..wish(1, RIG)
    };
    subscriber.subscribe(slow).await;
    let mut sent = 0;
    while start.elapsed().as_secs_f32() < 1.0 {
        send(&mut device, sent, sent + 1).await;
        sent += 1;
    }
    let mut events = 0;
    let mut seq = None;
    while seq != Some(sent - 1) {
        let event = subscriber.event().await;
        let next = Some(sample(&event).seq);
        assert!(next > seq, "{next:?} after {seq:?}");
        seq = next;
        events += 1;
    }
    // One at once, then one an interval.
    let most = 1.0 + start.elapsed().as_secs_f32() * HZ;
    assert!(events as f32 <= most, "{events} events, at most {most}");
    assert!(events >= 2, "{events} events for {sent} readings");
}

#[tokio::test]
async fn drop_oldest_loses_nothing_unless_it_says_so() {
    const COUNT: usize = 400;
    // One commit holds more than a subscriber may have waiting.
    let server = TestServer::start_with(|raw| {
        raw.live.outbox = 16;
        raw.store.commit_interval_ms = 100;
    })
    .await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe(wish(1, RIG)).await;
    let mut device = server.device("rig-1").await;
    let values = rig(1, COUNT);
    device.send(&batch(&values, 0, COUNT)).await;
    let (mut events, mut dropped, mut last) = (0, 0, None);
    while last != Some(COUNT as u64 - 1) {
        let heard = subscriber
            .expect("an event or what was dropped", |m| Some(m.clone()))
            .await;
        match heard {
            LiveMessage::Event(event) => {
                let seq = Some(sample(&event).seq);
                assert!(seq > last, "{seq:?} after {last:?}");
                last = seq;
                events += 1;
            }
            LiveMessage::Dropped { id: 1, count } => dropped += count,
            other => panic!("{other:?}"),
        }
    }
    assert!(dropped > 0);
    assert_eq!(events + dropped, COUNT as u64);
}

#[tokio::test]
async fn a_refused_request_leaves_the_connection_and_its_subscriptions_alive() {
    let server = TestServer::start().await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe(wish(1, RIG)).await;
    let rate_without_latest = Subscribe {
        max_hz: Some(1.0),
        ..wish(2, RIG)
    };
    for refused in [
        wish(2, "nothing/of/this"),
        wish(2, "predictions/pump-health"),
        wish(1, "system"),
        rate_without_latest,
    ] {
        subscriber.send(&LiveRequest::Subscribe(refused)).await;
        assert_eq!(subscriber.error().await.code, ErrorCode::BadRequest);
    }
    subscriber.say("{\"type\":\"subscribe\"").await;
    assert_eq!(subscriber.error().await.code, ErrorCode::BadRequest);
    subscriber.send(&LiveRequest::Unsubscribe { id: 2 }).await;
    assert_eq!(subscriber.error().await.code, ErrorCode::BadRequest);
    send(&mut server.device("rig-1").await, 3, 4).await;
    assert_eq!(seqs(&mut subscriber, 1).await, [3]);
}

#[tokio::test]
async fn one_subscription_too_many_is_refused_by_its_limit() {
    let server = TestServer::start_with(|raw| raw.live.max_subscriptions = 1).await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe(wish(1, RIG)).await;
    let more = LiveRequest::Subscribe(wish(2, "predictions/*/*"));
    subscriber.send(&more).await;
    assert_eq!(subscriber.error().await.code, ErrorCode::Limit);
    send(&mut server.device("rig-1").await, 0, 1).await;
    assert_eq!(seqs(&mut subscriber, 1).await, [0]);
}

#[tokio::test]
async fn a_device_is_told_online_then_its_gap_then_offline() {
    let server = TestServer::start().await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe(wish(1, "devices/rig-1")).await;
    let _other = server.device("rig-2").await;
    let mut device = server.device("rig-1").await;
    let online = device_event(&mut subscriber).await;
    assert_eq!((online.state, online.gap), (DeviceState::Online, None));
    assert_eq!(
        (online.device.as_str(), online.endpoint.as_str()),
        ("rig-1", "pump-health")
    );
    send(&mut device, 0, 1).await;
    send(&mut device, 5, 6).await;
    let gap = device_event(&mut subscriber).await;
    assert_eq!((gap.state, gap.gap), (DeviceState::Gap, Some((1, 4))));
    drop(device);
    let offline = device_event(&mut subscriber).await;
    assert_eq!((offline.state, offline.gap), (DeviceState::Offline, None));
}

#[tokio::test]
async fn the_server_tells_its_rates() {
    let server = TestServer::start().await;
    let _device = server.device("rig-1").await;
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe(wish(1, "system")).await;
    let event = subscriber.event().await;
    assert_eq!(event.topic, "system");
    let LiveData::System(system) = event.data else {
        panic!("{event:?}");
    };
    assert_eq!((system.devices_online, system.subscribers), (1, 1));
}
