//! CSV files as readings: separator, timestamps and columns are found out, every row is checked before any is used.
//!
//! [`open`] reads the header and a sample, [`Draft::read`] maps columns to an endpoint's features and reads the rows. A mistake names
//! file, line and column. Holds the file in memory, at most [`MAX_CELLS`] values (256 MiB). No network.

mod columns;
mod time;

pub use columns::{Mapping, MappingError};

use columns::Columns;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use tidegate_protocol::{MISSING, Reading, Values};

/// Most values kept of one file.
pub const MAX_CELLS: usize = 64 * 1024 * 1024;
/// Separators that are looked for, in order of preference.
const SEPARATORS: [u8; 3] = [b',', b';', b'\t'];
/// Words for a missing value besides an empty cell.
const MISSING_WORDS: [&str; 4] = ["nan", "na", "null", "none"];

/// Why a file is no table of readings.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file cannot be read.
    #[error("{file}: {error}")]
    Read {
        /// The file.
        file: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// There is no line that names the columns, or no row.
    #[error("{file}: {reason}")]
    Form {
        /// The file.
        file: String,
        /// What is missing.
        reason: String,
    },
    /// A cell is not what its column holds.
    #[error("{file}, line {line}, column {column:?}: {reason}")]
    Cell {
        /// The file.
        file: String,
        /// Line, from 1.
        line: u64,
        /// The column's name.
        column: String,
        /// What was found and expected.
        reason: String,
    },
    /// A row is not a row of the table.
    #[error("{file}, line {line}: {reason}")]
    Row {
        /// The file.
        file: String,
        /// Line, from 1.
        line: u64,
        /// What was found and expected.
        reason: String,
    },
    /// The columns do not fit the endpoint's features.
    #[error("{file}: {error}")]
    Mapping {
        /// The file.
        file: String,
        /// What does not fit.
        error: MappingError,
    },
}

impl TableError {
    /// Line and reason, where one row is at fault and not the file.
    pub fn of_row(&self) -> Option<(u64, String)> {
        match self {
            Self::Cell {
                line,
                column,
                reason,
                ..
            } => Some((*line, format!("column {column:?}: {reason}"))),
            Self::Row { line, reason, .. } => Some((*line, reason.clone())),
            Self::Read { .. } | Self::Form { .. } | Self::Mapping { .. } => None,
        }
    }
}

/// A file whose header is read.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    text: String,
    separator: u8,
    columns: Columns,
}

/// Readings in memory: row `i` is the reading with `seq` i.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// What was read as what.
    pub mapping: Mapping,
    /// Unix ms of each row; empty without a timestamp column.
    ts: Vec<i64>,
    /// Row after row, in feature order.
    values: Vec<f32>,
    /// Line of each row in the file.
    lines: Vec<u32>,
    width: usize,
}

/// Reads a file and its header.
///
/// # Errors
/// A file that cannot be read, is no UTF-8, or has no header line.
pub fn open(path: &Path) -> Result<Draft, TableError> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| TableError::Read { file, error })?;
    Draft::new(path, text)
}

impl Draft {
    fn new(path: &Path, mut text: String) -> Result<Self, TableError> {
        if text.starts_with('\u{feff}') {
            text.drain(..'\u{feff}'.len_utf8());
        }
        // One kind of line end, so that lines are counted right.
        if text.contains("\r\n") {
            text = text.replace("\r\n", "\n");
        }
        let separator = separator_of(text.lines().next().unwrap_or_default());
        let form = |reason: String| TableError::Form {
            file: path.display().to_string(),
            reason,
        };
        let mut rows = reader(&text, separator);
        let names = rows
            .headers()
            .map_err(|error| form(error.to_string()))?
            .clone();
        let first = rows
            .records()
            .next()
            .and_then(Result::ok)
            .unwrap_or_default();
        let columns = Columns::new(&names, &first).map_err(form)?;
        Ok(Self {
            path: path.to_owned(),
            text,
            separator,
            columns,
        })
    }

