//! Everything that PostgreSQL reads: sessions to bring back, numbers to look up, pages of samples and devices.
//!
//! Few connections beside the writing one. A connection whose answer was not waited for (too slow, or the asker went away) is closed and
//! not returned, so none is left hanging in the pool. Reads of samples name the parts that can hold the answer: the
//! planner opens no other partition.

pub use crate::store::cells::{number, place};

use super::connect;
use super::parts::Parts;
use crate::store::cells::snapshot;
use crate::store::rows::{self, log_kind, nack_code_of, numbering_of, signed};
use crate::store::{
    DeviceRow, Known, LoggedReading, Place, Result, SampleQuery, StoreError, StoredSample,
    StoredStream, StoredSwitch,
};
use crate::stream::{Flags, Marks, RefusalRow, StreamKey, StreamRef, from_le_bytes};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgRow};
use sqlx::{Postgres, QueryBuilder, Row};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;
use tidegate_protocol::codec::decode_output;
use tidegate_protocol::{DeviceId, EndpointName, IdError};

/// Connections that read beside the writer.
const READERS: u32 = 4;
/// Longest read, the wait for a connection included.
const ANSWER: Duration = Duration::from_secs(30);

const SAMPLE_COLUMNS: &str = "s.id, t.endpoint, t.device, s.epoch, s.seq, s.ts, s.received_at, s.\"values\", s.output, \
     v.model, v.version, s.latency_us, s.flags, s.stream_id, s.arm";

/// The connections, and where the samples are.
#[derive(Clone)]
pub struct Readers {
    pool: PgPool,
    parts: Arc<Parts>,
}

/// A connection for one read.
pub struct Reader(Option<PoolConnection<Postgres>>);

impl Reader {
    /// Every answer was taken: the connection may serve others.
    pub fn done<T>(mut self, found: T) -> T {
        drop(self.0.take());
        found
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

impl Deref for Reader {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.0.as_ref().expect("taken by done alone")
    }
}

impl DerefMut for Reader {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("taken by done alone")
    }
}

/// Does a read within its time.
pub async fn in_time<T>(read: impl Future<Output = Result<T>>) -> Result<T> {
    let done = tokio::time::timeout(ANSWER, read).await;
    done.unwrap_or(Err(StoreError::Slow(ANSWER)))
}

impl Readers {
    /// Connects when there is something to read.
    pub fn new(options: &PgConnectOptions, parts: Arc<Parts>) -> Self {
        Self::at_most(READERS, options, parts)
    }

    /// So many reads at once.
    pub fn at_most(readers: u32, options: &PgConnectOptions, parts: Arc<Parts>) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(readers)
            .acquire_timeout(ANSWER)
            .connect_lazy_with(connect::options(options));
        Self { pool, parts }
    }

    /// One of them, as soon as one is free.
    pub async fn take(&self) -> Result<Reader> {
        Ok(Reader(Some(self.pool.acquire().await?)))
    }

    /// Where the samples are.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Closes them.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

fn optional_number(row: &PgRow, column: usize) -> Option<u64> {
    row.get::<Option<i64>, _>(column).map(i64::cast_unsigned)
}

fn corrupt(error: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(error.to_string())
}

/// The highest sample id and stream id given so far; ids of retired samples are not given again.
pub async fn high_ids(readers: &Readers) -> Result<(u64, i64)> {
    let mut reader = readers.take().await?;
    let row = sqlx::query(
        "SELECT greatest((SELECT max(id) FROM samples), (SELECT max(first_id) - 1 FROM sample_parts), 0), \
         (SELECT coalesce(max(id), 0) FROM streams)",
    )
    .fetch_one(&mut *reader)
    .await?;
    Ok(reader.done((number(&row, 0), row.get(1))))
}

