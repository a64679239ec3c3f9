//! One seed: sets up server, lines, devices and a subscriber, lets the faults strike, waits until everything is settled, and checks.
//!
//! Order: the server is up and the subscriber listens before the first device speaks; after the last fault all lines heal; when every
//! device is done the server is told to stop and has to end cleanly; then the database is read.

use super::backend::{Backend, Cluster};
use super::broker::Broker;
use super::checks::{self, Findings, Kind};
use super::device::{Addresses, Device, Phase};
use super::disk::Full;
use super::ledger::Ledger;
use super::plan::{DevicePlan, Fault, Order, Plan};
use super::proxy::Line;
use super::server::Server;
use super::subscriber::{Seen, Subscriber};
use super::zoo::SmallZoo;
use super::{http, report::Outcome};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tidegate_protocol::{Codec, Sample};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// Longest from the last fault until everything is settled.
const SETTLE: Duration = Duration::from_secs(20);
/// How often a server is started whose database may be away, and the wait between.
const STARTS: u32 = 40;
const BETWEEN_STARTS: Duration = Duration::from_millis(50);
/// Orders that may wait for a device that is busy; more are left out.
const ORDERS: usize = 16;

/// A device as the scene holds it.
struct Actor {
    /// To the server.
    line: Arc<Line>,
    /// To the broker.
    broker: Arc<Line>,
    orders: mpsc::Sender<Order>,
    status: watch::Receiver<String>,
    task: JoinHandle<(DevicePlan, Ledger)>,
}

impl Actor {
    fn lines(&self) -> [&Arc<Line>; 2] {
        [&self.line, &self.broker]
    }
}

/// The subscriber as the scene holds it.
struct Watcher {
    line: Arc<Line>,
    deaf_ms: mpsc::Sender<u64>,
    until: watch::Sender<Option<u64>>,
    task: JoinHandle<Seen>,
}

/// See the module.
pub struct Scene {
    dir: TempDir,
    plan: Plan,
    backend: Backend,
    broker: Broker,
    /// From the server to the broker.
    broker_line: Line,
    server: Server,
    actors: Vec<Actor>,
    watcher: Watcher,
    phase: watch::Sender<Phase>,
    faults: BTreeMap<&'static str, u64>,
    found: Findings,
}

impl Scene {
    /// Runs one seed. PostgreSQL needs its cluster.
    pub async fn play(plan: Plan, zoo: &SmallZoo, cluster: Option<&Cluster>) -> Outcome {
        let begun = Instant::now();
        let mut scene = Self::set(plan, zoo, cluster).await;
        scene.strike().await;
        let (ledgers, seen, api) = scene.settle().await;
        scene.judge(&ledgers, &seen, &api, zoo).await;
        scene.outcome(&ledgers, begun.elapsed()).await
    }

    async fn set(plan: Plan, zoo: &SmallZoo, cluster: Option<&Cluster>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let data_dir = dir.path().join("data");
        std::fs::create_dir_all(&data_dir).expect("a folder");
        let backend = match cluster {
            Some(cluster) => Backend::postgres(cluster, format!("seed_{}", plan.seed)).await,
            None => Backend::sqlite(&data_dir, plan.small_disk),
        };
        let broker = Broker::start().await;
        let broker_line = Line::open().await;
        broker_line.lead_to(broker.addr());
        let mqtt = format!("\n[mqtt]\nurl = \"mqtt://{}\"\n", broker_line.addr());
        let store = backend.config();
        let mut server = Server::new(dir.path(), &data_dir, &zoo.dir(), &store, &mqtt);
        let addr = server.start().await.expect("the first start");
        let watcher = watch_log(addr).await;
        let phase = watch::Sender::new(Phase::Run);
        let mut actors = Vec::new();
        for device in &plan.devices {
            let actor = actor(device, &phase).await;
            actor.line.lead_to(addr);
            actor.broker.lead_to(broker.addr());
            actors.push(actor);
        }
        Self {
            dir,
            plan,
            backend,
            broker,
            broker_line,
            server,
            actors,
            watcher,
            phase,
            faults: BTreeMap::new(),
            found: Findings::default(),
        }
    }

    /// Every fault at its time.
    async fn strike(&mut self) {
        let begun = Instant::now();
        for planned in std::mem::take(&mut self.plan.faults) {
            sleep_until(begun + Duration::from_millis(planned.at_ms)).await;
            *self.faults.entry(planned.fault.kind()).or_default() += 1;
            self.one(&planned.fault).await;
            self.plan.faults.push(planned);
        }
        sleep_until(begun + Duration::from_millis(self.plan.run_ms)).await;
    }

