//! Reaching the server: bounded in time, with settings that keep the promise, and errors that say what a person does.

use crate::store::{Result, StoreError};
use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Row};
use std::io::ErrorKind;
use std::time::Duration;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// The server finds out within half a minute that this machine is gone, and lets go of what its session held. Its notices
/// are not for us.
const SESSION: &str = "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; \
     SET client_min_messages = warning";

/// What every connection asks for.
pub fn options(given: &PgConnectOptions) -> PgConnectOptions {
    let named = match given.get_application_name() {
        Some(_) => given.clone(),
        None => given.clone().application_name("tidegate"),
    };
    named.disable_statement_logging()
}

/// What a connection asks for that never writes.
pub fn reading(given: &PgConnectOptions) -> PgConnectOptions {
    options(given).options([("default_transaction_read_only", "on")])
}

/// Connects within the time.
pub async fn within_time(options: &PgConnectOptions) -> Result<PgConnection> {
    let connected = tokio::time::timeout(CONNECT, PgConnection::connect_with(options)).await;
    Ok(connected.map_err(|_| StoreError::Slow(CONNECT))??)
}

/// A connection for writing.
pub async fn writer(options: &PgConnectOptions, full: bool, place: &str) -> Result<PgConnection> {
    let mut connection = within_time(options).await?;
    sqlx::raw_sql(SESSION).execute(&mut connection).await?;
    make_durable(&mut connection, full, place).await?;
    Ok(connection)
}

/// Reads what a commit means on this server; raises what is too weak, refuses what cannot be raised from here.
async fn make_durable(connection: &mut PgConnection, full: bool, place: &str) -> Result<()> {
    let row = sqlx::query(
        "SELECT current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit')",
    )
    .fetch_one(&mut *connection)
    .await?;
    let [fsync, whole_pages, synchronous] = [0, 1, 2].map(|column| row.get::<&str, _>(column));
    if full && fsync == "off" {
        return Err(StoreError::Unusable(format!(
            "database {place}: the server runs with fsync = off and may lose acked readings with its power: \
             set fsync = on, or store.synchronous = \"normal\" here"
        )));
    }
    if whole_pages == "off" {
        tracing::warn!(database = %place, "the server runs with full_page_writes = off: power loss may damage the database unless its file system never tears a page");
    }
    // Whatever is not `off` returns after the flush to the server's own disk; stronger settings stay as they are.
    let wanted = match (full, synchronous) {
        (true, "off") => Some("SET synchronous_commit = on"),
        (false, _) => Some("SET synchronous_commit = off"),
        (true, _) => None,
    };
    if let Some(set) = wanted {
        sqlx::raw_sql(set).execute(&mut *connection).await?;
    }
    if !full {
        tracing::warn!(database = %place, fsync, "store.synchronous = \"normal\": the last commits may be lost when the database server or its machine crashes");
    }
    Ok(())
}

/// An error at the start, in one line that says what to do.
pub fn explain(error: StoreError, place: &str) -> StoreError {
    let text = match &error {
        StoreError::Slow(wait) => {
            format!("no answer within {wait:?}: is the server reachable from here?")
        }
        StoreError::Database(error) | StoreError::Migration(MigrateError::Execute(error)) => {
            advice(error, place)
        }
        StoreError::Migration(MigrateError::ExecuteMigration(error, _)) => advice(error, place),
        _ => return error,
    };
    StoreError::Unusable(format!("database {place}: {text}"))
}

fn advice(error: &sqlx::Error, place: &str) -> String {
    let database = place.rsplit('/').next().unwrap_or_default();
    match error {
        sqlx::Error::Tls(error) => no_tls(error),
        // How a certificate that does not convince arrives here.
        sqlx::Error::Io(error) if error.kind() == ErrorKind::InvalidData => no_tls(error),
        sqlx::Error::Io(error) => {
            format!("cannot connect ({error}): is PostgreSQL running there, and store.url right?")
        }
        sqlx::Error::Database(refused) => {
            let said = refused.message();
            match refused.code().as_deref() {
                Some("28P01" | "28000") => format!(
                    "{said}: check user and password in store.url, and the server's pg_hba.conf"
                ),
                Some("3D000") => format!("{said}: make it with `createdb {database}`"),
                Some("42501") => {
                    format!("{said}: the user of store.url must own the schema or may create in it")
                }
                Some("53300") => format!("{said}: raise max_connections, or end other clients"),
                Some("57P03") => format!("{said}: start tidegate again in a moment"),
                _ => said.to_owned(),
            }
        }
        other => other.to_string(),
    }
}

fn no_tls(error: &dyn std::fmt::Display) -> String {
    format!("no TLS ({error}): see sslmode and sslrootcert in store.url")
}
