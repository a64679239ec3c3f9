//! The tasks behind the alerts: one follows the committed log and the clock, one records.

use super::Alerts;
use super::book::{Health, Seen};
use crate::store::{Store, StoredSample};
use crate::stream::{Flags, StreamKey, now_ms};
use crate::upkeep::{Follower, Portion};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

/// Between two looks at the clock.
const TICK: Duration = Duration::from_secs(1);
/// Between two records of the place in the log, where nothing else is to be recorded.
const RECORD_EVERY: Duration = Duration::from_secs(5);
/// Between two tries when the store fails.
const RETRY: Duration = Duration::from_secs(1);
/// Between two times that old alerts are deleted.
const EXPIRE_EVERY: Duration = Duration::from_secs(600);
/// Days that resolved alerts and changes are kept.
const KEEP_DAYS: i64 = 400;
/// Alerts deleted at once.
const EXPIRE_SLICE: u32 = 1_000;
/// Devices read at once when the server starts.
const PAGE: u32 = 1_000;
/// A device that was gone for longer when the server starts is not asked after, ms.
const LONG_GONE: i64 = 7 * 24 * 3_600_000;
const DAY: i64 = 24 * 3_600_000;

/// Follows the committed log and the clock; see [`Watcher::run`].
pub struct Watcher {
    alerts: Arc<Alerts>,
    follower: Follower,
}

impl Watcher {
    pub(super) fn new(alerts: Arc<Alerts>, follower: Follower) -> Self {
        Self { alerts, follower }
    }

    /// Watches until `stop`, and records what it finds; `health` says how the server is.
    pub async fn run(mut self, health: impl Fn() -> Health + Send, stop: CancellationToken) {
        let recorder = tokio::spawn(record(Arc::clone(&self.alerts), stop.clone()));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut knows_devices = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = tick.tick() => {
                    if !knows_devices && self.alerts.book.lock().watches_silence() {
                        knows_devices = self.learn_devices(&stop).await;
                    }
                    self.follower.look();
                    self.alerts.book.lock().tick(now_ms(), health());
                }
                portion = self.follower.next() => match portion {
                    Ok(Some(portion)) => self.take(portion),
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!(%error, "alerts wait: the store cannot be read");
                        pause(&stop).await;
                    }
                },
            }
            self.alerts.tell();
        }
        // The recorder stops by itself; what it leaves is found again at the next start.
        let _ = recorder.await;
    }

    fn take(&mut self, portion: Portion) {
        let mut book = self.alerts.book.lock();
        match portion {
            Portion::Committed(batch) => {
                for (_, row) in &batch {
                    book.see(Seen {
                        key: &row.stream.key,
                        at: row.received_at,
                        output: &row.output,
                        is_historical: row.flags.has(Flags::HISTORICAL),
                    });
                }
            }
            Portion::Stored(samples) => {
                for sample in &samples {
                    let Some(key) = key_of(sample) else { continue };
                    book.see(Seen {
                        key: &key,
                        at: sample.received_at,
                        output: &sample.output,
                        is_historical: sample.flags.has(Flags::HISTORICAL),
                    });
                }
            }
        }
        book.passed(self.follower.taken());
    }

    /// When each device was there last, so that one that fell silent while the server was away is noticed. Whether it could be read.
    async fn learn_devices(&self, stop: &CancellationToken) -> bool {
        let mut cursor = None;
        let oldest = now_ms() - LONG_GONE;
        while !stop.is_cancelled() {
            let devices = self.alerts.store.devices(None, cursor.as_ref(), PAGE).await;
            let devices = match devices {
                Ok(devices) => devices,
                Err(error) => {
                    tracing::warn!(%error, "silent devices are not known yet: the store cannot be read");
                    return false;
                }
            };
            let is_last = devices.len() < PAGE as usize;
            cursor = devices.last().map(|device| device.key.clone());
            let mut book = self.alerts.book.lock();
            for device in devices {
                if device.key.is_live() && device.last_seen >= oldest {
                    book.remember(device.key, device.last_seen);
                }
            }
            if is_last {
                break;
            }
        }
        true
    }
}

fn key_of(sample: &StoredSample) -> Option<StreamKey> {
    Some(StreamKey::live(
        sample.endpoint.parse().ok()?,
        sample.device.parse().ok()?,
    ))
}

/// Records until `stop`; then once more.
async fn record(alerts: Arc<Alerts>, stop: CancellationToken) {
    let mut expired = tokio::time::Instant::now();
    let mut until = 0;
    loop {
        let is_stopping = tokio::select! {
            () = stop.cancelled() => true,
            () = alerts.changed.notified() => false,
            () = tokio::time::sleep(RECORD_EVERY) => false,
        };
        let (record, newest) = alerts.book.lock().take_record();
        let is_due = record.until != until || !record.changes.is_empty();
        if is_due || !record.alerts.is_empty() || !record.settings.is_empty() {
            until = record.until;
            // Tried until it stands: what happens meanwhile gathers in the book.
            while let Err(error) = alerts.store.record_alerts(&record).await {
                tracing::warn!(%error, "alerts are not recorded yet");
                if stop.is_cancelled() {
                    return;
                }
                pause(&stop).await;
            }
            alerts.recorded.send_replace(newest);
        }
        if is_stopping {
            return;
        }
        if expired.elapsed() >= EXPIRE_EVERY {
            expired = tokio::time::Instant::now();
            expire(&*alerts.store).await;
        }
    }
}

async fn expire(store: &dyn Store) {
    let before = now_ms() - KEEP_DAYS * DAY;
    if let Err(error) = store.expire_alerts(before, EXPIRE_SLICE).await {
        tracing::warn!(%error, "old alerts are still there");
    }
}

async fn pause(stop: &CancellationToken) {
    // Elapsed: the wait is over; otherwise the server stops.
    let _ = timeout(RETRY, stop.cancelled()).await;
}
