//! The log of a SQLite database, read whole: the server's own readers, or a file opened beside it.

use super::MIGRATIONS;
use super::explain::{explain, refuse_foreign};
use crate::store::cells::{self, number, place};
use crate::store::history::{
    History, Imports, Kept, LoggedSample, LoggedStream, LoggedVersion, SampleFilter, StreamFilter,
    Turn,
};
use crate::store::{Place, Result, StoreError, StoredSnapshot, schema};
use crate::stream::StreamKey;
use futures_util::future::BoxFuture;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteRow};
use sqlx::{QueryBuilder, Row, Sqlite};
use std::path::Path;
use std::time::Duration;

/// A database that is only read.
pub struct SqliteHistory {
    readers: SqlitePool,
}

impl SqliteHistory {
    /// Reads through connections that are there.
    pub(super) fn of(readers: SqlitePool) -> Self {
        Self { readers }
    }

    /// Opens a file that a server may be writing.
    ///
    /// # Errors
    /// No database there, none of ours, or one of another schema.
    pub async fn open(file: &Path, readers: u32) -> Result<Self> {
        Self::try_open(file, readers)
            .await
            .map_err(|error| explain(error, file))
    }

    async fn try_open(file: &Path, readers: u32) -> Result<Self> {
        let place = file.display();
        if !file.is_file() {
            return Err(StoreError::Unusable(format!(
                "{place}: no database here; name the server's folder with --data-dir"
            )));
        }
        let options = SqliteConnectOptions::new()
            .filename(file)
            .read_only(true)
            .busy_timeout(Duration::from_secs(5));
        let readers = SqlitePoolOptions::new()
            .max_connections(readers)
            .connect_with(options)
            .await?;
        let found = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
            .fetch_one(&readers)
            .await
            .map_err(|error| refuse_foreign(&error, file))?;
        schema::refuse_other(&MIGRATIONS, found, &place.to_string())?;
        Ok(Self { readers })
    }
}

impl History for SqliteHistory {
    fn streams<'a>(
        &'a self,
        filter: &'a StreamFilter,
        cursor: Option<&'a StreamKey>,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<LoggedStream>>> {
        Box::pin(streams(&self.readers, filter, cursor, limit))
    }

    fn kept(&self, stream: i64) -> BoxFuture<'_, Result<Kept>> {
        Box::pin(kept(&self.readers, stream))
    }

    fn samples_after(
        &self,
        stream: i64,
        place: Place,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<LoggedSample>>> {
        Box::pin(async move {
            let mut query = QueryBuilder::<Sqlite>::new(cells::SAMPLE);
            query.push("WHERE stream_id = ").push_bind(stream);
            query
                .push(" AND id > ")
                .push_bind(place.sample_id.cast_signed())
                .push(" ORDER BY id LIMIT ")
                .push_bind(limit);
            let rows = query.build().fetch_all(&self.readers).await?;
            Ok(rows.iter().map(cells::sample).collect())
        })
    }

    fn turns(
        &self,
        stream: i64,
        after: u64,
        until: u64,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Turn>>> {
        Box::pin(turns(&self.readers, stream, (after, until), limit))
    }

    fn snapshots(
        &self,
        stream: i64,
        after: u64,
        until: u64,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<StoredSnapshot>>> {
        Box::pin(async move {
            let rows = sqlx::query(
                "SELECT pos, sample_id, version_id, layout, numerics_rev, last_ts, state FROM snapshots \
                 WHERE stream_id = ? AND pos > ? AND pos <= ? ORDER BY pos LIMIT ?",
            )
            .bind(stream)
            .bind(after.cast_signed())
            .bind(until.cast_signed())
            .bind(limit)
            .fetch_all(&self.readers)
            .await?;
            Ok(rows.iter().map(|row| cells::snapshot(row, 0)).collect())
        })
    }

    fn versions(&self) -> BoxFuture<'_, Result<Vec<LoggedVersion>>> {
        Box::pin(async move {
            let rows = sqlx::query(cells::VERSIONS)
                .fetch_all(&self.readers)
                .await?;
            let versions = rows.iter().map(cells::version);
            Ok(versions.collect())
        })
    }

    fn sample_ids(&self) -> BoxFuture<'_, Result<Option<(u64, u64)>>> {
        Box::pin(async move {
            // Two lookups: the lowest and the highest together would read the whole table.
            let row =
                sqlx::query("SELECT (SELECT min(id) FROM samples), (SELECT max(id) FROM samples)")
                    .fetch_one(&self.readers)
                    .await?;
            let lowest: Option<i64> = row.get(0);
            Ok(lowest.map(|lowest| (lowest.cast_unsigned(), number(&row, 1))))
        })
    }

    fn samples_between<'a>(
        &'a self,
        filter: &'a SampleFilter,
        after: u64,
        until: u64,
    ) -> BoxFuture<'a, Result<Vec<LoggedSample>>> {
        Box::pin(samples_between(&self.readers, filter, after, until))
    }
}

