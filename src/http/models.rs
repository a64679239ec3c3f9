//! The repository over HTTP: what versions there are, what they are to their endpoint, and how that is changed.
//!
//! Reads come from the catalogue and wait for nothing. A change is answered when its row is stored and new streams follow it; `moving` tells
//! how many streams in memory are still on their way.

use super::{Problem, Shared};
use crate::inference::Served;
use crate::registry::{Asked, ChangeError, Changed, Entry, Listed};
use crate::store::StatusRow;
use crate::stream::Status;
use axum::Json;
use axum::body::Bytes;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Longest `who`, in characters.
const MOST_WHO: usize = 128;
/// Longest `why`, in characters.
const MOST_WHY: usize = 1_024;

/// Everything that can be asked, and what is wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct Models {
    endpoints: Vec<EndpointState>,
    models: Vec<ModelBody>,
    /// Endpoints that could not be read.
    broken: Vec<BrokenEndpoint>,
    /// Streams in memory that are still to be moved to the production version of their endpoint.
    moving: u64,
}

/// An endpoint and who serves it.
#[derive(Debug, Serialize, ToSchema)]
struct EndpointState {
    endpoint: String,
    revision: u32,
    /// Serves every stream that is not pinned, `model/version`.
    production: String,
    /// Serves while no version was promoted.
    default: String,
    /// What is wrong with its newest `endpoint.toml`; the one before is in force.
    mistake: Option<String>,
}

/// An endpoint without a usable `endpoint.toml`.
#[derive(Debug, Serialize, ToSchema)]
struct BrokenEndpoint {
    endpoint: String,
    mistake: String,
}

/// One version of a model.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelBody {
    endpoint: String,
    model: String,
    version: String,
    /// SHA-256 of its folder, hexadecimal.
    hash: String,
    /// `testing`, `staging`, `production` or `archived`.
    status: &'static str,
    /// Whether it may be promoted.
    ready: bool,
    /// Why not; or what is wrong with its folder since it was loaded.
    mistakes: Vec<String>,
    /// What is known of a version that was loaded.
    #[serde(flatten)]
    about: Option<About>,
}

/// A loaded version.
#[derive(Debug, Serialize, ToSchema)]
struct About {
    architecture: &'static str,
    /// Readings that determine the state besides the calibration.
    memory: u32,
    /// Readings of the calibration.
    calibration: u32,
    max_gap_s: f64,
    author: String,
    created: String,
    training_data: String,
    training_hash: String,
    intended_use: String,
    licence: String,
    /// Bytes of state a stream.
    state_bytes: usize,
    /// Names and lengths of the state's buffers.
    state_layout: String,
    numerics_rev: u32,
    /// Median time of a step, measured when it was loaded, microseconds.
    step_us: f64,
}

/// A version with its files and its history.
#[derive(Debug, Serialize, ToSchema)]
pub struct VersionBody {
    #[serde(flatten)]
    model: ModelBody,
    files: Vec<FileBody>,
    /// Changes of status, oldest first.
    history: Vec<StatusBody>,
    /// Its `model.toml`.
    manifest: String,
}

/// A file of a version.
#[derive(Debug, Serialize, ToSchema)]
struct FileBody {
    name: String,
    bytes: u64,
}

/// A change of status.
#[derive(Debug, Serialize, ToSchema)]
struct StatusBody {
    status: &'static str,
    /// Unix ms.
    at: i64,
    who: String,
    why: String,
}

impl ModelBody {
    fn new(endpoint: &str, entry: &Entry) -> Self {
        let (model, version) = entry.name.split_once('/').unwrap_or((&entry.name, ""));
        Self {
            endpoint: endpoint.to_owned(),
            model: model.to_owned(),
            version: version.to_owned(),
            hash: entry.hash.clone(),
            status: entry.status.as_str(),
            ready: entry.ready,
            mistakes: entry.mistakes.clone(),
            about: entry.served.as_deref().map(About::new),
        }
    }
}

