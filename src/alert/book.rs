//! Every rule, what it is at with each thing that it watches, the open alerts, and what is to be told and recorded. Pure: no clock, no I/O.
//!
//! `watched` is one rule, `ledger` what came of all of them. One alert a rule and subject at a time; everything is bounded.

use super::ledger::Ledger;
use super::machine::{Level, Machine};
use super::silence::{Silence, Silences};
use super::watched::{Cell, Finding, Watched, anomaly_level, reading_finding, score_level};
use crate::config::{AlertKind, AlertRule, RawAlert};
use crate::store::alerts::{AlertRecord, AlertRow, AlertState};
use crate::stream::StreamKey;
use std::collections::{BTreeMap, HashMap};
use tidegate_protocol::Output;

/// Devices whose last sign of life is remembered.
const MOST_SEEN: usize = 1_000_000;
/// Longest time between two looks for silent devices, ms.
const LONGEST_LOOK: i64 = 10_000;

/// A committed reading as rules see it.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Its device and endpoint.
    pub key: &'a StreamKey,
    /// When it arrived, Unix ms.
    pub at: i64,
    /// The answer.
    pub output: &'a Output,
    /// Back-filled: a sign of life, and nothing else.
    pub is_historical: bool,
}

/// Something that another part of the server watches.
#[derive(Debug, Clone, PartialEq)]
pub struct Signal {
    /// `drift` or `guardrail`.
    pub kind: AlertKind,
    /// The endpoint.
    pub endpoint: String,
    /// What of it: one alert a rule and area at a time.
    pub area: String,
    /// Whether it is bad now.
    pub is_bad: bool,
    /// What, for people.
    pub message: String,
    /// The number behind it.
    pub value: Option<f64>,
}

/// How the server is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Health {
    /// Age of the commit in progress, seconds.
    pub lag_s: f64,
    /// Share of the writer's queue that is full.
    pub queue: f64,
    /// Commits fail: nothing is known of who is silent.
    pub is_failing: bool,
}

/// Something to be told.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    /// The alert as it stands.
    pub alert: AlertRow,
    /// What happened: `opened`, `acknowledged`, `resolved`, `more`.
    pub change: &'static str,
    /// Who did it, where somebody did.
    pub who: Option<String>,
    /// When, Unix ms.
    pub at: i64,
    /// Its stream, where it is about a device.
    pub stream: Option<StreamKey>,
}

/// Why something cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    /// No open alert of that id.
    #[error("alert {0}: no such alert is open")]
    NotOpen(u64),
    /// No such rule.
    #[error("rule {0:?}: there is none")]
    UnknownRule(String),
    /// The rule stands in the configuration.
    #[error("rule {0:?}: it stands in the configuration and is changed there")]
    FromFile(String),
    /// No such silence.
    #[error("silence {0}: there is none")]
    UnknownSilence(u64),
    /// Too many of something.
    #[error("at most {0} {1} are allowed")]
    TooMany(usize, &'static str),
}

/// See the module.
pub struct Book {
    rules: Vec<Watched>,
    seen: HashMap<StreamKey, i64>,
    looked_at: i64,
    ledger: Ledger,
}

impl Book {
    /// A book with the rules of the configuration and what is stored. `now` is when the server starts.
    pub fn new(rules: &[(AlertRule, RawAlert)], stored: AlertState, now: i64) -> Self {
        let mut book = Self {
            rules: rules
                .iter()
                .map(|(rule, raw)| Watched::new(rule.clone(), raw.clone(), true))
                .collect(),
            seen: HashMap::new(),
            looked_at: 0,
            ledger: Ledger {
                open: BTreeMap::new(),
                silences: Silences::default(),
                newest_alert: stored.newest_alert,
                newest_change: stored.newest_change,
                record: AlertRecord {
                    until: stored.until,
                    ..AlertRecord::default()
                },
                notices: Vec::new(),
            },
        };
        book.read_settings(&stored.settings);
        book.reopen(stored.open, now);
        book
    }

