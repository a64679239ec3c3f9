//! Silences: what is covered by one is recorded and told to nobody. Pure.

use crate::store::alerts::AlertRow;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most silences at once.
pub const MOST_SILENCES: usize = 1_000;

/// Alerts that fit all of what it names are not told until a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// Counts up with the changes.
    #[serde(default)]
    pub id: u64,
    /// Only of this rule.
    pub rule: Option<String>,
    /// Only of this endpoint.
    pub endpoint: Option<String>,
    /// Only of this device.
    pub device: Option<String>,
    /// Until then, Unix ms.
    pub until: i64,
    /// Who asked.
    pub who: String,
    /// Why.
    pub why: String,
    /// When it was asked, Unix ms.
    pub at: i64,
}

impl std::fmt::Display for Silence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            ("rule", &self.rule),
            ("endpoint", &self.endpoint),
            ("device", &self.device),
        ];
        let named = parts.iter().filter_map(|(what, name)| {
            let name = name.as_ref()?;
            Some(format!("{what} {name}"))
        });
        let named: Vec<String> = named.collect();
        let what = if named.is_empty() {
            "everything".to_owned()
        } else {
            named.join(", ")
        };
        write!(f, "{what} until {}: {}", self.until, self.why)
    }
}

impl Silence {
    fn covers(&self, alert: &AlertRow, now: i64) -> bool {
        let fits = |wanted: &Option<String>, given: Option<&str>| {
            wanted.as_deref().is_none_or(|name| Some(name) == given)
        };
        now < self.until
            && fits(&self.rule, Some(&alert.rule))
            && fits(&self.endpoint, alert.endpoint.as_deref())
            && fits(&self.device, alert.device.as_deref())
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Silences(BTreeMap<u64, Silence>);

impl Silences {
    /// Adds one, or replaces it.
    pub fn put(&mut self, silence: Silence) {
        self.0.insert(silence.id, silence);
    }

    /// Takes one out.
    pub fn take(&mut self, id: u64) -> Option<Silence> {
        self.0.remove(&id)
    }

    /// Whether one more is too many.
    pub fn is_full(&self) -> bool {
        self.0.len() >= MOST_SILENCES
    }

    /// Whether one of them covers an alert.
    pub fn cover(&self, alert: &AlertRow, now: i64) -> bool {
        self.0.values().any(|silence| silence.covers(alert, now))
    }

    /// Those in force.
    pub fn in_force(&self, now: i64) -> Vec<Silence> {
        let silences = self.0.values().filter(|silence| now < silence.until);
        silences.cloned().collect()
    }

    /// Takes out those that are over.
    pub fn take_ended(&mut self, now: i64) -> Vec<Silence> {
        let ended = self.0.values().filter(|silence| silence.until <= now);
        let ended: Vec<u64> = ended.map(|silence| silence.id).collect();
        ended.iter().filter_map(|id| self.0.remove(id)).collect()
    }
}
