//! Two versions on the same readings (a shadow): one difference a block of time, analysed as a martingale.
//!
//! In a shadow both versions see every reading, so there is nothing to assign and no device to wait for. The readings of one block, over all
//! devices, give one difference; its error comes from the spread of the blocks. Differences may drift and depend on the past: the sequence
//! covers the running mean of their conditional expectations (Waudby-Smith et al., arXiv 2103.06476, the Lyapunov-type sequence for
//! means that move). Blocks must be long enough for the autocorrelation of the readings to die out within them.
//!
//! Only for pairs, or for a split that is drawn anew for every block. With a sticky split the same devices stand on the same side in every
//! block, and what sets them apart would be taken for an effect; `simulate` shows that false alarm, and [`crate::analysis`] is for it.

use crate::metric::{Metric, Moments, Role};
use crate::sequential::interval::{Difference, Sequence, Tuning};
use crate::verdict::Verdict;
use serde::{Deserialize, Serialize};

/// The sums of one block that is not over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Block {
    index: u64,
    control: f64,
    challenger: f64,
    readings: f64,
}

/// A shadow's comparison in one metric (a mean over readings; y of both versions, n the same).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Blocks {
    metric: Metric,
    tuning: Tuning,
    block_ms: u64,
    least: u64,
    open: Block,
    differences: Moments,
    sequence: Sequence,
}

/// What a shadow's numbers say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// In words.
    pub verdict: Verdict,
    /// Challenger minus control a reading, averaged over blocks; none before two blocks.
    pub difference: Option<Difference>,
    /// The interval over all looks, turned so that above 0 is good.
    pub sequence: Sequence,
    /// Blocks that are over.
    pub blocks: u64,
    /// Blocks needed in all, if things stay as they are; none when the difference is too small.
    pub blocks_needed: Option<u64>,
}

impl Blocks {
    /// Blocks of `block_ms`, error `alpha`, tightest at `planned` blocks, read from `least` blocks on.
    pub fn new(metric: Metric, block_ms: u64, alpha: f64, planned: f64, least: u64) -> Self {
        let tuning = match metric.role {
            Role::Guardrail => Tuning::one_sided(alpha, planned),
            Role::Primary | Role::Secondary => Tuning::two_sided(alpha, planned),
        };
        Self {
            metric,
            tuning,
            block_ms: block_ms.max(1),
            least: least.max(2),
            open: Block::default(),
            differences: Moments::default(),
            sequence: Sequence::default(),
        }
    }

    /// Adds what both versions contribute for one reading that arrived at `at_ms`. A reading of a block that is over counts for the open one.
    pub fn tally(&mut self, control: f64, challenger: f64, at_ms: u64) {
        self.advance(at_ms);
        if control.is_finite() && challenger.is_finite() {
            self.open.control += control;
            self.open.challenger += challenger;
            self.open.readings += 1.0;
        }
    }

    /// Closes the block if its time is over; true if it did and there was something in it.
    pub fn advance(&mut self, now_ms: u64) -> bool {
        let index = now_ms / self.block_ms;
        if index <= self.open.index {
            return false;
        }
        let block = std::mem::replace(
            &mut self.open,
            Block {
                index,
                ..Block::default()
            },
        );
        if block.readings > 0.0 {
            self.differences
                .push((block.challenger - block.control) / block.readings, 1.0);
            self.look();
        }
        block.readings > 0.0
    }

    fn look(&mut self) {
        if let Some(difference) = self
            .difference()
            .filter(|_| self.differences.devices() >= self.least)
        {
            let good = self.metric.direction.good(difference.value);
            let value = if self.metric.role == Role::Guardrail {
                -good
            } else {
                good
            };
            self.sequence.look(
                &self.tuning,
                &Difference {
                    value,
                    ..difference
                },
            );
        }
    }

    fn difference(&self) -> Option<Difference> {
        let units = self.differences.devices() as f64;
        (units >= 2.0).then(|| Difference {
            value: self.differences.mean(),
            se: (self.differences.variance() / units).sqrt(),
            units,
        })
    }

    /// What the blocks so far say.
    pub fn report(&self) -> Paired {
        let difference = self.difference();
        let blocks_needed = difference.and_then(|now| {
            let variance = now.se * now.se * now.units;
            let needed = self.tuning.units_needed(now.value.abs(), variance)?;
            Some(needed.max(self.least as f64) as u64)
        });
        Paired {
            verdict: self.verdict(),
            difference,
            sequence: self.sequence,
            blocks: self.differences.devices(),
            blocks_needed,
        }
    }

    /// The verdict alone.
    pub fn verdict(&self) -> Verdict {
        let margin = self.metric.margin;
        match self.sequence {
            one if one.contradicts_itself() => Verdict::Collecting,
            Sequence { lower, .. } if self.metric.role == Role::Guardrail => {
                if lower > margin {
                    Verdict::Worse
                } else {
                    Verdict::Collecting
                }
            }
            Sequence { lower, .. } if lower > 0.0 => Verdict::Better,
            Sequence { upper, .. } if upper < 0.0 => Verdict::Worse,
            Sequence { lower, upper, .. } if lower > -margin && upper < margin => {
                Verdict::NoDifference
            }
            _ => Verdict::Collecting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::{Direction, Form};
    use crate::rng::Rng;

    fn blocks(role: Role) -> Blocks {
        let metric = Metric {
            name: "error".into(),
            form: Form::Mean,
            role,
            direction: Direction::LowerIsBetter,
            margin: 0.05,
        };
        Blocks::new(metric, 100, 0.05, 200.0, 30)
    }

    /// Both versions suffer from the same disturbance; the pair cancels it.
    fn play(blocks: &mut Blocks, effect: f64) {
        let mut rng = Rng::new(1);
        let mut common = 0.0;
        for at in 0..40_000 {
            common = 0.99 * common + 0.1 * rng.normal();
            let (a, b) = (
                common + 0.1 * rng.normal(),
                common + effect + 0.1 * rng.normal(),
            );
            blocks.tally(a, b, at);
        }
    }

    #[test]
    fn a_shadow_finds_what_is_hidden_under_a_common_disturbance() {
        for (effect, expected) in [
            (-0.01, Verdict::Better),
            (0.01, Verdict::Worse),
            (0.0, Verdict::NoDifference),
        ] {
            let mut blocks = blocks(Role::Primary);
            play(&mut blocks, effect);
            let report = blocks.report();
            assert_eq!(report.verdict, expected, "{report:?}");
            assert_eq!(report.blocks, 399);
        }
    }

    #[test]
    fn a_guardrail_of_a_shadow_is_harmed_only_beyond_its_margin() {
        let mut fine = blocks(Role::Guardrail);
        play(&mut fine, 0.03);
        assert_eq!(fine.verdict(), Verdict::Collecting);
        let mut harmed = blocks(Role::Guardrail);
        play(&mut harmed, 0.08);
        assert_eq!(harmed.verdict(), Verdict::Worse);
    }

    #[test]
    fn empty_blocks_are_no_blocks() {
        let mut blocks = blocks(Role::Primary);
        assert!(!blocks.advance(1_000));
        blocks.tally(1.0, 1.0, 1_050);
        assert!(blocks.advance(5_000));
        assert_eq!(blocks.report().blocks, 1);
    }
}
