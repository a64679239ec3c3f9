//! Opening the database that the configuration names.

use super::lock::{self, FileLock};
use super::postgres::PostgresStore;
use super::sqlite::SqliteStore;
use super::{Result, Store, StoreError, postgres, sqlite};
use crate::config::{Config, Database};
use std::sync::Arc;

/// A store, and what has to live as long as it is written.
pub struct Opened {
    /// The database.
    pub store: Arc<dyn Store>,
    /// Keeps other servers away from a file; a database server does that by itself.
    pub lock: Option<FileLock>,
}

/// An error of this database in one line that names it and says what a person does.
pub fn explain(error: StoreError, database: &Database) -> StoreError {
    match database {
        Database::Sqlite(file) => sqlite::explain(error, file),
        Database::Postgres(_) => postgres::explain(error, &database.to_string()),
    }
}

/// Opens or makes the database for this server alone, and brings its schema up to date.
///
/// # Errors
/// What keeps it from being used, in one line that says what to do.
pub async fn open(config: &Config) -> Result<Opened> {
    let store = &config.store;
    match &config.database {
        Database::Sqlite(file) => {
            let lock = lock::take(file)?;
            let store = SqliteStore::open(file, store.synchronous_full).await?;
            Ok(Opened {
                store: Arc::new(store),
                lock: Some(lock),
            })
        }
        Database::Postgres(options) => {
            let place = config.database.to_string();
            let store = PostgresStore::open(options, &place, *store).await?;
            Ok(Opened {
                store: Arc::new(store),
                lock: None,
            })
        }
    }
}
