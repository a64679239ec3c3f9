//! The part of `tidegate model` that asks a running server.

use super::full_name;
use super::table::{aligned, row};
use crate::cli::ask::{Answer, ask_with};
use crate::cli::source::print;
use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tidegate_protocol::EndpointName;

/// A little longer than a server takes for a request.
const DEADLINE: Duration = Duration::from_secs(35);
/// Longest wait for the streams to follow a promotion.
const FOLLOW: Duration = Duration::from_secs(120);
/// Between two looks at them.
const LOOK: Duration = Duration::from_millis(200);

/// Whom to ask, and how to tell.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// The server.
    #[arg(long, env = "TIDEGATE_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Print the server's answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Flags of `model list`.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// Only this endpoint.
    #[arg(long, short)]
    endpoint: Option<EndpointName>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Which version.
#[derive(Debug, Clone, Args)]
struct VersionArgs {
    /// `ENDPOINT/MODEL/VERSION`, or `MODEL/VERSION` with `--endpoint`.
    version: String,
    /// The endpoint.
    #[arg(long, short)]
    endpoint: Option<EndpointName>,
}

impl VersionArgs {
    /// The route of the version.
    fn path(&self) -> anyhow::Result<String> {
        let (endpoint, version) = full_name(&self.version, self.endpoint.as_ref())?;
        Ok(format!("/api/v1/models/{endpoint}/{version}"))
    }
}

/// Flags of `model show`.
#[derive(Debug, Clone, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    version: VersionArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Who changes it, and why; stored with the change.
#[derive(Debug, Clone, Args)]
pub struct ReasonArgs {
    /// Who asks.
    #[arg(long, env = "USER", default_value = "unknown", hide_env_values = true)]
    who: String,
    /// Why.
    #[arg(long, default_value = "")]
    why: String,
}

