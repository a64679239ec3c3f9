//! Publishes that were taken and may be delivered again: written with their rows, read at start.

use super::commit::column;
use super::read::{Readers, number};
use crate::store::rows::signed;
use crate::store::{Result, StoreError, StoredReceipts};
use crate::stream::{PublishMark, PublishRef, Row};
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Stores how far each publish of the batch is taken, and forgets those that the broker has heard of.
pub async fn write(connection: &mut PgConnection, rows: &[&Row]) -> Result<()> {
    let marks = rows.iter().filter_map(|row| row.mark.as_ref());
    // The last mark of a publish is the one that counts.
    let newest: BTreeMap<(&str, u64), &PublishMark> = marks
        .map(|mark| ((&*mark.publish.client, mark.publish.place), mark))
        .collect();
    if newest.is_empty() {
        return Ok(());
    }
    let marks: Vec<&PublishMark> = newest.into_values().collect();
    sqlx::query(
        "INSERT INTO mqtt_receipts (client, place, session, packet, hash, taken) \
         SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::int[], $5::bytea[], $6::bigint[]) \
         ON CONFLICT (client, place) DO UPDATE SET taken = excluded.taken",
    )
    .bind(column(&marks, |mark| mark.publish.client.to_string()))
    .bind(column(&marks, |mark| signed(mark.publish.place)))
    .bind(column(&marks, |mark| signed(mark.publish.session)))
    .bind(column(&marks, |mark| i32::from(mark.publish.packet)))
    .bind(column(&marks, |mark| mark.publish.hash.to_vec()))
    .bind(column(&marks, |mark| i64::from(mark.taken)))
    .execute(&mut *connection)
    .await?;
    let mut keep_from: BTreeMap<&str, u64> = BTreeMap::new();
    for PublishMark { publish, .. } in &marks {
        let from = keep_from.entry(&publish.client).or_default();
        *from = publish.keep_from.max(*from);
    }
    for (client, from) in keep_from {
        sqlx::query("DELETE FROM mqtt_receipts WHERE client = $1 AND place < $2")
            .bind(client)
            .bind(signed(from))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// What is kept of a client's publishes; one statement, so that session and publishes belong to the same commit.
pub async fn read(readers: &Readers, client: &str) -> Result<StoredReceipts> {
    let mut reader = readers.take().await?;
    let rows = sqlx::query(
        "SELECT coalesce((SELECT session FROM mqtt_sessions WHERE client = $1), 0), r.place, r.session, r.packet, r.hash, r.taken \
         FROM (SELECT 1) one LEFT JOIN mqtt_receipts r ON r.client = $1 ORDER BY r.place",
    )
    .bind(client)
    .fetch_all(&mut *reader)
    .await?;
    let session = rows.first().map_or(0, |row| number(row, 0));
    let client: Arc<str> = client.into();
    let marks: Result<Vec<_>> = rows
        .iter()
        .filter(|row| row.get::<Option<i64>, _>(1).is_some())
        .map(|row| mark(&client, row))
        .collect();
    Ok(reader.done(StoredReceipts {
        session,
        marks: marks?,
    }))
}

fn mark(client: &Arc<str>, row: &PgRow) -> Result<PublishMark> {
    let corrupt = |what: &str| StoreError::Corrupt(format!("mqtt_receipts: {what}"));
    let hash: &[u8] = row.get(4);
    let publish = PublishRef {
        client: Arc::clone(client),
        session: number(row, 2),
        place: number(row, 1),
        keep_from: 0,
        packet: u16::try_from(row.get::<i32, _>(3)).map_err(|_| corrupt("a packet id is none"))?,
        hash: hash
            .try_into()
            .map_err(|_| corrupt("a hash is not 32 bytes"))?,
    };
    Ok(PublishMark {
        publish: Arc::new(publish),
        taken: u32::try_from(number(row, 5)).map_err(|_| corrupt("a count is none"))?,
    })
}

/// The broker has begun another session: its number. What was kept of earlier ones is forgotten.
pub async fn renew(connection: &mut PgConnection, client: &str) -> Result<u64> {
    let row = sqlx::query(
        "WITH forgotten AS (DELETE FROM mqtt_receipts WHERE client = $1) \
         INSERT INTO mqtt_sessions (client, session) VALUES ($1, 1) \
         ON CONFLICT (client) DO UPDATE SET session = mqtt_sessions.session + 1 RETURNING session",
    )
    .bind(client)
    .fetch_one(connection)
    .await?;
    Ok(number(&row, 0))
}
