//! Which arm a device is in: a hash of the device's id, cut into ranges of buckets.
//!
//! Owns the hash, the split of the 10,000 buckets among arms, and layers of exclusive experiments. Promises: the same device and seed
//! give the same bucket for ever, on every node, without asking anyone; a ramp only grows ranges, so a device that is in an arm stays
//! there. Does not store assignments; the caller does, with the propensity it gets here.
//!
//! Sources: FNV-1a, 32 bits (Fowler, Noll, Vo), applied twice, as in GrowthBook's SDKs (hash version 2), so that the low digits mix
//! with the seed; Kohavi et al. (2009) on layers and overlapping experiments.

use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Buckets that devices fall into.
pub const BUCKETS: u16 = 10_000;
/// Arms of an experiment, control included.
pub const MAX_ARMS: usize = 8;
/// Characters of a seed.
pub const MAX_SEED: usize = 256;

/// Why a split cannot be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SplitError {
    /// Too few or too many arms.
    #[error("an experiment has 2 to {MAX_ARMS} arms, not {0}")]
    Arms(usize),
    /// A weight that is no share.
    #[error("weights: arm {arm} has {weight}; a weight is a share above 0, such as 0.5")]
    Weight {
        /// Which arm, from 0.
        arm: usize,
        /// What was given.
        weight: f64,
    },
    /// They must make a whole.
    #[error("weights: they sum to {0}, not to 1")]
    Sum(f64),
    /// The part of the fleet that takes part.
    #[error("coverage: {0} is not above 0 and at most 1")]
    Coverage(f64),
    /// So small that no bucket is left for an arm.
    #[error(
        "weights: arm {0} would get none of the 10,000 buckets; give it more weight or coverage"
    )]
    Empty(usize),
    /// A ramp that would take devices out of an arm.
    #[error("a ramp only grows: arm {arm} would lose devices (buckets {from} to {to})")]
    Shrinks {
        /// Which arm, from 0.
        arm: usize,
        /// Buckets it has.
        from: u16,
        /// Buckets it would have.
        to: u16,
    },
    /// Two experiments want the same devices of a layer.
    #[error(
        "layer `{layer}`: buckets {start} to {end} are taken by `{by}`; stop it, or use another layer"
    )]
    Taken {
        /// The layer's seed.
        layer: String,
        /// Who has them.
        by: String,
        /// First bucket that both want.
        start: u16,
        /// Behind the last bucket that both want.
        end: u16,
    },
    /// A seed out of bounds.
    #[error("seed: has {0} characters; 1 to {MAX_SEED} are allowed")]
    Seed(usize),
}

/// FNV-1a over the bytes, 32 bits.
pub fn fnv1a32(bytes: &[u8]) -> u32 {
    fold(0x811c_9dc5, bytes)
}

fn fold(hash: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(hash, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// The bucket of a device, `0..BUCKETS`: `fnv1a32(decimal(fnv1a32(seed + device))) % 10000`. No allocation; about 30 ns.
pub fn bucket(seed: &str, device: &str) -> u16 {
    let mut first = fold(fnv1a32(seed.as_bytes()), device.as_bytes());
    let mut digits = [0_u8; 10];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (first % 10) as u8;
        first /= 10;
        if first == 0 {
            break;
        }
    }
    (fnv1a32(&digits[at..]) % u32::from(BUCKETS)) as u16
}

/// A device's place in an experiment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// Which arm, from 0; 0 is the control.
    pub arm: usize,
    /// Where the device fell.
    pub bucket: u16,
    /// The probability of this arm, given that the device takes part.
    pub propensity: f64,
}

/// The buckets of each arm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    ranges: Vec<Range<u16>>,
}

impl Split {
    /// `weights` over the part `coverage` of the fleet; the rest is outside and keeps production.
    ///
    /// Every arm owns a fixed block of buckets by its weight and uses the first `coverage` of it; so a larger coverage only adds devices.
    ///
    /// # Errors
    /// [`SplitError`] says which weight is wrong.
    pub fn new(weights: &[f64], coverage: f64) -> Result<Self, SplitError> {
        check_weights(weights)?;
        if !(coverage > 0.0 && coverage <= 1.0) {
            return Err(SplitError::Coverage(coverage));
        }
        let mut start = 0.0;
        let mut ranges = Vec::with_capacity(weights.len());
        for (arm, weight) in weights.iter().enumerate() {
            let first = at_bucket(start);
            let end = at_bucket(start + weight).min(BUCKETS);
            let used = (f64::from(end - first) * coverage).round() as u16;
            if used == 0 {
                return Err(SplitError::Empty(arm));
            }
            ranges.push(first..first + used);
            start += weight;
        }
        Ok(Self { ranges })
    }

    /// A canary: the challenger gets `share` of the fleet, the control all the rest. The control may have nothing left.
    ///
    /// # Errors
    /// A share that is not above 0 and at most 1, or below one bucket.
    pub fn canary(share: f64) -> Result<Self, SplitError> {
        if !(share > 0.0 && share <= 1.0) {
            return Err(SplitError::Coverage(share));
        }
        let end = at_bucket(share);
        if end == 0 {
            return Err(SplitError::Empty(1));
        }
        Ok(Self {
            ranges: vec![end..BUCKETS, 0..end],
        })
    }

    /// The arm of a bucket; none outside the experiment.
    pub fn arm_of(&self, bucket: u16) -> Option<usize> {
        self.ranges.iter().position(|range| range.contains(&bucket))
    }

