//! What happens under one seed: which devices there are, and which faults strike when.
//!
//! A plan is a pure function of its seed and its store, and prints as the list that a person needs to follow a failed run. Times are
//! wishes: a fault that takes long delays the next one.

use super::frames::Odds;
use super::kept::Rule;
use super::proxy::Way;
use super::script::Habit;
use super::zoo;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::fmt;
use tidegate_protocol::Codec;

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    Sqlite,
    Postgres,
}

impl StoreKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

/// How long the faults last, ms.
const RUN_MS: std::ops::Range<u64> = 1_500..2_200;

/// See the module.
#[derive(Debug)]
pub struct Plan {
    pub seed: u64,
    pub store: StoreKind,
    pub run_ms: u64,
    /// Whether the database lies on a small disk.
    pub small_disk: bool,
    pub devices: Vec<DevicePlan>,
    /// By time.
    pub faults: Vec<Planned>,
}

/// Through which doors a device comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doors {
    Ws,
    Mqtt,
    /// One after the other.
    Both,
}

/// One device.
#[derive(Debug, Clone)]
pub struct DevicePlan {
    pub name: String,
    pub seed: u64,
    pub doors: Doors,
    pub codec: Codec,
    pub rule: Rule,
    pub habits: Vec<Habit>,
    /// Between two readings, microseconds on average.
    pub pace_us: u64,
    /// Most readings kept.
    pub window: usize,
    /// Most readings in one message.
    pub batch: usize,
    /// Predictions only with their commit.
    pub committed: bool,
    /// What its line does to its frames.
    pub shuffle: Option<Odds>,
}

impl DevicePlan {
    /// Whether nothing but its readings, in their order, decides its answers: then every answer ever given must be the same.
    pub fn is_steady(&self) -> bool {
        self.rule == Rule::InOrder && self.habits.iter().all(|habit| *habit == Habit::Repeats)
    }
}

/// What a device is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Connect again without leaving.
    TakeOver,
    /// Read nothing for so many ms.
    Deaf(u64),
    /// Ask for another version.
    Pin(&'static str),
    /// Go on through the other door (of a device with both).
    Move,
}

/// A fault and when it strikes, ms after the start.
#[derive(Debug)]
pub struct Planned {
    pub at_ms: u64,
    pub fault: Fault,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// kill -9, and another server after a while.
    Kill { down_ms: u64 },
    /// SIGTERM, and another server.
    Stop,
    /// SIGSTOP, SIGCONT after a while.
    Freeze { ms: u64 },
    /// A device's connection ends after so many bytes.
    Cut { device: usize, way: Way, bytes: u64 },
    /// A device's line is slow for a while.
    Delay { device: usize, ms: u64, for_ms: u64 },
    /// A device's connection is half-open.
    Silence { device: usize },
    /// A device does something.
    Order { device: usize, order: Order },
    /// The disk of the database has no room for a while; the server is killed meanwhile, or not.
    DiskFull { ms: u64, kill: bool },
    /// The server's writes to its database fail for a while.
    NoSpace { ms: u64 },
    /// The database server restarts, in order or as after a crash.
    Database { crash: bool },
    /// The database server stands still.
    DatabaseFreeze { ms: u64 },
    /// The connection to the database ends after so many bytes.
    CutDatabase { way: Way, bytes: u64 },
    /// The connection to the database ends at a COMMIT, before or behind its answer.
    LostCommit { answered: bool },
    /// The broker restarts, with its sessions or without.
    Broker { keep: bool },
    /// The server's connection to the broker ends after so many bytes.
    CutBroker { way: Way, bytes: u64 },
    /// The subscriber's connection ends after so many bytes.
    CutSubscriber { bytes: u64 },
    /// The subscriber reads nothing for so many ms.
    DeafSubscriber { ms: u64 },
}

