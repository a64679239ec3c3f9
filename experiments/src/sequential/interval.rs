//! The anytime-valid confidence sequence: an interval for a difference that holds at all looks together.
//!
//! Sources: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2021), "Time-uniform central limit theory and asymptotic confidence
//! sequences", arXiv 2103.06476: the Gaussian-mixture sequence (two-sided), its one-sided form, the choice of rho, and the Lyapunov-type
//! sequence for means that move; in the notation of GrowthBook's sequential tests. With d the difference, se its standard
//! error, N the units behind it, K = N rho^2 + 1:
//!
//! - two-sided half-width: se sqrt(2 K / (N rho^2) ln(sqrt(K) / a)); p = min(1, sqrt(K) exp(-N rho^2 d^2 / (2 se^2 K)));
//! - one-sided half-width, rho for 2a: se sqrt(2 K / (N rho^2) ln(1 + sqrt(K) / (2a)));
//! - rho = sqrt((-2 ln a + ln(1 - 2 ln a)) / N*), N* fixed before the start: where the interval is tightest.
//!
//! It is asymptotic: not to be read before some 100 units an arm ([`crate::plan::Plan::min_devices`]).

use serde::{Deserialize, Serialize};

/// A difference, challenger minus control.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The difference.
    pub value: f64,
    /// Its standard error.
    pub se: f64,
    /// Units (devices, blocks) behind it.
    pub units: f64,
}

impl Difference {
    /// Of two arms with independent devices.
    pub fn between(
        control: &crate::metric::Estimate,
        challenger: &crate::metric::Estimate,
    ) -> Self {
        let part = |arm: &crate::metric::Estimate| arm.variance / arm.devices as f64;
        Self {
            value: challenger.value - control.value,
            se: (part(control) + part(challenger)).sqrt(),
            units: (control.devices + challenger.devices) as f64,
        }
    }
}

/// The parameters of a sequence, fixed before the start.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Tuning {
    alpha: f64,
    rho_squared: f64,
    one_sided: bool,
}

impl Tuning {
    /// Two-sided at error `alpha`, tightest at `units`.
    pub fn two_sided(alpha: f64, units: f64) -> Self {
        Self {
            alpha,
            rho_squared: rho_squared(alpha, units),
            one_sided: false,
        }
    }

    /// One-sided at error `alpha`, tightest at `units`.
    pub fn one_sided(alpha: f64, units: f64) -> Self {
        Self {
            alpha,
            rho_squared: rho_squared(2.0 * alpha, units),
            one_sided: true,
        }
    }

    /// The error it may make.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// Half-width in standard errors after `units`.
    #[inline]
    pub fn half_width(&self, units: f64) -> f64 {
        let nr = units * self.rho_squared;
        let k = nr + 1.0;
        let inner = if self.one_sided {
            (k.sqrt() / (2.0 * self.alpha)).ln_1p()
        } else {
            (k.sqrt() / self.alpha).ln()
        };
        (2.0 * k / nr * inner).sqrt()
    }

    /// The p-value at this look alone; a sequence keeps the least of them. One-sided: for a difference above 0.
    pub fn p_value(&self, difference: &Difference) -> f64 {
        if difference.se <= 0.0 || difference.units <= 0.0 {
            return 1.0;
        }
        let nr = difference.units * self.rho_squared;
        let k = nr + 1.0;
        let z = difference.value / difference.se;
        let x = nr * z * z / (2.0 * k);
        if !self.one_sided {
            return (k.sqrt() * (-x).exp()).min(1.0);
        }
        if z <= 0.0 {
            return 1.0;
        }
        (k.sqrt() / (2.0 * x.exp_m1())).min(1.0)
    }

    /// Units needed until a difference of `effect` with a variance of `variance` a unit (se^2 times units) shows, if it stays as it is; none
    /// when 1e12 do not suffice.
    pub fn units_needed(&self, effect: f64, variance: f64) -> Option<f64> {
        let shows = |units: f64| self.half_width(units) * (variance / units).sqrt() < effect;
        if !(effect > 0.0 && variance >= 0.0 && shows(1e12)) {
            return None;
        }
        Some(crate::special::bisect(1.0, 1e12, shows).ceil())
    }
}

/// rho squared of the error `alpha`, tightest at `units`.
pub fn rho_squared(alpha: f64, units: f64) -> f64 {
    let l = -2.0 * alpha.ln();
    (l + l.ln_1p()) / units
}

/// The sequence so far: the intersection of all intervals, and the least p-value.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sequence {
    /// What every interval so far contains: from here ...
    #[serde(with = "below")]
    pub lower: f64,
    /// ... to here. Below `lower` when no value fits all looks: the difference itself has moved.
    #[serde(with = "above")]
    pub upper: f64,
    /// The least p-value of all looks; always valid.
    pub p: f64,
    /// Looks that changed something.
    pub looks: u64,
}

