//! The HTTP side of the one port: API, health, metrics, dashboard, and the upgrades to WebSockets.
//!
//! Owns the routes and the form of errors ([`Problem`], RFC 9457). Reads from the store and the hub; a reading that comes over HTTP goes the
//! same way as any other. Bodies are at most 64 KiB, pages at most 1,000 rows, a request at most `connections.request_s`.

mod alerts;
mod api;
mod call;
mod device;
mod diff;
mod experiments;
mod feedback;
mod head;
mod health;
mod models;
mod oip;
mod page;
mod predict;
mod problem;
mod reset;
mod rollups;
mod upgrade;

pub use problem::Problem;

use crate::alert::Alerts;
use crate::experiment::Experiments;
use crate::ingest::mqtt::MqttStatus;
use crate::monitor::Monitor;
use crate::pipeline::Pipeline;
use crate::registry::Registry;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::routing::{get, post};
use metrics_exporter_prometheus::PrometheusHandle;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tidegate_protocol::MAX_FRAME_BYTES;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::timeout::TimeoutLayer;
use utoipa::OpenApi;

/// What the routes need.
pub struct Site {
    /// The road.
    pub pipeline: Arc<Pipeline>,
    /// What versions there are.
    pub registry: Arc<Registry>,
    /// What experiments there are.
    pub experiments: Arc<Experiments>,
    /// What a person should know.
    pub alerts: Arc<Alerts>,
    /// How devices and versions are.
    pub monitor: Arc<Monitor>,
    /// Room for WebSockets.
    pub sockets: Arc<Semaphore>,
    /// WebSocket tasks.
    pub tracker: TaskTracker,
    /// The server is stopping.
    pub stop: CancellationToken,
    /// The time for stopping in order is over.
    pub overdue: CancellationToken,
    /// Whether new work is welcome.
    pub ready: AtomicBool,
    /// The process's metrics.
    pub metrics: PrometheusHandle,
    /// The broker, when there is one.
    pub mqtt: Option<Arc<MqttStatus>>,
}

/// Shared by every handler.
pub type Shared = axum::extract::State<Arc<Site>>;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tidegate",
        description = "Live model predictions on sensor streams",
        license(name = "MIT OR Apache-2.0")
    ),
    paths(
        alerts::list,
        alerts::history,
        alerts::acknowledge,
        alerts::rules,
        alerts::put_rule,
        alerts::remove_rule,
        alerts::silences,
        alerts::silence,
        alerts::end_silence,
        api::endpoints,
        api::devices,
        device::device,
        api::samples,
        rollups::rollups,
        reset::reset,
        models::models,
        models::version,
        models::promote,
        models::archive,
        models::status,
        models::rollback,
        models::reload,
        diff::diff,
        experiments::list,
        experiments::create,
        experiments::show,
        experiments::results,
        experiments::pause,
        experiments::resume,
        experiments::stop,
        experiments::promote,
        feedback::feedback,
        predict::predict,
        health::live,
        health::ready,
        health::metrics,
        upgrade::stream,
        upgrade::live
    )
)]
struct ApiDoc;

async fn openapi() -> axum::Json<utoipa::openapi::OpenApi> {
    axum::Json(ApiDoc::openapi())
}

/// All routes.
pub fn router(site: Arc<Site>) -> Router {
    let request = site.pipeline.config().connections.request;
    Router::new()
        .route("/v1/stream/{endpoint}", get(upgrade::stream))
        .route("/v1/live", get(upgrade::live))
        .route("/api/v1/{endpoint}/predict", post(predict::predict))
        .route("/api/v1/endpoints", get(api::endpoints))
        .route("/api/v1/models", get(models::models))
        .route("/api/v1/models/reload", post(models::reload))
        .route("/api/v1/models/{endpoint}/rollback", post(models::rollback))
        .route("/api/v1/models/{endpoint}/diff", get(diff::diff))
        .route(
            "/api/v1/models/{endpoint}/{model}/{version}",
            get(models::version),
        )
        .route(
            "/api/v1/models/{endpoint}/{model}/{version}/promote",
            post(models::promote),
        )
        .route(
            "/api/v1/models/{endpoint}/{model}/{version}/archive",
            post(models::archive),
        )
        .route(
            "/api/v1/models/{endpoint}/{model}/{version}/status",
            post(models::status),
        )
        .route(
            "/api/v1/experiments",
            get(experiments::list).post(experiments::create),
        )
        .route("/api/v1/experiments/{name}", get(experiments::show))
        .route(
            "/api/v1/experiments/{name}/results",
            get(experiments::results),
        )
        .route("/api/v1/experiments/{name}/pause", post(experiments::pause))
        .route(
            "/api/v1/experiments/{name}/resume",
            post(experiments::resume),
        )
        .route("/api/v1/experiments/{name}/stop", post(experiments::stop))
        .route(
            "/api/v1/experiments/{name}/promote",
            post(experiments::promote),
        )
        .route("/api/v1/feedback", post(feedback::feedback))
        .route("/api/v1/devices", get(api::devices))
        .route("/api/v1/devices/{endpoint}/{device}", get(device::device))
        .route("/api/v1/samples", get(api::samples))
        .route("/api/v1/rollups", get(rollups::rollups))
        .route("/api/v1/{endpoint}/reset", post(reset::reset))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/openapi.json", get(openapi))
        .fallback(page::file)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_FRAME_BYTES))
        .merge(alerts::routes())
        .merge(oip::routes())
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            request,
        ))
        .with_state(site)
}

async fn wrong_method(method: axum::http::Method, uri: axum::http::Uri) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("{} does not take {method}", uri.path()),
    )
}