/// One stream with what a session needs; one statement, so that marks, gaps and snapshot belong to the same commit.
pub async fn load_stream(readers: &Readers, key: &StreamKey) -> Result<Option<StoredStream>> {
    let mut reader = readers.take().await?;
    let row = sqlx::query(
        "SELECT s.id, s.pos, s.epoch, s.high_water, s.mode, s.last_ts, s.last_seen, \
         ARRAY(SELECT from_seq FROM gaps g WHERE g.stream_id = s.id AND g.epoch = s.epoch ORDER BY from_seq), \
         ARRAY(SELECT to_seq FROM gaps g WHERE g.stream_id = s.id AND g.epoch = s.epoch ORDER BY from_seq), \
         n.pos, n.sample_id, n.version_id, n.layout, n.numerics_rev, n.last_ts, n.state \
         FROM streams s LEFT JOIN LATERAL \
         (SELECT * FROM snapshots WHERE stream_id = s.id ORDER BY pos DESC LIMIT 1) n ON true \
         WHERE s.endpoint = $1 AND s.device = $2 AND s.import = $3",
    )
    .bind(key.endpoint.as_str())
    .bind(key.device.as_str())
    .bind(signed(key.import))
    .fetch_optional(&mut *reader)
    .await?;
    Ok(reader.done(row.map(|row| stored_stream(&row, key))))
}

fn stored_stream(row: &PgRow, key: &StreamKey) -> StoredStream {
    let ends = |column: usize| row.get::<Vec<i64>, _>(column).into_iter();
    let gaps = ends(7).zip(ends(8));
    StoredStream {
        stream: StreamRef {
            id: row.get(0),
            key: key.clone(),
        },
        marks: Marks {
            pos: number(row, 1),
            epoch: number(row, 2),
            high_water: optional_number(row, 3),
            numbering: numbering_of(row.get(4)),
            last_ts: row.get(5),
        },
        gaps: gaps
            .map(|(from, to)| (from.cast_unsigned(), to.cast_unsigned()))
            .collect(),
        snapshot: optional_number(row, 9).map(|_| snapshot(row, 9)),
        last_seen: row.get(6),
    }
}

/// Readings of a stream behind a place, in commit order, which is position order.
pub async fn log_after(
    readers: &Readers,
    stream: i64,
    place: Place,
    limit: u32,
) -> Result<Vec<LoggedReading>> {
    let mut reader = readers.take().await?;
    let readings = slice(&mut reader, &readers.parts, stream, place, limit).await?;
    Ok(reader.done(readings))
}

async fn slice(
    connection: &mut PgConnection,
    parts: &Parts,
    stream: i64,
    place: Place,
    limit: u32,
) -> Result<Vec<LoggedReading>> {
    // The last part is looked up in the statement: partitions between are left out when it runs. Part 0 is always looked into:
    // retention may have moved readings there since the others were looked up.
    let rows = sqlx::query(
        "SELECT pos, id, ts, \"values\", get_byte(output, 0) FROM samples \
         WHERE stream_id = $1 AND id > $2 AND pos > $3 \
         AND (part = 0 OR part BETWEEN $4 AND (SELECT last_part FROM streams WHERE id = $1)) ORDER BY id LIMIT $5",
    )
    .bind(stream)
    .bind(signed(place.sample_id))
    .bind(signed(place.pos))
    .bind(parts.of(place.sample_id + 1))
    .bind(i64::from(limit))
    .fetch_all(connection)
    .await?;
    Ok(rows.iter().map(logged_reading).collect())
}

/// The first byte of the output tells enough; a fold reads many.
fn logged_reading(row: &PgRow) -> LoggedReading {
    let first: i32 = row.get(4);
    LoggedReading {
        folded: !rows::UNFOLDED.iter().any(|byte| i32::from(*byte) == first),
        ..kept_reading(row)
    }
}

fn kept_reading(row: &PgRow) -> LoggedReading {
    LoggedReading {
        place: place(row, 0),
        ts: row.get(2),
        values: from_le_bytes(row.get(3)),
        folded: true,
    }
}

/// Versions that were put in place on a stream, newest first.
pub async fn switches(readers: &Readers, stream: i64, limit: u32) -> Result<Vec<StoredSwitch>> {
    let mut reader = readers.take().await?;
    let rows = sqlx::query(
        "SELECT version_id, reason, arm FROM stream_log WHERE stream_id = $1 AND kind = $2 ORDER BY pos DESC LIMIT $3",
    )
    .bind(stream)
    .bind(log_kind::SWITCH)
    .bind(i64::from(limit))
    .fetch_all(&mut *reader)
    .await?;
    let switch = |row: &PgRow| StoredSwitch {
        version_id: row.get(0),
        reason: row.get(1),
        arm: row.get(2),
    };
    Ok(reader.done(rows.iter().map(switch).collect()))
}