    fn read_settings(&mut self, settings: &[(String, String)]) {
        for (key, body) in settings {
            if key.starts_with("silence/") {
                match serde_json::from_str(body) {
                    Ok(silence) => self.ledger.silences.put(silence),
                    Err(error) => tracing::warn!(key, %error, "a stored silence cannot be read"),
                }
                continue;
            }
            let raw = serde_json::from_str::<RawAlert>(body).map_err(|error| error.to_string());
            let checked = raw.and_then(|raw| Ok((AlertRule::check(&raw)?, raw)));
            match checked {
                Ok((rule, _)) if self.position(&rule.name).is_some() => {
                    tracing::warn!(
                        rule = rule.name,
                        "the configuration has a rule of that name: it wins"
                    );
                }
                Ok((rule, raw)) => self.rules.push(Watched::new(rule, raw, false)),
                Err(error) => tracing::warn!(key, error, "a stored rule cannot be used"),
            }
        }
    }

    /// Goes on with alerts that were open; those whose rule is gone are over.
    fn reopen(&mut self, open: Vec<AlertRow>, now: i64) {
        for row in open {
            let stream = stream_of(&row);
            let watched = self.rules.iter_mut().find(|watched| {
                watched.rule.name == row.rule && watched.rule.kind.as_str() == row.kind
            });
            let id = row.id;
            let cell = watched.map(|watched| match &stream {
                Some(key) => watched.streams.entry(key.clone()).or_default(),
                None => watched.areas.entry(row.area.clone()).or_default(),
            });
            self.ledger.open.insert(id, (row, stream));
            match cell {
                Some(cell) => {
                    *cell = Cell {
                        machine: Machine::reopened(now),
                        alert: Some(id),
                    }
                }
                None => self.ledger.resolve(id, now, true, "its rule is gone"),
            }
        }
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.rules
            .iter()
            .position(|watched| watched.rule.name == name)
    }

    /// Whether any rule asks who is silent.
    pub fn watches_silence(&self) -> bool {
        self.rules
            .iter()
            .any(|watched| watched.rule.kind == AlertKind::Silent)
    }

    /// A device was there at `at`, as the store says.
    pub fn remember(&mut self, key: StreamKey, at: i64) {
        if self.seen.len() < MOST_SEEN || self.seen.contains_key(&key) {
            let seen = self.seen.entry(key).or_insert(at);
            *seen = at.max(*seen);
        }
    }

    /// A reading was committed.
    pub fn see(&mut self, seen: Seen<'_>) {
        if !seen.key.is_live() {
            return;
        }
        let mut watches_silence = false;
        for watched in &mut self.rules {
            if !watched.rule.kind.is_of_device() || !watched.covers(seen.key) {
                continue;
            }
            let level = match watched.rule.kind {
                AlertKind::Silent => {
                    watches_silence = true;
                    Some(Level::Low)
                }
                _ if seen.is_historical => None,
                AlertKind::Anomaly => anomaly_level(seen.output),
                _ => score_level(&watched.rule, seen.output),
            };
            let Some(level) = level else { continue };
            if level != Level::High && !watched.streams.contains_key(seen.key) {
                continue;
            }
            let finding = |rule: &AlertRule| reading_finding(rule, &seen);
            watched.drive_stream(seen.key, level, seen.at, finding, &mut self.ledger);
        }
        if watches_silence {
            match self.seen.get_mut(seen.key) {
                Some(at) => *at = seen.at.max(*at),
                None => self.remember(seen.key.clone(), seen.at),
            }
        }
    }

    /// Another part of the server says how something is.
    pub fn signal(&mut self, signal: &Signal, now: i64) {
        for watched in &mut self.rules {
            let rule = &watched.rule;
            let endpoint = rule.endpoint.as_ref().map(|name| name.as_str());
            if rule.kind != signal.kind || endpoint.is_some_and(|name| name != signal.endpoint) {
                continue;
            }
            let level = if signal.is_bad {
                Level::High
            } else {
                Level::Low
            };
            let finding = Finding {
                stream: None,
                endpoint: Some(&signal.endpoint),
                area: &signal.area,
                message: signal.message.clone(),
                value: signal.value,
                since: None,
            };
            watched.drive_area(finding, level, now, &mut self.ledger);
        }
    }

