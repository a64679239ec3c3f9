//! SQLite's upkeep: size by pages, retention in id slices, roll-ups by read, merge and replace.
//!
//! Every write takes the writer's one connection and holds it for a slice; commits take turns with it.

use super::{SqliteStore, closed, read, signed, transaction};
use crate::store::Result;
use crate::store::cells::{self, BUCKET};
use crate::store::rollup::{Bucket, Span, to_bytes};
use crate::store::upkeep::{Moves, OldSlice, RollupQuery, Upkeep, Usage};
use crate::stream::now_ms;
use futures_util::future::BoxFuture;
use sqlx::Row;
use sqlx::sqlite::SqliteConnection;

/// Pages given back to the disk in one go, 4 KiB each.
const SHRINK_PAGES: u32 = 2_000;

impl Upkeep for SqliteStore {
    fn usage(&self) -> BoxFuture<'_, Result<Usage>> {
        Box::pin(async {
            let row = sqlx::query(
                "SELECT (p.page_count - f.freelist_count) * s.page_size \
                 FROM pragma_page_count p, pragma_freelist_count f, pragma_page_size s",
            )
            .fetch_one(&self.readers)
            .await?;
            Ok(Usage {
                bytes: read::number(&row, 0),
                free_bytes: crate::store::disk::free_bytes(&self.file),
            })
        })
    }

    fn first_kept(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async {
            let row = sqlx::query("SELECT first_kept FROM log")
                .fetch_one(&self.readers)
                .await?;
            Ok(read::number(&row, 0))
        })
    }

    fn oldest(&self, rows: u32) -> BoxFuture<'_, Result<Option<OldSlice>>> {
        Box::pin(async move {
            let row = sqlx::query(
                "SELECT min(id), max(id), max(received_at) FROM (SELECT id, received_at FROM samples \
                 WHERE id >= (SELECT first_kept FROM log) ORDER BY id LIMIT ?)",
            )
            .bind(rows)
            .fetch_one(&self.readers)
            .await?;
            let Some(from) = row.get::<Option<i64>, _>(0) else {
                return Ok(None);
            };
            Ok(Some(OldSlice {
                from: from.cast_unsigned(),
                until: read::number(&row, 1) + 1,
                newest_arrival: row.get(2),
                day: None,
            }))
        })
    }

    fn retire<'a>(&'a self, slice: &'a OldSlice, calibration: u32) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let mut writer = self.writer.lock().await;
            let connection = writer.as_mut().ok_or_else(closed)?;
            transaction::begin(connection).await?;
            let gone = cut(connection, slice, calibration).await;
            transaction::end(connection, gone).await
        })
    }

    fn expire_notes(&self, before: i64, most: u32) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            let mut writer = self.writer.lock().await;
            let connection = writer.as_mut().ok_or_else(closed)?;
            let mut gone = 0;
            for text in [
                "DELETE FROM refusals WHERE id IN (SELECT id FROM refusals WHERE at < ? ORDER BY id LIMIT ?)",
                "DELETE FROM feedback WHERE id IN (SELECT id FROM feedback WHERE at < ? ORDER BY id LIMIT ?)",
            ] {
                let query = sqlx::query(text).bind(before).bind(most);
                gone += query.execute(&mut *connection).await?.rows_affected();
            }
            Ok(gone)
        })
    }

    fn shrink(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            let mut writer = self.writer.lock().await;
            let connection = writer.as_mut().ok_or_else(closed)?;
            let pragma = format!("PRAGMA incremental_vacuum({SHRINK_PAGES})");
            // A row a page: all have to be fetched for the pages to go.
            sqlx::query(sqlx::AssertSqlSafe(pragma))
                .fetch_all(connection)
                .await?;
            Ok(())
        })
    }

    fn consumed<'a>(&'a self, consumer: &'a str) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let row = sqlx::query("SELECT sample_id FROM consumers WHERE name = ?")
                .bind(consumer)
                .fetch_optional(&self.readers)
                .await?;
            Ok(row.map_or(0, |row| read::number(&row, 0)))
        })
    }

    fn roll_up<'a>(
        &'a self,
        consumer: &'a str,
        moves: Moves,
        buckets: &'a [Bucket],
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut writer = self.writer.lock().await;
            let connection = writer.as_mut().ok_or_else(closed)?;
            transaction::begin(connection).await?;
            let added = add(connection, consumer, moves, buckets).await;
            transaction::end(connection, added).await
        })
    }

    fn rollups<'a>(&'a self, query: &'a RollupQuery) -> BoxFuture<'a, Result<Vec<Bucket>>> {
        Box::pin(async move {
            let text = format!(
                "SELECT {BUCKET} FROM rollups r \
                 WHERE stream_id = (SELECT id FROM streams WHERE endpoint = ? AND device = ? AND import = ?) \
                 AND span_s = ? AND start >= ? AND start < ? ORDER BY start LIMIT ?"
            );
            let rows = sqlx::query(sqlx::AssertSqlSafe(text))
                .bind(query.stream.endpoint.as_str())
                .bind(query.stream.device.as_str())
                .bind(signed(query.stream.import))
                .bind(query.span.seconds())
                .bind(query.from.unwrap_or(i64::MIN))
                .bind(query.to.unwrap_or(i64::MAX))
                .bind(query.limit)
                .fetch_all(&self.readers)
                .await?;
            Ok(rows.iter().map(cells::bucket).collect())
        })
    }

    fn expire_rollups(&self, span: Span, before: i64) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            let mut writer = self.writer.lock().await;
            let connection = writer.as_mut().ok_or_else(closed)?;
            let done = sqlx::query("DELETE FROM rollups WHERE span_s = ? AND at < ?")
                .bind(span.seconds())
                .bind(before)
                .execute(connection)
                .await?;
            Ok(done.rows_affected())
        })
    }
}