impl About {
    fn new(served: &Served) -> Self {
        let version = &served.version;
        let manifest = &version.manifest;
        Self {
            architecture: manifest.architecture.kind(),
            memory: manifest.memory,
            calibration: manifest.calibration,
            max_gap_s: manifest.max_gap_s,
            author: manifest.author.clone(),
            created: manifest.created.clone(),
            training_data: manifest.training.data.clone(),
            training_hash: manifest.training.hash.clone(),
            intended_use: manifest.intended_use.clone(),
            licence: manifest.licence.clone(),
            state_bytes: version.state_len() * size_of::<f32>(),
            state_layout: served.layout.to_string(),
            numerics_rev: version.numerics_rev(),
            step_us: served.step_us(),
        }
    }
}

impl StatusBody {
    fn new(row: &StatusRow) -> Self {
        Self {
            status: row.change.status.as_str(),
            at: row.at,
            who: row.change.who.clone(),
            why: row.change.why.clone(),
        }
    }
}

/// Every version, loaded or not, with its status.
#[utoipa::path(get, path = "/api/v1/models", responses((status = 200, body = Models)))]
pub async fn models(site: Shared) -> Json<Models> {
    let catalogue = site.registry.catalogue();
    let endpoints = catalogue.endpoints.iter();
    let models = catalogue.endpoints.iter().flat_map(|(name, listed)| {
        let entries = listed.versions.values();
        entries.map(|entry| ModelBody::new(name, entry))
    });
    let broken = catalogue
        .broken
        .iter()
        .map(|(name, mistake)| BrokenEndpoint {
            endpoint: name.clone(),
            mistake: mistake.clone(),
        });
    Json(Models {
        endpoints: endpoints
            .map(|(name, listed)| endpoint_state(name, listed))
            .collect(),
        models: models.collect(),
        broken: broken.collect(),
        moving: site.pipeline.streams_to_move(),
    })
}

fn endpoint_state(name: &str, listed: &Listed) -> EndpointState {
    EndpointState {
        endpoint: name.to_owned(),
        revision: listed.manifest.revision,
        production: listed.production.clone(),
        default: listed.manifest.default.clone(),
        mistake: listed.mistake.clone(),
    }
}

/// Endpoint, model and version of a path.
type OfVersion = Result<Path<(String, String, String)>, PathRejection>;

/// One version: manifest, files, and every change of its status.
#[utoipa::path(get, path = "/api/v1/models/{endpoint}/{model}/{version}",
    params(("endpoint" = String, Path), ("model" = String, Path), ("version" = String, Path)),
    responses((status = 200, body = VersionBody), (status = 404, body = Problem)))]
pub async fn version(site: Shared, path: OfVersion) -> Result<Json<VersionBody>, Problem> {
    let Path((endpoint, model, version)) = path?;
    let catalogue = site.registry.catalogue();
    let listed = catalogue.endpoints.get(&endpoint);
    let listed = listed.ok_or_else(|| problem(&ChangeError::UnknownEndpoint(endpoint.clone())))?;
    let entry = entry(&endpoint, listed, &format!("{model}/{version}"))?;
    let files = entry.files.iter().map(|(name, bytes)| FileBody {
        name: name.clone(),
        bytes: *bytes,
    });
    Ok(Json(VersionBody {
        model: ModelBody::new(&endpoint, entry),
        files: files.collect(),
        history: entry.history.iter().map(StatusBody::new).collect(),
        manifest: entry.manifest.to_string(),
    }))
}

/// A version of an endpoint.
pub(super) fn entry<'a>(
    endpoint: &str,
    listed: &'a Listed,
    version: &str,
) -> Result<&'a Entry, Problem> {
    listed.versions.get(version).ok_or_else(|| {
        let known: Vec<&str> = listed.versions.keys().map(String::as_str).collect();
        problem(&ChangeError::UnknownVersion {
            endpoint: endpoint.to_owned(),
            version: version.chars().take(128).collect(),
            known: known.join(", "),
        })
    })
}

/// Who asks for a change, and why.
#[derive(Debug, Deserialize, ToSchema)]
struct Reasons {
    /// 1 to 128 characters.
    #[serde(default)]
    #[schema(required = true)]
    who: String,
    /// At most 1,024 characters.
    #[serde(default)]
    why: String,
    /// For `status`: `testing`, `staging` or `archived`.
    status: Option<String>,
}

/// What a change came to.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChangedBody {
    endpoint: String,
    /// `model/version`.
    version: String,
    status: &'static str,
    /// The version that served before, where another one serves now.
    replaced: Option<String>,
    /// Streams in memory that are still to be moved; their version before answers until then.
    moving: u64,
}

