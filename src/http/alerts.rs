//! Alerts over HTTP: what is open, what was, who looks after it, silences, and rules.
//!
//! Open alerts come from memory, the rest from the store. A change is answered when it is recorded. Rules of the configuration can be read here
//! and are changed there.

use super::models::{asked, only_json};
use super::{Problem, Shared, Site};
use crate::alert::{AlertError, BookError, Silence};
use crate::config::{AlertRule, RawAlert};
use crate::store::alerts::{AlertQuery, AlertRow, ChangeRow};
use crate::stream::{Moment, now_ms};
use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tidegate_protocol::MAX_NUMBER;
use utoipa::{IntoParams, ToSchema};

/// Longest silence, ms: a year.
const LONGEST_SILENCE: i64 = 365 * 24 * 3_600_000;

/// The routes.
pub(super) fn routes() -> Router<Arc<Site>> {
    Router::new()
        .route("/api/v1/alerts", get(list))
        .route("/api/v1/alerts/history", get(history))
        .route("/api/v1/alerts/{id}/acknowledge", post(acknowledge))
        .route("/api/v1/alerts/rules", get(rules))
        .route(
            "/api/v1/alerts/rules/{name}",
            put(put_rule).delete(remove_rule),
        )
        .route("/api/v1/alerts/silences", get(silences).post(silence))
        .route("/api/v1/alerts/silences/{id}/end", post(end_silence))
}

/// Which alerts to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct AlertParameters {
    /// `open` (when left out) or `all`.
    state: Option<String>,
    /// Only of this rule.
    rule: Option<String>,
    /// Only of this endpoint.
    endpoint: Option<String>,
    /// Only of this device.
    device: Option<String>,
    /// Opened at or after: RFC 3339 or Unix ms.
    #[param(value_type = Option<String>)]
    from: Option<Moment>,
    /// Opened before: RFC 3339 or Unix ms.
    #[param(value_type = Option<String>)]
    to: Option<Moment>,
    /// At most so many, up to 1,000; 100 when left out.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<u64>,
}

/// A page of alerts, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct AlertPage {
    #[schema(value_type = Vec<Object>)]
    alerts: Vec<AlertRow>,
    next_cursor: Option<String>,
}

/// Alerts, newest first: those that are open, or all that are kept.
#[utoipa::path(get, path = "/api/v1/alerts", params(AlertParameters),
    responses((status = 200, body = AlertPage), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub async fn list(
    site: Shared,
    parameters: Result<Query<AlertParameters>, QueryRejection>,
) -> Result<Json<AlertPage>, Problem> {
    let Query(parameters) = parameters?;
    let limit = super::api::check_limit(parameters.limit)?;
    let query = AlertQuery {
        rule: parameters.rule,
        endpoint: parameters.endpoint,
        device: parameters.device,
        from: parameters.from.map(|from| from.0),
        to: parameters.to.map(|to| to.0),
        cursor: check_cursor(parameters.cursor)?,
        limit,
    };
    let alerts = match parameters.state.as_deref() {
        None | Some("open") => site.alerts.open_alerts(&query),
        Some("all") => site.alerts.all_alerts(&query).await?,
        Some(_) => return Err(Problem::bad_request("state: expected open or all")),
    };
    let last = alerts.last().filter(|_| alerts.len() == limit as usize);
    Ok(Json(AlertPage {
        next_cursor: last.map(|row| row.id.to_string()),
        alerts,
    }))
}

/// Which part of the history to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct HistoryParameters {
    /// Only of this alert.
    alert: Option<u64>,
    /// At most so many, up to 1,000; 100 when left out.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<u64>,
}

/// A page of the history, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct HistoryPage {
    #[schema(value_type = Vec<Object>)]
    changes: Vec<ChangeRow>,
    next_cursor: Option<String>,
}

