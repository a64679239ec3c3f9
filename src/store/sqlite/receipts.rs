//! Publishes that were taken and may be delivered again: written with their rows, read at start.

use super::{bulk, signed, transaction};
use crate::store::{Result, StoreError, StoredReceipts};
use crate::stream::{PublishMark, PublishRef, Row};
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use std::collections::HashMap;
use std::sync::Arc;

/// Stores how far each publish of the batch is taken, and forgets those that the broker has heard of.
pub async fn write(connection: &mut SqliteConnection, rows: &[&Row]) -> Result<()> {
    let mut newest: HashMap<(&str, u64), &PublishMark> = HashMap::new();
    for mark in rows.iter().filter_map(|row| row.mark.as_ref()) {
        newest.insert((&mark.publish.client, mark.publish.place), mark);
    }
    if newest.is_empty() {
        return Ok(());
    }
    let marks: Vec<&PublishMark> = newest.into_values().collect();
    bulk::RECEIPTS
        .run(connection, &marks, |query, mark| {
            let publish = &mark.publish;
            query
                .bind(publish.client.to_string())
                .bind(signed(publish.place))
                .bind(signed(publish.session))
                .bind(publish.packet)
                .bind(publish.hash.to_vec())
                .bind(mark.taken)
        })
        .await?;
    let mut keep_from: HashMap<&str, u64> = HashMap::new();
    for PublishMark { publish, .. } in &marks {
        let from = keep_from.entry(&publish.client).or_default();
        *from = publish.keep_from.max(*from);
    }
    for (client, from) in keep_from {
        sqlx::query("DELETE FROM mqtt_receipts WHERE client = ? AND place < ?")
            .bind(client.to_owned())
            .bind(signed(from))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// What is kept of a client's publishes.
pub async fn read(pool: &SqlitePool, client: &str) -> Result<StoredReceipts> {
    let mut connection = pool.begin().await?;
    let session = sqlx::query("SELECT session FROM mqtt_sessions WHERE client = ?")
        .bind(client.to_owned())
        .fetch_optional(&mut *connection)
        .await?;
    let session: i64 = session.map_or(0, |row| row.get(0));
    let rows = sqlx::query(
        "SELECT place, session, packet, hash, taken FROM mqtt_receipts WHERE client = ? ORDER BY place",
    )
    .bind(client.to_owned())
    .fetch_all(&mut *connection)
    .await?;
    let client: Arc<str> = client.into();
    let marks: Result<Vec<_>> = rows.iter().map(|row| mark(&client, row)).collect();
    Ok(StoredReceipts {
        session: session.cast_unsigned(),
        marks: marks?,
    })
}

fn mark(client: &Arc<str>, row: &SqliteRow) -> Result<PublishMark> {
    let hash: &[u8] = row.get(3);
    let hash = hash
        .try_into()
        .map_err(|_| StoreError::Corrupt("mqtt_receipts: a hash is not 32 bytes".into()))?;
    let publish = PublishRef {
        client: Arc::clone(client),
        session: super::read::number(row, 1),
        place: super::read::number(row, 0),
        keep_from: 0,
        packet: row.get(2),
        hash,
    };
    Ok(PublishMark {
        publish: Arc::new(publish),
        taken: row.get(4),
    })
}

/// The broker has begun another session: its number. What was kept of earlier ones is forgotten.
pub async fn renew(connection: &mut SqliteConnection, client: &str) -> Result<u64> {
    transaction::begin(connection).await?;
    let session = next_session(connection, client).await;
    transaction::end(connection, session).await
}

async fn next_session(connection: &mut SqliteConnection, client: &str) -> Result<u64> {
    let row = sqlx::query(
        "INSERT INTO mqtt_sessions (client, session) VALUES (?, 1) \
         ON CONFLICT (client) DO UPDATE SET session = session + 1 RETURNING session",
    )
    .bind(client.to_owned())
    .fetch_one(&mut *connection)
    .await?;
    let session = super::read::number(&row, 0);
    sqlx::query("DELETE FROM mqtt_receipts WHERE client = ?")
        .bind(client.to_owned())
        .execute(connection)
        .await?;
    Ok(session)
}
