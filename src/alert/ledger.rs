//! The open alerts, the silences, and what is to be told and recorded of them. Pure.

use super::book::Notice;
use super::silence::Silences;
use super::watched::{Finding, Told};
use crate::config::AlertRule;
use crate::store::alerts::{AlertRecord, AlertRow, ChangeRow, Setting};
use crate::stream::StreamKey;
use std::collections::BTreeMap;

/// What came of it.
pub(super) struct Ledger {
    pub(super) open: BTreeMap<u64, (AlertRow, Option<StreamKey>)>,
    pub(super) silences: Silences,
    pub(super) newest_alert: u64,
    pub(super) newest_change: u64,
    pub(super) record: AlertRecord,
    pub(super) notices: Vec<Notice>,
}

impl Ledger {
    pub(super) fn open(
        &mut self,
        rule: &AlertRule,
        finding: Finding<'_>,
        since: i64,
        now: i64,
        told: &mut Told,
    ) -> u64 {
        self.newest_alert += 1;
        let id = self.newest_alert;
        let mut row = AlertRow {
            id,
            rule: rule.name.clone(),
            kind: rule.kind.as_str().into(),
            severity: rule.severity.as_str().into(),
            endpoint: finding.endpoint.map(str::to_owned),
            device: finding.stream.map(|key| key.device.to_string()),
            area: finding.area.to_owned(),
            message: finding.message,
            value: finding.value.filter(|value| value.is_finite()),
            since: finding.since.unwrap_or(since),
            opened_at: now,
            acknowledged: None,
            resolved_at: None,
            silenced: false,
        };
        row.silenced = self.silences.cover(&row, now);
        let is_told = !row.silenced && told.may_tell(now);
        let text = row.message.clone();
        self.open.insert(id, (row, finding.stream.cloned()));
        self.note(Some(id), now, "opened", None, text);
        self.put(id);
        if is_told {
            self.tell(id, "opened", None, now);
        }
        id
    }

    pub(super) fn resolve(&mut self, id: u64, now: i64, may_tell: bool, why: &str) {
        let Some((row, _)) = self.open.get_mut(&id) else {
            return;
        };
        row.resolved_at = Some(now);
        let was_silenced = row.silenced;
        self.note(Some(id), now, "resolved", None, why.to_owned());
        self.put(id);
        if may_tell && !was_silenced {
            self.tell(id, "resolved", None, now);
        }
        self.open.remove(&id);
    }

    pub(super) fn note(
        &mut self,
        alert: Option<u64>,
        at: i64,
        change: &str,
        who: Option<&str>,
        text: String,
    ) {
        self.newest_change += 1;
        self.record.changes.push(ChangeRow {
            n: self.newest_change,
            alert,
            at,
            change: change.to_owned(),
            who: who.map(str::to_owned),
            text,
        });
    }

    /// An alert is to be recorded as it stands.
    pub(super) fn put(&mut self, id: u64) {
        if let Some((row, _)) = self.open.get(&id) {
            self.record.alerts.push(row.clone());
        }
    }

    pub(super) fn set(&mut self, key: String, body: Option<String>) {
        self.record.settings.push(Setting { key, body });
    }

    pub(super) fn tell(&mut self, id: u64, change: &'static str, who: Option<&str>, at: i64) {
        let Some((row, stream)) = self.open.get(&id) else {
            return;
        };
        // What is covered is told to nobody; an alert that opened in a silence is told when that ends.
        if self.silences.cover(row, at) {
            return;
        }
        self.notices.push(Notice {
            alert: row.clone(),
            change,
            who: who.map(str::to_owned),
            at,
            stream: stream.clone(),
        });
    }

    pub(super) fn end_silences(&mut self, now: i64) {
        let ended = self.silences.take_ended(now);
        if ended.is_empty() {
            return;
        }
        for silence in ended {
            self.set(format!("silence/{}", silence.id), None);
        }
        self.tell_uncovered(now);
    }

    /// Alerts that opened in a silence, and that none covers any more, are told now.
    pub(super) fn tell_uncovered(&mut self, now: i64) {
        let mut uncovered = Vec::new();
        for (id, (row, _)) in &mut self.open {
            if row.silenced && !self.silences.cover(row, now) {
                row.silenced = false;
                uncovered.push(*id);
            }
        }
        for id in uncovered {
            self.put(id);
            self.tell(id, "opened", None, now);
        }
    }
}
