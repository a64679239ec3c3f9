//! The log of a PostgreSQL database, read whole: by the server's own readers, or by connections that may not write.

use super::parts::Parts;
use super::read::{Readers, in_time, number, place};
use super::{MIGRATIONS, connect};
use crate::store::cells;
use crate::store::history::{
    History, Imports, Kept, LoggedSample, LoggedStream, LoggedVersion, SampleFilter, StreamFilter,
    Turn,
};
use crate::store::rows::signed;
use crate::store::{Place, Result, StoredSnapshot, schema};
use crate::stream::StreamKey;
use futures_util::future::BoxFuture;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{Connection, Postgres, QueryBuilder, Row};
use std::sync::Arc;

/// A database that is only read.
pub struct PostgresHistory {
    readers: Readers,
}

impl PostgresHistory {
    /// Reads through connections that are there.
    pub(super) fn of(readers: Readers) -> Self {
        Self { readers }
    }

    /// Opens a database that a server may be writing. `place` names it without the password.
    ///
    /// # Errors
    /// A server that cannot be reached or refuses, no database of ours, or one of another schema.
    pub async fn open(options: &PgConnectOptions, place: &str, readers: u32) -> Result<Self> {
        let options = connect::reading(options);
        let parts = prepare(&options, place).await;
        let parts = parts.map_err(|error| connect::explain(error, place))?;
        Ok(Self::of(Readers::at_most(readers, &options, parts)))
    }
}

/// Checks the schema and learns where the samples are.
async fn prepare(options: &PgConnectOptions, place: &str) -> Result<Arc<Parts>> {
    let mut connection = connect::within_time(options).await?;
    schema::refuse_other(&MIGRATIONS, schema_version(&mut connection).await?, place)?;
    // Nothing is written, so no part gets too large here.
    let parts = Parts::new(u64::MAX);
    parts.load(&mut connection).await?;
    connection.close().await?;
    Ok(Arc::new(parts))
}

/// The newest migration that was applied; `None` where none was.
async fn schema_version(connection: &mut PgConnection) -> Result<Option<i64>> {
    let known: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    if !known {
        return Ok(None);
    }
    let newest = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations");
    Ok(newest.fetch_one(connection).await?)
}

impl History for PostgresHistory {
    fn streams<'a>(
        &'a self,
        filter: &'a StreamFilter,
        cursor: Option<&'a StreamKey>,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<LoggedStream>>> {
        Box::pin(in_time(streams(&self.readers, filter, cursor, limit)))
    }

    fn kept(&self, stream: i64) -> BoxFuture<'_, Result<Kept>> {
        Box::pin(in_time(async move {
            let mut reader = self.readers.take().await?;
            let row = sqlx::query(
                "SELECT count(*), (SELECT pos FROM samples WHERE stream_id = $1 ORDER BY id LIMIT 1), min(id) \
                 FROM samples WHERE stream_id = $1",
            )
            .bind(stream)
            .fetch_one(&mut *reader)
            .await?;
            let first = row.get::<Option<i64>, _>(1).map(|_| place(&row, 1));
            Ok(reader.done(Kept {
                count: number(&row, 0),
                first,
            }))
        }))
    }

    fn samples_after(
        &self,
        stream: i64,
        place: Place,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<LoggedSample>>> {
        Box::pin(in_time(samples_after(&self.readers, stream, place, limit)))
    }

    fn turns(
        &self,
        stream: i64,
        after: u64,
        until: u64,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Turn>>> {
        Box::pin(in_time(async move {
            let mut reader = self.readers.take().await?;
            let rows = sqlx::query(
                "SELECT pos, kind, version_id FROM stream_log \
                 WHERE stream_id = $1 AND pos > $2 AND pos <= $3 ORDER BY pos LIMIT $4",
            )
            .bind(stream)
            .bind(signed(after))
            .bind(signed(until))
            .bind(i64::from(limit))
            .fetch_all(&mut *reader)
            .await?;
            let turn = |row: &PgRow| Turn::read(stream, number(row, 0), row.get(1), row.get(2));
            reader.done(rows.iter().map(turn).collect())
        }))
    }

    fn snapshots(
        &self,
        stream: i64,
        after: u64,
        until: u64,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<StoredSnapshot>>> {
        Box::pin(in_time(async move {
            let mut reader = self.readers.take().await?;
            let rows = sqlx::query(
                "SELECT pos, sample_id, version_id, layout, numerics_rev, last_ts, state FROM snapshots \
                 WHERE stream_id = $1 AND pos > $2 AND pos <= $3 ORDER BY pos LIMIT $4",
            )
            .bind(stream)
            .bind(signed(after))
            .bind(signed(until))
            .bind(i64::from(limit))
            .fetch_all(&mut *reader)
            .await?;
            Ok(reader.done(rows.iter().map(|row| cells::snapshot(row, 0)).collect()))
        }))
    }

    fn versions(&self) -> BoxFuture<'_, Result<Vec<LoggedVersion>>> {
        Box::pin(in_time(async {
            let mut reader = self.readers.take().await?;
            let rows = sqlx::query(cells::VERSIONS).fetch_all(&mut *reader).await?;
            let versions = rows.iter().map(cells::version);
            Ok(reader.done(versions.collect()))
        }))
    }

    fn sample_ids(&self) -> BoxFuture<'_, Result<Option<(u64, u64)>>> {
        Box::pin(in_time(async {
            let mut reader = self.readers.take().await?;
            let row = sqlx::query("SELECT min(id), max(id) FROM samples")
                .fetch_one(&mut *reader)
                .await?;
            let lowest: Option<i64> = row.get(0);
            Ok(reader.done(lowest.map(|lowest| (lowest.cast_unsigned(), number(&row, 1)))))
        }))
    }

    fn samples_between<'a>(
        &'a self,
        filter: &'a SampleFilter,
        after: u64,
        until: u64,
    ) -> BoxFuture<'a, Result<Vec<LoggedSample>>> {
        Box::pin(in_time(samples_between(
            &self.readers,
            filter,
            after,
            until,
        )))
    }
}

