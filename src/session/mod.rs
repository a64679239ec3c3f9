//! The live side of every stream: its place in the log, its model state, its rows on the way to the store.
//!
//! Owns the one shared map ([`Sessions`]) and the [`Session`]. The map is private and gives out `Arc<Mutex<Session>>`: no
//! guard of a shard is ever held while a session's lock or its loading is waited for. Loading is single-flight per stream. Promises
//! that a session with pending rows or a connection never leaves memory.
//!
//! Sits on `inference` (a session holds a fold) and `push` (it remembers who holds the stream); knows no sockets and no
//! database: whoever loads a session passes the loading in.

mod admit;
mod gaps;
mod state;
#[cfg(test)]
mod tests;

pub use admit::{Admission, Numbers, admit};
pub use gaps::Gaps;
pub use state::{Bounds, Checked, Hears, Known, Session, Stand, Wanted, Witness};

use crate::stream::StreamKey;
use dashmap::DashMap;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

/// Silence after which a session gives back the room of a busier time.
const BUSY: Duration = Duration::from_secs(10);

/// A session behind its lock; never locked across an await.
pub type SessionCell = Mutex<Session>;

/// Sessions by stream.
#[derive(Debug, Default)]
pub struct Sessions {
    map: DashMap<StreamKey, Arc<OnceCell<Arc<SessionCell>>>>,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum OpenError<E> {
    /// `sessions.max` are in memory; come back when some have left.
    #[error("{0} sessions are in memory")]
    Full(usize),
    /// Loading failed.
    #[error(transparent)]
    Load(E),
}

impl Sessions {
    /// The session of a stream; the first to ask runs `load`, everyone else waits for that one.
    ///
    /// # Errors
    /// A full map, or what `load` says; the next call tries again.
    pub async fn open<F, E>(
        &self,
        key: &StreamKey,
        most: usize,
        load: F,
    ) -> Result<Arc<SessionCell>, OpenError<E>>
    where
        F: Future<Output = Result<Session, E>>,
    {
        let slot = self.slot(key, most).ok_or(OpenError::Full(most))?;
        let session = slot
            .get_or_try_init(|| async { load.await.map(|session| Arc::new(Mutex::new(session))) })
            .await;
        session.cloned().map_err(OpenError::Load)
    }

    fn slot(&self, key: &StreamKey, most: usize) -> Option<Arc<OnceCell<Arc<SessionCell>>>> {
        let known = self.map.get(key).map(|slot| Arc::clone(&slot));
        if let Some(slot) = known {
            let is_retired = slot.get().is_some_and(|session| session.lock().retired);
            if !is_retired {
                return Some(slot);
            }
            self.map.remove_if(key, |_, now| Arc::ptr_eq(now, &slot));
        }
        if self.map.len() >= most {
            return None;
        }
        Some(Arc::clone(&self.map.entry(key.clone()).or_default()))
    }

    /// The session of a stream, if it is in memory.
    pub fn get(&self, key: &StreamKey) -> Option<Arc<SessionCell>> {
        let slot = self.map.get(key).map(|slot| Arc::clone(&slot))?;
        slot.get().cloned()
    }

    /// Sessions in memory.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether none are in memory.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Takes out every session that rests and was silent for `idle`: no connection, nothing pending. Who stays gives back the room of a
    /// busier time.
    pub fn sweep(&self, idle: Duration) {
        self.map.retain(|_, slot| {
            let Some(session) = slot.get() else {
                // Nobody is loading it any more: that failed.
                return Arc::strong_count(slot) > 1;
            };
            let Some(mut session) = session.try_lock() else {
                return true;
            };
            // A stopped one never comes back to life, whatever it still believes to be on its way.
            if session.retired {
                return false;
            }
            let silent = session.seen.elapsed();
            let keep = !session.is_resting() || silent < idle;
            session.retired = !keep;
            if keep && silent > BUSY {
                session.slim();
            }
            keep
        });
    }

    /// Runs `look` over every loaded session; each is locked only while it is looked at.
    pub fn for_each(&self, mut look: impl FnMut(&StreamKey, &mut Session)) {
        // Keys and cells first: a session is never locked under a guard of the map.
        let cells: Vec<_> = self
            .map
            .iter()
            .filter_map(|slot| Some((slot.key().clone(), Arc::clone(slot.get()?))))
            .collect();
        for (key, cell) in cells {
            look(&key, &mut cell.lock());
        }
    }
}
