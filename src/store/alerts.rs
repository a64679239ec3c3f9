//! What the store keeps of alerts: the alerts, what became of them, and the rules and silences that people set while the server runs.
//!
//! A part of the store's trait of its own, because nothing here is on the road. Promises that alerts, changes and settings of one record stand
//! together with the place in the committed log that they were made at, and that a record whose outcome was not known can be made again.

use super::{Result, StoreError};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

/// The name that the alerts' place in the committed log is kept under.
pub const CONSUMER: &str = "alerts";

/// An alert as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlertRow {
    /// Counts up.
    pub id: u64,
    /// The rule that raised it.
    pub rule: String,
    /// What the rule watches.
    pub kind: String,
    /// `info`, `warning` or `critical`.
    pub severity: String,
    /// The endpoint; `None` where it is about the server.
    pub endpoint: Option<String>,
    /// The device; `None` where it is about an endpoint or the server.
    pub device: Option<String>,
    /// What of the endpoint it is about, where that is not a device: one alert an area at a time.
    #[serde(default)]
    pub area: String,
    /// What, for people.
    pub message: String,
    /// The number that was too much, where there is one.
    pub value: Option<f64>,
    /// Since when it was too much, Unix ms.
    pub since: i64,
    /// When it became an alert, Unix ms.
    pub opened_at: i64,
    /// Who looks after it, and when that was said.
    pub acknowledged: Option<Acknowledged>,
    /// When it was well again, Unix ms; `None` while it is open.
    pub resolved_at: Option<i64>,
    /// Opened while a silence covered it: told to nobody.
    #[serde(default)]
    pub silenced: bool,
}

/// Who looks after an alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// Who.
    pub who: String,
    /// What they say.
    pub why: String,
    /// When, Unix ms.
    pub at: i64,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRow {
    /// Counts up.
    pub n: u64,
    /// The alert, where it is about one.
    pub alert: Option<u64>,
    /// When, Unix ms.
    pub at: i64,
    /// `opened`, `acknowledged`, `resolved`; `silenced`, `silence_ended`, `rule_set`, `rule_removed`.
    pub change: String,
    /// Who did it, where somebody did.
    pub who: Option<String>,
    /// What, for people.
    pub text: String,
}

/// A rule or a silence that was set or, without a body, taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// `rule/NAME` or `silence/ID`.
    pub key: String,
    /// As JSON.
    pub body: Option<String>,
}

/// What is recorded together.
#[derive(Debug, Clone, Default)]
pub struct AlertRecord {
    /// Samples of the committed log up to this id were looked at.
    pub until: u64,
    /// As they stand now.
    pub alerts: Vec<AlertRow>,
    /// In order.
    pub changes: Vec<ChangeRow>,
    /// In order.
    pub settings: Vec<Setting>,
}

/// What is there at a start.
#[derive(Debug, Clone, Default)]
pub struct AlertState {
    /// Samples up to this id were looked at; 0 before the first record.
    pub until: u64,
    /// The newest alert's id.
    pub newest_alert: u64,
    /// The newest change's number.
    pub newest_change: u64,
    /// Open ones.
    pub open: Vec<AlertRow>,
    /// Key and body of each.
    pub settings: Vec<(String, String)>,
}

/// Which alerts to read, newest first.
#[derive(Debug, Clone, Default)]
pub struct AlertQuery {
    /// Only of this rule.
    pub rule: Option<String>,
    /// Only of this endpoint.
    pub endpoint: Option<String>,
    /// Only of this device.
    pub device: Option<String>,
    /// Opened at or after, Unix ms.
    pub from: Option<i64>,
    /// Opened before, Unix ms.
    pub to: Option<i64>,
    /// With lower ids than this.
    pub cursor: Option<u64>,
    /// At most so many.
    pub limit: u32,
}

/// See the module.
pub trait Alerting: Send + Sync + 'static {
    /// What is there.
    fn alert_state(&self) -> BoxFuture<'_, Result<AlertState>>;

    /// Records all of it in one transaction. The same record again changes nothing.
    fn record_alerts<'a>(&'a self, record: &'a AlertRecord) -> BoxFuture<'a, Result<()>>;

    /// Alerts, newest first.
    fn alerts<'a>(&'a self, query: &'a AlertQuery) -> BoxFuture<'a, Result<Vec<AlertRow>>>;

    /// What happened, newest first: to one alert, or everything; with lower numbers than `cursor`.
    fn alert_changes(
        &self,
        alert: Option<u64>,
        cursor: Option<u64>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<ChangeRow>>>;

    /// Deletes alerts that were resolved before `before` (Unix ms), and changes as old, at most `most` of each.
    fn expire_alerts(&self, before: i64, most: u32) -> BoxFuture<'_, Result<u64>>;
}