    /// A second has passed.
    pub fn tick(&mut self, now: i64, health: Health) {
        let look_for_silence = !health.is_failing && self.is_look_due(now);
        for watched in &mut self.rules {
            match watched.rule.kind {
                AlertKind::StoreLag => {
                    let message = format!("a commit takes {:.1} s", health.lag_s);
                    watched.drive_server(health.lag_s, message, now, &mut self.ledger);
                }
                AlertKind::Queue => {
                    let message = format!("the store's queue is {:.0}% full", health.queue * 100.0);
                    watched.drive_server(health.queue, message, now, &mut self.ledger);
                }
                AlertKind::Silent if look_for_silence => {
                    watched.look_for_silent(&self.seen, now, &mut self.ledger);
                }
                _ => {}
            }
            watched.pass(now, &mut self.ledger);
            watched.tell_the_rest(now, &mut self.ledger);
        }
        self.ledger.end_silences(now);
    }

    /// Between two looks passes at most a tenth of the shortest silence that matters.
    fn is_look_due(&mut self, now: i64) -> bool {
        let silent = self
            .rules
            .iter()
            .filter(|watched| watched.rule.kind == AlertKind::Silent);
        let Some(shortest) = silent.map(|watched| watched.rule.hold_ms).min() else {
            return false;
        };
        let is_due = now - self.looked_at >= (shortest / 10).min(LONGEST_LOOK);
        if is_due {
            self.looked_at = now;
        }
        is_due
    }

    /// Somebody looks after an alert. Gives the number of the change.
    ///
    /// # Errors
    /// An alert that is not open.
    pub fn acknowledge(
        &mut self,
        id: u64,
        who: &str,
        why: &str,
        now: i64,
    ) -> Result<u64, BookError> {
        let ledger = &mut self.ledger;
        let (row, _) = ledger.open.get_mut(&id).ok_or(BookError::NotOpen(id))?;
        row.acknowledged = Some(crate::store::alerts::Acknowledged {
            who: who.to_owned(),
            why: why.to_owned(),
            at: now,
        });
        ledger.note(Some(id), now, "acknowledged", Some(who), why.to_owned());
        ledger.put(id);
        ledger.tell(id, "acknowledged", Some(who), now);
        Ok(ledger.newest_change)
    }

    /// Covers alerts until a time. Gives the silence's id, which is also the number of the change.
    ///
    /// # Errors
    /// Too many silences.
    pub fn silence(&mut self, mut silence: Silence, now: i64) -> Result<u64, BookError> {
        let ledger = &mut self.ledger;
        if ledger.silences.is_full() {
            return Err(BookError::TooMany(
                super::silence::MOST_SILENCES,
                "silences",
            ));
        }
        let text = silence.to_string();
        ledger.note(None, now, "silenced", Some(&silence.who), text);
        silence.id = ledger.newest_change;
        ledger.set(
            format!("silence/{}", silence.id),
            serde_json::to_string(&silence).ok(),
        );
        ledger.silences.put(silence);
        Ok(ledger.newest_change)
    }

    /// Ends a silence early. Gives the number of the change.
    ///
    /// # Errors
    /// No such silence.
    pub fn end_silence(&mut self, id: u64, who: &str, now: i64) -> Result<u64, BookError> {
        let ledger = &mut self.ledger;
        let silence = ledger
            .silences
            .take(id)
            .ok_or(BookError::UnknownSilence(id))?;
        ledger.note(None, now, "silence_ended", Some(who), silence.to_string());
        ledger.set(format!("silence/{id}"), None);
        ledger.tell_uncovered(now);
        Ok(ledger.newest_change)
    }

