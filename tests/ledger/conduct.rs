//! What a device does, sends and infers: its script, the client's rule and its ledger in one. Pure.
//!
//! Messages to send come out as bytes, what the server said goes in; connections, time and orders are [`super::device`]'s.

use super::frames::Shuffle;
use super::kept::Kept;
use super::ledger::{Answer, Fate, Ledger, Number};
use super::plan::{DevicePlan, Doors};
use super::script::{Act, Script};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use std::collections::BTreeMap;
use tidegate_protocol::message::{Ack, Feedback, Gap, Label, Nack};
use tidegate_protocol::{
    Codec, DeviceMessage, NackCode, Output, Reading, ServerMessage, Values, Wire,
};

/// Answers fetched at a time.
const FETCH_AT_ONCE: usize = 64;

/// See the module.
pub struct Conduct {
    pub plan: DevicePlan,
    pub ledger: Ledger,
    script: Script,
    random: StdRng,
    kept: Kept,
    /// The next epoch begins once everything kept is settled.
    epoch_waits: bool,
    /// Stored readings to be sent again for their answers, and whether this connection has sent them.
    fetch: BTreeMap<Number, bool>,
    /// Messages that are no new readings: sent once, whatever becomes of them.
    extras: Vec<Vec<u8>>,
    /// Gaps told on this connection.
    gaps: Vec<(Number, Number)>,
    /// The epoch that the server's messages leave out on this connection; over MQTT none.
    home_epoch: Option<u64>,
    /// What happens to publishes before they leave: no proxy can reorder them.
    scramble: Option<Shuffle>,
}

impl Conduct {
    pub fn new(plan: DevicePlan) -> Self {
        let scramble = plan.shuffle.filter(|_| plan.doors == Doors::Mqtt);
        Self {
            script: Script::new(plan.seed, &plan.habits),
            random: StdRng::seed_from_u64(plan.seed.wrapping_add(1)),
            kept: Kept::new(plan.rule),
            ledger: Ledger::default(),
            epoch_waits: false,
            fetch: BTreeMap::new(),
            extras: Vec::new(),
            gaps: Vec::new(),
            home_epoch: None,
            scramble: scramble.map(|odds| Shuffle::new(odds, plan.seed)),
            plan,
        }
    }

    /// The epoch to ask for: that of the oldest kept reading, else that of the readings to come.
    pub fn epoch(&self) -> u64 {
        let kept = self.kept.numbers().next().map(|number| number.epoch);
        kept.unwrap_or(self.script.epoch())
    }

    /// A connection is up. A WebSocket was told where to go on: epoch and seq.
    pub fn connected(&mut self, resume_from: Option<Number>) {
        self.home_epoch = resume_from.map(|number| number.epoch);
        self.gaps.clear();
        for number in self.kept.connected(resume_from) {
            self.settled_by_resume(number);
        }
        self.fetch_what_is_owed();
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

    /// Whether the server owes an answer on this connection.
    pub fn is_owed(&self) -> bool {
        self.kept.in_flight() > 0 || !self.fetch.is_empty()
    }

    /// Whether nothing is left to be done but to make new readings.
    pub fn is_settled(&self) -> bool {
        self.kept.is_empty() && self.fetch.is_empty()
    }

    /// Asks again for what was answered on a connection that ended.
    pub fn fetch_what_is_owed(&mut self) {
        let owed = self.ledger.owed().map(|number| (number, false));
        self.fetch = owed.collect();
    }

    /// Whether another act may begin.
    pub fn may_act(&self) -> bool {
        let has_room = self.kept.len() < self.plan.window;
        has_room && (!self.epoch_waits || self.kept.is_empty())
    }

    /// What is left, for a report.
    pub fn status(&self) -> String {
        let kept: Vec<_> = self.kept.numbers().take(5).collect();
        format!(
            "{} kept from {kept:?}, {} answers owed",
            self.kept.len(),
            self.fetch.len()
        )
    }

    /// Makes the next reading, or whatever the script says.
    pub fn act(&mut self) {
        self.epoch_waits = false;
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
            Act::Garbage => self.extras.push(match self.plan.codec {
                Codec::Json => b"{\"junk\":true}".to_vec(),
                Codec::Bincode => vec![1, 99, 99],
            }),
        }
    }

    fn say(&mut self, message: &DeviceMessage) {
        self.extras.push(message.to_bytes(self.plan.codec));
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

    /// Everything that may leave now.
    pub fn outgoing(&mut self) -> Vec<Vec<u8>> {
        let mut messages = std::mem::take(&mut self.extras);
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
        self.scrambled(messages)
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

    /// Takes in what the server said.
    pub fn hear(&mut self, message: &ServerMessage) {
        match message {
            ServerMessage::Prediction(prediction) => {
                let number = self.number(prediction.epoch, prediction.seq);
                let is_late = matches!(prediction.output, Output::Skipped(_));
                self.ledger.predicted(number, Answer::of(prediction));
                self.kept.predicted(number, is_late);
                self.fetch.remove(&number);
            }
            ServerMessage::Ack(ack) => self.hear_ack(ack),
            ServerMessage::Nack(nack) => self.hear_nack(nack),
            ServerMessage::Gap(gap) => self.hear_gap(gap),
            ServerMessage::Reset(_) => self.ledger.resets_told += 1,
            ServerMessage::Feedback(stored) => {
                let number = self.number(stored.epoch, stored.seq);
                self.ledger.feedback.entry(number).or_default().1 += 1;
            }
            ServerMessage::Error(_) | ServerMessage::Welcome(_) => {}
        }
    }

    fn hear_gap(&mut self, gap: &Gap) {
        let epoch = self.epoch_of(gap.epoch);
        let number = |seq| Number { epoch, seq };
        self.gaps.push((number(gap.from), number(gap.to)));
        self.kept.gap(epoch, gap);
    }

    fn hear_ack(&mut self, ack: &Ack) {
        let epoch = self.epoch_of(ack.epoch);
        for number in self.kept.acked(epoch, ack) {
            self.ledger.acked(number);
            if self.keeps_order() && !ack.late.contains(&number.seq) {
                self.expect_gap_before(number);
            }
        }
    }

    /// Whether what is sent arrives in that order, or this connection ends.
    fn keeps_order(&self) -> bool {
        self.home_epoch.is_some() && self.plan.shuffle.is_none()
    }

    /// A gap is told before the ack that covers it.
    fn expect_gap_before(&mut self, number: Number) {
        let Some(skipped) = self.ledger.skipped_before(number) else {
            return;
        };
        let is_told = |(from, to): &(Number, Number)| *from <= skipped && skipped <= *to;
        if !self.gaps.iter().any(is_told) {
            let text = format!("{number} acked and no gap told for {skipped}");
            self.ledger.violations.push(text);
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
