//! Retention, and the room that is left.
//!
//! Owns the decision what is old enough or too much, and the flag that keeps new readings out before a disk is full. What goes and what stays is the
//! store's part. Age is counted by a clock that no jump of the wall clock can push forward.

use super::gather::RolledUp;
use crate::config::Keep;
use crate::store::rollup::Span;
use crate::store::upkeep::{OldSlice, Usage};
use crate::store::writer::{Full, StoreHealth};
use crate::store::{Store, StoreError};
use crate::stream::now_ms;
use crate::telemetry::metric;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Between two looks at the disk.
const LOOK: Duration = Duration::from_secs(1);
/// Looks between two passes of retention.
const LOOKS_A_PASS: u32 = 10;
/// Samples retired in one transaction: some 20 ms during which commits wait.
const SLICE: u32 = 2_000;
/// Between two slices, so that commits get their turn.
const BREATH: Duration = Duration::from_millis(5);
/// Slices between two looks: a pass that has more to do goes on after the next one.
const SLICES_A_LOOK: u32 = 40;
/// Retention trails what comes: a twentieth more than the largest size is no reason to refuse.
const OVERSHOOT: u64 = 20;
const DAY_MS: i64 = 24 * 3_600 * 1000;

/// See the module.
pub struct Keeper {
    /// The database.
    pub store: Arc<dyn Store>,
    /// What to keep.
    pub keep: Keep,
    /// Where the pipeline reads whether there is room.
    pub health: Arc<StoreHealth>,
    /// How far samples are rolled up.
    pub rolled_up: Arc<RolledUp>,
    /// Readings that the hungriest version is calibrated on.
    pub calibration: Arc<AtomicU32>,
}

/// Wall-clock time that only the passing of time moves forward.
struct SteadyClock {
    began: Instant,
    began_ms: i64,
}

impl SteadyClock {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            began_ms: now_ms(),
        }
    }

    /// The earlier of what the wall clock says and what it would say had it never been set.
    fn now_ms(&self) -> i64 {
        let passed = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX);
        now_ms().min(self.began_ms.saturating_add(passed))
    }
}

