//! SQLite's experiments.

use super::{SqliteStore, closed, transaction};
use crate::store::experiments::{
    self as texts, AssignmentRow, ExperimentRow, Experiments, FeedbackRow, NewExperiment, Note,
    NoteRow, RefusedRow, ShadowRow, StateChange,
};
use crate::store::rows::signed;
use crate::store::{Result, StoreError};
use crate::stream::{ArmRef, Row, now_ms};
use futures_util::future::BoxFuture;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

/// Notes the arm of a stream's device, once.
pub async fn assign(connection: &mut SqliteConnection, row: &Row, arm: &ArmRef) -> Result<()> {
    sqlx::query(
        "INSERT INTO assignments (experiment_id, device, arm, bucket, propensity, at) VALUES (?, ?, ?, ?, ?, ?) \
         ON CONFLICT DO NOTHING",
    )
    .bind(arm.experiment)
    .bind(row.stream.key.device.to_string())
    .bind(arm.arm)
    .bind(arm.bucket)
    .bind(arm.propensity)
    .bind(arm.at)
    .execute(connection)
    .await?;
    Ok(())
}

async fn create(connection: &mut SqliteConnection, new: &NewExperiment, note: &Note) -> Result<()> {
    let done = sqlx::query(texts::CREATE)
        .bind(new.name.clone())
        .bind(new.endpoint.clone())
        .bind(new.definition.clone())
        .bind(now_ms())
        .execute(&mut *connection)
        .await?;
    if done.rows_affected() == 0 {
        return Err(StoreError::Moved(Vec::new()));
    }
    sqlx::query(texts::BEGIN_HISTORY)
        .bind(new.name.clone())
        .bind(now_ms())
        .bind(note.who.clone())
        .bind(note.what.clone())
        .bind(note.evidence.clone())
        .execute(connection)
        .await?;
    Ok(())
}

async fn change(
    connection: &mut SqliteConnection,
    change: StateChange<'_>,
    note: &Note,
) -> Result<()> {
    let done = sqlx::query(texts::CHANGE)
        .bind(change.id)
        .bind(change.from.to_owned())
        .bind(change.to.to_owned())
        .bind(change.step)
        .execute(&mut *connection)
        .await?;
    if done.rows_affected() == 0 {
        return Err(StoreError::Moved(Vec::new()));
    }
    sqlx::query(texts::NOTE)
        .bind(change.id)
        .bind(now_ms())
        .bind(note.who.clone())
        .bind(note.what.clone())
        .bind(note.evidence.clone())
        .execute(connection)
        .await?;
    Ok(())
}

async fn add_shadows(connection: &mut SqliteConnection, rows: &[ShadowRow]) -> Result<()> {
    for row in rows {
        sqlx::query(
            "INSERT INTO shadow_predictions (sample_id, version_id, output, latency_us) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(signed(row.sample))
        .bind(row.version)
        .bind(row.bytes())
        .bind(row.latency_us)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

fn all<T>(rows: &[SqliteRow], read: impl Fn(&SqliteRow) -> T) -> Vec<T> {
    rows.iter().map(read).collect()
}

impl Experiments for SqliteStore {
    fn experiments(&self) -> BoxFuture<'_, Result<Vec<ExperimentRow>>> {
        Box::pin(async {
            let rows = sqlx::query(texts::ALL).fetch_all(&self.readers).await?;
            Ok(all(&rows, texts::experiment))
        })
    }

    fn create_experiment<'a>(
        &'a self,
        new: &'a NewExperiment,
        note: &'a Note,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut writer = self.writer.lock().await;
            let connection = writer.as_mut().ok_or_else(closed)?;
            transaction::begin(connection).await?;
            let done = create(connection, new, note).await;
            transaction::end(connection, done).await
        })
    }

    fn change_experiment<'a>(
        &'a self,
        wanted: StateChange<'a>,
        note: &'a Note,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut writer = self.writer.lock().await;
            let connection = writer.as_mut().ok_or_else(closed)?;
            transaction::begin(connection).await?;
            let done = change(connection, wanted, note).await;
            transaction::end(connection, done).await
        })
    }

    fn experiment_history(&self, id: i64) -> BoxFuture<'_, Result<Vec<NoteRow>>> {
        Box::pin(async move {
            let query = sqlx::query(texts::HISTORY).bind(id);
            let rows = query.fetch_all(&self.readers).await?;
            Ok(all(&rows, texts::note))
        })
    }

    fn assignments<'a>(
        &'a self,
        id: i64,
        cursor: &'a str,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<AssignmentRow>>> {
        Box::pin(async move {
            let query = sqlx::query(texts::ASSIGNMENTS).bind(id).bind(cursor);
            let rows = query.bind(limit).fetch_all(&self.readers).await?;
            Ok(all(&rows, texts::assignment))
        })
    }

    fn feedback_after<'a>(
        &'a self,
        endpoint: &'a str,
        id: u64,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<FeedbackRow>>> {
        Box::pin(async move {
            let query = sqlx::query(texts::FEEDBACK).bind(signed(id)).bind(endpoint);
            let rows = query.bind(limit).fetch_all(&self.readers).await?;
            Ok(all(&rows, texts::feedback))
        })
    }

    fn store_shadows<'a>(&'a self, rows: &'a [ShadowRow]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut writer = self.writer.lock().await;
            let connection = writer.as_mut().ok_or_else(closed)?;
            transaction::begin(connection).await?;
            let done = add_shadows(connection, rows).await;
            transaction::end(connection, done).await
        })
    }

    fn shadows(&self, after: u64, until: u64) -> BoxFuture<'_, Result<Vec<ShadowRow>>> {
        Box::pin(async move {
            let query = sqlx::query(texts::SHADOWS).bind(signed(after));
            let rows = query.bind(signed(until)).fetch_all(&self.readers).await?;
            rows.iter().map(texts::shadow).collect()
        })
    }

    fn refusals_after<'a>(
        &'a self,
        endpoint: &'a str,
        id: u64,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<RefusedRow>>> {
        Box::pin(async move {
            let query = sqlx::query(texts::REFUSALS).bind(signed(id)).bind(endpoint);
            let rows = query.bind(limit).fetch_all(&self.readers).await?;
            Ok(all(&rows, texts::refused))
        })
    }
}