/// The newest reset of a stream; the beginning of its log when there was none.
pub async fn last_reset(readers: &Readers, stream: i64) -> Result<Place> {
    let mut reader = readers.take().await?;
    let row = sqlx::query(
        "SELECT pos, sample_id FROM stream_log WHERE stream_id = $1 AND kind = $2 ORDER BY pos DESC LIMIT 1",
    )
    .bind(stream)
    .bind(log_kind::RESET)
    .fetch_optional(&mut *reader)
    .await?;
    Ok(reader.done(row.map_or(Place::default(), |row| place(&row, 0))))
}

/// The first `n` folded readings behind a place. Kept ones come first: they are older than every sample that is left.
pub async fn calibration(
    readers: &Readers,
    stream: i64,
    place: Place,
    n: u32,
) -> Result<Vec<LoggedReading>> {
    let mut reader = readers.take().await?;
    // One snapshot: retention moves readings from the one table to the other.
    sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .execute(&mut *reader)
        .await?;
    let kept = sqlx::query(
        "SELECT pos, 0::bigint, ts, \"values\" FROM calibrations WHERE stream_id = $1 AND pos > $2 ORDER BY pos LIMIT $3",
    )
    .bind(stream)
    .bind(signed(place.pos))
    .bind(i64::from(n))
    .fetch_all(&mut *reader)
    .await?;
    let mut readings: Vec<_> = kept.iter().map(kept_reading).collect();
    let mut place = rows::behind_kept(place, &readings);
    while readings.len() < n as usize {
        let slice = slice(&mut reader, &readers.parts, stream, place, n).await?;
        let Some(last) = slice.last() else {
            break;
        };
        place = last.place;
        rows::add_folded(&mut readings, slice, n);
    }
    sqlx::raw_sql("COMMIT").execute(&mut *reader).await?;
    Ok(reader.done(readings))
}

/// The newest `n` folded readings of a stream, in the order of the log. See `rows::UNFOLDED` for the bytes.
pub async fn newest_folded(readers: &Readers, stream: i64, n: u32) -> Result<Vec<LoggedReading>> {
    let mut reader = readers.take().await?;
    let mut readings = Vec::new();
    for (first, last) in readers.parts.spans(0..=u64::MAX, true) {
        let left = n as usize - readings.len();
        let rows = sqlx::query(
            "SELECT pos, id, ts, \"values\", get_byte(output, 0) FROM samples \
             WHERE stream_id = $1 AND part BETWEEN $2 AND $3 \
             AND get_byte(output, 0) NOT IN (5, 6) ORDER BY id DESC LIMIT $4",
        )
        .bind(stream)
        .bind(first)
        .bind(last)
        .bind(i64::try_from(left).unwrap_or(i64::MAX))
        .fetch_all(&mut *reader)
        .await?;
        for row in &rows {
            readings.push(logged_reading(row));
        }
        if readings.len() == n as usize {
            break;
        }
    }
    readings.reverse();
    Ok(reader.done(readings))
}

/// What is known of one number: the sample if it was taken, else the refusal that consumed it.
pub async fn find(readers: &Readers, stream: i64, epoch: u64, seq: u64) -> Result<Option<Known>> {
    let mut reader = readers.take().await?;
    // Most numbers that are asked for again are young.
    for (first, last) in readers.parts.spans(0..=u64::MAX, true) {
        let mut query = QueryBuilder::<Postgres>::new("SELECT ");
        query.push(SAMPLE_COLUMNS).push(
            " FROM samples s JOIN streams t ON t.id = s.stream_id JOIN versions v ON v.id = s.version_id",
        );
        query.push(" WHERE s.stream_id = ").push_bind(stream);
        query.push(" AND s.epoch = ").push_bind(signed(epoch));
        query.push(" AND s.seq = ").push_bind(signed(seq));
        push_parts(&mut query, "s.part", (first, last));
        if let Some(row) = query.build().fetch_optional(&mut *reader).await? {
            let sample = stored_sample(&row)?;
            return Ok(reader.done(Some(Known::Sample(Box::new(sample)))));
        }
    }
    let row = sqlx::query(
        "SELECT code, message, at FROM refusals \
         WHERE stream_id = $1 AND epoch = $2 AND seq = $3 AND consumed ORDER BY id LIMIT 1",
    )
    .bind(stream)
    .bind(signed(epoch))
    .bind(signed(seq))
    .fetch_optional(&mut *reader)
    .await?;
    let refusal = row.map(|row| RefusalRow {
        epoch,
        seq: Some(seq),
        code: nack_code_of(row.get(0)),
        message: row.get(1),
        consumed: true,
        at: row.get(2),
    });
    Ok(reader.done(refusal.map(Known::Refusal)))
}

