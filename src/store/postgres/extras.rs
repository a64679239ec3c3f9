//! What a reading seldom brings: refusals, log rows, gaps, snapshots, feedback. A statement a kind and batch, rows through `unnest`.

use super::commit::column;
use super::{experiments, receipts};
use crate::store::Result;
use crate::store::rows::{log_kind, signed};
use crate::stream::{ArmRef, RefusalRow, Row, Snapshot, What, to_le_bytes};
use sqlx::postgres::PgConnection;
use std::collections::BTreeMap;
use tidegate_protocol::message::Label;

/// Writes them for the whole batch.
pub async fn write(connection: &mut PgConnection, rows: &[&Row], at: i64) -> Result<()> {
    insert_refusals(connection, rows).await?;
    insert_log_rows(connection, rows, at).await?;
    insert_feedback(connection, rows, at).await?;
    replace_gaps(connection, rows).await?;
    insert_snapshots(connection, rows).await?;
    receipts::write(connection, rows).await
}

/// PostgreSQL's text cannot hold NUL; a peer's may.
pub fn text(given: &str) -> String {
    given.replace('\0', "\u{fffd}")
}

async fn insert_refusals(connection: &mut PgConnection, rows: &[&Row]) -> Result<()> {
    let found: Vec<(&Row, &RefusalRow)> = rows
        .iter()
        .filter_map(|row| match &row.what {
            What::Refusal(refusal) => Some((*row, refusal.as_ref())),
            _ => None,
        })
        .collect();
    if found.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO refusals (stream_id, pos, epoch, seq, code, message, consumed, at) \
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::bool[], $8::bigint[])",
    )
    .bind(column(&found, |(row, _)| row.stream.id))
    .bind(column(&found, |(row, _)| signed(row.after.pos)))
    .bind(column(&found, |(_, refusal)| signed(refusal.epoch)))
    .bind(column(&found, |(_, refusal)| refusal.seq.map(signed)))
    .bind(column(&found, |(_, refusal)| refusal.code.as_str()))
    .bind(column(&found, |(_, refusal)| text(&refusal.message)))
    .bind(column(&found, |(_, refusal)| refusal.consumed))
    .bind(column(&found, |(_, refusal)| refusal.at))
    .execute(connection)
    .await?;
    Ok(())
}

/// A switch, a reset or the start of an epoch.
struct LogRow<'a> {
    row: &'a Row,
    kind: i32,
    version: Option<i64>,
    warm_from: Option<u64>,
    reason: &'static str,
    arm: Option<&'a ArmRef>,
}

fn log_row<'a>(row: &&'a Row) -> Option<LogRow<'a>> {
    let plain = |kind, reason| LogRow {
        row,
        kind,
        version: None,
        warm_from: None,
        reason,
        arm: None,
    };
    match &row.what {
        What::Epoch => Some(plain(log_kind::EPOCH, "started by the device")),
        What::Reset { reason } => Some(plain(log_kind::RESET, reason)),
        What::Switch {
            version,
            reason,
            warm_from,
            arm,
        } => Some(LogRow {
            version: Some(version.id),
            warm_from: *warm_from,
            arm: arm.as_deref(),
            ..plain(log_kind::SWITCH, reason)
        }),
        _ => None,
    }
}

async fn insert_log_rows(connection: &mut PgConnection, rows: &[&Row], at: i64) -> Result<()> {
    let found: Vec<_> = rows.iter().filter_map(log_row).collect();
    if found.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO stream_log (stream_id, pos, sample_id, kind, epoch, version_id, warm_from, reason, arm, propensity, at) \
         SELECT *, $11 FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::int[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[], \
         $9::text[], $10::float8[])",
    )
    .bind(column(&found, |entry| entry.row.stream.id))
    .bind(column(&found, |entry| signed(entry.row.after.pos)))
    .bind(column(&found, |entry| signed(entry.row.id)))
    .bind(column(&found, |entry| entry.kind))
    .bind(column(&found, |entry| signed(entry.row.after.epoch)))
    .bind(column(&found, |entry| entry.version))
    .bind(column(&found, |entry| entry.warm_from.map(signed)))
    .bind(column(&found, |entry| entry.reason))
    .bind(column(&found, |entry| entry.arm.map(|arm| arm.label.to_string())))
    .bind(column(&found, |entry| entry.arm.map(|arm| arm.propensity)))
    .bind(at)
    .execute(&mut *connection)
    .await?;
    let drawn = found
        .iter()
        .filter_map(|entry| Some((entry.row, entry.arm?)));
    experiments::assign(connection, &drawn.collect::<Vec<_>>()).await
}

