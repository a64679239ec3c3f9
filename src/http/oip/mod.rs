//! The Open Inference Protocol v2 under `/v2`, for the clients of Triton, KServe and MLServer.
//!
//! A model of the protocol is an endpoint, its versions are the endpoint's versions, written `mewma-1.0.0` (or `mewma/1.0.0` with the
//! slash escaped). Owns no state: a request without `device` is a step of its own and leaves nothing behind; one with
//! `"parameters": {"device": ...}` joins that stream, row by row, and is answered once it is durable. Errors are `{"error": "..."}`.
//!
//! Beside the protocol: the binary tensor extension. Not here: gRPC, the repository extension, shared memory, compressed bodies.
//!
//! Protocol: Open Inference Protocol, REST, version 2 (kserve/open-inference-protocol).

mod about;
mod infer;
mod message;
mod table;
mod tensor;

use super::{Problem, Site};
use crate::inference::{NoVersion, Served, ServedEndpoint};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;
use std::sync::Arc;

pub use about::{
    metadata, model, model_ready, model_version, model_version_ready, server_live, server_ready,
};
pub use infer::{infer, infer_version};

/// Largest body: 4,096 rows of 64 features in binary.
const MAX_BODY_BYTES: usize = 1024 * 1024 + 64 * 1024;

/// The routes below `/v2`.
pub fn routes() -> Router<Arc<Site>> {
    Router::new()
        .route("/v2", get(metadata))
        .route("/v2/", get(metadata))
        .route("/v2/health/live", get(server_live))
        .route("/v2/health/ready", get(server_ready))
        .route("/v2/models/{model}", get(model))
        .route("/v2/models/{model}/ready", get(model_ready))
        .route("/v2/models/{model}/infer", post(infer))
        .route("/v2/models/{model}/versions/{version}", get(model_version))
        .route(
            "/v2/models/{model}/versions/{version}/ready",
            get(model_version_ready),
        )
        .route(
            "/v2/models/{model}/versions/{version}/infer",
            post(infer_version),
        )
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
}

/// An error as the protocol tells it.
#[derive(Debug)]
pub struct OipError {
    status: StatusCode,
    message: String,
    retry_after: bool,
}

impl OipError {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            retry_after: false,
        }
    }

    fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

impl From<Problem> for OipError {
    fn from(problem: Problem) -> Self {
        let status = problem.status();
        Self {
            status,
            retry_after: status == StatusCode::SERVICE_UNAVAILABLE,
            message: problem.into_detail(),
        }
    }
}

impl IntoResponse for OipError {
    fn into_response(self) -> Response {
        let body = axum::Json(json!({ "error": self.message }));
        let mut response = (self.status, body).into_response();
        if self.retry_after {
            let seconds = axum::http::HeaderValue::from_static("2");
            response
                .headers_mut()
                .insert(axum::http::header::RETRY_AFTER, seconds);
        }
        response
    }
}

/// The endpoint that a model of the protocol is.
fn endpoint(site: &Site, model: &str) -> Result<Arc<ServedEndpoint>, OipError> {
    let found = site.pipeline.engines.load().endpoint(model).cloned();
    found.ok_or_else(|| {
        let model: String = model.chars().take(64).collect();
        OipError::new(StatusCode::NOT_FOUND, format!("no model {model:?}"))
    })
}

/// A version as the protocol writes it.
fn name_of(served: &Served) -> String {
    format!("{}-{}", served.reference.model, served.reference.version)
}

/// The version of that name; an empty one is whoever serves.
fn version(endpoint: &ServedEndpoint, name: &str) -> Result<Arc<Served>, OipError> {
    if name.is_empty() {
        return Ok(Arc::clone(&endpoint.production));
    }
    let known = || {
        let names = endpoint.versions.values().map(|served| name_of(served));
        names.collect::<Vec<_>>().join(", ")
    };
    let mut all = endpoint.versions.keys().chain(endpoint.unready.keys());
    let id = all.find(|id| *id == name || id.replace('/', "-") == name);
    let found = endpoint.version(id.map_or(name, String::as_str));
    found.cloned().map_err(|missing| match missing {
        NoVersion::NotReady { .. } => OipError::new(StatusCode::CONFLICT, missing.to_string()),
        NoVersion::Unknown {
            version, endpoint, ..
        } => {
            let message = format!("{endpoint} has no version {version:?}: it has {}", known());
            OipError::new(StatusCode::NOT_FOUND, message)
        }
    })
}
