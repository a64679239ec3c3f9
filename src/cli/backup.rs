//! `tidegate backup` and `tidegate restore`: one file that holds everything, and the way back.

use crate::config::FILE_NAME;
use crate::store::sqlite::copy;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Copy the database to one file, beside a running server or without one.
#[derive(Debug, Clone, Args)]
pub struct BackupArgs {
    /// The file to make; one that exists is never overwritten.
    pub file: PathBuf,
    /// Folder of the database.
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub data_dir: PathBuf,
}

/// Put a backup in place as the database of a data dir that no server uses.
#[derive(Debug, Clone, Args)]
pub struct RestoreArgs {
    /// The backup.
    pub file: PathBuf,
    /// Folder of the database.
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub data_dir: PathBuf,
    /// Move a database that is there aside instead of refusing.
    #[arg(long)]
    pub force: bool,
}

/// Runs `backup`.
///
/// # Errors
/// What keeps the copy from being whole; no file has its name then.
pub async fn backup(args: BackupArgs) -> anyhow::Result<ExitCode> {
    let contents = copy::backup(&args.data_dir.join(FILE_NAME), &args.file).await?;
    println!("{}: {}", args.file.display(), Said(contents));
    Ok(ExitCode::SUCCESS)
}

/// Runs `restore`.
///
/// # Errors
/// A live server, a database that is there, a file that is no whole backup; nothing has changed then.
pub async fn restore(args: RestoreArgs) -> anyhow::Result<ExitCode> {
    let database = args.data_dir.join(FILE_NAME);
    let (contents, aside) = copy::restore(&args.file, &database, args.force).await?;
    if let Some(aside) = aside {
        println!("the database that was there: {}", aside.display());
    }
    println!("{}: restored: {}", args.data_dir.display(), Said(contents));
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
        write!(f, "{samples} samples of {streams} streams, {mib:.1} MiB")
    }
}
