//! What a client counts: readings by their fate, what was wrong, and latencies of those that were due in the counted window.
//!
//! Each thread has its own; they add up. Latencies are in microseconds.

use super::ledger::Times;
use super::words::Kind;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Longest latency that is told apart from longer ones, us.
const LONGEST_US: u64 = 600_000_000;
/// Kinds of refusals and of ends that are told apart; the rest is counted together.
const MOST_KINDS: usize = 32;

/// When what is counted begins and ends, ns of the run's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct Window {
    /// Readings leave from here on.
    pub start: u64,
    /// The warm-up is over.
    pub from: u64,
    /// No reading leaves any more.
    pub until: u64,
}

impl Window {
    fn has(self, at: u64) -> bool {
        (self.from..self.until).contains(&at)
    }
}

/// What happened inside the window.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counted {
    /// Readings sent.
    pub sent: u64,
    /// Predictions that came.
    pub predicted: u64,
    /// Readings acked.
    pub acked: u64,
    /// Events that subscribers got.
    pub events: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Counts {
    window: Window,
    /// Inside the window.
    pub counted: Counted,
    /// Readings sent in the whole run; what follows is of the whole run too.
    pub sent: u64,
    /// Readings with a prediction.
    pub predicted: u64,
    /// Of them: the version calibrates.
    pub calibrating: u64,
    /// Of them: the step failed.
    pub failed: u64,
    /// Of them: stored and not folded.
    pub skipped: u64,
    /// Readings acked.
    pub acked: u64,
    /// Readings refused for good, by code.
    pub nacked: BTreeMap<String, u64>,
    /// Readings not taken for want of room (HTTP 503).
    pub shed: u64,
    /// Gaps that the server noted.
    pub gaps: u64,
    /// Events that subscribers got.
    pub events: u64,
    /// Events that were left out for subscribers.
    pub dropped: u64,
    /// Answers that were wrong: twice, of nobody, no message.
    pub wrong: u64,
    /// The first of them.
    pub first_wrong: Option<String>,
    /// Connections that ended too early, by what was said.
    pub closed: BTreeMap<String, u64>,
    /// Readings whose prediction never came, and whose ack never came.
    pub unanswered: u64,
    /// See `unanswered`.
    pub unacked: u64,
    /// From when a reading was due to its prediction.
    pub prediction: Histogram<u64>,
    /// From when a reading left to its prediction.
    pub taken: Histogram<u64>,
    /// From when a reading was due to its ack.
    pub ack: Histogram<u64>,
    /// CPU time of the client's threads inside the window, s.
    pub cpu_s: f64,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, 3).expect("the bounds are constants in order")
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            window: Window::default(),
            counted: Counted::default(),
            sent: 0,
            predicted: 0,
            calibrating: 0,
            failed: 0,
            skipped: 0,
            acked: 0,
            nacked: BTreeMap::new(),
            shed: 0,
            gaps: 0,
            events: 0,
            dropped: 0,
            wrong: 0,
            first_wrong: None,
            closed: BTreeMap::new(),
            unanswered: 0,
            unacked: 0,
            prediction: histogram(),
            taken: histogram(),
            ack: histogram(),
            cpu_s: 0.0,
        }
    }
}

fn micros(from: u64, to: u64) -> u64 {
    to.saturating_sub(from) / 1_000
}

fn count_kind(kinds: &mut BTreeMap<String, u64>, kind: String, count: u64) {
    let known = kinds.len() < MOST_KINDS || kinds.contains_key(&kind);
    let kind = if known { kind } else { "other".into() };
    *kinds.entry(kind).or_default() += count;
}

impl Counts {
    /// What is counted from now on.
    pub fn set_window(&mut self, window: Window) {
        self.window = window;
    }

    /// A reading leaves.
    pub fn send(&mut self, now: u64) {
        self.sent += 1;
        self.counted.sent += u64::from(self.window.has(now));
    }

    /// Its prediction came at `now`.
    pub fn predict(&mut self, times: Times, kind: Kind, now: u64) {
        self.predicted += 1;
        match kind {
            Kind::Answer => {}
            Kind::Calibrating => self.calibrating += 1,
            Kind::Failed => self.failed += 1,
            Kind::Skipped => self.skipped += 1,
        }
        self.counted.predicted += u64::from(self.window.has(now));
        if self.window.has(times.due) {
            self.prediction.saturating_record(micros(times.due, now));
            self.taken.saturating_record(micros(times.sent, now));
        }
    }

