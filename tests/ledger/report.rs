//! What a run came to: a line a seed, a table at the end, and how to see a failed seed again.

use super::checks::{Findings, Kind};
use super::ledger::{Fate, Ledger};
use super::plan::Plan;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

/// Findings of one seed that are shown in words.
const SHOWN: usize = 12;

/// One seed.
pub struct Outcome {
    plan: Plan,
    took: Duration,
    faults: BTreeMap<&'static str, u64>,
    found: Findings,
    /// The data of a failed seed.
    kept: Option<PathBuf>,
    readings: u64,
    acked: u64,
    nacked: u64,
    resent: u64,
}

impl Outcome {
    pub fn new(
        plan: Plan,
        took: Duration,
        faults: BTreeMap<&'static str, u64>,
        found: Findings,
        kept: Option<PathBuf>,
    ) -> Self {
        Self {
            plan,
            took,
            faults,
            found,
            kept,
            readings: 0,
            acked: 0,
            nacked: 0,
            resent: 0,
        }
    }

    /// Counts a device in.
    pub fn add(&mut self, ledger: &Ledger) {
        self.readings += ledger.sent_once() as u64;
        self.acked += ledger.count(|fate| fate == Fate::Acked) as u64;
        self.nacked += ledger.count(|fate| matches!(fate, Fate::Nacked(_))) as u64;
        self.resent += ledger.resent();
        *self.faults.entry("duplicate").or_default() += ledger.scrambled.0;
        *self.faults.entry("reorder").or_default() += ledger.scrambled.1;
    }

    /// Whether every promise was kept.
    pub fn is_good(&self) -> bool {
        self.found.0.is_empty()
    }

    /// Whether there is more to tell than its line.
    pub fn has_story(&self) -> bool {
        self.kept.is_some()
    }

    /// The line of a seed.
    pub fn line(&self) -> String {
        let faults: Vec<_> = self
            .faults
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        let verdict = if self.is_good() { "ok" } else { "BROKEN" };
        format!(
            "seed {:<5} {:<8} {verdict:<6} {:>5.1} s  readings {:>5}  acked {:>5}  nacked {:>3}  re-sent {:>5}  {}",
            self.plan.seed,
            self.plan.store.name(),
            self.took.as_secs_f64(),
            self.readings,
            self.acked,
            self.nacked,
            self.resent,
            faults.join(", ")
        )
    }

    /// What went wrong, the plan, and how to see it again.
    pub fn story(&self) -> String {
        let mut text = format!("{}", self.plan);
        for (kind, what) in self.found.0.iter().take(SHOWN) {
            let _ = writeln!(text, "  {}: {what}", kind.name());
        }
        if self.found.0.len() > SHOWN {
            let _ = writeln!(text, "  and {} more", self.found.0.len() - SHOWN);
        }
        if let Some(kept) = &self.kept {
            let _ = writeln!(text, "  data and log: {}", kept.display());
        }
        let _ = write!(
            text,
            "  again: cargo xtask ledger --seed {} --store {}",
            self.plan.seed,
            self.plan.store.name()
        );
        text
    }
}

/// The table of a whole run.
pub fn table(outcomes: &[Outcome]) -> String {
    let sum = |count: fn(&Outcome) -> u64| outcomes.iter().map(count).sum::<u64>();
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    for (kind, count) in outcomes.iter().flat_map(|outcome| &outcome.faults) {
        *faults.entry(kind).or_default() += count;
    }
    let took = outcomes
        .iter()
        .map(|outcome| outcome.took)
        .sum::<Duration>();
    let mut rows = vec![
        ("seeds", outcomes.len() as u64),
        ("seconds", took.as_secs()),
        ("readings", sum(|outcome| outcome.readings)),
        ("acked", sum(|outcome| outcome.acked)),
        ("nacked", sum(|outcome| outcome.nacked)),
        ("re-sent", sum(|outcome| outcome.resent)),
    ];
    rows.extend(faults.iter().map(|(kind, count)| (*kind, *count)));
    for kind in Kind::ALL {
        let broken = outcomes.iter().map(|outcome| outcome.found.count(kind));
        rows.push((kind.name(), broken.sum::<usize>() as u64));
    }
    let mut text = String::new();
    for (name, value) in rows {
        let _ = writeln!(text, "{name:<32} {value:>10}");
    }
    text
}
