//! `tidegate experiment`: versions compared on live devices.
//!
//! Every command asks a running server. A declaration is a TOML file; what it says is checked by the server.

use super::model::remote::{ReasonArgs, ServerArgs, list_of, moment, text};
use super::model::table::{aligned, row};
use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::Value;
use std::path::PathBuf;
use std::process::ExitCode;

/// Experiments: begin, look at, pause, stop, promote.
#[derive(Debug, Args)]
pub struct ExperimentArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(CreateArgs),
    /// What experiments a server has.
    List(ListArgs),
    /// One experiment: declaration, state, and who did what when and why.
    Show(NameArgs),
    /// What its numbers say.
    Results(NameArgs),
    /// Take no more devices in; those that are in an arm stay there.
    Pause(ChangeArgs),
    /// Take devices in again.
    Resume(ChangeArgs),
    /// End it: the production version serves its devices again.
    Stop(ChangeArgs),
    Promote(PromoteArgs),
}

/// Begin an experiment: devices get the versions of its arms with their next connection or at once, and keep their calibration.
#[derive(Debug, Args)]
struct CreateArgs {
    /// Its declaration, TOML; docs/EXPERIMENTS.md explains it.
    file: PathBuf,
    #[command(flatten)]
    reason: ReasonArgs,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Args)]
struct NameArgs {
    /// The experiment.
    name: String,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Args)]
struct ChangeArgs {
    /// The experiment.
    name: String,
    #[command(flatten)]
    reason: ReasonArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// End it: the version of one of its arms goes into production.
#[derive(Debug, Args)]
struct PromoteArgs {
    /// The experiment.
    name: String,
    /// The arm.
    arm: String,
    #[command(flatten)]
    reason: ReasonArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs the command.
///
/// # Errors
/// What the server says, or what is wrong with the file; in one line.
pub async fn run(args: ExperimentArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Create(args) => create(args).await,
        Command::List(args) => {
            let answer = args.server.get("/api/v1/experiments").await?;
            args.server.tell(&answer, listed)
        }
        Command::Show(args) => {
            let answer = args.server.get(&path(&args.name, "")?).await?;
            args.server.tell(&answer, shown)
        }
        Command::Results(args) => {
            let answer = args.server.get(&path(&args.name, "/results")?).await?;
            args.server.tell(&answer, results)
        }
        Command::Pause(args) => change(args, "/pause").await,
        Command::Resume(args) => change(args, "/resume").await,
        Command::Stop(args) => change(args, "/stop").await,
        Command::Promote(args) => {
            let mut body = args.reason.body();
            body["arm"] = args.arm.into();
            let path = path(&args.name, "/promote")?;
            let answer = args.server.post(&path, Some(&body)).await?;
            args.server.tell(&answer, told)
        }
    }
}

/// The route of an experiment; its name needs no escaping.
fn path(name: &str, rest: &str) -> anyhow::Result<String> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    match !name.is_empty() && name.chars().all(is_plain) {
        true => Ok(format!("/api/v1/experiments/{name}{rest}")),
        false => anyhow::bail!("{name:?}: expected the name of an experiment, of a-z, 0-9 and -"),
    }
}

async fn create(args: CreateArgs) -> anyhow::Result<ExitCode> {
    let file = args.file.display();
    let declared = std::fs::read_to_string(&args.file).with_context(|| file.to_string())?;
    let declared: Value = toml::from_str(&declared).with_context(|| file.to_string())?;
    let mut body = args.reason.body();
    body["experiment"] = declared;
    let answer = args.server.post("/api/v1/experiments", Some(&body)).await?;
    args.server.tell(&answer, told)
}

async fn change(args: ChangeArgs, rest: &str) -> anyhow::Result<ExitCode> {
    let path = path(&args.name, rest)?;
    let answer = args.server.post(&path, Some(&args.reason.body())).await?;
    args.server.tell(&answer, told)
}

fn told(answer: &Value) -> String {
    let line = format!("{}: {}", text(&answer["name"]), text(&answer["state"]));
    match answer["moving"].as_u64() {
        Some(moving) if moving > 0 => format!("{line}; {moving} streams are still to follow"),
        _ => line,
    }
}

