//! The database under a run: what the server is told of it, what can happen to it, and what it holds in the end.

use super::disk::Disk;
use super::postgres::Postgres;
use super::proxy::Line;
use super::stored::{self, Stored};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Mutex;

/// A cluster that the runs of a test share, one after the other.
pub type Cluster = Arc<Mutex<Postgres>>;

/// See the module.
pub enum Backend {
    /// A file in the server's data dir, perhaps on a small disk of its own.
    Sqlite {
        data_dir: PathBuf,
        disk: Option<Disk>,
    },
    /// A database of its own in the cluster, reached over a line.
    Postgres {
        cluster: Cluster,
        database: String,
        line: Line,
    },
}

impl Backend {
    /// An empty SQLite file, on a small disk where that is wished and permitted.
    pub fn sqlite(data_dir: &Path, small: bool) -> Self {
        let disk = if small { Disk::mount(data_dir) } else { None };
        Self::Sqlite {
            data_dir: data_dir.to_owned(),
            disk,
        }
    }

    /// A new database in the cluster.
    pub async fn postgres(cluster: &Cluster, database: String) -> Self {
        let line = Line::open().await;
        let postgres = cluster.lock().await;
        postgres.psql(&format!("CREATE DATABASE {database}")).await;
        line.lead_to(address(&postgres.url()));
        drop(postgres);
        Self::Postgres {
            cluster: Arc::clone(cluster),
            database,
            line,
        }
    }

    /// Lines for the table `[store]` of the server's configuration.
    pub fn config(&self) -> String {
        match self {
            Self::Sqlite { .. } => "min_free_bytes = 0\n".into(),
            Self::Postgres { line, database, .. } => format!(
                "commit_timeout_s = 5\nurl = \"postgres://postgres@{}/{database}?sslmode=disable\"\n",
                line.addr()
            ),
        }
    }

    /// The disk that can be filled, if there is one.
    pub fn disk(&self) -> Option<&Disk> {
        match self {
            Self::Sqlite { disk, .. } => disk.as_ref(),
            Self::Postgres { .. } => None,
        }
    }

    /// The line to the database, if there is one.
    pub fn line(&self) -> Option<&Line> {
        match self {
            Self::Sqlite { .. } => None,
            Self::Postgres { line, .. } => Some(line),
        }
    }

    /// The cluster, if there is one.
    pub fn cluster(&self) -> Option<&Cluster> {
        match self {
            Self::Sqlite { .. } => None,
            Self::Postgres { cluster, .. } => Some(cluster),
        }
    }

    /// Everything it holds, once the server is gone.
    pub async fn read(&self) -> Stored {
        match self {
            Self::Sqlite { data_dir, .. } => {
                stored::read_sqlite(&data_dir.join("tidegate.db")).await
            }
            Self::Postgres {
                cluster, database, ..
            } => {
                let url = cluster.lock().await.url_of(database);
                stored::read_postgres(&url).await
            }
        }
    }

    /// Away with it, after a run that kept its promises.
    pub async fn clear(self) {
        if let Self::Postgres {
            cluster, database, ..
        } = self
        {
            let drop = format!("DROP DATABASE {database} WITH (FORCE)");
            cluster.lock().await.psql(&drop).await;
        }
    }
}

/// Where a cluster listens, from its URL.
fn address(url: &str) -> SocketAddr {
    let place = url
        .rsplit('@')
        .next()
        .and_then(|rest| rest.split('/').next());
    let addr = place.and_then(|place| place.parse().ok());
    addr.unwrap_or_else(|| panic!("no address in {url}"))
}
