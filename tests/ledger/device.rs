//! A device with a ledger: it makes readings, keeps each until it is settled, and comes back after every cut.
//!
//! One task a device. It follows the client's rule ([`super::kept`]), writes everything down ([`super::ledger`]), does what its script
//! and the plan's orders say, and after [`Phase::Settle`] makes nothing new: it ends once nothing is kept and every answer that a
//! cut swallowed has been fetched.

use super::door::{Door, Ended, MqttDoor, WsDoor};
use super::frames::Shuffle;
use super::kept::Kept;
use super::ledger::{Answer, Fate, Ledger, Number};
use super::plan::{DevicePlan, Doors, Order};
use super::script::{Act, Script};
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;
use tidegate_protocol::close::should_reconnect;
use tidegate_protocol::message::{Feedback, Label, Nack};
use tidegate_protocol::{
    CloseCode, Codec, DeviceMessage, NackCode, Output, Reading, ServerMessage, Values, Wire,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// Silence after which a device that waits for an answer tries another connection.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// Waits between two connections, ms.
const BACK_OFF_MS: std::ops::Range<u64> = 2..25;
/// How long a connection that was taken over is listened to.
const SEEN_OUT: Duration = Duration::from_secs(2);
/// Answers fetched at a time.
const FETCH_AT_ONCE: usize = 64;

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
    plan: DevicePlan,
    at: Addresses,
    phase: watch::Receiver<Phase>,
    orders: mpsc::Receiver<Order>,
    script: Script,
    random: StdRng,
    kept: Kept,
    ledger: Ledger,
    /// The next epoch begins once everything kept is settled.
    epoch_waits: bool,
    /// Stored readings to be sent again for their answers, and whether this connection has sent them.
    fetch: BTreeMap<Number, bool>,
    /// Messages that are no new readings: sent once, whatever becomes of them.
    extras: VecDeque<Vec<u8>>,
    /// Connections that another one has taken the place of, until they end.
    older: JoinSet<Option<Ended>>,
    /// The epoch that the server's messages leave out on this connection.
    home_epoch: Option<u64>,
    over_mqtt: bool,
    /// What happens to publishes before they leave: no proxy can reorder them.
    scramble: Option<Shuffle>,
    pin: Option<&'static str>,
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
            script: Script::new(plan.seed, &plan.habits),
            random: StdRng::seed_from_u64(plan.seed.wrapping_add(1)),
            kept: Kept::new(plan.rule),
            ledger: Ledger::default(),
            epoch_waits: false,
            fetch: BTreeMap::new(),
            extras: VecDeque::new(),
            older: JoinSet::new(),
            home_epoch: None,
            over_mqtt: plan.doors == Doors::Mqtt,
            scramble: plan
                .shuffle
                .filter(|_| plan.doors == Doors::Mqtt)
                .map(|odds| Shuffle::new(odds, plan.seed)),
            pin: None,
            next_at: now,
            heard_at: now,
            plan,
            at,
            phase,
            orders,
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
        (self.plan, self.ledger)
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
                self.ledger.violations.push(text);
            }
        }
    }

    /// A close code that says "do not come back" is the harness's mistake or the server's.
    fn note_end(&mut self, ended: Ended) {
        if let Ended::Closed(code) = ended
            && !should_reconnect(code)
        {
            let text = format!("closed with {code}, which says not to come back");
            self.ledger.violations.push(text);
        }
    }

    async fn connect(&mut self) -> Result<Door, Ended> {
        self.ledger.connections += 1;
        let door = if self.over_mqtt {
            self.connect_mqtt().await?
        } else {
            self.connect_ws().await?
        };
        self.heard_at = Instant::now();
        self.fetch = self.ledger.owed().map(|number| (number, false)).collect();
        Ok(door)
    }

    async fn connect_mqtt(&mut self) -> Result<Door, Ended> {
        let id = format!("{}-{}", self.plan.name, self.ledger.connections);
        let (name, codec) = (&self.plan.name, self.plan.codec);
        let door = MqttDoor::open(self.at.broker, name, &id, codec).await?;
        self.home_epoch = None;
        self.kept.connected(None);
        Ok(door)
    }

    async fn connect_ws(&mut self) -> Result<Door, Ended> {
        let epoch = self.kept.numbers().next().map(|number| number.epoch);
        let epoch = epoch.unwrap_or(self.script.epoch());
        let mut query = format!("device={}&epoch={epoch}", self.plan.name);
        if let Some(version) = self.pin {
            query.push_str(&format!("&version={version}"));
        }
        if self.plan.committed {
            query.push_str("&push=committed");
        }
        let (door, welcome) = WsDoor::open(self.at.server, &query, self.plan.codec).await?;
        self.home_epoch = Some(welcome.epoch);
        let resume_from = Number {
            epoch: welcome.epoch,
            seq: welcome.resume_from,
        };
        for number in self.kept.connected(Some(resume_from)) {
            self.settled_by_resume(number);
        }
        Ok(door)
    }

    /// A reading that was refused has a nack which the cut swallowed.
    fn settled_by_resume(&mut self, number: Number) {
        let is_good = self
            .ledger
            .entries
            .get(&number)
            .is_some_and(|entry| entry.is_good);
        if is_good {
            self.ledger.acked(number);
        } else {
            self.ledger.nacked(number, NackCode::BadReading);
        }
    }

    async fn drive(&mut self, door: &mut Door, progress: &watch::Sender<String>) -> Left {
        loop {
            if !self.is_owed() {
                self.heard_at = Instant::now();
            }
            self.make();
            self.fetch_the_rest();
            if let Err(ended) = self.send_what_may(door).await {
                return Left::Ended(ended);
            }
            if self.is_done() {
                return Left::Done;
            }
            if !self.is_running() {
                progress.send_replace(self.status());
            }
            let silent = self.heard_at + ANSWER_TIMEOUT;
            tokio::select! {
                heard = door.hear() => match heard {
                    Ok(message) => self.hear(&message),
                    Err(ended) => return Left::Ended(ended),
                },
                Some(order) = self.orders.recv() => match order {
                    Order::Deaf(ms) => sleep(Duration::from_millis(ms)).await,
                    Order::TakeOver => return Left::TakeOver,
                    Order::Pin(version) => {
                        self.pin = Some(version);
                        return Left::Ended(Ended::Cut);
                    }
                    Order::Move => {
                        self.over_mqtt = !self.over_mqtt;
                        return Left::Ended(Ended::Cut);
                    }
                },
                () = sleep_until(self.next_at), if self.may_make() => {}
                () = sleep_until(silent), if self.is_owed() => return Left::Ended(Ended::Cut),
                Ok(()) = self.phase.changed() => {}
            }
        }
    }

    fn is_running(&self) -> bool {
        *self.phase.borrow() == Phase::Run
    }

    fn is_owed(&self) -> bool {
        self.kept.in_flight() > 0 || !self.fetch.is_empty()
    }

    /// The last thing to do: answers that went to a connection which was taken over.
    fn fetch_the_rest(&mut self) {
        if self.is_done() {
            self.fetch = self.ledger.owed().map(|number| (number, false)).collect();
        }
    }

    fn is_done(&self) -> bool {
        !self.is_running() && self.kept.is_empty() && self.fetch.is_empty()
    }

    fn may_make(&self) -> bool {
        let has_room = self.kept.len() < self.plan.window;
        self.is_running() && has_room && !(self.epoch_waits && !self.kept.is_empty())
    }

    fn status(&self) -> String {
        let kept: Vec<_> = self.kept.numbers().take(5).collect();
        format!(
            "{} kept from {kept:?}, {} answers owed, {}",
            self.kept.len(),
            self.fetch.len(),
            if self.over_mqtt { "mqtt" } else { "ws" }
        )
    }

    /// Makes the next reading, or whatever the script says, when it is due.
    fn make(&mut self) {
        if !self.may_make() || Instant::now() < self.next_at {
            return;
        }
        self.epoch_waits = false;
        let pace = self.plan.pace_us;
        let wait = self.random.random_range(pace / 2..=pace + pace / 2);
        self.next_at = Instant::now() + Duration::from_micros(wait);
        match self.script.next() {
            Act::Read {
                number,
                reading,
                is_good,
            } => {
                self.ledger.enter(number, reading, is_good);
                self.kept.keep(number);
            }
            Act::NextEpoch => self.epoch_waits = true,
            Act::Reset => {
                self.ledger.resets_sent += 1;
                self.say(&DeviceMessage::Reset);
            }
            Act::Lie => self.lie(),
            Act::Feedback => self.tell_truth(),
            Act::Repeat => {
                let stored = self.any_stored();
                self.fetch.extend(stored.map(|number| (number, false)));
            }
            Act::Garbage => self.extras.push_back(match self.plan.codec {
                Codec::Json => b"{\"junk\":true}".to_vec(),
                Codec::Bincode => vec![1, 99, 99],
            }),
        }
    }

    fn say(&mut self, message: &DeviceMessage) {
        self.extras.push_back(message.to_bytes(self.plan.codec));
    }

    /// A reading that is stored and good, at random.
    fn any_stored(&mut self) -> Option<Number> {
        let stored = self
            .ledger
            .entries
            .iter()
            .filter(|(_, entry)| entry.is_good && entry.fate == Fate::Acked);
        let (number, _) = stored.choose(&mut self.random)?;
        Some(*number)
    }

    /// Other values under a known number.
    fn lie(&mut self) {
        let Some(number) = self.any_stored() else {
            return;
        };
        let mut reading = self.addressed(number);
        if let Values::Ordered(values) = &mut reading.values {
            values[0] += 0.5;
        }
        self.ledger.lies += 1;
        self.say(&DeviceMessage::Reading(reading));
    }

    fn tell_truth(&mut self) {
        let Some(number) = self.any_stored() else {
            return;
        };
        self.ledger.feedback.entry(number).or_default().0 += 1;
        self.say(&DeviceMessage::Feedback(Feedback {
            epoch: Some(number.epoch),
            seq: number.seq,
            label: Label::Text("normal".into()),
            reference: Some(number.seq),
        }));
    }

    /// The reading with its epoch where the connection does not imply it.
    fn addressed(&self, number: Number) -> Reading {
        let mut reading = self.ledger.entries[&number].reading.clone();
        reading.epoch = (self.home_epoch != Some(number.epoch)).then_some(number.epoch);
        reading
    }

    async fn send_what_may(&mut self, door: &mut Door) -> Result<(), Ended> {
        let mut messages: Vec<_> = self.extras.drain(..).collect();
        loop {
            let readings = self.next_readings();
            let message = match <[Reading; 1]>::try_from(readings) {
                Ok([reading]) => DeviceMessage::Reading(reading),
                Err(none) if none.is_empty() => break,
                Err(many) => DeviceMessage::Batch(many),
            };
            messages.push(message.to_bytes(self.plan.codec));
        }
        messages.extend(self.fetches());
        for message in self.scrambled(messages) {
            door.send(message).await?;
        }
        Ok(())
    }

    /// Some twice, some overtaken by the next; one that nothing overtakes leaves with the next word from the server.
    fn scrambled(&mut self, messages: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let Some(scramble) = &mut self.scramble else {
            return messages;
        };
        let mut out = Vec::new();
        if messages.is_empty() {
            out.extend(scramble.release());
        }
        for message in messages {
            scramble.place(message, &mut out);
        }
        let (twice, overtaken) = std::mem::take(&mut scramble.touched);
        self.ledger.scrambled.0 += twice;
        self.ledger.scrambled.1 += overtaken;
        out
    }

    /// At most a batch of what is kept and not sent on this connection.
    fn next_readings(&mut self) -> Vec<Reading> {
        let mut readings = Vec::new();
        while readings.len() < self.plan.batch && self.kept.in_flight() < self.plan.window {
            let Some(number) = self.kept.next_to_send() else {
                break;
            };
            self.ledger.sent(number);
            readings.push(self.addressed(number));
        }
        readings
    }

    /// Stored readings again, for their answers. They leave the list when the answer comes.
    fn fetches(&mut self) -> Vec<Vec<u8>> {
        let unasked = self.fetch.iter_mut().filter(|(_, asked)| !**asked);
        let mut numbers = Vec::new();
        for (number, asked) in unasked.take(FETCH_AT_ONCE) {
            *asked = true;
            numbers.push(*number);
        }
        let mut messages = Vec::new();
        for number in numbers {
            self.ledger.sent(number);
            let message = DeviceMessage::Reading(self.addressed(number));
            messages.push(message.to_bytes(self.plan.codec));
        }
        messages
    }

    fn hear(&mut self, message: &ServerMessage) {
        self.heard_at = Instant::now();
        match message {
            ServerMessage::Prediction(prediction) => {
                let number = self.number(prediction.epoch, prediction.seq);
                let is_late = matches!(prediction.output, Output::Skipped(_));
                self.ledger.predicted(number, Answer::of(prediction));
                self.kept.predicted(number, is_late);
                self.fetch.remove(&number);
            }
            ServerMessage::Ack(ack) => {
                let epoch = self.epoch_of(ack.epoch);
                for number in self.kept.acked(epoch, ack) {
                    self.ledger.acked(number);
                }
            }
            ServerMessage::Nack(nack) => self.hear_nack(nack),
            ServerMessage::Gap(gap) => self.kept.gap(self.epoch_of(gap.epoch), gap),
            ServerMessage::Reset(_) => self.ledger.resets_told += 1,
            ServerMessage::Feedback(stored) => {
                let number = self.number(stored.epoch, stored.seq);
                self.ledger.feedback.entry(number).or_default().1 += 1;
            }
            ServerMessage::Error(_) | ServerMessage::Welcome(_) => {}
        }
    }

    fn hear_nack(&mut self, nack: &Nack) {
        let Some(seq) = nack.seq else { return };
        let number = self.number(nack.epoch, seq);
        if self.kept.nacked(number) {
            return self.ledger.nacked(number, nack.code);
        }
        let is_lie = nack.code == NackCode::SeqReused && self.ledger.lies > 0;
        let is_known = self
            .ledger
            .entries
            .get(&number)
            .is_some_and(|entry| entry.fate == Fate::Nacked(nack.code));
        if !is_lie && !is_known {
            let text = format!("{number}: nack {} after it was settled", nack.code);
            self.ledger.violations.push(text);
        }
    }

    fn epoch_of(&self, told: Option<u64>) -> u64 {
        told.or(self.home_epoch).unwrap_or(0)
    }

    fn number(&self, epoch: Option<u64>, seq: u64) -> Number {
        Number {
            epoch: self.epoch_of(epoch),
            seq,
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
