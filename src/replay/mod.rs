//! The stored log run again: through the versions that were recorded, or through another one over the same readings.
//!
//! For `tidegate replay`. Owns the walk over a stream's log (`log.rs`), the check that every stored prediction and snapshot comes out
//! again bit for bit ([`verify()`]), the comparison with another version ([`compare()`]), and the two reports. Promises the same report
//! for any number of threads, memory that does not grow with the length of a log, and that state is folded by the server's own
//! code ([`crate::inference::Fold`]). Reads through [`crate::store::History`] in slices; writes nothing, knows no sockets.

mod compare;
mod figures;
mod log;
mod parallel;
mod report;
mod spread;
mod text;
mod verify;
mod versions;

pub use compare::compare;
pub use figures::{Comparison, DeviceChange};
pub use report::{Difference, Outcome, Verified};
pub use verify::verify;
pub use versions::{Unknown, Versions};

use crate::store::{History, StoreError};
use std::sync::Arc;

/// Why a replay did not come to a report.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The database could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The models could not be loaded.
    #[error("models: {0}")]
    Models(#[from] tidegate_models::LoadError),
    /// The version to compare with is not there.
    #[error("no version {wanted} of endpoint {endpoint}; there is {known}")]
    NoVersion {
        /// What was asked for.
        wanted: String,
        /// Of this endpoint.
        endpoint: String,
        /// What is loaded.
        known: String,
    },
    /// A worker ended early; a mistake of this program.
    #[error("a worker ended early")]
    Worker,
}

/// What is replayed, and how much of it is said.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Compared are readings measured at or after, Unix ms.
    pub from: Option<i64>,
    /// Compared are readings measured before, Unix ms.
    pub to: Option<i64>,
    /// Most differences listed; all are counted.
    pub listed: usize,
    /// Streams replayed at once.
    pub threads: usize,
}

impl Options {
    /// Whether a reading measured at `ts` is compared.
    fn covers(&self, ts: i64) -> bool {
        self.from.is_none_or(|from| ts >= from) && self.to.is_none_or(|to| ts < to)
    }
}

/// Who watches a replay.
pub trait Progress: Send + Sync {
    /// So many samples were replayed.
    fn replayed(&self, samples: u64);
}

/// A replay's surroundings, shared by its workers.
#[derive(Clone)]
struct Context {
    history: Arc<dyn History>,
    versions: Arc<Versions>,
    options: Options,
    progress: Arc<dyn Progress>,
}
