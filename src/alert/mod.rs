//! Alerts: rules over committed readings, silent devices, the server itself and what other parts signal; told, acknowledged, kept.
//!
//! `machine` is one rule with one thing it watches, `book` all of them; both are pure. One task follows the committed log and the clock, one
//! records, one a webhook sends; none of them is waited for by a reading. What is found is told first (log, subscribers, broker, webhooks) and recorded together
//! with the place in the log: after a crash the readings behind that place are looked at again, so an alert may be told twice and is never lost.

mod book;
mod ledger;
mod machine;
mod silence;
mod task;
mod watched;
mod webhook;

pub use book::{BookError, Health, Signal};
pub use silence::Silence;
pub use task::Watcher;

use crate::config::{AlertRule, RawAlert, Webhook};
use crate::push::Hub;
use crate::store::alerts::{AlertQuery, AlertRow, ChangeRow};
use crate::store::{Store, StoreError};
use crate::stream::{StreamKey, now_ms};
use crate::telemetry::metric;
use crate::upkeep::{Feed, Follower};
use book::{Book, Notice};
use parking_lot::Mutex;
use serde_json::json;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tidegate_protocol::live::AlertChange;
use tokio::sync::{Notify, watch};
use webhook::Sending;

/// Longest wait for a change to be recorded, before the person who asked is told that it is not.
const PATIENCE: Duration = Duration::from_secs(10);

/// Says an alert at the broker, if that has room for it: about this stream, or about the server.
pub type Broker = Box<dyn Fn(Option<&StreamKey>, &[u8]) -> bool + Send + Sync>;

/// Why something that a person asked for was not done.
#[derive(Debug, thiserror::Error)]
pub enum AlertError {
    /// It cannot be done.
    #[error(transparent)]
    Book(#[from] BookError),
    /// It is done, and a crash now would forget it.
    #[error("it is in force but not recorded yet: the store is slow or failing")]
    NotRecorded,
}

/// See the module.
pub struct Alerts {
    book: Mutex<Book>,
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
    webhooks: Vec<Sending>,
    broker: OnceLock<Broker>,
    /// There is something to record.
    changed: Notify,
    /// The newest change that is recorded.
    recorded: watch::Sender<u64>,
}

impl Alerts {
    /// Reads what is stored. Gives the writer's side of the log and the task that watches, which is to be spawned; `newest` is the newest
    /// committed sample.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub async fn open(
        store: Arc<dyn Store>,
        hub: Arc<Hub>,
        rules: &[(AlertRule, RawAlert)],
        webhooks: &[Webhook],
        newest: u64,
    ) -> Result<(Arc<Self>, Feed, Watcher), StoreError> {
        let stored = store.alert_state().await?;
        // The first start with rules raises no alerts about the past.
        let from = if stored.until == 0 {
            newest
        } else {
            stored.until.min(newest)
        };
        let (feed, follower) =
            Follower::new(Arc::clone(&store), from, newest, metric::ALERTS_LAGGED);
        let newest_change = stored.newest_change;
        let mut book = Book::new(rules, stored, now_ms());
        book.passed(from);
        let alerts = Arc::new(Self {
            book: Mutex::new(book),
            store,
            hub,
            webhooks: webhooks.iter().cloned().map(webhook::open).collect(),
            broker: OnceLock::new(),
            changed: Notify::new(),
            recorded: watch::Sender::new(newest_change),
        });
        let watcher = Watcher::new(Arc::clone(&alerts), follower);
        Ok((alerts, feed, watcher))
    }

    /// Alerts are said at this broker from now on.
    pub fn say_at(&self, broker: Broker) {
        // Told once, by who wires.
        let _ = self.broker.set(broker);
    }

    /// Another part of the server says how something is.
    pub fn signal(&self, signal: &Signal) {
        self.book.lock().signal(signal, now_ms());
        self.tell();
    }

    /// Open alerts that fit, newest first.
    pub fn open_alerts(&self, query: &AlertQuery) -> Vec<AlertRow> {
        let book = self.book.lock();
        let fits = |wanted: &Option<String>, given: Option<&str>| {
            wanted.as_deref().is_none_or(|name| Some(name) == given)
        };
        let fitting = book.open().filter(|row| {
            fits(&query.rule, Some(&row.rule))
                && fits(&query.endpoint, row.endpoint.as_deref())
                && fits(&query.device, row.device.as_deref())
                && query.from.is_none_or(|from| row.opened_at >= from)
                && query.to.is_none_or(|to| row.opened_at < to)
                && query.cursor.is_none_or(|cursor| row.id < cursor)
        });
        fitting.take(query.limit as usize).cloned().collect()
    }