/// What happened: alerts that opened and ended, who acknowledged, silenced or changed a rule.
#[utoipa::path(get, path = "/api/v1/alerts/history", params(HistoryParameters),
    responses((status = 200, body = HistoryPage), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub async fn history(
    site: Shared,
    parameters: Result<Query<HistoryParameters>, QueryRejection>,
) -> Result<Json<HistoryPage>, Problem> {
    let Query(parameters) = parameters?;
    let limit = super::api::check_limit(parameters.limit)?;
    let cursor = check_cursor(parameters.cursor)?;
    let alert = check_cursor(parameters.alert)?;
    let changes = site.alerts.history(alert, cursor, limit).await?;
    let last = changes.last().filter(|_| changes.len() == limit as usize);
    Ok(Json(HistoryPage {
        next_cursor: last.map(|row| row.n.to_string()),
        changes,
    }))
}

fn check_cursor(number: Option<u64>) -> Result<Option<u64>, Problem> {
    match number {
        Some(number) if number > MAX_NUMBER => {
            Err(Problem::bad_request("alert and cursor are at most 2^53-1"))
        }
        number => Ok(number),
    }
}

/// Who asks, and why.
#[derive(Debug, Deserialize, ToSchema)]
struct WhoBody {
    /// 1 to 128 characters.
    who: String,
    /// At most 1,024 characters.
    #[serde(default)]
    why: String,
}

/// What was done.
#[derive(Debug, Serialize, ToSchema)]
pub struct DoneBody {
    /// Of the alert or the silence.
    id: u64,
}

/// Somebody looks after an alert. It stays open until it is well.
#[utoipa::path(post, path = "/api/v1/alerts/{id}/acknowledge", request_body = WhoBody, params(("id" = u64, Path)),
    responses((status = 200, body = DoneBody), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 503, body = Problem)))]
pub async fn acknowledge(
    site: Shared,
    path: Result<Path<u64>, PathRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<DoneBody>, Problem> {
    let Path(id) = path?;
    let WhoBody { who, why } = read(&headers, &body)?;
    let asked = asked(&who, why)?;
    let done = site.alerts.acknowledge(id, &asked.who, &asked.why).await;
    done.map_err(|error| problem(&error))?;
    Ok(Json(DoneBody { id }))
}

/// A silence that is asked for; it covers what fits all that it names.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SilenceBody {
    /// Only of this rule.
    rule: Option<String>,
    /// Only of this endpoint.
    endpoint: Option<String>,
    /// Only of this device.
    device: Option<String>,
    /// Until then, RFC 3339 or Unix ms; or `for_s`.
    #[schema(value_type = Option<String>)]
    until: Option<Moment>,
    /// For so many seconds from now.
    for_s: Option<u32>,
    /// 1 to 128 characters.
    who: String,
    /// At most 1,024 characters.
    #[serde(default)]
    why: String,
}

/// Silences in force.
#[derive(Debug, Serialize, ToSchema)]
pub struct Silences {
    #[schema(value_type = Vec<Object>)]
    silences: Vec<Silence>,
}

/// Silences in force.
#[utoipa::path(get, path = "/api/v1/alerts/silences", responses((status = 200, body = Silences)))]
pub async fn silences(site: Shared) -> Json<Silences> {
    Json(Silences {
        silences: site.alerts.silences(),
    })
}

/// Alerts that fit are recorded and told to nobody until then; those that are open at the end are told at the end.
#[utoipa::path(post, path = "/api/v1/alerts/silences", request_body = SilenceBody,
    responses((status = 200, body = DoneBody), (status = 400, body = Problem), (status = 409, body = Problem),
        (status = 503, body = Problem)))]
pub async fn silence(
    site: Shared,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<DoneBody>, Problem> {
    let wanted: SilenceBody = read(&headers, &body)?;
    let asked = asked(&wanted.who, wanted.why)?;
    let now = now_ms();
    let until = match (wanted.until, wanted.for_s) {
        (Some(until), None) => until.0,
        (None, Some(seconds)) => now + i64::from(seconds) * 1_000,
        _ => return Err(Problem::bad_request("expected one of until and for_s")),
    };
    if until <= now || until - now > LONGEST_SILENCE {
        return Err(Problem::bad_request(
            "until: expected a time within the next year",
        ));
    }
    let names = [&wanted.rule, &wanted.endpoint, &wanted.device];
    if names.into_iter().flatten().any(|name| name.len() > 128) {
        return Err(Problem::bad_request(
            "rule, endpoint and device have at most 128 characters",
        ));
    }
    let silence = Silence {
        id: 0,
        rule: wanted.rule,
        endpoint: wanted.endpoint,
        device: wanted.device,
        until,
        who: asked.who,
        why: asked.why,
        at: now,
    };
    let id = site.alerts.silence(silence).await;
    Ok(Json(DoneBody {
        id: id.map_err(|error| problem(&error))?,
    }))
}

/// Ends a silence early.
#[utoipa::path(post, path = "/api/v1/alerts/silences/{id}/end", request_body = WhoBody, params(("id" = u64, Path)),
    responses((status = 200, body = DoneBody), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 503, body = Problem)))]
