//! `tidegate alert`: what is open, who looks after it, and what is to be quiet for a while; asked of a running server.

use super::ask::{Answer, ask, ask_with};
use super::source::print;
use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

/// A little longer than a server takes for a request.
const DEADLINE: Duration = Duration::from_secs(35);

/// See, acknowledge and silence the alerts of a running server.
#[derive(Debug, Clone, Args)]
pub struct AlertArgs {
    #[command(subcommand)]
    command: AlertCommand,
}

#[derive(Debug, Clone, Subcommand)]
enum AlertCommand {
    /// List open alerts, newest first.
    List(ListArgs),
    /// Say that you look after an alert; it stays open until it is well.
    Ack(AckArgs),
    /// Keep alerts quiet for a while: they are recorded, and told at the end if they are still open.
    Silence(SilenceArgs),
    /// List the rules.
    Rules(ServerArgs),
}

#[derive(Debug, Clone, Args)]
struct ServerArgs {
    /// The server.
    #[arg(long, env = "TIDEGATE_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Print the server's answer as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Args)]
struct ListArgs {
    /// Those that are over as well.
    #[arg(long)]
    all: bool,
    /// At most so many, up to 1,000.
    #[arg(long, default_value_t = 100)]
    limit: u32,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, Args)]
struct WhoArgs {
    /// Who asks.
    #[arg(long, env = "USER", default_value = "unknown", hide_env_values = true)]
    who: String,
    /// Why.
    #[arg(long, default_value = "")]
    why: String,
}

#[derive(Debug, Clone, Args)]
struct AckArgs {
    /// The alert's number.
    id: u64,
    #[command(flatten)]
    who: WhoArgs,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, Args)]
struct SilenceArgs {
    /// Only of this rule.
    #[arg(long)]
    rule: Option<String>,
    /// Only of this endpoint.
    #[arg(long, short)]
    endpoint: Option<String>,
    /// Only of this device.
    #[arg(long, short)]
    device: Option<String>,
    /// How long: `90s`, `30m`, `2h`, `1d`.
    #[arg(long = "for", value_parser = seconds)]
    for_s: u32,
    #[command(flatten)]
    who: WhoArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs the command.
///
/// # Errors
/// What the server says, or that it cannot be asked.
pub async fn run(args: AlertArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        AlertCommand::List(args) => list(args).await?,
        AlertCommand::Ack(args) => {
            let path = format!("/api/v1/alerts/{}/acknowledge", args.id);
            let body = json!({"who": args.who.who, "why": args.who.why});
            let answer = post(&args.server, &path, &body).await?;
            tell(&args.server, &answer, |_| {
                format!("alert {}: {} looks after it", args.id, args.who.who)
            })?;
        }
        AlertCommand::Silence(args) => {
            let body = json!({
                "rule": args.rule, "endpoint": args.endpoint, "device": args.device,
                "for_s": args.for_s, "who": args.who.who, "why": args.who.why,
            });
            let answer = post(&args.server, "/api/v1/alerts/silences", &body).await?;
            tell(&args.server, &answer, |said| {
                format!("silence {}: quiet for {} s", said["id"], args.for_s)
            })?;
        }
        AlertCommand::Rules(server) => {
            let answer = get(&server, "/api/v1/alerts/rules").await?;
            tell(&server, &answer, |said| {
                lines(
                    &said["rules"],
                    &[
                        "name", "kind", "severity", "endpoint", "device", "above", "for_s",
                        "source",
                    ],
                    "no rules",
                )
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let state = if args.all { "all" } else { "open" };
    let path = format!("/api/v1/alerts?state={state}&limit={}", args.limit);
    let answer = get(&args.server, &path).await?;
    tell(&args.server, &answer, |said| {
        let mut alerts = said["alerts"].clone();
        for alert in alerts.as_array_mut().into_iter().flatten() {
            alert["who"] = alert["acknowledged"]["who"].clone();
            let is_open = alert["resolved_at"].is_null();
            alert["state"] = if is_open { "open" } else { "over" }.into();
        }
        let fields = [
            "id", "state", "severity", "rule", "endpoint", "device", "who", "message",
        ];
        lines(&alerts, &fields, "no alerts")
    })
}

async fn get(server: &ServerArgs, path: &str) -> anyhow::Result<Answer> {
    ask(&server.url, "GET", path, DEADLINE).await
}

async fn post(server: &ServerArgs, path: &str, body: &Value) -> anyhow::Result<Answer> {
    ask_with(&server.url, "POST", path, Some(&body.to_string()), DEADLINE).await
}

/// Prints what the server said, or fails with its reason.
fn tell(
    server: &ServerArgs,
    answer: &Answer,
    text: impl Fn(&Value) -> String,
) -> anyhow::Result<()> {
    if answer.status() != Some(200) {
        match answer.field("detail") {
            Some(Value::String(detail)) => bail!("{detail}"),
            _ => bail!("{}: {}", server.url, answer.line),
        }
    }
    if server.json {
        return print(answer.body.trim_end());
    }
    let said: Value = serde_json::from_str(&answer.body)?;
    print(&text(&said))
}

/// A table: a line of names, and one an item; what is not there is `-`.
fn lines(items: &Value, fields: &[&str], none: &str) -> String {
    let items = items.as_array().map(Vec::as_slice).unwrap_or_default();
    if items.is_empty() {
        return none.to_owned();
    }
    let cell = |item: &Value, field: &str| match &item[field] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut rows = vec![
        fields
            .iter()
            .map(|field| field.to_uppercase())
            .collect::<Vec<_>>(),
    ];
    rows.extend(
        items
            .iter()
            .map(|item| fields.iter().map(|field| cell(item, field)).collect()),
    );
    super::model::aligned(&rows)
}

/// `2h` in seconds.
fn seconds(text: &str) -> Result<u32, String> {
    let expected = || format!("{text:?}: expected a number and s, m, h or d, such as 2h");
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => return Err(expected()),
    };
    let number: u32 = text[..text.len() - 1].parse().map_err(|_| expected())?;
    number
        .checked_mul(unit)
        .filter(|seconds| *seconds > 0)
        .ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_has_a_unit() {
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("2h"), Ok(7_200));
        for text in ["", "h", "2", "-1h", "0s", "99999999d", "2\u{20ac}"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
