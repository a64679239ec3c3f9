//! SQLite's alerts: recorded by the writing connection, read by the readers.

use super::{SqliteStore, closed, transaction};
use crate::store::Result;
use crate::store::alerts::{
    AlertQuery, AlertRecord, AlertRow, AlertState, Alerting, ChangeRow, expire, read_alerts,
    read_changes, read_state, write_record,
};
use futures_util::future::BoxFuture;
use sqlx::Row;
use sqlx::sqlite::SqliteConnection;

impl Alerting for SqliteStore {
    fn alert_state(&self) -> BoxFuture<'_, Result<AlertState>> {
        Box::pin(async {
            let mut reader = self.readers.acquire().await?;
            Ok(read_state!(reader))
        })
    }

    fn record_alerts<'a>(&'a self, record: &'a AlertRecord) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut writer = self.writer.lock().await;
            let connection = writer.as_mut().ok_or_else(closed)?;
            transaction::begin(connection).await?;
            let done = write(connection, record).await;
            transaction::end(connection, done).await
        })
    }

    fn alerts<'a>(&'a self, query: &'a AlertQuery) -> BoxFuture<'a, Result<Vec<AlertRow>>> {
        Box::pin(async move {
            let mut reader = self.readers.acquire().await?;
            Ok(read_alerts!(reader, query))
        })
    }

    fn alert_changes(
        &self,
        alert: Option<u64>,
        cursor: Option<u64>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<ChangeRow>>> {
        Box::pin(async move {
            let mut reader = self.readers.acquire().await?;
            Ok(read_changes!(reader, alert, cursor, limit))
        })
    }

    fn expire_alerts(&self, before: i64, most: u32) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            let mut writer = self.writer.lock().await;
            let connection = writer.as_mut().ok_or_else(closed)?;
            transaction::begin(connection).await?;
            let done = delete(connection, before, most).await;
            transaction::end(connection, done).await
        })
    }
}

async fn write(connection: &mut SqliteConnection, record: &AlertRecord) -> Result<()> {
    write_record!(connection, record)
}

async fn delete(connection: &mut SqliteConnection, before: i64, most: u32) -> Result<u64> {
    expire!(connection, before, most)
}
