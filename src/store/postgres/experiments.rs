//! PostgreSQL's experiments; changes by the connection that holds the lock.

use super::{PostgresStore, commit, read};
use crate::store::experiments::{
    self as texts, AssignmentRow, ExperimentRow, Experiments, FeedbackRow, NewExperiment, Note,
    NoteRow, RefusedRow, ShadowRow, StateChange,
};
use crate::store::rows::signed;
use crate::store::{Result, StoreError};
use crate::stream::{ArmRef, Row, now_ms};
use futures_util::future::BoxFuture;
use sqlx::postgres::{PgConnection, PgRow};

/// Notes the arms of streams' devices, each once.
pub async fn assign(connection: &mut PgConnection, found: &[(&Row, &ArmRef)]) -> Result<()> {
    if found.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO assignments (experiment_id, device, arm, bucket, propensity, at) \
         SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::float8[], $6::bigint[]) \
         ON CONFLICT DO NOTHING",
    )
    .bind(commit::column(found, |(_, arm)| arm.experiment))
    .bind(commit::column(found, |(row, _)| row.stream.key.device.to_string()))
    .bind(commit::column(found, |(_, arm)| i64::from(arm.arm)))
    .bind(commit::column(found, |(_, arm)| i64::from(arm.bucket)))
    .bind(commit::column(found, |(_, arm)| arm.propensity))
    .bind(commit::column(found, |(_, arm)| arm.at))
    .execute(connection)
    .await?;
    Ok(())
}

/// What is done in a transaction of its own.
enum Step<'a> {
    Create(&'a NewExperiment),
    Change(StateChange<'a>),
}

/// Everything but the COMMIT.
async fn take(
    connection: &mut PgConnection,
    fence: i64,
    step: &Step<'_>,
    note: &Note,
) -> Result<()> {
    commit::begin(connection, fence).await?;
    let done = match step {
        Step::Create(new) => {
            sqlx::query(texts::CREATE)
                .bind(new.name.clone())
                .bind(new.endpoint.clone())
                .bind(new.definition.clone())
                .bind(now_ms())
                .execute(&mut *connection)
                .await?
        }
        Step::Change(change) => {
            sqlx::query(texts::CHANGE)
                .bind(change.id)
                .bind(change.from.to_owned())
                .bind(change.to.to_owned())
                .bind(i64::from(change.step))
                .execute(&mut *connection)
                .await?
        }
    };
    if done.rows_affected() == 0 {
        return Err(StoreError::Moved(Vec::new()));
    }
    let query = match step {
        Step::Create(new) => sqlx::query(texts::BEGIN_HISTORY).bind(new.name.clone()),
        Step::Change(change) => sqlx::query(texts::NOTE).bind(change.id),
    };
    query
        .bind(now_ms())
        .bind(note.who.clone())
        .bind(note.what.clone())
        .bind(note.evidence.clone())
        .execute(connection)
        .await?;
    Ok(())
}

/// Everything but the COMMIT.
async fn insert_shadows(
    connection: &mut PgConnection,
    fence: i64,
    rows: &[ShadowRow],
) -> Result<()> {
    commit::begin(connection, fence).await?;
    sqlx::query(
        "INSERT INTO shadow_predictions (sample_id, version_id, output, latency_us) \
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::bigint[]) ON CONFLICT DO NOTHING",
    )
    .bind(commit::column(rows, |row| signed(row.sample)))
    .bind(commit::column(rows, |row| row.version))
    .bind(commit::column(rows, ShadowRow::bytes))
    .bind(commit::column(rows, |row| i64::from(row.latency_us)))
    .execute(connection)
    .await?;
    Ok(())
}

impl PostgresStore {
    async fn step(&self, step: Step<'_>, note: &Note) -> Result<()> {
        let mut hold = self.hold.lock().await;
        let mut connection = self.writer(&mut hold).await?;
        match take(&mut connection, self.fence, &step, note).await {
            Ok(()) => {
                // Lost from here on means unknown: the connection does not come back then.
                commit::commit(&mut connection).await?;
                hold.keep(connection);
                Ok(())
            }
            Err(error) => {
                if commit::roll_back(&mut connection).await.is_ok() {
                    hold.keep(connection);
                }
                Err(hold.judge(error))
            }
        }
    }

    /// By the connection that holds the lock, so that a server that was taken over adds nothing: the fence is checked.
    async fn add_shadows(&self, rows: &[ShadowRow]) -> Result<()> {
        let mut hold = self.hold.lock().await;
        let mut connection = self.writer(&mut hold).await?;
        match insert_shadows(&mut connection, self.fence, rows).await {
            Ok(()) => {
                commit::commit(&mut connection).await?;
                hold.keep(connection);
                Ok(())
            }
            Err(error) => {
                if commit::roll_back(&mut connection).await.is_ok() {
                    hold.keep(connection);
                }
                Err(hold.judge(error))
            }
        }
    }

    async fn rows<T>(
        &self,
        query: sqlx::query::Query<'_, sqlx::Postgres, sqlx::postgres::PgArguments>,
        read_one: impl Fn(&PgRow) -> T,
    ) -> Result<Vec<T>> {
        read::in_time(async {
            let mut reader = self.readers.take().await?;
            let rows = query.fetch_all(&mut *reader).await?;
            Ok(reader.done(rows.iter().map(read_one).collect()))
        })
        .await
    }
}

impl Experiments for PostgresStore {
    fn experiments(&self) -> BoxFuture<'_, Result<Vec<ExperimentRow>>> {
        Box::pin(self.rows(sqlx::query(texts::ALL), texts::experiment))
    }

    fn create_experiment<'a>(
        &'a self,
        new: &'a NewExperiment,
        note: &'a Note,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.in_time(self.step(Step::Create(new), note)))
    }

    fn change_experiment<'a>(
        &'a self,
        change: StateChange<'a>,
        note: &'a Note,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.in_time(self.step(Step::Change(change), note)))
    }

    fn experiment_history(&self, id: i64) -> BoxFuture<'_, Result<Vec<NoteRow>>> {
        Box::pin(self.rows(sqlx::query(texts::HISTORY).bind(id), texts::note))
    }

    fn assignments<'a>(
        &'a self,
        id: i64,
        cursor: &'a str,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<AssignmentRow>>> {
        let query = sqlx::query(texts::ASSIGNMENTS).bind(id).bind(cursor);
        Box::pin(self.rows(query.bind(i64::from(limit)), texts::assignment))
    }

    fn feedback_after<'a>(
        &'a self,
        endpoint: &'a str,
        id: u64,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<FeedbackRow>>> {
        let query = sqlx::query(texts::FEEDBACK).bind(signed(id)).bind(endpoint);
        Box::pin(self.rows(query.bind(i64::from(limit)), texts::feedback))
    }

    fn store_shadows<'a>(&'a self, rows: &'a [ShadowRow]) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.in_time(self.add_shadows(rows)))
    }

    fn shadows(&self, after: u64, until: u64) -> BoxFuture<'_, Result<Vec<ShadowRow>>> {
        let query = sqlx::query(texts::SHADOWS)
            .bind(signed(after))
            .bind(signed(until));
        Box::pin(async move { self.rows(query, texts::shadow).await?.into_iter().collect() })
    }

    fn refusals_after<'a>(
        &'a self,
        endpoint: &'a str,
        id: u64,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<RefusedRow>>> {
        let query = sqlx::query(texts::REFUSALS).bind(signed(id)).bind(endpoint);
        Box::pin(self.rows(query.bind(i64::from(limit)), texts::refused))
    }
}
