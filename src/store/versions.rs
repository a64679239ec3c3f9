//! What the store knows of endpoints and versions: schema revisions, hashes, and who moved which version to which status.
//!
//! A part of the store's trait of its own, because people change it and readings do not. Promises that a name keeps its hash and a revision
//! its schema, and that changes of status are only ever added, all rows of one change or none.

use super::Result;
use crate::stream::Status;
use futures_util::future::BoxFuture;
use tidegate_protocol::EndpointName;

/// A version's way to another status, to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusChange {
    /// Row id of the version.
    pub version_id: i64,
    /// Where it goes.
    pub status: Status,
    /// Who asked.
    pub who: String,
    /// For which reason.
    pub why: String,
}

/// A change of status as read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusRow {
    /// Row id; they rise in the order of the changes.
    pub id: i64,
    /// The endpoint of the version.
    pub endpoint: String,
    /// Its model.
    pub model: String,
    /// Its version.
    pub version: String,
    /// When, Unix ms.
    pub at: i64,
    /// What changed.
    pub change: StatusChange,
}

/// Endpoints, versions and their status, whatever the database.
pub trait Versions: Send + Sync + 'static {
    /// Makes an endpoint's revision known with its schema; gives the schema that is recorded under it, which may be another one.
    fn register_endpoint<'a>(
        &'a self,
        name: &'a EndpointName,
        revision: u32,
        schema: &'a str,
    ) -> BoxFuture<'a, Result<String>>;

    /// Makes a version known; gives its row id. The same name with another hash is refused with `Changed`.
    fn register_version<'a>(
        &'a self,
        endpoint: &'a EndpointName,
        model: &'a str,
        version: &'a str,
        hash: &'a [u8; 32],
    ) -> BoxFuture<'a, Result<i64>>;

    /// Every change of status, oldest first. There are as many as people have made.
    fn status_changes(&self) -> BoxFuture<'_, Result<Vec<StatusRow>>>;

    /// Adds changes in one transaction, if the newest row is still `after` (0: there is none); else `Moved` and nothing is added.
    fn change_status<'a>(
        &'a self,
        after: i64,
        changes: &'a [StatusChange],
    ) -> BoxFuture<'a, Result<()>>;
}
