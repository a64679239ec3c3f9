//! One reading over HTTP, answered after its commit.

use super::call::{self, refused};
use super::{Problem, Shared, Site};
use crate::inference::{Fold, NoVersion, Served, ServedEndpoint};
use crate::ingest;
use crate::pipeline::Arrived;
use crate::stream::StreamKey;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query};
use axum::http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use tidegate_protocol::message::Prediction;
use tidegate_protocol::{Codec, DeviceId, EndpointName, Output};
use utoipa::{IntoParams, ToSchema};

/// Parameters of a prediction.
#[derive(Debug, Deserialize, IntoParams)]
pub struct PredictParameters {
    /// Whose stream the reading belongs to; without it the reading stands alone.
    device: Option<String>,
    /// `model/version`.
    version: Option<String>,
    /// `production` or `staging`.
    status: Option<String>,
}

/// A prediction.
#[derive(Debug, Serialize, ToSchema)]
pub struct PredictionBody {
    endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    ts: i64,
    model: String,
    version: String,
    /// By task kind: `{"score","threshold","anomaly"}`, `{"calibrating":{"seen","needed"}}`, ...
    #[schema(value_type = Object)]
    output: Output,
    latency_us: u32,
}

/// Why a request gets no version; one line for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WishError {
    /// None of that name can be asked.
    #[error(transparent)]
    Version(#[from] NoVersion),
    /// No version has that status.
    #[error("{0} has no version in staging")]
    NoCandidate(EndpointName),
    /// A status that many versions may have, or none.
    #[error(
        "status {0:?}: expected production or staging; any other version is asked for by its name, version=model/1.0.0"
    )]
    Status(String),
    /// Both were given.
    #[error("give version or status, not both")]
    Both,
}

impl From<WishError> for Problem {
    fn from(error: WishError) -> Self {
        let (status, code) = match &error {
            WishError::Version(NoVersion::NotReady { .. }) => (StatusCode::CONFLICT, "not_ready"),
            WishError::Version(_) | WishError::NoCandidate(_) => {
                (StatusCode::NOT_FOUND, "unknown_version")
            }
            WishError::Status(_) | WishError::Both => (StatusCode::BAD_REQUEST, "bad_request"),
        };
        Self::new(status, code, error.to_string())
    }
}

/// The version that a request asks for; `None` is whoever serves.
///
/// # Errors
/// See [`WishError`].
pub fn wished(
    endpoint: &ServedEndpoint,
    version: Option<&str>,
    status: Option<&str>,
) -> Result<Option<Arc<Served>>, WishError> {
    match (version, status) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(WishError::Both),
        (Some(version), None) => Ok(Some(Arc::clone(endpoint.version(version)?))),
        (None, Some("production")) => Ok(Some(Arc::clone(&endpoint.production))),
        (None, Some("staging")) => match &endpoint.staging {
            Some(staging) => Ok(Some(Arc::clone(staging))),
            None => Err(WishError::NoCandidate(endpoint.name.clone())),
        },
        (None, Some(status)) => Err(WishError::Status(status.chars().take(64).collect())),
    }
}

/// The endpoint of that name.
pub(super) fn endpoint(site: &Site, name: &str) -> Result<Arc<ServedEndpoint>, Problem> {
    let engine = site.pipeline.engines.load();
    engine.endpoint(name).cloned().ok_or_else(|| {
        let name: String = name.chars().take(64).collect();
        Problem::new(
            StatusCode::NOT_FOUND,
            "unknown_endpoint",
            format!("no endpoint {name:?}"),
        )
    })
}

/// Predicts for one reading. With `device` it joins that stream and is answered once it is durable.
#[utoipa::path(post, path = "/api/v1/{endpoint}/predict", params(("endpoint" = String, Path), PredictParameters),
    request_body(content = Object, description = "a reading: `{\"seq\":0,\"ts\":...,\"values\":[...]}` or bare values"),
    responses((status = 200, body = PredictionBody), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 422, body = Problem), (status = 503, body = Problem)))]
