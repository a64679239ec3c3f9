//! What the numbers of an experiment mean: a verdict in words for each challenger, the numbers behind it, and what is still needed.
//!
//! Owns the order of the questions: is the split broken, is there enough, is the interval clear of zero or within the margin, was a guardrail
//! harmed. Promises that a verdict other than `collecting` errs with probability `alpha` at most over all looks, and that a broken split is
//! never read past. It recommends; promoting and rolling back is the caller's to do.
//!
//! Source of the order: Kohavi, Tang and Xu (2020), *Trustworthy Online Controlled Experiments*, chapters 3 and 21.

use crate::analysis::{Analysis, Arm, FULL, Pair, overlap};
use crate::metric::{Direction, Estimate, Role};
use crate::plan::Estimator;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Below this p-value the split is broken.
pub const SRM_ALPHA: f64 = 0.001;
/// Below this p-value feedback is less complete in one arm.
pub const COVERAGE_ALPHA: f64 = 0.001;

/// What is said of a challenger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing can be said yet.
    Collecting,
    /// Better than the control in the primary metric.
    Better,
    /// Worse.
    Worse,
    /// The difference is within the margin, either way.
    NoDifference,
    /// Devices are not in the arms as asked: nothing here may be read.
    BrokenSplit,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Collecting => "collecting",
            Self::Better => "better",
            Self::Worse => "worse",
            Self::NoDifference => "no difference beyond the margin",
            Self::BrokenSplit => "broken split",
        })
    }
}

/// One metric of one challenger beside the control.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// The metric's name.
    pub metric: String,
    /// What it decides.
    pub role: Role,
    /// Challenger minus control in the metric's unit; none before there are enough devices.
    pub difference: Option<f64>,
    /// Its standard error.
    pub se: Option<f64>,
    /// The difference lies in here at all looks together; none where nothing is known on that side.
    pub lower: Option<f64>,
    /// See `lower`.
    pub upper: Option<f64>,
    /// The always-valid p-value (guardrail: of harm).
    pub p: f64,
    /// A guardrail is harmed beyond its margin.
    pub harmed: bool,
    /// No one value fits all looks: the difference itself moved, say with the season.
    pub moved: bool,
}

/// What is still missing for a verdict, if things stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Needed {
    /// More matured devices, in both arms together; none when the difference is too small to show or to be ruled out.
    pub devices: Option<u64>,
    /// How long that takes at the rate so far, or until the shortest run is over, whatever is longer; ms.
    pub ms: Option<u64>,
}

/// One challenger beside the control.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Which arm.
    pub arm: usize,
    /// Its name.
    pub name: String,
    /// What is said of it.
    pub verdict: Verdict,
    /// Not worse by the margin, whatever the verdict is: the interval lies above it. Never while the verdict may not be given.
    pub not_worse: bool,
    /// By metric, as in the plan.
    pub metrics: Vec<Compared>,
    /// The exact process's p-value for the primary metric, where it is used.
    pub p_exact: Option<f64>,
    /// Feedback is less complete in one of the arms: whom it is missing from may differ too.
    pub coverage_differs: bool,
    /// While collecting.
    pub needed: Option<Needed>,
    /// The verdict with its numbers, for people.
    pub words: String,
}

/// One arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmReport {
    /// Its name.
    pub name: String,
    /// Devices drawn into it.
    pub exposed: u64,
    /// Devices whose horizon is over.
    pub matured: u64,
    /// Share of those with a primary observation: the coverage of feedback; none before any matured.
    pub coverage: Option<f64>,
    /// Each metric; none before two devices were scored.
    pub metrics: Vec<Option<Estimate>>,
}

/// All that is known of an experiment at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Since the first exposure, ms.
    pub elapsed_ms: u64,
    /// By arm; 0 is the control.
    pub arms: Vec<ArmReport>,
    /// By challenger.
    pub comparisons: Vec<Comparison>,
    /// The live p-value that the split is as asked.
    pub p_split: f64,
    /// The chi-square's, looked at once when the first verdict was about to be given.
    pub p_split_once: Option<f64>,
    /// Exposures beyond the plan's `max_devices`.
    pub left_out: u64,
    /// Exposures of devices that came with another arm than before, and were not counted.
    pub other_arm: u64,
}