impl Fault {
    /// The word in the table of a run.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "kill",
            Self::Stop => "stop",
            Self::Freeze { .. } => "freeze",
            Self::Cut { .. } => "cut",
            Self::Delay { .. } => "delay",
            Self::Silence { .. } => "half-open",
            Self::Order { order, .. } => match order {
                Order::TakeOver => "takeover",
                Order::Deaf(_) => "deaf reader",
                Order::Pin(_) => "switch",
                Order::Move => "move",
            },
            Self::DiskFull { .. } => "disk full",
            Self::NoSpace { .. } => "enospc injected",
            Self::Database { crash: true } => "database crash",
            Self::Database { crash: false } => "database restart",
            Self::DatabaseFreeze { .. } => "database freeze",
            Self::CutDatabase { .. } => "cut database",
            Self::LostCommit { .. } => "lost commit answer",
            Self::Broker { keep: true } => "broker restart",
            Self::Broker { keep: false } => "broker lost all",
            Self::CutBroker { .. } => "cut broker",
            Self::CutSubscriber { .. } => "cut subscriber",
            Self::DeafSubscriber { .. } => "deaf subscriber",
        }
    }
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64, store: StoreKind) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let run_ms = random.random_range(RUN_MS);
        let small_disk = store == StoreKind::Sqlite && random.random_bool(0.3);
        let devices = devices(seed, &mut random);
        let count = usize::try_from(run_ms / 40).expect("a few dozen");
        let mut faults: Vec<_> = (0..count)
            .map(|_| Planned {
                at_ms: random.random_range(30..run_ms),
                fault: fault(&devices, &mut random),
            })
            .collect();
        for fault in of_the_store(store, small_disk, &mut random) {
            let at_ms = random.random_range(30..run_ms);
            faults.push(Planned { at_ms, fault });
        }
        faults.sort_by_key(|planned| planned.at_ms);
        Self {
            seed,
            store,
            run_ms,
            small_disk,
            devices,
            faults,
        }
    }
}

/// A device of each kind: one that does everything right, and those that test a rule each.
fn devices(seed: u64, random: &mut StdRng) -> Vec<DevicePlan> {
    use Habit::*;
    let mut device = |name: &str, rule, habits: &[Habit]| DevicePlan {
        name: format!("{name}-{seed}"),
        seed: random.random(),
        doors: Doors::Ws,
        codec: *[Codec::Json, Codec::Bincode].choose(random).expect("two"),
        rule,
        habits: habits.to_vec(),
        pace_us: random.random_range(1_000..5_000),
        window: random.random_range(8..64),
        batch: 1,
        committed: false,
        shuffle: None,
    };
    let plain = device("plain", Rule::InOrder, &[]);
    let mut committed = device("committed", Rule::InOrder, &[Repeats]);
    let mut switching = device("switching", Rule::InOrder, &[Resets, Epochs, Feedback]);
    let unruly = device(
        "unruly",
        Rule::AnyOrder,
        &[Gaps, Late, Bad, Garbage, Lies, Repeats],
    );
    let mut shuffled = device("shuffled", Rule::AnyOrder, &[Sparse]);
    let mut mqtt = device("mqtt", Rule::AnyOrder, &[Bad, Garbage, Repeats, Resets]);
    let mut moving = device("moving", Rule::AnyOrder, &[Gaps, Late, Epochs]);
    committed.committed = true;
    committed.batch = 16;
    switching.batch = 4;
    shuffled.shuffle = Some(Odds {
        duplicate: 0.05,
        swap: 0.05,
    });
    mqtt.doors = Doors::Mqtt;
    mqtt.shuffle = shuffled.shuffle;
    moving.doors = Doors::Both;
    vec![plain, committed, switching, unruly, shuffled, mqtt, moving]
}

