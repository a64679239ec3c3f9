//! `tidegate replay`: the stored log through its recorded versions, or through another one.
//!
//! Reads beside a running server or without one. The exit code tells what a report says, so that a script need not read it.

use super::output::Output;
use super::source::{self, RangeArgs, SourceArgs};
use crate::replay::{self, Comparison, Options, Outcome, Progress, Verified, Versions};
use crate::store::history::{LoggedStream, all_streams};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Something differs.
const DIFFERENT: u8 = 1;
/// It could not be done, or not for every reading.
const INCOMPLETE: u8 = 2;
/// No stored reading was in the range.
const EMPTY: u8 = 3;

/// Run the stored log again and compare every prediction, bit for bit.
///
/// Every stream is folded as the server folded it, from its first kept snapshot, through the versions that answered; stored snapshots are
/// checked on the way. What lies before the first kept snapshot cannot be run again and is counted. --from and --to choose what is
/// compared; the fold starts earlier where it must.
///
/// With --version another version runs over the same readings, fresh on each stream, and the report compares the two: agreement, how
/// far scores moved, which devices change most.
///
/// Exits with 0 when all is equal (or compared), 1 when something differs, 2 when it could not be done or readings could not be run
/// again because a version is gone or another one, 3 when no stored reading is in the range.
#[derive(Debug, Clone, Args)]
pub struct ReplayArgs {
    #[command(flatten)]
    range: RangeArgs,
    /// Run this version instead, such as autoencoder/1.0.0, and compare.
    #[arg(long, value_name = "MODEL/VERSION")]
    version: Option<String>,
    #[command(flatten)]
    source: SourceArgs,
    /// How the report is written.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Write the report to this file [default: standard output].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace FILE if it is there.
    #[arg(long)]
    force: bool,
    /// Most differences listed; all are counted.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(..=100_000))]
    list: u32,
    /// Streams replayed at once [default: one a core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: Option<u32>,
}

/// Forms of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// All of it, for programs.
    Json,
    /// A line a stream; the first one, `*`, is all of them.
    Csv,
}

/// Runs the command.
///
/// # Errors
/// None: what keeps it from running is said here, because it has an exit code of its own.
pub async fn run(args: ReplayArgs) -> anyhow::Result<ExitCode> {
    match replay(&args).await {
        Ok(code) => Ok(ExitCode::from(code)),
        Err(error) => {
            eprintln!("tidegate: {}", super::one_line(&args.source.named(error)));
            Ok(ExitCode::from(INCOMPLETE))
        }
    }
}

async fn replay(args: &ReplayArgs) -> anyhow::Result<u8> {
    args.range.check()?;
    let output = match &args.out {
        Some(path) => Some(Output::open(path, args.force)?),
        None => None,
    };
    let threads = args.threads.map_or_else(source::cores, |n| n as usize);
    let history = args.source.open(u32::try_from(threads)?).await?;
    let models_dir = args.source.models_dir()?;
    let endpoint = &args.range.endpoint;
    let versions = Versions::load(models_dir.as_deref(), endpoint, &history.versions().await?)?;
    let streams = all_streams(history.as_ref(), &args.range.streams()).await?;
    let options = Options {
        from: args.range.from.map(|from| from.0),
        to: args.range.to.map(|to| to.0),
        listed: args.list as usize,
        threads,
    };
    let bar = Arc::new(Bar::new(&streams));
    let progress: Arc<dyn Progress> = Arc::<Bar>::clone(&bar);
    let (versions, endpoint) = (Arc::new(versions), endpoint.as_str());
    let (report, code) = match &args.version {
        None => {
            let run = replay::verify(history, versions, endpoint, streams, options, progress);
            verified(&run.await?, args)
        }
        Some(version) => {
            let names = (endpoint, version.as_str());
            let run = replay::compare(history, versions, names, streams, options, progress);
            compared(&run.await?, args)
        }
    };
    bar.0.finish_and_clear();
    write(output, args.out.as_deref(), &report)?;
    Ok(code)
}

fn verified(report: &Verified, args: &ReplayArgs) -> (String, u8) {
    let code = match report.result {
        Outcome::Equal => 0,
        Outcome::Different => DIFFERENT,
        Outcome::Incomplete => INCOMPLETE,
        Outcome::Empty => EMPTY,
    };
    let text = match args.format {
        Format::Text => report.to_string(),
        Format::Json => to_json(report),
        Format::Csv => report.to_csv(),
    };
    if report.result == Outcome::Empty {
        eprintln!("tidegate: {}", args.range.nothing());
    }
    (text, code)
}

fn compared(report: &Comparison, args: &ReplayArgs) -> (String, u8) {
    let text = match args.format {
        Format::Text => report.to_string().trim_end().to_owned(),
        Format::Json => to_json(report),
        Format::Csv => report.to_csv(),
    };
    if report.rows.readings == 0 {
        eprintln!("tidegate: {}", args.range.nothing());
        return (text, EMPTY);
    }
    (text, 0)
}

fn to_json(report: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(report).expect("a report has string keys only")
}

fn write(output: Option<Output>, path: Option<&Path>, report: &str) -> anyhow::Result<()> {
    let Some(mut output) = output else {
        return source::print(report);
    };
    writeln!(output, "{report}")?;
    output.finish()?;
    if let Some(path) = path {
        eprintln!("report: {}", path.display());
    }
    Ok(())
}

/// A bar on a terminal, nothing elsewhere.
struct Bar(ProgressBar);

impl Bar {
    fn new(streams: &[LoggedStream]) -> Self {
        let samples = streams.iter().map(|stream| stream.samples).sum();
        let bar = ProgressBar::with_draw_target(Some(samples), ProgressDrawTarget::stderr());
        bar.set_style(super::said::bar("{bar:40} {pos}/{len} {rate} {eta}"));
        Self(bar)
    }
}

impl Progress for Bar {
    fn replayed(&self, samples: u64) {
        self.0.inc(samples);
    }
}
