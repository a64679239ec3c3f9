//! One server per database file: a lock on a file beside it, which the operating system lets go when the process ends, however it ends.

use super::{Result, StoreError};
use std::fs::{File, OpenOptions};
use std::path::Path;

/// Held for as long as the server runs.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

/// Makes the folder of a database file where it is missing and takes the file's lock, `NAME.lock` beside `NAME.db`.
///
/// # Errors
/// A folder that cannot be made or written, or a database that another server uses; the message is for people.
pub fn take(database: &Path) -> Result<FileLock> {
    let dir = match database.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    let unusable = |error: std::io::Error| {
        StoreError::Unusable(format!("data dir {}: {error}", dir.display()))
    };
    std::fs::create_dir_all(dir).map_err(unusable)?;
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(database.with_extension("lock"))
        .map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(FileLock { _file: file }),
        Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::Unusable(format!(
            "database {}: in use by another tidegate server",
            database.display()
        ))),
        Err(std::fs::TryLockError::Error(error)) => Err(unusable(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_server_on_the_same_file_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("tidegate.db");
        let first = take(&database).unwrap();
        let refused = take(&database).unwrap_err().to_string();
        assert!(refused.contains("in use by another"), "{refused}");
        assert!(take(&dir.path().join("other.db")).is_ok());
        drop(first);
        assert!(take(&database).is_ok());
    }
}