    /// SHA-256 of the file's text.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.text.as_bytes()).into()
    }

    /// Maps the columns to `features` (in order; none known: every column that is no label) and reads every row.
    ///
    /// # Errors
    /// The first thing that does not fit, with its place; nothing of the file is used then.
    pub fn read(self, features: &[String]) -> Result<Table, TableError> {
        self.read_with(features, Err)
    }

    /// Like [`Self::read`], but leaves out rows that do not fit as long as `refuse` takes them.
    ///
    /// # Errors
    /// What `refuse` does not take, and what is wrong with the file as a whole.
    pub fn read_with(
        self,
        features: &[String],
        mut refuse: impl FnMut(TableError) -> Result<(), TableError>,
    ) -> Result<Table, TableError> {
        let file = self.path.display().to_string();
        let mapping = self
            .columns
            .map(features)
            .map_err(|error| TableError::Mapping {
                file: file.clone(),
                error,
            })?;
        let mut table = Table {
            ts: Vec::new(),
            values: Vec::new(),
            lines: Vec::new(),
            width: mapping.features.len(),
            mapping,
        };
        let form = |reason: String| TableError::Form {
            file: file.clone(),
            reason,
        };
        let mut is_refused = false;
        for row in reader(&self.text, self.separator).into_records() {
            let row = row.map_err(|error| row_error(&file, &error));
            if let Err(error) = row.and_then(|row| self.read_row(&file, &row, &mut table)) {
                table.forget_unfinished();
                refuse(error)?;
                is_refused = true;
            }
            if table.values.len() > MAX_CELLS {
                return Err(form(format!(
                    "more than {MAX_CELLS} values: split the file"
                )));
            }
        }
        if table.is_empty() && !is_refused {
            return Err(form("no row after the header".to_owned()));
        }
        Ok(table)
    }

    fn read_row(
        &self,
        file: &str,
        row: &csv::StringRecord,
        table: &mut Table,
    ) -> Result<(), TableError> {
        let line = row.position().map_or(0, csv::Position::line);
        let cell_error = |column: usize, reason: String| TableError::Cell {
            file: file.to_owned(),
            line,
            column: self.columns.names[column].clone(),
            reason,
        };
        if let Some(column) = self.columns.time {
            let ts = time::parse(&row[column]).map_err(|reason| cell_error(column, reason))?;
            table.ts.push(ts);
        }
        for &column in &table.mapping.columns {
            let value = parse_value(&row[column]).map_err(|reason| cell_error(column, reason))?;
            table.values.push(value);
        }
        table.lines.push(u32::try_from(line).unwrap_or(u32::MAX));
        Ok(())
    }
}

impl Table {
    /// Readings.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Line of a row in the file, from 1.
    pub fn line(&self, row: usize) -> Option<u32> {
        self.lines.get(row).copied()
    }

    /// Drops what a row left behind that could not be read to its end.
    fn forget_unfinished(&mut self) {
        let rows = self.lines.len();
        self.ts.truncate(rows);
        self.values.truncate(rows * self.width);
    }

    /// Whether rows have a time.
    pub fn has_time(&self) -> bool {
        !self.ts.is_empty()
    }

    /// Unix ms of a row.
    pub fn ts(&self, row: usize) -> Option<i64> {
        self.ts.get(row).copied()
    }

    /// The reading of a row; its `seq` is the row.
    pub fn reading(&self, row: usize) -> Option<Reading> {
        let values = self.values.get(row * self.width..(row + 1) * self.width)?;
        Some(Reading {
            seq: Some(row as u64),
            ts: self.ts(row),
            values: Values::Ordered(values.to_vec()),
            ..Reading::default()
        })
    }
}

fn reader(text: &str, separator: u8) -> csv::Reader<&[u8]> {
    csv::ReaderBuilder::new()
        .delimiter(separator)
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes())
}

/// The separator that cuts the header into most cells; quoted text does not count.
fn separator_of(header: &str) -> u8 {
    let mut counts = [0usize; SEPARATORS.len()];
    let mut quoted = false;
    for byte in header.bytes() {
        quoted ^= byte == b'"';
        if let Some(found) = SEPARATORS.iter().position(|s| *s == byte && !quoted) {
            counts[found] += 1;
        }
    }
    let most = counts.iter().copied().max().unwrap_or_default();
    let best = counts
        .iter()
        .position(|count| *count == most)
        .unwrap_or_default();
    SEPARATORS[best]
}

fn parse_value(cell: &str) -> Result<f32, String> {
    if cell.is_empty()
        || MISSING_WORDS
            .iter()
            .any(|word| cell.eq_ignore_ascii_case(word))
    {
        return Ok(MISSING);
    }
    match cell.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        Ok(_) => Err(format!("{cell:?} is beyond a 32-bit float")),
        Err(_) => Err(format!("{cell:?} is no number")),
    }
}

fn row_error(file: &str, error: &csv::Error) -> TableError {
    let line = error.position().map_or(0, csv::Position::line);
    let reason = match error.kind() {
        csv::ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => {
            format!("{len} cells where the header has {expected_len}")
        }
        _ => error.to_string(),
    };
    TableError::Row {
        file: file.to_owned(),
        line,
        reason,
    }
}

#[cfg(test)]
mod tests;
