//! One device: where it stands in its stream, and how its readings are.
//!
//! Place and gaps come from the store, the rest from the monitor, which counts since the server started.

use super::{Problem, Shared};
use crate::monitor::{DeviceHealth, FeatureHealth};
use crate::store::SampleQuery;
use crate::stream::{StreamKey, now_ms};
use axum::Json;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::StatusCode;
use serde::Serialize;
use tidegate_protocol::{DeviceId, EndpointName, IdError, Output};
use utoipa::ToSchema;

/// One device at one endpoint.
#[derive(Debug, Serialize, ToSchema)]
pub struct OneDevice {
    endpoint: String,
    device: String,
    online: bool,
    epoch: u64,
    /// Highest number consumed in the epoch.
    last_seq: Option<u64>,
    /// Arrival of the newest thing that the device sent, Unix ms.
    last_seen: i64,
    /// Milliseconds since then.
    silent_ms: i64,
    /// Ranges of the epoch that were skipped and did not come since; a bounded list.
    gaps: Vec<(u64, u64)>,
    /// Numbers in them.
    missing_readings: u64,
    model: Option<String>,
    version: Option<String>,
    /// The newest answer.
    #[schema(value_type = Option<Object>)]
    output: Option<Output>,
    /// `calibrating` or `calibrated`; null before the first answer.
    calibration: Option<&'static str>,
    /// What is odd about it: `stuck_sensor`, `clock_skew`, `out_of_range`, `missing_values`, `late_readings`, `failed_steps`.
    issues: Vec<&'static str>,
    /// Since the server started; null where nothing came since.
    #[schema(value_type = Option<Object>)]
    readings: Option<DeviceHealth>,
    /// Of each feature since the server started.
    features: Vec<FeatureBody>,
}

/// One feature.
#[derive(Debug, Serialize, ToSchema)]
struct FeatureBody {
    name: String,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    health: FeatureHealth,
}

/// How one device is.
#[utoipa::path(get, path = "/api/v1/devices/{endpoint}/{device}",
    params(("endpoint" = String, Path), ("device" = String, Path)),
    responses((status = 200, body = OneDevice), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 503, body = Problem)))]
pub async fn device(
    site: Shared,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<OneDevice>, Problem> {
    let Path((endpoint, device)) = path?;
    let bad_name = |error: IdError| Problem::bad_request(error.to_string());
    let endpoint = EndpointName::new(&endpoint).map_err(bad_name)?;
    let device = DeviceId::new(&device).map_err(bad_name)?;
    let key = StreamKey::live(endpoint, device);
    let store = &site.pipeline.store;
    let Some(stored) = store.load_stream(&key).await? else {
        super::predict::endpoint(&site, key.endpoint.as_str())?;
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "unknown_device",
            format!("no device {key}: nothing was received from it"),
        ));
    };
    let newest = SampleQuery {
        endpoint: Some(key.endpoint.to_string()),
        device: Some(key.device.to_string()),
        live_only: true,
        newest_first: true,
        limit: 1,
        ..SampleQuery::default()
    };
    let last = store.samples(&newest).await?.into_iter().next();
    let engine = site.pipeline.engines.load();
    let served = engine.endpoint(key.endpoint.as_str());
    let names = served.iter().flat_map(|one| &one.manifest.features);
    let mut readings = site.monitor.health(&key);
    let features = readings
        .as_mut()
        .map(|health| std::mem::take(&mut health.features));
    let features = names.zip(features.unwrap_or_default());
    let features = features.map(|(feature, health)| FeatureBody {
        name: feature.name.clone(),
        health,
    });
    let missing = stored.gaps.iter().map(|(from, to)| to - from + 1).sum();
    let (_, issues) = site.monitor.summary(&key).unwrap_or_default();
    Ok(Json(OneDevice {
        endpoint: key.endpoint.to_string(),
        device: key.device.to_string(),
        online: site.pipeline.hub.is_online(&key),
        epoch: stored.marks.epoch,
        last_seq: stored.marks.high_water,
        last_seen: stored.last_seen,
        silent_ms: (now_ms() - stored.last_seen).max(0),
        gaps: stored.gaps,
        missing_readings: missing,
        calibration: last.as_ref().and_then(|sample| calibration(&sample.output)),
        model: last.as_ref().map(|sample| sample.model.clone()),
        version: last.as_ref().map(|sample| sample.version.clone()),
        output: last.map(|sample| sample.output),
        issues,
        features: features.collect(),
        readings,
    }))
}

fn calibration(output: &Output) -> Option<&'static str> {
    match output {
        Output::Calibrating { .. } => Some("calibrating"),
        Output::Failed(_) | Output::Skipped(_) => None,
        _ => Some("calibrated"),
    }
}
