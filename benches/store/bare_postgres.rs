//! The yardstick on PostgreSQL: sqlx's own multi-row insert, 500 rows a statement, into the table and indexes that the server made.

use super::{BARE_CHUNK, STREAMS, encoded, per_s};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Postgres, QueryBuilder};
use std::time::Instant;

/// Rows a second; the table is empty again afterwards.
pub async fn insert(url: &str, rows: usize, max_batch: usize) -> anyhow::Result<f64> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql("CREATE TABLE samples_p1 PARTITION OF samples FOR VALUES IN (1)")
        .execute(&mut connection)
        .await?;
    let encoded: Vec<(Vec<u8>, Vec<u8>)> = (0..rows as u64).map(encoded).collect();
    let start = Instant::now();
    for (batch, chunk) in encoded.chunks(max_batch).enumerate() {
        let mut transaction = connection.begin().await?;
        for (part, chunk) in chunk.chunks(BARE_CHUNK).enumerate() {
            let first = batch * max_batch + part * BARE_CHUNK;
            insert_chunk(&mut transaction, first, chunk).await?;
        }
        transaction.commit().await?;
    }
    let took = start.elapsed();
    connection.close().await?;
    empty(url).await?;
    Ok(per_s(rows, took))
}

async fn insert_chunk(
    connection: &mut PgConnection,
    first: usize,
    chunk: &[(Vec<u8>, Vec<u8>)],
) -> anyhow::Result<()> {
    let mut query = QueryBuilder::<Postgres>::new(
        "INSERT INTO samples (id, stream_id, pos, epoch, seq, ts, received_at, version_id, latency_us, part, flags, numerics_rev, \
         \"values\", output) ",
    );
    query.push_values(
        (first..).zip(chunk),
        |mut row, (index, (values, output))| {
            let seq = (index / STREAMS) as i64;
            row.push_bind(index as i64 + 1)
                .push_bind((index % STREAMS) as i64 + 1)
                .push_bind(seq + 1)
                .push_bind(0_i64)
                .push_bind(seq)
                .push_bind(1_770_000_000_000 + seq)
                .push_bind(1_770_000_000_000 + seq)
                .push_bind(1_i64)
                .push_bind(100_i64)
                .push_bind(1_i32)
                .push_bind(16_i32)
                .push_bind(1_i32)
                .push_bind(values)
                .push_bind(output);
        },
    );
    query.build().execute(connection).await?;
    Ok(())
}

/// Takes everything of a run away.
pub async fn empty(url: &str) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT quote_ident(relname) FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition \
         AND relnamespace = current_schema()::regnamespace",
    )
    .fetch_all(&mut connection)
    .await?;
    let drop = format!("DROP TABLE {}", tables.join(", "));
    sqlx::raw_sql(sqlx::AssertSqlSafe(drop))
        .execute(&mut connection)
        .await?;
    // What was written is not the next run's to flush.
    sqlx::raw_sql("CHECKPOINT").execute(&mut connection).await?;
    Ok(connection.close().await?)
}