/// Columns of an alert by which it is looked up: a condition over parameters 1 to 6 and the limit, 7.
pub const SELECT_ALERTS: &str = "SELECT body FROM alerts WHERE (CAST($1 AS TEXT) IS NULL OR rule = $1) \
     AND (CAST($2 AS TEXT) IS NULL OR endpoint = $2) AND (CAST($3 AS TEXT) IS NULL OR device = $3) \
     AND (CAST($4 AS BIGINT) IS NULL OR opened_at >= $4) AND (CAST($5 AS BIGINT) IS NULL OR opened_at < $5) \
     AND (CAST($6 AS BIGINT) IS NULL OR id < $6) ORDER BY id DESC LIMIT $7";
/// Changes of one alert or all, below a number.
pub const SELECT_CHANGES: &str = "SELECT body FROM alert_changes WHERE (CAST($1 AS BIGINT) IS NULL OR alert_id = $1) \
     AND (CAST($2 AS BIGINT) IS NULL OR n < $2) ORDER BY n DESC LIMIT $3";
/// Newest numbers and the place in the log.
pub const SELECT_NEWEST: &str = "SELECT coalesce((SELECT max(id) FROM alerts), 0), coalesce((SELECT max(n) FROM alert_changes), 0), \
     coalesce((SELECT sample_id FROM consumers WHERE name = $1), 0)";
/// Every open alert.
pub const SELECT_OPEN: &str = "SELECT body FROM alerts WHERE resolved_at IS NULL ORDER BY id";
/// Every setting.
pub const SELECT_SETTINGS: &str = "SELECT key, body FROM alert_settings ORDER BY key";
/// One alert as it stands.
pub const PUT_ALERT: &str = "INSERT INTO alerts (id, rule, endpoint, device, opened_at, resolved_at, body) \
     VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO UPDATE SET resolved_at = excluded.resolved_at, body = excluded.body";
/// One change.
pub const ADD_CHANGE: &str = "INSERT INTO alert_changes (n, alert_id, at, body) VALUES ($1, $2, $3, $4) ON CONFLICT (n) DO NOTHING";
/// One setting.
pub const PUT_SETTING: &str = "INSERT INTO alert_settings (key, body) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET body = excluded.body";
/// One setting less.
pub const DROP_SETTING: &str = "DELETE FROM alert_settings WHERE key = $1";
/// The place in the log.
pub const PUT_PLACE: &str = "INSERT INTO consumers (name, sample_id) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET sample_id = excluded.sample_id";
/// Resolved alerts that are too old.
pub const EXPIRE_ALERTS: &str = "DELETE FROM alerts WHERE id IN (SELECT id FROM alerts WHERE resolved_at < $1 ORDER BY resolved_at LIMIT $2)";
/// Changes that are too old.
pub const EXPIRE_CHANGES: &str = "DELETE FROM alert_changes WHERE n IN (SELECT n FROM alert_changes WHERE at < $1 ORDER BY at LIMIT $2)";

/// A row out of its JSON.
pub fn from_body<T: for<'de> Deserialize<'de>>(body: &str) -> Result<T> {
    serde_json::from_str(body).map_err(|error| StoreError::Corrupt(format!("an alert: {error}")))
}

/// A row as JSON.
pub fn to_body<T: Serialize>(row: &T) -> Result<String> {
    serde_json::to_string(row).map_err(|error| StoreError::Corrupt(format!("an alert: {error}")))
}

