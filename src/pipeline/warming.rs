//! How much of a core goes into versions that are warmed aside.
//!
//! Warming folds old readings, hundreds to a hundred thousand a stream, while live ones go on. One fold works at a time, for a millisecond
//! at most; then all of them rest, so that together they take `inference.warm_percent` of one core, however many streams move.

use crate::inference::Fold;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Work between two rests: short beside what a live reading may wait, long beside a timer's tick.
const SLICE: Duration = Duration::from_millis(1);

/// See the module.
pub struct Warming {
    /// Work since the last rest; whoever holds it works or rests for all.
    worked: Mutex<Duration>,
    /// Rest a second of work, seconds.
    rest: f64,
}

impl Warming {
    /// At most so many hundredths of one core, 1 to 100.
    pub fn new(percent: u32) -> Self {
        let percent = f64::from(percent.clamp(1, 100));
        Self {
            worked: Mutex::default(),
            rest: (100.0 - percent) / percent,
        }
    }

    /// Folds readings (values, measured Unix ms) in their order.
    pub async fn fold(&self, fold: &mut Fold, readings: &[(&[f32], i64)]) {
        let mut rest = readings;
        while !rest.is_empty() {
            let mut worked = self.worked.lock().await;
            let begin = Instant::now();
            while *worked + begin.elapsed() < SLICE
                && let Some(((values, ts), later)) = rest.split_first()
            {
                fold.step(values, *ts);
                rest = later;
            }
            *worked += begin.elapsed();
            if *worked >= SLICE {
                let rest = worked.mul_f64(self.rest);
                *worked = Duration::ZERO;
                // Others wait for their turn meanwhile: that is the cap.
                tokio::time::sleep(rest).await;
            }
        }
    }
}
