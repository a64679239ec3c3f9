//! The worlds: who comes when, what each reading says, and which arm the real hash puts a device into.
//!
//! Time is counted in ticks of 1 ms; a tick brings at most one reading of a device. Each world is played from its own generator.

use super::watch::{Plain, Watch};
use super::{Ending, Kind, Setup};
use crate::assignment::Split;
use crate::bandit::Bandit;
use crate::blocks::Blocks;
use crate::metric::{Direction, Form, Metric, Role};
use crate::plan::Estimator;
use crate::rng::Rng;
use crate::verdict::Verdict;
use std::fmt::Write as _;

/// Share of the variance of an outcome that lies between devices.
const BETWEEN: f64 = 0.2;
/// Probability that a reading repeats the one before, in autocorrelated devices.
const STICKY: f64 = 0.8;
/// Readings of a device in worlds where all have the same number.
const READINGS: u32 = 20;
/// Readings of the busiest device.
const BUSIEST: u32 = 100;
/// Devices an arm in the small world.
const SMALL: u32 = 100;
/// How much the outcome's probability falls from the first device to the last, where everything gets worse.
const TREND: f64 = 0.08;
/// Steps of the canary.
const STEPS: [f64; 5] = [0.01, 0.05, 0.10, 0.25, 0.50];
/// Devices between two lessons of the bandit.
const LESSON: u64 = 250;
/// Readings of a shadow's block.
const BLOCK: u64 = 50;

/// Plays one world to its end.
pub(super) fn play(setup: &Setup, world: u64) -> Ending {
    let kind = Kind::ALL
        .iter()
        .position(|kind| *kind == setup.kind)
        .unwrap_or(0);
    let mut rng = Rng::part(setup.seed, world * 64 + kind as u64);
    match setup.kind {
        Kind::Independent => independent(setup, &mut rng, false),
        Kind::Small => independent(setup, &mut rng, true),
        Kind::AtOnce => fleet(setup, &mut rng, &AT_ONCE),
        Kind::Autocorrelated => fleet(setup, &mut rng, &AUTOCORRELATED),
        Kind::Uneven => fleet(setup, &mut rng, &UNEVEN),
        Kind::Peeked => fleet(setup, &mut rng, &PEEKED),
        Kind::Ramp => ramp(setup, &mut rng),
        Kind::Bandit => bandit(setup, &mut rng),
        Kind::Shadow => shadow(setup, &mut rng),
    }
}

/// The real assignment of a world's devices.
struct Draws {
    seed: String,
    id: String,
}

impl Draws {
    fn new(rng: &mut Rng) -> Self {
        Self {
            seed: format!("world-{:x}", rng.next_u64()),
            id: String::new(),
        }
    }

    fn id(&mut self, device: u64) -> &str {
        self.id.clear();
        // Writing to a string cannot fail.
        _ = write!(self.id, "rig-{device}");
        &self.id
    }

    fn arm(&mut self, split: &Split, device: u64) -> usize {
        self.id(device);
        split
            .assign(&self.seed, &self.id)
            .map_or(0, |found| found.arm)
    }
}

#[allow(clippy::expect_used, reason = "the shares are constants of this file")]
fn halves() -> Split {
    Split::new(&[0.5, 0.5], 1.0).expect("two halves are a whole")
}

fn probability(setup: &Setup, arm: usize) -> f64 {
    setup.baseline + if arm == 1 { setup.effect } else { 0.0 }
}

/// A watch that ends as the setup wants: a world without an effect shows what the plain test does until its end.
fn watched(setup: &Setup, watch: Watch) -> Watch {
    if setup.effect == 0.0 {
        watch
    } else {
        watch.ends_with_verdict()
    }
}

fn independent(setup: &Setup, rng: &mut Rng, small: bool) -> Ending {
    let watch = Watch::new(setup, Form::Proportion, 1, |plan| plan.exact = small);
    let mut watch = watched(setup, watch);
    let (split, mut draws) = (halves(), Draws::new(rng));
    let devices = if small {
        setup.devices.min(SMALL)
    } else {
        setup.devices
    };
    let devices = u64::from(devices) * 2;
    for device in 0..devices {
        let arm = draws.arm(&split, device);
        watch.analysis.expose(device, arm, device);
        let one = rng.chance(probability(setup, arm));
        watch.reading(device, arm, one, device);
        if watch.over() {
            break;
        }
    }
    watch.finish(devices + 1)
}

/// How the devices of a fleet are.
struct Fleet {
    form: Form,
    /// Devices that come together, and ticks from one such arrival to the next; none: all at once.
    arrival: Option<(u64, u64)>,
    uneven: bool,
    sticky: f64,
    /// Height of the daily wave, and its length in ticks.
    wave: (f64, f64),
}