fn changed_body(site: &Shared, changed: Changed) -> Json<ChangedBody> {
    Json(ChangedBody {
        endpoint: changed.endpoint,
        version: changed.version,
        status: changed.status.as_str(),
        replaced: changed.replaced,
        moving: site.pipeline.streams_to_move(),
    })
}

/// Puts a version into production: it serves every stream of its endpoint that is not pinned.
#[utoipa::path(post, path = "/api/v1/models/{endpoint}/{model}/{version}/promote", request_body = Reasons,
    params(("endpoint" = String, Path), ("model" = String, Path), ("version" = String, Path)),
    responses((status = 200, body = ChangedBody), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 503, body = Problem)))]
pub async fn promote(
    site: Shared,
    path: OfVersion,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<ChangedBody>, Problem> {
    let Path((endpoint, model, version)) = path?;
    let (asked, _) = reasons(&headers, &body)?;
    let version = format!("{model}/{version}");
    let mut changed = site.registry.promote(&endpoint, &version, &asked).await;
    if is_unknown(&changed) && look_now(&site).await {
        changed = site.registry.promote(&endpoint, &version, &asked).await;
    }
    Ok(changed_body(
        &site,
        changed.map_err(|error| problem(&error))?,
    ))
}

/// Puts a version away: it keeps serving the streams that are pinned to it.
#[utoipa::path(post, path = "/api/v1/models/{endpoint}/{model}/{version}/archive", request_body = Reasons,
    params(("endpoint" = String, Path), ("model" = String, Path), ("version" = String, Path)),
    responses((status = 200, body = ChangedBody), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 503, body = Problem)))]
pub async fn archive(
    site: Shared,
    path: OfVersion,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<ChangedBody>, Problem> {
    let (asked, _) = reasons(&headers, &body)?;
    set(site, path, Status::Archived, asked).await
}

/// Moves a version that does not serve to the status that the body names: `testing`, `staging` or `archived`.
#[utoipa::path(post, path = "/api/v1/models/{endpoint}/{model}/{version}/status", request_body = Reasons,
    params(("endpoint" = String, Path), ("model" = String, Path), ("version" = String, Path)),
    responses((status = 200, body = ChangedBody), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 503, body = Problem)))]
pub async fn status(
    site: Shared,
    path: OfVersion,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<ChangedBody>, Problem> {
    let (asked, status) = reasons(&headers, &body)?;
    let named = status.unwrap_or_default();
    let known = Status::ALL.iter().find(|known| known.as_str() == named);
    let expected = "status: expected testing, staging or archived";
    let status = known.ok_or_else(|| Problem::bad_request(expected))?;
    set(site, path, *status, asked).await
}

async fn set(
    site: Shared,
    path: OfVersion,
    status: Status,
    asked: Asked,
) -> Result<Json<ChangedBody>, Problem> {
    let Path((endpoint, model, version)) = path?;
    let version = format!("{model}/{version}");
    let registry = &site.registry;
    let mut changed = registry
        .set_status(&endpoint, &version, status, &asked)
        .await;
    if is_unknown(&changed) && look_now(&site).await {
        changed = registry
            .set_status(&endpoint, &version, status, &asked)
            .await;
    }
    Ok(changed_body(
        &site,
        changed.map_err(|error| problem(&error))?,
    ))
}

fn is_unknown<T>(changed: &Result<T, ChangeError>) -> bool {
    let unknown = |error: &ChangeError| {
        matches!(
            error,
            ChangeError::UnknownVersion { .. } | ChangeError::Unsettled { .. }
        )
    };
    changed.as_ref().is_err_and(unknown)
}

/// A version that was added a moment ago is known only after the next look at the folder: that is taken now. Whether it was.
async fn look_now(site: &super::Site) -> bool {
    let looked = site.registry.reload().await;
    if let Err(error) = &looked {
        tracing::warn!(%error, "the folder of models could not be looked at");
    }
    looked.is_ok()
}

/// Puts the version that was in production before back.
#[utoipa::path(post, path = "/api/v1/models/{endpoint}/rollback", request_body = Reasons, params(("endpoint" = String, Path)),
    responses((status = 200, body = ChangedBody), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 503, body = Problem)))]
