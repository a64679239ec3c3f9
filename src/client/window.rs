//! The client's rule of the protocol as a pure state machine: which readings are kept, sent, sent again, and settled.
//!
//! Owns every reading from the moment it is offered until it is *settled*: nacked, or acked and predicted (the prediction of a
//! reading that was swallowed by a cut is fetched by sending it again). Promises that no reading is forgotten, that at most
//! [`Limits::unsettled`] are kept and at most [`Limits::in_flight`] are unanswered, and that an ack never covers a reading
//! which a gap named. Time is an argument; no sockets, no clocks.
//!
//! A stream may hold readings of an earlier run. The first one or two sent are therefore *probes*: nothing else goes out until
//! they are settled. Their answer tells how far the store reaches (over MQTT there is no welcome) and whether it
//! holds the same readings.

use super::tally::{Kind, Tally};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;
use tidegate_protocol::message::{Ack, Gap, Nack, Prediction};
use tidegate_protocol::{NackCode, Output, Reading};

/// Bounds of a window.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most readings kept until acked.
    pub unsettled: usize,
    /// Most readings sent and not yet answered.
    pub in_flight: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unsettled: 4_096,
            in_flight: 256,
        }
    }
}

/// One kept reading and what is known of it.
#[derive(Debug)]
struct Slot {
    reading: Reading,
    /// How often it was sent, over all connections.
    sends: u32,
    sent_at: Option<Instant>,
    answer: Option<Kind>,
    /// Whether a prediction was told to the caller; a second one after a cut is not news.
    told: bool,
    acked: bool,
    /// A gap named it, or its answer did: only a late ack covers it, or after a cut a new answer and an ack behind it.
    gapped: bool,
    probe: bool,
    /// The server held it before this run.
    stored: bool,
}

impl Slot {
    /// The ack by number may have been lost in the cut: forget the gap and believe a new answer only.
    fn ask_anew(&mut self) {
        self.gapped = false;
        self.acked = false;
        self.answer = None;
    }
}

/// The readings of one stream that are not settled.
#[derive(Debug)]
pub struct Window {
    limits: Limits,
    slots: BTreeMap<u64, Slot>,
    /// To be sent on this connection, lowest first.
    unsent: BTreeSet<u64>,
    /// Sent on this connection and not answered.
    flying: BTreeSet<u64>,
    /// Sent first and alone.
    probes: BTreeSet<u64>,
    /// Whether probing is over.
    open: bool,
    /// Highest number sent by this run.
    highest_sent: Option<u64>,
    /// Numbers below are stored, as far as the server said.
    floor: u64,
    conflict: Option<u64>,
    /// Whether what the server holds is sent all the same.
    resend: bool,
    tally: Tally,
}