/// JSON has no infinity: a side on which nothing is known is written as null.
macro_rules! unbounded {
    ($name:ident, $nothing:expr) => {
        mod $name {
            use serde::{Deserialize, Deserializer, Serialize, Serializer};

            pub(super) fn serialize<S: Serializer>(x: &f64, to: S) -> Result<S::Ok, S::Error> {
                x.is_finite().then_some(*x).serialize(to)
            }

            pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
                Ok(Option::deserialize(from)?.unwrap_or($nothing))
            }
        }
    };
}
unbounded!(below, f64::NEG_INFINITY);
unbounded!(above, f64::INFINITY);

impl Default for Sequence {
    fn default() -> Self {
        Self {
            lower: f64::NEG_INFINITY,
            upper: f64::INFINITY,
            p: 1.0,
            looks: 0,
        }
    }
}

impl Sequence {
    /// Takes a look. A standard error of 0 tells nothing yet (nobody has differed from anybody) and is passed over.
    pub fn look(&mut self, tuning: &Tuning, difference: &Difference) {
        let usable = difference.se > 0.0 && difference.se.is_finite() && difference.units > 0.0;
        if !usable || !difference.value.is_finite() {
            return;
        }
        let half = tuning.half_width(difference.units) * difference.se;
        self.lower = self.lower.max(difference.value - half);
        if !tuning.one_sided {
            self.upper = self.upper.min(difference.value + half);
        }
        self.p = self.p.min(tuning.p_value(difference));
        self.looks += 1;
    }

    /// Whether no value fits all looks.
    pub fn contradicts_itself(&self) -> bool {
        self.lower > self.upper
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand for a = 0.05, N* = 5000, N = 10,000: rho^2 = (5.99146 + ln 6.99146) / 5000 = 0.00158725, K = 16.8725, width sqrt(2 * 16.8725 /
    /// 15.8725 * ln(4.10762 / 0.05)) = 3.0617.
    #[test]
    fn the_width_is_the_one_computed_by_hand() {
        let tuning = Tuning::two_sided(0.05, 5000.0);
        assert!((tuning.rho_squared - 0.001_587_25).abs() < 1e-7);
        assert!(
            (tuning.half_width(10_000.0) - 3.061_7).abs() < 2e-3,
            "{}",
            tuning.half_width(10_000.0)
        );
    }

    #[test]
    fn the_p_value_is_alpha_where_the_interval_touches_zero() {
        for tuning in [
            Tuning::two_sided(0.05, 5000.0),
            Tuning::one_sided(0.05, 5000.0),
        ] {
            for units in [200.0, 5_000.0, 1e6] {
                let value = tuning.half_width(units) * 0.3;
                let p = tuning.p_value(&Difference {
                    value,
                    se: 0.3,
                    units,
                });
                assert!((p - 0.05).abs() < 1e-12, "{p}");
            }
        }
    }

    #[test]
    fn the_interval_is_wider_than_a_plain_one_and_one_sided_is_narrower() {
        let two = Tuning::two_sided(0.05, 5000.0);
        let one = Tuning::one_sided(0.05, 5000.0);
        for units in [100.0, 5_000.0, 100_000.0] {
            assert!(two.half_width(units) > 1.96);
            assert!(one.half_width(units) > 1.645 && one.half_width(units) < two.half_width(units));
        }
    }

    #[test]
    fn the_units_needed_are_where_the_effect_begins_to_show() {
        let tuning = Tuning::two_sided(0.05, 5000.0);
        let needed = tuning.units_needed(0.04, 0.68).unwrap();
        let shows = |units: f64| tuning.half_width(units) * (0.68 / units).sqrt() < 0.04;
        assert!(shows(needed) && !shows(needed - 1.0), "{needed}");
        assert_eq!(tuning.units_needed(0.0, 0.68), None);
    }

    #[test]
    fn a_sequence_never_forgets_and_a_zero_error_says_nothing() {
        let tuning = Tuning::two_sided(0.05, 5000.0);
        let mut sequence = Sequence::default();
        sequence.look(
            &tuning,
            &Difference {
                value: 1.0,
                se: 0.0,
                units: 200.0,
            },
        );
        assert_eq!(sequence, Sequence::default());
        sequence.look(
            &tuning,
            &Difference {
                value: 1.0,
                se: 0.1,
                units: 5000.0,
            },
        );
        let first = sequence;
        sequence.look(
            &tuning,
            &Difference {
                value: 0.0,
                se: 1.0,
                units: 5000.0,
            },
        );
        assert!(
            sequence.p <= first.p && sequence.lower >= first.lower && sequence.upper <= first.upper
        );
        sequence.look(
            &tuning,
            &Difference {
                value: -5.0,
                se: 0.1,
                units: 5000.0,
            },
        );
        assert!(sequence.contradicts_itself());
    }
}
