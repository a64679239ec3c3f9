//! One device's readings on their way: which are answered, which are acked, and that nothing is said twice or of nobody.
//!
//! Numbers in, verdicts out; no clock. An entry leaves when its reading is both answered (or refused) and acked.

use std::collections::VecDeque;

/// When a reading was due and when it left, ns of the run's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Intended.
    pub due: u64,
    /// Written.
    pub sent: u64,
}

#[derive(Debug)]
struct Entry {
    times: Times,
    /// Predicted, or refused.
    answered: bool,
    /// Acked, refused, or not acked at this door.
    settled: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    /// Number of the oldest entry.
    first: u64,
    /// Next number that an ack has not covered. A refused reading is settled, and yet covered by the ack that follows.
    unacked: u64,
    entries: VecDeque<Entry>,
    /// Entries without an answer.
    in_flight: usize,
    acks: bool,
}

impl Ledger {
    /// A device whose next reading is `next`; whether its peer acks.
    pub fn new(next: u64, acks: bool) -> Self {
        Self {
            first: next,
            unacked: next,
            entries: VecDeque::new(),
            in_flight: 0,
            acks,
        }
    }

    /// Number of the next reading.
    pub fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Readings without an answer.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Readings without an ack or refusal, where the peer acks.
    pub fn unsettled(&self) -> usize {
        self.entries.iter().filter(|entry| !entry.settled).count()
    }

    /// Whether everything is answered and acked.
    pub fn is_done(&self) -> bool {
        self.entries.is_empty()
    }

    /// The next reading leaves.
    pub fn send(&mut self, times: Times) {
        self.in_flight += 1;
        self.entries.push_back(Entry {
            times,
            answered: false,
            settled: !self.acks,
        });
    }

    /// A prediction of `seq`.
    ///
    /// # Errors
    /// Of a reading that was not sent, or is answered already.
    pub fn answer(&mut self, seq: u64) -> Result<Times, String> {
        let said = || format!("a prediction of {seq}, which is not awaited");
        let entry = self.entry(seq).ok_or_else(said)?;
        if entry.answered {
            return Err(format!("a second prediction of {seq}"));
        }
        entry.answered = true;
        let times = entry.times;
        self.in_flight -= 1;
        self.forget_what_is_done();
        Ok(times)
    }

    /// An ack up to `seq`; `each` gets the times of the readings that it covers first.
    ///
    /// # Errors
    /// Of a reading that was not sent, or of what is acked already.
    pub fn ack(&mut self, seq: u64, mut each: impl FnMut(Times)) -> Result<(), String> {
        if seq >= self.next() {
            return Err(format!("an ack of {seq}, which was never sent"));
        }
        if seq < self.unacked {
            return Err(format!("a second ack of {seq}"));
        }
        for covered in self.unacked.max(self.first)..=seq {
            if let Some(entry) = self.entry(covered)
                && !entry.settled
            {
                entry.settled = true;
                each(entry.times);
            }
        }
        self.unacked = seq + 1;
        self.forget_what_is_done();
        Ok(())
    }

    /// The server refused `seq` for good.
    ///
    /// # Errors
    /// Of a reading that was not sent, or is settled already.
    pub fn refuse(&mut self, seq: u64) -> Result<(), String> {
        let said = || format!("a nack of {seq}, which is not awaited");
        let entry = self.entry(seq).ok_or_else(said)?;
        let was_answered = std::mem::replace(&mut entry.answered, true);
        entry.settled = true;
        self.in_flight -= usize::from(!was_answered);
        self.forget_what_is_done();
        Ok(())
    }

    fn entry(&mut self, seq: u64) -> Option<&mut Entry> {
        let at = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(at)
    }

    fn forget_what_is_done(&mut self) {
        while let Some(entry) = self.entries.front()
            && entry.answered
            && entry.settled
        {
            self.entries.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(due: u64) -> Times {
        Times { due, sent: due + 1 }
    }

    fn ledger(sent: u64) -> Ledger {
        let mut ledger = Ledger::new(5, true);
        (0..sent).for_each(|due| ledger.send(times(due)));
        ledger
    }

    #[test]
    fn a_reading_is_done_when_it_is_answered_and_acked() {
        let mut ledger = ledger(3);
        assert_eq!((ledger.next(), ledger.in_flight()), (8, 3));
        assert_eq!(ledger.answer(6), Ok(times(1)));
        let mut acked = Vec::new();
        ledger.ack(6, |times| acked.push(times.due)).unwrap();
        assert_eq!(acked, [0, 1]);
        assert_eq!(ledger.answer(5), Ok(times(0)));
        assert_eq!((ledger.in_flight(), ledger.unsettled()), (1, 1));
        ledger.answer(7).unwrap();
        ledger.ack(7, |_| {}).unwrap();
        assert!(ledger.is_done());
    }

    #[test]
    fn what_is_said_twice_or_of_nobody_is_found() {
        let mut ledger = ledger(3);
        ledger.answer(6).unwrap();
        assert!(ledger.answer(6).unwrap_err().contains("second prediction"));
        assert!(ledger.answer(8).is_err() && ledger.answer(4).is_err());
        assert!(ledger.ack(8, |_| {}).unwrap_err().contains("never sent"));
        ledger.ack(6, |_| {}).unwrap();
        assert!(ledger.ack(6, |_| {}).unwrap_err().contains("second ack"));
        assert!(ledger.refuse(8).is_err());
    }

    #[test]
    fn a_refused_reading_is_settled_and_no_ack_counts_it() {
        let mut ledger = ledger(3);
        ledger.refuse(6).unwrap();
        assert_eq!(ledger.in_flight(), 2);
        let mut acked = 0;
        ledger.ack(7, |_| acked += 1).unwrap();
        assert_eq!(acked, 2);
        for seq in [5, 7] {
            ledger.answer(seq).unwrap();
        }
        assert!(ledger.is_done());
    }

    #[test]
    fn an_ack_behind_nothing_but_refusals_is_no_mistake() {
        let mut ledger = ledger(2);
        ledger.refuse(5).unwrap();
        ledger.ack(5, |_| panic!("it is refused")).unwrap();
        assert!(ledger.ack(5, |_| {}).is_err());
        ledger.refuse(6).unwrap();
        ledger.ack(6, |_| panic!("it is refused")).unwrap();
        assert!(ledger.is_done());
    }

    #[test]
    fn an_echo_owes_no_acks() {
        let mut ledger = Ledger::new(0, false);
        ledger.send(times(0));
        ledger.answer(0).unwrap();
        assert!(ledger.is_done());
    }
}
