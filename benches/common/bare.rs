//! The yardstick of the store: sqlx alone, multi-row inserts into the server's own `samples` table with its indexes, nothing else.
//!
//! Owns one connection to a schema that the server made. A row looks like the server's: eight values, an anomaly's output, one row of
//! each stream in turn.

mod postgres;
mod sqlite;

use super::backing::Fresh;
use super::device;
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use tidegate::config::Config;
use tidegate::store::{self, Store, StoreError};
use tidegate::stream::VersionRef;
use tidegate_protocol::{EndpointName, Output};

/// Rows a statement.
const CHUNK: usize = 500;

/// Values and output as they are stored.
pub type Encoded = (Vec<u8>, Vec<u8>);

enum Link {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// A connection that inserts.
pub struct Bare {
    link: Link,
    streams: usize,
    rows: usize,
}

impl Bare {
    /// The server makes the schema and leaves; synced as its default is.
    pub async fn open(fresh: &Fresh, streams: usize) -> anyhow::Result<Self> {
        register_and_leave(&fresh.config()?).await?;
        let link = match fresh.url() {
            Some(url) => Link::Postgres(postgres::connect(url).await?),
            None => Link::Sqlite(sqlite::connect(fresh.dir()).await?),
        };
        Ok(Self {
            link,
            streams,
            rows: 0,
        })
    }

    /// One transaction.
    pub async fn commit(&mut self, rows: &[Encoded]) -> anyhow::Result<()> {
        let chunks = rows.chunks(CHUNK).zip((self.rows..).step_by(CHUNK));
        match &mut self.link {
            Link::Sqlite(link) => {
                let mut transaction = link.begin().await?;
                for (chunk, first) in chunks {
                    sqlite::insert(&mut transaction, self.streams, first, chunk).await?;
                }
                transaction.commit().await?;
            }
            Link::Postgres(link) => {
                let mut transaction = link.begin().await?;
                for (chunk, first) in chunks {
                    postgres::insert(&mut transaction, self.streams, first, chunk).await?;
                }
                transaction.commit().await?;
            }
        }
        self.rows += rows.len();
        Ok(())
    }

    pub async fn close(self) -> anyhow::Result<()> {
        match self.link {
            Link::Sqlite(link) => link.close().await?,
            Link::Postgres(link) => link.close().await?,
        }
        Ok(())
    }
}

async fn register_and_leave(config: &Config) -> anyhow::Result<()> {
    let opened = store::open(config).await?;
    register(opened.store.as_ref()).await?;
    opened.store.close().await;
    Ok(())
}

/// What `samples` refers to.
pub async fn register(store: &dyn Store) -> Result<VersionRef, StoreError> {
    let endpoint = EndpointName::new("pump-health").expect("a name");
    let id = store
        .register_version(&endpoint, "mewma", "1.0.0", &[7; 32])
        .await?;
    Ok(VersionRef {
        id,
        endpoint,
        model: "mewma".into(),
        version: "1.0.0".into(),
    })
}

/// The numbers of a row that differ from row to row.
struct Numbers {
    id: i64,
    stream: i64,
    seq: i64,
    ts: i64,
}

impl Numbers {
    fn of(index: usize, streams: usize) -> Self {
        let seq = (index / streams) as i64;
        Self {
            id: index as i64 + 1,
            stream: (index % streams) as i64 + 1,
            seq,
            ts: 1_770_000_000_000 + seq,
        }
    }
}

/// Rows ready to be bound.
pub fn encoded(rows: usize) -> Vec<Encoded> {
    (0..rows as u64).map(encode).collect()
}

fn encode(index: u64) -> Encoded {
    let mut bytes = Vec::new();
    tidegate_protocol::codec::encode_output(&output(index), &mut bytes);
    let values = device::values(index);
    (tidegate::stream::to_le_bytes(&values), bytes)
}

pub fn output(seq: u64) -> Output {
    Output::Anomaly {
        score: (seq % 100) as f32 * 0.01,
        threshold: 0.9,
        anomaly: false,
    }
}
