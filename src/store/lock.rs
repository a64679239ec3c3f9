//! One server per database file: a lock on a file beside it, which the operating system lets go when the process ends, however it ends.

use super::{Result, StoreError};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

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
    if dir.exists() && !dir.is_dir() {
        return Err(StoreError::Unusable(format!(
            "data dir {}: is a file: name a folder",
            dir.display()
        )));
    }
    // Before anything is written beside it.
    if database.is_dir() {
        return Err(StoreError::Unusable(format!(
            "database {}: is a folder: name a file in it",
            database.display()
        )));
    }
    std::fs::create_dir_all(dir).map_err(unusable)?;
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(name_of(database))
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

/// The same for every way to a database, links included, and another one for each database.
fn name_of(database: &Path) -> PathBuf {
    let whole = |path: &Path| std::fs::canonicalize(path).ok();
    let real = whole(database).or_else(|| {
        let dir = database.parent().filter(|dir| *dir != Path::new(""));
        Some(whole(dir.unwrap_or(Path::new(".")))?.join(database.file_name()?))
    });
    let mut name = real.unwrap_or_else(|| database.to_owned());
    if name.extension().is_some_and(|end| end == "db") {
        name.set_extension("lock");
        return name;
    }
    name.as_mut_os_string().push(".lock");
    name
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

    #[test]
    fn a_folder_in_a_files_place_and_a_file_in_a_folders_are_told_and_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("data");
        std::fs::create_dir(&folder).unwrap();
        let refused = take(&folder).unwrap_err().to_string();
        assert!(
            refused.ends_with("data: is a folder: name a file in it"),
            "{refused}"
        );
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let refused = take(&file.join("tidegate.db")).unwrap_err().to_string();
        assert!(
            refused.ends_with("file: is a file: name a folder"),
            "{refused}"
        );
        let there: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(there.len(), 2, "{there:?}");
    }

    #[test]
    fn one_database_has_one_lock_by_whatever_path_and_two_have_two() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("tidegate.db");
        std::fs::write(&database, "").unwrap();
        let link = dir.path().join("link.db");
        std::os::unix::fs::symlink(&database, &link).unwrap();
        let _first = take(&database).unwrap();
        assert!(take(&link).is_err());
        let _one = take(&dir.path().join("plant.a")).unwrap();
        assert!(take(&dir.path().join("plant.b")).is_ok());
    }
}
