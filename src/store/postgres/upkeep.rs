//! PostgreSQL's upkeep: size, and retention by dropping parts.
//!
//! Runs beside the writer on a connection of its own, with the writer's token, so commits go on while a part is looked through. What a fold
//! still needs of a part (the readings behind each stream's last snapshot in it) moves to part 0 before the part is dropped, in
//! one transaction. Somebody who reads for long (a dump) holds a drop up, and nothing else: it is tried again later.

use super::read::{self, Readers, number};
use super::{PostgresStore, commit, rollups};
use crate::store::rollup::{Bucket, Span};
use crate::store::rows::{log_kind, signed};
use crate::store::upkeep::{Moves, OldSlice, RollupQuery, Upkeep, Usage};
use crate::store::{Result, StoreError};
use futures_util::future::BoxFuture;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};
use std::time::Duration;

/// Longest time for one part.
const RETIRE: Duration = Duration::from_secs(600);
/// Longer than the server needs to send its own vacuum away; whoever reads meanwhile waits as long.
const LOCK_WAIT: &str = "SET LOCAL lock_timeout = '2s'";

impl Upkeep for PostgresStore {
    fn usage(&self) -> BoxFuture<'_, Result<Usage>> {
        Box::pin(read::in_time(usage(&self.readers)))
    }

    fn first_kept(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(read::in_time(first_kept(&self.readers)))
    }

    fn oldest(&self, _rows: u32) -> BoxFuture<'_, Result<Option<OldSlice>>> {
        Box::pin(read::in_time(oldest(&self.readers)))
    }

    fn retire<'a>(&'a self, slice: &'a OldSlice, calibration: u32) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let done = tokio::time::timeout(RETIRE, self.retire_part(slice, calibration)).await;
            done.unwrap_or(Err(StoreError::Slow(RETIRE)))
        })
    }

    fn expire_notes(&self, before: i64, most: u32) -> BoxFuture<'_, Result<u64>> {
        Box::pin(read::in_time(expire_notes(&self.readers, before, most)))
    }

    fn shrink(&self) -> BoxFuture<'_, Result<()>> {
        // A dropped part gives its room back at once.
        Box::pin(async { Ok(()) })
    }

    fn consumed<'a>(&'a self, consumer: &'a str) -> BoxFuture<'a, Result<u64>> {
        Box::pin(read::in_time(rollups::consumed(&self.readers, consumer)))
    }

    fn roll_up<'a>(
        &'a self,
        consumer: &'a str,
        moves: Moves,
        buckets: &'a [Bucket],
    ) -> BoxFuture<'a, Result<()>> {
        let add = rollups::add(&self.readers, self.fence, consumer, moves, buckets);
        Box::pin(read::in_time(add))
    }

    fn rollups<'a>(&'a self, query: &'a RollupQuery) -> BoxFuture<'a, Result<Vec<Bucket>>> {
        Box::pin(read::in_time(rollups::read(&self.readers, query)))
    }

    fn expire_rollups(&self, span: Span, before: i64) -> BoxFuture<'_, Result<u64>> {
        Box::pin(read::in_time(rollups::expire(&self.readers, span, before)))
    }
}

/// Tables and indexes of this log's schema. The disk is another machine's.
async fn usage(readers: &Readers) -> Result<Usage> {
    let mut reader = readers.take().await?;
    let row = sqlx::query(
        "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class \
         WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace",
    )
    .fetch_one(&mut *reader)
    .await?;
    Ok(reader.done(Usage {
        bytes: number(&row, 0),
        free_bytes: None,
    }))
}

async fn expire_notes(readers: &Readers, before: i64, most: u32) -> Result<u64> {
    let mut reader = readers.take().await?;
    let mut gone = 0;
    for text in [
        "DELETE FROM refusals WHERE id IN (SELECT id FROM refusals WHERE at < $1 ORDER BY id LIMIT $2)",
        "DELETE FROM feedback WHERE id IN (SELECT id FROM feedback WHERE at < $1 ORDER BY id LIMIT $2)",
    ] {
        let query = sqlx::query(text).bind(before).bind(i64::from(most));
        gone += query.execute(&mut *reader).await?.rows_affected();
    }
    Ok(reader.done(gone))
}

