//! The analysis of a running experiment: exposures and tallies in, a report at any time.
//!
//! Owns the devices, the sums and the sequences of one experiment. Promises: however often [`Analysis::refresh`] is called, the verdicts err
//! with probability `alpha` at most; a refresh costs what has matured since the last one, not what there is. Decides nothing by itself
//! ([`crate::verdict`] says what the numbers mean), reads no clock, and does no I/O; time is what the caller says, in ms.
//!
//! With a split that moves (canary, bandit) a device counts with the propensity p it was drawn with, and each challenger is compared through
//! psi = m1 - m0 + 1{1}(y - m1)/p1 - 1{0}(y - m0)/p0, where m are the arms' means over devices that matured before: a martingale around
//! the difference (Robins, Rotnitzky and Zhao, 1994; Waudby-Smith, Wu, Ramdas, Karampatziakis and Mineiro, 2024, "Anytime-valid off-policy
//! inference for contextual bandits", arXiv 2210.10768). m = 0 gives Y (1{1}/p1 - 1{0}/p0). Devices are weighted by h = p0 p1 / (p0 + p1), the
//! inverse of psi's variance (overlap weights: Li, Morgan and Zaslavsky, 2018): a device of a 1% canary, which tells little, counts little, no
//! device weighs more than 1, and the variance grows with the sum of h, so 4 h are the units of the sequence (1 for a device of two halves).

use crate::devices::{Devices, Exposed, Frozen};
use crate::metric::{Form, Moments, Role};
use crate::plan::{Estimator, Plan, PlanError};
use crate::sequential::exact::Exact;
use crate::sequential::interval::{Difference, Sequence, Tuning};
use crate::sequential::srm::Srm;
use crate::verdict::{self, Report};
use serde::{Deserialize, Serialize};

/// Devices of an arm before its own mean takes the place of the mean of all.
const OWN_MEAN: u64 = 5;

/// One over the weight h of a device that had even odds.
pub(crate) const FULL: f64 = 4.0;

/// What is kept of a challenger and a metric.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Pair {
    pub(crate) sequence: Sequence,
    pub(crate) latest: Option<Difference>,
    /// (h psi, h) a device, with a moving split.
    psi: Moments,
}

/// What is kept of an arm.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Arm {
    pub(crate) exposed: u64,
    pub(crate) matured: u64,
    /// Devices with a primary observation (y) among those that matured.
    pub(crate) covered: Moments,
    pub(crate) metrics: Vec<Moments>,
}

/// One experiment under analysis. It can be stored and goes on where it was.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Analysis {
    pub(crate) plan: Plan,
    tunings: Vec<Tuning>,
    primary: usize,
    devices: Devices,
    pub(crate) arms: Vec<Arm>,
    /// By challenger, then metric; challenger 0 is arm 1.
    pub(crate) pairs: Vec<Vec<Pair>>,
    pub(crate) exact: Vec<Exact>,
    pub(crate) coverage: Vec<Sequence>,
    pub(crate) srm: Srm,
    /// The chi-square of the one look at the decision.
    pub(crate) srm_once: Option<f64>,
    draws: Vec<Vec<f64>>,
    pub(crate) started_ms: Option<u64>,
    /// Exposures that did not fit, and devices that came with another arm.
    pub(crate) left_out: u64,
    pub(crate) other_arm: u64,
}

impl Analysis {
    /// Of a plan that can be analysed.
    ///
    /// # Errors
    /// What is wrong with the plan.
    pub fn new(plan: Plan) -> Result<Self, PlanError> {
        plan.check()?;
        let (arms, metrics) = (plan.arms.len(), plan.metrics.len());
        let arm = Arm {
            metrics: vec![Moments::default(); metrics],
            ..Arm::default()
        };
        let exact = |challenger: &f64| Exact::new(plan.shares[0], *challenger);
        let exact: Vec<Exact> = plan.shares[1..].iter().map(exact).collect();
        Ok(Self {
            tunings: (0..metrics).map(|m| plan.tuning(m)).collect(),
            primary: plan.primary(),
            devices: Devices::new(metrics, plan.horizon_ms, plan.wait_ms, plan.max_devices),
            arms: vec![arm; arms],
            pairs: vec![vec![Pair::default(); metrics]; arms - 1],
            exact: if plan.exact { exact } else { Vec::new() },
            coverage: vec![Sequence::default(); arms - 1],
            srm: Srm::new(&plan.shares),
            srm_once: None,
            draws: vec![plan.shares.clone()],
            started_ms: None,
            left_out: 0,
            other_arm: 0,
            plan,
        })
    }

