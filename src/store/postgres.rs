//! PostgreSQL: one connection writes, a few read.
//!
//! Owns nothing but the ways in; `hold` keeps other servers out, `commit` writes a batch, `parts` cuts the samples, `read` reads.
//! Promises that one server writes a database: the writing connection itself holds an advisory lock, and each transaction
//! checks a token that every new server raises. When that connection is lost, nothing is read of where streams stand until
//! its transaction is settled. Durable means `synchronous_commit` with `fsync` (checked when the connection opens).

mod alerts;
mod commit;
mod connect;
mod copy;
mod experiments;
mod extras;
mod history;
mod hold;
mod parts;
mod read;
mod receipts;
mod rollups;
mod upkeep;
mod versions;

pub use connect::explain;
pub use history::PostgresHistory;

use super::{
    DeviceRow, History, Known, LoggedReading, Place, Result, SampleQuery, Store, StoreError,
    StoredReceipts, StoredSample, StoredStream, StoredSwitch, schema,
};
use crate::config::StoreConfig;
use crate::stream::{Row, StreamKey};
use futures_util::future::BoxFuture;
use hold::Hold;
use parts::Parts;
use read::Readers;
use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// Longest farewell to a server that may be gone.
const FAREWELL: Duration = Duration::from_secs(5);

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("src/store/migrations/postgres");

/// A database of a PostgreSQL server.
pub struct PostgresStore {
    log_id: String,
    fence: i64,
    hold: Mutex<Hold>,
    parts: Arc<Parts>,
    readers: Readers,
    history: PostgresHistory,
    commit_timeout: Duration,
}

impl PostgresStore {
    /// Takes the database for this server alone and brings its schema up to date. `place` names it without the password.
    ///
    /// # Errors
    /// A server that cannot be reached or refuses, another tidegate server, a newer schema, settings that keep no promise.
    pub async fn open(
        options: &PgConnectOptions,
        place: &str,
        config: StoreConfig,
    ) -> Result<Self> {
        let (mut hold, mut connection) =
            Hold::take(options, place, config.synchronous_full).await?;
        let parts = Arc::new(Parts::new(config.keep.max_bytes));
        let log_id = prepare(&mut hold, &mut connection, &parts, place)
            .await
            .map_err(|error| connect::explain(error, place))?;
        hold.keep(connection);
        let readers = Readers::new(options, Arc::clone(&parts));
        Ok(Self {
            log_id,
            fence: hold.fence(),
            hold: Mutex::new(hold),
            history: PostgresHistory::of(readers.clone()),
            readers,
            parts,
            commit_timeout: config.commit_timeout,
        })
    }

    /// The writing connection, taken out of the hold: who breaks off leaves none behind, and the next takes the lock anew.
    async fn writer(&self, hold: &mut Hold) -> Result<PgConnection> {
        if let Some(connection) = hold.connection()? {
            return Ok(connection);
        }
        let mut connection = hold.reconnect().await?;
        // The transaction that was lost may have begun a part.
        self.parts.load(&mut connection).await?;
        Ok(connection)
    }

