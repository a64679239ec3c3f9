//! Everything that SQLite reads: sessions to bring back, numbers to look up, pages of samples and devices.

pub use crate::store::cells::{key, number, place};

use super::numbers;
use crate::store::cells;
use crate::store::rows::{self, nack_code_of, numbering_of};
use crate::store::{
    DeviceRow, Known, LoggedReading, Place, Result, SampleQuery, StoreError, StoredSample,
    StoredStream, StoredSwitch,
};
use crate::stream::{Flags, Marks, RefusalRow, StreamKey, StreamRef, from_le_bytes};
use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{QueryBuilder, Row, Sqlite};
use tidegate_protocol::codec::decode_output;

const SAMPLE_COLUMNS: &str = "SELECT s.id, t.endpoint, t.device, s.epoch, s.seq, s.ts, s.received_at, s.\"values\", \
     s.output, v.model, v.version, s.latency_us, s.flags, s.stream_id, s.arm \
     FROM samples s JOIN streams t ON t.id = s.stream_id JOIN versions v ON v.id = s.version_id ";

fn optional_number(row: &SqliteRow, column: usize) -> Option<u64> {
    row.get::<Option<i64>, _>(column).map(i64::cast_unsigned)
}

/// One stream with what a session needs.
pub async fn load_stream(pool: &SqlitePool, key: &StreamKey) -> Result<Option<StoredStream>> {
    // One read transaction: marks, gaps and snapshot belong to the same commit.
    let mut connection = pool.begin().await?;
    let row = sqlx::query(
        "SELECT id, pos, epoch, high_water, mode, last_ts, last_seen FROM streams \
         WHERE endpoint = ? AND device = ? AND import = ?",
    )
    .bind(key.endpoint.to_string())
    .bind(key.device.to_string())
    .bind(key.import.cast_signed())
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let id: i64 = row.get(0);
    let marks = Marks {
        pos: number(&row, 1),
        epoch: number(&row, 2),
        high_water: optional_number(&row, 3),
        numbering: numbering_of(row.get(4)),
        last_ts: row.get(5),
    };
    let gaps = sqlx::query(
        "SELECT from_seq, to_seq FROM gaps WHERE stream_id = ? AND epoch = ? ORDER BY from_seq",
    )
    .bind(id)
    .bind(marks.epoch.cast_signed())
    .fetch_all(&mut *connection)
    .await?;
    let snapshot = sqlx::query(
        "SELECT pos, sample_id, version_id, layout, numerics_rev, last_ts, state FROM snapshots \
         WHERE stream_id = ? ORDER BY pos DESC LIMIT 1",
    )
    .bind(id)
    .fetch_optional(&mut *connection)
    .await?;
    Ok(Some(StoredStream {
        stream: StreamRef {
            id,
            key: key.clone(),
        },
        marks,
        gaps: gaps
            .iter()
            .map(|row| (number(row, 0), number(row, 1)))
            .collect(),
        snapshot: snapshot.as_ref().map(|row| cells::snapshot(row, 0)),
        last_seen: row.get(6),
    }))
}

/// Readings of a stream behind a place, in commit order, which is position order.
pub async fn log_after(
    pool: &SqlitePool,
    stream: i64,
    place: Place,
    limit: u32,
) -> Result<Vec<LoggedReading>> {
    slice_after(&mut *pool.acquire().await?, stream, place, limit).await
}

async fn slice_after(
    connection: &mut SqliteConnection,
    stream: i64,
    place: Place,
    limit: u32,
) -> Result<Vec<LoggedReading>> {
    let rows = sqlx::query(
        "SELECT pos, id, ts, \"values\", substr(output, 1, 1) FROM samples WHERE stream_id = ? AND id > ? AND pos > ? ORDER BY id LIMIT ?",
    )
    .bind(stream)
    .bind(place.sample_id.cast_signed())
    .bind(place.pos.cast_signed())
    .bind(limit)
    .fetch_all(connection)
    .await?;
    Ok(rows.iter().map(logged).collect())
}

