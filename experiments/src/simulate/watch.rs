//! Looks at an experiment while a world goes on, beside the plain z-test that everybody warns of.

use super::{Ending, Setup};
use crate::analysis::Analysis;
use crate::metric::{Direction, Form, Metric, Role};
use crate::plan::{Estimator, Plan};
use crate::verdict::{SRM_ALPHA, Verdict};
use serde::{Deserialize, Serialize};

/// Readings an arm before the plain test is looked at.
const PLAIN_LEAST: f64 = 100.0;
/// Its two-sided limit at 5%, squared.
const PLAIN_LIMIT: f64 = 1.96 * 1.96;

/// How often the verdict is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peek {
    /// After every reading.
    Always,
    /// After every so many readings.
    Every(u32),
    /// Once, when all is over.
    End,
}

/// The plain two-proportion z-test over readings.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Plain {
    ones: [f64; 2],
    all: [f64; 2],
    pub(super) called: bool,
}

impl Plain {
    #[inline]
    pub(super) fn count(&mut self, arm: usize, one: bool) {
        self.ones[arm] += f64::from(u8::from(one));
        self.all[arm] += 1.0;
    }

    #[inline]
    pub(super) fn look(&mut self) {
        let [n, m] = self.all;
        if self.called || n.min(m) < PLAIN_LEAST {
            return;
        }
        let pooled = (self.ones[0] + self.ones[1]) / (n + m);
        let variance = pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m);
        let d = self.ones[1] / m - self.ones[0] / n;
        self.called = d * d > PLAIN_LIMIT * variance;
    }
}

/// One experiment that is looked at.
pub(super) struct Watch {
    pub(super) analysis: Analysis,
    pub(super) plain: Plain,
    peek: Peek,
    since: u32,
    end: Option<Ending>,
    tested: bool,
}

impl Watch {
    pub(super) fn new(
        setup: &Setup,
        form: Form,
        horizon_ms: u64,
        change: impl Fn(&mut Plan),
    ) -> Self {
        let metric = Metric {
            name: "outcome".into(),
            form,
            role: Role::Primary,
            direction: Direction::HigherIsBetter,
            margin: setup.margin,
        };
        let mut plan = Plan {
            horizon_ms,
            min_ms: 0,
            alpha: setup.alpha,
            planned_devices: setup.planned_devices,
            estimator: Estimator::TwoSample,
            ..Plan::two_arms(vec![metric])
        };
        change(&mut plan);
        let analysis = Analysis::new(plan);
        Self {
            #[allow(
                clippy::expect_used,
                reason = "the setup was checked, and the plan is made here"
            )]
            analysis: analysis.expect("a simulated plan can be analysed"),
            plain: Plain::default(),
            peek: setup.peek,
            since: 0,
            end: None,
            tested: false,
        }
    }

    /// A reading with its outcome, then a look if one is due.
    #[inline]
    pub(super) fn reading(&mut self, device: u64, arm: usize, one: bool, now: u64) {
        self.analysis
            .tally(device, 0, f64::from(u8::from(one)), 1.0, now);
        self.plain.count(arm, one);
        self.since += 1;
        let due = match self.peek {
            Peek::Always => true,
            Peek::Every(readings) => self.since >= readings,
            Peek::End => false,
        };
        if due {
            self.since = 0;
            self.look(now);
        }
    }

    pub(super) fn look(&mut self, now: u64) {
        self.plain.look();
        if self.end.is_none() {
            self.end = ending(self.analysis.verdict(1, now), &self.analysis);
        }
    }

    /// Whether the verdict is there and the plain test has nothing left to show.
    pub(super) fn over(&self) -> bool {
        self.end.is_some() && (self.plain.called || self.tested)
    }

    /// An A/B world ends with its verdict; in an A/A world the plain test goes on.
    pub(super) fn ends_with_verdict(mut self) -> Self {
        self.tested = true;
        self
    }

    /// The last look, and the chi-square of the split if no verdict asked for it.
    pub(super) fn finish(mut self, now: u64) -> Ending {
        self.look(now);
        let broken = self.analysis.srm.p_once() < SRM_ALPHA;
        let mut end = self.end.unwrap_or(Ending {
            broken,
            ..Ending::default()
        });
        end.plain = self.plain.called;
        end
    }
}

fn ending(verdict: Verdict, analysis: &Analysis) -> Option<Ending> {
    let end = Ending {
        matured: analysis.arms.iter().map(|arm| arm.matured).sum(),
        ..Ending::default()
    };
    Some(match verdict {
        Verdict::Collecting => return None,
        Verdict::Better => Ending { sign: 1, ..end },
        Verdict::Worse => Ending { sign: -1, ..end },
        Verdict::NoDifference => Ending {
            no_difference: true,
            ..end
        },
        Verdict::BrokenSplit => Ending {
            broken: true,
            ..end
        },
    })
}