/// Conditions on the columns of `streams`.
fn push_streams(query: &mut QueryBuilder<Sqlite>, filter: &StreamFilter) {
    query.push(match filter.imports {
        Imports::With => "1",
        Imports::Without => "import = 0",
        Imports::Only => "import > 0",
    });
    if let Some(endpoint) = &filter.endpoint {
        query.push(" AND endpoint = ").push_bind(endpoint.clone());
    }
    if let Some(device) = &filter.device {
        query.push(" AND device = ").push_bind(device.clone());
    }
}

async fn streams(
    pool: &SqlitePool,
    filter: &StreamFilter,
    cursor: Option<&StreamKey>,
    limit: u32,
) -> Result<Vec<LoggedStream>> {
    let mut query = QueryBuilder::<Sqlite>::new(cells::STREAM);
    push_streams(&mut query, filter);
    if let Some(after) = cursor {
        query
            .push(" AND (endpoint, device, import) > (")
            .push_bind(after.endpoint.to_string());
        query.push(", ").push_bind(after.device.to_string());
        query.push(", ").push_bind(after.import.cast_signed());
        query.push(")");
    }
    query
        .push(" ORDER BY endpoint, device, import LIMIT ")
        .push_bind(limit);
    let rows = query.build().fetch_all(pool).await?;
    rows.iter().map(cells::stream).collect()
}

async fn kept(pool: &SqlitePool, stream: i64) -> Result<Kept> {
    // One read transaction: the count and the oldest belong together. Both are answered by the index.
    let mut connection = pool.begin().await?;
    let count = sqlx::query("SELECT count(*) FROM samples WHERE stream_id = ?")
        .bind(stream)
        .fetch_one(&mut *connection)
        .await?;
    let first = sqlx::query("SELECT pos, id FROM samples WHERE stream_id = ? ORDER BY id LIMIT 1")
        .bind(stream)
        .fetch_optional(&mut *connection)
        .await?;
    Ok(Kept {
        count: number(&count, 0),
        first: first.map(|row| place(&row, 0)),
    })
}

async fn turns(
    pool: &SqlitePool,
    stream: i64,
    (after, until): (u64, u64),
    limit: u32,
) -> Result<Vec<Turn>> {
    let rows = sqlx::query(
        "SELECT pos, kind, version_id FROM stream_log WHERE stream_id = ? AND pos > ? AND pos <= ? ORDER BY pos LIMIT ?",
    )
    .bind(stream)
    .bind(after.cast_signed())
    .bind(until.cast_signed())
    .bind(limit)
    .fetch_all(pool)
    .await?;
    let turn = |row: &SqliteRow| Turn::read(stream, number(row, 0), row.get(1), row.get(2));
    rows.iter().map(turn).collect()
}

async fn samples_between(
    pool: &SqlitePool,
    filter: &SampleFilter,
    after: u64,
    until: u64,
) -> Result<Vec<LoggedSample>> {
    let mut query = QueryBuilder::<Sqlite>::new(cells::SAMPLE);
    query
        .push("WHERE id > ")
        .push_bind(after.cast_signed())
        .push(" AND id <= ")
        .push_bind(until.cast_signed());
    // One device's samples are found by their index; those of a whole endpoint by walking the ids (the plus hides the index).
    query.push(match filter.streams.device {
        Some(_) => " AND stream_id IN (SELECT id FROM streams WHERE ",
        None => " AND +stream_id IN (SELECT id FROM streams WHERE ",
    });
    push_streams(&mut query, &filter.streams);
    query.push(")");
    if let Some(epoch) = filter.epoch {
        query.push(" AND epoch = ").push_bind(epoch.cast_signed());
    }
    if let Some(from) = filter.from {
        query.push(" AND ts >= ").push_bind(from);
    }
    if let Some(to) = filter.to {
        query.push(" AND ts < ").push_bind(to);
    }
    query.push(" ORDER BY id");
    let rows = query.build().fetch_all(pool).await?;
    Ok(rows.iter().map(cells::sample).collect())
}
