//! Is it alive, is it ready, what does it measure.

use super::{Shared, Site};
use crate::store::writer::StoreHealth;
use crate::telemetry::metric;
use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::Serialize;
use std::sync::atomic::Ordering;
use utoipa::ToSchema;

/// The state of the parts that readiness depends on.
#[derive(Debug, Serialize, ToSchema)]
pub struct Readiness {
    /// Whether new work is welcome.
    ready: bool,
    /// `ok`, `failing` while commits are retried, `full` while new readings stay out for want of room, or `lost` when another
    /// server took the database over.
    store: &'static str,
    /// What an ack survives: `full` (power loss) or `normal` (a kill of this process), as `store.synchronous` says.
    synchronous: &'static str,
    /// `off`, `connected` or `reconnecting`. A lost broker does not make the server unready: other doors work.
    mqtt: &'static str,
    /// Whether the server is stopping.
    stopping: bool,
}

/// The process answers.
#[utoipa::path(get, path = "/health/live", responses((status = 200, description = "alive")))]
pub async fn live() -> &'static str {
    "ok"
}

/// New work is welcome: the store takes commits and the server is not stopping.
#[utoipa::path(get, path = "/health/ready", responses((status = 200, body = Readiness), (status = 503, body = Readiness)))]
pub async fn ready(site: Shared) -> impl IntoResponse {
    let stopping = site.stop.is_cancelled();
    let store = state_of(site.pipeline.writer().health());
    let ready = is_ready(&site);
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let mqtt = match &site.mqtt {
        None => "off",
        Some(mqtt) if mqtt.is_connected() => "connected",
        Some(_) => "reconnecting",
    };
    let synchronous = if site.pipeline.config().store.synchronous_full {
        "full"
    } else {
        "normal"
    };
    (
        status,
        Json(Readiness {
            ready,
            store,
            synchronous,
            mqtt,
            stopping,
        }),
    )
}

/// Whether new work is welcome.
pub fn is_ready(site: &Site) -> bool {
    let store = state_of(site.pipeline.writer().health());
    site.ready.load(Ordering::Relaxed) && store == "ok" && !site.stop.is_cancelled()
}

fn state_of(health: &StoreHealth) -> &'static str {
    if health.is_lost() {
        "lost"
    } else if health.is_failing() {
        "failing"
    } else if health.full().is_some() {
        "full"
    } else {
        "ok"
    }
}

/// Metrics in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", responses((status = 200, description = "Prometheus text format", content_type = "text/plain")))]
pub async fn metrics(site: Shared) -> impl IntoResponse {
    site.pipeline.hub.measure();
    metrics::gauge!(metric::SESSIONS).set(site.pipeline.sessions.len() as f64);
    metrics::gauge!(metric::STREAMS_TO_MOVE).set(site.pipeline.moves_left() as f64);
    metrics::gauge!(metric::STORE_QUEUE).set(site.pipeline.writer().waiting() as f64);
    let failing = site.pipeline.writer().health().is_failing();
    metrics::gauge!(metric::STORE_FAILING).set(f64::from(u8::from(failing)));
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
        site.metrics.render(),
    )
}