    /// Alerts of now and before, newest first.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub async fn all_alerts(&self, query: &AlertQuery) -> Result<Vec<AlertRow>, StoreError> {
        self.store.alerts(query).await
    }

    /// What happened, newest first.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub async fn history(
        &self,
        alert: Option<u64>,
        cursor: Option<u64>,
        limit: u32,
    ) -> Result<Vec<ChangeRow>, StoreError> {
        self.store.alert_changes(alert, cursor, limit).await
    }

    /// Somebody looks after an alert; recorded when this returns.
    ///
    /// # Errors
    /// See [`AlertError`].
    pub async fn acknowledge(&self, id: u64, who: &str, why: &str) -> Result<(), AlertError> {
        let change = self.book.lock().acknowledge(id, who, why, now_ms())?;
        self.recorded(change).await
    }

    /// Covers alerts until a time; gives the silence's id. Recorded when this returns.
    ///
    /// # Errors
    /// See [`AlertError`].
    pub async fn silence(&self, silence: Silence) -> Result<u64, AlertError> {
        let id = self.book.lock().silence(silence, now_ms())?;
        self.recorded(id).await?;
        Ok(id)
    }

    /// Ends a silence early; recorded when this returns.
    ///
    /// # Errors
    /// See [`AlertError`].
    pub async fn end_silence(&self, id: u64, who: &str) -> Result<(), AlertError> {
        let change = self.book.lock().end_silence(id, who, now_ms())?;
        self.recorded(change).await
    }

    /// Silences in force.
    pub fn silences(&self) -> Vec<Silence> {
        self.book.lock().silences(now_ms())
    }

    /// Every rule as it was typed, and whether it stands in the configuration.
    pub fn rules(&self) -> Vec<(RawAlert, bool)> {
        self.book.lock().rules()
    }

    /// Sets a rule; recorded when this returns.
    ///
    /// # Errors
    /// See [`AlertError`].
    pub async fn put_rule(
        &self,
        rule: AlertRule,
        raw: RawAlert,
        who: &str,
    ) -> Result<(), AlertError> {
        let change = self.book.lock().put_rule(rule, raw, who, now_ms())?;
        self.recorded(change).await
    }

    /// Takes a rule away; recorded when this returns.
    ///
    /// # Errors
    /// See [`AlertError`].
    pub async fn remove_rule(&self, name: &str, who: &str) -> Result<(), AlertError> {
        let change = self.book.lock().remove_rule(name, who, now_ms())?;
        self.recorded(change).await
    }

    /// Tells what is to be told, and waits until the change is recorded.
    async fn recorded(&self, change: u64) -> Result<(), AlertError> {
        self.tell();
        let mut recorded = self.recorded.subscribe();
        let reached = recorded.wait_for(|newest| *newest >= change);
        match tokio::time::timeout(PATIENCE, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(AlertError::NotRecorded),
        }
    }

    /// Tells what is to be told, at every door. Never waits.
    fn tell(&self) {
        let (notices, open, has_changes) = {
            let mut book = self.book.lock();
            (book.take_notices(), book.open_count(), book.has_changes())
        };
        metrics::gauge!(metric::ALERTS_OPEN).set(open as f64);
        for notice in &notices {
            self.tell_one(notice);
        }
        if has_changes {
            self.changed.notify_one();
        }
    }

    fn tell_one(&self, notice: &Notice) {
        metrics::counter!(metric::ALERT_CHANGES, "change" => notice.change).increment(1);
        let alert = &notice.alert;
        let subject = match (&notice.stream, &alert.endpoint) {
            (Some(key), _) => key.to_string(),
            (None, Some(endpoint)) => endpoint.clone(),
            (None, None) => "server".to_owned(),
        };
        let (rule, severity, message) = (&alert.rule, &alert.severity, &alert.message);
        match notice.change {
            "opened" | "more" => {
                tracing::warn!(id = alert.id, %subject, rule, severity, message, "alert");
            }
            change => tracing::info!(id = alert.id, %subject, rule, change, "alert"),
        }
        self.hub
            .alert_change(notice.stream.as_ref(), to_event(notice));
        let body = to_body(notice);
        if let Some(broker) = self.broker.get() {
            // One that does not fit is counted by the door.
            broker(notice.stream.as_ref(), &body);
        }
        for webhook in &self.webhooks {
            webhook.send(severity, &body);
        }
    }
}

/// As subscribers hear it.
fn to_event(notice: &Notice) -> AlertChange {
    let alert = &notice.alert;
    AlertChange {
        id: alert.id,
        rule: alert.rule.clone(),
        kind: alert.kind.clone(),
        severity: alert.severity.clone(),
        change: notice.change.to_owned(),
        endpoint: alert.endpoint.clone().unwrap_or_default(),
        device: alert.device.clone().unwrap_or_default(),
        message: alert.message.clone(),
        who: notice.who.clone(),
        at: notice.at,
    }
}

/// As the broker and webhooks get it.
fn to_body(notice: &Notice) -> Arc<[u8]> {
    let alert = &notice.alert;
    let body = json!({
        "id": alert.id,
        "change": notice.change,
        "rule": alert.rule,
        "kind": alert.kind,
        "severity": alert.severity,
        "endpoint": alert.endpoint,
        "device": alert.device,
        "message": alert.message,
        "value": alert.value,
        "since": alert.since,
        "opened_at": alert.opened_at,
        "resolved_at": alert.resolved_at,
        "acknowledged": alert.acknowledged,
        "at": notice.at,
    });
    body.to_string().into_bytes().into()
}

#[cfg(test)]
mod tests;
