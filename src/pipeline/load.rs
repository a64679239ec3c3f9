//! Bringing a session back: the newest snapshot, folded over the readings behind it.

use super::Pipeline;
use crate::inference::{Engine, Fold, ResumeError, Served};
use crate::session::{Bounds, Gaps, OpenError, Session, SessionCell, Stand, Wanted};
use crate::store::{Place, StoreError, StoredSnapshot, StoredStream};
use crate::stream::{ArmRef, Marks, StreamKey, StreamRef, reason};
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
    /// The session of a stream, from memory or from the store. A stream that is new begins under `pin`, or under the version of its arm, or
    /// the production version; one that follows production is moved to where it belongs.
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
        let first = match (pin, endpoint) {
            (Some(pin), _) => Wanted::plain(Arc::clone(pin), reason::PINNED),
            (None, Some(endpoint)) => self.due(endpoint, key, None),
            (None, None) => return Err(LoadSessionError::Endpoint(key.clone())),
        };
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
            let fold = Fold::new(first.served);
            let (marks, gaps) = (Marks::default(), Gaps::default());
            let mut session = Session::new(stream, marks, gaps, fold, bounds);
            session.set_stand(Stand::of(first.reason, None), first.arm);
            return Ok(session);
        };
        let behind = stored
            .snapshot
            .as_ref()
            .map_or(0, |snapshot| stored.marks.pos - snapshot.place.pos);
        let (fold, gone) = match self.bring_back(&stored, &engine).await? {
            Some(fold) => (fold, None),
            None => {
                let goes_on = pin.or(endpoint.map(|endpoint| &endpoint.production));
                let goes_on = goes_on.ok_or_else(|| LoadSessionError::Endpoint(key.clone()))?;
                tracing::warn!(stream = %key, to = %goes_on.reference, "the version that served this stream is gone");
                let (fold, from) = self.warmed(&stored, goes_on).await?;
                (fold, Some(from))
            }
        };
        let (stand, arm) = self.stand_of(key, stored.stream.id).await?;
        let gaps = Gaps::from_ranges(stored.gaps);
        let mut session = Session::new(stored.stream, stored.marks, gaps, fold, bounds);
        session.stands_behind_snapshot(behind);
        match gone {
            Some(from) => session.reopen(from),
            None => session.set_stand(stand, arm),
        }
        Ok(session)
    }

    /// Why the version that serves a stored stream serves it, and for which arm.
    async fn stand_of(
        &self,
        key: &StreamKey,
        stream: i64,
    ) -> Result<(Stand, Option<Arc<ArmRef>>), StoreError> {
        let switches = self.store.switches(stream, 2).await?;
        let before = switches.get(1).map(|before| before.version_id);
        let Some(newest) = switches.first() else {
            return Ok((Stand::Assigned, None));
        };
        let stand = Stand::of(&newest.reason, before);
        let arm = newest.arm.as_deref().filter(|_| stand == Stand::InArm);
        Ok((stand, arm.map(|label| self.arm_of(key, label))))
    }

    /// The arm that a stored stream is in. Of an experiment that is over only the name is left, until the stream is moved out of it.
    fn arm_of(&self, key: &StreamKey, label: &str) -> Arc<ArmRef> {
        let (endpoint, device) = (key.endpoint.as_str(), key.device.as_str());
        let placed = self.board.place(endpoint, device, Some(label));
        let placed = placed.filter(|placed| &*placed.arm.label == label);
        placed.map_or_else(
            || {
                Arc::new(ArmRef {
                    experiment: 0,
                    label: label.into(),
                    arm: 0,
                    bucket: 0,
                    propensity: 0.0,
                    at: 0,
                })
            },
            |placed| placed.arm,
        )
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