/// A page of samples.
pub async fn samples(readers: &Readers, wanted: &SampleQuery) -> Result<Vec<StoredSample>> {
    let mut reader = readers.take().await?;
    let limit = wanted.limit as usize;
    let mut found = Vec::new();
    for span in readers.parts.spans(id_range(wanted), wanted.newest_first) {
        let left = i64::try_from(limit - found.len()).unwrap_or(i64::MAX);
        let rows = page(SAMPLE_COLUMNS, wanted, span, left)
            .build()
            .fetch_all(&mut *reader)
            .await?;
        for row in &rows {
            found.push(stored_sample(row)?);
        }
        if found.len() >= limit {
            break;
        }
    }
    Ok(reader.done(found))
}

/// How many samples match, counted up to `limit`.
pub async fn count_samples(readers: &Readers, wanted: &SampleQuery) -> Result<u32> {
    let mut reader = readers.take().await?;
    let mut left = i64::from(wanted.limit);
    for span in readers.parts.spans(id_range(wanted), false) {
        let mut query = page("count(*) FROM (SELECT s.id", wanted, span, left);
        let count: i64 = query
            .push(") counted")
            .build_query_scalar()
            .fetch_one(&mut *reader)
            .await?;
        left -= count;
        if left <= 0 {
            break;
        }
    }
    let count = i64::from(wanted.limit) - left.max(0);
    Ok(reader.done(u32::try_from(count).unwrap_or(u32::MAX)))
}

/// Ids that the cursor and the end leave.
fn id_range(wanted: &SampleQuery) -> std::ops::RangeInclusive<u64> {
    let until = wanted.until.unwrap_or(u64::MAX);
    match wanted.cursor {
        Some(cursor) if wanted.newest_first => 0..=until.min(cursor.saturating_sub(1)),
        Some(cursor) => cursor.saturating_add(1)..=until.max(cursor.saturating_add(1)),
        None => 0..=until,
    }
}

fn page(
    columns: &str,
    wanted: &SampleQuery,
    span: (i32, i32),
    left: i64,
) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new("SELECT ");
    query.push(columns);
    if wanted.device.is_some() {
        // Each stream of the device by its own index, then the pages merged.
        query.push(
            " FROM streams t CROSS JOIN LATERAL (SELECT * FROM samples s WHERE s.stream_id = t.id",
        );
        push_sample_filters(&mut query, wanted, span);
        push_order(&mut query, wanted, left);
        query.push(") s JOIN versions v ON v.id = s.version_id WHERE true");
    } else {
        query.push(" FROM samples s JOIN streams t ON t.id = s.stream_id JOIN versions v ON v.id = s.version_id WHERE true");
        push_sample_filters(&mut query, wanted, span);
    }
    if let Some(endpoint) = &wanted.endpoint {
        query.push(" AND t.endpoint = ").push_bind(endpoint.clone());
    }
    if let Some(device) = &wanted.device {
        query.push(" AND t.device = ").push_bind(device.clone());
    }
    if wanted.live_only {
        query.push(" AND t.import = 0");
    }
    push_order(&mut query, wanted, left);
    query
}

