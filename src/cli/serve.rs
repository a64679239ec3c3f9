//! `tidegate serve`: the server, until ctrl-c or SIGTERM.

use crate::app;
use crate::config::{Overrides, RawConfig};
use crate::telemetry;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Flags of `serve`. They win over the file and over `TIDEGATE_*` variables.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address for WebSocket, HTTP, page and metrics [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Folder of the database [default: data].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Database: `sqlite:PATH` or `postgres://user:password@host:port/database` [default: tidegate.db in the data dir].
    #[arg(long, value_name = "URL")]
    store_url: Option<String>,
    /// Folder of models [default: the built-in ones].
    #[arg(long, value_name = "DIR")]
    models_dir: Option<PathBuf>,
    /// Broker to take readings from: `mqtt://[user:password@]host[:port]`.
    #[arg(long, value_name = "URL")]
    mqtt_url: Option<String>,
    /// Print the configuration in force as a file, and exit.
    #[arg(long)]
    print_config: bool,
    /// Check the configuration, and exit.
    #[arg(long)]
    check_config: bool,
}

/// Runs the command.
///
/// # Errors
/// What keeps the server from starting.
pub async fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let overrides = Overrides {
        listen: args.listen,
        data_dir: args.data_dir,
        models_dir: args.models_dir,
        mqtt_url: args.mqtt_url,
        store_url: args.store_url,
    };
    let raw = RawConfig::read(args.config.as_deref(), overrides)?;
    if args.print_config {
        print!("{}", raw.to_toml());
        return Ok(ExitCode::SUCCESS);
    }
    let config = raw.check()?;
    if args.check_config {
        println!("the configuration is valid");
        return Ok(ExitCode::SUCCESS);
    }
    telemetry::init_logs("info");
    app::check_open_files(config.connections.max);
    // Before anyone can know that it runs: from its first line on a stop is a stop and not a kill.
    let told = super::told_to_stop()?;
    let running = app::start(config).await?;
    println!("tidegate is listening on {}", running.url());
    let lost = tokio::select! {
        () = told => None,
        lost = running.lost() => Some(lost),
    };
    let clean = running.stop().await;
    if let Some(lost) = lost {
        return Err(lost.into());
    }
    Ok(if clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
