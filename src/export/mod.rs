//! Stored samples written out for other programs: one row a sample, as CSV, JSON lines or Parquet.
//!
//! For `tidegate export`. Owns the columns ([`columns()`]) and the three forms. Promises that a value read back has the bits that were
//! stored, that rows stand in commit order, and that memory does not grow with their number: ids are read in spans. Reads
//! through [`crate::store::History`]; where the bytes go is the caller's matter.

mod columns;
mod parquet;
mod text;

pub use columns::{Cell, Column, Kind, columns};

use crate::store::history::{LoggedVersion, SampleFilter, all_streams};
use crate::store::{History, StoreError};
use crate::stream::StreamKey;
use columns::fill;
use std::collections::HashMap;
use std::io::Write;
use tidegate_protocol::Output;
use tidegate_protocol::codec::decode_output;

/// Sample ids read at once; as many rows at most are in memory.
const SPAN: u64 = 8_192;

/// Why an export is not whole.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The database could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The target could not be written.
    #[error("export: the rows cannot be written")]
    Write(#[from] std::io::Error),
    /// Parquet's own writer.
    #[error("export: the Parquet file cannot be written")]
    Parquet(#[from] ::parquet::errors::ParquetError),
    /// A reading of another revision of the endpoint's schema.
    #[error(
        "sample {id} has {found} values where the endpoint has {expected} features: it is of another revision; \
         name that revision's models with --models-dir, or leave it out with --from and --to"
    )]
    Width {
        /// The sample.
        id: u64,
        /// Its values.
        found: usize,
        /// The endpoint's features.
        expected: usize,
    },
    /// A row that points nowhere.
    #[error("sample {0} names a stream or version that is not stored")]
    Loose(u64),
}

/// The form of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Comma-separated, the columns' names first; a missing value is an empty cell.
    Csv,
    /// An object a line; a missing value is `null`.
    JsonLines,
    /// Apache Parquet, snappy; every column may be null.
    Parquet,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exported {
    /// Rows.
    pub rows: u64,
    /// Rows whose stored output is no output: its cells are empty.
    pub damaged: u64,
}

/// Rows on their way into one of the forms; the first one writes what stands before it.
#[allow(
    clippy::large_enum_variant,
    reason = "an export has one, and it is never moved around"
)]
pub enum Sheet<W: Write + Send> {
    /// See [`Form::Csv`].
    Csv(text::Csv<W>),
    /// See [`Form::JsonLines`].
    JsonLines(text::JsonLines<W>),
    /// See [`Form::Parquet`].
    Parquet(parquet::Sheet<W>),
}

impl<W: Write + Send> Sheet<W> {
    /// An empty sheet; nothing is written yet.
    pub fn new(form: Form, columns: Vec<Column>, out: W) -> Self {
        match form {
            Form::Csv => Self::Csv(text::Csv::new(columns, out)),
            Form::JsonLines => Self::JsonLines(text::JsonLines::new(columns, out)),
            Form::Parquet => Self::Parquet(parquet::Sheet::new(columns, out)),
        }
    }

    fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), ExportError> {
        match self {
            Self::Csv(sheet) => Ok(sheet.row(cells)?),
            Self::JsonLines(sheet) => Ok(sheet.row(cells)?),
            Self::Parquet(sheet) => sheet.row(cells),
        }
    }

    /// Writes what stands behind the rows and gives the target back.
    ///
    /// # Errors
    /// A target that cannot be written.
    pub fn finish(self) -> Result<W, ExportError> {
        match self {
            Self::Csv(sheet) => Ok(sheet.finish()?),
            Self::JsonLines(sheet) => Ok(sheet.finish()),
            Self::Parquet(sheet) => sheet.finish(),
        }
    }
}

/// Writes every sample that fits, in commit order, as far as the log reaches now. `progress` hears how far it is, 0 to 1.
///
/// # Errors
/// What keeps the sheet from being whole.
pub async fn export<W: Write + Send>(
    history: &dyn History,
    filter: &SampleFilter,
    features: usize,
    sheet: &mut Sheet<W>,
    mut progress: impl FnMut(f64),
) -> Result<Exported, ExportError> {
    let mut exported = Exported::default();
    // Before the streams: every stream of a sample up to here is listed.
    let Some((lowest, highest)) = history.sample_ids().await? else {
        return Ok(exported);
    };
    let names = Names::read(history, filter).await?;
    let mut at = lowest - 1;
    while at < highest && !names.streams.is_empty() {
        let until = highest.min(at + SPAN);
        for sample in history.samples_between(filter, at, until).await? {
            if sample.values.len() != features {
                return Err(ExportError::Width {
                    id: sample.id,
                    found: sample.values.len(),
                    expected: features,
                });
            }
            let (key, version) = names.of(sample.stream_id, sample.version_id, sample.id)?;
            let output = decode_output(&sample.output).ok();
            exported.rows += 1;
            exported.damaged += u64::from(output.is_none());
            sheet.row(&fill(&sample, key, version, output.as_ref()))?;
        }
        at = until;
        progress((at + 1 - lowest) as f64 / (highest + 1 - lowest) as f64);
    }
    Ok(exported)
}

/// Streams and versions by row id.
struct Names {
    streams: HashMap<i64, StreamKey>,
    versions: HashMap<i64, LoggedVersion>,
}

impl Names {
    async fn read(history: &dyn History, filter: &SampleFilter) -> Result<Self, StoreError> {
        let streams = all_streams(history, &filter.streams).await?;
        let versions = history.versions().await?;
        Ok(Self {
            streams: streams
                .into_iter()
                .map(|stream| (stream.stream.id, stream.stream.key))
                .collect(),
            versions: versions
                .into_iter()
                .map(|version| (version.id, version))
                .collect(),
        })
    }

    fn of(
        &self,
        stream: i64,
        version: i64,
        sample: u64,
    ) -> Result<(&StreamKey, &LoggedVersion), ExportError> {
        let key = self.streams.get(&stream);
        let found = key.zip(self.versions.get(&version));
        found.ok_or(ExportError::Loose(sample))
    }
}

/// An output as JSON text, as the API shows it.
fn json_of(output: &Output) -> String {
    serde_json::to_string(output).expect("an output has string keys only")
}