impl Report {
    /// Why a challenger must be taken back now: a guardrail is harmed, or it is worse.
    pub fn roll_back(&self, arm: usize) -> Option<String> {
        let one = self.of(arm)?;
        if one.verdict == Verdict::BrokenSplit {
            return None;
        }
        if let Some(harmed) = one.metrics.iter().find(|metric| metric.harmed) {
            return Some(format!(
                "guardrail `{}` is harmed: {}",
                harmed.metric,
                interval(harmed)
            ));
        }
        (one.verdict == Verdict::Worse).then(|| one.words.clone())
    }

    /// Whether a challenger may take over: better (or, if `non_inferior` suffices, surely not worse by the margin), no guardrail harmed, feedback
    /// equally complete. What stands in the way otherwise, in words.
    ///
    /// # Errors
    /// The reason.
    pub fn may_promote(&self, arm: usize, non_inferior: bool) -> Result<(), String> {
        let one = self
            .of(arm)
            .ok_or_else(|| format!("there is no challenger {arm}"))?;
        let fits = one.verdict == Verdict::Better || (non_inferior && one.not_worse);
        if !fits {
            return Err(one.words.clone());
        }
        if let Some(harmed) = one.metrics.iter().find(|metric| metric.harmed) {
            return Err(format!(
                "guardrail `{}` is harmed: {}",
                harmed.metric,
                interval(harmed)
            ));
        }
        if one.coverage_differs {
            return Err("feedback is less complete in one of the arms".into());
        }
        Ok(())
    }

    fn of(&self, arm: usize) -> Option<&Comparison> {
        self.comparisons.iter().find(|one| one.arm == arm)
    }
}

/// Writes the report; called by [`Analysis::report`] behind a refresh.
pub(crate) fn report(analysis: &mut Analysis, now_ms: u64) -> Report {
    let elapsed_ms = analysis
        .started_ms
        .map_or(0, |start| now_ms.saturating_sub(start));
    let found: Vec<Verdict> = (1..analysis.arms.len())
        .map(|arm| found(analysis, arm, elapsed_ms))
        .collect();
    let decides = (1..)
        .zip(&found)
        .any(|(arm, one)| *one != Verdict::Collecting || not_worse(analysis, arm, elapsed_ms));
    let broken = analysis.split_is_broken(decides);
    let comparisons = found
        .into_iter()
        .enumerate()
        .map(|(index, found)| {
            let verdict = if broken { Verdict::BrokenSplit } else { found };
            comparison(analysis, index + 1, verdict, elapsed_ms)
        })
        .collect();
    Report {
        elapsed_ms,
        arms: (0..analysis.arms.len())
            .map(|arm| arm_report(analysis, arm))
            .collect(),
        comparisons,
        p_split: analysis.srm.p_live(),
        p_split_once: analysis.srm_once,
        left_out: analysis.left_out,
        other_arm: analysis.other_arm,
    }
}

/// What the primary metric says, the split left aside. A few comparisons; cheap enough for every reading.
fn found(analysis: &Analysis, arm: usize, elapsed_ms: u64) -> Verdict {
    if elapsed_ms < analysis.plan.min_ms {
        return Verdict::Collecting;
    }
    let primary = analysis.primary();
    let metric = &analysis.plan.metrics[primary];
    let sequence = &analysis.pairs[arm - 1][primary].sequence;
    if let Some(exact) = analysis.exact.get(arm - 1) {
        if exact.p_value() <= analysis.plan.alpha_each() {
            let good = metric.direction.good(exact.difference().unwrap_or(0.0));
            return if good > 0.0 {
                Verdict::Better
            } else {
                Verdict::Worse
            };
        }
    } else if !sequence.contradicts_itself() && sequence.lower > 0.0 {
        return Verdict::Better;
    } else if !sequence.contradicts_itself() && sequence.upper < 0.0 {
        return Verdict::Worse;
    }
    let within = sequence.lower > -metric.margin && sequence.upper < metric.margin;
    if within && !sequence.contradicts_itself() {
        Verdict::NoDifference
    } else {
        Verdict::Collecting
    }
}

/// Whether a challenger is surely not worse by the margin.
fn not_worse(analysis: &Analysis, arm: usize, elapsed_ms: u64) -> bool {
    let primary = analysis.primary();
    let sequence = &analysis.pairs[arm - 1][primary].sequence;
    let margin = analysis.plan.metrics[primary].margin;
    elapsed_ms >= analysis.plan.min_ms && !sequence.contradicts_itself() && sequence.lower > -margin
}

