//! What is known of one device from its readings: how often, how whole, how odd. Pure; a fixed cost a reading, a fixed size a device.

use crate::stream::Flags;
use serde::Serialize;
use tidegate_protocol::Output;

/// Time over which the rate is taken, seconds: a device that stops is at a third of its rate after so long.
const RATE_S: f64 = 60.0;
/// Weight of the newest reading in the smoothed difference of clocks.
const SKEW_WEIGHT: f64 = 0.05;
/// Equal values in a row after which a sensor that moved before is called stuck.
pub const STUCK_AFTER: u32 = 300;
/// Difference of clocks that is worth a word, ms.
const SKEW_MS: f64 = 60_000.0;

/// A committed reading.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// Measured, Unix ms.
    pub ts: i64,
    /// Arrived, Unix ms.
    pub at: i64,
    /// The values; NaN is missing.
    pub values: &'a [f32],
    /// The answer.
    pub output: &'a Output,
    /// What was odd.
    pub flags: Flags,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Device {
    /// Arrival of the first reading that was seen and of the newest one, Unix ms.
    seen: Option<(i64, i64)>,
    readings: u64,
    /// Readings, each weighing less the longer ago it came.
    recent: f64,
    out_of_range: u64,
    late: u64,
    failed: u64,
    skew_ms: Option<f64>,
    calibrating: Option<(u32, u32)>,
    features: Box<[Feature]>,
}

/// One value of the readings.
#[derive(Debug, Clone, Copy, Default)]
struct Feature {
    /// Bits of the newest value that was there.
    last: u32,
    /// How often in a row it came.
    run: u32,
    /// Whether another one came before.
    varied: bool,
    missing: u64,
}

/// What is said of a device. Counts begin with the server, or when the device came back after a day.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeviceHealth {
    /// Readings seen.
    pub readings: u64,
    /// Readings a second over the last minute or so.
    pub rate: f64,
    /// Readings with a value outside its feature's `range`.
    pub out_of_range: u64,
    /// Values that were missing.
    pub missing: u64,
    /// Readings that fell into a gap.
    pub late: u64,
    /// Readings whose step failed.
    pub failed: u64,
    /// The device's clock minus the server's, smoothed, ms, the time on the way included; null where it sends no times.
    pub clock_skew_ms: Option<f64>,
    /// Readings seen and needed while the model learns what is normal; null when it has.
    pub calibrating: Option<(u32, u32)>,
    /// Of each feature, in the order of the schema.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<FeatureHealth>,
}

/// What is said of one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FeatureHealth {
    /// Times that it was missing.
    pub missing: u64,
    /// Readings in a row with the same value.
    pub unchanged: u32,
    /// It moved before and has not for so many readings that the sensor may be stuck.
    pub stuck: bool,
}

impl Device {
    /// Takes a reading in. A back-filled one says nothing of now but that it came.
    pub fn take(&mut self, reading: &Reading<'_>) {
        let (first, last) = self.seen.unwrap_or((reading.at, reading.at));
        let passed = (reading.at - last).max(0) as f64 / 1e3;
        self.seen = Some((first, last.max(reading.at)));
        self.readings += 1;
        self.recent = self.recent * (-passed / RATE_S).exp() + 1.0;
        self.out_of_range += u64::from(reading.flags.has(Flags::OUT_OF_RANGE));
        if reading.flags.has(Flags::LATE) {
            self.late += 1;
            return;
        }
        self.failed += u64::from(matches!(reading.output, Output::Failed(_)));
        if reading.flags.has(Flags::HISTORICAL) {
            return;
        }
        if reading.flags.has(Flags::TS_SENT) {
            let skew = (reading.ts - reading.at) as f64;
            let before = self.skew_ms.unwrap_or(skew);
            self.skew_ms = Some(before + SKEW_WEIGHT * (skew - before));
        }
        self.calibrating = match reading.output {
            Output::Calibrating { seen, needed } => Some((*seen, *needed)),
            Output::Failed(_) | Output::Skipped(_) => self.calibrating,
            _ => None,
        };
        if self.features.len() != reading.values.len() {
            self.features = vec![Feature::default(); reading.values.len()].into();
        }
        for (feature, value) in self.features.iter_mut().zip(reading.values) {
            feature.take(*value);
        }
    }

    /// Arrival of the newest reading, Unix ms.
    pub fn last_at(&self) -> i64 {
        self.seen.map_or(0, |(_, last)| last)
    }

    /// Readings a second at `now`.
    fn rate(&self, now: i64) -> f64 {
        let Some((first, last)) = self.seen else {
            return 0.0;
        };
        let since = |at: i64| (now - at).max(0) as f64 / 1e3;
        // What has been watched for a moment only has not had the time to add up.
        let filled = 1.0 - (-since(first).max(1.0) / RATE_S).exp();
        self.recent * (-since(last) / RATE_S).exp() / (RATE_S * filled)
    }

