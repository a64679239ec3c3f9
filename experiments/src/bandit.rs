//! A bandit over devices: each new device goes to an arm with the probability that the arm is the best one, and never below a floor.
//!
//! Sources: Thompson (1933); Chapelle and Li (2011), "An empirical evaluation of Thompson sampling"; Agrawal and Goyal (2012) for the Beta
//! posterior. Yes-or-no outcomes: Beta(1 + yes, 1 + no). Means: normal around the arm's mean with its standard error, an arm of fewer than
//! two devices as wide as all arms together. The probability of being the best is counted over seeded draws, so it is known, logged with
//! every device, and the analysis weighs by it ([`crate::analysis`], weighted). The floor keeps every arm measurable: the error of a
//! comparison grows with 1 / propensity.
//!
//! The unit is the device and it is drawn once. Same seed, same observations, same device: same arm.

use crate::assignment::{MAX_ARMS, bucket, fnv1a32};
use crate::metric::{Direction, Form, Moments};
use crate::rng::{Rng, pick};
use serde::{Deserialize, Serialize};

/// Draws that the probability of being best is counted over: its error is below 0.008.
const DRAWS: u32 = 4_000;

/// A bandit's rules, fixed before the start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bandit {
    arms: usize,
    form: Form,
    direction: Direction,
    floor: f64,
    seed: u64,
    /// Times the shares were computed.
    round: u64,
    shares: Vec<f64>,
}

/// Why a bandit cannot be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BanditError {
    /// Too few or too many arms.
    #[error("a bandit has 2 to {MAX_ARMS} arms, not {0}")]
    Arms(usize),
    /// Every arm must keep some devices, and all floors together leave room.
    #[error("floor: {floor} is not between 0.001 and {most}, one over the number of arms")]
    Floor {
        /// What was given.
        floor: f64,
        /// What is possible.
        most: f64,
    },
    /// Ratios over readings have no posterior here.
    #[error(
        "metric: a bandit learns from a proportion or a mean a device, not from a ratio over readings"
    )]
    Form,
}

impl Bandit {
    /// Equal shares until something is known.
    ///
    /// # Errors
    /// [`BanditError`] names the rule that makes no sense.
    pub fn new(
        arms: usize,
        form: Form,
        direction: Direction,
        floor: f64,
        seed: u64,
    ) -> Result<Self, BanditError> {
        if !(2..=MAX_ARMS).contains(&arms) {
            return Err(BanditError::Arms(arms));
        }
        let most = 1.0 / arms as f64;
        if !(0.001..=most).contains(&floor) {
            return Err(BanditError::Floor { floor, most });
        }
        if !matches!(form, Form::Proportion | Form::Mean) {
            return Err(BanditError::Form);
        }
        Ok(Self {
            arms,
            form,
            direction,
            floor,
            seed,
            round: 0,
            shares: vec![most; arms],
        })
    }

    /// The probabilities that devices are drawn with now; they sum to 1.
    pub fn shares(&self) -> &[f64] {
        &self.shares
    }

    /// Learns from the arms' matured devices: new shares for the devices to come. About 4,000 draws an arm, 1 ms for eight.
    pub fn learn(&mut self, arms: &[Moments]) -> &[f64] {
        self.round += 1;
        let mut rng = Rng::part(self.seed, self.round);
        let beliefs = self.beliefs(arms);
        let mut wins = vec![0_u32; self.arms];
        for _ in 0..DRAWS {
            let mut best = (0, f64::NEG_INFINITY);
            for (arm, belief) in beliefs.iter().enumerate() {
                let good = self.direction.good(belief.draw(&mut rng));
                if good > best.1 {
                    best = (arm, good);
                }
            }
            wins[best.0] += 1;
        }
        let free = 1.0 - self.floor * self.arms as f64;
        for (share, wins) in self.shares.iter_mut().zip(wins) {
            *share = self.floor + free * f64::from(wins) / f64::from(DRAWS);
        }
        &self.shares
    }

    fn beliefs(&self, arms: &[Moments]) -> Vec<Belief> {
        if self.form == Form::Proportion {
            return arms.iter().map(Belief::of_proportion).collect();
        }
        let mut all = Moments::default();
        arms.iter().for_each(|arm| all.merge(arm));
        arms.iter().map(|arm| Belief::of_mean(arm, &all)).collect()
    }

    /// The arm of a new device under the shares of now, and its propensity. The draw is the device's hash, so asking twice gives the same.
    pub fn draw(&self, experiment: &str, device: &str) -> (usize, f64) {
        // Ten thousandths from the bucket, the rest from the plain hash: fine enough for any share.
        let fine = f64::from(fnv1a32(device.as_bytes())) / (f64::from(u32::MAX) + 1.0);
        let point =
            (f64::from(bucket(experiment, device)) + fine) / f64::from(crate::assignment::BUCKETS);
        let arm = pick(&self.shares, point);
        (arm, self.shares[arm])
    }
}

