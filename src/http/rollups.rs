//! Roll-ups: what remains of readings, a minute or an hour at a time.

use super::{Problem, Shared, Site};
use crate::store::rollup::{Bucket, Span, Stat};
use crate::store::upkeep::RollupQuery;
use crate::stream::{Moment, StreamKey};
use axum::Json;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tidegate_protocol::{DeviceId, EndpointName, IdError, MAX_NUMBER};
use utoipa::{IntoParams, ToSchema};

/// Which roll-ups to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct RollupParameters {
    /// The endpoint.
    endpoint: String,
    /// The device.
    device: String,
    /// Epoch of an import of this device; the live stream when left out.
    import: Option<u64>,
    /// `minute` (when left out) or `hour`.
    span: Option<String>,
    /// Beginning at or after: RFC 3339 or Unix ms.
    #[param(value_type = Option<String>)]
    from: Option<Moment>,
    /// Beginning before: RFC 3339 or Unix ms.
    #[param(value_type = Option<String>)]
    to: Option<Moment>,
    /// At most so many, up to 1,000; 100 when left out.
    limit: Option<u32>,
}

/// A page of roll-ups, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Rollups {
    endpoint: String,
    device: String,
    /// Epoch of the import; null for the live stream.
    import: Option<u64>,
    /// Length of each, seconds.
    span_s: i64,
    /// Names of the features in the order of each roll-up's `features`; empty where the endpoint is not served any more.
    feature_names: Vec<String>,
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
    /// Of each feature, in the order of `feature_names`.
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

fn body(rollup: &Bucket) -> RollupBody {
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

/// The stream and the part of it that are asked for.
fn query(parameters: &RollupParameters) -> Result<RollupQuery, Problem> {
    let span = match parameters.span.as_deref() {
        None | Some("minute") => Span::Minute,
        Some("hour") => Span::Hour,
        Some(_) => return Err(Problem::bad_request("span: expected minute or hour")),
    };
    let import = parameters.import.unwrap_or(0);
    if import > MAX_NUMBER {
        return Err(Problem::bad_request("import is at most 2^53-1"));
    }
    let bad_name = |error: IdError| Problem::bad_request(error.to_string());
    let endpoint = EndpointName::new(&parameters.endpoint).map_err(bad_name)?;
    let device = DeviceId::new(&parameters.device).map_err(bad_name)?;
    Ok(RollupQuery {
        stream: StreamKey {
            import,
            ..StreamKey::live(endpoint, device)
        },
        span,
        from: parameters.from.map(|from| from.0),
        to: parameters.to.map(|to| to.0),
        limit: super::api::check_limit(parameters.limit)?,
    })
}

/// Why there is nothing, where that is because there is no such stream.
async fn check_stream(site: &Site, key: &StreamKey) -> Result<(), Problem> {
    if site.pipeline.store.load_stream(key).await?.is_some() {
        return Ok(());
    }
    super::predict::endpoint(site, key.endpoint.as_str())?;
    Err(Problem::new(
        StatusCode::NOT_FOUND,
        "unknown_device",
        format!("no device {key}: nothing was received from it"),
    ))
}

/// Count, mean, extremes and anomaly share of one device's readings by minute or hour, or of one of its imports. They outlive the
/// readings themselves.
#[utoipa::path(get, path = "/api/v1/rollups", params(RollupParameters),
    responses((status = 200, body = Rollups), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 503, body = Problem)))]
pub async fn rollups(
    site: Shared,
    parameters: Result<Query<RollupParameters>, QueryRejection>,
) -> Result<Json<Rollups>, Problem> {
    let Query(parameters) = parameters?;
    let query = query(&parameters)?;
    let found = site.pipeline.store.rollups(&query).await?;
    if found.is_empty() {
        check_stream(&site, &query.stream).await?;
    }
    let next_from = found
        .last()
        .filter(|_| found.len() == query.limit as usize)
        .map(|last| last.start + 1);
    let RollupQuery { stream, span, .. } = query;
    let engine = site.pipeline.engines.load();
    let endpoint = engine.endpoint(stream.endpoint.as_str());
    let features = endpoint.iter().flat_map(|one| &one.manifest.features);
    Ok(Json(Rollups {
        endpoint: stream.endpoint.to_string(),
        device: stream.device.to_string(),
        import: parameters.import,
        span_s: span.seconds(),
        feature_names: features.map(|feature| feature.name.clone()).collect(),
        rollups: found.iter().map(body).collect(),
        next_from,
    }))
}