/// The statements of a record through a connection of either database; both take the same text.
macro_rules! write_record {
    ($connection:expr, $record:expr) => {{
        for alert in &$record.alerts {
            sqlx::query(crate::store::alerts::PUT_ALERT)
                .bind(crate::store::rows::signed(alert.id))
                .bind(alert.rule.as_str())
                .bind(alert.endpoint.as_deref())
                .bind(alert.device.as_deref())
                .bind(alert.opened_at)
                .bind(alert.resolved_at)
                .bind(crate::store::alerts::to_body(alert)?)
                .execute(&mut *$connection)
                .await?;
        }
        for change in &$record.changes {
            sqlx::query(crate::store::alerts::ADD_CHANGE)
                .bind(crate::store::rows::signed(change.n))
                .bind(change.alert.map(crate::store::rows::signed))
                .bind(change.at)
                .bind(crate::store::alerts::to_body(change)?)
                .execute(&mut *$connection)
                .await?;
        }
        for setting in &$record.settings {
            match &setting.body {
                Some(body) => sqlx::query(crate::store::alerts::PUT_SETTING)
                    .bind(setting.key.as_str())
                    .bind(body.as_str())
                    .execute(&mut *$connection)
                    .await
                    .map(|_| ())?,
                None => sqlx::query(crate::store::alerts::DROP_SETTING)
                    .bind(setting.key.as_str())
                    .execute(&mut *$connection)
                    .await
                    .map(|_| ())?,
            }
        }
        sqlx::query(crate::store::alerts::PUT_PLACE)
            .bind(crate::store::alerts::CONSUMER)
            .bind(crate::store::rows::signed($record.until))
            .execute(&mut *$connection)
            .await?;
        Ok(())
    }};
}
pub(super) use write_record;

/// What is there, read through a connection of either database.
macro_rules! read_state {
    ($connection:expr) => {{
        let newest = sqlx::query(crate::store::alerts::SELECT_NEWEST)
            .bind(crate::store::alerts::CONSUMER)
            .fetch_one(&mut *$connection)
            .await?;
        let open: Vec<String> = sqlx::query_scalar(crate::store::alerts::SELECT_OPEN)
            .fetch_all(&mut *$connection)
            .await?;
        let settings = sqlx::query_as(crate::store::alerts::SELECT_SETTINGS)
            .fetch_all(&mut *$connection)
            .await?;
        let number = |column: usize| -> u64 {
            u64::try_from(newest.get::<i64, _>(column)).unwrap_or_default()
        };
        let open: Result<Vec<_>> = open
            .iter()
            .map(|body| crate::store::alerts::from_body(body))
            .collect();
        crate::store::alerts::AlertState {
            until: number(2),
            newest_alert: number(0),
            newest_change: number(1),
            open: open?,
            settings,
        }
    }};
}
pub(super) use read_state;

/// Alerts that fit a query, through a connection of either database.
macro_rules! read_alerts {
    ($connection:expr, $query:expr) => {{
        let bodies: Vec<String> = sqlx::query_scalar(crate::store::alerts::SELECT_ALERTS)
            .bind($query.rule.as_deref())
            .bind($query.endpoint.as_deref())
            .bind($query.device.as_deref())
            .bind($query.from)
            .bind($query.to)
            .bind($query.cursor.map(crate::store::rows::signed))
            .bind(i64::from($query.limit))
            .fetch_all(&mut *$connection)
            .await?;
        let alerts: Result<Vec<_>> = bodies
            .iter()
            .map(|body| crate::store::alerts::from_body(body))
            .collect();
        alerts?
    }};
}
pub(super) use read_alerts;

/// Changes of one alert or all, through a connection of either database.
macro_rules! read_changes {
    ($connection:expr, $alert:expr, $cursor:expr, $limit:expr) => {{
        let bodies: Vec<String> = sqlx::query_scalar(crate::store::alerts::SELECT_CHANGES)
            .bind($alert.map(crate::store::rows::signed))
            .bind($cursor.map(crate::store::rows::signed))
            .bind(i64::from($limit))
            .fetch_all(&mut *$connection)
            .await?;
        let changes: Result<Vec<_>> = bodies
            .iter()
            .map(|body| crate::store::alerts::from_body(body))
            .collect();
        changes?
    }};
}
pub(super) use read_changes;

/// Deletes what is too old, through a connection of either database.
macro_rules! expire {
    ($connection:expr, $before:expr, $most:expr) => {{
        let mut gone = 0;
        for statement in [
            crate::store::alerts::EXPIRE_ALERTS,
            crate::store::alerts::EXPIRE_CHANGES,
        ] {
            let done = sqlx::query(statement)
                .bind($before)
                .bind(i64::from($most))
                .execute(&mut *$connection)
                .await?;
            gone += done.rows_affected();
        }
        Ok(gone)
    }};
}
pub(super) use expire;
