//! Recalibration asked for by a person: the same row as the device's own reset.

use super::{Problem, Shared};
use crate::pipeline::ResetError;
use crate::stream::StreamKey;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tidegate_protocol::DeviceId;
use utoipa::{IntoParams, ToSchema};

/// Whose state to set back.
#[derive(Debug, Deserialize, IntoParams)]
pub struct ResetParameters {
    /// The device.
    device: String,
}

/// A reset that is stored.
#[derive(Debug, Serialize, ToSchema)]
pub struct ResetBody {
    endpoint: String,
    device: String,
    /// The epoch in which it happened.
    epoch: u64,
    /// Position of its row in the stream's log.
    pos: u64,
}

/// Sets a device's model state back to that of a new stream: it calibrates anew with its next reading. Answered once it is durable.
#[utoipa::path(post, path = "/api/v1/{endpoint}/reset", params(("endpoint" = String, Path), ResetParameters),
    responses((status = 200, body = ResetBody), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 503, body = Problem)))]
pub async fn reset(
    site: Shared,
    Path(name): Path<String>,
    parameters: Result<Query<ResetParameters>, QueryRejection>,
) -> Result<Json<ResetBody>, Problem> {
    let Query(parameters) = parameters?;
    let endpoint = super::predict::endpoint(&site, &name)?;
    let device = DeviceId::new(&parameters.device)
        .map_err(|error| Problem::bad_request(error.to_string()))?;
    let key = StreamKey::live(endpoint.name.clone(), device);
    let patience = site.pipeline.config().connections.commit_wait;
    let (epoch, pos) = site
        .pipeline
        .reset(&key, patience)
        .await
        .map_err(|error| problem(&error))?;
    Ok(Json(ResetBody {
        endpoint: key.endpoint.to_string(),
        device: key.device.to_string(),
        epoch,
        pos,
    }))
}

fn problem(error: &ResetError) -> Problem {
    match error {
        ResetError::Unknown(_) => {
            Problem::new(StatusCode::NOT_FOUND, "unknown_device", error.to_string())
        }
        _ => Problem::later(error.to_string(), 2),
    }
}
