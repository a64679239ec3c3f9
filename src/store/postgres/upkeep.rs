//! PostgreSQL's upkeep: retention by dropping parts, roll-ups merged in bulk.
//!
//! Works on a reading connection: parts that are over change no more, and nobody else writes roll-ups, so commits go on meanwhile.
//! Each transaction checks the token as a commit does. What a fold needs of a dropped part moves to part 0, which is never dropped.

use super::PostgresStore;
use super::commit::column;
use super::read;
use crate::store::rollup::{Bucket, Span, from_bytes, to_bytes};
use crate::store::rows::{log_kind, signed};
use crate::store::upkeep::{OldSlice, RollupQuery, StoredRollup, Upkeep, Usage};
use crate::store::{Result, StoreError};
use crate::stream::{Flags, now_ms};
use futures_util::future::BoxFuture;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row};
use std::collections::HashMap;

/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;

/// The part with what folds need of parts that are gone; its partition is made with the schema.
pub const KEPT_PART: i32 = 0;

/// Longest that dropping a part waits for readers, and holds up new ones: then everything is taken back and tried another time.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '5s'";

impl Upkeep for PostgresStore {
    fn usage(&self) -> BoxFuture<'_, Result<Usage>> {
        Box::pin(read::in_time(async {
            let mut reader = self.readers.take().await?;
            let row = sqlx::query("SELECT pg_database_size(current_database())")
                .fetch_one(&mut *reader)
                .await?;
            Ok(reader.done(Usage {
                bytes: read::number(&row, 0),
                free_bytes: None,
            }))
        }))
    }

    fn first_kept(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(read::in_time(async {
            let mut reader = self.readers.take().await?;
            let row = sqlx::query("SELECT first_kept FROM log")
                .fetch_one(&mut *reader)
                .await?;
            Ok(reader.done(read::number(&row, 0)))
        }))
    }

    fn oldest(&self, _rows: u32) -> BoxFuture<'_, Result<Option<OldSlice>>> {
        Box::pin(read::in_time(async {
            let mut reader = self.readers.take().await?;
            // The newest part is still being written.
            let row = sqlx::query(
                "SELECT part, day, first_id, next_id FROM \
                 (SELECT part, day, first_id, lead(first_id) OVER (ORDER BY part) AS next_id FROM sample_parts WHERE part <> $1) p \
                 WHERE next_id IS NOT NULL ORDER BY part LIMIT 1",
            )
            .bind(KEPT_PART)
            .fetch_optional(&mut *reader)
            .await?;
            Ok(reader.done(row.map(|row| OldSlice {
                from: read::number(&row, 2),
                until: read::number(&row, 3),
                newest_arrival: (i64::from(row.get::<i32, _>(1)) + 1) * DAY_MS - 1,
                part: Some(row.get(0)),
            })))
        }))
    }

    fn retire<'a>(&'a self, slice: &'a OldSlice, calibration: u32) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let part = slice.part.unwrap_or(KEPT_PART);
            if part == KEPT_PART {
                return Ok(0);
            }
            let fence = self.fence().await;
            let mut reader = self.readers.take().await?;
            begin(&mut reader, fence).await?;
            choose(&mut reader, part).await?;
            keep_calibrations(&mut reader, part, calibration).await?;
            let gone = keep_tails(&mut reader, part).await?;
            prune(&mut reader, slice.until).await?;
            drop_part(&mut reader, part, slice.until).await?;
            sqlx::raw_sql("COMMIT").execute(&mut *reader).await?;
            self.parts.forget(part);
            Ok(reader.done(gone))
        })
    }

    fn shrink(&self) -> BoxFuture<'_, Result<()>> {
        // A dropped part gives its files back by itself.
        Box::pin(async { Ok(()) })
    }

    fn consumed<'a>(&'a self, consumer: &'a str) -> BoxFuture<'a, Result<u64>> {
        Box::pin(read::in_time(async move {
            let mut reader = self.readers.take().await?;
            let row = sqlx::query("SELECT sample_id FROM consumers WHERE name = $1")
                .bind(consumer)
                .fetch_optional(&mut *reader)
                .await?;
            Ok(reader.done(row.map_or(0, |row| read::number(&row, 0))))
        }))
    }

    fn roll_up<'a>(
        &'a self,
        consumer: &'a str,
        until: u64,
        buckets: &'a [Bucket],
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(read::in_time(async move {
            let fence = self.fence().await;
            let mut reader = self.readers.take().await?;
            begin(&mut reader, fence).await?;
            let merged = merge_stored(&mut reader, buckets).await?;
            upsert(&mut reader, &merged).await?;
            sqlx::query(
                "INSERT INTO consumers (name, sample_id) VALUES ($1, $2) \
                 ON CONFLICT (name) DO UPDATE SET sample_id = excluded.sample_id",
            )
            .bind(consumer)
            .bind(signed(until))
            .execute(&mut *reader)
            .await?;
            sqlx::raw_sql("COMMIT").execute(&mut *reader).await?;
            reader.done(Ok(()))
        }))
    }

    fn rollups<'a>(&'a self, query: &'a RollupQuery) -> BoxFuture<'a, Result<Vec<StoredRollup>>> {
        Box::pin(read::in_time(async move {
            let mut reader = self.readers.take().await?;
            let rows = sqlx::query(
                "SELECT start, count, anomalies, failed, score, features FROM rollups \
                 WHERE stream_id = (SELECT id FROM streams WHERE endpoint = $1 AND device = $2 AND import = 0) \
                 AND span_s = $3 AND start >= $4 AND start < $5 ORDER BY start LIMIT $6",
            )
            .bind(&query.endpoint)
            .bind(&query.device)
            .bind(seconds(query.span))
            .bind(query.from.unwrap_or(i64::MIN))
            .bind(query.to.unwrap_or(i64::MAX))
            .bind(i64::from(query.limit))
            .fetch_all(&mut *reader)
            .await?;
            Ok(reader.done(rows.iter().map(|row| stored(row, 0)).collect()))
        }))
    }

    fn expire_rollups(&self, span: Span, before: i64) -> BoxFuture<'_, Result<u64>> {
        Box::pin(read::in_time(async move {
            let fence = self.fence().await;
            let mut reader = self.readers.take().await?;
            begin(&mut reader, fence).await?;
            let done = sqlx::query("DELETE FROM rollups WHERE span_s = $1 AND at < $2")
                .bind(seconds(span))
                .bind(before)
                .execute(&mut *reader)
                .await?;
            sqlx::raw_sql("COMMIT").execute(&mut *reader).await?;
            Ok(reader.done(done.rows_affected()))
        }))
    }
}