/// Put a version into production: it serves every stream of its endpoint that is not pinned. Streams keep their calibration, and the
/// version before answers each of them until it is moved.
#[derive(Debug, Clone, Args)]
pub struct PromoteArgs {
    #[command(flatten)]
    version: VersionArgs,
    #[command(flatten)]
    reason: ReasonArgs,
    /// Do not wait until the streams in memory have followed.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `model archive`.
#[derive(Debug, Clone, Args)]
pub struct ArchiveArgs {
    #[command(flatten)]
    version: VersionArgs,
    #[command(flatten)]
    reason: ReasonArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `model status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    version: VersionArgs,
    /// Where it goes: `testing`, `staging` or `archived`; into production it goes by `model promote`.
    status: String,
    #[command(flatten)]
    reason: ReasonArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Put the version back that was in production before.
#[derive(Debug, Clone, Args)]
pub struct RollbackArgs {
    /// The endpoint.
    #[arg(long, short)]
    endpoint: EndpointName,
    #[command(flatten)]
    reason: ReasonArgs,
    /// Do not wait until the streams in memory have followed.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `model diff`.
#[derive(Debug, Clone, Args)]
pub struct DiffArgs {
    /// `MODEL/VERSION`.
    a: String,
    /// `MODEL/VERSION`.
    b: String,
    /// The endpoint.
    #[arg(long, short)]
    endpoint: EndpointName,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `model reload`.
#[derive(Debug, Clone, Args)]
pub struct ReloadArgs {
    #[command(flatten)]
    server: ServerArgs,
}

impl ServerArgs {
    pub(in crate::cli) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let answer = ask_with(&self.url, "GET", path, None, DEADLINE).await?;
        self.body(answer)
    }

    pub(in crate::cli) async fn post(
        &self,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let body = body.map(ToString::to_string);
        let answer = ask_with(&self.url, "POST", path, body.as_deref(), DEADLINE).await?;
        self.body(answer)
    }

    /// The body of a good answer; else what it says.
    fn body(&self, answer: Answer) -> anyhow::Result<Value> {
        if answer.status() != Some(200) {
            match answer.field("detail") {
                Some(Value::String(detail)) => bail!("{detail}"),
                _ => bail!("{}: {}", self.url, answer.line),
            }
        }
        serde_json::from_str(&answer.body)
            .with_context(|| format!("{}: no JSON in its answer", self.url))
    }

    /// Prints what `text` makes of the answer, or the answer itself.
    pub(in crate::cli) fn tell(
        &self,
        answer: &Value,
        text: impl FnOnce(&Value) -> String,
    ) -> anyhow::Result<ExitCode> {
        if self.json {
            print(&serde_json::to_string_pretty(answer)?)?;
        } else {
            print(&text(answer))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl ReasonArgs {
    pub(in crate::cli) fn body(&self) -> Value {
        json!({"who": self.who, "why": self.why})
    }
}

pub(in crate::cli) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

pub(in crate::cli) fn list_of(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A mistake behind its place, unless it names that itself.
fn placed(path: &str, mistake: &str) -> String {
    let rest = mistake.strip_prefix(path);
    match rest.is_some_and(|rest| rest.starts_with(['/', ':'])) {
        true => mistake.to_owned(),
        false => format!("{path}: {mistake}"),
    }
}

/// The start of a hash, as people compare them.
fn short(hash: &Value) -> String {
    text(hash).chars().take(12).collect()
}

pub async fn list(args: ListArgs) -> anyhow::Result<ExitCode> {
    let mut answer = args.server.get("/api/v1/models").await?;
    if let Some(endpoint) = &args.endpoint {
        for part in ["models", "endpoints", "broken"] {
            if let Some(list) = answer[part].as_array_mut() {
                list.retain(|one| one["endpoint"] == endpoint.as_str());
            }
        }
    }
    args.server.tell(&answer, listed)
}

fn listed(answer: &Value) -> String {
    let mut rows = vec![row([
        "ENDPOINT",
        "VERSION",
        "STATUS",
        "READY",
        "STEP US",
        "ARCHITECTURE",
        "HASH",
    ])];
    let mut mistakes = Vec::new();
    for one in list_of(&answer["models"]) {
        let name = format!("{}/{}", text(&one["model"]), text(&one["version"]));
        let step = one["step_us"].as_f64().map(|us| us.to_string());
        let told = list_of(&one["mistakes"]).iter();
        let path = format!("{}/{name}", text(&one["endpoint"]));
        mistakes.extend(told.map(|mistake| placed(&path, &text(mistake))));
        rows.push(vec![
            text(&one["endpoint"]),
            name,
            text(&one["status"]),
            if one["ready"] == true { "yes" } else { "no" }.to_owned(),
            step.unwrap_or_else(|| "-".into()),
            text(&one["architecture"]),
            short(&one["hash"]),
        ]);
    }
    for one in list_of(&answer["broken"])
        .iter()
        .chain(list_of(&answer["endpoints"]))
    {
        if let Some(mistake) = one["mistake"].as_str() {
            mistakes.push(placed(&text(&one["endpoint"]), mistake));
        }
    }
    let mut lines = vec![aligned(&rows)];
    lines.extend(mistakes);
    if let Some(moving) = answer["moving"].as_u64().filter(|moving| *moving > 0) {
        lines.push(format!(
            "{moving} streams are on their way to their production version"
        ));
    }
    lines.join("\n")
}

pub async fn show(args: ShowArgs) -> anyhow::Result<ExitCode> {
    let answer = args.server.get(&args.version.path()?).await?;
    args.server.tell(&answer, shown)
}

fn shown(answer: &Value) -> String {
    let mut rows = Vec::new();
    for field in [
        "endpoint",
        "model",
        "version",
        "status",
        "ready",
        "hash",
        "architecture",
        "step_us",
        "memory",
        "calibration",
        "max_gap_s",
        "state_bytes",
        "numerics_rev",
        "author",
        "created",
        "training_data",
        "intended_use",
        "licence",
    ] {
        if !answer[field].is_null() {
            rows.push(vec![field.to_owned(), text(&answer[field])]);
        }
    }
    for file in list_of(&answer["files"]) {
        rows.push(vec![
            "file".into(),
            format!("{} ({} bytes)", text(&file["name"]), text(&file["bytes"])),
        ]);
    }
    for mistake in list_of(&answer["mistakes"]) {
        rows.push(vec!["mistake".into(), text(mistake)]);
    }
    for one in list_of(&answer["history"]) {
        let at = one["at"].as_i64().unwrap_or_default();
        let why = text(&one["why"]);
        let why = if why.is_empty() {
            why
        } else {
            format!(": {why}")
        };
        let line = format!(
            "{} {} by {}{why}",
            moment(at),
            text(&one["status"]),
            text(&one["who"])
        );
        rows.push(vec!["history".into(), line]);
    }
    aligned(&rows)
}

/// Unix ms as people read it, UTC.
pub(in crate::cli) fn moment(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(
        |_| ms.to_string(),
        |at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
    )
}

pub async fn promote(args: PromoteArgs) -> anyhow::Result<ExitCode> {
    let path = format!("{}/promote", args.version.path()?);
    let answer = args.server.post(&path, Some(&args.reason.body())).await?;
    serve_now(&args.server, answer, args.no_wait).await
}

pub async fn roll_back(args: RollbackArgs) -> anyhow::Result<ExitCode> {
    let path = format!("/api/v1/models/{}/rollback", args.endpoint);
    let answer = args.server.post(&path, Some(&args.reason.body())).await?;
    serve_now(&args.server, answer, args.no_wait).await
}

/// Waits until the streams in memory have followed, and tells.
async fn serve_now(
    server: &ServerArgs,
    mut answer: Value,
    no_wait: bool,
) -> anyhow::Result<ExitCode> {
    let until = Instant::now() + FOLLOW;
    while !no_wait && answer["moving"].as_u64() > Some(0) && Instant::now() < until {
        tokio::time::sleep(LOOK).await;
        let now = server.get("/api/v1/models").await?;
        answer["moving"] = now["moving"].clone();
    }
    server.tell(&answer, |answer| {
        let name = format!("{}/{}", text(&answer["endpoint"]), text(&answer["version"]));
        let replaced = match answer["replaced"].as_str() {
            Some(before) => format!("{name} is in production (before: {before})"),
            None => format!("{name} was in production already"),
        };
        match answer["moving"].as_u64() {
            Some(moving) if moving > 0 => {
                format!("{replaced}; {moving} streams are still to follow")
            }
            _ => replaced,
        }
    })
}

pub async fn archive(args: ArchiveArgs) -> anyhow::Result<ExitCode> {
    let path = format!("{}/archive", args.version.path()?);
    let answer = args.server.post(&path, Some(&args.reason.body())).await?;
    args.server.tell(&answer, status_told)
}

pub async fn status(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let path = format!("{}/status", args.version.path()?);
    let mut body = args.reason.body();
    body["status"] = args.status.into();
    let answer = args.server.post(&path, Some(&body)).await?;
    args.server.tell(&answer, status_told)
}

fn status_told(answer: &Value) -> String {
    let name = format!("{}/{}", text(&answer["endpoint"]), text(&answer["version"]));
    format!("{name}: {}", text(&answer["status"]))
}

pub async fn diff(args: DiffArgs) -> anyhow::Result<ExitCode> {
    let path = format!(
        "/api/v1/models/{}/diff?a={}&b={}",
        args.endpoint,
        plain(&args.a)?,
        plain(&args.b)?
    );
    let answer = args.server.get(&path).await?;
    args.server.tell(&answer, |answer| {
        let mut rows = vec![vec![
            "FIELD".to_owned(),
            text(&answer["a"]),
            text(&answer["b"]),
        ]];
        for one in list_of(&answer["differences"]) {
            let told = |value: &Value| {
                if value.is_null() {
                    "-".to_owned()
                } else {
                    text(value)
                }
            };
            rows.push(vec![text(&one["field"]), told(&one["a"]), told(&one["b"])]);
        }
        format!(
            "{}\n{} fields are the same",
            aligned(&rows),
            text(&answer["same"])
        )
    })
}

/// A name that needs no escaping in a query.
fn plain(name: &str) -> anyhow::Result<&str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/.-_".contains(c);
    match name.chars().all(is_plain) {
        true => Ok(name),
        false => bail!("{name:?}: expected MODEL/VERSION"),
    }
}

pub async fn reload(args: ReloadArgs) -> anyhow::Result<ExitCode> {
    let answer = args.server.post("/api/v1/models/reload", None).await?;
    let is_well = list_of(&answer["mistakes"]).is_empty();
    args.server.tell(&answer, |answer| {
        let mut lines = Vec::new();
        lines.extend(
            list_of(&answer["loaded"])
                .iter()
                .map(|path| format!("{}: ready", text(path))),
        );
        for one in list_of(&answer["mistakes"]) {
            lines.push(placed(&text(&one["path"]), &text(&one["mistake"])));
        }
        for path in list_of(&answer["unsettled"]) {
            lines.push(format!("{}: still being written", text(path)));
        }
        if lines.is_empty() {
            lines.push("nothing changed".into());
        }
        lines.join("\n")
    })?;
    Ok(if is_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_that_names_its_place_is_told_as_it_is() {
        let path = "rig-state/forest/3.0.0";
        let named = "rig-state/forest/3.0.0/golden.json: outputs[0]: off";
        assert_eq!(placed(path, named), named);
        let plain = "warm-up: reading 3: not finite";
        assert_eq!(placed(path, plain), format!("{path}: {plain}"));
        let other = "rig-state/forest/3.0.01: is another";
        assert_eq!(placed(path, other), format!("{path}: {other}"));
    }
}
