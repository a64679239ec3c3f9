//! Worlds in which the truth is known, played through the very same analysis: how often does it err, what does it find, and when.
//!
//! A world has devices, readings and a true effect (0 in an A/A world); it calls [`crate::Analysis`] as the server does and looks after every
//! reading. Beside it runs a plain z-test over readings, looked at as often: what a false alarm costs who counts messages and peeks. Many
//! worlds give rates. Promises the same numbers for the same setup, whatever the number of threads: each world has a generator of its own.

mod watch;
mod worlds;

use crate::special::normal_quantile;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use watch::Peek;

/// Devices an arm at most.
pub const MAX_DEVICES: u32 = 1_000_000;
/// Worlds of a kind at most.
pub const MAX_WORLDS: u32 = 1_000_000;

/// Kinds of world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Devices come one after the other and answer once.
    Independent,
    /// The whole fleet is there from the first minute; 20 readings each.
    AtOnce,
    /// Devices differ, and a device's readings hang together; 20 readings each.
    Autocorrelated,
    /// Some devices read a hundred times as much as others, and the busy ones behave differently.
    Uneven,
    /// Bursts of arrivals, a daily wave, uneven and autocorrelated devices, looked at after every reading.
    Peeked,
    /// A small fleet, at most 100 devices an arm, through the exact process.
    Small,
    /// A canary from 1% to 50% while everything gets worse by the hour; control devices are drawn anew at each step.
    Ramp,
    /// A bandit that learns while everything gets worse by the hour.
    Bandit,
    /// Both versions on the same readings under a common disturbance; twice as many readings as devices an arm.
    Shadow,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Independent,
        Self::AtOnce,
        Self::Autocorrelated,
        Self::Uneven,
        Self::Peeked,
        Self::Small,
        Self::Ramp,
        Self::Bandit,
        Self::Shadow,
    ];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Independent => "independent",
            Self::AtOnce => "at-once",
            Self::Autocorrelated => "autocorrelated",
            Self::Uneven => "uneven",
            Self::Peeked => "peeked",
            Self::Small => "small",
            Self::Ramp => "ramp",
            Self::Bandit => "bandit",
            Self::Shadow => "shadow",
        }
    }

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What is played.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// In which kind of world.
    pub kind: Kind,
    /// Probability of the outcome in the control.
    pub baseline: f64,
    /// What the challenger adds to it; 0 is an A/A world.
    pub effect: f64,
    /// Devices an arm, about.
    pub devices: u32,
    /// How often the verdict is looked at.
    pub peek: Peek,
    /// How many worlds.
    pub worlds: u32,
    /// Where the randomness comes from.
    pub seed: u64,
    /// The error that a verdict may make.
    pub alpha: f64,
    /// N*: devices after which the interval is tightest.
    pub planned_devices: f64,
    /// The margin of the metric; with 0 no world ends with "no difference".
    pub margin: f64,
}

/// A setup that cannot be played.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{field}: {value} is out of bounds ({allowed})")]
pub struct SetupError {
    field: &'static str,
    value: f64,
    allowed: &'static str,
}

impl Setup {
    /// 5,000 devices an arm, 0.20, looked at always.
    pub fn new(kind: Kind, effect: f64) -> Self {
        Self {
            kind,
            baseline: 0.20,
            effect,
            devices: 5_000,
            peek: Peek::Always,
            worlds: 1_000,
            seed: 1,
            alpha: 0.05,
            planned_devices: 5_000.0,
            margin: 0.0,
        }
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// [`SetupError`] names the first that makes no sense.
    pub fn check(&self) -> Result<(), SetupError> {
        let challenger = self.baseline + self.effect;
        let rows = [
            ("baseline", self.baseline, 0.01, 0.99, "0.01 to 0.99"),
            (
                "effect",
                challenger,
                0.01,
                0.99,
                "baseline + effect must be 0.01 to 0.99",
            ),
            (
                "devices",
                f64::from(self.devices),
                10.0,
                f64::from(MAX_DEVICES),
                "10 to 1,000,000",
            ),
            (
                "worlds",
                f64::from(self.worlds),
                1.0,
                f64::from(MAX_WORLDS),
                "1 to 1,000,000",
            ),
            ("alpha", self.alpha, 1e-6, 0.2, "0.000001 to 0.2"),
            (
                "planned-devices",
                self.planned_devices,
                10.0,
                1e9,
                "10 to 1e9",
            ),
            ("margin", self.margin, 0.0, 1.0, "0 to 1"),
        ];
        for (field, value, low, high, allowed) in rows {
            if !(low..=high).contains(&value) {
                return Err(SetupError {
                    field,
                    value,
                    allowed,
                });
            }
        }
        Ok(())
    }
}

/// How one world ended.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Ending {
    /// The sign of the verdict: better 1, worse -1, none 0.
    pub sign: i8,
    pub no_difference: bool,
    /// The split was called broken, which it never is here.
    pub broken: bool,
    /// The plain z-test over readings called a difference at some look.
    pub plain: bool,
    /// Devices that had matured at the verdict (shadow: readings).
    pub matured: u64,
}

/// What many worlds of a kind say together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// What was played.
    pub setup: Setup,
    /// Share of worlds with "better" or "worse". A/A: false alarms.
    pub decided: f64,
    /// Upper end of the one-sided 95% interval of that share (Wilson, 1927).
    pub decided_below: f64,
    /// Share of worlds whose verdict has the sign of the true effect: the power.
    pub found: f64,
    /// Share of worlds whose verdict has the wrong sign.
    pub wrong_way: f64,
    /// Share of worlds with "no difference beyond the margin".
    pub no_difference: f64,
    /// Share of worlds whose split was called broken: false alarms.
    pub broken_split: f64,
    /// Share of worlds in which a plain z-test over readings, looked at as often, calls a difference.
    pub plain: f64,
    /// Devices that had matured at the verdict in half of the worlds that had one (shadow: readings).
    pub devices_median: Option<u64>,
    /// The same in nine of ten.
    pub devices_p90: Option<u64>,
}

