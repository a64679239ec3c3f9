//! Experiments over HTTP: begun, looked at, paused, stopped, promoted. Arms never change.
//!
//! A change is answered when its row is stored and new streams follow it; `moving` tells how many streams in memory are still on their way.

use super::models::{problem as change_problem, reasons};
use super::{Problem, Shared};
use crate::experiment::{Action, Definition, ExperimentError, Kept, Results};
use crate::store::NoteRow;
use axum::Json;
use axum::body::Bytes;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// All experiments.
#[derive(Debug, Serialize, ToSchema)]
pub struct ExperimentsBody {
    experiments: Vec<ExperimentBody>,
}

/// One experiment.
#[derive(Debug, Serialize, ToSchema)]
pub struct ExperimentBody {
    name: String,
    endpoint: String,
    /// `ab`, `canary`, `shadow` or `bandit`.
    #[schema(value_type = String)]
    kind: crate::experiment::Kind,
    /// `running`, `paused`, `stopped`, `promoted` or `rolled_back`.
    state: String,
    /// When it began, Unix ms.
    created: i64,
    /// Of a canary's ramp, from 0.
    step: u32,
    /// As declared.
    #[schema(value_type = Object)]
    definition: Definition,
    /// Streams in memory that are still to be moved; the version before answers them until then.
    moving: u64,
}

/// An experiment with what happened to it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ShownBody {
    #[serde(flatten)]
    experiment: ExperimentBody,
    /// What happened, oldest first.
    history: Vec<NoteBody>,
}

/// A row of the history.
#[derive(Debug, Serialize, ToSchema)]
struct NoteBody {
    /// Unix ms.
    at: i64,
    who: String,
    what: String,
    /// Why, with the numbers behind it.
    evidence: String,
}

impl ExperimentBody {
    fn new(kept: &Kept, moving: u64) -> Self {
        Self {
            name: kept.definition.name.clone(),
            endpoint: kept.definition.endpoint.clone(),
            kind: kept.definition.kind,
            state: kept.row.state.clone(),
            created: kept.row.created,
            step: kept.row.step,
            definition: Definition::clone(&kept.definition),
            moving,
        }
    }
}

impl From<NoteRow> for NoteBody {
    fn from(row: NoteRow) -> Self {
        Self {
            at: row.at,
            who: row.note.who,
            what: row.note.what,
            evidence: row.note.evidence,
        }
    }
}

/// The document for what was not done.
fn problem(error: &ExperimentError) -> Problem {
    let (status, code) = match error {
        ExperimentError::Definition(wrong) => {
            let status = match wrong.code {
                "unknown_endpoint" | "unknown_version" => StatusCode::NOT_FOUND,
                "not_ready" | "layer_taken" => StatusCode::CONFLICT,
                _ => StatusCode::BAD_REQUEST,
            };
            (status, wrong.code)
        }
        ExperimentError::Unknown(_) => (StatusCode::NOT_FOUND, "unknown_experiment"),
        ExperimentError::Taken(_) => (StatusCode::CONFLICT, "name_taken"),
        ExperimentError::TooMany(_) => (StatusCode::CONFLICT, "too_many"),
        ExperimentError::State { .. } => (StatusCode::CONFLICT, "wrong_state"),
        ExperimentError::Arm { .. } => (StatusCode::NOT_FOUND, "unknown_arm"),
        ExperimentError::Change(error) => return change_problem(error),
        ExperimentError::Store(_) => {
            tracing::warn!(%error, "an experiment could not be changed");
            return Problem::later(error.to_string(), 2);
        }
    };
    Problem::new(status, code, error.to_string())
}

/// Every experiment, ended ones included, oldest first.
#[utoipa::path(get, path = "/api/v1/experiments", responses((status = 200, body = ExperimentsBody)))]
pub async fn list(site: Shared) -> Json<ExperimentsBody> {
    let all = site.experiments.all();
    let moving = site.pipeline.streams_to_move();
    let experiments = all.iter().map(|kept| ExperimentBody::new(kept, moving));
    Json(ExperimentsBody {
        experiments: experiments.collect(),
    })
}

/// What to begin.
#[derive(Debug, Deserialize, ToSchema)]
struct NewBody {
    /// The declaration; `docs/EXPERIMENTS.md` has its fields.
    #[schema(value_type = Object)]
    experiment: Definition,
}

/// Begins an experiment.
#[utoipa::path(post, path = "/api/v1/experiments", request_body = NewBody,
    responses((status = 200, body = ExperimentBody), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 503, body = Problem)))]