async fn first_kept(readers: &Readers) -> Result<u64> {
    let mut reader = readers.take().await?;
    let row = sqlx::query("SELECT coalesce(min(first_id), 1) FROM sample_parts WHERE part > 0")
        .fetch_one(&mut *reader)
        .await?;
    Ok(reader.done(number(&row, 0)))
}

/// The oldest part; the newest one is still written to and never retired.
async fn oldest(readers: &Readers) -> Result<Option<OldSlice>> {
    let mut reader = readers.take().await?;
    let row = sqlx::query(
        "SELECT p.first_id, n.first_id, p.day, \
         (SELECT received_at FROM samples s WHERE s.part = p.part ORDER BY s.id DESC LIMIT 1) \
         FROM sample_parts p JOIN sample_parts n ON n.part = (SELECT min(part) FROM sample_parts WHERE part > p.part) \
         WHERE p.part > 0 ORDER BY p.part LIMIT 1",
    )
    .fetch_optional(&mut *reader)
    .await?;
    Ok(reader.done(row.map(|row| OldSlice {
        from: number(&row, 0),
        until: number(&row, 1),
        newest_arrival: row.get::<Option<i64>, _>(3).unwrap_or_default(),
        day: Some(row.get(2)),
    })))
}

impl PostgresStore {
    async fn retire_part(&self, slice: &OldSlice, calibration: u32) -> Result<u64> {
        let part = self.parts.of(slice.from);
        if part == 0 || part == self.parts.newest() {
            return Ok(0);
        }
        let mut reader = self.readers.take().await?;
        probe(&mut reader).await?;
        execute(&mut reader, "BEGIN").await?;
        choose(&mut reader, slice.until).await?;
        keep_calibrations(&mut reader, part, calibration).await?;
        let gone = carry_over(&mut reader, part).await?;
        delete_behind(&mut reader, slice.until).await?;
        drop_part(&mut reader, part, self.fence).await?;
        let committed = commit::commit(&mut reader).await;
        if committed.is_err() {
            // Whether the part is gone is not known. Where the database does not answer either, the writer reads them when it does.
            self.parts.load(&mut *self.readers.take().await?).await?;
        }
        committed?;
        self.parts.forget(part);
        Ok(reader.done(gone))
    }
}

async fn execute(connection: &mut PgConnection, statement: &'static str) -> Result<()> {
    sqlx::raw_sql(statement).execute(connection).await?;
    Ok(())
}

/// Whether a drop has a chance now: the work before it would be thrown away.
async fn probe(connection: &mut PgConnection) -> Result<()> {
    execute(connection, "BEGIN").await?;
    execute(connection, LOCK_WAIT).await?;
    execute(connection, "LOCK TABLE samples IN ACCESS EXCLUSIVE MODE").await?;
    execute(connection, "ROLLBACK").await
}

/// Each stream's last snapshot before the cut: behind it readings stay. Every stream has one before its first sample.
async fn choose(connection: &mut PgConnection, until: u64) -> Result<()> {
    execute(
        connection,
        "CREATE TEMP TABLE retiring (stream_id BIGINT PRIMARY KEY, keep_after BIGINT NOT NULL, sample_id BIGINT NOT NULL, \
         reset BIGINT NOT NULL) ON COMMIT DROP",
    )
    .await?;
    sqlx::query(
        "INSERT INTO retiring SELECT DISTINCT ON (n.stream_id) n.stream_id, n.pos, n.sample_id, \
         coalesce((SELECT max(l.pos) FROM stream_log l WHERE l.stream_id = n.stream_id AND l.kind = $2 AND l.pos <= n.pos), 0) \
         FROM snapshots n WHERE n.sample_id < $1 ORDER BY n.stream_id, n.pos DESC",
    )
    .persistent(false)
    .bind(signed(until))
    .bind(log_kind::RESET)
    .execute(&mut *connection)
    .await?;
    execute(connection, "ANALYZE retiring").await
}

