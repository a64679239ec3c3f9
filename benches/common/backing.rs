//! Where a server under measurement keeps its record: an empty store for each run.
//!
//! SQLite in a temporary folder (under `TMPDIR`), PostgreSQL in a cluster of the benchmark's own on the same disk, or a database that the user names.
//! Devices of a run carry the run's name, so that a database with earlier runs in it does not know them.

use super::postgres::Postgres;
use super::server::Server;
use anyhow::Context;
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tidegate::config::{Config, RawConfig};

/// Where Debian puts every version's programs.
const POSTGRES_HOME: &str = "/usr/lib/postgresql";

/// Which stores to measure.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// Stores to measure, one after the other; those that are installed when left out.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STORE,..")]
    stores: Vec<Kind>,
    /// A PostgreSQL database to measure instead.
    #[arg(long, value_name = "URL", conflicts_with = "stores")]
    store_url: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Sqlite,
    Postgres,
}

impl StoreArgs {
    /// The stores, started.
    pub async fn open(&self) -> Vec<Backing> {
        if let Some(url) = &self.store_url {
            return vec![Backing::Given(url.clone())];
        }
        let mut kinds = self.stores.clone();
        if kinds.is_empty() {
            kinds.push(Kind::Sqlite);
            if Path::new(POSTGRES_HOME).is_dir() {
                kinds.push(Kind::Postgres);
            } else {
                println!("PostgreSQL is left out: nothing in {POSTGRES_HOME}");
            }
        }
        let mut backings = Vec::new();
        for kind in kinds {
            backings.push(match kind {
                Kind::Sqlite => Backing::Sqlite,
                Kind::Postgres => Backing::Postgres(Box::new(Postgres::start().await)),
            });
        }
        backings
    }
}

/// A store to run on.
pub enum Backing {
    Sqlite,
    Postgres(Box<Postgres>),
    Given(String),
}

impl Backing {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres(_) | Self::Given(_) => "PostgreSQL",
        }
    }

    /// Room for one run.
    pub async fn fresh(&self) -> anyhow::Result<Fresh> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let run = format!("bench-{}", since.as_millis());
        let url = match self {
            Self::Sqlite => None,
            Self::Postgres(own) => {
                // What earlier runs wrote is not this run's to flush.
                own.psql("CHECKPOINT").await;
                own.psql(&format!("CREATE DATABASE \"{run}\"")).await;
                Some(own.url_of(&run))
            }
            Self::Given(url) => Some(url.clone()),
        };
        let dir = tempfile::tempdir()?;
        Ok(Fresh {
            dir: dir.path().to_owned(),
            url,
            run,
            _gone_when_dropped: Some(dir),
        })
    }
}

/// The room of one run; its folder goes with it, unless it is one that the user named.
pub struct Fresh {
    dir: PathBuf,
    url: Option<String>,
    run: String,
    _gone_when_dropped: Option<TempDir>,
}

impl Fresh {
    /// A folder that stays, with SQLite in it; its devices have the same names in every run.
    pub fn kept(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            url: None,
            run: "bench".into(),
            _gone_when_dropped: None,
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where PostgreSQL is; none with SQLite.
    pub fn url(&self) -> Option<&str> {
        self.url.as_deref()
    }

    /// What the names of the run's devices begin with.
    pub fn prefix(&self) -> String {
        self.run.clone()
    }

    /// Name of the run's device number `number`.
    pub fn device(&self, number: usize) -> String {
        format!("{}-{number}", self.run)
    }

    /// The configuration of a server on it.
    pub fn config(&self) -> anyhow::Result<Config> {
        let mut raw = RawConfig {
            data_dir: self.dir.clone(),
            ..RawConfig::default()
        };
        raw.store.url = self.url.clone().map(Into::into);
        raw.check().context("the store of a run")
    }

    /// A Tidegate server on it.
    pub fn serve(&self) -> anyhow::Result<Server> {
        self.serve_with(&[])
    }

    /// The same with `settings`, variables over its defaults.
    pub fn serve_with(&self, settings: &[(&str, &str)]) -> anyhow::Result<Server> {
        self.serve_on(None, settings)
    }

    /// The same on one core.
    pub fn serve_on(
        &self,
        core: Option<usize>,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Server> {
        let url = self.url().map(|url| ("TIDEGATE_STORE__URL", url));
        let all: Vec<_> = settings.iter().copied().chain(url).collect();
        Server::tidegate_on(core, &self.dir, &all)
    }
}
