//! A device on its way through doors and cuts: connects, moves messages, obeys the plan's orders, and comes back.
//!
//! One task a device. What it sends and infers is [`super::conduct`]'s. After [`Phase::Settle`] it makes nothing new, and ends once
//! everything is settled and every answer that a cut swallowed has been fetched.

use super::conduct::Conduct;
use super::door::{Door, Ended, MqttDoor, WsDoor};
use super::ledger::{Ledger, Number};
use super::plan::{DevicePlan, Doors, Order};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::net::SocketAddr;
use std::time::Duration;
use tidegate_protocol::CloseCode;
use tidegate_protocol::close::should_reconnect;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// Silence after which a device that waits for an answer tries another connection.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// Waits between two connections, ms.
const BACK_OFF_MS: std::ops::Range<u64> = 2..25;
/// How long a connection that was taken over is listened to.
const SEEN_OUT: Duration = Duration::from_secs(2);
/// What all devices are doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Making readings.
    Run,
    /// Getting everything settled.
    Settle,
}

/// Where a device connects.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    pub server: SocketAddr,
    pub broker: SocketAddr,
}

/// See the module.
pub struct Device {
    conduct: Conduct,
    at: Addresses,
    phase: watch::Receiver<Phase>,
    orders: mpsc::Receiver<Order>,
    random: StdRng,
    /// Connections that another one has taken the place of, until they end.
    older: JoinSet<Option<Ended>>,
    over_mqtt: bool,
    pin: Option<&'static str>,
    /// When the next act is due.
    next_at: Instant,
    heard_at: Instant,
}

/// Why a connection was left.
enum Left {
    /// Everything is settled.
    Done,
    /// Ended from outside, or given up.
    Ended(Ended),
    /// Another connection is to be opened while this one stands.
    TakeOver,
}

impl Device {
    pub fn new(
        plan: DevicePlan,
        at: Addresses,
        phase: watch::Receiver<Phase>,
        orders: mpsc::Receiver<Order>,
    ) -> Self {
        let now = Instant::now();
        Self {
            random: StdRng::seed_from_u64(plan.seed.wrapping_add(2)),
            over_mqtt: plan.doors == Doors::Mqtt,
            conduct: Conduct::new(plan),
            at,
            phase,
            orders,
            older: JoinSet::new(),
            pin: None,
            next_at: now,
            heard_at: now,
        }
    }

    /// Until everything is settled.
    pub async fn run(mut self, progress: watch::Sender<String>) -> (DevicePlan, Ledger) {
        let mut older: Option<Door> = None;
        loop {
            let left = match self.connect().await {
                Ok(mut door) => {
                    if let Some(older) = older.take() {
                        self.older.spawn(see_out(older));
                    }
                    match self.drive(&mut door, &progress).await {
                        Left::TakeOver => {
                            older = Some(door);
                            continue;
                        }
                        Left::Done => {
                            door.close().await;
                            break;
                        }
                        Left::Ended(ended) => ended,
                    }
                }
                Err(ended) => ended,
            };
            self.note_end(left);
            let wait = self.random.random_range(BACK_OFF_MS);
            sleep(Duration::from_millis(wait)).await;
        }
        self.note_older();
        (self.conduct.plan, self.conduct.ledger)
    }

    /// One that was taken over is told so, unless it was cut or the server stopped first.
    fn note_older(&mut self) {
        let expected = [
            CloseCode::TakenOver,
            CloseCode::ShuttingDown,
            CloseCode::Overloaded,
        ]
        .map(CloseCode::code);
        while let Some(ended) = self.older.try_join_next() {
            if let Ok(Some(Ended::Closed(code))) = ended
                && !expected.contains(&code)
            {
                let text = format!("a connection that was taken over closed with {code}");
                self.conduct.ledger.violations.push(text);
            }
        }
    }

    /// A close code that says "do not come back" is the harness's mistake or the server's; but an earlier connection of this very device,
    /// held up on its way, may reach the server last and take over.
    fn note_end(&mut self, ended: Ended) {
        let overtaken =
            |code| code == CloseCode::TakenOver.code() && self.conduct.ledger.connections > 1;
        if let Ended::Closed(code) = ended
            && !should_reconnect(code)
            && !overtaken(code)
        {
            let text = format!("closed with {code}, which says not to come back");
            self.conduct.ledger.violations.push(text);
        }
    }