pub async fn create(
    site: Shared,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<ExperimentBody>, Problem> {
    let (asked, _) = reasons(&headers, &body)?;
    let new: NewBody = parsed(&body)?;
    let kept = site.experiments.create(new.experiment, &asked).await;
    let kept = kept.map_err(|error| problem(&error))?;
    Ok(Json(ExperimentBody::new(
        &kept,
        site.pipeline.streams_to_move(),
    )))
}

/// A body whose mistakes name their field.
fn parsed<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(&mut json)
        .map_err(|error| Problem::bad_request(format!("{}: {}", error.path(), error.inner())))
}

type OfName = Result<Path<String>, PathRejection>;

/// One experiment: declaration, state, and everything that happened to it.
#[utoipa::path(get, path = "/api/v1/experiments/{name}", params(("name" = String, Path)),
    responses((status = 200, body = ShownBody), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn show(site: Shared, path: OfName) -> Result<Json<ShownBody>, Problem> {
    let Path(name) = path?;
    let kept = site.experiments.find(&name);
    let kept = kept.map_err(|error| problem(&error))?;
    let history = site.experiments.history(kept.row.id).await;
    let history = history.map_err(|error| problem(&error.into()))?;
    Ok(Json(ShownBody {
        experiment: ExperimentBody::new(&kept, site.pipeline.streams_to_move()),
        history: history.into_iter().map(NoteBody::from).collect(),
    }))
}

/// What the numbers say.
#[derive(Debug, Serialize, ToSchema)]
pub struct ResultsBody {
    name: String,
    state: String,
    /// The report: by arm, by challenger with its verdict in words, the split.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    results: std::sync::Arc<Results>,
}

/// What the numbers of an experiment say now: they are looked at every second, and hold at all looks together.
#[utoipa::path(get, path = "/api/v1/experiments/{name}/results", params(("name" = String, Path)),
    responses((status = 200, body = ResultsBody), (status = 404, body = Problem)))]
pub async fn results(site: Shared, path: OfName) -> Result<Json<ResultsBody>, Problem> {
    let Path(name) = path?;
    let kept = site.experiments.find(&name);
    let kept = kept.map_err(|error| problem(&error))?;
    let results = site.experiments.results(kept.row.id).ok_or_else(|| {
        let detail = format!(
            "{name} has no results here: look in a moment, or in its history if it is over"
        );
        Problem::new(StatusCode::NOT_FOUND, "no_results", detail)
    })?;
    Ok(Json(ResultsBody {
        name,
        state: kept.row.state.clone(),
        results,
    }))
}

/// Who asks, and why.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "for the description of the API; read as `Reasons`"
)]
struct WhyBody {
    /// 1 to 128 characters.
    who: String,
    /// At most 1,024 characters.
    why: Option<String>,
}

async fn change(
    site: Shared,
    path: OfName,
    headers: HeaderMap,
    body: Bytes,
    action: Action,
) -> Result<Json<ExperimentBody>, Problem> {
    let Path(name) = path?;
    let (asked, _) = reasons(&headers, &body)?;
    let kept = site.experiments.change(&name, &action, &asked).await;
    let kept = kept.map_err(|error| problem(&error))?;
    Ok(Json(ExperimentBody::new(
        &kept,
        site.pipeline.streams_to_move(),
    )))
}

/// Takes no more devices in; those that are in an arm stay there.
#[utoipa::path(post, path = "/api/v1/experiments/{name}/pause", request_body = WhyBody, params(("name" = String, Path)),
    responses((status = 200, body = ExperimentBody), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn pause(
    site: Shared,
    path: OfName,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<ExperimentBody>, Problem> {
    change(site, path, headers, body, Action::Pause).await
}

/// Takes devices in again.
#[utoipa::path(post, path = "/api/v1/experiments/{name}/resume", request_body = WhyBody, params(("name" = String, Path)),
    responses((status = 200, body = ExperimentBody), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn resume(
    site: Shared,
    path: OfName,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<ExperimentBody>, Problem> {
    change(site, path, headers, body, Action::Resume).await
}

/// Ends it: the production version serves its devices again.
#[utoipa::path(post, path = "/api/v1/experiments/{name}/stop", request_body = WhyBody, params(("name" = String, Path)),
    responses((status = 200, body = ExperimentBody), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn stop(
    site: Shared,
    path: OfName,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<ExperimentBody>, Problem> {
    change(site, path, headers, body, Action::Stop).await
}

/// Which arm has won.
#[derive(Debug, Deserialize, ToSchema)]
struct WinnerBody {
    /// Its name.
    arm: String,
}

/// Ends it: the version of the arm that the body names goes into production.
#[utoipa::path(post, path = "/api/v1/experiments/{name}/promote", request_body = WinnerBody, params(("name" = String, Path)),
    responses((status = 200, body = ExperimentBody), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn promote(
    site: Shared,
    path: OfName,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<ExperimentBody>, Problem> {
    let winner: WinnerBody = parsed(&body)?;
    change(site, path, headers, body, Action::Promote(winner.arm)).await
}
