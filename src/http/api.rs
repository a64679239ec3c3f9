//! What is there: endpoints, devices, samples.

use super::head::HeadBody;
use super::{Problem, Shared, Site};
use crate::store::{DeviceRow, SampleQuery};
use crate::stream::{Moment, StreamKey};
use axum::Json;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use serde::{Deserialize, Serialize};
use tidegate_protocol::{DeviceId, EndpointName, Output, Sample};
use utoipa::{IntoParams, ToSchema};

/// Rows of a page when none are asked for.
const DEFAULT_LIMIT: u32 = 100;
/// Most rows of a page.
const MAX_LIMIT: u32 = 1_000;

/// A page of endpoints.
#[derive(Debug, Serialize, ToSchema)]
pub struct Endpoints {
    endpoints: Vec<EndpointBody>,
}

/// A prediction task.
#[derive(Debug, Serialize, ToSchema)]
struct EndpointBody {
    name: String,
    description: String,
    revision: u32,
    task: &'static str,
    features: Vec<FeatureBody>,
    /// Serves while no version was promoted.
    default: String,
    /// Serves every stream that is not pinned.
    production: String,
    /// What the numbers of that version's answers mean.
    head: HeadBody,
    versions: Vec<String>,
}

/// One feature of a reading.
#[derive(Debug, Serialize, ToSchema)]
struct FeatureBody {
    name: String,
    unit: String,
    /// Outside of it a value is flagged.
    range: Option<(f32, f32)>,
    /// Outside of it a reading is refused.
    hard_range: Option<(f32, f32)>,
}

/// Every endpoint with its schema.
#[utoipa::path(get, path = "/api/v1/endpoints", responses((status = 200, body = Endpoints)))]
pub async fn endpoints(site: Shared) -> Json<Endpoints> {
    let engine = site.pipeline.engines.load();
    let endpoints = engine.endpoints().into_iter().map(|endpoint| {
        let manifest = &endpoint.manifest;
        let features = manifest.features.iter().map(|feature| FeatureBody {
            name: feature.name.clone(),
            unit: feature.unit.clone(),
            range: feature.range,
            hard_range: feature.hard_range,
        });
        EndpointBody {
            name: manifest.name.clone(),
            description: manifest.description.clone(),
            revision: manifest.revision,
            task: manifest.task.as_str(),
            features: features.collect(),
            default: manifest.default.clone(),
            production: endpoint.production.reference.to_string(),
            head: HeadBody::new(manifest, &endpoint.production),
            versions: endpoint.versions.keys().cloned().collect(),
        }
    });
    Json(Endpoints {
        endpoints: endpoints.collect(),
    })
}

/// Which devices to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct DeviceParameters {
    /// Only this endpoint.
    endpoint: Option<String>,
    /// At most so many, up to 1,000; 100 when left out.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A page of devices by endpoint and name.
#[derive(Debug, Serialize, ToSchema)]
pub struct Devices {
    devices: Vec<DeviceBody>,
    next_cursor: Option<String>,
}

/// One device at one endpoint.
#[derive(Debug, Serialize, ToSchema)]
struct DeviceBody {
    endpoint: String,
    device: String,
    online: bool,
    epoch: u64,
    /// Highest number consumed in the epoch.
    last_seq: Option<u64>,
    /// Measured time of the newest sample, Unix ms.
    last_ts: Option<i64>,
    /// Arrival of the newest thing that the device sent, Unix ms. A version that changes is no sign of life.
    last_seen: i64,
    samples: u64,
    /// Readings a second over the last minute or so.
    rate: f64,
    /// What is odd about it since the server started: `stuck_sensor`, `clock_skew`, `out_of_range`, `missing_values`, `late_readings`, `failed_steps`.
    issues: Vec<&'static str>,
    model: Option<String>,
    version: Option<String>,
    /// The newest answer.
    #[schema(value_type = Option<Object>)]
    output: Option<Output>,
}

/// Devices that have sent something.
#[utoipa::path(get, path = "/api/v1/devices", params(DeviceParameters),
    responses((status = 200, body = Devices), (status = 400, body = Problem)))]