    async fn connect(&mut self) -> Result<Door, Ended> {
        self.conduct.ledger.connections += 1;
        let (door, resume_from) = if self.over_mqtt {
            (self.connect_mqtt().await?, None)
        } else {
            self.connect_ws().await?
        };
        self.heard_at = Instant::now();
        self.conduct.connected(resume_from);
        Ok(door)
    }

    async fn connect_mqtt(&self) -> Result<Door, Ended> {
        let plan = &self.conduct.plan;
        let id = format!("{}-{}", plan.name, self.conduct.ledger.connections);
        MqttDoor::open(self.at.broker, &plan.name, &id, plan.codec).await
    }

    async fn connect_ws(&self) -> Result<(Door, Option<Number>), Ended> {
        let plan = &self.conduct.plan;
        let mut query = format!("device={}&epoch={}", plan.name, self.conduct.epoch());
        if let Some(version) = self.pin {
            query.push_str(&format!("&version={version}"));
        }
        if plan.committed {
            query.push_str("&push=committed");
        }
        let (door, welcome) = WsDoor::open(self.at.server, &query, plan.codec).await?;
        let resume_from = Number {
            epoch: welcome.epoch,
            seq: welcome.resume_from,
        };
        Ok((door, Some(resume_from)))
    }

    async fn drive(&mut self, door: &mut Door, progress: &watch::Sender<String>) -> Left {
        loop {
            if !self.conduct.is_owed() {
                self.heard_at = Instant::now();
            }
            self.act_when_due();
            // The last thing to do: answers that went to a connection which was taken over.
            if self.is_done() {
                self.conduct.fetch_what_is_owed();
            }
            for message in self.conduct.outgoing() {
                if let Err(ended) = door.send(message).await {
                    return Left::Ended(ended);
                }
            }
            if self.is_done() {
                return Left::Done;
            }
            if !self.is_running() {
                progress.send_replace(self.conduct.status());
            }
            let silent = self.heard_at + ANSWER_TIMEOUT;
            tokio::select! {
                heard = door.hear() => match heard {
                    Ok(message) => {
                        self.heard_at = Instant::now();
                        self.conduct.hear(&message);
                    }
                    Err(ended) => return Left::Ended(ended),
                },
                Some(order) = self.orders.recv() => {
                    if let Some(left) = self.obey(order).await {
                        return left;
                    }
                }
                () = sleep_until(self.next_at), if self.may_act() => {}
                () = sleep_until(silent), if self.conduct.is_owed() => return Left::Ended(Ended::Cut),
                Ok(()) = self.phase.changed() => {}
            }
        }
    }

    /// Does as told; whether that leaves the connection.
    async fn obey(&mut self, order: Order) -> Option<Left> {
        match order {
            Order::Deaf(ms) => {
                sleep(Duration::from_millis(ms)).await;
                return None;
            }
            Order::TakeOver => return Some(Left::TakeOver),
            Order::Pin(version) => self.pin = Some(version),
            Order::Move => self.over_mqtt = !self.over_mqtt,
        }
        Some(Left::Ended(Ended::Cut))
    }

    fn is_running(&self) -> bool {
        *self.phase.borrow() == Phase::Run
    }

    fn is_done(&self) -> bool {
        !self.is_running() && self.conduct.is_settled()
    }

    fn may_act(&self) -> bool {
        self.is_running() && self.conduct.may_act()
    }

    fn act_when_due(&mut self) {
        let now = Instant::now();
        if self.may_act() && now >= self.next_at {
            let pace_us = self.conduct.plan.pace_us;
            let wait_us = self
                .random
                .random_range(pace_us / 2..=pace_us + pace_us / 2);
            self.next_at = now + Duration::from_micros(wait_us);
            self.conduct.act();
        }
    }
}

/// How a connection that was taken over ended, if it did in time.
async fn see_out(mut older: Door) -> Option<Ended> {
    let ended = async {
        loop {
            if let Err(ended) = older.hear().await {
                return ended;
            }
        }
    };
    tokio::time::timeout(SEEN_OUT, ended).await.ok()
}
