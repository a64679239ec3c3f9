//! Scores the detectors of an endpoint on the SKAB pump files, live: every file is a device that streams to a server.
//!
//!     cargo run --release --example skab -- DIR [--endpoint pump-health] [--url ws://host:port]
//!
//! Without `--url` a server runs here, in a temporary folder, on a free port. Each version of the endpoint gets its own devices,
//! pinned to it. As the public leaderboard does: the first 400 rows of a file are normal and may be learned from, the rest is scored
//! as binary classification over all files together. No label reaches the server.

use anyhow::{Context, bail, ensure};
use clap::Parser;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tidegate::app;
use tidegate::cli::send::{Rate, Rows};
use tidegate::cli::table::{self, Table};
use tidegate::client::{Address, Observer, Target, stream};
use tidegate::config::{Overrides, RawConfig};
use tidegate_models::{EndpointManifest, Zoo};
use tidegate_protocol::message::Prediction;
use tidegate_protocol::{Codec, EndpointName};
use tokio_util::sync::CancellationToken;

/// Rows of each file that are normal and not scored.
const NORMAL_ROWS: usize = 400;
/// What at least one detector has to reach.
const LEAST_F1: f64 = 0.80;
/// False alarms that it may raise at most.
const MOST_FAR: f64 = 0.30;

/// Score detectors on SKAB files.
#[derive(Parser)]
struct Args {
    /// Folder with valve1-*.csv.
    dir: PathBuf,
    /// The endpoint.
    #[arg(long, default_value = "pump-health")]
    endpoint: EndpointName,
    /// A running server [default: one is started].
    #[arg(long)]
    url: Option<String>,
}

/// Confusion counts.
#[derive(Debug, Clone, Copy, Default)]
struct Score {
    tp: u64,
    fp: u64,
    fn_: u64,
    tn: u64,
}

impl Score {
    fn count(&mut self, called: bool, truth: bool) {
        match (called, truth) {
            (true, true) => self.tp += 1,
            (true, false) => self.fp += 1,
            (false, true) => self.fn_ += 1,
            (false, false) => self.tn += 1,
        }
    }

    fn add(&mut self, other: Score) {
        self.tp += other.tp;
        self.fp += other.fp;
        self.fn_ += other.fn_;
        self.tn += other.tn;
    }

    fn f1(&self) -> f64 {
        share(2 * self.tp, 2 * self.tp + self.fp + self.fn_)
    }

    fn false_alarms(&self) -> f64 {
        share(self.fp, self.fp + self.tn)
    }

