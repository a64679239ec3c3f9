//! The live flow under any interleaving of commits, recoveries, lags and small rings: no hole, no repeat.

use super::flow::{Batch, Committed, Flow, Listener, Next, Portion};
use super::{Pattern, Subscriber};
use crate::config::RawLive;
use crate::store::StoredSample;
use crate::stream::{Flags, SampleRow, StreamKey, StreamRef, VersionRef};
use proptest::collection::vec;
use proptest::prelude::*;
use std::sync::Arc;
use tidegate_protocol::{DeviceId, EndpointName, Output, Policy};
use tokio::time::Instant;

fn key(device: u8) -> StreamKey {
    let endpoint = if device.is_multiple_of(2) {
        "even"
    } else {
        "odd"
    };
    StreamKey::live(
        EndpointName::new(endpoint).unwrap(),
        DeviceId::new(&format!("d{device}")).unwrap(),
    )
}

/// A committed sample of a device; those with even numbers are at endpoint `even`, the others at `odd`.
pub fn committed(id: u64, device: u8) -> Committed {
    let key = key(device);
    let version = VersionRef {
        id: 1,
        endpoint: key.endpoint.clone(),
        model: "m".into(),
        version: "1.0.0".into(),
    };
    let row = SampleRow {
        stream: Arc::new(StreamRef {
            id: i64::from(device) + 1,
            key,
        }),
        pos: id,
        epoch: 0,
        seq: id,
        ts: 0,
        received_at: 0,
        values: vec![0.5; 8].into(),
        output: Output::Skipped("test".into()),
        version: Arc::new(version),
        arm: None,
        latency_us: 1,
        flags: Flags::default(),
        numerics_rev: 1,
    };
    (id, Arc::new(row))
}

fn stored((id, row): &Committed) -> StoredSample {
    StoredSample {
        id: *id,
        stream: row.stream.id,
        endpoint: row.stream.key.endpoint.to_string(),
        device: row.stream.key.device.to_string(),
        epoch: row.epoch,
        seq: row.seq,
        ts: row.ts,
        received_at: row.received_at,
        values: row.values.to_vec(),
        output: row.output.clone(),
        model: row.version.model.clone(),
        version: row.version.version.clone(),
        arm: None,
        latency_us: row.latency_us,
        flags: row.flags,
    }
}

/// The flow, the whole log as the store has it, and who listens.
struct World {
    flow: Flow,
    log: Batch,
    /// What is left of the batch that is being given out.
    rest: Batch,
    people: Vec<Person>,
}

/// One subscription and what it got.
struct Person {
    listener: Listener,
    from: u64,
    at: u64,
    /// A read from the store that is under way: it was told this end.
    reading: Option<u64>,
    live: bool,
    got: Vec<u64>,
}

const PORTION: Portion = Portion {
    rows: 3,
    bytes: 1 << 20,
};

impl World {
    fn new(ring_bytes: usize) -> Self {
        Self {
            flow: Flow::new(0, ring_bytes),
            log: Vec::new(),
            rest: Vec::new(),
            people: Vec::new(),
        }
    }

    fn write(&mut self, devices: &[u8], skipped_ids: u64) -> Batch {
        let next = self.log.last().map_or(1, |(id, _)| id + 1) + skipped_ids;
        let batch: Batch = (next..)
            .zip(devices)
            .map(|(id, device)| committed(id, *device))
            .collect();
        self.log.extend(batch.iter().cloned());
        batch
    }

    /// What the hub does first with a batch that came through its queue; it gives it out in parts.
    fn keep(&mut self, devices: &[u8], skipped_ids: u64) {
        let batch = Arc::new(self.write(devices, skipped_ids));
        self.catch_up(batch[0].0 - 1);
        drop(self.flow.keep(&batch));
        self.rest = batch.to_vec();
    }

    fn give_part(&mut self, rows: usize) {
        let part: Batch = self.rest.drain(..rows.min(self.rest.len())).collect();
        self.flow.give(&part);
    }

    /// What the hub does where its queue was full, once it is through with a batch.
    fn catch_up(&mut self, until: u64) {
        self.give_part(usize::MAX);
        while self.flow.offset() < until && !self.flow.pass_unheard(until) {
            let rest = self.log_between(self.flow.offset(), until);
            let slice: Vec<_> = rest.iter().take(4).map(stored).collect();
            match slice.is_empty() {
                true => self.flow.pass(until),
                false => self.flow.give_stored(slice),
            }
        }
    }

    fn log_between(&self, after: u64, until: u64) -> Batch {
        let within = self
            .log
            .iter()
            .filter(|(id, _)| *id > after && *id <= until);
        within.cloned().collect()
    }

    fn subscribe(&mut self, pattern: &str, back: u64) {
        let config = RawLive {
            outbox: 1 << 20,
            outbox_bytes: 1 << 30,
            ..RawLive::default()
        };
        let subscriber = Subscriber::new(&config, Arc::default());
        subscriber.listen(1, Policy::DropOldest, None);
        // The newest committed sample may not be given out yet.
        let from = self
            .log
            .last()
            .map_or(0, |(id, _)| *id)
            .saturating_sub(back);
        self.people.push(Person {
            listener: Listener {
                id: 1,
                subscriber,
                pattern: Pattern::parse(pattern).unwrap(),
            },
            from,
            at: from,
            reading: None,
            live: false,
            got: Vec::new(),
        });
    }