/// Takes the slice out, but for what folds and calibrations need; how many samples went.
async fn cut(connection: &mut SqliteConnection, slice: &OldSlice, calibration: u32) -> Result<u64> {
    choose(connection, slice).await?;
    keep_calibrations(connection, calibration).await?;
    delete(connection, slice.until).await
}

/// Adds to the buckets, and notes how far the consumer is with that.
async fn add(
    connection: &mut SqliteConnection,
    consumer: &str,
    moves: Moves,
    buckets: &[Bucket],
) -> Result<()> {
    let found = sqlx::query("SELECT sample_id FROM consumers WHERE name = ?")
        .bind(consumer)
        .fetch_optional(&mut *connection)
        .await?;
    let found = found.map_or(0, |row| read::number(&row, 0));
    if !moves.check(found, consumer)? {
        return Ok(());
    }
    for bucket in buckets {
        add_bucket(connection, bucket).await?;
    }
    sqlx::query("INSERT OR REPLACE INTO consumers (name, sample_id) VALUES (?, ?)")
        .bind(consumer)
        .bind(signed(moves.until))
        .execute(connection)
        .await?;
    Ok(())
}

/// Which streams have samples in the slice, and behind which position theirs stay: their last snapshot in it.
async fn choose(connection: &mut SqliteConnection, slice: &OldSlice) -> Result<()> {
    sqlx::raw_sql(
        "CREATE TEMP TABLE IF NOT EXISTS retiring (stream_id INTEGER PRIMARY KEY, keep_after INTEGER NOT NULL, reset INTEGER NOT NULL); \
         DELETE FROM temp.retiring",
    )
    .execute(&mut *connection)
    .await?;
    // A stream whose snapshots all lie behind the slice keeps everything: `keep_after` is null and it is left out.
    sqlx::query(
        "INSERT INTO temp.retiring SELECT stream_id, keep_after, \
           coalesce((SELECT max(l.pos) FROM stream_log l WHERE l.stream_id = m.stream_id AND l.kind = 2 AND l.pos <= keep_after), 0) \
         FROM (SELECT stream_id, (SELECT max(n.pos) FROM snapshots n WHERE n.stream_id = s.stream_id AND n.pos <= max(s.pos)) AS keep_after \
               FROM samples s WHERE id >= ? AND id < ? GROUP BY stream_id) m \
         WHERE keep_after IS NOT NULL",
    )
    .bind(signed(slice.from))
    .bind(signed(slice.until))
    .execute(connection)
    .await?;
    Ok(())
}

