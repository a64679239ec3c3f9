//! A slow database: another connection holds SQLite's write lock, and every commit waits for it.

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection, Executor, Row};
use std::path::Path;

/// Another program at a server's database.
pub struct Intruder(SqliteConnection);

impl Intruder {
    /// Connects to the database in `data_dir`.
    pub async fn open(data_dir: &Path) -> Self {
        let options = SqliteConnectOptions::new().filename(data_dir.join("tidegate.db"));
        let connection = SqliteConnection::connect_with(&options).await;
        Self(connection.expect("the server's database"))
    }

    /// Takes the write lock.
    pub async fn hold(&mut self) {
        let begun = self.0.execute("BEGIN IMMEDIATE").await;
        begun.expect("the write lock");
    }

    /// Lets it go.
    pub async fn release(&mut self) {
        let ended = self.0.execute("ROLLBACK").await;
        ended.expect("the write lock was held");
    }

    /// The first column of what `query` finds.
    pub async fn texts(&mut self, query: &str) -> Vec<String> {
        let rows = self.0.fetch_all(AssertSqlSafe(query)).await;
        let rows = rows.expect("an answer");
        rows.iter().map(|row| row.get(0)).collect()
    }
}
