//! `tidegate demo`: a server and simulated pump rigs that stream to it through real sockets.

use super::rigs::{ENDPOINT, MOST_RIGS, RigOptions, run_rigs};
use crate::app;
use crate::config::{Overrides, RawConfig};
use crate::telemetry;
use anyhow::Context;
use clap::Args;
use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tidegate_protocol::EndpointName;
use tokio_util::sync::CancellationToken;

/// Flags of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Simulated rigs.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_RIGS)))]
    devices: u32,
    /// Readings a second of each rig.
    #[arg(long, value_name = "HZ", default_value_t = 50.0, value_parser = rate)]
    rate: f64,
    /// Endpoints that each rig speaks to, with commas; `pump-health,rig-state,rig-forecast` are the built-in ones.
    #[arg(long, short, value_name = "NAME,..", default_value = ENDPOINT, value_delimiter = ',')]
    endpoint: Vec<EndpointName>,
    /// Stop after so many seconds [default: at ctrl-c].
    #[arg(long, value_name = "S")]
    seconds: Option<u64>,
    /// Address to listen on [default: the usual port, or a free one where that is in use].
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Folder of the database [default: a temporary one, removed at the end].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Database [default: a file in the data dir].
    #[arg(long, value_name = "URL")]
    store_url: Option<String>,
    /// Folder of models [default: the built-in ones].
    #[arg(long, value_name = "DIR")]
    models_dir: Option<PathBuf>,
    /// Broker that the server also takes readings from.
    #[arg(long, value_name = "URL")]
    mqtt_url: Option<String>,
}

fn rate(text: &str) -> Result<f64, String> {
    let hz: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (0.01..=10_000.0).contains(&hz) {
        Ok(hz)
    } else {
        Err("expected 0.01 to 10000".into())
    }
}

/// Runs the command.
///
/// # Errors
/// What keeps the server or the rigs from running.
pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    telemetry::init_logs("warn");
    let temporary = match &args.data_dir {
        Some(_) => None,
        None => Some(tempfile::tempdir().context("temporary folder")?),
    };
    let temporary_dir = temporary.as_ref().map(|dir| dir.path().to_owned());
    let data_dir = temporary_dir.or_else(|| args.data_dir.clone());
    let told = super::told_to_stop()?;
    let running = start(&args, data_dir).await?;
    let url = running.url();
    let (devices, rate_hz) = (args.devices, args.rate);
    let (mut endpoints, mut seen) = (args.endpoint.clone(), HashSet::new());
    endpoints.retain(|endpoint| seen.insert(endpoint.clone()));
    let first = endpoints[0].clone();
    println!("Tidegate demo: {devices} rigs at {rate_hz} Hz. Look at {url}");
    let stop = CancellationToken::new();
    tokio::spawn(stop_at_end(
        args.seconds.map(Duration::from_secs),
        told,
        stop.clone(),
    ));
    let options = RigOptions {
        devices,
        rate_hz,
        endpoints,
    };
    let totals = run_rigs(&url, options, stop).await?;
    println!("{totals}");
    totals
        .errors
        .iter()
        .for_each(|error| eprintln!("tidegate: {error}"));
    println!("page: {url}");
    if let Some(dir) = &args.data_dir {
        let dir = dir.display();
        println!("run it again: tidegate replay --endpoint {first} --data-dir {dir}");
    }
    let clean = running.stop().await;
    let settled = totals.tally.acked + totals.tally.nacked_total() >= totals.tally.sent;
    let complete = totals.errors.is_empty() && settled;
    Ok(if clean && complete {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// On the wished address; without a wish, on the usual port or, where that is taken, on a free one.
async fn start(args: &DemoArgs, data_dir: Option<PathBuf>) -> anyhow::Result<app::Running> {
    let config = |listen: Option<String>| {
        let (models_dir, mqtt_url) = (args.models_dir.clone(), args.mqtt_url.clone());
        let (data_dir, store_url) = (data_dir.clone(), args.store_url.clone());
        RawConfig::read(
            None,
            Overrides {
                listen,
                data_dir,
                models_dir,
                mqtt_url,
                store_url,
            },
        )?
        .check()
    };
    match app::start(config(args.listen.clone())?).await {
        Err(app::StartError::Listen(..)) if args.listen.is_none() => {
            Ok(app::start(config(Some("127.0.0.1:0".into()))?).await?)
        }
        started => Ok(started?),
    }
}

async fn stop_at_end(
    seconds: Option<Duration>,
    told: impl Future<Output = ()>,
    stop: CancellationToken,
) {
    match seconds {
        // Elapsed is the planned end; being told earlier is another.
        Some(seconds) => drop(tokio::time::timeout(seconds, told).await),
        None => told.await,
    }
    stop.cancel();
}