fn seconds(span: Span) -> i32 {
    i32::try_from(span.seconds()).unwrap_or(i32::MAX)
}

/// A transaction that a server which took over waits for, or that sees its token.
async fn begin(connection: &mut PgConnection, fence: i64) -> Result<()> {
    let row = sqlx::raw_sql("BEGIN; SELECT fence FROM log FOR SHARE")
        .fetch_one(connection)
        .await?;
    if row.get::<i64, _>(0) == fence {
        Ok(())
    } else {
        Err(StoreError::Fenced)
    }
}

/// Which streams have samples in the part, and behind which position theirs stay: their last snapshot in it.
async fn choose(connection: &mut PgConnection, part: i32) -> Result<()> {
    let text = format!(
        "CREATE TEMP TABLE retiring ON COMMIT DROP AS \
         SELECT m.stream_id, coalesce(n.pos, 0) AS keep_after, coalesce(l.pos, 0) AS reset \
         FROM (SELECT stream_id, max(pos) AS last FROM samples_p{part} GROUP BY stream_id) m \
         LEFT JOIN LATERAL (SELECT max(pos) AS pos FROM snapshots WHERE stream_id = m.stream_id AND pos <= m.last) n ON true \
         LEFT JOIN LATERAL (SELECT max(pos) AS pos FROM stream_log WHERE stream_id = m.stream_id AND kind = {} AND pos <= n.pos) l ON true; \
         CREATE INDEX ON retiring (stream_id); ANALYZE retiring",
        log_kind::RESET
    );
    sqlx::raw_sql(AssertSqlSafe(text))
        .execute(connection)
        .await?;
    Ok(())
}

