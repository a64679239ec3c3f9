//! `tidegate reset`: sets a device's model state back, so that it calibrates anew.

use super::ask::ask;
use anyhow::bail;
use clap::Args;
use std::process::ExitCode;
use std::time::Duration;
use tidegate_protocol::{DeviceId, EndpointName};

/// A little longer than the server waits for its own commit.
const DEADLINE: Duration = Duration::from_secs(20);

/// Set a device's model state back: it calibrates anew with its next reading.
#[derive(Debug, Clone, Args)]
pub struct ResetArgs {
    /// The prediction task.
    #[arg(long, short)]
    pub endpoint: EndpointName,
    /// The device.
    #[arg(long, short)]
    pub device: DeviceId,
    /// The server.
    #[arg(long, env = "TIDEGATE_URL", default_value = "http://127.0.0.1:8080")]
    pub url: String,
}

/// Runs the command.
///
/// # Errors
/// What the server says, or that it cannot be asked.
pub async fn run(args: ResetArgs) -> anyhow::Result<ExitCode> {
    let path = format!("/api/v1/{}/reset?device={}", args.endpoint, args.device);
    let answer = ask(&args.url, "POST", &path, DEADLINE).await?;
    if answer.status() != Some(200) {
        match answer.field("detail") {
            Some(serde_json::Value::String(detail)) => bail!("{detail}"),
            _ => bail!("{}: {}", args.url, answer.line),
        }
    }
    let pos = answer.field("pos").unwrap_or_default();
    println!(
        "{}/{}: set back at position {pos}; it calibrates anew with its next reading",
        args.endpoint, args.device
    );
    Ok(ExitCode::SUCCESS)
}
