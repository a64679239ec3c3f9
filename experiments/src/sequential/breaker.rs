//! The deterministic breaker: a version that plainly does not work is stopped at once, without statistics.
//!
//! Failed outputs, nacks, missing predictions, answers over the latency budget: a share over a limit within a sliding window, counted in
//! readings, needs no hundred devices and no horizon. It compares with the control as well, so that a fault that hits both arms (a full
//! disk, a slow network) does not roll back a version that has no part in it. Time is what the caller says (ms); it may not go back by more
//! than the window. 60 buckets of counts an arm.

use serde::{Deserialize, Serialize};

/// Slices of the window.
const SLICES: usize = 60;
/// Kinds of fault.
const KINDS: usize = 4;

/// What can go wrong with a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The step failed: a panic, an output that is not finite.
    FailedOutput,
    /// The reading was refused.
    Nack,
    /// No prediction came.
    MissingPrediction,
    /// The answer took longer than the budget.
    OverBudget,
}

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// Of which fault.
    pub fault: Fault,
    /// Share of the window's readings that is too much, in 0..1.
    pub share: f64,
    /// Readings that the window must hold first.
    pub at_least: u64,
    /// The control's share must be lower by this much.
    pub above_control: f64,
}

impl Limit {
    /// The defaults: a fault in 5% of at least 100 readings (latency: 20%), and half of that more than in the control.
    pub fn defaults() -> [Self; KINDS] {
        let limit = |fault, share: f64| Self {
            fault,
            share,
            at_least: 100,
            above_control: share / 2.0,
        };
        [
            limit(Fault::FailedOutput, 0.05),
            limit(Fault::Nack, 0.05),
            limit(Fault::MissingPrediction, 0.05),
            limit(Fault::OverBudget, 0.20),
        ]
    }
}

/// Why it stopped, in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tripped {
    /// Which arm.
    pub arm: usize,
    /// What was too much.
    pub limit: Limit,
    /// Share of the arm's readings in the window.
    pub share: f64,
    /// Readings of the arm in the window.
    pub readings: u64,
    /// The control's share in the same window; none if it had no readings.
    pub control: Option<f64>,
}

impl std::fmt::Display for Tripped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.limit.fault {
            Fault::FailedOutput => "outputs failed",
            Fault::Nack => "readings were refused",
            Fault::MissingPrediction => "predictions are missing",
            Fault::OverBudget => "answers came over the latency budget",
        };
        let (share, readings, allowed) =
            (self.share * 100.0, self.readings, self.limit.share * 100.0);
        write!(
            f,
            "{share:.1}% of {readings} {what} in arm {} (limit {allowed:.1}%",
            self.arm
        )?;
        match self.control {
            Some(control) => write!(f, "; control {:.1}%)", control * 100.0),
            None => write!(f, ")"),
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Slice {
    /// Which slice of time this is; an older one is void.
    index: u64,
    readings: u64,
    faults: [u64; KINDS],
}

/// The windows of all arms.
#[derive(Debug, Clone)]
pub struct Breaker {
    limits: Vec<Limit>,
    slice_ms: u64,
    arms: Vec<[Slice; SLICES]>,
}

impl Breaker {
    /// For `arms` arms with a window of `window_ms`.
    pub fn new(limits: &[Limit], arms: usize, window_ms: u64) -> Self {
        Self {
            limits: limits.to_vec(),
            slice_ms: (window_ms / SLICES as u64).max(1),
            arms: vec![[Slice::default(); SLICES]; arms],
        }
    }

    /// Counts a reading of an arm with what went wrong with it.
    pub fn count(&mut self, arm: usize, faults: &[Fault], now_ms: u64) {
        let index = now_ms / self.slice_ms;
        let slice = &mut self.arms[arm][(index % SLICES as u64) as usize];
        if index > slice.index {
            *slice = Slice {
                index,
                ..Slice::default()
            };
        }
        slice.readings += 1;
        for fault in faults {
            slice.faults[*fault as usize] += 1;
        }
    }

    /// The first limit that an arm other than the control is over.
    pub fn tripped(&self, now_ms: u64) -> Option<Tripped> {
        let control = self.window(0, now_ms);
        (1..self.arms.len()).find_map(|arm| {
            let window = self.window(arm, now_ms);
            let trips = |limit: &&Limit| over(limit, &window, &control);
            let limit = self.limits.iter().find(trips)?;
            Some(Tripped {
                arm,
                limit: *limit,
                share: share(&window, limit.fault)?,
                readings: window.readings,
                control: share(&control, limit.fault),
            })
        })
    }

    fn window(&self, arm: usize, now_ms: u64) -> Slice {
        let now = now_ms / self.slice_ms;
        let live = |slice: &&Slice| slice.index + SLICES as u64 > now;
        let mut sum = Slice::default();
        for slice in self.arms[arm].iter().filter(live) {
            sum.readings += slice.readings;
            for (total, n) in sum.faults.iter_mut().zip(slice.faults) {
                *total += n;
            }
        }
        sum
    }
}

fn share(window: &Slice, fault: Fault) -> Option<f64> {
    (window.readings > 0).then(|| window.faults[fault as usize] as f64 / window.readings as f64)
}

fn over(limit: &Limit, window: &Slice, control: &Slice) -> bool {
    let Some(bad) = share(window, limit.fault) else {
        return false;
    };
    let beyond = share(control, limit.fault).is_none_or(|c| bad > c + limit.above_control);
    window.readings >= limit.at_least && bad > limit.share && beyond
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(&Limit::defaults(), 2, 60_000)
    }

    #[test]
    fn a_version_that_fails_is_stopped_after_a_hundred_readings() {
        let mut breaker = breaker();
        for i in 0..100 {
            assert_eq!(breaker.tripped(i), None);
            breaker.count(0, &[], i);
            breaker.count(1, &[Fault::FailedOutput], i);
        }
        let tripped = breaker.tripped(100).unwrap();
        assert_eq!(
            tripped.to_string(),
            "100.0% of 100 outputs failed in arm 1 (limit 5.0%; control 0.0%)"
        );
    }

    #[test]
    fn a_fault_of_both_arms_is_no_reason_to_roll_back() {
        let mut breaker = breaker();
        for i in 0..1_000 {
            for arm in 0..2 {
                let faults: &[Fault] = if i % 4 == 0 {
                    &[Fault::OverBudget]
                } else {
                    &[]
                };
                breaker.count(arm, faults, i);
            }
        }
        assert_eq!(breaker.tripped(1_000), None);
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let mut breaker = breaker();
        for _ in 0..200 {
            breaker.count(1, &[Fault::Nack], 1_000);
        }
        assert!(breaker.tripped(2_000).is_some());
        assert_eq!(breaker.tripped(62_000), None);
        // A slot that is used again holds nothing of the minute before.
        breaker.count(1, &[], 61_500);
        assert_eq!(breaker.tripped(61_500), None);
    }
}