fn push_sample_filters(query: &mut QueryBuilder<Postgres>, wanted: &SampleQuery, span: (i32, i32)) {
    push_parts(query, "s.part", span);
    let cursor = if wanted.newest_first {
        " AND s.id < "
    } else {
        " AND s.id > "
    };
    let filters = [
        (" AND s.epoch = ", wanted.epoch.map(signed)),
        (" AND s.ts >= ", wanted.from),
        (" AND s.ts < ", wanted.to),
        (cursor, wanted.cursor.map(signed)),
        (" AND s.id <= ", wanted.until.map(signed)),
    ];
    for (condition, value) in filters {
        if let Some(value) = value {
            query.push(condition).push_bind(value);
        }
    }
}

fn push_parts(query: &mut QueryBuilder<Postgres>, column: &str, (first, last): (i32, i32)) {
    query.push(format_args!(" AND {column} BETWEEN "));
    query.push_bind(first).push(" AND ").push_bind(last);
}

fn push_order(query: &mut QueryBuilder<Postgres>, wanted: &SampleQuery, left: i64) {
    query.push(if wanted.newest_first {
        " ORDER BY s.id DESC LIMIT "
    } else {
        " ORDER BY s.id LIMIT "
    });
    query.push_bind(left);
}

/// A row that begins with [`SAMPLE_COLUMNS`].
fn stored_sample(row: &PgRow) -> Result<StoredSample> {
    Ok(StoredSample {
        id: number(row, 0),
        stream: row.get(13),
        endpoint: row.get(1),
        device: row.get(2),
        epoch: number(row, 3),
        seq: number(row, 4),
        ts: row.get(5),
        received_at: row.get(6),
        values: from_le_bytes(row.get(7)),
        output: decode_output(row.get(8)).map_err(corrupt)?,
        model: row.get(9),
        version: row.get(10),
        arm: row.get(14),
        latency_us: u32::try_from(number(row, 11)).unwrap_or(u32::MAX),
        flags: Flags(row.get::<i32, _>(12).cast_unsigned()),
    })
}

/// A page of streams with their newest sample.
pub async fn devices(
    readers: &Readers,
    endpoint: Option<&str>,
    cursor: Option<&StreamKey>,
    limit: u32,
) -> Result<Vec<DeviceRow>> {
    let mut reader = readers.take().await?;
    let mut query = QueryBuilder::<Postgres>::new("SELECT ");
    query.push(SAMPLE_COLUMNS).push(
        ", t.endpoint, t.device, t.epoch, t.high_water, t.samples, t.last_seen FROM (SELECT * FROM streams WHERE import = 0",
    );
    if let Some(endpoint) = endpoint {
        query
            .push(" AND endpoint = ")
            .push_bind(endpoint.to_owned());
    }
    if let Some(after) = cursor {
        query
            .push(" AND (endpoint, device) > (")
            .push_bind(after.endpoint.to_string());
        query
            .push(", ")
            .push_bind(after.device.to_string())
            .push(")");
    }
    query
        .push(" ORDER BY endpoint, device LIMIT ")
        .push_bind(i64::from(limit));
    query.push(
        ") t LEFT JOIN LATERAL (SELECT * FROM samples WHERE stream_id = t.id AND part = CASE WHEN t.last_part < ",
    );
    // What is left of a part that was dropped is in part 0.
    query.push_bind(readers.parts.oldest());
    query.push(
        " THEN 0 ELSE t.last_part END ORDER BY id DESC LIMIT 1) s ON true \
         LEFT JOIN versions v ON v.id = s.version_id ORDER BY t.endpoint, t.device",
    );
    let rows = query.build().fetch_all(&mut *reader).await?;
    reader.done(rows.iter().map(device_row).collect())
}

fn device_row(row: &PgRow) -> Result<DeviceRow> {
    let bad = |error: IdError| corrupt(error);
    let has_sample = row.get::<Option<i64>, _>(0).is_some();
    Ok(DeviceRow {
        key: StreamKey::live(
            EndpointName::new(row.get(15)).map_err(bad)?,
            DeviceId::new(row.get(16)).map_err(bad)?,
        ),
        epoch: number(row, 17),
        high_water: optional_number(row, 18),
        samples: number(row, 19),
        last_seen: row.get(20),
        last: has_sample.then(|| stored_sample(row)).transpose()?,
    })
}
