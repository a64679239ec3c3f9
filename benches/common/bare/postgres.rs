//! The bare insert on PostgreSQL: sqlx's own multi-row insert, into a partition as the server makes one for each day.

use super::{Encoded, Numbers};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Postgres, QueryBuilder};

pub async fn connect(url: &str) -> anyhow::Result<PgConnection> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql("CREATE TABLE samples_p1 PARTITION OF samples FOR VALUES IN (1)")
        .execute(&mut connection)
        .await?;
    Ok(connection)
}

pub async fn insert(
    connection: &mut PgConnection,
    streams: usize,
    first: usize,
    chunk: &[Encoded],
) -> anyhow::Result<()> {
    let mut query = QueryBuilder::<Postgres>::new(
        "INSERT INTO samples (id, stream_id, pos, epoch, seq, ts, received_at, version_id, latency_us, part, flags, numerics_rev, \
         \"values\", output) ",
    );
    query.push_values(
        (first..).zip(chunk),
        |mut row, (index, (values, output))| {
            let Numbers {
                id,
                stream,
                seq,
                ts,
            } = Numbers::of(index, streams);
            row.push_bind(id)
                .push_bind(stream)
                .push_bind(seq + 1)
                .push_bind(0_i64)
                .push_bind(seq)
                .push_bind(ts)
                .push_bind(ts)
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