/// Copies the first `most` folded readings since a stream's last reset out of what is about to go.
async fn keep_calibrations(connection: &mut PgConnection, part: i32, most: u32) -> Result<()> {
    sqlx::query("DELETE FROM calibrations c USING retiring r WHERE c.stream_id = r.stream_id AND c.pos <= r.reset")
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "INSERT INTO calibrations (stream_id, pos, ts, \"values\") \
         SELECT stream_id, pos, ts, \"values\" FROM ( \
           SELECT s.stream_id, s.pos, s.ts, s.\"values\", c.had + row_number() OVER (PARTITION BY s.stream_id ORDER BY s.pos) AS place \
           FROM retiring r \
           CROSS JOIN LATERAL (SELECT count(*) AS had, coalesce(max(pos), 0) AS newest FROM calibrations WHERE stream_id = r.stream_id) c \
           JOIN samples s ON s.stream_id = r.stream_id AND s.part IN ($1, $2) \
           WHERE c.had < $3 AND s.pos > greatest(r.reset, c.newest) AND s.pos <= r.keep_after AND s.flags & $4 = 0) found \
         WHERE place <= $3 ON CONFLICT DO NOTHING",
    )
    .bind(KEPT_PART)
    .bind(part)
    .bind(i64::from(most))
    .bind(Flags::LATE.0.cast_signed())
    .execute(connection)
    .await?;
    Ok(())
}

/// Moves what folds still need to the part that is never dropped; returns how many samples are not kept.
async fn keep_tails(connection: &mut PgConnection, part: i32) -> Result<u64> {
    let columns = "id, stream_id, pos, epoch, seq, ts, received_at, version_id, latency_us, flags, numerics_rev, \"values\", output, arm";
    let from_part = columns
        .split(", ")
        .map(|column| format!("s.{column}"))
        .collect::<Vec<_>>()
        .join(", ");
    let all: i64 = sqlx::query_scalar(AssertSqlSafe(format!(
        "SELECT count(*) FROM samples_p{part}"
    )))
    .fetch_one(&mut *connection)
    .await?;
    let older = sqlx::query(
        "DELETE FROM samples_p0 s USING retiring r WHERE s.stream_id = r.stream_id AND s.pos <= r.keep_after",
    )
    .execute(&mut *connection)
    .await?;
    let kept = sqlx::query(AssertSqlSafe(format!(
        "INSERT INTO samples_p0 (part, {columns}) SELECT {KEPT_PART}, {from_part} \
         FROM samples_p{part} s JOIN retiring r ON r.stream_id = s.stream_id WHERE s.pos > r.keep_after"
    )))
    .execute(&mut *connection)
    .await?;
    sqlx::query("UPDATE streams SET last_part = $1 WHERE last_part = $2")
        .bind(KEPT_PART)
        .bind(part)
        .execute(connection)
        .await?;
    Ok((all.cast_unsigned() + older.rows_affected()).saturating_sub(kept.rows_affected()))
}

async fn prune(connection: &mut PgConnection, until: u64) -> Result<()> {
    for text in [
        "DELETE FROM snapshots t USING retiring r WHERE t.stream_id = r.stream_id AND t.pos < r.keep_after",
        "DELETE FROM refusals t USING retiring r WHERE t.stream_id = r.stream_id AND t.pos <= r.keep_after",
    ] {
        sqlx::query(text).execute(&mut *connection).await?;
    }
    sqlx::query("DELETE FROM shadow_predictions WHERE sample_id < $1")
        .bind(signed(until))
        .execute(connection)
        .await?;
    Ok(())
}

