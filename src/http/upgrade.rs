//! From an HTTP request to a WebSocket: origin, room, endpoint and device are checked here.
//!
//! A request that is a proper upgrade but cannot be served is answered on the socket (`error`, then a close code), because a browser
//! cannot read an HTTP status; one that is no upgrade gets a problem document.

use super::predict::{WishError, wished};
use super::{Problem, Shared, Site};
use crate::ingest::ws::{self, StreamRequest};
use crate::push::live::{self as live_socket, LiveContext};
use crate::socket::Upgrade;
use crate::stream::StreamKey;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tidegate_protocol::{CloseCode, Codec, DeviceId, ErrorCode, MAX_NUMBER};
use utoipa::IntoParams;

/// Parameters of a stream.
#[derive(Debug, Deserialize, IntoParams)]
pub struct StreamParameters {
    /// Who sends: 1-128 characters of `[A-Za-z0-9._:-]`.
    device: Option<String>,
    /// Epoch of the device's counter; the stream's current one when left out.
    epoch: Option<String>,
    /// The device's back-fill of this epoch, a stream of its own beside the live one.
    import: Option<String>,
    /// `committed`: predictions only after commit.
    push: Option<String>,
    /// `model/version`: pins the stream.
    version: Option<String>,
    /// `production` or `staging`; pins the stream to the version that has it now.
    status: Option<String>,
}

/// Why a stream cannot be served.
type Refusal = (CloseCode, ErrorCode, String);

/// A device's stream (WebSocket; see the protocol's specification).
#[utoipa::path(get, path = "/v1/stream/{endpoint}", params(("endpoint" = String, Path), StreamParameters),
    responses((status = 101, description = "the stream is open"), (status = 426, body = Problem)))]
pub async fn stream(
    site: Shared,
    Path(endpoint): Path<String>,
    parameters: Result<Query<StreamParameters>, QueryRejection>,
    mut request: Request,
) -> Response {
    let upgrade = match begin(&mut request) {
        Ok(upgrade) => upgrade,
        Err(problem) => return problem.into_response(),
    };
    let codec = upgrade.codec;
    let checked = check_origin(request.headers(), &site).and_then(|()| {
        let Query(parameters) = parameters.map_err(|error| {
            (
                CloseCode::BadRequest,
                ErrorCode::BadRequest,
                error.body_text(),
            )
        })?;
        check_stream(&site, &endpoint, &parameters, codec)
    });
    let site = Arc::clone(&site);
    open(upgrade, Arc::clone(&site), move |socket| async move {
        match checked {
            Ok(request) => {
                ws::serve(
                    socket,
                    request,
                    Arc::clone(&site.pipeline),
                    site.stop.clone(),
                )
                .await;
            }
            Err((close, code, message)) => ws::refuse(socket, codec, close, code, message).await,
        }
    })
}

/// Live events (WebSocket; see the protocol's specification).
#[utoipa::path(get, path = "/v1/live", responses((status = 101, description = "subscribe now"), (status = 426, body = Problem)))]
pub async fn live(site: Shared, mut request: Request) -> Response {
    let upgrade = match begin(&mut request) {
        Ok(upgrade) => upgrade,
        Err(problem) => return problem.into_response(),
    };
    let codec = upgrade.codec;
    let checked = check_origin(request.headers(), &site);
    let site = Arc::clone(&site);
    open(upgrade, Arc::clone(&site), move |socket| async move {
        match checked {
            Ok(()) => live_socket::serve(socket, codec, context(&site)).await,
            Err((close, code, message)) => ws::refuse(socket, codec, close, code, message).await,
        }
    })
}

fn context(site: &Site) -> LiveContext {
    let config = site.pipeline.config();
    LiveContext {
        hub: Arc::clone(&site.pipeline.hub),
        max_subscriptions: config.live.max_subscriptions,
        stall: Duration::from_secs(config.live.stall_s.into()),
        ping: config.connections.ping,
        pong: config.connections.pong,
        stop: site.stop.clone(),
    }
}

fn begin(request: &mut Request) -> Result<Upgrade, Problem> {
    Upgrade::new(request).map_err(|error| {
        Problem::new(
            StatusCode::UPGRADE_REQUIRED,
            "upgrade_required",
            error.to_string(),
        )
    })
}