    /// Sets a rule; one of the same name is replaced, and its open alerts are over. Gives the number of the change.
    ///
    /// # Errors
    /// A rule of the configuration, or too many rules.
    pub fn put_rule(
        &mut self,
        rule: AlertRule,
        raw: RawAlert,
        who: &str,
        now: i64,
    ) -> Result<u64, BookError> {
        let name = rule.name.clone();
        match self.position(&name) {
            Some(index) if self.rules[index].from_file => return Err(BookError::FromFile(name)),
            Some(index) => self.drop_rule(index, now, "its rule was changed"),
            None if self.rules.len() >= 2 * crate::config::MOST_RULES => {
                return Err(BookError::TooMany(2 * crate::config::MOST_RULES, "rules"));
            }
            None => {}
        }
        let body = serde_json::to_string(&raw).unwrap_or_default();
        self.ledger
            .note(None, now, "rule_set", Some(who), body.clone());
        self.ledger.set(format!("rule/{name}"), Some(body));
        self.rules.push(Watched::new(rule, raw, false));
        Ok(self.ledger.newest_change)
    }

    /// Takes a rule away; its open alerts are over. Gives the number of the change.
    ///
    /// # Errors
    /// No such rule, or one of the configuration.
    pub fn remove_rule(&mut self, name: &str, who: &str, now: i64) -> Result<u64, BookError> {
        let index = self
            .position(name)
            .ok_or_else(|| BookError::UnknownRule(name.to_owned()))?;
        if self.rules[index].from_file {
            return Err(BookError::FromFile(name.to_owned()));
        }
        self.drop_rule(index, now, "its rule was removed");
        self.ledger
            .note(None, now, "rule_removed", Some(who), name.to_owned());
        self.ledger.set(format!("rule/{name}"), None);
        Ok(self.ledger.newest_change)
    }

    fn drop_rule(&mut self, index: usize, now: i64, why: &str) {
        let watched = self.rules.remove(index);
        let cells = watched
            .streams
            .into_values()
            .chain(watched.areas.into_values());
        for id in cells.filter_map(|cell| cell.alert) {
            self.ledger.resolve(id, now, true, why);
        }
    }

    /// Every rule as it was typed, and whether it stands in the configuration.
    pub fn rules(&self) -> Vec<(RawAlert, bool)> {
        let rules = self.rules.iter();
        rules
            .map(|watched| (watched.raw.clone(), watched.from_file))
            .collect()
    }

    /// Silences in force.
    pub fn silences(&self, now: i64) -> Vec<Silence> {
        self.ledger.silences.in_force(now)
    }

    /// Open alerts, newest first.
    pub fn open(&self) -> impl Iterator<Item = &AlertRow> {
        self.ledger.open.values().rev().map(|(row, _)| row)
    }

    /// How many alerts are open.
    pub fn open_count(&self) -> usize {
        self.ledger.open.len()
    }

    /// What is to be told, once.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.ledger.notices)
    }

    /// Samples up to here were looked at.
    pub fn passed(&mut self, until: u64) {
        self.ledger.record.until = until.max(self.ledger.record.until);
    }

    /// What is to be recorded, once; the newest change in it or before.
    pub fn take_record(&mut self) -> (AlertRecord, u64) {
        let until = self.ledger.record.until;
        let next = AlertRecord {
            until,
            ..AlertRecord::default()
        };
        let mut record = std::mem::replace(&mut self.ledger.record, next);
        // Of an alert that changed more than once the last state is all that counts.
        let mut newest = BTreeMap::new();
        for alert in record.alerts.drain(..) {
            newest.insert(alert.id, alert);
        }
        record.alerts = newest.into_values().collect();
        (record, self.ledger.newest_change)
    }

    /// Whether there is something to record beside the place in the log.
    pub fn has_changes(&self) -> bool {
        let record = &self.ledger.record;
        !record.changes.is_empty() || !record.alerts.is_empty() || !record.settings.is_empty()
    }
}

fn stream_of(row: &AlertRow) -> Option<StreamKey> {
    let (endpoint, device) = (row.endpoint.as_ref()?, row.device.as_ref()?);
    Some(StreamKey::live(
        endpoint.parse().ok()?,
        device.parse().ok()?,
    ))
}
