//! `tidegate send`: a CSV file as one device's stream.
//!
//! Reads and checks the whole file first, asks the server for the endpoint's features and what it holds already, then streams the
//! rest and comes back after a cut. Prints a summary; succeeds only when every reading is stored.

use super::said;
use super::table::{self, Table};
use crate::client::{Address, Observer, Outcome, Source, Tally, Target, hello, stream};
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget};
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tidegate_protocol::message::Welcome;
use tidegate_protocol::{Codec, DeviceId, EndpointName, Reading};
use tokio_util::sync::CancellationToken;

/// Where a server listens unless told otherwise.
pub(super) const DEFAULT_URL: &str = "ws://127.0.0.1:8080";

/// Stream a CSV file as one device's readings.
///
/// The separator (comma, semicolon, tab) and the time column are found out. Columns are matched to the endpoint's features by
/// name, ignoring case, spaces and underscores, or else by order; label columns are ignored. An empty cell is a missing value.
/// The row, counted from 0, is the reading's number: sending the same file again stores nothing twice.
///
/// Exits with 0 only when every reading of the file is stored.
#[derive(Debug, Clone, Args)]
pub struct SendArgs {
    /// The file; its first line names the columns.
    pub file: PathBuf,
    /// The endpoint, such as pump-health.
    #[arg(long, short)]
    pub endpoint: EndpointName,
    /// The device that the readings are of.
    #[arg(long, short)]
    pub device: DeviceId,
    /// The server; http:// is taken as well [default: ws://127.0.0.1:8080, none with --mqtt-url].
    #[arg(long, env = "TIDEGATE_URL")]
    pub url: Option<String>,
    /// Send through this MQTT broker instead; with --url the features and what is stored are still asked there.
    #[arg(long, env = "TIDEGATE_MQTT_URL")]
    pub mqtt_url: Option<String>,
    /// How fast: max, real (as the timestamps are spaced), or a multiple of real such as 10x.
    #[arg(long, default_value = "max")]
    pub rate: Rate,
    /// How messages are written.
    #[arg(long, value_enum, default_value_t = CodecName::Json)]
    pub codec: CodecName,
    /// Epoch of the device's numbering [default: the stream's current one].
    #[arg(long, value_parser = clap::value_parser!(u64).range(..=tidegate_protocol::MAX_NUMBER))]
    pub epoch: Option<u64>,
    /// Mark the readings as back-filled: they raise no live alerts.
    #[arg(long)]
    pub historical: bool,
}

/// The codecs by the names used on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CodecName {
    /// JSON in text frames.
    Json,
    /// bincode in binary frames.
    Bincode,
}

impl From<CodecName> for Codec {
    fn from(name: CodecName) -> Self {
        match name {
            CodecName::Json => Self::Json,
            CodecName::Bincode => Self::Bincode,
        }
    }
}

/// How fast readings are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// As fast as the server answers.
    Max,
    /// As the timestamps are spaced, this many times faster.
    Times(f64),
}

impl std::str::FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("{text:?}: expected max, real, or a multiple such as 10x");
        match text {
            "max" => Ok(Self::Max),
            "real" => Ok(Self::Times(1.0)),
            _ => {
                let factor = text
                    .strip_suffix('x')
                    .and_then(|number| number.parse::<f64>().ok());
                let factor = factor.filter(|factor| factor.is_finite() && *factor > 0.0);
                factor.map(Self::Times).ok_or_else(refuse)
            }
        }
    }
}

/// A table's rows at their pace.
#[derive(Debug)]
pub struct Rows {
    table: Table,
    rate: Rate,
    historical: bool,
    next: usize,
    due: Instant,
}

impl Rows {
    /// The first row is due at once.
    pub fn new(table: Table, rate: Rate, historical: bool) -> Self {
        Self {
            table,
            rate,
            historical,
            next: 0,
            due: Instant::now(),
        }
    }

