//! The client's rule of the protocol: which readings a device keeps, what it sends next, what settles a reading.
//!
//! Written anew from `protocol/README.md` and not from the client in `src/`, so that the two cannot share a mistake. Two rules:
//! [`Rule::InOrder`] is the protocol's whole client word for word, for a device whose readings reach the server in the order in
//! which they were sent. [`Rule::AnyOrder`] is for one whose readings may be overtaken (it fills its own gaps, its network
//! swaps frames, a broker stands between): it believes an ack only for what was answered on the same connection. Pure.

use super::ledger::Number;
use std::collections::BTreeMap;
use tidegate_protocol::message::{Ack, Gap};

/// How much a device may infer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// `resume_from` and an ack settle everything below that no gap named.
    InOrder,
    /// An ack settles what was answered on this connection; a late one is settled by its number alone.
    AnyOrder,
}

/// What is known of a kept reading on this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unsent,
    Sent,
    Answered,
    /// Answered as late: only its number in an ack settles it.
    Late,
}

#[derive(Debug)]
struct Slot {
    state: State,
    /// A gap named it on this connection or, in order, on an earlier one.
    gapped: bool,
}

/// The readings that are not settled.
#[derive(Debug)]
pub struct Kept {
    rule: Rule,
    slots: BTreeMap<Number, Slot>,
    in_flight: usize,
}

impl Kept {
    pub fn new(rule: Rule) -> Self {
        Self {
            rule,
            slots: BTreeMap::new(),
            in_flight: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Sent on this connection and not settled.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Numbers kept, for a report.
    pub fn numbers(&self) -> impl Iterator<Item = Number> {
        self.slots.keys().copied()
    }

    /// Keeps a new reading.
    pub fn keep(&mut self, number: Number) {
        let slot = Slot {
            state: State::Unsent,
            gapped: false,
        };
        self.slots.insert(number, slot);
    }

    /// A connection is up: all that is kept goes out again. Returns what `resume_from` settled.
    pub fn connected(&mut self, resume_from: Option<Number>) -> Vec<Number> {
        self.in_flight = 0;
        for slot in self.slots.values_mut() {
            slot.state = State::Unsent;
        }
        let Some(resume_from) = resume_from.filter(|_| self.rule == Rule::InOrder) else {
            return Vec::new();
        };
        let first = Number {
            seq: 0,
            ..resume_from
        };
        let settled = self
            .slots
            .range(first..resume_from)
            .filter(|(_, slot)| !slot.gapped);
        let settled: Vec<_> = settled.map(|(number, _)| *number).collect();
        settled.iter().for_each(|number| self.remove(*number));
        settled
    }

    /// The next reading to send; it counts as sent.
    pub fn next_to_send(&mut self) -> Option<Number> {
        let unsent = self
            .slots
            .iter_mut()
            .find(|(_, slot)| slot.state == State::Unsent);
        let (number, slot) = unsent?;
        slot.state = State::Sent;
        self.in_flight += 1;
        Some(*number)
    }

    /// A prediction came.
    pub fn predicted(&mut self, number: Number, is_late: bool) {
        if let Some(slot) = self.slots.get_mut(&number)
            && slot.state != State::Unsent
        {
            slot.state = if is_late {
                State::Late
            } else {
                State::Answered
            };
        }
    }

    /// An ack came. Returns what it settled.
    pub fn acked(&mut self, epoch: u64, ack: &Ack) -> Vec<Number> {
        let number = |seq| Number { epoch, seq };
        let covered = self
            .slots
            .range(number(0)..=number(ack.seq))
            .filter(|(_, slot)| self.is_covered(slot));
        let mut settled: Vec<_> = covered.map(|(number, _)| *number).collect();
        let late = ack.late.iter().map(|seq| number(*seq));
        settled.extend(late.filter(|number| self.slots.contains_key(number)));
        settled.sort_unstable();
        settled.dedup();
        settled.iter().for_each(|number| self.remove(*number));
        settled
    }

    fn is_covered(&self, slot: &Slot) -> bool {
        let believed = match self.rule {
            Rule::InOrder => slot.state != State::Late,
            Rule::AnyOrder => slot.state == State::Answered,
        };
        believed && !slot.gapped
    }

    /// A nack came. Returns whether the reading was kept.
    pub fn nacked(&mut self, number: Number) -> bool {
        let was_kept = self.slots.contains_key(&number);
        self.remove(number);
        was_kept
    }

    /// A gap came: what is kept of it did not arrive and goes out again, late.
    pub fn gap(&mut self, epoch: u64, gap: &Gap) {
        if gap.from > gap.to {
            return;
        }
        let range = Number {
            epoch,
            seq: gap.from,
        }..=Number { epoch, seq: gap.to };
        for (_, slot) in self.slots.range_mut(range) {
            slot.gapped = true;
            if matches!(slot.state, State::Sent | State::Answered) {
                slot.state = State::Unsent;
                self.in_flight -= 1;
            }
        }
    }

    fn remove(&mut self, number: Number) {
        if let Some(slot) = self.slots.remove(&number)
            && slot.state != State::Unsent
        {
            self.in_flight -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(seq: u64) -> Number {
        Number { epoch: 0, seq }
    }

    fn ack(seq: u64, late: &[u64]) -> Ack {
        Ack {
            epoch: None,
            seq,
            late: late.to_vec(),
        }
    }

    fn kept(rule: Rule, seqs: std::ops::Range<u64>) -> Kept {
        let mut kept = Kept::new(rule);
        seqs.for_each(|seq| kept.keep(number(seq)));
        while kept.next_to_send().is_some() {}
        kept
    }

    #[test]
    fn in_order_an_ack_and_resume_from_settle_everything_below() {
        let mut kept = kept(Rule::InOrder, 0..6);
        assert_eq!(kept.acked(0, &ack(1, &[])), [number(0), number(1)]);
        assert_eq!(kept.connected(Some(number(4))), [number(2), number(3)]);
        assert_eq!(kept.next_to_send(), Some(number(4)));
    }

    #[test]
    fn what_a_gap_named_goes_out_again_and_is_settled_by_its_number_alone() {
        for rule in [Rule::InOrder, Rule::AnyOrder] {
            let mut kept = kept(rule, 0..2);
            kept.predicted(number(1), false);
            kept.gap(
                0,
                &Gap {
                    epoch: None,
                    from: 0,
                    to: 0,
                },
            );
            assert_eq!(kept.acked(0, &ack(1, &[])), [number(1)]);
            assert_eq!(kept.next_to_send(), Some(number(0)));
            kept.predicted(number(0), true);
            assert!(kept.acked(0, &ack(1, &[])).is_empty());
            assert_eq!(kept.acked(0, &ack(1, &[0])), [number(0)]);
            assert_eq!((kept.len(), kept.in_flight()), (0, 0));
        }
    }

    #[test]
    fn in_any_order_an_ack_settles_only_what_was_answered_on_this_connection() {
        let mut kept = kept(Rule::AnyOrder, 0..3);
        kept.predicted(number(1), false);
        assert_eq!(kept.acked(0, &ack(2, &[])), [number(1)]);
        assert!(kept.connected(Some(number(3))).is_empty());
        assert_eq!(kept.next_to_send(), Some(number(0)));
    }
}