    /// Does `work` on the writing connection within the time of a commit.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let done = tokio::time::timeout(self.commit_timeout, work).await;
        done.unwrap_or(Err(StoreError::Slow(self.commit_timeout)))
    }

    async fn commit_rows(&self, rows: &[&Row]) -> Result<()> {
        let mut hold = self.hold.lock().await;
        let mut connection = self.writer(&mut hold).await?;
        match commit::write(&mut connection, rows, self.fence, &self.parts).await {
            Ok(begun) => {
                // Lost from here on means unknown: the connection does not come back then.
                commit::commit(&mut connection).await?;
                if let Some(part) = begun {
                    self.parts.note(part);
                }
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

    /// Where streams stand, by the connection that holds the lock: nothing is under way that could still move them.
    async fn settled_positions(&self, streams: &[i64]) -> Result<Vec<(i64, u64)>> {
        let mut hold = self.hold.lock().await;
        let mut connection = self.writer(&mut hold).await?;
        let found: Vec<(i64, i64)> =
            sqlx::query_as("SELECT id, pos FROM streams WHERE id = ANY($1)")
                .bind(streams)
                .fetch_all(&mut connection)
                .await?;
        hold.keep(connection);
        let positions = found.into_iter().map(|(id, pos)| (id, pos.cast_unsigned()));
        Ok(positions.collect())
    }

    async fn renew(&self, client: &str) -> Result<u64> {
        let mut hold = self.hold.lock().await;
        let mut connection = self.writer(&mut hold).await?;
        let session = receipts::renew(&mut connection, client).await?;
        hold.keep(connection);
        Ok(session)
    }
}

/// Schema, token, parts. Gives the log's id.
async fn prepare(
    hold: &mut Hold,
    connection: &mut PgConnection,
    parts: &Parts,
    place: &str,
) -> Result<String> {
    schema::check(connection, &MIGRATIONS, place).await?;
    MIGRATIONS.run(&mut *connection).await?;
    let log_id = hold.raise_fence(connection).await?;
    parts.load(connection).await?;
    Ok(log_id)
}

impl Store for PostgresStore {
    fn log_id(&self) -> &str {
        &self.log_id
    }

    fn history(&self) -> &dyn History {
        &self.history
    }

    fn high_ids(&self) -> BoxFuture<'_, Result<(u64, i64)>> {
        Box::pin(read::in_time(read::high_ids(&self.readers)))
    }

    fn commit<'a>(&'a self, rows: &'a [&'a Row]) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.in_time(self.commit_rows(rows)))
    }

    fn positions<'a>(&'a self, streams: &'a [i64]) -> BoxFuture<'a, Result<Vec<(i64, u64)>>> {
        Box::pin(self.in_time(self.settled_positions(streams)))
    }

    fn load_stream<'a>(
        &'a self,
        key: &'a StreamKey,
    ) -> BoxFuture<'a, Result<Option<StoredStream>>> {
        Box::pin(read::in_time(read::load_stream(&self.readers, key)))
    }

    fn log_after(
        &self,
        stream: i64,
        place: Place,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<LoggedReading>>> {
        let read = read::log_after(&self.readers, stream, place, limit);
        Box::pin(read::in_time(read))
    }

    fn switches(&self, stream: i64, limit: u32) -> BoxFuture<'_, Result<Vec<StoredSwitch>>> {
        Box::pin(read::in_time(read::switches(&self.readers, stream, limit)))
    }

    fn receipts<'a>(&'a self, client: &'a str) -> BoxFuture<'a, Result<StoredReceipts>> {
        Box::pin(read::in_time(receipts::read(&self.readers, client)))
    }

    fn renew_session<'a>(&'a self, client: &'a str) -> BoxFuture<'a, Result<u64>> {
        Box::pin(self.in_time(self.renew(client)))
    }

    fn last_reset(&self, stream: i64) -> BoxFuture<'_, Result<Place>> {
        Box::pin(read::in_time(read::last_reset(&self.readers, stream)))
    }

    fn calibration(
        &self,
        stream: i64,
        place: Place,
        n: u32,
    ) -> BoxFuture<'_, Result<Vec<LoggedReading>>> {
        let read = read::calibration(&self.readers, stream, place, n);
        Box::pin(read::in_time(read))
    }

    fn newest_folded(&self, stream: i64, n: u32) -> BoxFuture<'_, Result<Vec<LoggedReading>>> {
        let read = read::newest_folded(&self.readers, stream, n);
        Box::pin(read::in_time(read))
    }

    fn find(&self, stream: i64, epoch: u64, seq: u64) -> BoxFuture<'_, Result<Option<Known>>> {
        Box::pin(read::in_time(read::find(&self.readers, stream, epoch, seq)))
    }

    fn samples<'a>(&'a self, query: &'a SampleQuery) -> BoxFuture<'a, Result<Vec<StoredSample>>> {
        Box::pin(read::in_time(read::samples(&self.readers, query)))
    }

    fn count_samples<'a>(&'a self, query: &'a SampleQuery) -> BoxFuture<'a, Result<u32>> {
        Box::pin(read::in_time(read::count_samples(&self.readers, query)))
    }

    fn devices<'a>(
        &'a self,
        endpoint: Option<&'a str>,
        cursor: Option<&'a StreamKey>,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<DeviceRow>>> {
        let read = read::devices(&self.readers, endpoint, cursor, limit);
        Box::pin(read::in_time(read))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let farewell = async {
                self.readers.close().await;
                match self.hold.lock().await.connection() {
                    Ok(Some(connection)) => connection.close().await,
                    _ => Ok(()),
                }
            };
            match tokio::time::timeout(FAREWELL, farewell).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "database did not close cleanly"),
                Err(_) => tracing::warn!("database did not close in time"),
            }
        })
    }
}
