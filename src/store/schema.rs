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

/// Refuses every schema but this build's: who only reads can change none.
///
/// # Errors
/// No schema at all, an older or a newer one; what to do.
pub fn refuse_other(known: &Migrator, found: Option<i64>, place: &str) -> Result<()> {
    refuse_newer(known, found, place)?;
    let newest = known.iter().map(|migration| migration.version).max();
    let reason = match (found, newest) {
        (Some(found), Some(newest)) if found < newest => {
            format!("its schema is version {found}, this build reads version {newest}")
        }
        (None, _) => "no tidegate server has written here yet".to_owned(),
        _ => return Ok(()),
    };
    Err(StoreError::Unusable(format!(
        "database {place}: {reason}: start the server on it once"
    )))
}