    /// The place of a device, or none outside the experiment.
    pub fn assign(&self, seed: &str, device: &str) -> Option<Assignment> {
        let bucket = bucket(seed, device);
        let arm = self.arm_of(bucket)?;
        Some(Assignment {
            arm,
            bucket,
            propensity: f64::from(width(&self.ranges[arm])) / f64::from(self.covered()),
        })
    }

    /// The share of each arm among the devices that take part; sums to 1.
    pub fn shares(&self) -> Vec<f64> {
        let covered = f64::from(self.covered());
        let share = |range: &Range<u16>| f64::from(width(range)) / covered;
        self.ranges.iter().map(share).collect()
    }

    /// The buckets of each arm.
    pub fn ranges(&self) -> &[Range<u16>] {
        &self.ranges
    }

    /// Buckets that take part.
    pub fn covered(&self) -> u16 {
        self.ranges.iter().map(width).sum()
    }

    /// The next step of a ramp, if no device leaves an arm that is not the control by it. A canary's control shrinks: its devices move on.
    ///
    /// # Errors
    /// [`SplitError::Shrinks`] names the arm that would lose devices.
    pub fn grown_to(&self, next: Self) -> Result<Self, SplitError> {
        if next.ranges.len() != self.ranges.len() {
            return Err(SplitError::Arms(next.ranges.len()));
        }
        for (arm, (old, new)) in self.ranges.iter().zip(&next.ranges).enumerate() {
            let keeps = new.start <= old.start && new.end >= old.end;
            // A bucket that leaves the control must go to another arm, never out of the experiment.
            let moves_on = arm == 0 && old.clone().all(|bucket| next.arm_of(bucket).is_some());
            if !keeps && !moves_on {
                return Err(SplitError::Shrinks {
                    arm,
                    from: width(old),
                    to: width(new),
                });
            }
        }
        Ok(next)
    }

    /// The draw of a device that was in the control when a ramp goes on: the probability to stay there, and to get into each other arm.
    pub fn redraw(&self, next: &Self) -> Vec<f64> {
        let control = f64::from(width(&self.ranges[0])).max(1.0);
        let moved = |(old, new): (&Range<u16>, &Range<u16>)| {
            f64::from(width(new).saturating_sub(width(old))) / control
        };
        let mut shares: Vec<f64> = self.ranges.iter().zip(&next.ranges).map(moved).collect();
        shares[0] = 1.0 - shares[1..].iter().sum::<f64>();
        shares
    }
}

fn check_weights(weights: &[f64]) -> Result<(), SplitError> {
    if !(2..=MAX_ARMS).contains(&weights.len()) {
        return Err(SplitError::Arms(weights.len()));
    }
    for (arm, &weight) in weights.iter().enumerate() {
        if !(weight > 0.0 && weight < 1.0) {
            return Err(SplitError::Weight { arm, weight });
        }
    }
    let sum: f64 = weights.iter().sum();
    if (sum - 1.0).abs() > 1e-6 {
        // Written without the noise of binary fractions.
        return Err(SplitError::Sum((sum * 1e6).round() / 1e6));
    }
    Ok(())
}

fn at_bucket(share: f64) -> u16 {
    (share * f64::from(BUCKETS)).round() as u16
}

fn width(range: &Range<u16>) -> u16 {
    range.end.saturating_sub(range.start)
}

/// Experiments that share a seed and never a device. Experiments that may overlap use a seed each instead: their splits are independent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    seed: String,
    taken: Vec<(String, Range<u16>)>,
}

impl Layer {
    /// A layer that nobody uses yet.
    ///
    /// # Errors
    /// A seed that is empty or too long.
    pub fn new(seed: &str) -> Result<Self, SplitError> {
        let length = seed.chars().count();
        if !(1..=MAX_SEED).contains(&length) {
            return Err(SplitError::Seed(length));
        }
        Ok(Self {
            seed: seed.to_owned(),
            taken: Vec::new(),
        })
    }

    /// What devices are hashed with.
    pub fn seed(&self) -> &str {
        &self.seed
    }

    /// Takes the part `slice` of the layer, in buckets, for an experiment, for all of its ramps.
    ///
    /// # Errors
    /// [`SplitError::Taken`] when another one has a part of it.
    pub fn take(&mut self, experiment: &str, slice: Range<u16>) -> Result<(), SplitError> {
        for (by, range) in &self.taken {
            let both = range.start.max(slice.start)..range.end.min(slice.end);
            if !both.is_empty() {
                return Err(SplitError::Taken {
                    layer: self.seed.clone(),
                    by: by.clone(),
                    start: both.start,
                    end: both.end,
                });
            }
        }
        self.taken.push((experiment.to_owned(), slice));
        Ok(())
    }

    /// Gives back what an experiment had.
    pub fn release(&mut self, experiment: &str) {
        self.taken.retain(|(by, _)| by != experiment);
    }

    /// The experiment that a device belongs to; its arm comes from a split under the experiment's own seed.
    pub fn experiment_of(&self, device: &str) -> Option<&str> {
        let bucket = bucket(&self.seed, device);
        let (by, _) = self
            .taken
            .iter()
            .find(|(_, range)| range.contains(&bucket))?;
        Some(by)
    }
}

#[cfg(test)]
#[path = "assignment_tests.rs"]
mod tests;