pub async fn end_silence(
    site: Shared,
    path: Result<Path<u64>, PathRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<DoneBody>, Problem> {
    let Path(id) = path?;
    let WhoBody { who, why } = read(&headers, &body)?;
    let asked = asked(&who, why)?;
    let done = site.alerts.end_silence(id, &asked.who).await;
    done.map_err(|error| problem(&error))?;
    Ok(Json(DoneBody { id }))
}

/// Every rule.
#[derive(Debug, Serialize, ToSchema)]
pub struct Rules {
    rules: Vec<RuleBody>,
}

/// One rule as it was typed.
#[derive(Debug, Serialize, ToSchema)]
pub struct RuleBody {
    #[serde(flatten)]
    #[schema(value_type = Object)]
    rule: RawAlert,
    /// `config` or `api`.
    source: &'static str,
}

/// A rule that is asked for: the fields of `[[alerts]]`, and who asks.
#[derive(Debug, Deserialize, ToSchema)]
struct RuleWish {
    #[serde(flatten)]
    #[schema(value_type = Object)]
    rule: serde_json::Map<String, serde_json::Value>,
    /// 1 to 128 characters.
    who: String,
}

/// Every rule of alerts.
#[utoipa::path(get, path = "/api/v1/alerts/rules", responses((status = 200, body = Rules)))]
pub async fn rules(site: Shared) -> Json<Rules> {
    let rules = site.alerts.rules().into_iter();
    let rules = rules.map(|(rule, from_file)| RuleBody {
        rule,
        source: if from_file { "config" } else { "api" },
    });
    Json(Rules {
        rules: rules.collect(),
    })
}

/// Sets a rule; open alerts of the one it replaces are over.
#[utoipa::path(put, path = "/api/v1/alerts/rules/{name}", request_body = RuleWish, params(("name" = String, Path)),
    responses((status = 200, body = RuleBody), (status = 400, body = Problem), (status = 409, body = Problem),
        (status = 503, body = Problem)))]
pub async fn put_rule(
    site: Shared,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<RuleBody>, Problem> {
    let Path(name) = path?;
    let mut wish: RuleWish = read(&headers, &body)?;
    let asked = asked(&wish.who, String::new())?;
    wish.rule.insert("name".into(), name.into());
    let raw: RawAlert = serde_json::from_value(wish.rule.into())
        .map_err(|error| Problem::bad_request(error.to_string().replace('`', "\"")))?;
    let rule = AlertRule::check(&raw).map_err(Problem::bad_request)?;
    let done = site.alerts.put_rule(rule, raw.clone(), &asked.who).await;
    done.map_err(|error| problem(&error))?;
    Ok(Json(RuleBody {
        rule: raw,
        source: "api",
    }))
}

/// Who takes a rule away.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct RemoveParameters {
    /// 1 to 128 characters.
    who: String,
}

/// Takes a rule away; its open alerts are over.
#[utoipa::path(delete, path = "/api/v1/alerts/rules/{name}", params(("name" = String, Path), RemoveParameters),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem), (status = 503, body = Problem)))]
pub async fn remove_rule(
    site: Shared,
    path: Result<Path<String>, PathRejection>,
    parameters: Result<Query<RemoveParameters>, QueryRejection>,
) -> Result<StatusCode, Problem> {
    let (Path(name), Query(parameters)) = (path?, parameters?);
    let asked = asked(&parameters.who, String::new())?;
    let done = site.alerts.remove_rule(&name, &asked.who).await;
    done.map_err(|error| problem(&error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// A body of JSON: a form of another page cannot send that.
fn read<T: DeserializeOwned>(headers: &HeaderMap, body: &[u8]) -> Result<T, Problem> {
    only_json(headers, "{\"who\": ...}")?;
    serde_json::from_slice(body)
        .map_err(|error| Problem::bad_request(error.to_string().replace('`', "\"")))
}

fn problem(error: &AlertError) -> Problem {
    let (status, code) = match error {
        AlertError::NotRecorded => return Problem::later(error.to_string(), 2),
        AlertError::Book(BookError::NotOpen(_)) => (StatusCode::NOT_FOUND, "unknown_alert"),
        AlertError::Book(BookError::UnknownRule(_)) => (StatusCode::NOT_FOUND, "unknown_rule"),
        AlertError::Book(BookError::UnknownSilence(_)) => {
            (StatusCode::NOT_FOUND, "unknown_silence")
        }
        AlertError::Book(BookError::FromFile(_)) => (StatusCode::CONFLICT, "from_config"),
        AlertError::Book(BookError::TooMany(..)) => (StatusCode::CONFLICT, "too_many"),
    };
    Problem::new(status, code, error.to_string())
}
