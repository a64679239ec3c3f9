//! Inference: rows in, tensors out.

use super::about::needs_history;
use super::message::{self, InferAnswer, InferRequest};
use super::{OipError, endpoint, name_of, table, version};
use crate::http::{Shared, Site, call};
use crate::inference::{Fold, Served, ServedEndpoint};
use crate::ingest::of_reading;
use crate::pipeline::{Arrival, Arrived};
use crate::stream::{StreamKey, now_ms};
use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use tidegate_protocol::{DeviceId, Output, Reading, Values};

/// Where the JSON ends and the tensors' bytes begin.
const JSON_LENGTH: &str = "inference-header-content-length";
/// Most characters of an id that is echoed.
const MAX_ID: usize = 256;

/// Asks whoever serves.
pub async fn infer(
    site: Shared,
    Path(model): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, OipError> {
    answer(&site, &model, "", &headers, &body).await
}

/// Asks one version.
pub async fn infer_version(
    site: Shared,
    Path((model, version)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, OipError> {
    answer(&site, &model, &version, &headers, &body).await
}

async fn answer(
    site: &Site,
    model: &str,
    name: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Response, OipError> {
    let since = Instant::now();
    let endpoint = endpoint(site, model)?;
    let served = version(&endpoint, name)?;
    if headers.contains_key(header::CONTENT_ENCODING) {
        let message = "compressed bodies are not taken";
        return Err(OipError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let json_length = headers
        .get(JSON_LENGTH)
        .map(|value| value.to_str().unwrap_or("?"));
    let (request, binary) = message::parse(body, json_length).map_err(OipError::bad)?;
    if request.id.as_ref().is_some_and(|id| id.len() > MAX_ID) {
        return Err(OipError::bad(format!("id is longer than {MAX_ID} bytes")));
    }
    let features = &endpoint.manifest.features;
    let inputs = message::inputs(&request.inputs, binary, features.len()).map_err(OipError::bad)?;
    let rows = table::rows(features, &inputs).map_err(OipError::bad)?;
    let wish = Wish::parse(&request.parameters).map_err(OipError::bad)?;
    let arrivals = wish.arrivals(&endpoint, rows, since);
    let answered = match wish.device {
        None => alone(&served, arrivals)?,
        Some(device) => {
            let key = StreamKey::live(endpoint.name.clone(), device);
            let pin = (!name.is_empty()).then_some(&served);
            on_stream(site, &endpoint, &key, pin, arrivals).await?
        }
    };
    respond(&endpoint, &request, answered)
}

/// What the parameters of a request say.
struct Wish {
    device: Option<DeviceId>,
    epoch: Option<u64>,
    /// Of the first row; the others count on.
    seq: Option<u64>,
    /// Of all rows, Unix ms.
    ts: Option<i64>,
}

impl Wish {
    fn parse(parameters: &Map<String, Value>) -> Result<Self, String> {
        let number = |name: &str| match parameters.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let number = value
                    .as_u64()
                    .filter(|n| *n <= tidegate_protocol::MAX_NUMBER);
                number
                    .map(Some)
                    .ok_or_else(|| format!("parameters.{name}: not a number of 0 to 2^53-1"))
            }
        };
        let device = match parameters.get("device") {
            None | Some(Value::Null) => None,
            Some(Value::String(device)) => {
                let device =
                    DeviceId::new(device).map_err(|error| format!("parameters.device: {error}"))?;
                Some(device)
            }
            Some(_) => return Err("parameters.device: not a text".into()),
        };
        let wish = Self {
            device,
            epoch: number("epoch")?,
            seq: number("seq")?,
            ts: number("ts")?.map(u64::cast_signed),
        };
        if wish.device.is_none() && (wish.epoch.is_some() || wish.seq.is_some()) {
            return Err("parameters: epoch and seq count the readings of a device: name it".into());
        }
        Ok(wish)
    }

    fn arrivals(
        &self,
        endpoint: &ServedEndpoint,
        rows: Vec<Vec<f32>>,
        since: Instant,
    ) -> VecDeque<Arrival> {
        let received_at = now_ms();
        let numbered = rows.into_iter().zip(0..);
        let arrival = |(values, index): (Vec<f32>, u64)| {
            let reading = Reading {
                epoch: self.epoch,
                seq: self.seq.map(|first| first + index),
                ts: self.ts,
                values: Values::Ordered(values),
                ..Reading::default()
            };
            of_reading(endpoint, reading, received_at, since)
        };
        numbered.map(arrival).collect()
    }
}

/// Who answered what, and where it is stored.
struct Answered {
    version: String,
    /// What an answer of that version is made of.
    template: Option<Output>,
    outputs: Vec<Output>,
    parameters: Map<String, Value>,
}

/// Each row a step of its own: only for a version that needs no history.
fn alone(served: &Arc<Served>, arrivals: VecDeque<Arrival>) -> Result<Answered, OipError> {
    if needs_history(served) {
        let message = format!(
            "{} needs the history of a stream: name it in parameters.device",
            served.reference
        );
        return Err(OipError::new(StatusCode::UNPROCESSABLE_ENTITY, message));
    }
    let mut outputs = Vec::with_capacity(arrivals.len());
    for (row, arrival) in arrivals.into_iter().enumerate() {
        match arrival.what {
            Arrived::Reading(checked) => {
                let mut fold = Fold::new(Arc::clone(served));
                outputs.push(fold.step(&checked.values, checked.ts));
            }
            Arrived::Refused(code, reason) => {
                return Err(call::refused(code, format!("row {row}: {reason}")).into());
            }
            Arrived::Feedback(..) | Arrived::Reset => {
                return Err(OipError::bad("expected readings"));
            }
        }
    }
    Ok(Answered {
        version: name_of(served),
        template: served.template(),
        outputs,
        parameters: Map::new(),
    })
}

/// All rows into the stream, in their order. A row that does not fit is found before any is taken.
async fn on_stream(
    site: &Site,
    endpoint: &ServedEndpoint,
    key: &StreamKey,
    pin: Option<&Arc<Served>>,
    arrivals: VecDeque<Arrival>,
) -> Result<Answered, OipError> {
    for (row, arrival) in arrivals.iter().enumerate() {
        if let Arrived::Refused(code, reason) = &arrival.what {
            return Err(call::refused(*code, format!("row {row}: {reason}")).into());
        }
    }
    let predictions = call::take(site, key, pin, arrivals).await?;
    let (Some(first), Some(last)) = (predictions.first(), predictions.last()) else {
        return Err(OipError::bad("no rows"));
    };
    let answering = endpoint
        .versions
        .get(&format!("{}/{}", last.model, last.version));
    let mut parameters = Map::new();
    parameters.insert("device".into(), key.device.to_string().into());
    parameters.insert("epoch".into(), first.epoch.into());
    parameters.insert("first_seq".into(), first.seq.into());
    parameters.insert("last_seq".into(), last.seq.into());
    Ok(Answered {
        version: format!("{}-{}", last.model, last.version),
        template: answering.and_then(|served| served.template()),
        parameters,
        outputs: predictions
            .into_iter()
            .map(|prediction| prediction.output)
            .collect(),
    })
}

fn respond(
    endpoint: &ServedEndpoint,
    request: &InferRequest,
    answered: Answered,
) -> Result<Response, OipError> {
    let template = answered.template.as_ref();
    let tensors = table::tensors(endpoint.manifest.task, template, &answered.outputs);
    let name = endpoint.name.to_string();
    let mut answer = InferAnswer::new(name, answered.version, request.id.clone());
    answer.parameters = answered.parameters;
    let binary = answer.add(request, &tensors).map_err(OipError::bad)?;
    let mut body = serde_json::to_vec(&answer)
        .map_err(|error| OipError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let json_length = body.len();
    body.extend(&binary);
    let mut response = Body::from(body).into_response();
    let headers = response.headers_mut();
    let is_binary = !binary.is_empty();
    let content = if is_binary {
        "application/octet-stream"
    } else {
        "application/json"
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content));
    if is_binary {
        headers.insert(JSON_LENGTH, HeaderValue::from(json_length));
    }
    Ok(response)
}