/// Copies the first `most` folded readings since a stream's last reset out of what is about to go.
async fn keep_calibrations(connection: &mut SqliteConnection, most: u32) -> Result<()> {
    sqlx::query(
        "DELETE FROM calibrations WHERE EXISTS \
         (SELECT 1 FROM temp.retiring r WHERE r.stream_id = calibrations.stream_id AND calibrations.pos <= r.reset)",
    )
    .execute(&mut *connection)
    .await?;
    // Failed and late readings were never folded: see `rows::UNFOLDED`.
    sqlx::query(
        "INSERT OR IGNORE INTO calibrations (stream_id, pos, ts, \"values\") \
         SELECT stream_id, pos, ts, \"values\" FROM ( \
           SELECT s.stream_id, s.pos, s.ts, s.\"values\", \
             row_number() OVER (PARTITION BY s.stream_id ORDER BY s.pos) \
             + (SELECT count(*) FROM calibrations c WHERE c.stream_id = s.stream_id) AS place \
           FROM temp.retiring r JOIN samples s ON s.stream_id = r.stream_id \
           WHERE s.pos <= r.keep_after AND s.pos > r.reset AND substr(s.output, 1, 1) NOT IN (x'05', x'06') \
             AND s.pos > coalesce((SELECT max(c.pos) FROM calibrations c WHERE c.stream_id = s.stream_id), 0) \
             AND (SELECT count(*) FROM calibrations c WHERE c.stream_id = r.stream_id) < ?1) \
         WHERE place <= ?1",
    )
    .bind(most)
    .execute(connection)
    .await?;
    Ok(())
}

async fn delete(connection: &mut SqliteConnection, until: u64) -> Result<u64> {
    let chosen = "(SELECT keep_after FROM temp.retiring r WHERE r.stream_id =";
    for (table, end) in [("snapshots", "pos <"), ("refusals", "pos <=")] {
        let text = format!(
            "DELETE FROM {table} WHERE stream_id IN (SELECT stream_id FROM temp.retiring) \
             AND {end} {chosen} {table}.stream_id)"
        );
        sqlx::query(sqlx::AssertSqlSafe(text))
            .execute(&mut *connection)
            .await?;
    }
    sqlx::query("DELETE FROM shadow_predictions WHERE sample_id < ?")
        .bind(signed(until))
        .execute(&mut *connection)
        .await?;
    // Below `until` too: what an earlier slice had to leave for a fold.
    let text = format!(
        "DELETE FROM samples WHERE stream_id IN (SELECT stream_id FROM temp.retiring) AND id < ? \
         AND pos <= {chosen} samples.stream_id)"
    );
    let gone = sqlx::query(sqlx::AssertSqlSafe(text))
        .bind(signed(until))
        .execute(&mut *connection)
        .await?;
    sqlx::query("UPDATE log SET first_kept = max(first_kept, ?)")
        .bind(signed(until))
        .execute(connection)
        .await?;
    Ok(gone.rows_affected())
}

async fn add_bucket(connection: &mut SqliteConnection, bucket: &Bucket) -> Result<()> {
    let text =
        format!("SELECT {BUCKET} FROM rollups r WHERE stream_id = ? AND span_s = ? AND start = ?");
    let before = sqlx::query(sqlx::AssertSqlSafe(text))
        .bind(bucket.stream)
        .bind(bucket.span.seconds())
        .bind(bucket.start)
        .fetch_optional(&mut *connection)
        .await?;
    let mut bucket = bucket.clone();
    if let Some(before) = before {
        bucket.merge(&cells::bucket(&before));
    }
    sqlx::query(
        "INSERT OR REPLACE INTO rollups (stream_id, span_s, start, count, scored, anomalies, failed, score, features, at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(bucket.stream)
    .bind(bucket.span.seconds())
    .bind(bucket.start)
    .bind(signed(bucket.count))
    .bind(signed(bucket.score.count))
    .bind(signed(bucket.anomalies))
    .bind(signed(bucket.failed))
    .bind(to_bytes(&[bucket.score]))
    .bind(to_bytes(&bucket.features))
    .bind(now_ms())
    .execute(connection)
    .await?;
    Ok(())
}
