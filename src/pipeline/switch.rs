//! Putting another version in place on one stream: warmed aside, committed, then answering.
//!
//! The new version is calibrated on the readings that the stream was calibrated on (the first ones after its start or last
//! reset), then folded over its last `memory` readings. The old version serves until the switch row, whose
//! snapshot holds the warmed state, is recorded; a switch row stands before the first reading of the new version.

use super::{Link, Origin, Pipeline, TakeError};
use crate::inference::{Fold, Served};
use crate::store::StoreError;
use std::sync::Arc;
use std::time::Duration;

/// How often the stream may move on while a version is warmed for it.
const TRIES: usize = 20;

/// Why a version was not put in place; the old one goes on.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The row could not be recorded.
    #[error(transparent)]
    Take(#[from] TakeError),
    /// The stream's rows did not settle in time.
    #[error("the stream is too busy to switch its version")]
    Busy,
}

impl Pipeline {
    /// Makes `wanted` answer on this stream; nothing happens when it does already.
    ///
    /// # Errors
    /// See [`SwitchError`].
    pub async fn switch(&self, link: &Link, wanted: &Arc<Served>) -> Result<(), SwitchError> {
        for _ in 0..TRIES {
            let (stream, at, settled) = {
                let session = link.session.lock();
                if session.served().reference == wanted.reference {
                    return Ok(());
                }
                (session.stream.id, session.marks.pos, session.pending() == 0)
            };
            if !settled {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
            let (fold, warm_from) = self.warm(stream, at, wanted).await?;
            if self.record_switch(link, at, fold, warm_from).await? {
                return Ok(());
            }
        }
        Err(SwitchError::Busy)
    }

    /// The state of `wanted` behind position `at`, and the position it was warmed from.
    async fn warm(
        &self,
        stream: i64,
        at: u64,
        wanted: &Arc<Served>,
    ) -> Result<(Fold, Option<u64>), StoreError> {
        let mut fold = Fold::new(Arc::clone(wanted));
        if at == 0 {
            return Ok((fold, None));
        }
        let manifest = &wanted.version.manifest;
        let begin = self.store.last_reset(stream).await?;
        let learned = self
            .store
            .calibration(stream, begin, manifest.calibration)
            .await?;
        let calibrated = learned.last().map_or(begin.pos, |last| last.place.pos);
        let recent = self.store.newest_folded(stream, manifest.memory).await?;
        let recent = recent
            .iter()
            .filter(|reading| reading.place.pos > calibrated);
        for reading in learned.iter().chain(recent).filter(|r| r.place.pos <= at) {
            fold.step(&reading.values, reading.ts);
        }
        Ok((fold, Some(begin.pos)))
    }

    /// Records the switch if the stream still stands at `at`.
    async fn record_switch(
        &self,
        link: &Link,
        at: u64,
        fold: Fold,
        warm_from: Option<u64>,
    ) -> Result<bool, TakeError> {
        let mut permits = self.room(1).await?;
        let mut session = link.session.lock();
        super::check_hold(&session, link)?;
        if session.marks.pos != at {
            return Ok(false);
        }
        let reason = if at == 0 { "opened" } else { "pinned" };
        if let Some(permit) = permits.next() {
            let row = session.switch(fold, reason, warm_from);
            permit.send(crate::store::writer::Entry {
                row,
                owner: Origin::silent(link),
            });
        }
        Ok(true)
    }
}