pub async fn predict(
    site: Shared,
    Path(name): Path<String>,
    parameters: Result<Query<PredictParameters>, QueryRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<PredictionBody>, Problem> {
    let Query(parameters) = parameters?;
    let endpoint = endpoint(&site, &name)?;
    let endpoint = &endpoint;
    let pin = wished(
        endpoint,
        parameters.version.as_deref(),
        parameters.status.as_deref(),
    )?;
    let codec = content_codec(&headers)?;
    let Some(device) = parameters.device else {
        return alone(endpoint, pin, codec, &body);
    };
    let device = DeviceId::new(&device).map_err(|error| Problem::bad_request(error.to_string()))?;
    let key = StreamKey::live(endpoint.name.clone(), device);
    let prediction = on_stream(&site, endpoint, &key, pin, codec, &body).await?;
    Ok(Json(PredictionBody {
        endpoint: endpoint.name.to_string(),
        device: Some(key.device.to_string()),
        epoch: prediction.epoch,
        seq: Some(prediction.seq),
        ts: prediction.ts,
        model: prediction.model,
        version: prediction.version,
        output: prediction.output,
        latency_us: prediction.latency_us,
    }))
}

fn content_codec(headers: &HeaderMap) -> Result<Codec, Problem> {
    let Some(content_type) = headers.get(header::CONTENT_TYPE) else {
        return Ok(Codec::Json);
    };
    let text = content_type.to_str().unwrap_or_default();
    // What curl sends by default is taken for JSON too.
    if text.starts_with("application/x-www-form-urlencoded") {
        return Ok(Codec::Json);
    }
    Codec::from_content_type(text).ok_or_else(|| {
        let detail = "expected application/json or application/vnd.tidegate.v1+bincode";
        Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            detail,
        )
    })
}

/// A reading without a stream: only for a model that needs no history.
fn alone(
    endpoint: &ServedEndpoint,
    pin: Option<Arc<Served>>,
    codec: Codec,
    body: &[u8],
) -> Result<Json<PredictionBody>, Problem> {
    let served = pin.unwrap_or_else(|| Arc::clone(&endpoint.production));
    let manifest = &served.version.manifest;
    if manifest.memory > 0 || manifest.calibration > 0 {
        let detail = format!(
            "{} needs the history of a stream: name the device",
            served.reference
        );
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "needs_history",
            detail,
        ));
    }
    let since = Instant::now();
    let checked = match one_reading(endpoint, codec, body, since)?.what {
        Arrived::Reading(checked) => checked,
        Arrived::Refused(code, message) => return Err(refused(code, message)),
        Arrived::Feedback(..) | Arrived::Reset => {
            return Err(Problem::bad_request("expected a reading"));
        }
    };
    let reference = Arc::clone(&served.reference);
    let output = Fold::new(served).step(&checked.values, checked.ts);
    Ok(Json(PredictionBody {
        endpoint: endpoint.name.to_string(),
        device: None,
        epoch: None,
        seq: None,
        ts: checked.ts,
        model: reference.model.clone(),
        version: reference.version.clone(),
        output,
        latency_us: u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX),
    }))
}

fn one_reading(
    endpoint: &ServedEndpoint,
    codec: Codec,
    body: &[u8],
    since: Instant,
) -> Result<crate::pipeline::Arrival, Problem> {
    let mut arrivals = VecDeque::new();
    ingest::arrivals(endpoint, codec, body, since, &mut arrivals);
    match (arrivals.pop_front(), arrivals.is_empty()) {
        (Some(arrival), true)
            if matches!(arrival.what, Arrived::Reading(_) | Arrived::Refused(..)) =>
        {
            Ok(arrival)
        }
        _ => Err(Problem::bad_request("expected one reading")),
    }
}

async fn on_stream(
    site: &Site,
    endpoint: &ServedEndpoint,
    key: &StreamKey,
    pin: Option<Arc<Served>>,
    codec: Codec,
    body: &[u8],
) -> Result<Prediction, Problem> {
    let arrival = one_reading(endpoint, codec, body, Instant::now())?;
    // Bytes that are no reading belong to no stream.
    if let Arrived::Refused(code, message) = &arrival.what
        && arrival.numbers.seq.is_none()
    {
        return Err(refused(*code, message.clone()));
    }
    let arrivals = VecDeque::from([arrival]);
    let mut predictions = call::take(site, key, pin.as_ref(), arrivals).await?;
    // One reading, one prediction.
    predictions
        .pop()
        .ok_or_else(|| Problem::later("the reading was not answered", 2))
}