/// What goes wrong with the database itself: a few of the faults that it can have.
fn of_the_store(store: StoreKind, small_disk: bool, random: &mut StdRng) -> Vec<Fault> {
    let ms = random.random_range(50..400);
    let way = *[Way::Up, Way::Down].choose(random).expect("two");
    let answered = random.random_bool(0.5);
    let mut faults = match store {
        StoreKind::Sqlite if small_disk => {
            let kill = random.random_bool(0.5);
            vec![Fault::DiskFull { ms, kill }]
        }
        StoreKind::Sqlite => vec![Fault::NoSpace { ms }],
        StoreKind::Postgres => vec![
            Fault::LostCommit { answered },
            Fault::LostCommit {
                answered: !answered,
            },
            Fault::CutDatabase {
                way,
                bytes: random.random_range(0..20_000),
            },
            Fault::Database { crash: answered },
            Fault::DatabaseFreeze { ms },
        ],
    };
    // A restart of the database takes as long as everything else: in every other seed.
    faults.retain(|fault| match fault {
        Fault::Database { .. } | Fault::NoSpace { .. } => random.random_bool(0.5),
        _ => true,
    });
    faults
}

fn fault(devices: &[DevicePlan], random: &mut StdRng) -> Fault {
    let device = random.random_range(0..devices.len());
    let way = *[Way::Up, Way::Down].choose(random).expect("two");
    match random.random_range(0..100) {
        0..22 => Fault::Kill {
            down_ms: if random.random_bool(0.5) {
                0
            } else {
                random.random_range(1..60)
            },
        },
        22..25 => Fault::Stop,
        25..30 => Fault::Freeze {
            ms: random.random_range(5..120),
        },
        30..52 => Fault::Cut {
            device,
            way,
            bytes: random.random_range(0..3_000),
        },
        52..55 => Fault::Delay {
            device,
            ms: random.random_range(1..20),
            for_ms: random.random_range(20..300),
        },
        55..60 => Fault::Silence { device },
        60..80 => order(devices, device, random),
        80..83 => Fault::Broker {
            keep: random.random_bool(0.5),
        },
        83..88 => Fault::CutBroker {
            way,
            bytes: random.random_range(0..5_000),
        },
        88..95 => Fault::CutSubscriber {
            bytes: random.random_range(0..20_000),
        },
        _ => Fault::DeafSubscriber {
            ms: random.random_range(10..400),
        },
    }
}

/// What this device can be told.
fn order(devices: &[DevicePlan], device: usize, random: &mut StdRng) -> Fault {
    let plan = &devices[device];
    let deaf = Order::Deaf(random.random_range(10..300));
    let order = match plan.doors {
        Doors::Both => *[Order::Move, Order::Move, deaf]
            .choose(random)
            .expect("three"),
        Doors::Mqtt => deaf,
        Doors::Ws if plan.habits.contains(&Habit::Resets) => {
            let version = *[zoo::DEFAULT, zoo::OTHER].choose(random).expect("two");
            *[Order::Pin(version), Order::TakeOver]
                .choose(random)
                .expect("two")
        }
        Doors::Ws => *[Order::TakeOver, deaf].choose(random).expect("two"),
    };
    Fault::Order { device, order }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {} on {}, {} ms",
            self.seed,
            self.store.name(),
            self.run_ms
        )?;
        for device in &self.devices {
            writeln!(
                f,
                "  {}: {:?}, {:?}, {:?}, every {} us, window {}, {:?}",
                device.name,
                device.doors,
                device.codec,
                device.rule,
                device.pace_us,
                device.window,
                device.habits
            )?;
        }
        for planned in &self.faults {
            writeln!(f, "  {:>5} ms  {:?}", planned.at_ms, planned.fault)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_plan_again() {
        for store in [StoreKind::Sqlite, StoreKind::Postgres] {
            assert_eq!(
                Plan::of(7, store).to_string(),
                Plan::of(7, store).to_string()
            );
        }
        let other = Plan::of(8, StoreKind::Sqlite).to_string();
        assert_ne!(Plan::of(7, StoreKind::Sqlite).to_string(), other);
    }
}
