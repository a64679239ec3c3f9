//! Copies of a database: a backup beside a running server, and the way back.
//!
//! A backup is one consistent, compact file, checked before it gets its name. A restored database is another log: ids given after the backup
//! may be given again, so subscribers must not take up an old position in it. Nothing that is there is overwritten.

use super::explain::{advice, explain, is_damage, refuse_foreign};
use super::{MIGRATIONS, read};
use crate::store::{Result, StoreError};
use crate::store::{lock, schema};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection, Row};
use std::fs::File;
use std::path::{Path, PathBuf};

/// What a copy holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents {
    /// Samples.
    pub samples: u64,
    /// Streams.
    pub streams: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Copies the database `from` to the new file `to`, whoever writes it meanwhile. The copy stands at one commit.
///
/// # Errors
/// No database there, one of a newer schema, a file that exists already, or a disk without room.
pub async fn backup(from: &Path, to: &Path) -> Result<Contents> {
    refuse_folder(from)?;
    if !from.is_file() {
        return Err(refused(from, "no such database"));
    }
    if to.exists() {
        return Err(refused(to, "exists already; choose another name"));
    }
    if !folder_of(to).is_dir() {
        return Err(refused(to, "its folder does not exist; make it first"));
    }
    let partial = beside(to, "partial");
    remove(&partial)?;
    copy_whole(from, &partial).await?;
    let contents = verify(&partial).await.map_err(|error| explain(error, to))?;
    settle(&partial, to)?;
    Ok(contents)
}

/// Puts the backup `from` in place as the database `to`. With `force` a database that is there is moved aside, never deleted; its
/// new path is returned beside what was restored.
///
/// # Errors
/// A server that runs there, a database that is there already, or a file that is no whole backup.
pub async fn restore(from: &Path, to: &Path, force: bool) -> Result<(Contents, Option<PathBuf>)> {
    refuse_folder(from)?;
    if !from.is_file() {
        return Err(refused(from, "no such file"));
    }
    let _lock = lock::take(to)?;
    if to.exists() && !force {
        let reason = "a database is there already; --force moves it aside";
        return Err(refused(to, reason));
    }
    verify(from).await.map_err(|error| explain(error, from))?;
    let partial = beside(to, "partial");
    remove(&partial)?;
    copy_whole(from, &partial).await?;
    let contents = finish(&partial).await;
    let contents = contents.map_err(|error| explain(error, to))?;
    let aside = move_aside(to)?;
    settle(&partial, to)?;
    Ok((contents, aside))
}

/// Largest file that is read whole before a server starts on it, bytes: a tenth of a second. Larger ones are checked by a backup.
const CHECKED_AT_START: u64 = 64 << 20;

/// Refuses a file that is no database of ours, or that is damaged, before anything is written to it.
///
/// # Errors
/// What is wrong with the file.
pub async fn inspect(file: &Path) -> Result<()> {
    refuse_half_restored(file)?;
    refuse_folder(file)?;
    let length = std::fs::metadata(file).map_or(0, |file| file.len());
    if length == 0 {
        return Ok(());
    }
    let no_database =
        |error: sqlx::Error| refused(file, &format!("no database: {}", advice(&error)));
    let mut connection = open(file).await?;
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema")
        .fetch_one(&mut connection)
        .await
        .map_err(no_database)?;
    if tables > 0 {
        check(file, &mut connection).await?;
    }
    if length <= CHECKED_AT_START {
        let verdict: String = sqlx::query_scalar("PRAGMA quick_check(1)")
            .fetch_one(&mut connection)
            .await
            .map_err(no_database)?;
        refuse_damaged(file, &verdict)?;
    }
    connection.close().await?;
    Ok(())
}

fn refuse_folder(file: &Path) -> Result<()> {
    if file.is_dir() {
        return Err(refused(file, "a folder: name a file in it"));
    }
    Ok(())
}

fn refuse_damaged(file: &Path, verdict: &str) -> Result<()> {
    if verdict == "ok" {
        return Ok(());
    }
    // SQLite begins with the name of the database, which is always the same.
    let what = verdict
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("***"));
    let what: Vec<&str> = what.collect();
    let reason = format!("damaged ({}); restore a backup", what.join(", "));
    Err(refused(file, &reason))
}

/// Writes what a database holds to a new file: its write-ahead log too, where it has one beside it.
async fn copy_whole(from: &Path, to: &Path) -> Result<()> {
    let named = |error: StoreError| explain(error, from);
    let mut source = open(from).await.map_err(named)?;
    check(from, &mut source).await?;
    // The parameter is a file name; VACUUM INTO reads one snapshot and writes no free pages.
    let copied = sqlx::query("VACUUM INTO ?")
        .bind(to.to_string_lossy().into_owned())
        .execute(&mut source)
        .await;
    if let Err(error) = copied {
        remove(to)?;
        // A full disk is the copy's, damage the source's.
        return Err(match advice(&error) {
            _ if is_damage(&error) => named(error.into()),
            reason => refused(to, &format!("no copy: {reason}")),
        });
    }
    source.close().await.map_err(|error| named(error.into()))
}