impl Analysis {
    /// The verdict on a challenger without a report: refreshes, and looks. About 50 ns when nothing has matured.
    pub fn verdict(&mut self, arm: usize, now_ms: u64) -> Verdict {
        self.refresh(now_ms);
        let elapsed_ms = self
            .started_ms
            .map_or(0, |start| now_ms.saturating_sub(start));
        let found = found(self, arm, elapsed_ms);
        if self.split_is_broken(found != Verdict::Collecting) {
            Verdict::BrokenSplit
        } else {
            found
        }
    }

    /// The live test, and the chi-square if a verdict is about to be given: that one is looked at once and remembered.
    fn split_is_broken(&mut self, decides: bool) -> bool {
        if decides && self.srm_once.is_none() {
            self.srm_once = Some(self.srm.p_once());
        }
        self.srm.p_live() < SRM_ALPHA || self.srm_once.is_some_and(|p| p < SRM_ALPHA)
    }

    /// Whether a guardrail of a challenger is harmed beyond its margin.
    pub fn harmed(&self, arm: usize) -> bool {
        let pairs = self.pairs[arm - 1].iter().zip(&self.plan.metrics);
        pairs
            .filter(|(_, metric)| metric.role == Role::Guardrail)
            .any(|(pair, metric)| pair.sequence.lower > metric.margin)
    }
}

fn arm_report(analysis: &Analysis, arm: usize) -> ArmReport {
    let Arm {
        exposed,
        matured,
        covered,
        metrics,
    } = &analysis.arms[arm];
    let forms = analysis.plan.metrics.iter().map(|metric| metric.form);
    ArmReport {
        name: analysis.plan.arms[arm].clone(),
        exposed: *exposed,
        matured: *matured,
        coverage: (*matured > 0).then(|| covered.mean()),
        metrics: metrics
            .iter()
            .zip(forms)
            .map(|(one, form)| one.estimate(form))
            .collect(),
    }
}

fn comparison(analysis: &Analysis, arm: usize, verdict: Verdict, elapsed_ms: u64) -> Comparison {
    let metrics: Vec<Compared> = (0..analysis.plan.metrics.len())
        .map(|metric| compared(analysis, arm, metric))
        .collect();
    let needed = (verdict == Verdict::Collecting).then(|| needed(analysis, arm, elapsed_ms));
    let p_exact = analysis.exact.get(arm - 1).map(|one| one.p_value());
    let words = words(
        analysis,
        arm,
        verdict,
        &metrics[analysis.primary()],
        needed.as_ref(),
    );
    Comparison {
        arm,
        name: analysis.plan.arms[arm].clone(),
        verdict,
        not_worse: verdict != Verdict::BrokenSplit && not_worse(analysis, arm, elapsed_ms),
        coverage_differs: analysis.coverage[arm - 1].p < COVERAGE_ALPHA,
        metrics,
        p_exact,
        needed,
        words,
    }
}

fn compared(analysis: &Analysis, arm: usize, index: usize) -> Compared {
    let metric = &analysis.plan.metrics[index];
    let Pair {
        sequence, latest, ..
    } = &analysis.pairs[arm - 1][index];
    let finite = |x: f64| x.is_finite().then_some(x);
    // From "up is good" (guardrail: "up is harm") back to the metric's own direction.
    let up = match (metric.direction, metric.role) {
        (Direction::HigherIsBetter, Role::Guardrail)
        | (Direction::LowerIsBetter, Role::Primary | Role::Secondary) => false,
        (Direction::LowerIsBetter, Role::Guardrail) | (Direction::HigherIsBetter, _) => true,
    };
    let (lower, upper) = if up {
        (sequence.lower, sequence.upper)
    } else {
        (-sequence.upper, -sequence.lower)
    };
    Compared {
        metric: metric.name.clone(),
        role: metric.role,
        difference: latest.map(|one| one.value),
        se: latest.map(|one| one.se),
        lower: finite(lower),
        upper: finite(upper),
        p: sequence.p,
        harmed: metric.role == Role::Guardrail && sequence.lower > metric.margin,
        moved: sequence.contradicts_itself(),
    }
}