    fn reading(&self, row: usize) -> Option<Reading> {
        let reading = self.table.reading(row)?;
        Some(Reading {
            historical: self.historical,
            ..reading
        })
    }

    /// Time between a row and the one before it; a step back in time is none.
    fn pause_before(&self, row: usize) -> Duration {
        let Rate::Times(factor) = self.rate else {
            return Duration::ZERO;
        };
        let (Some(this), Some(last)) = (self.table.ts(row), self.table.ts(row.saturating_sub(1)))
        else {
            return Duration::ZERO;
        };
        let seconds = (this.saturating_sub(last)).max(0) as f64 / 1_000.0 / factor;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

impl Source for Rows {
    fn due(&self) -> Option<Instant> {
        (self.next < self.table.len()).then_some(self.due)
    }

    fn take(&mut self, now: Instant) -> Option<Reading> {
        let reading = self.reading(self.next)?;
        self.next += 1;
        // Steady over many rows: the next one is due by the clock of the file, not by when this one was taken.
        self.due = match self.rate {
            Rate::Max => now,
            Rate::Times(_) => self
                .due
                .checked_add(self.pause_before(self.next))
                .unwrap_or(now),
        };
        Some(reading)
    }

    fn skip_below(&mut self, seq: u64) -> u64 {
        let to = usize::try_from(seq)
            .unwrap_or(usize::MAX)
            .min(self.table.len());
        let skipped = to.saturating_sub(self.next);
        if skipped > 0 {
            self.next = to;
            self.due = Instant::now();
        }
        skipped as u64
    }

    fn probes(&self, below: u64) -> Vec<Reading> {
        let last = usize::try_from(below)
            .unwrap_or(usize::MAX)
            .min(self.table.len())
            .checked_sub(1);
        let mut rows: Vec<usize> = last.into_iter().flat_map(|last| [0, last]).collect();
        rows.dedup();
        rows.into_iter()
            .filter_map(|row| self.reading(row))
            .collect()
    }
}

/// Runs the command.
///
/// # Errors
/// A file that is no table, a server that refuses or cannot be reached; the summary of what was done is printed before.
pub async fn run(args: SendArgs) -> anyhow::Result<ExitCode> {
    let draft = table::open(&args.file)?;
    let (mut target, welcome) = prepare(&args).await?;
    let features = welcome.map(|welcome| welcome.features).unwrap_or_default();
    let features: Vec<String> = features.into_iter().map(|feature| feature.name).collect();
    let table = draft.read(&features)?;
    if matches!(args.rate, Rate::Times(_)) && !table.has_time() {
        bail!(
            "{}: --rate needs a time column, and none was found",
            args.file.display()
        );
    }
    eprintln!(
        "{}: {} readings, {}",
        args.file.display(),
        table.len(),
        table.mapping
    );
    target.codec = args.codec.into();
    let readings = table.len() as u64;
    let mut rows = Rows::new(table, args.rate, args.historical);
    let started = Instant::now();
    let outcome = stream_with_bar(target, &mut rows, readings).await;
    finish(outcome, readings, started.elapsed())
}

/// Where to send, and what the server says of the stream where one is named.
async fn prepare(args: &SendArgs) -> anyhow::Result<(Target, Option<Welcome>)> {
    let url = match (&args.url, &args.mqtt_url) {
        (None, None) => Some(DEFAULT_URL),
        (url, _) => url.as_deref(),
    };
    let target = |address| {
        let mut target = Target::new(address, args.endpoint.clone(), args.device.clone());
        target.epoch = args.epoch;
        target
    };
    let broker = args.mqtt_url.as_deref().map(Address::broker).transpose()?;
    let server = url.map(Address::server).transpose()?.map(target);
    let welcome = match &server {
        Some(server) => Some(hello(server).await?),
        None => None,
    };
    let mut chosen = broker
        .map(target)
        .or(server)
        .context("neither a server nor a broker is named")?;
    chosen.epoch = chosen
        .epoch
        .or(welcome.as_ref().map(|welcome| welcome.epoch));
    Ok((chosen, welcome))
}

async fn stream_with_bar(target: Target, rows: &mut Rows, readings: u64) -> Outcome {
    let mut bar = Bar::new(readings);
    let outcome = stream_until_ctrl_c(target, rows, &mut bar).await;
    bar.0.finish_and_clear();
    outcome
}

/// Streams everything, or until the user presses ctrl-c and what is on its way is answered.
pub(super) async fn stream_until_ctrl_c(
    target: Target,
    source: &mut impl Source,
    observer: &mut impl Observer,
) -> Outcome {
    let stop = CancellationToken::new();
    let on_ctrl_c = stop.clone();
    let signal = tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            on_ctrl_c.cancel();
        }
    });
    let outcome = stream(target, source, observer, &stop).await;
    signal.abort();
    outcome
}

