//! Sample-ratio mismatch: are the devices in the arms in the shares that were asked for.
//!
//! A broken split makes every other number meaningless, so it is tested first and stops the verdict. Live, after every device: the
//! Dirichlet-multinomial Bayes factor of Lindon and Malek (2020), "Anytime-valid inference for multinomial count data", arXiv 2011.03567,
//! with the prior Dirichlet(c shares), c = 100: a martingale under the asked shares, so it ever reaches 1/a with probability at most a.
//! Once, at the decision: Pearson's chi-square (1900). A ramp ends one phase and begins the next; the factors of phases multiply.

use crate::special::{chi2_upper, ln_gamma};
use serde::{Deserialize, Serialize};

/// Prior devices: the larger, the smaller the deviation it looks for first.
const CONCENTRATION: f64 = 100.0;

/// The log factor of what cannot happen: its p-value is 0, and unlike infinity it can be written as JSON.
const BEYOND_DOUBT: f64 = 1e6;

/// The test of one experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Srm {
    shares: Vec<f64>,
    counts: Vec<u64>,
    /// Chi-square and degrees of freedom of earlier phases.
    past_chi2: f64,
    past_df: f64,
    /// Log Bayes factor of the phase, kept as counts come; and of earlier phases.
    ln_factor: f64,
    ln_past: f64,
    most: f64,
}

impl Srm {
    /// For arms with these shares, which sum to 1. An arm without share gets no devices.
    pub fn new(shares: &[f64]) -> Self {
        Self {
            shares: shares.to_vec(),
            counts: vec![0; shares.len()],
            past_chi2: 0.0,
            past_df: 0.0,
            ln_factor: 0.0,
            ln_past: 0.0,
            most: 0.0,
        }
    }

    /// Counts one draw. The factor of a draw is the Dirichlet's predictive share over the asked one.
    #[inline]
    pub fn push(&mut self, arm: usize) {
        let n = self.counts.iter().sum::<u64>() as f64;
        let share = self.shares[arm];
        let seen = self.counts[arm] as f64;
        self.counts[arm] += 1;
        // An arm that cannot be drawn was drawn: the split is broken beyond doubt.
        self.ln_factor += if share > 0.0 {
            ((CONCENTRATION * share + seen) / ((CONCENTRATION + n) * share)).ln()
        } else {
            BEYOND_DOUBT
        };
        self.most = self.most.max(self.ln_past + self.ln_factor);
    }

    /// Begins the next phase with other shares.
    pub fn reweigh(&mut self, shares: &[f64]) {
        let (chi2, df) = self.phase();
        self.past_chi2 += chi2;
        self.past_df += df;
        self.ln_past += self.ln_factor;
        self.ln_factor = 0.0;
        self.shares = shares.to_vec();
        self.counts = vec![0; shares.len()];
    }

    /// The always-valid p-value of the live test.
    pub fn p_live(&self) -> f64 {
        (-self.most).exp().min(1.0)
    }

    /// Pearson's p-value now; to be read once, at the decision.
    pub fn p_once(&self) -> f64 {
        let (chi2, df) = self.phase();
        let df = df + self.past_df;
        if df > 0.0 {
            chi2_upper(chi2 + self.past_chi2, df)
        } else {
            1.0
        }
    }

    /// Devices drawn into each arm in this phase.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Shares asked for in this phase.
    pub fn shares(&self) -> &[f64] {
        &self.shares
    }

    /// Chi-square and its degrees of freedom in this phase; nothing while an arm expects fewer than 5 devices.
    fn phase(&self) -> (f64, f64) {
        let n = self.counts.iter().sum::<u64>() as f64;
        let drawn: Vec<(f64, f64)> = self
            .counts
            .iter()
            .zip(&self.shares)
            .filter(|(_, share)| **share > 0.0)
            .map(|(count, share)| (*count as f64, share * n))
            .collect();
        if drawn.iter().any(|(_, expected)| *expected < 5.0) {
            return (0.0, 0.0);
        }
        let chi2 = drawn.iter().map(|(n, e)| (n - e).powi(2) / e).sum();
        (chi2, drawn.len().saturating_sub(1) as f64)
    }
}

/// The Bayes factor in closed form, from counts alone; what [`Srm`] keeps step by step.
pub fn ln_bayes_factor(counts: &[u64], shares: &[f64]) -> f64 {
    let n = counts.iter().sum::<u64>() as f64;
    let arms = counts.iter().zip(shares).map(|(count, share)| {
        let prior = CONCENTRATION * share;
        let count = *count as f64;
        ln_gamma(prior + count) - ln_gamma(prior) - count * share.ln()
    });
    ln_gamma(CONCENTRATION) - ln_gamma(CONCENTRATION + n) + arms.sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn step_by_step_is_the_closed_form() {
        let shares = [0.5, 0.3, 0.2];
        let mut rng = Rng::new(5);
        let mut srm = Srm::new(&shares);
        for _ in 0..3_000 {
            srm.push(rng.choose(&shares));
        }
        let closed = ln_bayes_factor(srm.counts(), &shares);
        assert!(
            (srm.ln_factor - closed).abs() < 1e-8,
            "{} {closed}",
            srm.ln_factor
        );
    }

    /// 5,300 to 4,700 is chi-square 36: p = 2e-9.
    #[test]
    fn a_broken_split_is_seen_live_and_at_the_decision() {
        let mut srm = Srm::new(&[0.5, 0.5]);
        for i in 0..10_000_u32 {
            srm.push(usize::from(i % 100 >= 53));
        }
        assert!(srm.p_live() < 0.001, "{}", srm.p_live());
        assert!(srm.p_once() < 1e-8, "{}", srm.p_once());
    }

    #[test]
    fn peeking_at_every_device_raises_hardly_any_false_alarm() {
        let mut alarms = 0;
        for world in 0..1_000 {
            let mut rng = Rng::part(9, world);
            let mut srm = Srm::new(&[0.9, 0.1]);
            for _ in 0..2_000 {
                srm.push(usize::from(rng.chance(0.1)));
            }
            alarms += u32::from(srm.p_live() < 0.001);
        }
        assert!(alarms <= 5, "{alarms}");
    }

    #[test]
    fn a_ramp_keeps_the_evidence_of_earlier_phases() {
        let mut srm = Srm::new(&[0.5, 0.5]);
        for _ in 0..200 {
            srm.push(0);
        }
        let before = srm.p_live();
        srm.reweigh(&[0.2, 0.8]);
        assert!(srm.p_live() <= before && srm.p_once() < 1e-9);
        for i in 0..1_000 {
            srm.push(usize::from(i % 5 > 0));
        }
        assert!(srm.p_live() <= before);
    }

    #[test]
    fn a_device_in_an_arm_without_share_is_a_broken_split() {
        let mut srm = Srm::new(&[1.0, 0.0]);
        srm.push(0);
        assert!(srm.p_live() > 0.9);
        srm.push(1);
        assert_eq!(srm.p_live(), 0.0);
    }
}
