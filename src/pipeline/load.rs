//! Bringing a session back: the newest snapshot, folded over the readings behind it.

use super::Pipeline;
use crate::inference::{Engine, Fold, ResumeError, Served};
use crate::session::{Bounds, Gaps, OpenError, Session, SessionCell, Stand};
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
    /// No such endpoint is loaded.
    #[error("stream {0}: no such endpoint")]
    Endpoint(StreamKey),
    /// The stored state does not fit the version of the same name.
    #[error("stream {0}: {1}")]
    Resume(StreamKey, ResumeError),
}

impl Pipeline {
    /// The session of a stream, from memory or from the store. A stream that is new begins under `pin`, or under the production version;
    /// one that follows production is moved to it.
    ///
    /// # Errors
    /// A full map of sessions, or a store that cannot be read.
    pub async fn open(
        &self,
        key: &StreamKey,
        pin: Option<&Arc<Served>>,
    ) -> Result<Arc<SessionCell>, OpenError<LoadSessionError>> {
        let most = self.config.sessions.max;
        let session = self.sessions.open(key, most, self.load(key, pin)).await?;
        if pin.is_none() {
            self.settle_in(&session).await;
        }
        Ok(session)
    }

    async fn load(
        &self,
        key: &StreamKey,
        pin: Option<&Arc<Served>>,
    ) -> Result<Session, LoadSessionError> {
        let engine = self.engines.load();
        let endpoint = engine.endpoint(key.endpoint.as_str());
        let first = pin.or(endpoint.map(|endpoint| &endpoint.production));
        let first = first.ok_or_else(|| LoadSessionError::Endpoint(key.clone()))?;
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
            let fold = Fold::new(Arc::clone(first));
            let (marks, gaps) = (Marks::default(), Gaps::default());
            let mut session = Session::new(stream, marks, gaps, fold, bounds);
            if pin.is_some() {
                session.set_stand(Stand::Pinned);
            }
            return Ok(session);
        };
        let behind = stored
            .snapshot
            .as_ref()
            .map_or(0, |snapshot| stored.marks.pos - snapshot.place.pos);
        let (fold, gone) = match self.bring_back(&stored, &engine).await? {
            Some(fold) => (fold, None),
            None => {
                tracing::warn!(stream = %key, to = %first.reference, "the version that served this stream is gone");
                let (fold, from) = self.warmed(&stored, first).await?;
                (fold, Some(from))
            }
        };
        let stand = self.stand_of(stored.stream.id).await?;
        let gaps = Gaps::from_ranges(stored.gaps);
        let mut session = Session::new(stored.stream, stored.marks, gaps, fold, bounds);
        session.stands_behind_snapshot(behind);
        match gone {
            Some(from) => session.reopen(from),
            None => session.set_stand(stand),
        }
        Ok(session)
    }

    /// Why the version that serves a stored stream serves it.
    async fn stand_of(&self, stream: i64) -> Result<Stand, StoreError> {
        let switches = self.store.switches(stream, 2).await?;
        let before = switches.get(1).map(|before| before.version_id);
        let newest = switches.first();
        Ok(newest.map_or(Stand::Assigned, |newest| Stand::of(&newest.reason, before)))
    }

    /// The state behind the stored position; `None` when the version that served is no longer loaded.
    async fn bring_back(
        &self,
        stored: &StoredStream,
        engine: &Engine,
    ) -> Result<Option<Fold>, LoadSessionError> {
        let key = &stored.stream.key;
        let known = stored
            .snapshot
            .as_ref()
            .and_then(|snapshot| Some((snapshot, engine.by_id(snapshot.version_id)?)));
        let Some((snapshot, served)) = known else {
            return Ok(None);
        };
        let mut fold = resume(snapshot, served)
            .map_err(|error| LoadSessionError::Resume(key.clone(), error))?;
        self.fold_log(
            &mut fold,
            stored.stream.id,
            snapshot.place,
            stored.marks.pos,
            !self.turns.is_inline(served),
        )
        .await?;
        Ok(Some(fold))
    }

    /// Folds the readings behind `place`, up to position `until`, in slices so that no long read pins the log. `paced`: aside, within what
    /// warming may take.
    pub(super) async fn fold_log(
        &self,
        fold: &mut Fold,
        stream: i64,
        mut place: Place,
        until: u64,
        paced: bool,
    ) -> Result<(), StoreError> {
        while place.pos < until {
            let slice = self.store.log_after(stream, place, FOLD_SLICE).await?;
            let Some(last) = slice.last().map(|reading| reading.place) else {
                return Ok(());
            };
            let folded: Vec<(&[f32], i64)> = slice
                .iter()
                .filter(|reading| reading.folded && reading.place.pos <= until)
                .map(|reading| (&*reading.values, reading.ts))
                .collect();
            if paced {
                self.warming.fold(fold, &folded).await;
            } else {
                for (values, ts) in folded {
                    fold.step(values, ts);
                }
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
