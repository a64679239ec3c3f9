//! Tests that may be looked at after every device, for ever, and keep their error.
//!
//! [`interval`] is the confidence sequence for a difference, two-sided and one-sided; [`exact`] the e-process for small fleets and yes-or-no
//! outcomes; [`srm`] the test that the split is what it should be; [`breaker`] the rules that need no statistics. A plain test read at every
//! look rejects a true null in a third of the cases (`simulate` shows it); these do so at most as often as `alpha` says.

pub mod breaker;
pub mod exact;
pub mod interval;
pub mod srm;

/// The error that each comparison with the control may make, so that all together make at most `alpha` (Bonferroni).
pub fn per_comparison(alpha: f64, arms: usize) -> f64 {
    alpha / arms.saturating_sub(1).max(1) as f64
}
