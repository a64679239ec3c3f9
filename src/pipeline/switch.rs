//! Putting another version in place on one stream: warmed aside, committed, then answering.
//!
//! The new version is calibrated on the readings that the stream was calibrated on (the first ones after its start or last
//! reset), then folded over its last `memory` readings, then over what came meanwhile: from the store, and the rows still on their
//! way from the session. The last few are folded under the session's lock, where the switch row is recorded, so that it stands
//! right behind them and before the first reading of the new version. The row says from where the folding went on behind the
//! calibration, so that anyone can repeat it. The old version serves until then; nothing waits for it.

use super::{Link, Origin, Pipeline, STEPS_A_LOCK, TakeError, check_hold};
use crate::inference::{Fold, Served};
use crate::store::{LoggedReading, Place, StoreError};
use crate::stream::{What, is_folded};
use std::sync::Arc;

/// How often a stream may move on while a version catches up with it. Each time less is left.
const ROUNDS: usize = 20;

/// Why a version was not put in place; the old one goes on.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The row could not be recorded.
    #[error(transparent)]
    Take(#[from] TakeError),
    /// The stream's readings came faster than they could be folded.
    #[error("the stream is too busy to switch its version")]
    Busy,
}

/// A version on its way to a stream.
struct Warm {
    fold: Fold,
    /// It has folded the stream's log up to here.
    place: Place,
    /// Behind here every reading was folded; before it only those of the calibration.
    from: u64,
}

/// What a version has to fold before it can be put in place.
enum Left {
    /// It is in place.
    Nothing,
    /// What the store has up to this position.
    Stored(u64),
    /// Rows that are on their way to the store, up to this position.
    Pending(Vec<What>, u64),
}

impl Pipeline {
    /// Makes `wanted` answer on this stream, for a `reason` that its row keeps; nothing happens when it does already.
    ///
    /// # Errors
    /// See [`SwitchError`].
    pub async fn switch(
        &self,
        link: &Link,
        wanted: &Arc<Served>,
        reason: &'static str,
    ) -> Result<(), SwitchError> {
        let (stream, at) = {
            let session = link.session.lock();
            if session.served().reference == wanted.reference {
                return Ok(());
            }
            (session.stream.id, session.committed.pos)
        };
        let mut warm = self.warm(stream, at, wanted).await?;
        for _ in 0..ROUNDS {
            match self.try_switch(link, wanted, &mut warm, reason).await? {
                Left::Nothing => return Ok(()),
                Left::Pending(rows, until) => warm.take(&rows, until),
                Left::Stored(until)
                    if self.store.last_reset(stream).await?.pos > warm.place.pos =>
                {
                    warm = self.warm(stream, until, wanted).await?;
                }
                Left::Stored(until) => {
                    self.fold_log(&mut warm.fold, stream, warm.place, until)
                        .await?;
                    warm.place.pos = until;
                }
            }
        }
        Err(SwitchError::Busy)
    }

    /// `wanted` as it would stand behind the stored position `at`.
    async fn warm(&self, stream: i64, at: u64, wanted: &Arc<Served>) -> Result<Warm, StoreError> {
        let mut warm = Warm {
            fold: Fold::new(Arc::clone(wanted)),
            place: Place::default(),
            from: 0,
        };
        if at == 0 {
            return Ok(warm);
        }
        let (manifest, store) = (&wanted.version.manifest, &self.store);
        let begin = store.last_reset(stream).await?;
        let learned = store
            .calibration(stream, begin, manifest.calibration)
            .await?;
        let recent = store.newest_folded(stream, manifest.memory).await?;
        warm.place = begin;
        warm.learn(&learned, at);
        let calibrated = warm.place.pos;
        warm.learn(&recent, at);
        let oldest = recent.first().map_or(at, |oldest| oldest.place.pos - 1);
        warm.from = oldest.clamp(calibrated, at.max(calibrated));
        warm.place.pos = at;
        Ok(warm)
    }

    /// Records the switch if little enough is left to fold, else says what.
    async fn try_switch(
        &self,
        link: &Link,
        wanted: &Arc<Served>,
        warm: &mut Warm,
        reason: &'static str,
    ) -> Result<Left, TakeError> {
        let mut permits = self.room(1).await?;
        let mut session = link.session.lock();
        check_hold(&session, link)?;
        if session.served().reference == wanted.reference {
            return Ok(Left::Nothing);
        }
        let until = session.marks.pos;
        let Some(rows) = session.pending_after(warm.place.pos) else {
            return Ok(Left::Stored(session.committed.pos));
        };
        let rows: Vec<What> = rows.cloned().collect();
        if rows.len() > STEPS_A_LOCK {
            return Ok(Left::Pending(rows, until));
        }
        warm.take(&rows, until);
        let (reason, from) = match until {
            0 => ("opened", None),
            _ => (reason, Some(warm.from)),
        };
        if let Some(permit) = permits.next() {
            let row = session.switch(warm.fold.clone(), reason, from);
            permit.send(Origin::silent(link).entry(row));
        }
        Ok(Left::Nothing)
    }
}

impl Warm {
    /// Folds stored readings that are not folded yet, up to position `until`; one that failed under its version is left out.
    fn learn(&mut self, readings: &[LoggedReading], until: u64) {
        for reading in readings.iter().filter(|reading| reading.folded) {
            let place = reading.place;
            if place.pos > self.place.pos && place.pos <= until {
                self.fold.step(&reading.values, reading.ts);
                self.place.pos = place.pos;
                self.place.sample_id = self.place.sample_id.max(place.sample_id);
            }
        }
    }

    /// Folds rows that are not stored yet; the last of them stands at `until`.
    fn take(&mut self, rows: &[What], until: u64) {
        let mut pos = self.place.pos;
        for row in rows {
            pos += 1;
            match row {
                What::Sample(sample) if is_folded(&sample.output) => {
                    self.fold.step(&sample.values, sample.ts);
                }
                What::Reset { .. } => {
                    self.fold.reset();
                    self.from = pos;
                }
                _ => {}
            }
        }
        self.place.pos = until;
    }
}
