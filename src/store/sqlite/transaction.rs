//! One write transaction on the one writing connection, begun and ended by hand.
//!
//! Not through sqlx's `Transaction`: a disk without room makes SQLite roll back by itself, the roll-back that follows then fails, and
//! the depth that sqlx counts beside it never comes down again: every later transaction on the connection would be refused.

use crate::store::{Result, StoreError};
use sqlx::SqliteConnection;

/// Says that a transaction is open already; a database that another one has locked says something else.
const SQLITE_ERROR: &str = "1";

/// Begins, and locks out other writers. What a caller that was dropped has left open is rolled back first.
pub async fn begin(connection: &mut SqliteConnection) -> Result<()> {
    match run(connection, "BEGIN IMMEDIATE").await {
        Err(StoreError::Database(sqlx::Error::Database(error)))
            if error.code().as_deref() == Some(SQLITE_ERROR) =>
        {
            roll_back(connection).await;
            run(connection, "BEGIN IMMEDIATE").await
        }
        begun => begun,
    }
}

/// Makes it last where `done` is well, and takes all of it back where it is not.
pub async fn end<T>(connection: &mut SqliteConnection, done: Result<T>) -> Result<T> {
    let ended = match done {
        Ok(done) => run(connection, "COMMIT").await.map(|()| done),
        Err(error) => Err(error),
    };
    if ended.is_err() {
        roll_back(connection).await;
    }
    ended
}

/// Fails where nothing is open, which is what it is for.
async fn roll_back(connection: &mut SqliteConnection) {
    if let Err(error) = run(connection, "ROLLBACK").await {
        tracing::debug!(%error, "nothing to roll back");
    }
}

async fn run(connection: &mut SqliteConnection, statement: &'static str) -> Result<()> {
    sqlx::raw_sql(statement).execute(connection).await?;
    Ok(())
}