    /// A device meets the experiment: the first time its horizon begins and the split is tested. Calls for a device that is known change
    /// nothing. `arm` must be one of the plan's.
    pub fn expose(&mut self, device: u64, arm: usize, now_ms: u64) -> Exposed {
        let draw = (self.draws.len() - 1) as u32;
        self.started_ms.get_or_insert(now_ms);
        let exposed = self.devices.expose(device, arm, draw, now_ms);
        self.count(exposed, arm)
    }

    /// A ramp drew a device of the control anew, under the shares set last; a new horizon begins.
    pub fn redraw(&mut self, device: u64, arm: usize, now_ms: u64) -> Exposed {
        let draw = (self.draws.len() - 1) as u32;
        let exposed = self.devices.redraw(device, arm, draw, now_ms);
        self.count(exposed, arm)
    }

    fn count(&mut self, exposed: Exposed, arm: usize) -> Exposed {
        match exposed {
            Exposed::New => {
                self.arms[arm].exposed += 1;
                self.srm.push(arm);
            }
            Exposed::OtherArm => self.other_arm += 1,
            Exposed::Full => self.left_out += 1,
            Exposed::Known => {}
        }
        exposed
    }

    /// Devices are drawn with these shares from now on (a step of a ramp, a bandit's update). Needs the weighted estimator.
    ///
    /// # Errors
    /// [`PlanError`] when the estimator is for a split that stays, or the shares do not fit.
    pub fn reweigh(&mut self, shares: &[f64]) -> Result<(), PlanError> {
        let sum: f64 = shares.iter().sum();
        let fits =
            shares.len() == self.arms.len() && shares.iter().all(|s| (0.0..=1.0).contains(s));
        if !fits || (sum - 1.0).abs() > 1e-6 {
            return Err(PlanError::Shares(sum));
        }
        if self.plan.estimator == Estimator::TwoSample {
            return Err(PlanError::Bounds {
                field: "estimator",
                value: 0.0,
                allowed: "`weighted`, for a split that moves",
            });
        }
        self.srm.reweigh(shares);
        self.draws.push(shares.to_vec());
        Ok(())
    }

    /// Adds what a reading taken at `at_ms` contributes to a metric; false when it lies outside the device's horizon.
    #[inline]
    pub fn tally(&mut self, device: u64, metric: usize, y: f64, n: f64, at_ms: u64) -> bool {
        self.devices.tally(device, metric, y, n, at_ms)
    }

    /// Freezes the devices whose time is over, and looks at the sequences if there were any. True if something changed.
    pub fn refresh(&mut self, now_ms: u64) -> bool {
        let Self {
            plan,
            primary,
            devices,
            arms,
            pairs,
            exact,
            draws,
            ..
        } = self;
        let mut taker = Taker {
            plan,
            primary: *primary,
            arms,
            pairs,
            exact,
            draws,
        };
        let frozen = devices.freeze(now_ms, |one| taker.take(one));
        if frozen > 0 {
            self.look();
        }
        frozen > 0
    }

    fn look(&mut self) {
        let (control, challengers) = self.arms.split_at(1);
        let control = &control[0];
        let least = self.plan.min_devices;
        for (index, challenger) in challengers.iter().enumerate() {
            for (m, metric) in self.plan.metrics.iter().enumerate() {
                let enough = |arm: &Arm| arm.metrics[m].devices() >= least;
                if !(enough(control) && enough(challenger)) {
                    continue;
                }
                let pair = &mut self.pairs[index][m];
                pair.latest = match self.plan.estimator {
                    Estimator::TwoSample => two_sample(control, challenger, m, metric.form),
                    Estimator::Weighted => weighted(&pair.psi),
                };
                let Some(latest) = pair.latest else {
                    continue;
                };
                // Kept so that up is good; a guardrail's so that up is harm.
                let good = metric.direction.good(latest.value);
                let value = if metric.role == Role::Guardrail {
                    -good
                } else {
                    good
                };
                pair.sequence
                    .look(&self.tunings[m], &Difference { value, ..latest });
            }
            if control.matured.min(challenger.matured) >= least {
                look_at_coverage(&mut self.coverage[index], control, challenger, &self.plan);
            }
        }
    }

    /// What the numbers say at this moment; refreshes first.
    pub fn report(&mut self, now_ms: u64) -> Report {
        self.refresh(now_ms);
        verdict::report(self, now_ms)
    }

    /// Which metric the verdict is about.
    pub fn primary(&self) -> usize {
        self.primary
    }