const AT_ONCE: Fleet = Fleet {
    form: Form::Mean,
    arrival: None,
    uneven: false,
    sticky: 0.0,
    wave: (0.0, 1.0),
};
const AUTOCORRELATED: Fleet = Fleet {
    form: Form::Mean,
    arrival: Some((1, 1)),
    uneven: false,
    sticky: STICKY,
    wave: (0.0, 1.0),
};
const UNEVEN: Fleet = Fleet {
    form: Form::Ratio,
    arrival: Some((1, 1)),
    uneven: true,
    sticky: 0.0,
    wave: (0.0, 1.0),
};
const PEEKED: Fleet = Fleet {
    form: Form::Ratio,
    arrival: Some((50, 20)),
    uneven: true,
    sticky: STICKY,
    wave: (0.06, 1_000.0),
};

/// A device while it reads.
struct Active {
    device: u64,
    arm: usize,
    p: f64,
    last: Option<bool>,
    left: u32,
}

impl Active {
    fn new(setup: &Setup, rng: &mut Rng, fleet: &Fleet, device: u64, arm: usize) -> Self {
        // Beta with the mean p and BETWEEN of the variance of a single outcome.
        let p = probability(setup, arm);
        let size = (1.0 - BETWEEN) / BETWEEN;
        let mut p = rng.beta(p * size, (1.0 - p) * size);
        let mut left = READINGS;
        if fleet.uneven {
            left = ((1.5 + 0.8 * rng.normal()).exp().ceil() as u32).clamp(1, BUSIEST);
            // Busy devices behave differently, in both arms.
            p += if left > 10 { 0.05 } else { 0.0 };
        }
        Self {
            device,
            arm,
            p,
            last: None,
            left,
        }
    }

    fn read(&mut self, rng: &mut Rng, sticky: f64, shift: f64) -> bool {
        self.left -= 1;
        let one = match self.last {
            Some(last) if sticky > 0.0 && rng.chance(sticky) => last,
            _ => rng.chance(self.p + shift),
        };
        self.last = Some(one);
        one
    }
}

fn fleet(setup: &Setup, rng: &mut Rng, fleet: &Fleet) -> Ending {
    let horizon = u64::from(if fleet.uneven { BUSIEST } else { READINGS });
    let mut watch = watched(setup, Watch::new(setup, fleet.form, horizon, |_| {}));
    let (split, mut draws) = (halves(), Draws::new(rng));
    let devices = u64::from(setup.devices) * 2;
    let (together, every) = fleet.arrival.unwrap_or((devices, 1));
    let mut active: Vec<Active> = Vec::new();
    let (mut came, mut now) = (0, 0_u64);
    while (came < devices || !active.is_empty()) && !watch.over() {
        if came < devices && now.is_multiple_of(every) {
            for device in came..(came + together).min(devices) {
                let arm = draws.arm(&split, device);
                watch.analysis.expose(device, arm, now);
                active.push(Active::new(setup, rng, fleet, device, arm));
            }
            came = (came + together).min(devices);
        }
        let shift = fleet.wave.0 * (now as f64 / fleet.wave.1 * std::f64::consts::TAU).sin();
        for one in &mut active {
            let outcome = one.read(rng, fleet.sticky, shift);
            watch.reading(one.device, one.arm, outcome, now);
        }
        active.retain(|one| one.left > 0);
        now += 1;
    }
    watch.finish(now + horizon)
}

/// Where the outcome's probability stands when this part of the devices has come.
fn trend(device: u64, devices: u64) -> f64 {
    TREND * (0.5 - device as f64 / devices as f64)
}

fn ramp(setup: &Setup, rng: &mut Rng) -> Ending {
    let mut watch = watched(
        setup,
        Watch::new(setup, Form::Mean, 1, |plan| {
            plan.estimator = Estimator::Weighted;
            plan.shares = vec![1.0 - STEPS[0], STEPS[0]];
        }),
    );
    let mut draws = Draws::new(rng);
    let devices = u64::from(setup.devices) * 2;
    let step_length = devices.div_ceil(STEPS.len() as u64).max(1);
    let mut split = canary(STEPS[0]);
    let (mut now, mut arms) = (0, Vec::new());
    for device in 0..devices {
        now += 1;
        if device > 0 && device % step_length == 0 {
            let next = canary(STEPS[(device / step_length) as usize]);
            now = step(
                setup,
                rng,
                &mut watch,
                &mut draws,
                (&split, &next),
                &mut arms,
                now,
            );
            split = next;
        }
        let arm = draws.arm(&split, device);
        arms.push(arm);
        watch.analysis.expose(device, arm, now);
        let one = rng.chance(probability(setup, arm) + trend(device, devices));
        watch.reading(device, arm, one, now);
        if watch.over() {
            break;
        }
    }
    watch.finish(now + 2)
}

/// The next step of a canary: every device of the control is drawn anew, has a new horizon, and answers once more.
fn step(
    setup: &Setup,
    rng: &mut Rng,
    watch: &mut Watch,
    draws: &mut Draws,
    (split, next): (&Split, &Split),
    arms: &mut [usize],
    now: u64,
) -> u64 {
    let now = now + 1;
    let devices = u64::from(setup.devices) * 2;
    reweigh(watch, &split.redraw(next));
    let came = arms.len() as u64;
    for (device, arm) in (0..).zip(arms.iter_mut()).filter(|(_, arm)| **arm == 0) {
        *arm = draws.arm(next, device);
        watch.analysis.redraw(device, *arm, now);
        let one = rng.chance(probability(setup, *arm) + trend(came, devices));
        watch.reading(device, *arm, one, now);
    }
    reweigh(watch, &next.shares());
    now + 1
}

