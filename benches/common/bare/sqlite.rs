//! The bare insert on SQLite: WAL, `synchronous = FULL`, no checks of foreign keys, as the server's writer has it.

use super::{Encoded, Numbers};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection};
use std::path::Path;

pub async fn connect(dir: &Path) -> anyhow::Result<SqliteConnection> {
    let options = SqliteConnectOptions::new()
        .filename(dir.join("tidegate.db"))
        .journal_mode(SqliteJournalMode::Wal)
        .foreign_keys(false)
        .synchronous(SqliteSynchronous::Full);
    Ok(SqliteConnection::connect_with(&options).await?)
}

pub async fn insert(
    connection: &mut SqliteConnection,
    streams: usize,
    first: usize,
    chunk: &[Encoded],
) -> anyhow::Result<()> {
    let row = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let text = format!(
        "INSERT INTO samples (id, stream_id, pos, epoch, seq, ts, received_at, \"values\", output, version_id, latency_us, \
         flags, numerics_rev) VALUES {}",
        vec![row; chunk.len()].join(", ")
    );
    let mut query = sqlx::query(AssertSqlSafe(text));
    for (index, (values, output)) in (first..).zip(chunk) {
        let Numbers {
            id,
            stream,
            seq,
            ts,
        } = Numbers::of(index, streams);
        query = query
            .bind(id)
            .bind(stream)
            .bind(seq + 1)
            .bind(0_i64)
            .bind(seq)
            .bind(ts)
            .bind(ts)
            .bind(values)
            .bind(output)
            .bind(1_i64)
            .bind(100_i64)
            .bind(16_i64)
            .bind(1_i64);
    }
    query.execute(connection).await?;
    Ok(())
}