    /// The plan as declared.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The parameters of a metric's sequence.
    pub(crate) fn tuning(&self, metric: usize) -> &Tuning {
        &self.tunings[metric]
    }

    /// Sums of a metric over the matured devices of an arm.
    pub fn moments(&self, arm: usize, metric: usize) -> &Moments {
        &self.arms[arm].metrics[metric]
    }

    /// Devices that were exposed.
    pub fn exposed(&self) -> usize {
        self.devices.len()
    }
}

fn two_sample(control: &Arm, challenger: &Arm, metric: usize, form: Form) -> Option<Difference> {
    let (a, b) = (&control.metrics[metric], &challenger.metrics[metric]);
    Some(Difference::between(&a.estimate(form)?, &b.estimate(form)?))
}

fn weighted(psi: &Moments) -> Option<Difference> {
    let estimate = psi.estimate(Form::Ratio)?;
    Some(Difference {
        value: estimate.value,
        se: (estimate.variance / estimate.devices as f64).sqrt(),
        units: FULL * psi.total_n(),
    })
}

/// The weight of a device that had these odds for the two arms that are compared.
pub(crate) fn overlap(control: f64, challenger: f64) -> f64 {
    let both = control + challenger;
    if both > 0.0 {
        control * challenger / both
    } else {
        0.0
    }
}

/// Is feedback as complete in one arm as in the other.
fn look_at_coverage(sequence: &mut Sequence, control: &Arm, challenger: &Arm, plan: &Plan) {
    let (a, b) = (
        control.covered.estimate(Form::Mean),
        challenger.covered.estimate(Form::Mean),
    );
    if let (Some(a), Some(b)) = (a, b) {
        let tuning = Tuning::two_sided(verdict::COVERAGE_ALPHA, plan.planned_devices);
        sequence.look(&tuning, &Difference::between(&a, &b));
    }
}

/// Takes frozen devices in; apart from the table that hands them out.
struct Taker<'a> {
    plan: &'a Plan,
    primary: usize,
    arms: &'a mut [Arm],
    pairs: &'a mut [Vec<Pair>],
    exact: &'a mut [Exact],
    draws: &'a [Vec<f64>],
}

impl Taker<'_> {
    fn take(&mut self, device: Frozen<'_>) {
        let arm = device.arm;
        self.arms[arm].matured += 1;
        for (m, (metric, tally)) in self.plan.metrics.iter().zip(device.tallies).enumerate() {
            let observed = tally.frozen(metric.form);
            if m == self.primary {
                let covered = f64::from(u8::from(observed.is_some()));
                self.arms[arm].covered.push(covered, 1.0);
            }
            let Some((y, n)) = observed else {
                continue;
            };
            if self.plan.estimator == Estimator::Weighted {
                self.weigh(m, arm, y, &self.draws[device.draw as usize]);
            }
            self.arms[arm].metrics[m].push(y, n);
            if m == self.primary {
                self.bet(arm, y > 0.0);
            }
        }
    }

    fn bet(&mut self, arm: usize, outcome: bool) {
        match arm.checked_sub(1) {
            // The control's outcome is a bet against each challenger.
            None => self
                .exact
                .iter_mut()
                .for_each(|one| one.push(false, outcome)),
            Some(index) => {
                if let Some(one) = self.exact.get_mut(index) {
                    one.push(true, outcome);
                }
            }
        }
    }

    /// Adds psi for every challenger; the means are those of devices before this one.
    fn weigh(&mut self, metric: usize, arm: usize, y: f64, shares: &[f64]) {
        let mut all = Moments::default();
        for one in self.arms.iter() {
            all.merge(&one.metrics[metric]);
        }
        let mean = |index: usize| {
            let own = &self.arms[index].metrics[metric];
            if own.devices() >= OWN_MEAN {
                own.mean()
            } else {
                all.mean()
            }
        };
        let part = |index: usize| {
            if index == arm {
                (y - mean(index)) / shares[index]
            } else {
                0.0
            }
        };
        for (index, pair) in self.pairs.iter_mut().enumerate() {
            let challenger = index + 1;
            // A device that could not have come into one of the two tells nothing about them.
            if shares[0] > 0.0 && shares[challenger] > 0.0 {
                let psi = mean(challenger) - mean(0) + part(challenger) - part(0);
                let weight = overlap(shares[0], shares[challenger]);
                pair[metric].psi.push(weight * psi, weight);
            }
        }
    }
}

#[cfg(test)]
#[path = "analysis_tests.rs"]
mod tests;