async fn insert_feedback(connection: &mut PgConnection, rows: &[&Row], at: i64) -> Result<()> {
    let found: Vec<(i64, u64, u64, &Label)> = rows
        .iter()
        .filter_map(|row| match &row.what {
            What::Feedback { epoch, seq, label } => Some((row.stream.id, *epoch, *seq, label)),
            _ => None,
        })
        .collect();
    if found.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO feedback (stream_id, epoch, seq, label, number, at) \
         SELECT *, $6 FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::real[])",
    )
    .bind(column(&found, |(stream, ..)| *stream))
    .bind(column(&found, |(_, epoch, ..)| signed(*epoch)))
    .bind(column(&found, |(_, _, seq, _)| signed(*seq)))
    .bind(column(&found, |(.., label)| match label {
        Label::Text(label) => Some(text(label)),
        Label::Number(_) => None,
    }))
    .bind(column(&found, |(.., label)| match label {
        Label::Text(_) => None,
        Label::Number(number) => Some(*number),
    }))
    .bind(at)
    .execute(connection)
    .await?;
    Ok(())
}

/// The last list of each stream in the batch is the one that counts.
async fn replace_gaps(connection: &mut PgConnection, rows: &[&Row]) -> Result<()> {
    type List<'a> = (u64, &'a [(u64, u64)]);
    let lists: BTreeMap<i64, List<'_>> = rows
        .iter()
        .filter_map(|row| Some((row.stream.id, (row.after.epoch, row.gaps.as_deref()?))))
        .collect();
    if lists.is_empty() {
        return Ok(());
    }
    let streams: Vec<i64> = lists.keys().copied().collect();
    sqlx::query("DELETE FROM gaps WHERE stream_id = ANY($1)")
        .bind(streams)
        .execute(&mut *connection)
        .await?;
    let gaps: Vec<(i64, u64, (u64, u64))> = lists
        .iter()
        .flat_map(|(stream, (epoch, gaps))| gaps.iter().map(|gap| (*stream, *epoch, *gap)))
        .collect();
    if gaps.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO gaps (stream_id, epoch, from_seq, to_seq) \
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[])",
    )
    .bind(column(&gaps, |(stream, ..)| *stream))
    .bind(column(&gaps, |(_, epoch, _)| signed(*epoch)))
    .bind(column(&gaps, |(.., (from, _))| signed(*from)))
    .bind(column(&gaps, |(.., (_, to))| signed(*to)))
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_snapshots(connection: &mut PgConnection, rows: &[&Row]) -> Result<()> {
    let found: Vec<(&Row, &Snapshot)> = rows
        .iter()
        .filter_map(|row| Some((*row, row.snapshot.as_ref()?)))
        .collect();
    if found.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO snapshots (stream_id, pos, sample_id, version_id, layout, numerics_rev, last_ts, state) \
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::int[], $7::bigint[], $8::bytea[])",
    )
    .bind(column(&found, |(row, _)| row.stream.id))
    .bind(column(&found, |(row, _)| signed(row.after.pos)))
    .bind(column(&found, |(row, _)| signed(row.id)))
    .bind(column(&found, |(_, snapshot)| snapshot.version.id))
    .bind(column(&found, |(_, snapshot)| snapshot.layout.to_string()))
    .bind(column(&found, |(_, snapshot)| snapshot.numerics_rev.cast_signed()))
    .bind(column(&found, |(_, snapshot)| snapshot.last_ts))
    .bind(column(&found, |(_, snapshot)| to_le_bytes(&snapshot.state)))
    .execute(connection)
    .await?;
    Ok(())
}
