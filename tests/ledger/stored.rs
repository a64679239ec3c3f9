//! What the database holds after a run, read with plain SQL beside the server's own reading code.
//!
//! One stream a device, with everything in its log. Every integer is cast to 64 bits, so that the same statements serve both
//! databases.

use std::collections::BTreeMap;

/// A stored sample.
#[derive(Debug, Clone)]
pub struct SampleRow {
    pub id: u64,
    pub pos: u64,
    pub epoch: u64,
    pub seq: u64,
    pub ts: i64,
    pub received_at: i64,
    /// Little-endian f32.
    pub values: Vec<u8>,
    /// Wire bytes.
    pub output: Vec<u8>,
    pub version: String,
    pub flags: u64,
}

impl SampleRow {
    /// Fell into a gap.
    pub fn is_late(&self) -> bool {
        self.flags & 8 != 0
    }

    /// The stored values, bit for bit.
    pub fn bits(&self) -> Vec<u32> {
        words(&self.values)
    }
}

/// A row of the log that is no reading.
#[derive(Debug, Clone)]
pub struct LogRow {
    pub pos: u64,
    pub kind: LogKind,
    /// Who serves from here on, for a switch.
    pub version: Option<String>,
}

/// What a row of the log does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogKind {
    Switch,
    Reset,
    Epoch,
}

/// A stored state.
#[derive(Debug, Clone)]
pub struct SnapshotRow {
    pub pos: u64,
    pub version: String,
    pub last_ts: Option<i64>,
    pub state: Vec<u32>,
}

/// A stored refusal.
#[derive(Debug, Clone)]
pub struct RefusalRow {
    pub pos: u64,
    pub epoch: u64,
    /// Of a refusal that used its number up.
    pub seq: Option<u64>,
}

/// Everything of one stream, each list in its order.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    pub pos: u64,
    pub epoch: u64,
    pub high_water: Option<u64>,
    pub samples: Vec<SampleRow>,
    pub log: Vec<LogRow>,
    pub snapshots: Vec<SnapshotRow>,
    pub refusals: Vec<RefusalRow>,
    /// Numbers that feedback was given for.
    pub feedback: Vec<(u64, u64)>,
}

/// Streams by device.
pub type Stored = BTreeMap<String, Stream>;

/// f32 bits from little-endian bytes.
pub fn words(bytes: &[u8]) -> Vec<u32> {
    let chunks = bytes.as_chunks::<4>().0.iter();
    chunks.map(|chunk| u32::from_le_bytes(*chunk)).collect()
}

/// Unsigned numbers are stored signed and at most 2^53-1.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).expect("no negative number is stored")
}

/// The stream that a row belongs to.
fn owner<'s>(stored: &'s mut Stored, names: &BTreeMap<i64, String>, id: i64) -> &'s mut Stream {
    let stream = names.get(&id).and_then(|name| stored.get_mut(name));
    stream.expect("a row belongs to a stream")
}

/// All rows of a statement.
macro_rules! rows {
    ($connection:expr, $sql:expr) => {
        sqlx::query($sql)
            .fetch_all(&mut *$connection)
            .await
            .expect("the database can be read")
    };
}