/// Copies the first `most` folded readings since a stream's last reset out of what is about to go. See `rows::UNFOLDED` for the bytes.
async fn keep_calibrations(connection: &mut PgConnection, part: i32, most: u32) -> Result<()> {
    execute(
        connection,
        "DELETE FROM calibrations c USING retiring r WHERE c.stream_id = r.stream_id AND c.pos <= r.reset",
    )
    .await?;
    sqlx::query(
        "INSERT INTO calibrations (stream_id, pos, ts, \"values\") SELECT r.stream_id, s.pos, s.ts, s.\"values\" FROM retiring r \
         CROSS JOIN LATERAL (SELECT count(*) AS kept, coalesce(max(pos), 0) AS last FROM calibrations WHERE stream_id = r.stream_id) c \
         CROSS JOIN LATERAL (SELECT pos, ts, \"values\" FROM samples WHERE stream_id = r.stream_id AND part IN (0, $1) \
         AND pos > greatest(r.reset, c.last) AND pos <= r.keep_after AND get_byte(output, 0) NOT IN (5, 6) \
         ORDER BY id LIMIT greatest($2 - c.kept, 0)) s",
    )
    .persistent(false)
    .bind(part)
    .bind(i64::from(most))
    .execute(connection)
    .await?;
    Ok(())
}

/// Moves what a fold needs of the part to part 0, where what an earlier part left may go now. Gives the samples that are gone.
async fn carry_over(connection: &mut PgConnection, part: i32) -> Result<u64> {
    let gone = sqlx::query(
        "DELETE FROM samples_p0 s USING retiring r WHERE s.stream_id = r.stream_id AND s.pos <= r.keep_after",
    )
    .persistent(false)
    .execute(&mut *connection)
    .await?;
    let columns = "id, stream_id, pos, epoch, seq, ts, received_at, version_id, latency_us, flags, numerics_rev, \"values\", output, arm";
    let carry = format!(
        "INSERT INTO samples_p0 (part, {columns}) SELECT 0, s.* FROM retiring r CROSS JOIN LATERAL (SELECT {columns} FROM samples_p{part} \
         WHERE stream_id = r.stream_id AND id > r.sample_id AND pos > r.keep_after) s"
    );
    let carried = sqlx::query(AssertSqlSafe(carry))
        .persistent(false)
        .execute(&mut *connection)
        .await?;
    let all: i64 = sqlx::query_scalar(AssertSqlSafe(format!(
        "SELECT count(*) FROM samples_p{part}"
    )))
    .persistent(false)
    .fetch_one(connection)
    .await?;
    let left = all.cast_unsigned().saturating_sub(carried.rows_affected());
    Ok(gone.rows_affected() + left)
}

/// What belongs to rows that are gone.
async fn delete_behind(connection: &mut PgConnection, until: u64) -> Result<()> {
    execute(
        connection,
        "DELETE FROM snapshots n USING retiring r WHERE n.stream_id = r.stream_id AND n.pos < r.keep_after; \
         DELETE FROM refusals f USING retiring r WHERE f.stream_id = r.stream_id AND f.pos <= r.keep_after",
    )
    .await?;
    sqlx::query("DELETE FROM shadow_predictions WHERE sample_id < $1")
        .bind(signed(until))
        .execute(connection)
        .await?;
    Ok(())
}

/// The locks that others feel come last, in the order in which a commit takes them.
async fn drop_part(connection: &mut PgConnection, part: i32, fence: i64) -> Result<()> {
    execute(connection, LOCK_WAIT).await?;
    commit::check_fence(connection, fence).await?;
    sqlx::raw_sql(AssertSqlSafe(format!(
        "DROP TABLE samples_p{part}; DELETE FROM sample_parts WHERE part = {part}"
    )))
    .execute(connection)
    .await?;
    Ok(())
}