pub async fn rollback(
    site: Shared,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<ChangedBody>, Problem> {
    let Path(endpoint) = path?;
    let (asked, _) = reasons(&headers, &body)?;
    let changed = site.registry.roll_back(&endpoint, &asked).await;
    Ok(changed_body(
        &site,
        changed.map_err(|error| problem(&error))?,
    ))
}

/// What a reading of the folder came to.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReloadBody {
    /// Versions that became ready, `endpoint/model/version`.
    loaded: Vec<String>,
    /// What is wrong, and was not known before.
    mistakes: Vec<PlaceBody>,
    /// Still being written: looked at again in a moment.
    unsettled: Vec<String>,
}

/// A mistake and where it is.
#[derive(Debug, Serialize, ToSchema)]
struct PlaceBody {
    path: String,
    mistake: String,
}

/// Reads the folder of models now. What is loaded goes on whatever is found.
#[utoipa::path(post, path = "/api/v1/models/reload", responses((status = 200, body = ReloadBody), (status = 503, body = Problem)))]
pub async fn reload(site: Shared) -> Result<Json<ReloadBody>, Problem> {
    let report = site
        .registry
        .reload()
        .await
        .map_err(|error| problem(&error))?;
    let mistakes = report.mistakes.into_iter();
    Ok(Json(ReloadBody {
        loaded: report.loaded,
        mistakes: mistakes
            .map(|(path, mistake)| PlaceBody { path, mistake })
            .collect(),
        unsettled: report.unsettled,
    }))
}

/// The body of a change. Only JSON: a form of another page cannot send that.
pub(super) fn reasons(
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(Asked, Option<String>), Problem> {
    only_json(headers, "{\"who\": ..., \"why\": ...}")?;
    let reasons: Reasons = serde_json::from_slice(body)
        .map_err(|error| Problem::bad_request(format!("expected {{\"who\", \"why\"}}: {error}")))?;
    let asked = asked(&reasons.who, reasons.why)?;
    Ok((asked, reasons.status))
}

/// Who asks, and why, within bounds.
pub(super) fn asked(who: &str, why: String) -> Result<Asked, Problem> {
    let is_plain = |text: &str| !text.chars().any(char::is_control);
    let who = who.trim();
    if who.is_empty() || who.chars().count() > MOST_WHO || !is_plain(who) {
        let detail = format!(
            "who: expected 1 to {MOST_WHO} characters in one line: who asks is kept with the change"
        );
        return Err(Problem::bad_request(detail));
    }
    if why.chars().count() > MOST_WHY || !is_plain(&why) {
        let detail = format!("why: expected at most {MOST_WHY} characters in one line");
        return Err(Problem::bad_request(detail));
    }
    Ok(Asked {
        who: who.to_owned(),
        why,
    })
}

/// Refuses a body that is not JSON, and tells what is expected.
pub(super) fn only_json(headers: &HeaderMap, expected: &str) -> Result<(), Problem> {
    let content_type = headers.get(header::CONTENT_TYPE);
    let content_type = content_type
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if content_type.starts_with("application/json") {
        return Ok(());
    }
    let detail = format!("expected application/json: {expected}");
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    Err(Problem::new(status, "unsupported_media_type", detail))
}

/// The document for a change that was not made.
pub(super) fn problem(error: &ChangeError) -> Problem {
    let (status, code) = match error {
        ChangeError::UnknownEndpoint(_) => (StatusCode::NOT_FOUND, "unknown_endpoint"),
        ChangeError::UnknownVersion { .. } => (StatusCode::NOT_FOUND, "unknown_version"),
        ChangeError::NotReady { .. } | ChangeError::Unsettled { .. } => {
            (StatusCode::CONFLICT, "not_ready")
        }
        ChangeError::ByPromotion(_) => (StatusCode::CONFLICT, "by_promotion"),
        ChangeError::InProduction(_) => (StatusCode::CONFLICT, "in_production"),
        ChangeError::NothingBefore(_) => (StatusCode::CONFLICT, "nothing_before"),
        ChangeError::Folder(_) | ChangeError::Store(_) => {
            tracing::warn!(%error, "the models could not be changed");
            return Problem::later(error.to_string(), 2);
        }
    };
    Problem::new(status, code, error.to_string())
}