/// Refuses to begin a new database where a restore was interrupted between moving the old one aside and naming the new one.
///
/// # Errors
/// What is there, and what to do.
fn refuse_half_restored(file: &Path) -> Result<()> {
    let partial = beside(file, "partial");
    if !file.exists() && partial.exists() {
        let reason =
            "a restore was interrupted here: run it again, or rename the .before-restore file back";
        return Err(refused(file, reason));
    }
    Ok(())
}

async fn open(file: &Path) -> Result<SqliteConnection> {
    Ok(SqliteConnectOptions::new()
        .filename(file)
        .read_only(true)
        .connect()
        .await?)
}

/// Whether this is a database of ours that this build can read.
async fn check(file: &Path, connection: &mut SqliteConnection) -> Result<()> {
    let found = sqlx::query("SELECT max(version) FROM _sqlx_migrations")
        .fetch_one(connection)
        .await
        .map_err(|error| refuse_foreign(&error, file))?;
    schema::refuse_newer(&MIGRATIONS, found.get(0), &file.display().to_string())
}

/// Reads the whole file once; what is damaged is found here and not when it is needed.
async fn verify(file: &Path) -> Result<Contents> {
    let mut connection = open(file).await?;
    check(file, &mut connection).await?;
    let verdict: String = sqlx::query_scalar("PRAGMA integrity_check(1)")
        .fetch_one(&mut connection)
        .await
        .map_err(|error| refused(file, &format!("damaged: {}", advice(&error))))?;
    refuse_damaged(file, &verdict)?;
    let row = sqlx::query("SELECT (SELECT count(*) FROM samples), (SELECT count(*) FROM streams)")
        .fetch_one(&mut connection)
        .await?;
    connection.close().await?;
    let bytes = std::fs::metadata(file).map_err(|error| unusable(file, &error))?;
    Ok(Contents {
        samples: read::number(&row, 0),
        streams: read::number(&row, 1),
        bytes: bytes.len(),
    })
}

/// Makes a copy a log of its own and reads it once more.
async fn finish(partial: &Path) -> Result<Contents> {
    make_another_log(partial).await?;
    verify(partial).await
}

async fn make_another_log(file: &Path) -> Result<()> {
    let mut connection = SqliteConnectOptions::new().filename(file).connect().await?;
    sqlx::query("UPDATE log SET id = lower(hex(randomblob(8)))")
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    Ok(())
}

/// Gives a finished file its name, so that a crash leaves the old state or the new one.
fn settle(partial: &Path, to: &Path) -> Result<()> {
    let failed = |error: std::io::Error| unusable(to, &error);
    File::open(partial)
        .and_then(|file| file.sync_all())
        .map_err(failed)?;
    std::fs::rename(partial, to).map_err(failed)?;
    File::open(folder_of(to))
        .and_then(|folder| folder.sync_all())
        .map_err(failed)
}

fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Moves a database and its write-ahead log to a free name; a log that was left behind without its database too, for it must not meet
/// another one. `None` where there was no database.
fn move_aside(file: &Path) -> Result<Option<PathBuf>> {
    let aside = (1..)
        .map(|number| beside(file, &format!("before-restore-{number}")))
        .find(|name| {
            ["", "-wal", "-shm"]
                .iter()
                .all(|tail| !with_tail(name, tail).exists())
        })
        .expect("some number is free");
    let was_there = file.exists();
    for tail in ["", "-wal", "-shm"] {
        let (old, new) = (with_tail(file, tail), with_tail(&aside, tail));
        if old.exists() {
            std::fs::rename(&old, &new).map_err(|error| unusable(&old, &error))?;
        }
    }
    Ok(was_there.then_some(aside))
}

fn beside(file: &Path, what: &str) -> PathBuf {
    with_tail(file, &format!(".{what}"))
}

fn with_tail(file: &Path, tail: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(tail);
    PathBuf::from(name)
}

/// What an interrupted copy left behind.
fn remove(partial: &Path) -> Result<()> {
    for tail in ["", "-wal", "-shm"] {
        let file = with_tail(partial, tail);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(unusable(&file, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn refused(file: &Path, reason: &str) -> StoreError {
    StoreError::Unusable(format!("{}: {reason}", file.display()))
}

fn unusable(file: &Path, error: &std::io::Error) -> StoreError {
    refused(file, &error.to_string())
}
