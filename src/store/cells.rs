//! Rows of either database, read by column into the words of the store.
//!
//! The two databases keep the same columns in integers of other widths; [`Cells`] evens that out, and what a row means is written once.

use super::history::{LoggedSample, LoggedStream, LoggedVersion};
use super::rollup::{Bucket, Span, Stat, from_bytes};
use super::versions::{StatusChange, StatusRow};
use super::{Place, Result, StoreError, StoredSnapshot, rows};
use crate::stream::{Flags, StreamKey, StreamRef, from_le_bytes};
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use tidegate_protocol::{DeviceId, EndpointName, IdError};

/// Columns of [`sample`].
pub const SAMPLE: &str = "SELECT id, stream_id, pos, epoch, seq, ts, received_at, \"values\", output, version_id, arm, \
     latency_us, flags, numerics_rev FROM samples ";
/// Columns of [`stream`].
pub const STREAM: &str = "SELECT id, endpoint, device, import, pos, samples FROM streams WHERE ";
/// Columns of [`version`].
pub const VERSIONS: &str = "SELECT id, endpoint, model, version, hash FROM versions ORDER BY id";
/// Columns of [`status_change`].
pub const STATUS_CHANGES: &str = "SELECT s.id, v.endpoint, v.model, v.version, s.at, s.version_id, s.status, s.actor, s.reason \
     FROM status_changes s JOIN versions v ON v.id = s.version_id ORDER BY s.id";
/// Columns of [`bucket`] in a table called `r`. The length has 32 bits in PostgreSQL.
pub const BUCKET: &str = "r.stream_id, CAST(r.span_s AS bigint), r.start, r.count, r.anomalies, r.failed, r.score, r.features";

/// One row.
pub trait Cells {
    /// An integer of 64 bits.
    fn int(&self, column: usize) -> i64;
    /// The same, or nothing.
    fn maybe_int(&self, column: usize) -> Option<i64>;
    /// An unsigned number in an integer of 32 bits.
    fn small(&self, column: usize) -> u32;
    /// Text.
    fn text(&self, column: usize) -> &str;
    /// The same, or nothing.
    fn maybe_text(&self, column: usize) -> Option<&str>;
    /// Bytes.
    fn bytes(&self, column: usize) -> &[u8];
    /// A real number, or nothing.
    fn maybe_real(&self, column: usize) -> Option<f64>;
}

/// What both rows say in the same way.
macro_rules! shared {
    () => {
        fn int(&self, column: usize) -> i64 {
            self.get(column)
        }

        fn maybe_int(&self, column: usize) -> Option<i64> {
            self.get(column)
        }

        fn text(&self, column: usize) -> &str {
            self.get(column)
        }

        fn maybe_text(&self, column: usize) -> Option<&str> {
            self.get(column)
        }

        fn bytes(&self, column: usize) -> &[u8] {
            self.get(column)
        }

        fn maybe_real(&self, column: usize) -> Option<f64> {
            self.get(column)
        }
    };
}

impl Cells for SqliteRow {
    shared!();

    fn small(&self, column: usize) -> u32 {
        self.get(column)
    }
}

impl Cells for PgRow {
    shared!();

    fn small(&self, column: usize) -> u32 {
        self.get::<i32, _>(column).cast_unsigned()
    }
}

/// A change of status.
pub fn status_change(row: &impl Cells) -> Result<StatusRow> {
    Ok(StatusRow {
        id: row.int(0),
        endpoint: row.text(1).to_owned(),
        model: row.text(2).to_owned(),
        version: row.text(3).to_owned(),
        at: row.int(4),
        change: StatusChange {
            version_id: row.int(5),
            status: rows::status_of(row.text(6))?,
            who: row.text(7).to_owned(),
            why: row.text(8).to_owned(),
        },
    })
}

/// A number that the schema keeps within 0..2^53.
pub fn number(row: &impl Cells, column: usize) -> u64 {
    row.int(column).cast_unsigned()
}

/// A place, as two columns.
pub fn place(row: &impl Cells, column: usize) -> Place {
    Place {
        pos: number(row, column),
        sample_id: number(row, column + 1),
    }
}

/// Endpoint, device and import, as three columns.
///
/// # Errors
/// A name that none of ours may be.
pub fn key(row: &impl Cells, column: usize) -> Result<StreamKey> {
    let bad = |error: IdError| StoreError::Corrupt(error.to_string());
    Ok(StreamKey {
        endpoint: EndpointName::new(row.text(column)).map_err(bad)?,
        device: DeviceId::new(row.text(column + 1)).map_err(bad)?,
        import: number(row, column + 2),
    })
}

/// A stream by [`STREAM`].
///
/// # Errors
/// See [`key`].
pub fn stream(row: &impl Cells) -> Result<LoggedStream> {
    Ok(LoggedStream {
        stream: StreamRef {
            id: row.int(0),
            key: key(row, 1)?,
        },
        pos: number(row, 4),
        samples: number(row, 5),
    })
}

/// A sample by [`SAMPLE`].
pub fn sample(row: &impl Cells) -> LoggedSample {
    LoggedSample {
        id: number(row, 0),
        stream_id: row.int(1),
        pos: number(row, 2),
        epoch: number(row, 3),
        seq: number(row, 4),
        ts: row.int(5),
        received_at: row.int(6),
        values: from_le_bytes(row.bytes(7)),
        output: row.bytes(8).to_owned(),
        version_id: row.int(9),
        arm: row.maybe_text(10).map(str::to_owned),
        latency_us: u32::try_from(row.int(11)).unwrap_or(u32::MAX),
        flags: Flags(row.small(12)),
        numerics_rev: row.small(13),
    }
}

/// A snapshot that begins at `column`: position, sample id, version, layout, numerics, time, state.
pub fn snapshot(row: &impl Cells, column: usize) -> StoredSnapshot {
    StoredSnapshot {
        place: place(row, column),
        version_id: row.int(column + 2),
        layout: row.text(column + 3).to_owned(),
        numerics_rev: row.small(column + 4),
        last_ts: row.maybe_int(column + 5),
        state: from_le_bytes(row.bytes(column + 6)),
    }
}

/// A version by [`VERSIONS`].
pub fn version(row: &impl Cells) -> LoggedVersion {
    LoggedVersion {
        id: row.int(0),
        endpoint: row.text(1).to_owned(),
        model: row.text(2).to_owned(),
        version: row.text(3).to_owned(),
        hash: row.bytes(4).to_owned(),
    }
}

/// A roll-up by [`BUCKET`].
pub fn bucket(row: &impl Cells) -> Bucket {
    let span = match row.int(1) {
        3_600 => Span::Hour,
        _ => Span::Minute,
    };
    let score: Vec<Stat> = from_bytes(row.bytes(6));
    Bucket {
        count: number(row, 3),
        anomalies: number(row, 4),
        failed: number(row, 5),
        score: score.first().copied().unwrap_or_default(),
        features: from_bytes(row.bytes(7)),
        ..Bucket::new(row.int(0), span, row.int(2))
    }
}