/// Answers the upgrade and serves the socket in a tracked task; without room it is closed with 4504.
fn open<F>(
    upgrade: Upgrade,
    site: Arc<Site>,
    serve: impl FnOnce(crate::socket::Socket) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send,
{
    let codec = upgrade.codec;
    let room = Arc::clone(&site.sockets).try_acquire_owned();
    let (response, socket) = upgrade.split();
    // The task is as large as its largest part, for as long as the connection lives: parts that end soon have boxes of their own.
    site.tracker.spawn(async move {
        let Some(socket) = socket.await else { return };
        match room {
            Ok(_held_while_serving) => Box::pin(serve(socket)).await,
            Err(_) => {
                let message = "this server has as many connections as it takes".to_owned();
                let (close, code) = (CloseCode::ConnectionLimit, ErrorCode::Limit);
                Box::pin(ws::refuse(socket, codec, close, code, message)).await;
            }
        }
    });
    response
}

/// A page may connect from this very server or from an origin on the list; no Origin is no browser.
fn check_origin(headers: &HeaderMap, site: &Site) -> Result<(), Refusal> {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return Ok(());
    };
    let origin = origin.to_str().unwrap_or_default();
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let own = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"))
        == Some(host);
    if own
        || site
            .pipeline
            .config()
            .allowed_origins
            .iter()
            .any(|allowed| allowed == origin)
    {
        return Ok(());
    }
    Err((
        CloseCode::OriginNotAllowed,
        ErrorCode::OriginNotAllowed,
        format!("origin {origin:?} is not allowed"),
    ))
}

fn check_stream(
    site: &Site,
    endpoint: &str,
    parameters: &StreamParameters,
    codec: Codec,
) -> Result<StreamRequest, Refusal> {
    let bad = |message: String| (CloseCode::BadRequest, ErrorCode::BadRequest, message);
    let unknown = || {
        let message = format!(
            "no endpoint {:?}",
            endpoint.chars().take(64).collect::<String>()
        );
        (CloseCode::BadRequest, ErrorCode::UnknownEndpoint, message)
    };
    let engine = site.pipeline.engines.load();
    let endpoint = engine.endpoint(endpoint).ok_or_else(unknown)?;
    let device = parameters
        .device
        .as_deref()
        .ok_or_else(|| bad("parameter device is missing".into()))?;
    let device = DeviceId::new(device).map_err(|error| bad(error.to_string()))?;
    let (import, epoch) = parse_epochs(parameters).map_err(bad)?;
    let push_committed = match parameters.push.as_deref() {
        None => false,
        Some("committed") => true,
        Some(other) => return Err(bad(format!("push {other:?}: expected committed"))),
    };
    let pin = wished(
        endpoint,
        parameters.version.as_deref(),
        parameters.status.as_deref(),
    )
    .map_err(|error| {
        let code = match &error {
            WishError::Version(_) | WishError::NoCandidate(_) => ErrorCode::UnknownVersion,
            WishError::Status(_) | WishError::Both => ErrorCode::BadRequest,
        };
        (CloseCode::BadRequest, code, error.to_string())
    })?;
    let key = StreamKey {
        import,
        ..StreamKey::live(endpoint.name.clone(), device)
    };
    Ok(StreamRequest {
        number: site.pipeline.number_request(),
        endpoint: Arc::clone(endpoint),
        key,
        epoch,
        push_committed,
        pin,
        codec,
    })
}

/// The back-fill that is asked for (0: the live stream), and the epoch, which for a back-fill is its own.
fn parse_epochs(parameters: &StreamParameters) -> Result<(u64, Option<u64>), String> {
    let epoch = parameters.epoch.as_deref().map(parse_epoch).transpose()?;
    let Some(import) = &parameters.import else {
        return Ok((0, epoch));
    };
    let import = parse_epoch(import).map_err(|reason| format!("import: {reason}"))?;
    match epoch {
        _ if import == 0 => Err("import 0: expected 1 to 2^53-1".into()),
        Some(epoch) if epoch != import => Err(format!(
            "import {import} is its own epoch: leave out epoch {epoch}"
        )),
        _ => Ok((import, Some(import))),
    }
}

fn parse_epoch(text: &str) -> Result<u64, String> {
    let epoch = text.parse().ok().filter(|epoch| *epoch <= MAX_NUMBER);
    epoch.ok_or_else(|| format!("epoch {text:?}: expected 0 to 2^53-1"))
}
