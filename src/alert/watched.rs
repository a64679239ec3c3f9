//! One rule and what it is at with each thing that it watches. Pure.
//!
//! What is well costs nothing: only what is too much, or was a moment ago, has a cell. Of one rule at most [`NOTICES_A_MINUTE`] alerts are told a minute.

use super::book::{Notice, Seen};
use super::ledger::Ledger;
use super::machine::{Level, Machine, Times, Turn};
use crate::config::{AlertKind, AlertRule, RawAlert};
use crate::store::alerts::AlertRow;
use crate::stream::StreamKey;
use std::collections::HashMap;
use tidegate_protocol::Output;

/// Most open alerts; one more is not opened (logged).
pub const MOST_OPEN: usize = 100_000;
/// Alerts of one rule that are told a minute, each by itself.
pub const NOTICES_A_MINUTE: u32 = 100;
const MINUTE: i64 = 60_000;

/// A rule and what it is at.
pub(super) struct Watched {
    pub(super) rule: AlertRule,
    pub(super) raw: RawAlert,
    pub(super) from_file: bool,
    pub(super) streams: HashMap<StreamKey, Cell>,
    pub(super) areas: HashMap<String, Cell>,
    pub(super) told: Told,
}

/// One thing that a rule watches.
#[derive(Default)]
pub(super) struct Cell {
    pub(super) machine: Machine,
    pub(super) alert: Option<u64>,
}

/// How many alerts of a rule were told this minute.
#[derive(Default)]
pub(super) struct Told {
    pub(super) minute: i64,
    pub(super) count: u32,
    pub(super) left_out: u32,
}

/// What a rule has to say of a subject.
pub(super) struct Finding<'a> {
    pub(super) stream: Option<&'a StreamKey>,
    pub(super) endpoint: Option<&'a str>,
    pub(super) area: &'a str,
    pub(super) message: String,
    pub(super) value: Option<f64>,
    /// Since when, where that is known better than from the observations, Unix ms.
    pub(super) since: Option<i64>,
}

impl Watched {
    pub(super) fn new(rule: AlertRule, raw: RawAlert, from_file: bool) -> Self {
        Self {
            rule,
            raw,
            from_file,
            streams: HashMap::new(),
            areas: HashMap::new(),
            told: Told::default(),
        }
    }

    pub(super) fn covers(&self, key: &StreamKey) -> bool {
        let rule = &self.rule;
        rule.endpoint
            .as_ref()
            .is_none_or(|name| *name == key.endpoint)
            && rule
                .device
                .as_ref()
                .is_none_or(|device| *device == key.device)
    }

    pub(super) fn times(&self) -> Times {
        Times {
            // A silence is measured by its own length.
            hold: if self.rule.kind == AlertKind::Silent {
                0
            } else {
                self.rule.hold_ms
            },
            clear: if self.rule.kind == AlertKind::Silent {
                0
            } else {
                self.rule.clear_ms
            },
        }
    }

