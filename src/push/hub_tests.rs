//! The hub with a real database behind it: lagging, and recoveries that meet a busy writer.

use super::flow_tests::committed;
use super::{Hub, HubFeed, Listener, Pattern, Subscriber};
use crate::config::RawLive;
use crate::store::Store;
use crate::store::sqlite::SqliteStore;
use crate::stream::{Marks, Numbering, Row, What};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tidegate_protocol::{EndpointName, Policy, Position};
use tokio::time::{Instant, timeout};

const WAIT: Duration = Duration::from_secs(30);
const DEVICES: u64 = 5;

/// A hub, and a writer that commits what it is told.
struct World {
    hub: Arc<Hub>,
    store: Arc<dyn Store>,
    positions: HashMap<i64, u64>,
    last: u64,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new(config: RawLive) -> (Self, HubFeed) {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(
            SqliteStore::open(&dir.path().join("tidegate.db"), false)
                .await
                .unwrap(),
        );
        let endpoint = EndpointName::new("even").unwrap();
        let id = store
            .register_version(&endpoint, "m", "1.0.0", &[0; 32])
            .await;
        assert_eq!(id.unwrap(), 1);
        let (hub, feed) = Hub::new(Arc::clone(&store), 0, vec![endpoint], config);
        let world = Self {
            hub,
            store,
            positions: HashMap::new(),
            last: 0,
            _dir: dir,
        };
        (world, feed)
    }

    /// Commits samples of all devices in turn, and tells the hub.
    async fn commit(&mut self, count: u64) {
        let ids = self.last + 1..=self.last + count;
        let samples: Vec<_> = ids.map(|id| committed(id, (id % DEVICES) as u8)).collect();
        self.last += count;
        let rows: Vec<Row> = samples
            .iter()
            .map(|(id, sample)| {
                let pos = self.positions.entry(sample.stream.id).or_default();
                *pos += 1;
                Row {
                    id: *id,
                    stream: Arc::clone(&sample.stream),
                    after: Marks {
                        pos: *pos,
                        high_water: Some(sample.seq),
                        numbering: Numbering::Device,
                        ..Marks::default()
                    },
                    what: What::Sample(Arc::clone(sample)),
                    gaps: None,
                    snapshot: None,
                    mark: None,
                }
            })
            .collect();
        let rows: Vec<&Row> = rows.iter().collect();
        self.store.commit(&rows).await.unwrap();
        self.hub.committed(samples);
    }
}

/// A subscription with all the room it may need.
fn listener(hub: &Hub, pattern: &str) -> Listener {
    let subscriber = hub.subscriber();
    subscriber.listen(1, Policy::DropOldest, None);
    Listener {
        id: 1,
        subscriber,
        pattern: Pattern::parse(pattern).unwrap(),
    }
}

/// Hears events until the last one is `last`.
async fn hear(subscriber: &Subscriber, heard: &mut Vec<u64>, last: u64) {
    let all = async {
        while heard.last() < Some(&last) {
            subscriber.ready().await;
            let taken = subscriber.take(Instant::now());
            subscriber.sent();
            heard.extend(taken.events.iter().map(|event| event.offset()));
        }
    };
    timeout(WAIT, all).await.expect("events go on");
}

fn roomy() -> RawLive {
    RawLive {
        outbox: 1 << 20,
        outbox_bytes: 1 << 30,
        backlog: 16,
        ..RawLive::default()
    }
}

#[tokio::test]
async fn a_hub_that_lagged_gives_every_commit_once_and_in_order() {
    let (mut world, feed) = World::new(roomy()).await;
    let all = listener(&world.hub, "predictions/*/*");
    world.hub.subscribe(all.clone(), None).await.unwrap();
    // Far more commits than may wait: most of them find the queue full, the last one too.
    for _ in 0..100 {
        world.commit(7).await;
    }
    let running = tokio::spawn(Arc::clone(&world.hub).run(feed));
    let mut heard = Vec::new();
    hear(&all.subscriber, &mut heard, 700).await;
    world.commit(7).await;
    hear(&all.subscriber, &mut heard, 707).await;
    assert_eq!(heard, (1..=707).collect::<Vec<_>>());
    running.abort();
}

/// Recovers from `offset` and hears on to `last`, which must match the pattern.
async fn follow(hub: Arc<Hub>, pattern: &'static str, offset: u64, last: u64) -> Vec<u64> {
    let listener = listener(&hub, pattern);
    let log = hub.log_id().to_owned();
    let from = Position { log, offset };
    let subscribed = hub.subscribe(listener.clone(), Some(&from)).await.unwrap();
    assert_eq!((subscribed.offset, subscribed.recovered), (offset, true));
    let mut recovery = subscribed.recovery.unwrap();
    let mut heard = Vec::new();
    while !recovery.is_done() {
        let events = hub.recover(&mut recovery).await.unwrap();
        heard.extend(events.iter().map(|event| event.offset()));
        tokio::task::yield_now().await;
    }
    hear(&listener.subscriber, &mut heard, last).await;
    heard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn recoveries_meet_the_flow_of_a_busy_writer_without_hole_or_repeat() {
    const COMMITS: u64 = 150;
    const ROWS: u64 = 20;
    const LAST: u64 = COMMITS * ROWS;
    for ring_bytes in [0, 60_000, 1 << 24] {
        let config = RawLive {
            ring_bytes,
            outbox_bytes: 1 << 24,
            ..roomy()
        };
        let (mut world, feed) = World::new(config).await;
        let running = tokio::spawn(Arc::clone(&world.hub).run(feed));
        let mut followers = Vec::new();
        for commit in 0..COMMITS {
            world.commit(ROWS).await;
            if commit % 10 == 0 && commit < COMMITS - 10 {
                // The last sample is of device 0.
                for pattern in [
                    "predictions/*/*",
                    "predictions/even/d0",
                    "predictions/even/*",
                ] {
                    let offset = world.last - (commit * 7) % (world.last + 1);
                    let task = follow(Arc::clone(&world.hub), pattern, offset, LAST);
                    followers.push((pattern, offset, tokio::spawn(task)));
                }
            }
        }
        for (pattern, offset, task) in followers {
            let heard = task.await.unwrap();
            let listened = Pattern::parse(pattern).unwrap();
            let hears = |id: &u64| {
                let (_, row) = committed(*id, (*id % DEVICES) as u8);
                listened.hears_predictions_of(&row.stream.key)
            };
            let wanted: Vec<u64> = (offset + 1..=LAST).filter(hears).collect();
            assert_eq!(
                heard, wanted,
                "from {offset} on {pattern}, ring of {ring_bytes}"
            );
        }
        running.abort();
    }
}

#[tokio::test]
async fn a_store_that_counts_by_reading_counts_the_same() {
    let (mut world, _feed) = World::new(roomy()).await;
    world.commit(1_234).await;
    for (endpoint, limit) in [
        (None, 2_000),
        (Some("even"), 2_000),
        (None, 1_000),
        (None, 0),
    ] {
        let query = crate::store::SampleQuery {
            endpoint: endpoint.map(str::to_owned),
            cursor: Some(4),
            live_only: true,
            limit,
            ..Default::default()
        };
        let counted = world.store.count_samples(&query).await.unwrap();
        let read = world.store.samples(&query).await.unwrap();
        assert_eq!(counted as usize, read.len());
        let by_reading = crate::store::count_by_reading(&*world.store, query).await;
        assert_eq!(by_reading.unwrap(), counted);
    }
}
