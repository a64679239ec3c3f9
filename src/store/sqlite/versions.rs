//! SQLite's endpoints, versions and changes of status.

use super::{SqliteStore, closed, transaction};
use crate::store::versions::{StatusChange, StatusRow, Versions};
use crate::store::{Result, StoreError};
use crate::store::{cells, rows};
use crate::stream::now_ms;
use futures_util::future::BoxFuture;
use sqlx::Row;
use sqlx::sqlite::SqliteConnection;
use tidegate_protocol::EndpointName;

impl Versions for SqliteStore {
    fn register_endpoint<'a>(
        &'a self,
        name: &'a EndpointName,
        revision: u32,
        schema: &'a str,
    ) -> BoxFuture<'a, Result<String>> {
        Box::pin(async move {
            let mut writer = self.writer.lock().await;
            let connection = writer.as_mut().ok_or_else(closed)?;
            sqlx::query(
                "INSERT INTO endpoints (name, revision, manifest, seen_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            )
            .bind(name.as_str())
            .bind(revision)
            .bind(schema)
            .bind(now_ms())
            .execute(&mut *connection)
            .await?;
            let recorded = sqlx::query_scalar(
                "SELECT manifest FROM endpoints WHERE name = ? AND revision = ?",
            )
            .bind(name.as_str())
            .bind(revision)
            .fetch_one(connection)
            .await?;
            Ok(recorded)
        })
    }

    fn register_version<'a>(
        &'a self,
        endpoint: &'a EndpointName,
        model: &'a str,
        version: &'a str,
        hash: &'a [u8; 32],
    ) -> BoxFuture<'a, Result<i64>> {
        Box::pin(async move {
            let mut writer = self.writer.lock().await;
            let connection = writer.as_mut().ok_or_else(closed)?;
            sqlx::query(
                "INSERT INTO versions (endpoint, model, version, hash, seen_at) VALUES (?, ?, ?, ?, ?) \
                 ON CONFLICT DO NOTHING",
            )
            .bind(endpoint.as_str())
            .bind(model)
            .bind(version)
            .bind(hash.as_slice())
            .bind(now_ms())
            .execute(&mut *connection)
            .await?;
            let row = sqlx::query(
                "SELECT id, hash FROM versions WHERE endpoint = ? AND model = ? AND version = ?",
            )
            .bind(endpoint.as_str())
            .bind(model)
            .bind(version)
            .fetch_one(connection)
            .await?;
            rows::check_hash([endpoint.as_str(), model, version], row.get(1), hash)?;
            Ok(row.get(0))
        })
    }

    fn status_changes(&self) -> BoxFuture<'_, Result<Vec<StatusRow>>> {
        Box::pin(async {
            let rows = sqlx::query(cells::STATUS_CHANGES)
                .fetch_all(&self.readers)
                .await?;
            rows.iter().map(cells::status_change).collect()
        })
    }

    fn change_status<'a>(
        &'a self,
        after: i64,
        changes: &'a [StatusChange],
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut writer = self.writer.lock().await;
            let connection = writer.as_mut().ok_or_else(closed)?;
            transaction::begin(connection).await?;
            let done = append(connection, after, changes).await;
            transaction::end(connection, done).await
        })
    }
}

async fn append(
    connection: &mut SqliteConnection,
    after: i64,
    changes: &[StatusChange],
) -> Result<()> {
    let newest: i64 = sqlx::query_scalar("SELECT coalesce(max(id), 0) FROM status_changes")
        .fetch_one(&mut *connection)
        .await?;
    if newest != after {
        return Err(StoreError::Moved(Vec::new()));
    }
    for change in changes {
        sqlx::query(
            "INSERT INTO status_changes (version_id, status, at, actor, reason) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(change.version_id)
        .bind(change.status.as_str())
        .bind(now_ms())
        .bind(change.who.clone())
        .bind(change.why.clone())
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}