    /// What is said of it at `now`, Unix ms.
    pub fn health(&self, now: i64) -> DeviceHealth {
        let features: Vec<FeatureHealth> = self.features.iter().map(Feature::health).collect();
        DeviceHealth {
            readings: self.readings,
            rate: self.rate(now),
            out_of_range: self.out_of_range,
            missing: features.iter().map(|feature| feature.missing).sum(),
            late: self.late,
            failed: self.failed,
            clock_skew_ms: self.skew_ms,
            calibrating: self.calibrating,
            features,
        }
    }

    /// What is odd about it, for people: at most a word each.
    pub fn issues(&self) -> Vec<&'static str> {
        let stuck = self.features.iter().any(|feature| feature.health().stuck);
        let missing = self.features.iter().any(|feature| feature.missing > 0);
        let skewed = self.skew_ms.is_some_and(|skew| skew.abs() > SKEW_MS);
        let found = [
            (stuck, "stuck_sensor"),
            (skewed, "clock_skew"),
            (self.out_of_range > 0, "out_of_range"),
            (missing, "missing_values"),
            (self.late > 0, "late_readings"),
            (self.failed > 0, "failed_steps"),
        ];
        let found = found.into_iter().filter(|(is_so, _)| *is_so);
        found.map(|(_, word)| word).collect()
    }
}

impl Feature {
    fn take(&mut self, value: f32) {
        if value.is_nan() {
            self.missing += 1;
        } else if self.run > 0 && self.last == value.to_bits() {
            self.run = self.run.saturating_add(1);
        } else {
            self.varied |= self.run > 0;
            (self.last, self.run) = (value.to_bits(), 1);
        }
    }

    fn health(&self) -> FeatureHealth {
        FeatureHealth {
            missing: self.missing,
            unchanged: self.run,
            stuck: self.varied && self.run >= STUCK_AFTER,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SCORE: Output = Output::Anomaly {
        score: 0.1,
        threshold: 1.0,
        anomaly: false,
    };

    fn take(device: &mut Device, at: i64, values: &[f32], flags: Flags) {
        let output = &SCORE;
        device.take(&Reading {
            ts: at + 5_000,
            at,
            values,
            output,
            flags,
        });
    }

    #[test]
    fn a_sensor_that_moved_and_stands_still_is_stuck_and_a_constant_is_not() {
        let mut device = Device::default();
        take(&mut device, 0, &[1.0, 7.0], Flags::default());
        for second in 1..=i64::from(STUCK_AFTER) {
            assert!(device.issues().is_empty(), "{second}");
            take(&mut device, second * 1_000, &[2.0, 7.0], Flags::default());
        }
        let health = device.health(0);
        assert!(health.features[0].stuck && !health.features[1].stuck);
        assert_eq!(health.features[1].unchanged, STUCK_AFTER + 1);
        assert_eq!(device.issues(), ["stuck_sensor"]);
        // A missing value is no other value.
        take(&mut device, 0, &[f32::NAN, 7.0], Flags::default());
        assert!(device.health(0).features[0].stuck);
        assert_eq!(device.health(0).missing, 1);
        take(&mut device, 0, &[3.0, 7.0], Flags::default());
        assert_eq!(device.issues(), ["missing_values"]);
    }

    #[test]
    fn what_is_odd_is_counted_and_named() {
        let mut device = Device::default();
        take(&mut device, 0, &[1.0], Flags::OUT_OF_RANGE);
        take(&mut device, 0, &[1.0], Flags::LATE);
        take(&mut device, 0, &[1.0], Flags::TS_SENT);
        let calibrating = Output::Calibrating {
            seen: 3,
            needed: 400,
        };
        let failed = Output::Failed("x".into());
        for output in [&calibrating, &failed] {
            device.take(&Reading {
                ts: 0,
                at: 0,
                values: &[1.0],
                output,
                flags: Flags::default(),
            });
        }
        let health = device.health(0);
        assert_eq!((health.readings, health.out_of_range), (5, 1));
        assert_eq!((health.late, health.failed), (1, 1));
        assert_eq!(health.clock_skew_ms, Some(5_000.0));
        assert_eq!(
            health.calibrating,
            Some((3, 400)),
            "a failed step learns nothing"
        );
        let words = ["out_of_range", "late_readings", "failed_steps"];
        assert_eq!(device.issues(), words);
    }

    #[test]
    fn a_device_that_stops_has_no_rate_after_a_while() {
        let mut device = Device::default();
        for second in 0..600 {
            take(&mut device, second * 1_000, &[1.0], Flags::default());
        }
        let rate = |at| device.health(at).rate;
        assert!((rate(599_000) - 1.0).abs() < 0.02, "{}", rate(599_000));
        assert!(rate(599_000 + 600_000) < 0.001);
    }

    proptest! {
        #[test]
        fn the_rate_is_near_that_of_a_steady_device(every_ms in 20i64..5_000, readings in 200i64..400) {
            let mut device = Device::default();
            for reading in 0..readings {
                take(&mut device, reading * every_ms, &[], Flags::default());
            }
            let wanted = 1e3 / every_ms as f64;
            let rate = device.health((readings - 1) * every_ms).rate;
            prop_assert!((rate / wanted - 1.0).abs() < 0.06, "{rate} for {wanted}");
        }
    }
}
