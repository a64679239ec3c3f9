//! What a batch of rows means to any database: how streams move, and how words become codes.
//!
//! Pure. Used by every store behind the trait; owns no SQL.

use super::{LoggedReading, Place, Result, StoreError};
use crate::stream::{Marks, Numbering, Row, Status, What};
use std::collections::HashMap;
use tidegate_protocol::NackCode;

/// What a batch does to one stream's own row.
pub struct Move {
    /// Where the stream must stand before.
    pub expected: u64,
    /// Where it stands after.
    pub after: Marks,
    /// Samples among its rows.
    pub samples: i64,
    /// Whether its device sent one of them; a version that changes or a reset is no sign of life.
    pub heard: bool,
    /// Index of its last row in the batch.
    pub newest: usize,
}

/// Refuses rows of one stream that do not follow each other.
pub fn gather_moves(rows: &[&Row]) -> Result<HashMap<i64, Move>> {
    let mut moves: HashMap<i64, Move> = HashMap::with_capacity(rows.len());
    for (index, row) in rows.iter().enumerate() {
        let expected = row.after.pos - 1;
        let step = moves.entry(row.stream.id).or_insert(Move {
            expected,
            after: row.after,
            samples: 0,
            heard: false,
            newest: index,
        });
        if step.newest != index && expected != step.after.pos {
            return Err(StoreError::Moved(vec![row.stream.id]));
        }
        step.after = row.after;
        step.newest = index;
        step.samples += i64::from(matches!(row.what, What::Sample(_)));
        step.heard |= is_heard(&row.what);
    }
    Ok(moves)
}

fn is_heard(what: &What) -> bool {
    match what {
        What::Sample(_) | What::Refusal(_) | What::Feedback { .. } => true,
        What::Epoch | What::Reset { .. } | What::Switch { .. } => false,
    }
}

/// First bytes of stored outputs whose readings were not folded: a failed step, a late reading. The layout of outputs is frozen, so
/// statements name them.
pub const UNFOLDED: [u8; 2] = [5, 6];

/// Where the log goes on behind readings that were kept for calibrations.
pub fn behind_kept(place: Place, kept: &[LoggedReading]) -> Place {
    let pos = kept.last().map_or(place.pos, |last| last.place.pos);
    Place { pos, ..place }
}

/// Adds the folded ones of a slice, up to `n` in all.
pub fn add_folded(readings: &mut Vec<LoggedReading>, slice: Vec<LoggedReading>, n: u32) {
    let room = (n as usize).saturating_sub(readings.len());
    readings.extend(
        slice
            .into_iter()
            .filter(|reading| reading.folded)
            .take(room),
    );
}

/// Numbers are at most 2^53-1, so they fit.
pub fn signed(number: u64) -> i64 {
    number.cast_signed()
}

/// How the column `mode` says it.
pub fn numbering_code(numbering: Numbering) -> i32 {
    match numbering {
        Numbering::Open => 0,
        Numbering::Device => 1,
        Numbering::Server => 2,
    }
}

/// What the column `mode` says.
pub fn numbering_of(code: i32) -> Numbering {
    match code {
        1 => Numbering::Device,
        2 => Numbering::Server,
        _ => Numbering::Open,
    }
}

/// What the column `code` of a refusal says; one of a later version reads as the most general.
pub fn nack_code_of(text: &str) -> NackCode {
    let known = NackCode::ALL.iter().find(|known| known.as_str() == text);
    known.copied().unwrap_or(NackCode::BadReading)
}

/// Kinds of rows in `stream_log`.
pub mod log_kind {
    /// Another version serves.
    pub const SWITCH: i32 = 1;
    /// The state was set back.
    pub const RESET: i32 = 2;
    /// An epoch begins.
    pub const EPOCH: i32 = 3;
}

/// Refuses a version whose content is not what was recorded under its name.
pub fn check_hash(name: [&str; 3], recorded: &[u8], hash: &[u8; 32]) -> Result<()> {
    if recorded == hash {
        return Ok(());
    }
    Err(StoreError::Changed(format!(
        "version {} is not what this database recorded: its files have the hash {}, recorded is {}; a version never changes, \
         give the new one a new number",
        name.join("/"),
        hex(hash),
        hex(recorded)
    )))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the column `status` says.
pub fn status_of(text: &str) -> Result<Status> {
    let known = Status::ALL.iter().find(|known| known.as_str() == text);
    let unknown = || StoreError::Corrupt(format!("status {text:?} is none of this build"));
    known.copied().ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::is_folded;
    use tidegate_protocol::Output;
    use tidegate_protocol::codec::encode_output;

    #[test]
    fn the_first_byte_of_an_output_tells_whether_its_reading_was_folded() {
        let outputs = [
            Output::Calibrating { seen: 1, needed: 2 },
            Output::Anomaly {
                score: 0.0,
                threshold: 1.0,
                anomaly: false,
            },
            Output::Classification {
                label: "a".into(),
                probabilities: vec![],
            },
            Output::Regression { values: vec![] },
            Output::Forecast {
                horizon: vec![],
                values: vec![],
                quantiles: vec![],
            },
            Output::Failed("f".into()),
            Output::Skipped("late".into()),
        ];
        for output in outputs {
            let mut bytes = Vec::new();
            encode_output(&output, &mut bytes);
            assert_eq!(
                !UNFOLDED.contains(&bytes[0]),
                is_folded(&output),
                "{output:?}"
            );
        }
    }
}
