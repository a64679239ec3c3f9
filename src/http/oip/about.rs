//! What the protocol tells of the server and its models.

use super::{OipError, endpoint, name_of, table, version};
use crate::http::{Shared, health};
use crate::inference::{Served, ServedEndpoint};
use axum::Json;
use axum::extract::Path;
use axum::http::StatusCode;
use serde_json::{Value, json};

/// Who this is.
pub async fn metadata() -> Json<Value> {
    Json(json!({
        "name": "tidegate",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": ["binary_tensor_data"],
    }))
}

/// The process answers.
pub async fn server_live() -> Json<Value> {
    Json(json!({ "live": true }))
}

/// New work is welcome.
pub async fn server_ready(site: Shared) -> (StatusCode, Json<Value>) {
    let ready = health::is_ready(&site);
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(json!({ "ready": ready })))
}

/// A model's tensors, by the version that serves.
pub async fn model(site: Shared, Path(model): Path<String>) -> Result<Json<Value>, OipError> {
    about(&site, &model, "")
}

/// A version's tensors.
pub async fn model_version(
    site: Shared,
    Path((model, version)): Path<(String, String)>,
) -> Result<Json<Value>, OipError> {
    about(&site, &model, &version)
}

/// Versions are ready once they are loaded.
pub async fn model_ready(site: Shared, Path(model): Path<String>) -> Result<Json<Value>, OipError> {
    let endpoint = endpoint(&site, &model)?;
    Ok(Json(
        json!({ "name": endpoint.name.to_string(), "ready": true }),
    ))
}

/// The same of one version.
pub async fn model_version_ready(
    site: Shared,
    Path((model, name)): Path<(String, String)>,
) -> Result<Json<Value>, OipError> {
    let endpoint = endpoint(&site, &model)?;
    let served = version(&endpoint, &name)?;
    let ready =
        json!({ "name": endpoint.name.to_string(), "version": name_of(&served), "ready": true });
    Ok(Json(ready))
}

fn about(site: &Shared, model: &str, name: &str) -> Result<Json<Value>, OipError> {
    let endpoint = endpoint(site, model)?;
    let served = version(&endpoint, name)?;
    let features: Vec<_> = endpoint
        .manifest
        .features
        .iter()
        .map(|f| f.name.as_str())
        .collect();
    Ok(Json(json!({
        "name": endpoint.name.to_string(),
        "versions": endpoint.versions.values().map(|served| name_of(served)).collect::<Vec<_>>(),
        "platform": "tidegate",
        "inputs": [{
            "name": "input",
            "datatype": "FP32",
            "shape": [-1, features.len()],
            "parameters": { "content_type": "np", "features": features },
        }],
        "outputs": outputs(&endpoint, &served),
        "parameters": {
            "task": endpoint.manifest.task.as_str(),
            "stateful": needs_history(&served),
        },
    })))
}

/// Whether an answer depends on earlier readings: such a version needs a device.
pub fn needs_history(served: &Served) -> bool {
    let manifest = &served.version.manifest;
    manifest.memory > 0 || manifest.calibration > 0
}

/// The tensors of an answer; the rows are variable.
fn outputs(endpoint: &ServedEndpoint, served: &Served) -> Vec<Value> {
    let template = served.template();
    let tensors = table::tensors(endpoint.manifest.task, template.as_ref(), &[]);
    let described = tensors.iter().map(|tensor| {
        let width = tensor.shape.get(1);
        let width = width.map(|width| i64::try_from(*width).unwrap_or(-1));
        let shape: Vec<i64> = std::iter::once(-1).chain(width).collect();
        json!({
            "name": tensor.name,
            "datatype": tensor.data.datatype(),
            "shape": shape,
            "parameters": tensor.parameters,
        })
    });
    described.collect()
}