pub async fn devices(
    site: Shared,
    parameters: Result<Query<DeviceParameters>, QueryRejection>,
) -> Result<Json<Devices>, Problem> {
    let Query(parameters) = parameters?;
    let limit = check_limit(parameters.limit)?;
    let cursor = parameters.cursor.as_deref().map(parse_cursor).transpose()?;
    let rows = site
        .pipeline
        .store
        .devices(parameters.endpoint.as_deref(), cursor.as_ref(), limit)
        .await?;
    let next_cursor = rows
        .last()
        .filter(|_| rows.len() == limit as usize)
        .map(|row| row.key.to_string());
    let devices = rows
        .into_iter()
        .map(|row| device_body(&site, row))
        .collect();
    Ok(Json(Devices {
        devices,
        next_cursor,
    }))
}

fn device_body(site: &Site, row: DeviceRow) -> DeviceBody {
    let last = row.last.as_ref();
    let (rate, issues) = site.monitor.summary(&row.key).unwrap_or_default();
    DeviceBody {
        endpoint: row.key.endpoint.to_string(),
        device: row.key.device.to_string(),
        online: site.pipeline.hub.is_online(&row.key),
        epoch: row.epoch,
        last_seq: row.high_water,
        last_ts: last.map(|sample| sample.ts),
        last_seen: row.last_seen,
        samples: row.samples,
        rate,
        issues,
        model: last.map(|sample| sample.model.clone()),
        version: last.map(|sample| sample.version.clone()),
        output: row.last.map(|sample| sample.output),
    }
}

pub(super) fn check_limit(limit: Option<u32>) -> Result<u32, Problem> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if (1..=MAX_LIMIT).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::bad_request(format!(
        "limit {limit}: expected 1 to {MAX_LIMIT}"
    )))
}

fn parse_cursor(text: &str) -> Result<StreamKey, Problem> {
    let key = text.split_once('/').and_then(|(endpoint, device)| {
        Some(StreamKey::live(
            EndpointName::new(endpoint).ok()?,
            DeviceId::new(device).ok()?,
        ))
    });
    key.ok_or_else(|| Problem::bad_request("cursor: expected the next_cursor of a page"))
}

/// Which samples to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct SampleParameters {
    /// Only this endpoint.
    endpoint: Option<String>,
    /// Only this device.
    device: Option<String>,
    /// Only this epoch.
    epoch: Option<u64>,
    /// Measured at or after: RFC 3339 or Unix ms.
    #[param(value_type = Option<String>)]
    from: Option<Moment>,
    /// Measured before: RFC 3339 or Unix ms.
    #[param(value_type = Option<String>)]
    to: Option<Moment>,
    /// At most so many, up to 1,000; 100 when left out.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<u64>,
    /// `asc` (oldest first, the default) or `desc`.
    order: Option<String>,
}

/// A page of samples by id.
#[derive(Debug, Serialize, ToSchema)]
pub struct Samples {
    #[schema(value_type = Vec<Object>)]
    samples: Vec<Sample>,
    next_cursor: Option<String>,
}

/// Stored samples, oldest first.
#[utoipa::path(get, path = "/api/v1/samples", params(SampleParameters),
    responses((status = 200, body = Samples), (status = 400, body = Problem)))]
pub async fn samples(
    site: Shared,
    parameters: Result<Query<SampleParameters>, QueryRejection>,
) -> Result<Json<Samples>, Problem> {
    let Query(parameters) = parameters?;
    let newest_first = match parameters.order.as_deref() {
        None | Some("asc") => false,
        Some("desc") => true,
        Some(_) => return Err(Problem::bad_request("order: expected asc or desc")),
    };
    let numbers = [parameters.epoch, parameters.cursor].into_iter().flatten();
    if numbers
        .into_iter()
        .any(|number| number > tidegate_protocol::MAX_NUMBER)
    {
        return Err(Problem::bad_request("epoch and cursor are at most 2^53-1"));
    }
    let limit = check_limit(parameters.limit)?;
    let query = SampleQuery {
        endpoint: parameters.endpoint,
        device: parameters.device,
        epoch: parameters.epoch,
        from: parameters.from.map(|from| from.0),
        to: parameters.to.map(|to| to.0),
        cursor: parameters.cursor,
        until: None,
        live_only: false,
        newest_first,
        limit,
    };
    let rows = site.pipeline.store.samples(&query).await?;
    let next_cursor = rows
        .last()
        .filter(|_| rows.len() == limit as usize)
        .map(|row| row.id.to_string());
    Ok(Json(Samples {
        samples: rows.into_iter().map(|row| row.into_wire()).collect(),
        next_cursor,
    }))
}