fn finish(outcome: Outcome, readings: u64, took: Duration) -> anyhow::Result<ExitCode> {
    let tally = &outcome.tally;
    let summary = Summary {
        tally,
        readings,
        took,
    };
    println!("{summary}");
    if let Some(error) = outcome.error {
        return Err(error.into());
    }
    let stored = tally.acked + tally.already_stored;
    if stored == readings {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "{} of {readings} readings are not stored",
        readings.saturating_sub(stored)
    );
    Ok(ExitCode::FAILURE)
}

/// A progress bar on the terminal, plain lines elsewhere.
pub(super) struct Bar(pub ProgressBar);

impl Bar {
    /// A bar of so many readings.
    pub fn new(readings: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(readings), ProgressDrawTarget::stderr());
        bar.set_style(said::bar("{bar:40} {pos}/{len} {rate} {msg}"));
        Self(bar)
    }
}

impl Observer for Bar {
    fn progress(&mut self, tally: &Tally) {
        self.0.set_position(tally.settled());
        if tally.anomalies > 0 {
            self.0.set_message(format!("{} anomalies", tally.anomalies));
        }
    }

    fn note(&mut self, text: &str) {
        self.0.suspend(|| eprintln!("{text}"));
    }
}

/// What was done, a line each.
struct Summary<'a> {
    tally: &'a Tally,
    /// Of the file: already stored, acked, nacked and not settled add up to them.
    readings: u64,
    took: Duration,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tally = self.tally;
        writeln!(f, "sent: {}", tally.sent)?;
        writeln!(f, "already stored: {}", tally.already_stored)?;
        writeln!(f, "predicted: {}", tally.predicted)?;
        writeln!(f, "acked: {}", tally.acked)?;
        write!(f, "nacked: {}", tally.nacked_total())?;
        let codes: Vec<String> = tally
            .nacked
            .iter()
            .map(|(code, count)| format!("{code} {count}"))
            .collect();
        if !codes.is_empty() {
            write!(f, " ({})", codes.join(", "))?;
        }
        let open = self.readings.saturating_sub(tally.settled());
        if open > 0 {
            write!(f, "\nnot settled: {open}")?;
        }
        writeln!(f, "\ngaps: {}", tally.gaps)?;
        if tally.reconnects > 0 {
            writeln!(
                f,
                "reconnects: {} ({} readings sent again)",
                tally.reconnects, tally.resent
            )?;
        }
        writeln!(f, "anomalies: {}", tally.anomalies)?;
        writeln!(f, "calibrating: {}", tally.calibrating)?;
        writeln!(f, "prediction p50: {}", Ms(tally.round_trip_ms(0.50)))?;
        writeln!(f, "prediction p99: {}", Ms(tally.round_trip_ms(0.99)))?;
        write!(f, "wall time: {:.2} s", self.took.as_secs_f64())
    }
}

/// Milliseconds, or a dash where none were measured.
pub(super) struct Ms(pub Option<f64>);

impl fmt::Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(ms) => write!(f, "{ms:.2} ms"),
            None => f.write_str("-"),
        }
    }
}

#[cfg(test)]
#[path = "send_tests.rs"]
mod tests;
