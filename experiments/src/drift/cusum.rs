//! CUSUM: a sum that a small lasting shift drives up, and chance does not; with a limit chosen by how rarely it may alarm falsely.
//!
//! Sources: Page (1954), "Continuous inspection schemes": S = max(0, S + z - k), alarm at S > h, on both sides; Siegmund (1985), *Sequential
//! Analysis*, for the expected run length to a false alarm of one side: (exp(2 k b) - 2 k b - 1) / (2 k^2), b = h + 1.166. With k = 1/2:
//! h = 5 alarms every 938 readings, 10 every 1.4e5, 14 every 7.7e6. A fleet of 10,000 devices with 5 features at 1 Hz reads 50,000 values
//! a second; its limit is chosen by the run length of the fleet ([`limit`]).
//!
//! z is a residual over its standard deviation in the reference, independent of the one before; one wild reading counts at most [`CLAMP`], so
//! it cannot alarm alone. Missing values change nothing.

use serde::{Deserialize, Serialize};

/// A reading counts for at most this many standard deviations.
pub const CLAMP: f64 = 4.0;
/// Siegmund's correction for the overshoot over the limit.
const OVERSHOOT: f64 = 1.166;

/// Both sums of one series: 40 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cusum {
    k: f64,
    high: f64,
    low: f64,
    /// Largest of both sums since the last reset.
    most: f64,
    readings: u64,
}

impl Cusum {
    /// Looks first for a shift of `2 k` standard deviations; 0.5 is customary.
    pub fn new(k: f64) -> Self {
        Self {
            k: k.clamp(0.05, 2.0),
            high: 0.0,
            low: 0.0,
            most: 0.0,
            readings: 0,
        }
    }

    /// Adds a reading; gives the larger of the two sums.
    #[inline]
    pub fn push(&mut self, z: f64) -> f64 {
        if z.is_nan() {
            return self.level();
        }
        let z = z.clamp(-CLAMP, CLAMP);
        self.high = (self.high + z - self.k).max(0.0);
        self.low = (self.low - z - self.k).max(0.0);
        self.readings += 1;
        self.most = self.most.max(self.level());
        self.level()
    }

    /// The larger of the two sums.
    pub fn level(&self) -> f64 {
        self.high.max(self.low)
    }

    /// Whether what it sees is a rise.
    pub fn rises(&self) -> bool {
        self.high >= self.low
    }

    /// The probability that a series without a shift gets as high as this one has in as many readings: what [`super::fleet`] orders by.
    pub fn p_value(&self) -> f64 {
        if self.readings == 0 {
            return 1.0;
        }
        let expected = self.readings as f64 / (run_length(self.most, self.k) / 2.0);
        -(-expected).exp_m1()
    }

    /// Begins anew, after an alarm was taken note of.
    pub fn reset(&mut self) {
        *self = Self::new(self.k);
    }
}

/// Readings until one side falsely exceeds `h`, on average.
pub fn run_length(h: f64, k: f64) -> f64 {
    let x = 2.0 * k * (h + OVERSHOOT);
    (x.exp_m1() - x) / (2.0 * k * k)
}

/// The least limit at which `series` two-sided sums together alarm falsely every `readings` readings of each at most.
///
/// 10,000 devices with 5 features at 1 Hz and one false alarm a day: `limit(0.5, 86_400.0, 50_000.0)` is 21.0.
pub fn limit(k: f64, readings: f64, series: f64) -> f64 {
    let wanted = 2.0 * readings.max(1.0) * series.max(1.0);
    crate::special::bisect(0.0, 700.0 / (2.0 * k), |h| run_length(h, k) >= wanted)
}

/// Errors over time, from feedback: blocks of labels as z-scores of their error rate, for a [`Cusum`].
///
/// Single yes-or-no errors are too skewed for a normal limit when they are rare; a block of `size` labels is not (the central limit theorem).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ErrorRate {
    rate: f64,
    size: u32,
    errors: u32,
    labels: u32,
    /// The sums over blocks.
    pub cusum: Cusum,
}

impl ErrorRate {
    /// `rate` is the reference's error rate; a block holds enough labels for ten expected errors and ten expected right answers, 20 to 2,000.
    pub fn new(rate: f64) -> Self {
        let rate = rate.clamp(0.005, 0.995);
        let size = (10.0 / rate.min(1.0 - rate)).ceil() as u32;
        Self {
            rate,
            size: size.clamp(20, 2_000),
            errors: 0,
            labels: 0,
            cusum: Cusum::new(0.5),
        }
    }

    /// Adds a label; gives the level when a block is full.
    pub fn push(&mut self, wrong: bool) -> Option<f64> {
        self.errors += u32::from(wrong);
        self.labels += 1;
        if self.labels < self.size {
            return None;
        }
        let n = f64::from(self.size);
        let z =
            (f64::from(self.errors) / n - self.rate) / (self.rate * (1.0 - self.rate) / n).sqrt();
        (self.errors, self.labels) = (0, 0);
        Some(self.cusum.push(z))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn run_lengths_are_those_of_the_formula() {
        for (h, expected) in [(5.0, 938.2), (10.0, 1.4e5), (14.0, 7.7e6)] {
            let length = run_length(h, 0.5);
            assert!((length / expected - 1.0).abs() < 0.02, "{h}: {length}");
        }
        let fleet = limit(0.5, 86_400.0, 50_000.0);
        assert!((fleet - 21.0).abs() < 0.1, "{fleet}");
        assert!(run_length(fleet, 0.5) >= 2.0 * 86_400.0 * 50_000.0 * 0.999);
    }

    /// Both sides together: half of 938.
    #[test]
    fn a_simulation_alarms_as_rarely_as_the_formula_says() {
        let mut rng = Rng::new(3);
        let (mut alarms, mut readings) = (0_u32, 0_u32);
        let mut cusum = Cusum::new(0.5);
        while readings < 1_000_000 {
            readings += 1;
            if cusum.push(rng.normal()) > 5.0 {
                alarms += 1;
                cusum.reset();
            }
        }
        let length = f64::from(readings) / f64::from(alarms);
        assert!((430.0..510.0).contains(&length), "{length}");
    }

    #[test]
    fn a_lasting_shift_is_seen_within_thirty_readings_and_its_side_is_known() {
        for side in [1.0, -1.0] {
            let mut rng = Rng::new(4);
            let mut cusum = Cusum::new(0.5);
            let seen = (0..100).find(|_| cusum.push(side * 1.2 + rng.normal()) > 10.0);
            assert!(seen.is_some_and(|n| n < 30), "{seen:?}");
            assert_eq!(cusum.rises(), side > 0.0);
            assert!(cusum.p_value() < 1e-3);
        }
    }

    #[test]
    fn one_wild_reading_and_missing_ones_alarm_nobody() {
        let mut cusum = Cusum::new(0.5);
        assert!(cusum.push(1e30) <= CLAMP);
        assert_eq!(cusum.push(f64::NAN), cusum.level());
        assert!(Cusum::new(0.5).p_value() >= 1.0);
    }

    #[test]
    fn an_error_rate_that_doubles_is_seen_and_one_that_stays_is_not() {
        for (rate, expected) in [(0.05, false), (0.10, true)] {
            let mut rng = Rng::new(5);
            let mut errors = ErrorRate::new(0.05);
            let limit = limit(0.5, 1e4, 1.0);
            let seen =
                (0..40_000).any(|_| errors.push(rng.chance(rate)).is_some_and(|s| s > limit));
            assert_eq!(seen, expected);
        }
    }
}
