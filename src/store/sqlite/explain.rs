//! Errors of a database file in one line that names the file and says what a person does.

use crate::store::StoreError;
use sqlx::migrate::MigrateError;
use std::path::Path;

/// SQLite's primary result codes (<https://sqlite.org/rescode.html>).
mod code {
    pub const BUSY: u32 = 5;
    pub const LOCKED: u32 = 6;
    pub const READONLY: u32 = 8;
    pub const IOERR: u32 = 10;
    pub const CORRUPT: u32 = 11;
    pub const FULL: u32 = 13;
    pub const CANTOPEN: u32 = 14;
    pub const AUTH: u32 = 23;
    pub const NOTADB: u32 = 26;
}

/// An error of whoever opens, reads or copies `file`. What is for people already stays as it is.
pub fn explain(error: StoreError, file: &Path) -> StoreError {
    let text = match &error {
        StoreError::Database(error) | StoreError::Migration(MigrateError::Execute(error)) => {
            advice(error)
        }
        StoreError::Migration(MigrateError::ExecuteMigration(error, _)) => advice(error),
        StoreError::Migration(error) => {
            format!("its schema is none of this build's ({error}): use the tidegate that wrote it")
        }
        StoreError::Corrupt(reason) => format!("a stored row cannot be read: {reason}"),
        _ => return error,
    };
    StoreError::Unusable(format!("database {}: {text}", file.display()))
}

/// Why a file has no table of ours.
pub fn refuse_foreign(error: &sqlx::Error, file: &Path) -> StoreError {
    let missing = "no such table";
    let reason = match error {
        sqlx::Error::Database(refused) if refused.message().starts_with(missing) => {
            "it has tables, but none of tidegate's; name another file".to_owned()
        }
        error => advice(error),
    };
    let file = file.display();
    StoreError::Unusable(format!("{file}: no database of tidegate: {reason}"))
}

/// Whether the file itself is at fault.
pub fn is_damage(error: &sqlx::Error) -> bool {
    matches!(code_of(error), Some(code::CORRUPT | code::NOTADB))
}

fn code_of(error: &sqlx::Error) -> Option<u32> {
    let sqlx::Error::Database(refused) = error else {
        return None;
    };
    // The extended code has more in its upper bits.
    let extended: u32 = refused.code()?.parse().ok()?;
    Some(extended & 0xff)
}

/// What SQLite said, once, and what to do.
pub fn advice(error: &sqlx::Error) -> String {
    let sqlx::Error::Database(refused) = error else {
        return match error {
            sqlx::Error::PoolTimedOut => {
                "no answer in time: is the disk overloaded, or another program writing?".to_owned()
            }
            other => other.to_string(),
        };
    };
    let said = refused.message();
    let what_to_do = match code_of(error) {
        Some(code::NOTADB) => "name another file, or restore a backup",
        Some(code::CORRUPT) => "damaged; stop the server and restore a backup",
        Some(code::CANTOPEN) => "check that its folder is there and may be written",
        Some(code::READONLY | code::AUTH) => "check who may write the file and its folder",
        Some(code::IOERR) => "the disk failed; check it, and the rights of the file",
        Some(code::FULL) => "make room on the disk",
        Some(code::BUSY | code::LOCKED) => "another program holds it; end that one",
        _ => return said.to_owned(),
    };
    format!("{said}: {what_to_do}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_people_already_stays_as_it_is() {
        let said = StoreError::Unusable("database a.db: gone".into());
        let said = explain(said, Path::new("b.db")).to_string();
        assert_eq!(said, "database a.db: gone");
        let said = StoreError::Corrupt("sample 3: flags".into());
        let said = explain(said, Path::new("b.db")).to_string();
        let expected = "database b.db: a stored row cannot be read: sample 3: flags";
        assert_eq!(said, expected);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_opened_is_told_once_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nowhere").join("a.db");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file);
        let error = sqlx::ConnectOptions::connect(&options).await.unwrap_err();
        let said = explain(error.into(), &file).to_string();
        let expected =
            "unable to open database file: check that its folder is there and may be written";
        assert_eq!(said, format!("database {}: {expected}", file.display()));
    }
}
