//! `tidegate export`: stored samples as CSV, JSON lines or Parquet.
//!
//! Reads beside a running server or without one. The file appears whole or not at all; a range with nothing in it makes none.

use super::output::Output;
use super::source::{RangeArgs, SourceArgs};
use crate::export::{self, Exported, Form, Sheet};
use crate::inference::load_zoo;
use crate::store::History;
use crate::store::history::SampleFilter;
use crate::stream::counted;
use anyhow::bail;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Nothing was in the range.
const EMPTY: u8 = 3;
/// Steps of the progress bar.
const BAR: u64 = 1_000;

/// Write stored samples out, one row a sample, in the order in which they were committed.
///
/// Columns: id, endpoint, device, epoch, seq, ts, received_at (Unix ms), the features by name, the answer laid flat (score, threshold,
/// anomaly, label, value, calibrating_seen, calibrating_needed, failed, skipped) and as JSON (output), model, version, arm, latency_us,
/// flags (joined by |). `value` is the first value of a regression or forecast. A missing value is an empty cell, null in JSON and Parquet.
///
/// FILE is written beside its place and appears when it is whole. Exits with 0 when rows were written, 3 when nothing is in the range
/// (no file is made then), 1 when it failed.
#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    range: RangeArgs,
    /// Only this epoch.
    #[arg(long, value_parser = clap::value_parser!(u64).range(..=tidegate_protocol::MAX_NUMBER))]
    epoch: Option<u64>,
    #[command(flatten)]
    source: SourceArgs,
    /// The form of the rows.
    #[arg(long, value_enum)]
    format: FormName,
    /// The file; - is standard output (not for Parquet).
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace FILE if it is there.
    #[arg(long)]
    force: bool,
}

/// [`Form`] by its names on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormName {
    /// Comma-separated values.
    Csv,
    /// A JSON object a line.
    Jsonl,
    /// Apache Parquet, snappy.
    Parquet,
}

impl From<FormName> for Form {
    fn from(name: FormName) -> Self {
        match name {
            FormName::Csv => Self::Csv,
            FormName::Jsonl => Self::JsonLines,
            FormName::Parquet => Self::Parquet,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// What keeps the file from being whole; it is not made then.
pub async fn run(args: ExportArgs) -> anyhow::Result<ExitCode> {
    match export_to(&args).await {
        // Who reads has enough, as `head` does.
        Err(error) if args.out == Path::new("-") && is_closed_pipe(&error) => Ok(ExitCode::SUCCESS),
        exported => exported.map_err(|error| args.source.named(error)),
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let kinds = error.chain().filter_map(|cause| cause.downcast_ref());
    let mut kinds = kinds.map(std::io::Error::kind);
    kinds.any(|kind| kind == ErrorKind::BrokenPipe)
}

async fn export_to(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    args.range.check()?;
    let told = super::told_to_stop()?;
    if args.format == FormName::Parquet && args.out == Path::new("-") {
        bail!("Parquet cannot be written to standard output: name a file with --out");
    }
    let output = Output::open(&args.out, args.force)?;
    let history = args.source.open(1).await?;
    let features = features(args)?;
    let columns = export::columns(&features);
    let mut sheet = Sheet::new(args.format.into(), columns, output);
    let filter = SampleFilter {
        streams: args.range.streams(),
        epoch: args.epoch,
        from: args.range.from.map(|from| from.0),
        to: args.range.to.map(|to| to.0),
    };
    let exporting = write(history.as_ref(), &filter, features.len(), &mut sheet);
    // Ctrl-c ends it here, so that the unfinished file is removed.
    let exported = tokio::select! {
        exported = exporting => exported?,
        () = told => bail!("stopped; nothing was written"),
    };
    if exported.rows == 0 {
        eprintln!("tidegate: {}", args.range.nothing());
        return Ok(ExitCode::from(EMPTY));
    }
    sheet.finish()?.finish()?;
    say(&args.out, exported);
    Ok(ExitCode::SUCCESS)
}

/// The endpoint's features, in order.
fn features(args: &ExportArgs) -> anyhow::Result<Vec<String>> {
    let zoo = load_zoo(args.source.models_dir()?.as_deref())?;
    let name = args.range.endpoint.as_str();
    let Some(endpoint) = zoo.endpoints.get(name) else {
        let known: Vec<&str> = zoo.endpoints.keys().map(String::as_str).collect();
        bail!(
            "no endpoint {name} among the models, which name the columns; there is {}",
            known.join(", ")
        );
    };
    let features = endpoint.manifest.features.iter();
    Ok(features.map(|feature| feature.name.clone()).collect())
}

async fn write(
    history: &dyn History,
    filter: &SampleFilter,
    features: usize,
    sheet: &mut Sheet<Output>,
) -> anyhow::Result<Exported> {
    let bar = ProgressBar::with_draw_target(Some(BAR), ProgressDrawTarget::stderr());
    bar.set_style(super::said::bar("{bar:40} {percent} % {eta}"));
    let progress = |share: f64| bar.set_position((share * BAR as f64) as u64);
    let exported = export::export(history, filter, features, sheet, progress).await;
    bar.finish_and_clear();
    Ok(exported?)
}

fn say(out: &Path, exported: Exported) {
    let Exported { rows, damaged } = exported;
    if damaged > 0 {
        eprintln!(
            "tidegate: the stored output of {} is damaged: left empty",
            counted(damaged, "sample")
        );
    }
    eprintln!("{}: {}", out.display(), counted(rows, "sample"));
}
