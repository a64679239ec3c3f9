//! Roll-ups in PostgreSQL: read what is there, merge, write, a batch at a time.

use super::commit::{begin, column, commit};
use super::read::{Readers, number};
use crate::store::Result;
use crate::store::cells::{self, BUCKET};
use crate::store::rollup::{Bucket, Span, to_bytes};
use crate::store::rows::signed;
use crate::store::upkeep::{Moves, RollupQuery};
use crate::stream::now_ms;
use sqlx::postgres::PgConnection;
use std::collections::HashMap;

/// The newest sample id that a consumer has taken in.
pub async fn consumed(readers: &Readers, consumer: &str) -> Result<u64> {
    let mut reader = readers.take().await?;
    let row = sqlx::query("SELECT sample_id FROM consumers WHERE name = $1")
        .bind(consumer)
        .fetch_optional(&mut *reader)
        .await?;
    Ok(reader.done(row.map_or(0, |row| number(&row, 0))))
}

/// Adds to roll-ups and moves the consumer's offset, in one transaction of the server with this token.
pub async fn add(
    readers: &Readers,
    fence: i64,
    consumer: &str,
    moves: Moves,
    buckets: &[Bucket],
) -> Result<()> {
    let mut reader = readers.take().await?;
    begin(&mut reader, fence).await?;
    let found = sqlx::query("SELECT sample_id FROM consumers WHERE name = $1 FOR UPDATE")
        .bind(consumer)
        .fetch_optional(&mut *reader)
        .await?;
    if !moves.check(found.map_or(0, |row| number(&row, 0)), consumer)? {
        commit(&mut reader).await?;
        reader.done(());
        return Ok(());
    }
    let merged = merge_stored(&mut reader, buckets).await?;
    put(&mut reader, &merged).await?;
    sqlx::query(
        "INSERT INTO consumers (name, sample_id) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET sample_id = EXCLUDED.sample_id",
    )
    .bind(consumer)
    .bind(signed(moves.until))
    .execute(&mut *reader)
    .await?;
    commit(&mut reader).await?;
    reader.done(());
    Ok(())
}

type Key = (i64, i64, i64);

fn key(bucket: &Bucket) -> Key {
    (bucket.stream, bucket.span.seconds(), bucket.start)
}

async fn merge_stored(connection: &mut PgConnection, buckets: &[Bucket]) -> Result<Vec<Bucket>> {
    let text = format!(
        "SELECT {BUCKET} FROM rollups r JOIN unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS k(stream_id, span_s, start) \
         ON r.stream_id = k.stream_id AND r.span_s = k.span_s AND r.start = k.start"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(text))
        .bind(column(buckets, |bucket| bucket.stream))
        .bind(column(buckets, |bucket| bucket.span.seconds()))
        .bind(column(buckets, |bucket| bucket.start))
        .fetch_all(connection)
        .await?;
    let stored = rows.iter().map(cells::bucket);
    let mut before: HashMap<Key, Bucket> = stored.map(|bucket| (key(&bucket), bucket)).collect();
    let merged = buckets.iter().map(|bucket| {
        let mut merged = bucket.clone();
        if let Some(before) = before.remove(&key(bucket)) {
            merged.merge(&before);
        }
        merged
    });
    Ok(merged.collect())
}

async fn put(connection: &mut PgConnection, buckets: &[Bucket]) -> Result<()> {
    sqlx::query(
        "INSERT INTO rollups (stream_id, span_s, start, count, scored, anomalies, failed, score, features, at) \
         SELECT *, $10 FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], \
         $8::bytea[], $9::bytea[]) \
         ON CONFLICT (stream_id, span_s, start) DO UPDATE SET count = EXCLUDED.count, scored = EXCLUDED.scored, \
         anomalies = EXCLUDED.anomalies, failed = EXCLUDED.failed, score = EXCLUDED.score, features = EXCLUDED.features, at = EXCLUDED.at",
    )
    .bind(column(buckets, |bucket| bucket.stream))
    .bind(column(buckets, |bucket| bucket.span.seconds()))
    .bind(column(buckets, |bucket| bucket.start))
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

/// Roll-ups of one stream, oldest first.
pub async fn read(readers: &Readers, wanted: &RollupQuery) -> Result<Vec<Bucket>> {
    let mut reader = readers.take().await?;
    let text = format!(
        "SELECT {BUCKET} FROM rollups r \
         WHERE stream_id = (SELECT id FROM streams WHERE endpoint = $1 AND device = $2 AND import = $3) \
         AND span_s = $4 AND start >= $5 AND start < $6 ORDER BY start LIMIT $7"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(text))
        .bind(wanted.stream.endpoint.as_str())
        .bind(wanted.stream.device.as_str())
        .bind(signed(wanted.stream.import))
        .bind(wanted.span.seconds())
        .bind(wanted.from.unwrap_or(i64::MIN))
        .bind(wanted.to.unwrap_or(i64::MAX))
        .bind(i64::from(wanted.limit))
        .fetch_all(&mut *reader)
        .await?;
    Ok(reader.done(rows.iter().map(cells::bucket).collect()))
}

/// Deletes roll-ups that were last added to before `before`.
pub async fn expire(readers: &Readers, span: Span, before: i64) -> Result<u64> {
    let mut reader = readers.take().await?;
    let done = sqlx::query("DELETE FROM rollups WHERE span_s = $1 AND at < $2")
        .bind(span.seconds())
        .bind(before)
        .execute(&mut *reader)
        .await?;
    Ok(reader.done(done.rows_affected()))
}
