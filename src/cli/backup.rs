//! `tidegate backup` and `tidegate restore`: one file that holds everything, and the way back.

use crate::config::{Database, Overrides, RawConfig};
use crate::store::sqlite::copy;
use crate::stream::counted;
use anyhow::bail;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Where the database is: found as the server finds it.
#[derive(Debug, Clone, Args)]
pub struct PlaceArgs {
    /// Configuration file of the server (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the database [default: data].
    #[arg(long, value_name = "DIR", conflicts_with = "store_url")]
    data_dir: Option<PathBuf>,
    /// The database, where it is not in a folder: `sqlite:PATH`.
    #[arg(long, value_name = "URL")]
    store_url: Option<String>,
}

impl PlaceArgs {
    /// The database's file; PostgreSQL has its own tools.
    fn file(&self) -> anyhow::Result<PathBuf> {
        let overrides = Overrides {
            data_dir: self.data_dir.clone(),
            store_url: self.store_url.clone(),
            ..Overrides::default()
        };
        let config = RawConfig::read(self.config.as_deref(), overrides)?.check()?;
        match config.database {
            Database::Sqlite(file) => Ok(file),
            Database::Postgres(_) => bail!(
                "{}: PostgreSQL is copied with pg_dump and put back with pg_restore (docs/OPERATIONS.md)",
                config.database
            ),
        }
    }
}

/// Copy the database to one file, beside a running server or without one.
#[derive(Debug, Clone, Args)]
pub struct BackupArgs {
    /// The file to make; one that exists is never overwritten.
    pub file: PathBuf,
    /// Which database.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Put a backup in place as the database of a data dir that no server uses.
#[derive(Debug, Clone, Args)]
pub struct RestoreArgs {
    /// The backup.
    pub file: PathBuf,
    /// Which database.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Move a database that is there aside instead of refusing.
    #[arg(long)]
    pub force: bool,
}

/// Runs `backup`.
///
/// # Errors
/// What keeps the copy from being whole; no file has its name then.
pub async fn backup(args: BackupArgs) -> anyhow::Result<ExitCode> {
    let contents = copy::backup(&args.place.file()?, &args.file).await?;
    println!("{}: {}", args.file.display(), Said(contents));
    Ok(ExitCode::SUCCESS)
}

/// Runs `restore`.
///
/// # Errors
/// A live server, a database that is there, a file that is no whole backup; nothing has changed then.
pub async fn restore(args: RestoreArgs) -> anyhow::Result<ExitCode> {
    let database = args.place.file()?;
    let (contents, aside) = copy::restore(&args.file, &database, args.force).await?;
    if let Some(aside) = aside {
        println!("the database that was there: {}", aside.display());
    }
    println!("{}: restored: {}", database.display(), Said(contents));
    Ok(ExitCode::SUCCESS)
}

struct Said(copy::Contents);

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let copy::Contents {
            samples,
            streams,
            bytes,
        } = self.0;
        let mib = bytes as f64 / f64::from(1 << 20);
        let (samples, streams) = (counted(samples, "sample"), counted(streams, "stream"));
        write!(f, "{samples} of {streams}, {mib:.1} MiB")
    }
}
