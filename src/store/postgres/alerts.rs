//! PostgreSQL's alerts: each transaction checks the token of this server.

use super::commit::{begin, commit};
use super::{PostgresStore, read};
use crate::store::Result;
use crate::store::alerts::{
    AlertQuery, AlertRecord, AlertRow, AlertState, Alerting, ChangeRow, expire, read_alerts,
    read_changes, read_state, write_record,
};
use futures_util::future::BoxFuture;
use sqlx::Row;
use sqlx::postgres::PgConnection;

impl Alerting for PostgresStore {
    fn alert_state(&self) -> BoxFuture<'_, Result<AlertState>> {
        Box::pin(read::in_time(async {
            let mut reader = self.readers.take().await?;
            let state = read_state!(reader);
            Ok(reader.done(state))
        }))
    }

    fn record_alerts<'a>(&'a self, record: &'a AlertRecord) -> BoxFuture<'a, Result<()>> {
        Box::pin(read::in_time(async move {
            let mut reader = self.readers.take().await?;
            begin(&mut reader, self.fence).await?;
            write(&mut reader, record).await?;
            commit(&mut reader).await?;
            reader.done(());
            Ok(())
        }))
    }

    fn alerts<'a>(&'a self, query: &'a AlertQuery) -> BoxFuture<'a, Result<Vec<AlertRow>>> {
        Box::pin(read::in_time(async move {
            let mut reader = self.readers.take().await?;
            let alerts = read_alerts!(reader, query);
            Ok(reader.done(alerts))
        }))
    }

    fn alert_changes(
        &self,
        alert: Option<u64>,
        cursor: Option<u64>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<ChangeRow>>> {
        Box::pin(read::in_time(async move {
            let mut reader = self.readers.take().await?;
            let changes = read_changes!(reader, alert, cursor, limit);
            Ok(reader.done(changes))
        }))
    }

    fn expire_alerts(&self, before: i64, most: u32) -> BoxFuture<'_, Result<u64>> {
        Box::pin(read::in_time(async move {
            let mut reader = self.readers.take().await?;
            begin(&mut reader, self.fence).await?;
            let gone = delete(&mut reader, before, most).await?;
            commit(&mut reader).await?;
            Ok(reader.done(gone))
        }))
    }
}

async fn write(connection: &mut PgConnection, record: &AlertRecord) -> Result<()> {
    write_record!(connection, record)
}

async fn delete(connection: &mut PgConnection, before: i64, most: u32) -> Result<u64> {
    expire!(connection, before, most)
}