/// Conditions on the columns of `streams`.
fn push_streams(query: &mut QueryBuilder<Postgres>, filter: &StreamFilter) {
    query.push(match filter.imports {
        Imports::With => "true",
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
    readers: &Readers,
    filter: &StreamFilter,
    cursor: Option<&StreamKey>,
    limit: u32,
) -> Result<Vec<LoggedStream>> {
    let mut query = QueryBuilder::<Postgres>::new(cells::STREAM);
    push_streams(&mut query, filter);
    if let Some(after) = cursor {
        query
            .push(" AND (endpoint, device, import) > (")
            .push_bind(after.endpoint.to_string());
        query.push(", ").push_bind(after.device.to_string());
        query.push(", ").push_bind(signed(after.import)).push(")");
    }
    query
        .push(" ORDER BY endpoint, device, import LIMIT ")
        .push_bind(i64::from(limit));
    let mut reader = readers.take().await?;
    let rows = query.build().fetch_all(&mut *reader).await?;
    reader.done(rows.iter().map(cells::stream).collect())
}

/// The parts are those that can hold the slice; part 0 always, for retention may have moved readings there since.
async fn samples_after(
    readers: &Readers,
    stream: i64,
    place: Place,
    limit: u32,
) -> Result<Vec<LoggedSample>> {
    let mut query = QueryBuilder::<Postgres>::new(cells::SAMPLE);
    query.push("WHERE stream_id = ").push_bind(stream);
    query.push(" AND id > ").push_bind(signed(place.sample_id));
    let first = readers.parts().of(place.sample_id + 1);
    query
        .push(" AND (part = 0 OR part BETWEEN ")
        .push_bind(first);
    query
        .push(" AND (SELECT last_part FROM streams WHERE id = ")
        .push_bind(stream);
    query
        .push(")) ORDER BY id LIMIT ")
        .push_bind(i64::from(limit));
    let mut reader = readers.take().await?;
    let rows = query.build().fetch_all(&mut *reader).await?;
    Ok(reader.done(rows.iter().map(cells::sample).collect()))
}

async fn samples_between(
    readers: &Readers,
    filter: &SampleFilter,
    after: u64,
    until: u64,
) -> Result<Vec<LoggedSample>> {
    let (first, last) = readers.parts().span(after + 1..=until);
    let mut query = QueryBuilder::<Postgres>::new(cells::SAMPLE);
    query.push("WHERE id > ").push_bind(signed(after));
    query.push(" AND id <= ").push_bind(signed(until));
    query
        .push(" AND (part = 0 OR part BETWEEN ")
        .push_bind(first);
    query.push(" AND ").push_bind(last);
    query.push(") AND stream_id IN (SELECT id FROM streams WHERE ");
    push_streams(&mut query, &filter.streams);
    query.push(")");
    let conditions = [
        (" AND epoch = ", filter.epoch.map(signed)),
        (" AND ts >= ", filter.from),
        (" AND ts < ", filter.to),
    ];
    for (condition, value) in conditions {
        if let Some(value) = value {
            query.push(condition).push_bind(value);
        }
    }
    query.push(" ORDER BY id");
    let mut reader = readers.take().await?;
    let rows = query.build().fetch_all(&mut *reader).await?;
    Ok(reader.done(rows.iter().map(cells::sample).collect()))
}