#[allow(
    clippy::expect_used,
    reason = "shares of a split sum to 1, and the plan is weighted"
)]
fn reweigh(watch: &mut Watch, shares: &[f64]) {
    watch
        .analysis
        .reweigh(shares)
        .expect("the shares of a split");
}

#[allow(clippy::expect_used, reason = "the steps are constants of this file")]
fn canary(share: f64) -> Split {
    Split::canary(share).expect("a step of the ramp")
}

#[allow(clippy::expect_used, reason = "the rules are constants of this file")]
fn bandit(setup: &Setup, rng: &mut Rng) -> Ending {
    let mut watch = watched(
        setup,
        Watch::new(setup, Form::Proportion, 1, |plan| {
            plan.estimator = Estimator::Weighted;
        }),
    );
    let rules = Bandit::new(
        2,
        Form::Proportion,
        Direction::HigherIsBetter,
        0.1,
        rng.next_u64(),
    );
    let mut bandit = rules.expect("two arms and a floor of a tenth");
    let mut draws = Draws::new(rng);
    let devices = u64::from(setup.devices) * 2;
    for device in 0..devices {
        if device > 0 && device % LESSON == 0 {
            let arms = [*watch.analysis.moments(0, 0), *watch.analysis.moments(1, 0)];
            reweigh(&mut watch, bandit.learn(&arms));
        }
        let seed = draws.seed.clone();
        let (arm, _) = bandit.draw(&seed, draws.id(device));
        watch.analysis.expose(device, arm, device);
        let one = rng.chance(probability(setup, arm) + trend(device, devices));
        watch.reading(device, arm, one, device);
        if watch.over() {
            break;
        }
    }
    watch.finish(devices + 1)
}

fn shadow(setup: &Setup, rng: &mut Rng) -> Ending {
    let metric = Metric {
        name: "outcome".into(),
        form: Form::Mean,
        role: Role::Primary,
        direction: Direction::HigherIsBetter,
        margin: setup.margin,
    };
    let readings = u64::from(setup.devices) * 2;
    let planned = (readings as f64 / BLOCK as f64 / 2.0).max(10.0);
    let mut blocks = Blocks::new(metric, BLOCK, setup.alpha, planned, 30);
    let mut plain = Plain::default();
    let (mut common, mut end) = (0.0, Ending::default());
    for now in 0..readings + BLOCK {
        common = 0.95 * common + 0.02 * rng.normal();
        let outcome: [bool; 2] =
            std::array::from_fn(|arm| rng.chance(probability(setup, arm) + common));
        plain.count(0, outcome[0]);
        plain.count(1, outcome[1]);
        let [a, b] = outcome.map(|one| f64::from(u8::from(one)));
        blocks.tally(a, b, now);
        plain.look();
        if end.sign == 0 && !end.no_difference {
            end = match blocks.verdict() {
                Verdict::Better => Ending {
                    sign: 1,
                    matured: now,
                    ..end
                },
                Verdict::Worse => Ending {
                    sign: -1,
                    matured: now,
                    ..end
                },
                Verdict::NoDifference => Ending {
                    no_difference: true,
                    matured: now,
                    ..end
                },
                Verdict::Collecting | Verdict::BrokenSplit => end,
            };
        }
    }
    end.plain = plain.called;
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What [`crate::blocks`] warns of: sticky devices, one difference a block. What sets the devices apart looks like an effect.
    #[test]
    fn blocks_over_a_sticky_split_would_alarm_falsely() {
        let setup = Setup::new(Kind::Shadow, 0.0);
        let mut alarms = 0;
        for world in 0..100 {
            let mut rng = Rng::part(4, world);
            let metric = Metric {
                name: "outcome".into(),
                form: Form::Mean,
                role: Role::Primary,
                direction: Direction::HigherIsBetter,
                margin: 0.0,
            };
            let mut blocks = Blocks::new(metric, 1, 0.05, 100.0, 30);
            let mut devices: Vec<Active> = (0..100)
                .map(|device| {
                    Active::new(&setup, &mut rng, &AT_ONCE, device, (device % 2) as usize)
                })
                .collect();
            devices.iter_mut().for_each(|one| one.left = u32::MAX);
            for now in 0..300 {
                let mut sums = [0.0; 2];
                for one in &mut devices {
                    let outcome = one.read(&mut rng, 0.0, 0.0);
                    sums[one.arm] += f64::from(u8::from(outcome)) / 50.0;
                }
                blocks.tally(sums[0], sums[1], now);
            }
            alarms += u32::from(blocks.verdict() != Verdict::Collecting);
        }
        assert!(alarms > 50, "{alarms}");
    }
}