fn listed(answer: &Value) -> String {
    let mut rows = vec![row([
        "EXPERIMENT",
        "ENDPOINT",
        "KIND",
        "STATE",
        "BEGAN",
        "ARMS",
    ])];
    for one in list_of(&answer["experiments"]) {
        let arms = list_of(&one["definition"]["arms"]).iter();
        let arms: Vec<String> = arms
            .map(|arm| format!("{}={}", text(&arm["name"]), text(&arm["version"])))
            .collect();
        rows.push(vec![
            text(&one["name"]),
            text(&one["endpoint"]),
            text(&one["kind"]),
            text(&one["state"]),
            moment(one["created"].as_i64().unwrap_or_default()),
            arms.join(" "),
        ]);
    }
    aligned(&rows)
}

fn shown(answer: &Value) -> String {
    let mut rows = Vec::new();
    for field in ["name", "endpoint", "kind", "state", "step"] {
        rows.push(vec![field.to_owned(), text(&answer[field])]);
    }
    for arm in list_of(&answer["definition"]["arms"]) {
        let weight = text(&arm["weight"]);
        let line = format!("{} {} {weight}", text(&arm["name"]), text(&arm["version"]));
        rows.push(vec!["arm".into(), line.trim_end().to_owned()]);
    }
    for metric in list_of(&answer["definition"]["metrics"]) {
        let line = ["role", "measure", "direction", "margin"].map(|field| text(&metric[field]));
        rows.push(vec!["metric".into(), line.join(" ")]);
    }
    for one in list_of(&answer["history"]) {
        let at = moment(one["at"].as_i64().unwrap_or_default());
        let evidence = text(&one["evidence"]);
        let why = match evidence.is_empty() {
            true => evidence,
            false => format!(": {evidence}"),
        };
        let line = format!("{at} {} by {}{why}", text(&one["what"]), text(&one["who"]));
        rows.push(vec!["history".into(), line]);
    }
    aligned(&rows)
}

fn results(answer: &Value) -> String {
    let number = |value: &Value| match value.as_f64() {
        Some(number) => format!("{number:.4}"),
        None => "-".to_owned(),
    };
    let report = &answer["report"];
    let mut header = row(["ARM", "EXPOSED", "MATURED", "COVERAGE"]);
    let metrics = list_of(&answer["metrics"]);
    header.extend(metrics.iter().map(text));
    let mut rows = vec![header];
    for arm in list_of(&report["arms"]) {
        let mut row = vec![
            text(&arm["name"]),
            text(&arm["exposed"]),
            text(&arm["matured"]),
            number(&arm["coverage"]),
        ];
        row.extend(
            list_of(&arm["metrics"])
                .iter()
                .map(|one| number(&one["value"])),
        );
        rows.push(row);
    }
    let mut lines = vec![aligned(&rows)];
    for one in list_of(&report["comparisons"]) {
        lines.push(text(&one["words"]));
        if one["coverage_differs"] == true {
            lines.push("feedback is less complete in one of the arms".into());
        }
    }
    if let Some(tripped) = answer["breaker"].as_str() {
        lines.push(format!("breaker: {tripped}"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_told_in_words_with_their_numbers() {
        let answer = serde_json::json!({
            "metrics": ["accuracy"],
            "report": {
                "arms": [
                    {"name": "control", "exposed": 10, "matured": 5, "coverage": 0.5, "metrics": [{"value": 0.25}]},
                    {"name": "challenger", "exposed": 11, "matured": 4, "coverage": null, "metrics": [null]}
                ],
                "comparisons": [{"words": "`challenger`: collecting", "coverage_differs": true}]
            },
            "breaker": null
        });
        let said = results(&answer);
        assert!(
            said.contains("0.2500") && said.contains("COVERAGE"),
            "{said}"
        );
        assert!(
            said.contains("`challenger`: collecting\nfeedback is less complete"),
            "{said}"
        );
    }

    #[test]
    fn a_name_that_would_need_escaping_is_refused() {
        assert!(path("one-2", "/stop").is_ok());
        for wrong in ["", "a/b", "A", "a b"] {
            assert!(path(wrong, "").is_err(), "{wrong}");
        }
    }
}