impl Window {
    /// An empty window that probes first.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            slots: BTreeMap::new(),
            unsent: BTreeSet::new(),
            flying: BTreeSet::new(),
            probes: BTreeSet::new(),
            open: false,
            highest_sent: None,
            floor: 0,
            conflict: None,
            resend: false,
            tally: Tally::default(),
        }
    }

    /// With `resend`, a reading is settled by an answer of its own only, whatever the server says it holds.
    pub fn resending(self, resend: bool) -> Self {
        Self { resend, ..self }
    }

    /// The counts so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The counts, to be changed by the loop that owns the connection.
    pub(super) fn tally_mut(&mut self) -> &mut Tally {
        &mut self.tally
    }

    /// Whether one more reading may be offered.
    pub fn has_room(&self) -> bool {
        self.slots.len() < self.limits.unsettled
    }

    /// Whether everything offered is settled.
    pub fn is_settled(&self) -> bool {
        self.slots.is_empty()
    }

    /// Readings kept.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether no reading is kept.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether the server owes an answer or an ack on this connection.
    pub fn is_owed(&self) -> bool {
        self.slots.len() > self.unsent.len()
    }

    /// Numbers below this need not be offered: the server said it holds them.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// The number under which the server holds another reading, if a probe found one.
    pub fn conflict(&self) -> Option<u64> {
        self.conflict
    }

    /// A connection is up: everything unsettled is due again. `resume_from` is the welcome's; MQTT has none.
    pub fn connected(&mut self, resume_from: Option<u64>) {
        self.flying.clear();
        self.unsent = self.slots.keys().copied().collect();
        self.slots
            .values_mut()
            .filter(|slot| slot.gapped)
            .for_each(Slot::ask_anew);
        let Some(resume_from) = resume_from else {
            return;
        };
        if resume_from == 0 && self.probes.is_empty() {
            self.open = true;
        }
        self.floor = self.floor.max(resume_from);
        // A prediction proves that the reading was admitted, and `resume_from` that it was committed.
        let admitted = |slot: &Slot| slot.answer.is_some() && !slot.gapped;
        let committed = self
            .slots
            .range(..resume_from)
            .filter(|(_, slot)| admitted(slot));
        for seq in committed.map(|(seq, _)| *seq).collect::<Vec<_>>() {
            self.ack_one(seq);
        }
    }

    /// `count` readings below [`Self::floor`] will not be offered; `probes` are those of them that are sent all the same, to
    /// see whether the server holds the same values.
    pub fn stored_before(&mut self, count: u64, probes: Vec<Reading>) {
        self.tally.already_stored += count.saturating_sub(probes.len() as u64);
        for reading in probes {
            self.keep(reading, true);
        }
    }

    /// Takes a reading over. Its `seq` is set and higher than any offered before.
    pub fn offer(&mut self, reading: Reading) {
        debug_assert!(self.has_room());
        self.keep(reading, false);
    }

    fn keep(&mut self, reading: Reading, stored: bool) {
        let Some(seq) = reading.seq else {
            debug_assert!(false, "the client numbers its readings");
            return;
        };
        let probe = !self.open && (stored || self.probes.is_empty());
        if probe {
            self.probes.insert(seq);
        }
        self.unsent.insert(seq);
        let slot = Slot {
            reading,
            sends: 0,
            sent_at: None,
            answer: None,
            told: false,
            acked: stored,
            gapped: false,
            probe,
            stored,
        };
        self.slots.insert(seq, slot);
    }

    /// The next reading to put on the wire, or `None` when everything is sent or enough is unanswered.
    pub fn next_to_send(&mut self, now: Instant) -> Option<&Reading> {
        if self.flying.len() >= self.limits.in_flight {
            return None;
        }
        let seq = *self.unsent.first()?;
        if !self.open && !self.probes.contains(&seq) {
            return None;
        }
        self.unsent.remove(&seq);
        self.flying.insert(seq);
        self.highest_sent = self.highest_sent.max(Some(seq));
        let slot = self.slots.get_mut(&seq)?;
        slot.sent_at = Some(now);
        slot.sends += 1;
        match (slot.sends, slot.probe) {
            (1, false) => self.tally.sent += 1,
            (1, true) => {}
            _ => self.tally.resent += 1,
        }
        Some(&slot.reading)
    }

    /// A prediction came. Returns whether it is the first for its reading in this run.
    pub fn on_prediction(&mut self, prediction: &Prediction, now: Instant) -> bool {
        let seq = prediction.seq;
        self.flying.remove(&seq);
        let Some(slot) = self.slots.get_mut(&seq) else {
            return false;
        };
        slot.answer = Some(Kind::of(&prediction.output));
        // It fell into a gap, told or swallowed by a cut: acks before this answer meant others.
        if matches!(prediction.output, Output::Skipped(_)) {
            slot.gapped = true;
            slot.acked = false;
        }
        let first = !std::mem::replace(&mut slot.told, true);
        if first && !slot.probe {
            self.tally.predicted(Kind::of(&prediction.output));
        }
        // A probe's way says nothing of predicting: its answer may come from the store.
        if first
            && !slot.probe
            && let Some(sent_at) = slot.sent_at
        {
            self.tally
                .round_trip(now.saturating_duration_since(sent_at));
        }
        self.settle(seq);
        first
    }

    /// Everything up to `ack.seq` is committed, but what a gap or nack named.
    pub fn on_ack(&mut self, ack: &Ack) {
        let beyond = self.highest_sent.is_none_or(|highest| ack.seq > highest);
        self.floor = self.floor.max(ack.seq + 1);
        for &seq in &ack.late {
            if let Some(slot) = self.slots.get_mut(&seq) {
                slot.gapped = false;
                self.ack_one(seq);
            }
        }
        let covered = self
            .slots
            .range(..=ack.seq)
            .filter(|(_, slot)| !slot.gapped);
        for seq in covered.map(|(seq, _)| *seq).collect::<Vec<_>>() {
            self.mark_stored(seq, beyond);
            self.ack_one(seq);
        }
    }

    /// An ack beyond all we sent is of an earlier run: it stored what we never sent, and what we sent as a probe.
    fn mark_stored(&mut self, seq: u64, beyond: bool) {
        let Some(slot) = self.slots.get_mut(&seq) else {
            return;
        };
        if (slot.sends == 0 && !self.resend) || (slot.probe && beyond) {
            slot.stored = true;
        }
    }

    fn ack_one(&mut self, seq: u64) {
        if let Some(slot) = self.slots.get_mut(&seq) {
            slot.acked = true;
        }
        self.settle(seq);
    }

    /// The reading will never be taken. Returns whether that is news: after a cut it may be said again.
    pub fn on_nack(&mut self, nack: &Nack) -> bool {
        let Some(seq) = nack.seq else {
            self.tally.nacked(nack.code);
            return true;
        };
        let Some(slot) = self.remove(seq) else {
            return false;
        };
        // Sent counts what was not stored before; a probe was not counted when it left.
        let known = nack.code == NackCode::AlreadyTaken;
        match (slot.probe, known) {
            (true, false) => self.tally.sent += 1,
            (false, true) if slot.sends > 0 => self.tally.sent -= 1,
            _ => {}
        }
        if slot.probe && nack.code == NackCode::SeqReused {
            self.conflict = self.conflict.or(Some(seq));
            // What was left out as stored is of another run: nothing is known of it.
            self.tally.already_stored = 0;
        }
        if known {
            self.tally.already_stored += 1;
        } else {
            self.tally.nacked(nack.code);
        }
        true
    }

    /// Numbers were skipped on the way: what we hold of them goes out again and is acked by number. That includes readings with a
    /// provisional prediction, which a crash of the server can lose.
    pub fn on_gap(&mut self, gap: &Gap) {
        self.tally.gaps += 1;
        if gap.from > gap.to {
            return;
        }
        for (&seq, slot) in self.slots.range_mut(gap.from..=gap.to) {
            if slot.sends > 0 {
                slot.gapped = true;
                slot.acked = false;
                self.flying.remove(&seq);
                self.unsent.insert(seq);
            }
        }
    }

    /// Lets go of a reading whose fate is known.
    fn settle(&mut self, seq: u64) {
        let Some(slot) = self.slots.get(&seq) else {
            return;
        };
        let never_sent = slot.stored && slot.sends == 0 && !slot.probe;
        if !slot.acked || (slot.answer.is_none() && !never_sent) {
            return;
        }
        let Some(slot) = self.remove(seq) else { return };
        match (slot.stored, slot.probe, slot.answer) {
            (true, ..) => self.tally.already_stored += 1,
            (false, true, answer) => {
                self.tally.sent += 1;
                self.tally.acked += 1;
                answer
                    .into_iter()
                    .for_each(|kind| self.tally.predicted(kind));
            }
            (false, false, _) => self.tally.acked += 1,
        }
    }

    fn remove(&mut self, seq: u64) -> Option<Slot> {
        let slot = self.slots.remove(&seq)?;
        self.unsent.remove(&seq);
        self.flying.remove(&seq);
        if self.probes.remove(&seq) && self.probes.is_empty() {
            self.open = true;
        }
        Some(slot)
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