    /// Its ack came at `now`.
    pub fn ack(&mut self, times: Times, now: u64) {
        self.acked += 1;
        self.counted.acked += u64::from(self.window.has(now));
        if self.window.has(times.due) {
            self.ack.saturating_record(micros(times.due, now));
        }
    }

    /// It was refused for good.
    pub fn nack(&mut self, code: String) {
        count_kind(&mut self.nacked, code, 1);
    }

    /// A subscriber got an event at `now`.
    pub fn event(&mut self, now: u64) {
        self.events += 1;
        self.counted.events += u64::from(self.window.has(now));
    }

    /// Something that must not be.
    pub fn wrong(&mut self, what: String) {
        self.wrong += 1;
        self.first_wrong.get_or_insert(what);
    }

    /// A connection ended before its time.
    pub fn close(&mut self, why: String) {
        count_kind(&mut self.closed, why, 1);
    }

    /// Adds another thread's.
    pub fn add(&mut self, other: &Self) {
        let (mine, theirs) = (&mut self.counted, other.counted);
        mine.sent += theirs.sent;
        mine.predicted += theirs.predicted;
        mine.acked += theirs.acked;
        mine.events += theirs.events;
        self.sent += other.sent;
        self.predicted += other.predicted;
        self.calibrating += other.calibrating;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.acked += other.acked;
        self.shed += other.shed;
        self.gaps += other.gaps;
        self.events += other.events;
        self.dropped += other.dropped;
        self.wrong += other.wrong;
        self.unanswered += other.unanswered;
        self.unacked += other.unacked;
        self.cpu_s += other.cpu_s;
        if self.first_wrong.is_none() {
            self.first_wrong.clone_from(&other.first_wrong);
        }
        for (code, count) in &other.nacked {
            count_kind(&mut self.nacked, code.clone(), *count);
        }
        for (why, count) in &other.closed {
            count_kind(&mut self.closed, why.clone(), *count);
        }
        for (mine, theirs) in [
            (&mut self.prediction, &other.prediction),
            (&mut self.taken, &other.taken),
            (&mut self.ack, &other.ack),
        ] {
            mine.add(theirs).expect("all have the same bounds");
        }
    }

    /// Readings refused for good.
    pub fn nacked_total(&self) -> u64 {
        self.nacked.values().sum()
    }
}

/// What whoever watches a run sees of it, and may say to it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Connections that stand.
    pub connected: AtomicUsize,
    /// Of them: those that send and were not cut off.
    pub senders: AtomicUsize,
    /// Devices that sent their reading before the run.
    pub touched: AtomicUsize,
    /// Predictions so far.
    pub predicted: AtomicU64,
    /// Acks so far.
    pub acked: AtomicU64,
    /// Events so far.
    pub events: AtomicU64,
    /// Ends the run early: no reading leaves any more, what is on its way is awaited.
    pub stop: AtomicBool,
}

impl Progress {
    /// Whether the run is to end.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_counts_for_what_was_due_in_the_window_and_rates_for_what_came_in_it() {
        let mut counts = Counts::default();
        counts.set_window(Window {
            start: 0,
            from: 1_000_000,
            until: 2_000_000,
        });
        let times = |due| Times {
            due,
            sent: due + 100_000,
        };
        // Due before the window, answered in it; due in it, answered behind it.
        counts.predict(times(900_000), Kind::Answer, 1_500_000);
        counts.predict(times(1_900_000), Kind::Failed, 3_900_000);
        assert_eq!((counts.counted.predicted, counts.predicted), (1, 2));
        assert_eq!((counts.prediction.len(), counts.failed), (1, 1));
        assert_eq!(
            (counts.prediction.max() / 10, counts.taken.max() / 10),
            (200, 190)
        );
    }

    #[test]
    fn counts_of_threads_add_up_and_kinds_are_bounded() {
        let (mut one, mut other) = (Counts::default(), Counts::default());
        for kind in 0..100 {
            one.nack(format!("code {kind}"));
            other.close(format!("why {kind}"));
        }
        other.wrong("what".into());
        one.add(&other);
        assert_eq!((one.nacked_total(), one.nacked.len()), (100, 33));
        assert_eq!(one.closed.values().sum::<u64>(), 100);
        assert_eq!((one.wrong, one.first_wrong.as_deref()), (1, Some("what")));
    }
}
