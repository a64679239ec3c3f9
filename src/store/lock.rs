//! One server per data dir: a file lock that the operating system lets go when the process ends, however it ends.

use super::{Result, StoreError};
use std::fs::{File, OpenOptions};
use std::path::Path;

/// Held for as long as the server runs.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

/// Makes the data dir where it is missing and takes its lock.
///
/// # Errors
/// A dir that cannot be made or written, or one that another server uses; the message is for people.
pub fn take(dir: &Path) -> Result<DirLock> {
    let unusable =
        |error: std::io::Error| StoreError::DataDir(format!("data dir {}: {error}", dir.display()));
    std::fs::create_dir_all(dir).map_err(unusable)?;
    let path = dir.join("tidegate.lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(DirLock { _file: file }),
        Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::DataDir(format!(
            "data dir {}: in use by another tidegate server",
            dir.display()
        ))),
        Err(std::fs::TryLockError::Error(error)) => Err(unusable(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_server_on_the_same_dir_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(dir.path()).unwrap();
        let refused = take(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("in use by another"), "{refused}");
        drop(first);
        assert!(take(dir.path()).is_ok());
    }
}