    pub(super) fn drive_stream<'a>(
        &mut self,
        key: &'a StreamKey,
        level: Level,
        now: i64,
        finding: impl FnOnce(&AlertRule) -> Finding<'a>,
        ledger: &mut Ledger,
    ) {
        let times = self.times();
        let cell = self.streams.entry(key.clone()).or_default();
        let turn = cell.machine.see(level, now, times);
        if let Some(turn) = turn {
            let finding = finding(&self.rule);
            take_turn(turn, cell, &self.rule, finding, now, &mut self.told, ledger);
        }
        if cell.machine == Machine::Quiet {
            self.streams.remove(key);
        }
    }

    pub(super) fn drive_area(
        &mut self,
        finding: Finding<'_>,
        level: Level,
        now: i64,
        ledger: &mut Ledger,
    ) {
        if level != Level::High && !self.areas.contains_key(finding.area) {
            return;
        }
        let times = self.times();
        let area = finding.area.to_owned();
        let cell = self.areas.entry(area.clone()).or_default();
        if let Some(turn) = cell.machine.see(level, now, times) {
            take_turn(turn, cell, &self.rule, finding, now, &mut self.told, ledger);
        }
        if cell.machine == Machine::Quiet {
            self.areas.remove(&area);
        }
    }

    pub(super) fn drive_server(
        &mut self,
        value: f64,
        message: String,
        now: i64,
        ledger: &mut Ledger,
    ) {
        let level = level_of(&self.rule, value);
        let finding = Finding {
            stream: None,
            endpoint: None,
            area: "",
            message,
            value: Some(value),
            since: None,
        };
        self.drive_area(finding, level, now, ledger);
    }

    pub(super) fn look_for_silent(
        &mut self,
        seen: &HashMap<StreamKey, i64>,
        now: i64,
        ledger: &mut Ledger,
    ) {
        let hold = self.rule.hold_ms;
        let silent = seen.iter().filter(|(_, at)| now - **at >= hold);
        for (key, at) in silent {
            let is_open = self
                .streams
                .get(key)
                .is_some_and(|cell| cell.alert.is_some());
            if is_open || !self.covers(key) {
                continue;
            }
            let finding = |_: &AlertRule| Finding {
                stream: Some(key),
                endpoint: Some(key.endpoint.as_str()),
                area: "",
                message: format!("no reading for {} s", (now - at) / 1_000),
                value: Some((now - at) as f64 / 1e3),
                since: Some(*at),
            };
            self.drive_stream(key, Level::High, now, finding, ledger);
        }
    }

    /// Time passes: what is well for long enough is over.
    pub(super) fn pass(&mut self, now: i64, ledger: &mut Ledger) {
        let times = self.times();
        let mut end = |cell: &mut Cell| {
            if cell.machine.pass(now, times).is_some()
                && let Some(id) = cell.alert.take()
            {
                ledger.resolve(id, now, self.told.may_tell(now), "");
            }
            cell.machine != Machine::Quiet
        };
        self.streams.retain(|_, cell| end(cell));
        self.areas.retain(|_, cell| end(cell));
    }

    /// One sentence for what was left out in the minute that is over.
    pub(super) fn tell_the_rest(&mut self, now: i64, ledger: &mut Ledger) {
        if self.told.left_out == 0 || now / MINUTE == self.told.minute {
            return;
        }
        let left_out = std::mem::take(&mut self.told.left_out);
        let rule = &self.rule;
        let alert = AlertRow {
            id: 0,
            rule: rule.name.clone(),
            kind: rule.kind.as_str().into(),
            severity: rule.severity.as_str().into(),
            endpoint: rule.endpoint.as_ref().map(ToString::to_string),
            device: None,
            area: String::new(),
            message: format!("{left_out} more alerts of this rule opened or ended within a minute"),
            value: Some(left_out.into()),
            since: now,
            opened_at: now,
            acknowledged: None,
            resolved_at: None,
            silenced: false,
        };
        if ledger.silences.cover(&alert, now) {
            return;
        }
        ledger.notices.push(Notice {
            alert,
            change: "more",
            who: None,
            at: now,
            stream: None,
        });
    }
}

impl Told {
    /// Whether one more may be told by itself.
    pub(super) fn may_tell(&mut self, now: i64) -> bool {
        let minute = now / MINUTE;
        if minute != self.minute {
            (self.minute, self.count) = (minute, 0);
        }
        if self.count >= NOTICES_A_MINUTE {
            self.left_out += 1;
            return false;
        }
        self.count += 1;
        true
    }
}

fn take_turn(
    turn: Turn,
    cell: &mut Cell,
    rule: &AlertRule,
    finding: Finding<'_>,
    now: i64,
    told: &mut Told,
    ledger: &mut Ledger,
) {
    match turn {
        Turn::Opened(since) => {
            if ledger.open.len() >= MOST_OPEN {
                tracing::warn!(
                    rule = rule.name,
                    "too many alerts are open: one more is left out"
                );
                cell.machine = Machine::Quiet;
                return;
            }
            cell.alert = Some(ledger.open(rule, finding, since, now, told));
        }
        Turn::Resolved => {
            if let Some(id) = cell.alert.take() {
                ledger.resolve(id, now, told.may_tell(now), "");
            }
        }
    }
}

pub(super) fn level_of(rule: &AlertRule, value: f64) -> Level {
    if value >= rule.above {
        Level::High
    } else if value >= rule.clear_below {
        Level::Between
    } else {
        Level::Low
    }
}

pub(super) fn anomaly_level(output: &Output) -> Option<Level> {
    match output {
        Output::Anomaly { anomaly: true, .. } => Some(Level::High),
        Output::Failed(_) | Output::Skipped(_) => None,
        _ => Some(Level::Low),
    }
}

pub(super) fn score_level(rule: &AlertRule, output: &Output) -> Option<Level> {
    let score = crate::store::rollup::score_of(output)?;
    score.is_finite().then(|| level_of(rule, score.into()))
}

pub(super) fn reading_finding<'a>(rule: &AlertRule, seen: &Seen<'a>) -> Finding<'a> {
    let score = crate::store::rollup::score_of(seen.output);
    let told = score.map_or_else(String::new, |score| format!(" (score {score:.3})"));
    let held = match rule.hold_ms / 1_000 {
        0 => String::new(),
        seconds => format!(" for {seconds} s"),
    };
    let message = match rule.kind {
        AlertKind::Anomaly => format!("anomaly{held}{told}"),
        _ => format!("score at or over {}{held}{told}", rule.above),
    };
    Finding {
        stream: Some(seen.key),
        endpoint: Some(seen.key.endpoint.as_str()),
        area: "",
        message,
        value: score.map(f64::from),
        since: None,
    }
}
