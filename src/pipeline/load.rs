//! Bringing a session back: the newest snapshot, folded over the readings behind it.

use super::Pipeline;
use crate::inference::{Fold, ResumeError, Served};
use crate::session::{Bounds, Gaps, OpenError, Session, SessionCell};
use crate::store::{Place, StoreError, StoredSnapshot, StoredStream};
use crate::stream::{Marks, StreamKey, StreamRef};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Readings read from the log at once while folding.
pub const FOLD_SLICE: u32 = 1_024;

/// Why a session could not be brought back.
#[derive(Debug, thiserror::Error)]
pub enum LoadSessionError {
    /// The store could not be read; try again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stored state does not fit the version of the same name.
    #[error("stream {0}: {1}")]
    Resume(StreamKey, ResumeError),
}

impl Pipeline {
    /// The session of a stream, from memory or from the store. `first` serves a stream that is new.
    ///
    /// # Errors
    /// A full map of sessions, or a store that cannot be read.
    pub async fn open(
        &self,
        key: &StreamKey,
        first: &Arc<Served>,
    ) -> Result<Arc<SessionCell>, OpenError<LoadSessionError>> {
        self.sessions
            .open(key, self.config.sessions.max, self.load(key, first))
            .await
    }

    async fn load(
        &self,
        key: &StreamKey,
        first: &Arc<Served>,
    ) -> Result<Session, LoadSessionError> {
        let bounds = Bounds {
            max_gaps: self.config.sessions.max_gaps,
            snapshot_every: self.config.sessions.snapshot_every,
            max_repeats: self.config.sessions.max_repeats,
        };
        let Some(stored) = self.store.load_stream(key).await? else {
            let id = self.next_stream.fetch_add(1, Ordering::Relaxed);
            let stream = StreamRef {
                id,
                key: key.clone(),
            };
            return Ok(Session::new(
                stream,
                Marks::default(),
                Gaps::default(),
                Fold::new(Arc::clone(first)),
                bounds,
            ));
        };
        let kept = self.bring_back(&stored, first).await?;
        let behind = stored
            .snapshot
            .as_ref()
            .map_or(0, |snapshot| stored.marks.pos - snapshot.place.pos);
        let is_gone = kept.is_none();
        let fold = kept.unwrap_or_else(|| Fold::new(Arc::clone(first)));
        let mut session = Session::new(
            stored.stream,
            stored.marks,
            Gaps::from_ranges(stored.gaps),
            fold,
            bounds,
        );
        session.stands_behind_snapshot(behind);
        if is_gone {
            session.reopen();
        }
        Ok(session)
    }

    /// The state behind the stored position; `None` when the version that served is no longer loaded.
    async fn bring_back(
        &self,
        stored: &StoredStream,
        first: &Arc<Served>,
    ) -> Result<Option<Fold>, LoadSessionError> {
        let key = &stored.stream.key;
        let known = stored
            .snapshot
            .as_ref()
            .and_then(|snapshot| Some((snapshot, self.engine.by_id(snapshot.version_id)?)));
        let Some((snapshot, served)) = known else {
            tracing::warn!(stream = %key, version = %first.reference, "the version that served this stream is gone: calibrating anew");
            return Ok(None);
        };
        let mut fold = resume(snapshot, served)
            .map_err(|error| LoadSessionError::Resume(key.clone(), error))?;
        self.fold_log(
            &mut fold,
            stored.stream.id,
            snapshot.place,
            stored.marks.pos,
        )
        .await?;
        Ok(Some(fold))
    }

    /// Folds the readings behind `place`, up to position `until`, in slices so that no long read pins the log.
    pub(super) async fn fold_log(
        &self,
        fold: &mut Fold,
        stream: i64,
        mut place: Place,
        until: u64,
    ) -> Result<(), StoreError> {
        while place.pos < until {
            let slice = self.store.log_after(stream, place, FOLD_SLICE).await?;
            let Some(last) = slice.last().map(|reading| reading.place) else {
                return Ok(());
            };
            for reading in slice
                .iter()
                .filter(|reading| reading.folded && reading.place.pos <= until)
            {
                fold.step(&reading.values, reading.ts);
            }
            place = last;
        }
        Ok(())
    }
}

fn resume(snapshot: &StoredSnapshot, served: &Arc<Served>) -> Result<Fold, ResumeError> {
    Fold::resume(
        Arc::clone(served),
        &snapshot.layout,
        snapshot.numerics_rev,
        snapshot.state.clone(),
        snapshot.last_ts,
    )
}
