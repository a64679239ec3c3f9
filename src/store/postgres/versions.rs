//! PostgreSQL's endpoints, versions and changes of status, by the connection that holds the lock.

use super::{PostgresStore, commit, extras, read};
use crate::store::versions::{StatusChange, StatusRow, Versions};
use crate::store::{Result, StoreError};
use crate::store::{cells, rows};
use crate::stream::now_ms;
use futures_util::future::BoxFuture;
use sqlx::Row;
use sqlx::postgres::PgConnection;
use tidegate_protocol::EndpointName;

impl Versions for PostgresStore {
    fn register_endpoint<'a>(
        &'a self,
        name: &'a EndpointName,
        revision: u32,
        schema: &'a str,
    ) -> BoxFuture<'a, Result<String>> {
        Box::pin(self.in_time(self.note_endpoint(name.as_str(), revision, schema)))
    }

    fn register_version<'a>(
        &'a self,
        endpoint: &'a EndpointName,
        model: &'a str,
        version: &'a str,
        hash: &'a [u8; 32],
    ) -> BoxFuture<'a, Result<i64>> {
        Box::pin(self.in_time(self.version_id([endpoint.as_str(), model, version], hash)))
    }

    fn status_changes(&self) -> BoxFuture<'_, Result<Vec<StatusRow>>> {
        Box::pin(read::in_time(async {
            let mut reader = self.readers.take().await?;
            let rows = sqlx::query(cells::STATUS_CHANGES)
                .fetch_all(&mut *reader)
                .await?;
            reader.done(rows.iter().map(cells::status_change).collect())
        }))
    }

    fn change_status<'a>(
        &'a self,
        after: i64,
        changes: &'a [StatusChange],
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.in_time(self.append(after, changes)))
    }
}

impl PostgresStore {
    async fn note_endpoint(&self, name: &str, revision: u32, schema: &str) -> Result<String> {
        let mut hold = self.hold.lock().await;
        let mut connection = self.writer(&mut hold).await?;
        sqlx::query(
            "INSERT INTO endpoints (name, revision, manifest, seen_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        )
        .bind(name)
        .bind(i64::from(revision))
        .bind(schema)
        .bind(now_ms())
        .execute(&mut connection)
        .await?;
        let recorded =
            sqlx::query_scalar("SELECT manifest FROM endpoints WHERE name = $1 AND revision = $2")
                .bind(name)
                .bind(i64::from(revision))
                .fetch_one(&mut connection)
                .await?;
        hold.keep(connection);
        Ok(recorded)
    }

    async fn version_id(&self, name: [&str; 3], hash: &[u8; 32]) -> Result<i64> {
        let [endpoint, model, version] = name;
        let mut hold = self.hold.lock().await;
        let mut connection = self.writer(&mut hold).await?;
        sqlx::query(
            "INSERT INTO versions (endpoint, model, version, hash, seen_at) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT DO NOTHING",
        )
        .bind(endpoint)
        .bind(model)
        .bind(version)
        .bind(hash.as_slice())
        .bind(now_ms())
        .execute(&mut connection)
        .await?;
        let row = sqlx::query(
            "SELECT id, hash FROM versions WHERE endpoint = $1 AND model = $2 AND version = $3",
        )
        .bind(endpoint)
        .bind(model)
        .bind(version)
        .fetch_one(&mut connection)
        .await?;
        hold.keep(connection);
        rows::check_hash(name, row.get(1), hash)?;
        Ok(row.get(0))
    }

    async fn append(&self, after: i64, changes: &[StatusChange]) -> Result<()> {
        let mut hold = self.hold.lock().await;
        let mut connection = self.writer(&mut hold).await?;
        match add(&mut connection, self.fence, after, changes).await {
            Ok(()) => {
                // Lost from here on means unknown: the connection does not come back then.
                commit::commit(&mut connection).await?;
                hold.keep(connection);
                Ok(())
            }
            Err(error) => {
                if commit::roll_back(&mut connection).await.is_ok() {
                    hold.keep(connection);
                }
                Err(hold.judge(error))
            }
        }
    }
}

/// Everything but the COMMIT.
async fn add(
    connection: &mut PgConnection,
    fence: i64,
    after: i64,
    changes: &[StatusChange],
) -> Result<()> {
    commit::begin(connection, fence).await?;
    let newest: i64 = sqlx::query_scalar("SELECT coalesce(max(id), 0) FROM status_changes")
        .fetch_one(&mut *connection)
        .await?;
    if newest != after {
        return Err(StoreError::Moved(Vec::new()));
    }
    for change in changes {
        sqlx::query(
            "INSERT INTO status_changes (version_id, status, at, actor, reason) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(change.version_id)
        .bind(change.status.as_str())
        .bind(now_ms())
        .bind(extras::text(&change.who))
        .bind(extras::text(&change.why))
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}