    /// One portion for one subscription; a read from the store takes two turns, between which anything may happen.
    fn step(&mut self, who: usize) {
        let count = self.people.len();
        if count == 0 {
            return;
        }
        let index = who % count;
        let mut person = self.people.remove(index);
        match person.reading.take() {
            Some(until) => {
                let rest = self.log_between(person.at, until);
                person.read(&rest, until);
            }
            None if !person.live => match self.flow.next(&person.listener, person.at, PORTION) {
                Next::Live(rows) => {
                    person.keep(&rows);
                    person.live = true;
                }
                Next::Part { rows, at } => {
                    person.keep(&rows);
                    person.at = at;
                }
                Next::Read(until) => person.reading = Some(until),
            },
            None => person.hear(),
        }
        self.people.insert(index, person);
    }

    /// Everybody gets to the end.
    fn settle(&mut self) {
        let last = self.log.last().map_or(0, |(id, _)| *id);
        self.catch_up(last);
        for who in 0..self.people.len() {
            while !self.people[who].live {
                self.step(who);
            }
            self.people[who].hear();
        }
    }
}

impl Person {
    fn keep(&mut self, rows: &[Committed]) {
        self.got.extend(rows.iter().map(|(id, _)| *id));
    }

    fn read(&mut self, rest: &[Committed], until: u64) {
        let pattern = &self.listener.pattern;
        let matching: Batch = rest
            .iter()
            .filter(|(_, row)| pattern.hears_predictions_of(&row.stream.key))
            .take(PORTION.rows)
            .cloned()
            .collect();
        let whole = matching.len() < PORTION.rows;
        let last = matching.last().filter(|_| !whole).map(|(id, _)| *id);
        self.at = last.unwrap_or(until);
        self.keep(&matching);
    }

    fn hear(&mut self) {
        let taken = self.listener.subscriber.take(Instant::now());
        self.listener.subscriber.sent();
        self.got
            .extend(taken.events.iter().map(|event| event.offset()));
    }
}

/// What happens next.
#[derive(Debug, Clone)]
enum Act {
    /// A batch comes through the hub's queue; the ids before it may have been given up.
    Keep(Vec<u8>, u64),
    /// Some of it is given out.
    Give(usize),
    /// A batch finds the queue full.
    Miss(Vec<u8>),
    /// The hub reads what it missed.
    CatchUp,
    Subscribe(usize, u64),
    Step(usize),
    Leave(usize),
}

const PATTERNS: [&str; 5] = [
    "predictions/*/*",
    "predictions/even/*",
    "predictions/*/d1",
    "predictions/even/d2",
    "predictions/odd/none",
];

fn act() -> impl Strategy<Value = Act> {
    let devices = || vec(0..5u8, 1..12);
    prop_oneof![
        4 => (devices(), prop_oneof![9 => Just(0), 1 => 1..4u64])
            .prop_map(|(devices, skipped)| Act::Keep(devices, skipped)),
        8 => (1..6usize).prop_map(Act::Give),
        1 => devices().prop_map(Act::Miss),
        1 => Just(Act::CatchUp),
        2 => (0..PATTERNS.len(), 0..40u64).prop_map(|(pattern, back)| Act::Subscribe(pattern, back)),
        8 => any::<usize>().prop_map(Act::Step),
        1 => any::<usize>().prop_map(Act::Leave),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn every_subscription_gets_each_matching_sample_after_its_position_once_and_in_order(
        acts in vec(act(), 1..120),
        ring_bytes in prop_oneof![Just(0), 500..8_000usize, Just(1 << 20)],
    ) {
        let mut world = World::new(ring_bytes);
        for act in acts {
            match act {
                Act::Keep(devices, skipped) => world.keep(&devices, skipped),
                Act::Give(rows) => world.give_part(rows),
                Act::Miss(devices) => _ = world.write(&devices, 0),
                Act::CatchUp => world.catch_up(world.log.last().map_or(0, |(id, _)| *id)),
                Act::Subscribe(pattern, back) => world.subscribe(PATTERNS[pattern], back),
                Act::Step(who) => world.step(who),
                Act::Leave(who) if !world.people.is_empty() => {
                    let gone = world.people.remove(who % world.people.len());
                    world.flow.leave(&gone.listener.subscriber, None);
                }
                Act::Leave(_) => {}
            }
            prop_assert!(world.flow.ring_bytes() <= ring_bytes);
        }
        world.settle();
        for person in &world.people {
            let wanted: Vec<u64> = world
                .log_between(person.from, u64::MAX)
                .iter()
                .filter(|(_, row)| person.listener.pattern.hears_predictions_of(&row.stream.key))
                .map(|(id, _)| *id)
                .collect();
            prop_assert_eq!(&person.got, &wanted, "from {} on {:?}", person.from, person.listener.pattern);
        }
    }
}

#[test]
fn nothing_is_made_while_nobody_listens_to_predictions() {
    let mut world = World::new(1 << 20);
    world.subscribe("predictions/*/*", 0);
    let person = &world.people[0];
    let elsewhere = Listener {
        pattern: Pattern::System,
        ..person.listener.clone()
    };
    world.flow.join(&elsewhere);
    assert!(!world.flow.is_heard());
    world.step(0);
    assert!(world.flow.is_heard());
    world.flow.leave(&elsewhere.subscriber, Some(1));
    assert!(!world.flow.is_heard());
}

#[test]
fn what_is_imported_is_no_news() {
    let mut world = World::new(1 << 20);
    world.subscribe("predictions/*/*", 0);
    world.step(0);
    let (id, row) = committed(1, 0);
    let mut imported = (*row).clone();
    let mut stream = (*imported.stream).clone();
    stream.key.import = 1;
    imported.stream = Arc::new(stream);
    let batch = Arc::new(vec![(id, Arc::new(imported)), committed(2, 0)]);
    drop(world.flow.keep(&batch));
    world.flow.give(&batch);
    world.people[0].hear();
    assert_eq!(world.people[0].got, [2]);
}