/// The first `n` folded readings behind a place. Kept ones come first: they are older than every sample that is left.
pub async fn calibration(
    pool: &SqlitePool,
    stream: i64,
    place: Place,
    n: u32,
) -> Result<Vec<LoggedReading>> {
    // One read transaction: retention moves readings from the one table to the other.
    let mut connection = pool.begin().await?;
    let kept = sqlx::query(
        "SELECT pos, 0, ts, \"values\" FROM calibrations WHERE stream_id = ? AND pos > ? ORDER BY pos LIMIT ?",
    )
    .bind(stream)
    .bind(place.pos.cast_signed())
    .bind(n)
    .fetch_all(&mut *connection)
    .await?;
    let mut readings: Vec<_> = kept.iter().map(kept_reading).collect();
    let mut place = rows::behind_kept(place, &readings);
    while readings.len() < n as usize {
        let slice = slice_after(&mut connection, stream, place, n).await?;
        let Some(last) = slice.last().map(|reading| reading.place) else {
            break;
        };
        place = last;
        rows::add_folded(&mut readings, slice, n);
    }
    Ok(readings)
}

/// The newest `n` folded readings of a stream, in the order of the log. See `rows::UNFOLDED` for the bytes.
pub async fn newest_folded(pool: &SqlitePool, stream: i64, n: u32) -> Result<Vec<LoggedReading>> {
    let rows = sqlx::query(
        "SELECT pos, id, ts, \"values\", substr(output, 1, 1) FROM samples WHERE stream_id = ? \
         AND substr(output, 1, 1) NOT IN (x'05', x'06') ORDER BY id DESC LIMIT ?",
    )
    .bind(stream)
    .bind(n)
    .fetch_all(pool)
    .await?;
    Ok(rows.iter().rev().map(logged).collect())
}

/// The first byte of the output tells enough; a fold reads many.
fn logged(row: &SqliteRow) -> LoggedReading {
    let first: &[u8] = row.get(4);
    LoggedReading {
        folded: first.iter().all(|byte| !rows::UNFOLDED.contains(byte)),
        ..kept_reading(row)
    }
}

fn kept_reading(row: &SqliteRow) -> LoggedReading {
    LoggedReading {
        place: place(row, 0),
        ts: row.get(2),
        values: from_le_bytes(row.get(3)),
        folded: true,
    }
}

/// Versions that were put in place on a stream, newest first.
pub async fn switches(pool: &SqlitePool, stream: i64, limit: u32) -> Result<Vec<StoredSwitch>> {
    let rows = sqlx::query(
        "SELECT version_id, reason, arm FROM stream_log WHERE stream_id = ? AND kind = ? ORDER BY pos DESC LIMIT ?",
    )
    .bind(stream)
    .bind(rows::log_kind::SWITCH)
    .bind(limit)
    .fetch_all(pool)
    .await?;
    let switch = |row: &SqliteRow| StoredSwitch {
        version_id: row.get(0),
        reason: row.get(1),
        arm: row.get(2),
    };
    Ok(rows.iter().map(switch).collect())
}

/// What is known of one number: the sample if it was taken, else the refusal that consumed it.
pub async fn find(pool: &SqlitePool, stream: i64, epoch: u64, seq: u64) -> Result<Option<Known>> {
    let wanted = (epoch.cast_signed(), seq.cast_signed());
    // One reader for all of it: who holds one and waits for another may wait for ever.
    let mut connection = pool.acquire().await?;
    if let Some(id) = numbers::locate(&mut connection, stream, wanted).await? {
        let mut query = QueryBuilder::<Sqlite>::new(SAMPLE_COLUMNS);
        query.push("WHERE s.id = ").push_bind(id);
        let found = query.build().fetch_optional(&mut *connection).await?;
        if let Some(row) = found {
            return Ok(Some(Known::Sample(Box::new(stored_sample(&row)?))));
        }
    }
    let row = sqlx::query(
        "SELECT code, message, at FROM refusals WHERE stream_id = ? AND epoch = ? AND seq = ? AND consumed ORDER BY id LIMIT 1",
    )
    .bind(stream)
    .bind(epoch.cast_signed())
    .bind(seq.cast_signed())
    .fetch_optional(&mut *connection)
    .await?;
    Ok(row.map(|row| {
        Known::Refusal(RefusalRow {
            epoch,
            seq: Some(seq),
            code: nack_code_of(row.get(0)),
            message: row.get(1),
            consumed: true,
            at: row.get(2),
        })
    }))
}