enum Belief {
    Beta { yes: f64, no: f64 },
    Normal { mean: f64, se: f64 },
}

impl Belief {
    fn of_proportion(arm: &Moments) -> Self {
        let n = arm.devices() as f64;
        let yes = arm.mean() * n;
        Self::Beta {
            yes: 1.0 + yes,
            no: 1.0 + (n - yes).max(0.0),
        }
    }

    fn of_mean(arm: &Moments, all: &Moments) -> Self {
        let spread = all.variance().sqrt();
        let spread = if spread > 0.0 { spread } else { 1.0 };
        match arm.devices() {
            0 => Self::Normal {
                mean: all.mean(),
                se: spread,
            },
            n => {
                let own = if n < 2 {
                    spread
                } else {
                    arm.variance().sqrt().max(spread * 1e-3)
                };
                Self::Normal {
                    mean: arm.mean(),
                    se: own / (n as f64).sqrt(),
                }
            }
        }
    }

    fn draw(&self, rng: &mut Rng) -> f64 {
        match self {
            Self::Beta { yes, no } => rng.beta(*yes, *no),
            Self::Normal { mean, se } => mean + se * rng.normal(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arm(yes: u32, no: u32) -> Moments {
        let mut moments = Moments::default();
        (0..yes).for_each(|_| moments.push(1.0, 1.0));
        (0..no).for_each(|_| moments.push(0.0, 1.0));
        moments
    }

    fn bandit(form: Form, direction: Direction) -> Bandit {
        Bandit::new(2, form, direction, 0.05, 1).unwrap()
    }

    /// P(B > A) for Beta(2, 1) against Beta(1, 2) is 5/6: the integral of x^2 2 (1 - x) over 1 - ... by hand.
    #[test]
    fn the_share_is_the_probability_of_being_best() {
        let mut bandit = bandit(Form::Proportion, Direction::HigherIsBetter);
        let shares = bandit.learn(&[arm(0, 1), arm(1, 0)]).to_vec();
        let expected = 0.05 + 0.9 * 5.0 / 6.0;
        assert!((shares[1] - expected).abs() < 0.02, "{shares:?}");
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn the_better_arm_wins_and_the_floor_holds() {
        for direction in [Direction::HigherIsBetter, Direction::LowerIsBetter] {
            for form in [Form::Proportion, Form::Mean] {
                let mut bandit = bandit(form, direction);
                let shares = bandit.learn(&[arm(100, 400), arm(200, 300)]).to_vec();
                let best = usize::from(direction == Direction::HigherIsBetter);
                assert!(shares[best] > 0.94, "{shares:?}");
                assert!(shares[1 - best] >= 0.05 - 1e-12, "{shares:?}");
            }
        }
    }

    #[test]
    fn an_arm_that_nobody_has_seen_is_tried() {
        for form in [Form::Proportion, Form::Mean] {
            let mut bandit = bandit(form, Direction::HigherIsBetter);
            assert!(bandit.learn(&[arm(50, 50), arm(0, 0)])[1] > 0.3);
        }
    }

    #[test]
    fn a_device_is_drawn_by_its_hash_with_the_logged_propensity() {
        let mut bandit = bandit(Form::Proportion, Direction::HigherIsBetter);
        bandit.learn(&[arm(30, 70), arm(36, 64)]);
        let share = bandit.shares()[1];
        let mut seconds = 0_u32;
        for device in 0..20_000 {
            let id = format!("rig-{device}");
            let (arm, propensity) = bandit.draw("exp", &id);
            assert_eq!((arm, propensity), bandit.draw("exp", &id));
            assert!((propensity - bandit.shares()[arm]).abs() < 1e-15);
            seconds += u32::from(arm == 1);
        }
        assert!((f64::from(seconds) / 20_000.0 - share).abs() < 0.02);
    }

    #[test]
    fn same_seed_same_shares() {
        let run = || {
            let mut bandit = bandit(Form::Mean, Direction::LowerIsBetter);
            bandit.learn(&[arm(30, 70), arm(36, 64)]).to_vec()
        };
        assert_eq!(run(), run());
    }

    #[test]
    fn rules_that_make_no_sense_are_named() {
        let error = |arms, form, floor| {
            let bandit = Bandit::new(arms, form, Direction::LowerIsBetter, floor, 1);
            bandit.unwrap_err().to_string()
        };
        assert!(error(1, Form::Mean, 0.1).contains("2 to 8 arms"));
        assert!(error(4, Form::Mean, 0.3).contains("floor: 0.3 is not between 0.001 and 0.25"));
        assert!(error(2, Form::Mean, f64::NAN).starts_with("floor: NaN"));
        assert!(error(2, Form::Ratio, 0.1).starts_with("metric:"));
    }
}
