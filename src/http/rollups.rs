//! Roll-ups: what remains of readings, a minute or an hour at a time.

use super::{Problem, Shared};
use crate::store::rollup::{Span, Stat};
use crate::store::upkeep::{RollupQuery, StoredRollup};
use axum::Json;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Which roll-ups to list.
#[derive(Debug, Deserialize, IntoParams)]
pub struct RollupParameters {
    /// The endpoint.
    endpoint: String,
    /// The device.
    device: String,
    /// `minute` (when left out) or `hour`.
    span: Option<String>,
    /// Beginning at or after, Unix ms.
    from: Option<i64>,
    /// Beginning before, Unix ms.
    to: Option<i64>,
    /// At most so many, up to 1,000; 100 when left out.
    limit: Option<u32>,
}

/// A page of roll-ups, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Rollups {
    endpoint: String,
    device: String,
    /// Length of each, seconds.
    span_s: i64,
    rollups: Vec<RollupBody>,
    /// `from` of the next page, when this one is full.
    next_from: Option<i64>,
}

/// A stream's readings over one span of measured time.
#[derive(Debug, Serialize, ToSchema)]
struct RollupBody {
    /// Beginning, Unix ms.
    start: i64,
    /// Readings taken.
    count: u64,
    /// Of them called an anomaly.
    anomalies: u64,
    /// `anomalies` over the readings with a score; null where there is none.
    anomaly_share: Option<f64>,
    /// Of them whose step failed.
    failed: u64,
    /// Of the scores; of a regression or forecast the first value.
    score: Option<StatBody>,
    /// Of each feature, in the endpoint's order.
    features: Vec<Option<StatBody>>,
}

/// Of the numbers that were there.
#[derive(Debug, Serialize, ToSchema)]
struct StatBody {
    count: u64,
    mean: f64,
    min: f32,
    max: f32,
}

fn stat(stat: &Stat) -> Option<StatBody> {
    let (mean, min, max) = stat.summary()?;
    Some(StatBody {
        count: stat.count,
        mean,
        min,
        max,
    })
}

fn body(rollup: &StoredRollup) -> RollupBody {
    let scored = rollup.score.count;
    RollupBody {
        start: rollup.start,
        count: rollup.count,
        anomalies: rollup.anomalies,
        anomaly_share: (scored > 0).then(|| rollup.anomalies as f64 / scored as f64),
        failed: rollup.failed,
        score: stat(&rollup.score),
        features: rollup.features.iter().map(stat).collect(),
    }
}

/// Count, mean, extremes and anomaly share of one device's readings by minute or hour. They outlive the readings themselves.
#[utoipa::path(get, path = "/api/v1/rollups", params(RollupParameters),
    responses((status = 200, body = Rollups), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub async fn rollups(
    site: Shared,
    parameters: Result<Query<RollupParameters>, QueryRejection>,
) -> Result<Json<Rollups>, Problem> {
    let Query(parameters) = parameters?;
    let span = match parameters.span.as_deref() {
        None | Some("minute") => Span::Minute,
        Some("hour") => Span::Hour,
        Some(_) => return Err(Problem::bad_request("span: expected minute or hour")),
    };
    let query = RollupQuery {
        endpoint: parameters.endpoint,
        device: parameters.device,
        span,
        from: parameters.from,
        to: parameters.to,
        limit: super::api::check_limit(parameters.limit)?,
    };
    let found = site.pipeline.store.rollups(&query).await?;
    let next_from = found
        .last()
        .filter(|_| found.len() == query.limit as usize)
        .map(|last| last.start + 1);
    Ok(Json(Rollups {
        endpoint: query.endpoint,
        device: query.device,
        span_s: span.seconds(),
        rollups: found.iter().map(body).collect(),
        next_from,
    }))
}
