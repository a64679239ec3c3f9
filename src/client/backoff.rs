//! When to come back after a cut: doubling waits with jitter, up to a limit of patience.
//!
//! Pure: the clock and the dice are arguments. The server's `retry_after_ms` is a floor, never shortened.

use std::time::{Duration, Instant};

/// First wait.
const BASE: Duration = Duration::from_millis(100);
/// Longest wait of its own choosing.
const LONGEST: Duration = Duration::from_secs(5);

/// Waits between tries, and how long tries go on without success.
#[derive(Debug)]
pub struct Backoff {
    tries: u32,
    failing_since: Option<Instant>,
    give_up_after: Duration,
}

impl Backoff {
    /// Starts with full patience.
    pub fn new(give_up_after: Duration) -> Self {
        Self {
            tries: 0,
            failing_since: None,
            give_up_after,
        }
    }

    /// It works again: patience and waits start over.
    pub fn heard(&mut self) {
        self.tries = 0;
        self.failing_since = None;
    }

    /// How long it has been failing.
    pub fn failing(&self, now: Instant) -> Duration {
        self.failing_since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// How long to wait before the next try, or `None` when patience is over.
    ///
    /// `dice` in 0..=1 spreads a fleet that was cut at once: the wait is between half and all of the doubled step. `at_least`
    /// is what the server asked for.
    pub fn next(
        &mut self,
        now: Instant,
        dice: f64,
        at_least: Option<Duration>,
    ) -> Option<Duration> {
        let step = BASE.saturating_mul(1 << self.tries.min(10)).min(LONGEST);
        let floor = at_least.unwrap_or_default();
        let wait = floor + step.mul_f64(0.5 + dice.clamp(0.0, 1.0) / 2.0);
        self.tries += 1;
        self.failing_since.get_or_insert(now);
        (self.failing(now) + wait <= self.give_up_after).then_some(wait)
    }
}

/// A number in 0..1 from the system's randomness, good enough to spread tries.
pub fn dice() -> f64 {
    use std::hash::{BuildHasher, Hasher};
    let bits = std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish();
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_start_over_when_heard() {
        let now = Instant::now();
        let mut backoff = Backoff::new(Duration::from_secs(60));
        let mut waits = Vec::new();
        for _ in 0..8 {
            waits.push(backoff.next(now, 1.0, None).unwrap().as_millis());
        }
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.heard();
        assert_eq!(backoff.next(now, 0.0, None).unwrap().as_millis(), 50);
    }

    #[test]
    fn the_servers_wish_is_a_floor() {
        let now = Instant::now();
        let mut backoff = Backoff::new(Duration::from_secs(60));
        let wish = Duration::from_secs(7);
        assert!(backoff.next(now, 0.0, Some(wish)).unwrap() >= wish);
    }

    #[test]
    fn patience_ends() {
        let start = Instant::now();
        let mut backoff = Backoff::new(Duration::from_secs(2));
        assert!(backoff.next(start, 0.5, None).is_some());
        assert!(
            backoff
                .next(start + Duration::from_secs(2), 0.5, None)
                .is_none()
        );
        assert!(
            backoff
                .next(start, 0.5, Some(Duration::from_secs(9)))
                .is_none()
        );
    }

    #[test]
    fn dice_stay_between_zero_and_one() {
        assert!(
            (0..100)
                .map(|_| dice())
                .all(|dice| (0.0..1.0).contains(&dice))
        );
    }
}