/// Last, because from here on readers of samples wait.
async fn drop_part(connection: &mut PgConnection, part: i32, until: u64) -> Result<()> {
    sqlx::query(LOCK_TIMEOUT).execute(&mut *connection).await?;
    sqlx::query(AssertSqlSafe(format!("DROP TABLE samples_p{part}")))
        .execute(&mut *connection)
        .await?;
    sqlx::query("DELETE FROM sample_parts WHERE part = $1")
        .bind(part)
        .execute(&mut *connection)
        .await?;
    sqlx::query("UPDATE log SET first_kept = greatest(first_kept, $1)")
        .bind(signed(until))
        .execute(connection)
        .await?;
    Ok(())
}

type Keys = (Vec<i64>, Vec<i32>, Vec<i64>);

fn keys(buckets: &[Bucket]) -> Keys {
    (
        column(buckets, |bucket| bucket.stream),
        column(buckets, |bucket| seconds(bucket.span)),
        column(buckets, |bucket| bucket.start),
    )
}

/// The buckets with what is stored of them already.
async fn merge_stored(connection: &mut PgConnection, buckets: &[Bucket]) -> Result<Vec<Bucket>> {
    let (streams, spans, starts) = keys(buckets);
    let rows = sqlx::query(
        "SELECT stream_id, span_s, start, count, anomalies, failed, score, features FROM rollups \
         JOIN unnest($1::bigint[], $2::int[], $3::bigint[]) AS k(stream_id, span_s, start) USING (stream_id, span_s, start)",
    )
    .bind(streams)
    .bind(spans)
    .bind(starts)
    .fetch_all(connection)
    .await?;
    let found: HashMap<(i64, i32, i64), &PgRow> = rows
        .iter()
        .map(|row| ((row.get(0), row.get(1), row.get(2)), row))
        .collect();
    let merged = buckets.iter().map(|bucket| {
        let mut bucket = bucket.clone();
        let key = (bucket.stream, seconds(bucket.span), bucket.start);
        if let Some(row) = found.get(&key) {
            bucket.merge(&stored(row, 2).into_bucket(bucket.stream, bucket.span));
        }
        bucket
    });
    Ok(merged.collect())
}

async fn upsert(connection: &mut PgConnection, buckets: &[Bucket]) -> Result<()> {
    let (streams, spans, starts) = keys(buckets);
    sqlx::query(
        "INSERT INTO rollups (stream_id, span_s, start, count, scored, anomalies, failed, score, features, at) \
         SELECT *, $10 FROM unnest($1::bigint[], $2::int[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bytea[], $9::bytea[]) \
         ON CONFLICT (stream_id, span_s, start) DO UPDATE SET count = excluded.count, scored = excluded.scored, \
         anomalies = excluded.anomalies, failed = excluded.failed, score = excluded.score, features = excluded.features, at = excluded.at",
    )
    .bind(streams)
    .bind(spans)
    .bind(starts)
    .bind(column(buckets, |bucket| signed(bucket.count)))
    .bind(column(buckets, |bucket| signed(bucket.score.count)))
    .bind(column(buckets, |bucket| signed(bucket.anomalies)))
    .bind(column(buckets, |bucket| signed(bucket.failed)))
    .bind(column(buckets, |bucket| to_bytes(&[bucket.score])))
    .bind(column(buckets, |bucket| to_bytes(&bucket.features)))
    .bind(now_ms())
    .execute(connection)
    .await?;
    Ok(())
}

/// A roll-up from the columns that begin with its start.
fn stored(row: &PgRow, first: usize) -> StoredRollup {
    StoredRollup {
        start: row.get(first),
        count: read::number(row, first + 1),
        anomalies: read::number(row, first + 2),
        failed: read::number(row, first + 3),
        score: from_bytes(row.get(first + 4))
            .first()
            .copied()
            .unwrap_or_default(),
        features: from_bytes(row.get(first + 5)),
    }
}
