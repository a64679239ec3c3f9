//! Statements that take many rows at once, in a few fixed sizes so that each is prepared once.
//!
//! Owns the text of the three statements of every commit. A batch of n rows runs as chunks of 1,024, 256, 64, 8 and 1. `OR FAIL`: what
//! a refused statement has done already is taken back with the transaction, and SQLite need not keep a copy of every page it
//! touches to take back the statement alone (a sixth of a commit's time).

use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{AssertSqlSafe, Sqlite};
use std::sync::{Arc, OnceLock};

/// Rows a statement, largest first.
const SIZES: [usize; 5] = [1024, 256, 64, 8, 1];

/// A query on its way to be bound.
pub type Query = sqlx::query::Query<'static, Sqlite, SqliteArguments>;

/// A statement with a list of rows in its middle.
pub struct Bulk {
    head: &'static str,
    columns: usize,
    tail: &'static str,
    texts: [OnceLock<Arc<str>>; SIZES.len()],
}

/// Streams that the store does not know yet.
pub static NEW_STREAMS: Bulk = Bulk::new(
    "INSERT OR FAIL INTO streams (id, pos, epoch, high_water, mode, last_ts, last_seen, samples, endpoint, device, import, created) VALUES ",
    12,
    "",
);

/// Compare-and-set of known streams; the affected rows tell how many stood where expected.
pub static MOVED_STREAMS: Bulk = Bulk::new(
    "UPDATE OR FAIL streams SET pos = v.column2, epoch = v.column3, high_water = v.column4, mode = v.column5, \
     last_ts = v.column6, last_seen = coalesce(v.column7, last_seen), samples = samples + v.column8 FROM (VALUES ",
    9,
    ") AS v WHERE streams.id = v.column1 AND streams.pos = v.column9",
);

/// Samples.
pub static SAMPLES: Bulk = Bulk::new(
    "INSERT OR FAIL INTO samples (id, stream_id, pos, epoch, seq, ts, received_at, \"values\", output, version_id, arm, latency_us, \
     flags, numerics_rev) VALUES ",
    14,
    "",
);

/// Publishes that may be delivered again.
pub static RECEIPTS: Bulk = Bulk::new(
    "INSERT INTO mqtt_receipts (client, place, session, packet, hash, taken) VALUES ",
    6,
    " ON CONFLICT (client, place) DO UPDATE SET taken = excluded.taken",
);

impl Bulk {
    const fn new(head: &'static str, columns: usize, tail: &'static str) -> Self {
        Self {
            head,
            columns,
            tail,
            texts: [const { OnceLock::new() }; SIZES.len()],
        }
    }

    /// Runs the statement for all rows; `bind` binds one row's columns. Returns the rows affected.
    pub async fn run<T>(
        &self,
        connection: &mut SqliteConnection,
        rows: &[T],
        bind: impl Fn(Query, &T) -> Query,
    ) -> sqlx::Result<u64> {
        let mut rest = rows;
        let mut affected = 0;
        for (slot, size) in SIZES.into_iter().enumerate() {
            while rest.len() >= size {
                let (chunk, after) = rest.split_at(size);
                rest = after;
                let query = sqlx::query(AssertSqlSafe(Arc::clone(self.text(slot))));
                let query = chunk.iter().fold(query, &bind);
                affected += query.execute(&mut *connection).await?.rows_affected();
            }
        }
        Ok(affected)
    }

    fn text(&self, slot: usize) -> &Arc<str> {
        self.texts[slot].get_or_init(|| {
            let row = format!("({})", vec!["?"; self.columns].join(", "));
            let rows = vec![row.as_str(); SIZES[slot]].join(", ");
            format!("{}{rows}{}", self.head, self.tail).into()
        })
    }
}
