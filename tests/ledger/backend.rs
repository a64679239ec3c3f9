//! The database under a run: where it is, what the server is told of it, and what it holds in the end.

use super::plan::StoreKind;
use super::stored::{self, Stored};
use std::path::{Path, PathBuf};

/// See the module.
pub enum Backend {
    /// A file in the server's data dir.
    Sqlite { data_dir: PathBuf },
}

impl Backend {
    /// An empty database of that kind.
    pub async fn open(kind: StoreKind, dir: &Path) -> Self {
        match kind {
            StoreKind::Sqlite => {
                let data_dir = dir.join("data");
                std::fs::create_dir_all(&data_dir).expect("a folder");
                Self::Sqlite { data_dir }
            }
            StoreKind::Postgres => panic!("no PostgreSQL here yet"),
        }
    }

    /// The server's data dir.
    pub fn data_dir(&self) -> PathBuf {
        match self {
            Self::Sqlite { data_dir } => data_dir.clone(),
        }
    }

    /// Everything it holds, once the server is gone.
    pub async fn read(&self) -> Stored {
        match self {
            Self::Sqlite { data_dir } => stored::read_sqlite(&data_dir.join("tidegate.db")).await,
        }
    }
}