    fn missed_alarms(&self) -> f64 {
        share(self.fn_, self.fn_ + self.tp)
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// One experiment.
struct File {
    name: String,
    table: Table,
    anomaly: Vec<bool>,
}

/// The anomaly calls of a stream, by row.
struct Calls(Vec<Option<bool>>);

impl Observer for Calls {
    fn prediction(&mut self, prediction: &Prediction) {
        if let Some(call) = self.0.get_mut(prediction.seq as usize) {
            *call = Some(prediction.output.is_anomaly());
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let zoo = Zoo::embedded()?;
    let endpoint = zoo
        .endpoints
        .get(args.endpoint.as_str())
        .context("no such endpoint")?;
    let files = read_files(&args.dir, &endpoint.manifest)?;
    let folder = std::env::temp_dir().join(format!("tidegate-skab-{}", std::process::id()));
    let server = match args.url {
        Some(_) => None,
        None => Some(start(&folder).await?),
    };
    let url = server
        .as_ref()
        .map(app::Running::url)
        .or(args.url)
        .context("no server")?;

    let mut reached = false;
    println!(
        "{:<22} {:>5} {:>5} {:>5} {:>5} {:>7} {:>6} {:>6} {:>9}",
        "detector", "TP", "FP", "FN", "TN", "F1", "FAR", "MAR", "readings"
    );
    for version in endpoint.versions.keys() {
        let scores = score_version(&url, &args.endpoint, version, &files).await?;
        let total = report(version, &scores, &files);
        reached |= total.f1() >= LEAST_F1 && total.false_alarms() <= MOST_FAR;
    }
    if let Some(server) = server {
        ensure!(server.stop().await, "the server did not stop cleanly");
        std::fs::remove_dir_all(&folder)?;
    }
    let word = if reached { "reached" } else { "not reached" };
    println!(
        "verdict: F1 >= {LEAST_F1:.2} with false alarms <= {:.0}%: {word}",
        MOST_FAR * 100.0
    );
    Ok(if reached {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn start(folder: &Path) -> anyhow::Result<app::Running> {
    let overrides = Overrides {
        listen: Some("127.0.0.1:0".into()),
        data_dir: Some(folder.to_owned()),
        ..Overrides::default()
    };
    Ok(app::start(RawConfig::read(None, overrides)?.check()?).await?)
}

fn read_files(dir: &Path, endpoint: &EndpointManifest) -> anyhow::Result<Vec<File>> {
    let features: Vec<String> = endpoint
        .features
        .iter()
        .map(|feature| feature.name.clone())
        .collect();
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name.starts_with("valve1-") && name.ends_with(".csv") {
            paths.push(path);
        }
    }
    paths.sort();
    ensure!(!paths.is_empty(), "{}: no valve1-*.csv", dir.display());
    paths
        .iter()
        .map(|path| read_file(path, &features))
        .collect()
}

fn read_file(path: &Path, features: &[String]) -> anyhow::Result<File> {
    let table = table::open(path)?.read(features)?;
    let mut rows = csv::ReaderBuilder::new().delimiter(b';').from_path(path)?;
    let column = rows
        .headers()?
        .iter()
        .position(|name| name == "anomaly")
        .context("no column anomaly")?;
    let mut anomaly = Vec::with_capacity(table.len());
    for row in rows.records() {
        anomaly.push(row?[column].parse::<f32>()? > 0.5);
    }
    let name = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or("file")
        .to_owned();
    Ok(File {
        name,
        table,
        anomaly,
    })
}

/// One score a file.
async fn score_version(
    url: &str,
    endpoint: &EndpointName,
    version: &str,
    files: &[File],
) -> anyhow::Result<Vec<Score>> {
    let model = version.replace('/', ".");
    let mut scores = Vec::with_capacity(files.len());
    for file in files {
        let device = format!("{}.{model}", file.name).parse()?;
        let mut target = Target::new(Address::server(url)?, endpoint.clone(), device);
        target.codec = Codec::Bincode;
        target.version = Some(version.to_owned());
        let calls = stream_file(target, file).await?;
        scores.push(score(&calls, file)?);
    }
    Ok(scores)
}

async fn stream_file(target: Target, file: &File) -> anyhow::Result<Calls> {
    let mut rows = Rows::new(file.table.clone(), Rate::Max, false);
    let mut calls = Calls(vec![None; file.table.len()]);
    let outcome = stream(target, &mut rows, &mut calls, &CancellationToken::new()).await;
    if let Some(error) = outcome.error {
        return Err(error.into());
    }
    ensure!(
        outcome.tally.acked as usize == file.table.len(),
        "{}: not every reading was acked",
        file.name
    );
    Ok(calls)
}

fn score(calls: &Calls, file: &File) -> anyhow::Result<Score> {
    let mut score = Score::default();
    for (row, (call, truth)) in calls
        .0
        .iter()
        .zip(&file.anomaly)
        .enumerate()
        .skip(NORMAL_ROWS)
    {
        let Some(call) = call else {
            bail!("{}: row {row} has no prediction", file.name)
        };
        score.count(*call, *truth);
    }
    Ok(score)
}

fn report(version: &str, scores: &[Score], files: &[File]) -> Score {
    let mut total = Score::default();
    scores.iter().for_each(|score| total.add(*score));
    let readings: usize = files.iter().map(|file| file.table.len()).sum();
    let Score { tp, fp, fn_, tn } = total;
    let (f1, far, mar) = (
        total.f1(),
        total.false_alarms() * 100.0,
        total.missed_alarms() * 100.0,
    );
    println!(
        "{version:<22} {tp:>5} {fp:>5} {fn_:>5} {tn:>5} {f1:>7.3} {far:>5.1}% {mar:>5.1}% {readings:>9}"
    );
    let by_file: BTreeMap<&str, f64> = files
        .iter()
        .map(|file| file.name.as_str())
        .zip(scores.iter().map(Score::f1))
        .collect();
    let by_file: Vec<String> = by_file
        .iter()
        .map(|(name, f1)| format!("{name} {f1:.2}"))
        .collect();
    println!("  F1 by file: {}", by_file.join(", "));
    total
}
