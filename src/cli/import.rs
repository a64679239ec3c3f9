//! `tidegate import`: a CSV file back-filled into an epoch of its own, beside the device's live stream.
//!
//! The import is a stream like any other: its rows are sent as readings under the client's rule, predicted, stored and acked; the live
//! stream of the device does not notice. Rows that cannot be read or are refused are named by line, and the rest goes on. Every row is
//! sent, also those that are stored, so that each is answered by itself: a file that has changed since is told by line.

use super::send::{Bar, DEFAULT_URL, stream_until_ctrl_c};
use super::table::{self, Table};
use crate::client::{Address, Observer, Source, Tally, Target, hello};
use anyhow::{Context, anyhow};
use clap::Args;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;
use tidegate_protocol::message::{Nack, Prediction};
use tidegate_protocol::{Codec, DeviceId, EndpointName, MAX_NUMBER, NackCode, Reading};

/// Bad rows that are printed; all are counted, and written with --bad-rows.
const MOST_PRINTED: u64 = 100;
/// Epochs that are made of a file's content begin here: far above those that people and devices count.
const FROM_CONTENT: u64 = 1 << 52;

/// Back-fill a CSV file into an epoch of its own, flagged `import`.
///
/// The file is read as `send` reads it. It touches nothing of the device's live stream: no state, no numbering, no alerts. The epoch is
/// made of the file's content unless --epoch names one, so that the same file imported again is stored once.
///
/// A row that cannot be read (a cell that is no number, another count of cells) or that the server refuses is named by line and left out.
/// The summary says how many rows were read, imported, already stored, bad and refused, and, where it ended early, not settled.
///
/// Exits with 0 only when every row of the file is stored.
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// The file; its first line names the columns.
    pub file: PathBuf,
    /// The endpoint, such as pump-health.
    #[arg(long, short)]
    pub endpoint: EndpointName,
    /// The device that the readings are of.
    #[arg(long, short)]
    pub device: DeviceId,
    /// The server; http:// is taken as well.
    #[arg(long, env = "TIDEGATE_URL", default_value = DEFAULT_URL)]
    pub url: String,
    /// Epoch of the import [default: made of the file's content].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=MAX_NUMBER))]
    pub epoch: Option<u64>,
    /// Predict with this version, such as autoencoder/1.0.0 [default: the endpoint's].
    #[arg(long, value_name = "MODEL/VERSION")]
    pub version: Option<String>,
    /// Write every bad or refused row to this new file: line,reason.
    #[arg(long, value_name = "FILE")]
    pub bad_rows: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// A file that is no table, a server that refuses or cannot be reached; the summary of what was done is printed before.
