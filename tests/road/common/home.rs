//! Where a server in its own process keeps its rows, over kills and restarts.

use super::{Postgres, Process};
use std::path::Path;
use tempfile::TempDir;
use tokio::process::Command;

/// A folder, or a PostgreSQL of the test's own.
pub struct Home {
    dir: TempDir,
    /// The database server, where there is one.
    pub postgres: Option<Postgres>,
}

impl Home {
    /// A folder of its own.
    pub fn sqlite() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a temporary folder"),
            postgres: None,
        }
    }

    /// A database server of its own.
    pub async fn postgres() -> Self {
        Self {
            postgres: Some(Postgres::start().await),
            ..Self::sqlite()
        }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts a server on it.
    pub async fn serve(&self) -> Process {
        self.serve_with(&[]).await
    }

    /// Starts a server with more arguments on it.
    pub async fn serve_with(&self, more: &[&str]) -> Process {
        self.serve_changed(more, |_| {}).await
    }

    /// The same, for a command that `change` has changed.
    pub async fn serve_changed(&self, more: &[&str], change: impl FnOnce(&mut Command)) -> Process {
        let url = self.postgres.as_ref().map(Postgres::url);
        let mut arguments = more.to_vec();
        if let Some(url) = &url {
            arguments.extend(["--store-url", url]);
        }
        Process::serve_with(self.dir.path(), &arguments, change).await
    }
}
