//! Putting another version in place on one stream: warmed aside, committed, then answering.
//!
//! The new version is calibrated on the readings that the stream was calibrated on (the first ones after its start or last
//! reset), then folded over its last `memory` readings, then over what came meanwhile: from the store, and the rows still on their
//! way from the session. The last few are folded under the session's lock, where the switch row is recorded, so that it stands
//! right behind them and before the first reading of the new version. The row says from where the folding went on behind the
//! calibration, so that anyone can repeat it. The old version serves until then; nothing waits for it.

use super::{Link, Origin, Pipeline, STEPS_A_LOCK, TIME_A_LOCK, TakeError, check_hold};
use crate::inference::{Fold, Served};
use crate::session::{Stand, Wanted};
use crate::store::{LoggedReading, Place, StoreError, StoredStream};
use crate::stream::{What, is_folded, reason};
use crate::telemetry::metric;
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
    /// Makes the wanted version answer on this stream, for a reason that its row keeps; nothing happens when it does already.
    ///
    /// # Errors
    /// See [`SwitchError`].
    pub async fn switch(&self, link: &Link, wanted: &Wanted) -> Result<(), SwitchError> {
        let (stream, at) = {
            let session = link.session.lock();
            if session.has(wanted) {
                return Ok(());
            }
            // The same version goes on: nothing has to be warmed.
            let goes_on = session.served().reference == wanted.served.reference;
            let at = if goes_on { 0 } else { session.committed.pos };
            (session.stream.id, at)
        };
        let served = &wanted.served;
        let mut warm = self.warm(stream, at, served).await?;
        for _ in 0..ROUNDS {
            match self.try_switch(link, wanted, &mut warm).await? {
                Left::Nothing => return Ok(()),
                Left::Pending(rows, until) => self.catch_up(&mut warm, &rows, until).await,
                Left::Stored(until)
                    if self.store.last_reset(stream).await?.pos > warm.place.pos =>
                {
                    warm = self.warm(stream, until, served).await?;
                }
                Left::Stored(until) => {
                    self.fold_log(&mut warm.fold, stream, warm.place, until, true)
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
        self.learn(&mut warm, &learned, at).await;
        let calibrated = warm.place.pos;
        self.learn(&mut warm, &recent, at).await;
        let oldest = recent.first().map_or(at, |oldest| oldest.place.pos - 1);
        warm.from = oldest.clamp(calibrated, at.max(calibrated));
        warm.place.pos = at;
        Ok(warm)
    }

    /// `wanted` as it would stand behind the last stored row of a stream that is not in memory, and from where it was folded behind
    /// its calibration.
    pub(super) async fn warmed(
        &self,
        stored: &StoredStream,
        wanted: &Arc<Served>,
    ) -> Result<(Fold, u64), StoreError> {
        let (stream, at) = (stored.stream.id, stored.marks.pos);
        let warm = self.warm(stream, at, wanted).await?;
        Ok((warm.fold, warm.from))
    }

    /// Folds stored readings that are not folded yet, up to position `until`; one that failed under its version is left out.
    async fn learn(&self, warm: &mut Warm, readings: &[LoggedReading], until: u64) {
        let from = warm.place.pos;
        let new = |reading: &&LoggedReading| {
            reading.folded && reading.place.pos > from && reading.place.pos <= until
        };
        let new: Vec<_> = readings.iter().filter(new).collect();
        for reading in &new {
            warm.place.pos = reading.place.pos;
            warm.place.sample_id = warm.place.sample_id.max(reading.place.sample_id);
        }
        let values: Vec<_> = new.iter().map(|r| (&*r.values, r.ts)).collect();
        self.warming.fold(&mut warm.fold, &values).await;
    }

    /// Folds rows that are on their way to the store; the last of them stands at `until`.
    async fn catch_up(&self, warm: &mut Warm, rows: &[What], until: u64) {
        for part in rows.chunks(STEPS_A_LOCK) {
            let end = (warm.place.pos + part.len() as u64).min(until);
            let is_plain = |row: &What| !matches!(row, What::Reset { .. });
            if part.iter().all(is_plain) {
                let readings: Vec<_> = part.iter().filter_map(folded).collect();
                self.warming.fold(&mut warm.fold, &readings).await;
                warm.place.pos = end;
            } else {
                warm.take(part, end);
            }
        }
        warm.place.pos = until;
    }

    /// Records the switch if little enough is left to fold, else says what.
    async fn try_switch(
        &self,
        link: &Link,
        wanted: &Wanted,
        warm: &mut Warm,
    ) -> Result<Left, TakeError> {
        let mut permits = self.room(1).await?;
        let mut session = link.session.lock();
        check_hold(&session, link)?;
        let until = session.marks.pos;
        if session.served().reference == wanted.served.reference {
            let (reason, arm) = (wanted.reason, wanted.arm.clone());
            if until == 0 {
                session.set_stand(Stand::of(reason, None), arm);
            } else if !session.stands_for(wanted)
                && let Some(permit) = permits.next()
            {
                permit.send(Origin::silent(link).entry(session.stand_anew(reason, arm)));
            }
            return Ok(Left::Nothing);
        }
        let Some(rows) = session.pending_after(warm.place.pos) else {
            return Ok(Left::Stored(session.committed.pos));
        };
        let rows: Vec<What> = rows.cloned().collect();
        if rows.len() > steps_a_lock(&wanted.served) {
            return Ok(Left::Pending(rows, until));
        }
        warm.take(&rows, until);
        let (reason, from) = match until {
            0 if !matches!(wanted.reason, reason::PINNED | reason::EXPERIMENT) => {
                (reason::OPENED, None)
            }
            0 => (wanted.reason, None),
            _ => (wanted.reason, Some(warm.from)),
        };
        if let Some(permit) = permits.next() {
            let row = session.switch(warm.fold.clone(), reason, wanted.arm.clone(), from);
            permit.send(Origin::silent(link).entry(row));
            metrics::counter!(metric::SWITCHES, "reason" => reason).increment(1);
        }
        Ok(Left::Nothing)
    }
}

impl Warm {
    /// Folds rows that are not stored yet, a few of them at most; the last of them stands at `until`.
    fn take(&mut self, rows: &[What], until: u64) {
        let mut pos = self.place.pos;
        for row in rows {
            pos += 1;
            match row {
                What::Reset { .. } => {
                    self.fold.reset();
                    self.from = pos;
                }
                row => {
                    if let Some((values, ts)) = folded(row) {
                        self.fold.step(values, ts);
                    }
                }
            }
        }
        self.place.pos = until;
    }
}

/// Steps of a version that are folded under a session's lock: as many as take no longer than a run of readings may.
fn steps_a_lock(served: &Served) -> usize {
    let most = TIME_A_LOCK.as_nanos() / served.cost.as_nanos().max(1);
    usize::try_from(most).map_or(STEPS_A_LOCK, |most| most.clamp(1, STEPS_A_LOCK))
}

/// What a row adds to the state: values and their time, Unix ms.
fn folded(row: &What) -> Option<(&[f32], i64)> {
    match row {
        What::Sample(sample) if is_folded(&sample.output) => Some((&sample.values, sample.ts)),
        _ => None,
    }
}