pub async fn run(args: ImportArgs) -> anyhow::Result<ExitCode> {
    let draft = table::open(&args.file)?;
    let epoch = args.epoch.unwrap_or_else(|| epoch_of(&draft.digest()));
    let target = target(&args, epoch)?;
    let welcome = hello(&target).await?;
    let features: Vec<String> = welcome.features.into_iter().map(|f| f.name).collect();
    let mut bad = BadRows::open(&args.file, args.bad_rows.as_deref())?;
    let table = draft.read_with(&features, |error| match error.of_row() {
        Some((line, reason)) => {
            bad.unreadable += 1;
            bad.say(line, &reason);
            Ok(())
        }
        None => Err(error),
    })?;
    eprintln!("{}: {}", args.file.display(), table.mapping);
    let table = Arc::new(table);
    let mut watch = Watch {
        bar: Bar::new(table.len() as u64),
        table: Arc::clone(&table),
        stored_below: welcome.resume_from,
        already_stored: 0,
        bad,
    };
    let mut rows = Rows {
        table,
        next: 0,
        due: Instant::now(),
    };
    let outcome = stream_until_ctrl_c(target, &mut rows, &mut watch).await;
    watch.bar.0.finish_and_clear();
    let summary = Summary::of(epoch, &outcome.tally, &watch);
    watch.bad.finish()?;
    println!("{summary}");
    if let Some(error) = outcome.error {
        return Err(error.into());
    }
    Ok(if summary.is_whole() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// 51 bits of the content's hash above [`FROM_CONTENT`], which fits the protocol's numbers.
fn epoch_of(digest: &[u8; 32]) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    FROM_CONTENT + (u64::from_le_bytes(bytes) >> 13)
}

fn target(args: &ImportArgs, epoch: u64) -> anyhow::Result<Target> {
    let address = Address::server(&args.url)?;
    let mut target = Target::new(address, args.endpoint.clone(), args.device.clone());
    target.import = Some(epoch);
    target.epoch = Some(epoch);
    target.codec = Codec::Bincode;
    target.version.clone_from(&args.version);
    target.options.resend = true;
    Ok(target)
}

/// A table's rows as fast as the server answers, all of them.
struct Rows {
    table: Arc<Table>,
    next: usize,
    due: Instant,
}

impl Source for Rows {
    fn due(&self) -> Option<Instant> {
        (self.next < self.table.len()).then_some(self.due)
    }

    fn take(&mut self, _now: Instant) -> Option<Reading> {
        let reading = self.table.reading(self.next)?;
        self.next += 1;
        Some(Reading {
            historical: true,
            ..reading
        })
    }

    /// Nothing is left out: what is stored is asked for once more.
    fn skip_below(&mut self, _seq: u64) -> u64 {
        0
    }
}

/// Counts what the server held before, and names what it refuses.
struct Watch {
    bar: Bar,
    table: Arc<Table>,
    /// Rows below were answered in an earlier run.
    stored_below: u64,
    already_stored: u64,
    bad: BadRows,
}

impl Observer for Watch {
    fn prediction(&mut self, prediction: &Prediction) {
        self.already_stored += u64::from(prediction.seq < self.stored_below);
    }

    fn refused(&mut self, nack: &Nack) {
        if nack.code == NackCode::AlreadyTaken {
            self.already_stored += 1;
            return;
        }
        let row = nack.seq.and_then(|seq| usize::try_from(seq).ok());
        let line = row.and_then(|row| self.table.line(row)).unwrap_or(0);
        *self.bad.refused.entry(nack.code.as_str()).or_default() += 1;
        let reason = format!("refused, {}: {}", nack.code.as_str(), nack.message);
        self.bad.say(line.into(), &reason);
    }

    fn progress(&mut self, tally: &Tally) {
        self.bar.progress(tally);
    }

    fn note(&mut self, text: &str) {
        self.bar.note(text);
    }
}

/// Rows that are not stored: the first ones on standard error, all of them in a file where one is named.
struct BadRows {
    source: PathBuf,
    file: Option<BufWriter<File>>,
    said: u64,
    /// Could not be read.
    unreadable: u64,
    /// Refused by the server, by code.
    refused: BTreeMap<&'static str, u64>,
    /// Why the file is not whole.
    failure: Option<std::io::Error>,
}

impl BadRows {
    fn open(source: &Path, path: Option<&Path>) -> anyhow::Result<Self> {
        let file = path.map(|path| {
            let made = File::create_new(path).map(BufWriter::new);
            let begun = made.and_then(|mut file| {
                writeln!(file, "line,reason")?;
                Ok(file)
            });
            begun.map_err(|error| match error.kind() {
                ErrorKind::AlreadyExists => {
                    anyhow!(
                        "{}: there already; name another file with --bad-rows",
                        path.display()
                    )
                }
                _ => anyhow!("--bad-rows {}: {error}", path.display()),
            })
        });
        Ok(Self {
            source: source.to_owned(),
            file: file.transpose()?,
            said: 0,
            unreadable: 0,
            refused: BTreeMap::new(),
            failure: None,
        })
    }

    fn say(&mut self, line: u64, reason: &str) {
        self.said += 1;
        if self.said <= MOST_PRINTED {
            eprintln!("{}, line {line}: {reason}", self.source.display());
        } else if self.said == MOST_PRINTED + 1 {
            eprintln!("further bad rows are counted only; --bad-rows FILE has them all");
        }
        if let Some(file) = &mut self.file
            && let Err(error) = writeln!(file, "{line},{}", quoted(reason))
        {
            self.failure.get_or_insert(error);
        }
    }

    fn finish(self) -> anyhow::Result<()> {
        let failed = match self.file {
            Some(mut file) => self.failure.or(file.flush().err()),
            None => None,
        };
        match failed {
            Some(error) => Err(error).context("the file of bad rows is not whole"),
            None => Ok(()),
        }
    }
}

/// A field of CSV.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// What was done, a line each.
struct Summary {
    epoch: u64,
    read: u64,
    imported: u64,
    already_stored: u64,
    bad: u64,
    refused: BTreeMap<&'static str, u64>,
}

impl Summary {
    fn of(epoch: u64, tally: &Tally, watch: &Watch) -> Self {
        let stored = tally.acked + tally.already_stored;
        Self {
            epoch,
            read: watch.table.len() as u64 + watch.bad.unreadable,
            imported: stored.saturating_sub(watch.already_stored),
            already_stored: watch.already_stored,
            bad: watch.bad.unreadable,
            refused: watch.bad.refused.clone(),
        }
    }

    /// Rows that were not sent, or not answered, because it ended early.
    fn not_settled(&self) -> u64 {
        let refused: u64 = self.refused.values().sum();
        let known = self.imported + self.already_stored + self.bad + refused;
        self.read.saturating_sub(known)
    }

    /// Whether every row of the file is stored.
    fn is_whole(&self) -> bool {
        self.imported + self.already_stored == self.read
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "epoch: {}", self.epoch)?;
        writeln!(f, "rows read: {}", self.read)?;
        writeln!(f, "imported: {}", self.imported)?;
        writeln!(f, "already stored: {}", self.already_stored)?;
        writeln!(f, "bad: {}", self.bad)?;
        write!(f, "refused: {}", self.refused.values().sum::<u64>())?;
        let codes: Vec<String> = self
            .refused
            .iter()
            .map(|(code, count)| format!("{code} {count}"))
            .collect();
        if !codes.is_empty() {
            write!(f, " ({})", codes.join(", "))?;
        }
        match self.not_settled() {
            0 => Ok(()),
            open => write!(f, "\nnot settled: {open}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_of_content_fits_the_protocol_and_changes_with_it() {
        assert_eq!(epoch_of(&[0; 32]), FROM_CONTENT);
        assert_eq!(epoch_of(&[0xff; 32]), FROM_CONTENT + (1 << 51) - 1);
        assert!(epoch_of(&[0xff; 32]) <= MAX_NUMBER);
        let mut other = [0; 32];
        other[4] = 1;
        assert_ne!(epoch_of(&other), epoch_of(&[0; 32]));
    }

    #[test]
    fn reasons_are_quoted_as_csv() {
        assert_eq!(quoted("column \"c\": x, y"), "\"column \"\"c\"\": x, y\"");
    }
}
