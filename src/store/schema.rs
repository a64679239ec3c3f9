//! Which schemas this build can use: those it can bring up to date, and none that is newer.

use super::{Result, StoreError};
use sqlx::migrate::{Migrate, Migrator};

/// Refuses a database whose schema this build does not know, before anything is changed in it.
///
/// # Errors
/// A newer schema, with both versions named.
pub async fn check(connection: &mut impl Migrate, known: &Migrator, place: &str) -> Result<()> {
    let table = &known.table_name;
    connection.ensure_migrations_table(table).await?;
    let applied = connection.list_applied_migrations(table).await?;
    let found = applied.iter().map(|applied| applied.version).max();
    refuse_newer(known, found, place)
}

/// Refuses a newest applied version that this build does not know.
///
/// # Errors
/// Both versions, named.
pub fn refuse_newer(known: &Migrator, found: Option<i64>, place: &str) -> Result<()> {
    let newest = known.iter().map(|migration| migration.version).max();
    match (found, newest) {
        (Some(found), Some(newest)) if found > newest => Err(StoreError::Unusable(format!(
            "database {place}: its schema is version {found}, this build knows up to version {newest}: \
             use the tidegate that wrote it, or a newer one"
        ))),
        _ => Ok(()),
    }
}

/// The schema that this build knows.
pub fn newest(migrations: &Migrator) -> i64 {
    migrations.iter().map(|m| m.version).max().unwrap_or(0)
}
