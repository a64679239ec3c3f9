//! One batch, one transaction, few round trips: fence, streams, samples, and what is rare.

use super::copy::Rows;
use super::extras;
use super::parts::{self, Part, Parts};
use crate::store::rows::{Move, gather_moves, numbering_code, signed};
use crate::store::{Result, StoreError};
use crate::stream::{Row, SampleRow, What, now_ms};
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};
use tidegate_protocol::codec::encode_output;

/// Holds the token's row until the end: a server that takes over waits for this transaction, or this one sees its token.
const FENCE: &str = "SELECT fence FROM log FOR SHARE";
const BEGIN: &str = "BEGIN; SELECT fence FROM log FOR SHARE";

const NEW_STREAMS: &str = "INSERT INTO streams \
     (id, pos, epoch, high_water, mode, last_ts, samples, endpoint, device, import, last_seen, created, last_part) \
     SELECT id, pos, epoch, high_water, mode, last_ts, samples, endpoint, device, import, $11, $11, \
     CASE WHEN samples > 0 THEN $12 ELSE 0 END \
     FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::int[], $6::bigint[], $7::bigint[], \
     $8::text[], $9::text[], $10::bigint[]) \
     AS v(id, pos, epoch, high_water, mode, last_ts, samples, endpoint, device, import) ON CONFLICT DO NOTHING";

const MOVED_STREAMS: &str = "UPDATE streams AS s SET pos = v.pos, epoch = v.epoch, high_water = v.high_water, mode = v.mode, \
     last_ts = v.last_ts, samples = s.samples + v.samples, \
     last_seen = CASE WHEN v.heard THEN $10 ELSE s.last_seen END, \
     last_part = CASE WHEN v.samples > 0 THEN $11 ELSE s.last_part END \
     FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::int[], $6::bigint[], $7::bigint[], $8::bigint[], \
     $9::bool[]) \
     AS v(id, pos, epoch, high_water, mode, last_ts, samples, expected, heard) WHERE s.id = v.id AND s.pos = v.expected";

/// In the order that [`encode`] writes them.
const COLUMNS: &str = "id, stream_id, pos, epoch, seq, ts, received_at, version_id, latency_us, part, flags, numerics_rev, \
     \"values\", output, arm";
const COLUMN_COUNT: i16 = 15;
/// Bytes of a row beside its values: fields, their lengths and a short output.
const ROW_BYTES: usize = 160;

/// Writes everything but the COMMIT. Gives the part that was begun.
pub async fn write(
    connection: &mut PgConnection,
    rows: &[&Row],
    fence: i64,
    parts: &Parts,
) -> Result<Option<Part>> {
    let moves = gather_moves(rows)?;
    let samples: Vec<_> = rows.iter().filter_map(|row| sample_of(row)).collect();
    begin(connection, fence).await?;
    let at = now_ms();
    let (mut part, mut begun) = (parts.newest(), None);
    if let Some((first_id, _)) = samples.first() {
        let (due, is_new) = parts.due(at, *first_id);
        if is_new {
            parts::begin(connection, due).await?;
            begun = Some(due);
        }
        part = due.part;
    }
    let (new, known): (Vec<_>, Vec<_>) = moves.iter().partition(|(_, step)| step.expected == 0);
    move_streams(connection, &known, at, part).await?;
    insert_streams(connection, &new, rows, at, part).await?;
    if !samples.is_empty() {
        insert_samples(connection, &samples, part).await?;
    }
    if begun.is_some() {
        parts::introduce(connection, part).await?;
    }
    extras::write(connection, rows, at).await?;
    Ok(begun)
}

/// Makes the transaction last. An error leaves open whether it does.
pub async fn commit(connection: &mut PgConnection) -> Result<()> {
    sqlx::raw_sql("COMMIT").execute(connection).await?;
    Ok(())
}

/// Takes everything back; also where nothing was begun.
pub async fn roll_back(connection: &mut PgConnection) -> Result<()> {
    sqlx::raw_sql("ROLLBACK").execute(connection).await?;
    Ok(())
}

fn sample_of<'a>(row: &&'a Row) -> Option<(u64, &'a SampleRow)> {
    match &row.what {
        What::Sample(sample) => Some((row.id, sample)),
        _ => None,
    }
}

/// Begins a transaction of the server whose token this is.
pub async fn begin(connection: &mut PgConnection, fence: i64) -> Result<()> {
    check(sqlx::raw_sql(BEGIN).fetch_one(connection).await?, fence)
}