/// Reads everything over a connection of either database: their rows differ in type and in nothing else.
macro_rules! read_all {
    ($connection:expr, $row:ty) => {{
        let mut stored = Stored::new();
        let mut names = BTreeMap::new();
        let number = |row: &$row, column: usize| unsigned(row.get::<i64, _>(column));
        let optional = |row: &$row, column: usize| row.get::<Option<i64>, _>(column).map(unsigned);
        for row in rows!($connection, STREAMS) {
            let name: String = row.get(1);
            names.insert(row.get::<i64, _>(0), name.clone());
            let stream = Stream {
                pos: number(&row, 2),
                epoch: number(&row, 3),
                high_water: optional(&row, 4),
                ..Stream::default()
            };
            stored.insert(name, stream);
        }
        for row in rows!($connection, SAMPLES) {
            owner(&mut stored, &names, row.get(0))
                .samples
                .push(SampleRow {
                    id: number(&row, 1),
                    pos: number(&row, 2),
                    epoch: number(&row, 3),
                    seq: number(&row, 4),
                    ts: row.get(5),
                    received_at: row.get(6),
                    values: row.get(7),
                    output: row.get(8),
                    version: row.get(9),
                    flags: number(&row, 10),
                });
        }
        for row in rows!($connection, LOG) {
            owner(&mut stored, &names, row.get(0)).log.push(LogRow {
                pos: number(&row, 1),
                kind: match row.get::<i64, _>(2) {
                    1 => LogKind::Switch,
                    2 => LogKind::Reset,
                    _ => LogKind::Epoch,
                },
                version: row.get(3),
            });
        }
        for row in rows!($connection, SNAPSHOTS) {
            owner(&mut stored, &names, row.get(0))
                .snapshots
                .push(SnapshotRow {
                    pos: number(&row, 1),
                    version: row.get(2),
                    last_ts: row.get(3),
                    state: words(&row.get::<Vec<u8>, _>(4)),
                });
        }
        for row in rows!($connection, REFUSALS) {
            owner(&mut stored, &names, row.get(0))
                .refusals
                .push(RefusalRow {
                    pos: number(&row, 1),
                    epoch: number(&row, 2),
                    seq: optional(&row, 3),
                });
        }
        for row in rows!($connection, FEEDBACK) {
            let about = (number(&row, 1), number(&row, 2));
            owner(&mut stored, &names, row.get(0)).feedback.push(about);
        }
        stored
    }};
}

const STREAMS: &str = "SELECT CAST(id AS BIGINT), device, CAST(pos AS BIGINT), CAST(epoch AS BIGINT), \
     CAST(high_water AS BIGINT) FROM streams";
const SAMPLES: &str = "SELECT CAST(s.stream_id AS BIGINT), CAST(s.id AS BIGINT), CAST(s.pos AS BIGINT), \
     CAST(s.epoch AS BIGINT), CAST(s.seq AS BIGINT), CAST(s.ts AS BIGINT), CAST(s.received_at AS BIGINT), \
     s.\"values\", s.output, v.model || '/' || v.version, CAST(s.flags AS BIGINT) \
     FROM samples s JOIN versions v ON v.id = s.version_id ORDER BY s.id";
const LOG: &str = "SELECT CAST(l.stream_id AS BIGINT), CAST(l.pos AS BIGINT), CAST(l.kind AS BIGINT), \
     v.model || '/' || v.version FROM stream_log l LEFT JOIN versions v ON v.id = l.version_id ORDER BY l.pos";
const SNAPSHOTS: &str = "SELECT CAST(n.stream_id AS BIGINT), CAST(n.pos AS BIGINT), v.model || '/' || v.version, \
     CAST(n.last_ts AS BIGINT), n.state FROM snapshots n JOIN versions v ON v.id = n.version_id ORDER BY n.pos";
const REFUSALS: &str = "SELECT CAST(stream_id AS BIGINT), CAST(pos AS BIGINT), CAST(epoch AS BIGINT), \
     CASE WHEN consumed THEN CAST(seq AS BIGINT) END FROM refusals ORDER BY pos";
const FEEDBACK: &str =
    "SELECT CAST(stream_id AS BIGINT), CAST(epoch AS BIGINT), CAST(seq AS BIGINT) FROM feedback";

/// Everything in an SQLite file that nobody writes any more.
pub async fn read_sqlite(file: &std::path::Path) -> Stored {
    use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
    use sqlx::{Connection, Row};
    let options = SqliteConnectOptions::new().filename(file).read_only(true);
    let mut connection = SqliteConnection::connect_with(&options)
        .await
        .expect("the database opens");
    let stored = read_all!(&mut connection, SqliteRow);
    connection.close().await.expect("it closes");
    stored
}

/// Everything in a PostgreSQL database that no server writes any more.
pub async fn read_postgres(url: &str) -> Stored {
    use sqlx::postgres::{PgConnection, PgRow};
    use sqlx::{Connection, Row};
    let mut connection = PgConnection::connect(url)
        .await
        .expect("the database opens");
    let stored = read_all!(&mut connection, PgRow);
    connection.close().await.expect("it closes");
    stored
}
