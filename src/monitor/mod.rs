//! How devices and versions are, from the committed log: rates, what is missing or odd, latencies, scores.
//!
//! One task follows the log and is never waited for. A device costs a fixed size; at most [`MOST_DEVICES`] are known, those that were not heard of
//! for a day are forgotten. Nothing is stored: counts begin with the server.

mod device;
mod version;

pub use device::{DeviceHealth, FeatureHealth};

use crate::store::{Store, StoredSample};
use crate::stream::{SampleRow, StreamKey, now_ms};
use crate::telemetry::metric;
use crate::upkeep::{Feed, Follower, Portion};
use device::{Device, Reading};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;
use version::{Answer, Versions};

/// Most devices that are known; further ones are not watched until others are forgotten.
pub const MOST_DEVICES: usize = 1_000_000;
/// A device that was not heard of for so long is forgotten, ms.
const FORGET_AFTER: i64 = 24 * 3_600_000;
const FORGET_EVERY: Duration = Duration::from_secs(600);
const TICK: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Default)]
pub struct Monitor {
    devices: Mutex<HashMap<StreamKey, Device>>,
}

/// The task behind it.
pub struct Monitoring {
    monitor: Arc<Monitor>,
    follower: Follower,
    versions: Versions,
}

impl Monitor {
    /// A monitor from the newest committed sample on, with the writer's side of the log and the task, which is to be spawned.
    pub fn open(store: Arc<dyn Store>, newest: u64) -> (Arc<Self>, Feed, Monitoring) {
        let (feed, follower) = Follower::new(store, newest, newest, metric::MONITOR_LAGGED);
        let monitor = Arc::new(Self::default());
        let monitoring = Monitoring {
            monitor: Arc::clone(&monitor),
            follower,
            versions: Versions::default(),
        };
        (monitor, feed, monitoring)
    }

    /// How a device is; `None` where nothing came of it since the start.
    pub fn health(&self, key: &StreamKey) -> Option<DeviceHealth> {
        let devices = self.devices.lock();
        devices.get(key).map(|device| device.health(now_ms()))
    }

    /// Readings a second, and what is odd about a device, for a list.
    pub fn summary(&self, key: &StreamKey) -> Option<(f64, Vec<&'static str>)> {
        let devices = self.devices.lock();
        let device = devices.get(key)?;
        Some((device.health(now_ms()).rate, device.issues()))
    }

    fn forget(&self, now: i64) {
        let mut devices = self.devices.lock();
        devices.retain(|_, device| now - device.last_at() < FORGET_AFTER);
    }
}

impl Monitoring {
    /// Watches until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        let mut forget = tokio::time::interval(FORGET_EVERY);
        for interval in [&mut tick, &mut forget] {
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => self.follower.look(),
                _ = forget.tick() => self.monitor.forget(now_ms()),
                portion = self.follower.next() => match portion {
                    Ok(Some(Portion::Committed(rows))) => self.take(&rows),
                    Ok(Some(Portion::Stored(samples))) => self.take_stored(&samples),
                    Ok(None) => return,
                    Err(error) => {
                        tracing::warn!(%error, "monitoring waits: the store cannot be read");
                        // Elapsed: the wait is over; otherwise the server stops.
                        let _ = timeout(RETRY, stop.cancelled()).await;
                    }
                },
            }
        }
    }

    fn take(&mut self, rows: &[(u64, Arc<SampleRow>)]) {
        let now = now_ms();
        let mut devices = self.monitor.devices.lock();
        for (_, row) in rows.iter().filter(|(_, row)| row.stream.key.is_live()) {
            let reading = Reading {
                ts: row.ts,
                at: row.received_at,
                values: &row.values,
                output: &row.output,
                flags: row.flags,
            };
            watch(&mut devices, &row.stream.key, &reading);
            self.versions.take(&Answer {
                id: row.version.id,
                endpoint: row.version.endpoint.as_str(),
                model: &row.version.model,
                version: &row.version.version,
                output: &row.output,
                latency_us: row.latency_us,
                commit_ms: Some(now - row.received_at),
            });
        }
    }

    /// What was missed counts for the devices; versions' times and scores are of what came by.
    fn take_stored(&mut self, samples: &[StoredSample]) {
        let mut devices = self.monitor.devices.lock();
        for sample in samples {
            let (Ok(endpoint), Ok(device)) = (sample.endpoint.parse(), sample.device.parse())
            else {
                continue;
            };
            let reading = Reading {
                ts: sample.ts,
                at: sample.received_at,
                values: &sample.values,
                output: &sample.output,
                flags: sample.flags,
            };
            watch(&mut devices, &StreamKey::live(endpoint, device), &reading);
        }
    }
}

fn watch(devices: &mut HashMap<StreamKey, Device>, key: &StreamKey, reading: &Reading<'_>) {
    if let Some(device) = devices.get_mut(key) {
        device.take(reading);
    } else if devices.len() < MOST_DEVICES {
        devices.entry(key.clone()).or_default().take(reading);
    }
}