/// Ends the transaction of a server whose token is not in force any more.
pub async fn check_fence(connection: &mut PgConnection, fence: i64) -> Result<()> {
    check(sqlx::raw_sql(FENCE).fetch_one(connection).await?, fence)
}

fn check(row: PgRow, fence: i64) -> Result<()> {
    if row.get::<i64, _>(0) == fence {
        Ok(())
    } else {
        Err(StoreError::Fenced)
    }
}

/// Values of a column, for `unnest`.
pub fn column<T, V>(rows: &[T], value: impl Fn(&T) -> V) -> Vec<V> {
    rows.iter().map(value).collect()
}

type Moves<'a> = [(&'a i64, &'a Move)];

/// Compare-and-set of every known stream; the affected rows tell how many stood where expected.
async fn move_streams(
    connection: &mut PgConnection,
    moves: &Moves<'_>,
    at: i64,
    part: i32,
) -> Result<()> {
    if moves.is_empty() {
        return Ok(());
    }
    let query = bind_marks(sqlx::query(MOVED_STREAMS), moves)
        .bind(column(moves, |(_, step)| signed(step.expected)))
        .bind(column(moves, |(_, step)| step.heard))
        .bind(at)
        .bind(part);
    all_moved(query.execute(connection).await?.rows_affected(), moves)
}

/// Streams that the store does not know yet: their first row is at position 1.
async fn insert_streams(
    connection: &mut PgConnection,
    moves: &Moves<'_>,
    rows: &[&Row],
    at: i64,
    part: i32,
) -> Result<()> {
    if moves.is_empty() {
        return Ok(());
    }
    let key = |step: &Move| &rows[step.newest].stream.key;
    let query = bind_marks(sqlx::query(NEW_STREAMS), moves)
        .bind(column(moves, |(_, step)| key(step).endpoint.to_string()))
        .bind(column(moves, |(_, step)| key(step).device.to_string()))
        .bind(column(moves, |(_, step)| signed(key(step).import)))
        .bind(at)
        .bind(part);
    all_moved(query.execute(connection).await?.rows_affected(), moves)
}

type Query = sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn bind_marks(query: Query, moves: &Moves<'_>) -> Query {
    query
        .bind(column(moves, |(id, _)| **id))
        .bind(column(moves, |(_, step)| signed(step.after.pos)))
        .bind(column(moves, |(_, step)| signed(step.after.epoch)))
        .bind(column(moves, |(_, step)| step.after.high_water.map(signed)))
        .bind(column(moves, |(_, step)| {
            numbering_code(step.after.numbering)
        }))
        .bind(column(moves, |(_, step)| step.after.last_ts))
        .bind(column(moves, |(_, step)| step.samples))
}

fn all_moved(affected: u64, moves: &Moves<'_>) -> Result<()> {
    if affected == moves.len() as u64 {
        Ok(())
    } else {
        Err(StoreError::Moved(column(moves, |(id, _)| **id)))
    }
}

/// Straight into the partition: nothing is routed.
async fn insert_samples(
    connection: &mut PgConnection,
    samples: &[(u64, &SampleRow)],
    part: i32,
) -> Result<()> {
    let statement = format!("COPY samples_p{part} ({COLUMNS}) FROM STDIN (FORMAT BINARY)");
    let mut copy = connection.copy_in_raw(&statement).await?;
    copy.send(encode(samples, part)).await?;
    copy.finish().await?;
    Ok(())
}

fn encode(samples: &[(u64, &SampleRow)], part: i32) -> Vec<u8> {
    let values = samples.first().map_or(0, |(_, sample)| sample.values.len());
    let mut rows = Rows::new(COLUMN_COUNT, samples.len() * (ROW_BYTES + 4 * values));
    for (id, sample) in samples {
        rows.row()
            .bigint(signed(*id))
            .bigint(sample.stream.id)
            .bigint(signed(sample.pos))
            .bigint(signed(sample.epoch))
            .bigint(signed(sample.seq))
            .bigint(sample.ts)
            .bigint(sample.received_at)
            .bigint(sample.version.id)
            .bigint(sample.latency_us.into())
            .integer(part)
            .integer(sample.flags.0.cast_signed())
            .integer(sample.numerics_rev.cast_signed())
            .floats(&sample.values)
            .bytes(|bytes| encode_output(&sample.output, bytes))
            .maybe_text(sample.arm.as_ref().map(|arm| &*arm.label));
    }
    rows.finish()
}
