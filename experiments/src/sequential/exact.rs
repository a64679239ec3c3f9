//! The exact 2x2 e-process: is a share the same in both arms, for fleets too small for an interval.
//!
//! Source: Turner, Ly and Grünwald (2021), "Generic E-variables for exact sequential k-sample tests that allow for optional stopping",
//! arXiv 2106.02693: the e-variable of a block of na and nb outcomes with th0 = (na thA + nb thB) / n, thetas from past blocks with a
//! Beta(0.18, 0.18) prior; a block is worth the product of p_thA(x) p_thB(y) / (p_th0(x) p_th0(y)). Valid for every block and every stopping time without any approximation: under a common
//! share the expected factor of a block is at most 1, and by Ville's inequality e ever reaches 1/a with probability at most a.
//!
//! Outcomes are taken in the order in which they come and cut into blocks of a size fixed before the start; what waits for its block is
//! one byte a device.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Prior counts of successes and of failures in each arm.
const PRIOR: f64 = 0.18;
/// Most outcomes of an arm in a block.
const MAX_BLOCK: u32 = 20;

/// The process for one challenger against the control.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exact {
    /// Outcomes of control and challenger in a block.
    block: [u32; 2],
    waiting: [VecDeque<bool>; 2],
    ones: [f64; 2],
    counted: [f64; 2],
    ln_e: f64,
    most: f64,
}

impl Exact {
    /// For arms with these shares of the devices; blocks are as near to them as 1 to 20 outcomes allow.
    pub fn new(control: f64, challenger: f64) -> Self {
        let least = control.min(challenger).max(f64::MIN_POSITIVE);
        let size = |share: f64| ((share / least).round() as u32).clamp(1, MAX_BLOCK);
        Self {
            block: [size(control), size(challenger)],
            waiting: [VecDeque::new(), VecDeque::new()],
            ones: [0.0; 2],
            counted: [0.0; 2],
            ln_e: 0.0,
            most: 0.0,
        }
    }

    /// Takes one device's outcome: `challenger` says whose.
    pub fn push(&mut self, challenger: bool, outcome: bool) {
        self.waiting[usize::from(challenger)].push_back(outcome);
        let full = |side: usize| self.waiting[side].len() >= self.block[side] as usize;
        if full(0) && full(1) {
            self.bet();
        }
    }

    /// One block: the thetas come from the past, then the block is learned.
    fn bet(&mut self) {
        let theta: [f64; 2] = std::array::from_fn(|side| {
            (self.ones[side] + PRIOR) / (self.counted[side] + 2.0 * PRIOR)
        });
        let sizes = self.block.map(f64::from);
        let common = (sizes[0] * theta[0] + sizes[1] * theta[1]) / (sizes[0] + sizes[1]);
        for side in 0..2 {
            let ones = self.waiting[side]
                .drain(..self.block[side] as usize)
                .filter(|outcome| *outcome)
                .count() as f64;
            let zeros = sizes[side] - ones;
            self.ln_e += ones * (theta[side] / common).ln();
            self.ln_e += zeros * ((1.0 - theta[side]) / (1.0 - common)).ln();
            self.ones[side] += ones;
            self.counted[side] += sizes[side];
        }
        self.most = self.most.max(self.ln_e);
    }

    /// The evidence now: an e-value.
    pub fn e_value(&self) -> f64 {
        self.ln_e.exp()
    }

    /// The always-valid p-value: 1 over the largest e so far.
    pub fn p_value(&self) -> f64 {
        (-self.most).exp().min(1.0)
    }

    /// Share of the challenger minus share of the control, over full blocks; none before the first.
    pub fn difference(&self) -> Option<f64> {
        (self.counted[0] > 0.0)
            .then(|| self.ones[1] / self.counted[1] - self.ones[0] / self.counted[0])
    }

    /// Devices in full blocks.
    pub fn units(&self) -> f64 {
        self.counted[0] + self.counted[1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two blocks by hand. First: thetas are equal, factor 1. Then thA = 1.18/1.36, thB = 0.18/1.36, th0 = 1/2, outcomes (1, 0): the factor is
    /// (1.18/1.36)/(1/2) squared.
    #[test]
    fn two_blocks_are_worth_what_a_hand_computes() {
        let mut process = Exact::new(0.5, 0.5);
        for _ in 0..2 {
            process.push(false, true);
            process.push(true, false);
        }
        let expected = (1.18_f64 / 1.36 / 0.5).powi(2);
        assert!((process.e_value() - expected).abs() < 1e-12);
        assert!((process.p_value() - 1.0 / expected).abs() < 1e-12);
        assert_eq!(process.difference(), Some(-1.0));
    }

    /// The factor of a block is an e-variable: its expectation under every common share is at most 1.
    #[test]
    fn the_expected_factor_is_at_most_one_under_every_common_share() {
        for (thetas, sizes) in [([0.2, 0.7], [1.0, 1.0]), ([0.9, 0.05], [3.0, 1.0])] {
            let common = (sizes[0] * thetas[0] + sizes[1] * thetas[1]) / (sizes[0] + sizes[1]);
            for step in 0..=20 {
                let p = f64::from(step) / 20.0;
                let mut expected = 1.0_f64;
                for (theta, size) in thetas.into_iter().zip(sizes) {
                    let one: f64 = p * theta / common + (1.0 - p) * (1.0 - theta) / (1.0 - common);
                    expected *= one.powf(size);
                }
                assert!(expected <= 1.0 + 1e-12, "{p}: {expected}");
            }
        }
    }

    #[test]
    fn a_block_waits_for_both_arms_and_follows_the_shares() {
        let mut process = Exact::new(0.9, 0.1);
        for _ in 0..8 {
            process.push(false, true);
        }
        process.push(true, true);
        assert!(process.difference().is_none());
        process.push(false, true);
        assert!((process.units() - 10.0).abs() < 1e-12);
    }

    #[test]
    fn a_large_difference_shows_with_thirty_devices_an_arm() {
        let mut process = Exact::new(0.5, 0.5);
        for i in 0..30 {
            process.push(false, i % 10 == 0);
            process.push(true, i % 10 != 0);
        }
        assert!(process.p_value() < 0.001, "{}", process.p_value());
    }
}