/// Devices and time until the difference as it is now shows, or is known to be within the margin, whichever comes first.
fn needed(analysis: &Analysis, arm: usize, elapsed_ms: u64) -> Needed {
    let primary = analysis.primary();
    let metric = &analysis.plan.metrics[primary];
    let (control, challenger) = (&analysis.arms[0], &analysis.arms[arm]);
    let matured = control.matured + challenger.matured;
    let devices = match analysis.pairs[arm - 1][primary].latest {
        None => least_devices(analysis, arm),
        Some(now) => {
            let variance = now.se * now.se * now.units;
            let until = |effect: f64| analysis.tuning(primary).units_needed(effect, variance);
            let (shows, ruled_out) = (
                until(now.value.abs()),
                until(metric.margin - now.value.abs()),
            );
            let units = match (shows, ruled_out) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            units.map(|units| ((units - now.units).max(0.0) / each(analysis, arm)).ceil() as u64)
        }
    };
    let rest_ms = analysis.plan.min_ms.saturating_sub(elapsed_ms);
    let ms = devices.and_then(|devices| match (devices, matured) {
        (0, _) => Some(rest_ms),
        (_, 0) => None,
        _ => {
            let each = elapsed_ms as f64 / matured as f64;
            Some(rest_ms.max((each * devices as f64) as u64))
        }
    });
    Needed { devices, ms }
}

/// Units that one more device of the two arms is worth.
fn each(analysis: &Analysis, arm: usize) -> f64 {
    if analysis.plan.estimator == Estimator::TwoSample {
        return 1.0;
    }
    let shares = analysis.srm.shares();
    let both = (shares[0] + shares[arm]).max(1e-9);
    (FULL * overlap(shares[0], shares[arm]) / both).max(1e-6)
}

/// Until both arms have as many as are read.
fn least_devices(analysis: &Analysis, arm: usize) -> Option<u64> {
    let primary = analysis.primary();
    let missing = |arm: usize| {
        let scored = analysis.arms[arm].metrics[primary].devices();
        let share = analysis.srm.shares()[arm];
        let rest = analysis.plan.min_devices.saturating_sub(scored) as f64;
        (share > 0.0).then(|| rest / share)
    };
    let of_all = missing(0)?.max(missing(arm)?);
    let shares = analysis.srm.shares();
    Some((of_all * (shares[0] + shares[arm])).ceil() as u64)
}

fn words(
    analysis: &Analysis,
    arm: usize,
    verdict: Verdict,
    primary: &Compared,
    needed: Option<&Needed>,
) -> String {
    let (name, metric) = (&analysis.plan.arms[arm], &primary.metric);
    match verdict {
        Verdict::BrokenSplit => {
            let p = analysis.srm.p_live().min(analysis.srm_once.unwrap_or(1.0));
            let counts: Vec<u64> = analysis.arms.iter().map(|one| one.exposed).collect();
            format!(
                "broken split: devices an arm are {counts:?}, p = {p:.1e}; find out why before reading anything"
            )
        }
        Verdict::Better | Verdict::Worse => match analysis.exact.get(arm - 1) {
            Some(exact) => format!(
                "`{name}` is {verdict} in `{metric}`: by {:.4} over {} devices (exact, p = {:.2e})",
                exact.difference().unwrap_or(0.0),
                exact.units(),
                exact.p_value()
            ),
            None => format!("`{name}` is {verdict} in `{metric}`: {}", interval(primary)),
        },
        Verdict::NoDifference => {
            let margin = analysis.plan.metrics[analysis.primary()].margin;
            format!(
                "`{name}`: no difference beyond the margin of {margin} in `{metric}`: {}",
                interval(primary)
            )
        }
        Verdict::Collecting => {
            let so_far = match primary.difference {
                Some(_) => interval(primary),
                None => "too few devices to read".into(),
            };
            let rest = needed.map_or(String::new(), Needed::to_string);
            format!("`{name}`: collecting; `{metric}` {so_far}; {rest}")
        }
    }
}

/// By how much, and between what.
fn interval(one: &Compared) -> String {
    let side = |x: Option<f64>| x.map_or("?".to_owned(), |x| format!("{x:.4}"));
    let by = one.difference.unwrap_or(f64::NAN);
    format!(
        "by {by:.4}, between {} and {}",
        side(one.lower),
        side(one.upper)
    )
}

impl fmt::Display for Needed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.devices, self.ms) {
            (None, _) => {
                f.write_str("what there is of a difference is too small to show or to rule out")
            }
            (Some(devices), None) => write!(f, "{devices} more devices needed"),
            (Some(devices), Some(ms)) => {
                let hours = ms as f64 / 3_600_000.0;
                write!(
                    f,
                    "{devices} more devices and {hours:.1} h needed if things stay as they are"
                )
            }
        }
    }
}