impl Keeper {
    /// Looks and retires until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let clock = SteadyClock::new();
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = 0;
        let mut unfinished = false;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return,
            }
            let pass = unfinished || looks % LOOKS_A_PASS == 0;
            match self.look(pass, &clock, &stop).await {
                Ok(more) => unfinished = more,
                Err(error) => tracing::warn!(%error, "the store could not be looked after"),
            }
            looks = u32::wrapping_add(looks, 1);
        }
    }

    /// Returns whether retention has more to do.
    async fn look(
        &self,
        pass: bool,
        clock: &SteadyClock,
        stop: &CancellationToken,
    ) -> Result<bool, StoreError> {
        let usage = self.store.usage().await?;
        // Before anything that may fail: a disk that is nearly full fails the retiring too. A database that is too large is given the chance to
        // become smaller first.
        let room = full(usage, &self.keep);
        if room != Some(Full::MaxBytes) {
            self.note(usage);
        }
        let made = self.make_room(pass, usage, clock, stop).await;
        self.note(made.as_ref().map_or(usage, |(usage, _)| *usage));
        let (_, more) = made?;
        if pass {
            self.expire(clock.now_ms()).await?;
        }
        Ok(more)
    }

    /// Retires where a pass is due or the database is too large; what is in use then, and whether there is more to do.
    async fn make_room(
        &self,
        pass: bool,
        usage: Usage,
        clock: &SteadyClock,
        stop: &CancellationToken,
    ) -> Result<(Usage, bool), StoreError> {
        if pass || usage.bytes > self.keep.max_bytes {
            return self.retire(clock.now_ms(), usage, stop).await;
        }
        Ok((usage, false))
    }

    /// Retires slices while the oldest one is too old or the database too large; tells whether it had to leave some.
    async fn retire(
        &self,
        now_ms: i64,
        mut usage: Usage,
        stop: &CancellationToken,
    ) -> Result<(Usage, bool), StoreError> {
        for _ in 0..SLICES_A_LOOK {
            let slice = self.store.oldest(SLICE).await?;
            let Some(slice) = slice.filter(|_| !stop.is_cancelled()) else {
                return self.retire_notes(usage).await;
            };
            if !self.is_due(&slice, now_ms, usage) {
                return Ok((usage, false));
            }
            if !self.is_rolled_up(&slice, usage).await {
                return Ok((usage, true));
            }
            let calibration = self.calibration.load(Ordering::Relaxed);
            let gone = self.store.retire(&slice, calibration).await?;
            if usage.bytes > self.keep.max_bytes {
                self.store.expire_notes(i64::MAX, SLICE).await?;
            }
            metrics::counter!(metric::RETIRED).increment(gone);
            self.store.shrink().await?;
            usage = self.store.usage().await?;
            tokio::time::sleep(BREATH).await;
        }
        Ok((usage, true))
    }

    /// With no samples left to retire, refusals and feedback may be what fills the database.
    async fn retire_notes(&self, mut usage: Usage) -> Result<(Usage, bool), StoreError> {
        let mut gone = 0;
        if usage.bytes > self.keep.max_bytes {
            gone = self.store.expire_notes(i64::MAX, SLICE).await?;
            self.store.shrink().await?;
            usage = self.store.usage().await?;
        }
        Ok((usage, gone > 0))
    }

    fn is_due(&self, slice: &OldSlice, now_ms: i64, usage: Usage) -> bool {
        let keep_ms = i64::from(self.keep.days) * DAY_MS;
        let is_old = keep_ms > 0 && slice.newest_arrival < now_ms - keep_ms;
        is_old || usage.bytes > self.keep.max_bytes
    }

    /// Nothing goes before its roll-ups are stored. Age can wait for that; size asks for it now.
    async fn is_rolled_up(&self, slice: &OldSlice, usage: Usage) -> bool {
        let last = slice.until - 1;
        if usage.bytes > self.keep.max_bytes {
            return self.rolled_up.reach(last, LOOK).await;
        }
        self.rolled_up.until() >= last
    }

    async fn expire(&self, now_ms: i64) -> Result<(), StoreError> {
        if self.keep.days > 0 {
            let before = now_ms - i64::from(self.keep.days) * DAY_MS;
            while self.store.expire_notes(before, SLICE).await? >= u64::from(SLICE) {
                tokio::time::sleep(BREATH).await;
            }
        }
        for (span, days) in [
            (Span::Minute, self.keep.minutes_days),
            (Span::Hour, self.keep.hours_days),
        ] {
            if days > 0 {
                let before = now_ms - i64::from(days) * DAY_MS;
                self.store.expire_rollups(span, before).await?;
            }
        }
        Ok(())
    }

    /// Shows the sizes, and keeps new readings out while there is no room for them.
    fn note(&self, usage: Usage) {
        metrics::gauge!(metric::STORE_BYTES).set(usage.bytes as f64);
        if let Some(free) = usage.free_bytes {
            metrics::gauge!(metric::STORE_FREE_BYTES).set(free as f64);
        }
        let full = full(usage, &self.keep);
        if self.health.full() != full {
            match full {
                Some(reason) => {
                    let (bytes, free_bytes) = (usage.bytes, usage.free_bytes);
                    tracing::error!(%reason, bytes, free_bytes, "new readings are refused");
                }
                None => tracing::info!("there is room again: readings are taken"),
            }
        }
        metrics::gauge!(metric::STORE_FULL).set(f64::from(u8::from(full.is_some())));
        self.health.set_full(full);
    }
}

/// Whether new readings must stay out. Pure.
fn full(usage: Usage, keep: &Keep) -> Option<Full> {
    if usage
        .free_bytes
        .is_some_and(|free| free < keep.min_free_bytes)
    {
        Some(Full::Disk)
    } else {
        let most = keep.max_bytes + keep.max_bytes / OVERSHOOT;
        (usage.bytes > most).then_some(Full::MaxBytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Keep = Keep {
        days: 1,
        max_bytes: 1000,
        min_free_bytes: 100,
        minutes_days: 0,
        hours_days: 0,
    };

    fn usage(bytes: u64, free_bytes: Option<u64>) -> Usage {
        Usage { bytes, free_bytes }
    }

    #[test]
    fn readings_stay_out_before_the_disk_is_full_and_past_the_largest_size() {
        assert_eq!(full(usage(1050, Some(100)), &KEEP), None);
        assert_eq!(full(usage(10, Some(99)), &KEEP), Some(Full::Disk));
        assert_eq!(full(usage(1051, Some(100)), &KEEP), Some(Full::MaxBytes));
        assert_eq!(full(usage(10, None), &KEEP), None);
    }

    #[test]
    fn no_jump_of_the_wall_clock_makes_samples_older() {
        let clock = SteadyClock {
            began: Instant::now(),
            began_ms: now_ms() - 10 * DAY_MS,
        };
        assert!(
            clock.now_ms() < now_ms() - 9 * DAY_MS,
            "the wall clock jumped ten days forward"
        );
        let behind = SteadyClock {
            began: Instant::now(),
            began_ms: now_ms() + DAY_MS,
        };
        assert!(
            behind.now_ms() <= now_ms(),
            "the wall clock was set back a day"
        );
    }
}