    async fn one(&mut self, fault: &Fault) {
        let ms = Duration::from_millis;
        match *fault {
            Fault::Kill { down_ms } => {
                self.server.kill().await;
                sleep(ms(down_ms)).await;
                self.start().await;
            }
            Fault::Stop => {
                self.stop("in mid-stream").await;
                self.start().await;
            }
            Fault::Freeze { ms: freeze_ms } => {
                self.server.signal("STOP").await;
                sleep(ms(freeze_ms)).await;
                self.server.signal("CONT").await;
            }
            Fault::Cut { device, way, bytes } => {
                for line in self.actors[device].lines() {
                    line.cut_after(way, bytes);
                }
            }
            Fault::Silence { device } => {
                let actor = &self.actors[device];
                actor.lines().into_iter().for_each(|line| line.go_silent());
            }
            Fault::Delay {
                device,
                ms: delay_ms,
                for_ms,
            } => {
                for line in self.actors[device].lines().map(Arc::clone) {
                    line.delay(ms(delay_ms));
                    tokio::spawn(async move {
                        sleep(ms(for_ms)).await;
                        line.delay(Duration::ZERO);
                    });
                }
            }
            // A device that has many orders waiting has trouble enough.
            Fault::Order { device, order } => {
                let _ = self.actors[device].orders.try_send(order);
            }
            Fault::DiskFull { ms: full_ms, kill } => {
                let full = match self.backend.disk() {
                    Some(disk) => Some(disk.fill()),
                    None => self.inject().await,
                };
                self.full(full, ms(full_ms), kill).await;
            }
            Fault::NoSpace { ms: full_ms } => {
                let full = self.inject().await;
                self.full(full, ms(full_ms), false).await;
            }
            Fault::Database { .. } | Fault::DatabaseFreeze { .. } => self.database(fault).await,
            Fault::CutDatabase { way, bytes } => {
                if let Some(line) = self.backend.line() {
                    line.cut_after(way, bytes);
                }
            }
            Fault::LostCommit { answered } => {
                if let Some(line) = self.backend.line() {
                    line.cut_at_commit(answered);
                }
            }
            Fault::Broker { keep } => {
                self.broker.restart(keep).await;
                let addr = self.broker.addr();
                self.broker_line.lead_to(addr);
                self.actors
                    .iter()
                    .for_each(|actor| actor.broker.lead_to(addr));
            }
            Fault::CutBroker { way, bytes } => self.broker_line.cut_after(way, bytes),
            Fault::CutSubscriber { bytes } => {
                self.watcher.line.cut_after(super::proxy::Way::Down, bytes);
            }
            Fault::DeafSubscriber { ms } => {
                let _ = self.watcher.deaf_ms.try_send(ms);
            }
        }
    }

    async fn inject(&self) -> Option<Full> {
        Full::inject(self.server.id()?).await
    }

    /// No room for a while; perhaps killed meanwhile.
    async fn full(&mut self, full: Option<Full>, time: Duration, kill: bool) {
        let Some(full) = full else {
            *self.faults.entry("no room left out").or_default() += 1;
            return;
        };
        sleep(time).await;
        if kill {
            self.server.kill().await;
        }
        full.relieve().await;
        if kill {
            self.start().await;
        }
    }

    async fn database(&self, fault: &Fault) {
        let Some(cluster) = self.backend.cluster() else {
            return;
        };
        let mut postgres = cluster.lock().await;
        match *fault {
            Fault::DatabaseFreeze { ms } => {
                postgres.pause();
                sleep(Duration::from_millis(ms)).await;
                postgres.resume();
            }
            Fault::Database { crash: true } => {
                postgres.crash().await;
                postgres.start_again().await;
            }
            _ => postgres.restart().await,
        }
    }

    /// Starts the server. One that finds its database gone or its line cut ends, as it should, and is started again.
    async fn start(&mut self) {
        let tries = if self.backend.line().is_some() {
            STARTS
        } else {
            1
        };
        for left in (0..tries).rev() {
            match self.server.start().await {
                Ok(addr) => {
                    self.watcher.line.lead_to(addr);
                    return self
                        .actors
                        .iter()
                        .for_each(|actor| actor.line.lead_to(addr));
                }
                Err(reason) if left == 0 => {
                    self.found.add(Kind::Rule, format!("no start: {reason}"));
                }
                Err(_) => {
                    *self.faults.entry("start refused").or_default() += 1;
                    sleep(BETWEEN_STARTS).await;
                }
            }
        }
    }

    /// A stop commits and acks everything it took, or says with its exit code that it did not.
    async fn stop(&mut self, when: &str) {
        let status = self.server.stop().await;
        let is_clean = status.is_some_and(|status| status.success());
        // While a broker or a database is away a stop may leave something undone, if it says so: exit code 1.
        let is_told = || {
            status.and_then(|status| status.code()) == Some(1) && self.server.said_what_it_left()
        };
        let bad_weather = *self.phase.borrow() != Phase::Settle;
        let is_honest = is_clean || (bad_weather && is_told());
        if !is_honest {
            self.found
                .add(Kind::Rule, format!("stop {when}: {status:?}"));
        }
    }