/// A page of samples.
pub async fn samples(pool: &SqlitePool, wanted: &SampleQuery) -> Result<Vec<StoredSample>> {
    let mut query = QueryBuilder::<Sqlite>::new(SAMPLE_COLUMNS);
    push_where(&mut query, wanted);
    query.push(if wanted.newest_first {
        " ORDER BY s.id DESC LIMIT "
    } else {
        " ORDER BY s.id LIMIT "
    });
    query.push_bind(wanted.limit);
    query
        .build()
        .fetch_all(pool)
        .await?
        .iter()
        .map(stored_sample)
        .collect()
}

/// How many samples match, counted up to `limit`.
pub async fn count_samples(pool: &SqlitePool, wanted: &SampleQuery) -> Result<u32> {
    let mut query = QueryBuilder::<Sqlite>::new(
        "SELECT count(*) FROM (SELECT 1 FROM samples s JOIN streams t ON t.id = s.stream_id ",
    );
    push_where(&mut query, wanted);
    query.push(" LIMIT ").push_bind(wanted.limit).push(")");
    Ok(query.build_query_scalar().fetch_one(pool).await?)
}

fn push_where(query: &mut QueryBuilder<Sqlite>, wanted: &SampleQuery) {
    query.push("WHERE 1");
    if let (Some(endpoint), Some(device)) = (&wanted.endpoint, &wanted.device) {
        // One stream is found by its index in the order of ids; several would have to be sorted.
        let one = if wanted.live_only { "=" } else { "IN" };
        query
            .push(format_args!(
                " AND s.stream_id {one} (SELECT id FROM streams WHERE endpoint = "
            ))
            .push_bind(endpoint.clone())
            .push(" AND device = ")
            .push_bind(device.clone());
        if wanted.live_only {
            query.push(" AND import = 0");
        }
        query.push(")");
    } else if let Some(endpoint) = &wanted.endpoint {
        // The plus keeps the planner from reading and sorting all streams of an endpoint for a page of them.
        query
            .push(" AND +t.endpoint = ")
            .push_bind(endpoint.clone());
    } else if let Some(device) = &wanted.device {
        query.push(" AND t.device = ").push_bind(device.clone());
    }
    if wanted.live_only {
        query.push(" AND t.import = 0");
    }
    if let Some(epoch) = wanted.epoch {
        query.push(" AND s.epoch = ").push_bind(epoch.cast_signed());
    }
    if let Some(from) = wanted.from {
        query.push(" AND s.ts >= ").push_bind(from);
    }
    if let Some(to) = wanted.to {
        query.push(" AND s.ts < ").push_bind(to);
    }
    if let Some(cursor) = wanted.cursor {
        query
            .push(if wanted.newest_first {
                " AND s.id < "
            } else {
                " AND s.id > "
            })
            .push_bind(cursor.cast_signed());
    }
    if let Some(until) = wanted.until {
        query.push(" AND s.id <= ").push_bind(until.cast_signed());
    }
}

fn stored_sample(row: &SqliteRow) -> Result<StoredSample> {
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
        output: decode_output(row.get(8))
            .map_err(|error| StoreError::Corrupt(error.to_string()))?,
        model: row.get(9),
        version: row.get(10),
        arm: row.get(14),
        latency_us: row.get(11),
        flags: Flags(row.get(12)),
    })
}

/// A page of streams with their newest sample.
pub async fn devices(
    pool: &SqlitePool,
    endpoint: Option<&str>,
    cursor: Option<&StreamKey>,
    limit: u32,
) -> Result<Vec<DeviceRow>> {
    let mut query = QueryBuilder::<Sqlite>::new(
        "SELECT id, endpoint, device, import, epoch, high_water, samples, last_seen FROM streams WHERE import = 0",
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
        .push_bind(limit);
    let rows = query.build().fetch_all(pool).await?;
    let mut devices = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut newest = QueryBuilder::<Sqlite>::new(SAMPLE_COLUMNS);
        newest
            .push("WHERE s.stream_id = ")
            .push_bind(row.get::<i64, _>(0))
            .push(" ORDER BY s.id DESC LIMIT 1");
        let last = newest.build().fetch_optional(pool).await?;
        devices.push(DeviceRow {
            key: key(row, 1)?,
            epoch: number(row, 4),
            high_water: optional_number(row, 5),
            samples: number(row, 6),
            last_seen: row.get(7),
            last: last.as_ref().map(stored_sample).transpose()?,
        });
    }
    Ok(devices)
}
