//! Who may write: the connection that holds the advisory lock, and the token that every new server raises.
//!
//! Owns the writing connection between commits. Promises that a connection which was lost is followed by another only when the
//! server has ended the old one, so that its transaction is settled; and that a server which was overtaken finds out.

use super::connect;
use crate::store::{Result, StoreError};
use crate::stream::now_ms;
use crate::telemetry::metric;
use sqlx::Row;
use sqlx::postgres::{PgConnectOptions, PgConnection};

/// Locks are the database's own; the schema tells apart logs that share one.
const KEY: &str =
    "SELECT hashtextextended('tidegate writer of ' || current_schema(), 0), pg_backend_pid()";
const TRY_LOCK: &str = "SELECT pg_try_advisory_lock($1)";
/// Longer than a server needs to end a session whose client was killed, or one that it was told to end.
const WAIT_FOR_LOCK: &str = "BEGIN; SET LOCAL lock_timeout = '3s'";
const LOCK: &str = "SELECT pg_advisory_lock($1)";
/// A key of 64 bits is shown as two halves.
const HOLDER: &str = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 \
     AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
     AND (classid::bigint << 32) | objid::bigint = $1";

/// The right to write one database.
pub struct Hold {
    options: PgConnectOptions,
    place: String,
    full: bool,
    key: i64,
    fence: i64,
    fenced: bool,
    connection: Option<PgConnection>,
    /// Sessions of ours that may hold the lock still.
    sessions: Vec<i32>,
}

impl Hold {
    /// Takes the lock; the fence is still to be raised.
    ///
    /// # Errors
    /// See [`connect::explain`]; and another server that holds it.
    pub async fn take(
        options: &PgConnectOptions,
        place: &str,
        full: bool,
    ) -> Result<(Self, PgConnection)> {
        let mut hold = Self {
            options: connect::options(options),
            place: place.to_owned(),
            full,
            key: 0,
            fence: 0,
            fenced: false,
            connection: None,
            sessions: Vec::new(),
        };
        match hold.open().await {
            Ok(connection) => Ok((hold, connection)),
            Err(error) => Err(connect::explain(error, place)),
        }
    }

    /// Makes the log's row where there is none, and the token this server's own. Gives the log's id.
    pub async fn raise_fence(&mut self, connection: &mut PgConnection) -> Result<String> {
        sqlx::query(
            "INSERT INTO log (id, created) SELECT left(replace(gen_random_uuid()::text, '-', ''), 16), $1 \
             WHERE NOT EXISTS (SELECT FROM log)",
        )
        .bind(now_ms())
        .execute(&mut *connection)
        .await?;
        let row = sqlx::query("UPDATE log SET fence = fence + 1 RETURNING id, fence")
            .fetch_one(connection)
            .await?;
        self.fence = row.get(1);
        Ok(row.get(0))
    }

    /// The token that every transaction of this server checks.
    pub fn fence(&self) -> i64 {
        self.fence
    }

    /// The connection, taken out; `None` when it has to be made anew.
    ///
    /// # Errors
    /// Another server took over.
    pub fn connection(&mut self) -> Result<Option<PgConnection>> {
        if self.fenced {
            return Err(StoreError::Fenced);
        }
        Ok(self.connection.take())
    }

    /// Puts a connection back that is between transactions.
    pub fn keep(&mut self, connection: PgConnection) {
        self.connection = Some(connection);
    }

    /// Takes note of an error that is final.
    pub fn judge(&mut self, error: StoreError) -> StoreError {
        self.fenced |= matches!(error, StoreError::Fenced);
        error
    }

    /// A new connection that holds the lock: what the old one left open is settled.
    pub async fn reconnect(&mut self) -> Result<PgConnection> {
        metrics::counter!(metric::STORE_RECONNECTS).increment(1);
        let mut connection = self.connect().await?;
        // Whoever took over holds the lock as long as it runs: looked up before the wait for it, and once more behind it.
        self.check_fence(&mut connection).await?;
        self.lock(&mut connection).await?;
        self.check_fence(&mut connection).await?;
        tracing::info!(database = %self.place, "connected again");
        Ok(connection)
    }

    async fn open(&mut self) -> Result<PgConnection> {
        let mut connection = self.connect().await?;
        self.lock(&mut connection).await?;
        Ok(connection)
    }

    async fn connect(&mut self) -> Result<PgConnection> {
        let mut connection = connect::writer(&self.options, self.full, &self.place).await?;
        let row = sqlx::query(KEY).fetch_one(&mut connection).await?;
        let key: Option<i64> = row.get(0);
        self.key = key.ok_or_else(|| self.unusable("no schema of its search_path exists"))?;
        self.sessions.push(row.get(1));
        Ok(connection)
    }

    async fn check_fence(&mut self, connection: &mut PgConnection) -> Result<()> {
        let fence: i64 = sqlx::query_scalar("SELECT fence FROM log")
            .fetch_one(connection)
            .await?;
        if fence == self.fence {
            return Ok(());
        }
        Err(self.judge(StoreError::Fenced))
    }

    /// Waits for the lock a moment; a session of our own that the server believes alive is ended for it.
    async fn lock(&mut self, connection: &mut PgConnection) -> Result<()> {
        let locked: bool = sqlx::query_scalar(TRY_LOCK)
            .bind(self.key)
            .fetch_one(&mut *connection)
            .await?;
        if !locked {
            let ours = self.end_lost_session(connection).await?;
            self.wait_for_lock(connection, ours).await?;
        }
        // Nobody else holds it, so the sessions before this one are over.
        self.sessions.drain(..self.sessions.len() - 1);
        Ok(())
    }

    /// Whether it was ours.
    async fn end_lost_session(&self, connection: &mut PgConnection) -> Result<bool> {
        let holder: Option<i32> = sqlx::query_scalar(HOLDER)
            .bind(self.key)
            .fetch_optional(&mut *connection)
            .await?;
        let Some(session) = holder.filter(|holder| self.sessions.contains(holder)) else {
            return Ok(false);
        };
        sqlx::query("SELECT pg_terminate_backend($1)")
            .bind(session)
            .execute(connection)
            .await?;
        Ok(true)
    }

    async fn wait_for_lock(&mut self, connection: &mut PgConnection, ours: bool) -> Result<()> {
        sqlx::raw_sql(WAIT_FOR_LOCK)
            .execute(&mut *connection)
            .await?;
        let waited = sqlx::query(LOCK)
            .bind(self.key)
            .execute(&mut *connection)
            .await;
        waited.map_err(|error| match error.as_database_error() {
            Some(refused) if refused.code().as_deref() == Some("55P03") => {
                // Refused for certain: this session will not get it later either.
                self.sessions.pop();
                self.unusable(if ours {
                    "the session that was lost has not ended there yet"
                } else {
                    "in use by another tidegate server"
                })
            }
            _ => error.into(),
        })?;
        sqlx::raw_sql("COMMIT").execute(connection).await?;
        Ok(())
    }

    fn unusable(&self, why: &str) -> StoreError {
        StoreError::Unusable(format!("database {}: {why}", self.place))
    }
}