    /// Good weather until everything is settled; what the devices wrote down, what was seen, what the API shows.
    async fn settle(&mut self) -> (Vec<(DevicePlan, Ledger)>, Seen, Vec<Sample>) {
        let deadline = Instant::now() + SETTLE;
        self.watcher.line.heal();
        self.broker_line.heal();
        if let Some(line) = self.backend.line() {
            line.heal();
        }
        let lines = self.actors.iter().flat_map(Actor::lines);
        lines.for_each(|line| line.heal());
        self.phase.send_replace(Phase::Settle);
        self.count_touched();
        let mut ledgers = Vec::new();
        for (actor, plan) in std::mem::take(&mut self.actors)
            .into_iter()
            .zip(&self.plan.devices)
        {
            match timeout_at(deadline, actor.task).await {
                Ok(Ok(ledger)) => ledgers.push(ledger),
                Ok(Err(panic)) => self
                    .found
                    .add(Kind::Rule, format!("{}: {panic}", plan.name)),
                Err(_) => {
                    let text = format!("{} never ends: {}", plan.name, *actor.status.borrow());
                    self.found.add(Kind::Rule, text);
                }
            }
        }
        let api = self.api().await;
        let last = api.last().map_or(0, |sample| sample.id);
        self.watcher.until.send_replace(Some(last));
        let seen = match timeout_at(deadline, &mut self.watcher.task).await {
            Ok(Ok(seen)) => seen,
            _ => {
                self.found
                    .add(Kind::Live, "the subscriber never sees the end");
                Seen::default()
            }
        };
        self.stop("at the end").await;
        (ledgers, seen, api)
    }

    /// What the lines did to frames.
    fn count_touched(&mut self) {
        for (twice, overtaken) in self.actors.iter().map(|actor| actor.line.touched()) {
            *self.faults.entry("duplicate").or_default() += twice;
            *self.faults.entry("reorder").or_default() += overtaken;
        }
    }

    /// Every sample as the API shows it, by id.
    async fn api(&self) -> Vec<Sample> {
        let mut samples = Vec::new();
        for device in &self.plan.devices {
            samples.extend(http::samples(self.watcher.line.addr(), &device.name).await);
        }
        samples.sort_by_key(|sample| sample.id);
        samples
    }

    async fn judge(
        &mut self,
        ledgers: &[(DevicePlan, Ledger)],
        seen: &Seen,
        api: &[Sample],
        zoo: &SmallZoo,
    ) {
        let stored = self.backend.read().await;
        for (plan, ledger) in ledgers {
            let none = super::stored::Stream::default();
            let stream = stored.get(&plan.name).unwrap_or(&none);
            checks::device(plan, ledger, stream, &mut self.found);
        }
        checks::states(&stored, zoo, &mut self.found);
        checks::shown(&stored, api, seen, &mut self.found);
    }

    /// What a broken run leaves behind is kept.
    async fn outcome(self, ledgers: &[(DevicePlan, Ledger)], took: Duration) -> Outcome {
        let wanted = std::env::var_os("LEDGER_KEEP").is_some();
        let kept = if self.found.0.is_empty() && !wanted {
            self.backend.clear().await;
            None
        } else {
            Some(self.dir.keep())
        };
        let mut outcome = Outcome::new(self.plan, took, self.faults, self.found, kept);
        for (_, ledger) in ledgers {
            outcome.add(ledger);
        }
        outcome
    }
}

async fn actor(plan: &DevicePlan, phase: &watch::Sender<Phase>) -> Actor {
    let line = match plan.shuffle {
        Some(odds) => Line::shuffling(odds, plan.seed).await,
        None => Line::open().await,
    };
    let broker = Line::open().await;
    let (orders, ordered) = mpsc::channel(ORDERS);
    let (progress, status) = watch::channel(String::new());
    let addresses = Addresses {
        server: line.addr(),
        broker: broker.addr(),
    };
    let device = Device::new(plan.clone(), addresses, phase.subscribe(), ordered);
    Actor {
        line: Arc::new(line),
        broker: Arc::new(broker),
        orders,
        status,
        task: tokio::spawn(device.run(progress)),
    }
}

async fn watch_log(server: std::net::SocketAddr) -> Watcher {
    let line = Line::open().await;
    line.lead_to(server);
    let (deaf_ms, deaf) = mpsc::channel(ORDERS);
    let (until, known) = watch::channel(None);
    let subscriber = Subscriber::new(line.addr(), Codec::Bincode, deaf, known);
    let (subscriber, socket) = subscriber.begin().await;
    Watcher {
        line: Arc::new(line),
        deaf_ms,
        until,
        task: tokio::spawn(subscriber.run(socket)),
    }
}
