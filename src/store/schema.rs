//! Which schema a database has, and whether this build knows it.

use super::{Result, StoreError};
use sqlx::migrate::Migrator;

/// Refuses a database that a newer build has migrated: this one could misread it.
///
/// # Errors
/// Both versions, named.
pub fn refuse_newer(migrations: &Migrator, found: Option<i64>) -> Result<()> {
    let known = migrations.iter().map(|m| m.version).max().unwrap_or(0);
    match found {
        Some(found) if found > known => Err(StoreError::NewerSchema { found, known }),
        _ => Ok(()),
    }
}