/// Plays all worlds of a setup on `threads` threads.
///
/// # Errors
/// A setup that makes no sense.
pub fn run(setup: &Setup, threads: usize) -> Result<Rates, SetupError> {
    setup.check()?;
    let worlds = setup.worlds as usize;
    let next = AtomicUsize::new(0);
    let play = || {
        let mut ended = Vec::new();
        loop {
            let world = next.fetch_add(1, Ordering::Relaxed);
            if world >= worlds {
                return ended;
            }
            ended.push((world, worlds::play(setup, world as u64)));
        }
    };
    let mut ended: Vec<(usize, Ending)> = std::thread::scope(|scope| {
        let hands: Vec<_> = (0..threads.clamp(1, 256))
            .map(|_| scope.spawn(play))
            .collect();
        let all = hands.into_iter().flat_map(|hand| match hand.join() {
            Ok(part) => part,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        all.collect()
    });
    ended.sort_by_key(|(world, _)| *world);
    let endings: Vec<Ending> = ended.into_iter().map(|(_, ending)| ending).collect();
    Ok(Rates::of(setup.clone(), &endings))
}

impl Rates {
    fn of(setup: Setup, endings: &[Ending]) -> Self {
        let n = endings.len() as f64;
        let share = |holds: &dyn Fn(&Ending) -> bool| {
            endings.iter().filter(|ending| holds(ending)).count() as f64 / n
        };
        let truth = if setup.effect > 0.0 { 1 } else { -1 };
        let decided = share(&|one| one.sign != 0);
        let aa = setup.effect == 0.0;
        let mut matured: Vec<u64> = endings
            .iter()
            .filter(|one| one.sign != 0)
            .map(|one| one.matured)
            .collect();
        matured.sort_unstable();
        let at = |part: f64| {
            let last = matured.len().checked_sub(1)?;
            matured.get((last as f64 * part).round() as usize).copied()
        };
        Self {
            decided,
            decided_below: wilson_upper(decided, n),
            found: if aa {
                0.0
            } else {
                share(&|one| one.sign == truth)
            },
            wrong_way: if aa {
                0.0
            } else {
                share(&|one| one.sign == -truth)
            },
            no_difference: share(&|one| one.no_difference),
            broken_split: share(&|one| one.broken),
            plain: share(&|one| one.plain),
            devices_median: at(0.5),
            devices_p90: at(0.9),
            setup,
        }
    }
}

fn wilson_upper(share: f64, n: f64) -> f64 {
    let z = normal_quantile(0.95);
    let centre = share + z * z / (2.0 * n);
    let half = z * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    (centre + half) / (1.0 + z * z / n)
}

/// A/A and A/B rates of the same kinds side by side, as a Markdown table.
#[derive(Debug)]
pub struct Table<'a> {
    /// Worlds without an effect.
    pub without: &'a [Rates],
    /// The same kinds with one; may be empty.
    pub with: &'a [Rates],
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| world | A/A: false alarms | A/A: plain z-test | split called broken | A/B: found | wrong way | devices at verdict, median | 90% |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|")?;
        for (index, aa) in self.without.iter().enumerate() {
            let percent = |x: f64| format!("{:.1}%", x * 100.0);
            write!(
                f,
                "| {} | {} | {} | {} ",
                aa.setup.kind.name(),
                percent(aa.decided),
                percent(aa.plain),
                percent(aa.broken_split)
            )?;
            match self.with.get(index) {
                Some(ab) => {
                    let count = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
                    let (median, p90) = (count(ab.devices_median), count(ab.devices_p90));
                    let (found, wrong) = (percent(ab.found), percent(ab.wrong_way));
                    writeln!(f, "| {found} | {wrong} | {median} | {p90} |")?;
                }
                None => writeln!(f, "| - | - | - | - |")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_do_not_depend_on_the_threads() {
        let setup = Setup {
            worlds: 12,
            devices: 300,
            ..Setup::new(Kind::Peeked, 0.2)
        };
        assert_eq!(run(&setup, 1), run(&setup, 3));
        let shares = |seed| {
            let setup = Setup {
                seed,
                kind: Kind::Independent,
                worlds: 40,
                ..setup.clone()
            };
            run(&setup, 2).unwrap().devices_median
        };
        assert_ne!(shares(1), shares(2));
    }

    #[test]
    fn a_setup_that_makes_no_sense_names_its_field() {
        let setup = Setup::new(Kind::Independent, 0.9);
        let error = run(&setup, 1).unwrap_err().to_string();
        assert!(
            error.starts_with("effect: 1.1 is out of bounds (baseline + effect"),
            "{error}"
        );
        let none = Setup {
            worlds: 0,
            ..Setup::new(Kind::Independent, 0.0)
        };
        assert!(none.check().is_err());
        assert_eq!(Kind::parse("at-once"), Some(Kind::AtOnce));
        assert_eq!(Kind::parse("nowhere"), None);
    }

    #[test]
    fn a_share_has_the_upper_end_computed_by_hand() {
        // 23 in 1,000 at z = 1.645: (0.023 + 0.001353 + 1.645 sqrt(0.00002247 + 6.77e-7)) / 1.002706 = 0.03218.
        assert!((wilson_upper(0.023, 1_000.0) - 0.032_18).abs() < 1e-4);
    }
}
