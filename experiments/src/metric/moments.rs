//! Devices added up: means, variances and the covariance of (y, n), and the estimate of a ratio with its error.
//!
//! One pass, mergeable, 56 bytes an arm and metric however many devices there are. Sources: Welford (1962) for the running form; Chan,
//! Golub and LeVeque (1979) for merging; Deng, Knoblich and Lu (2018), "Applying the delta method in metric analytics",
//! for the variance of a ratio of means over randomisation units.

use super::Form;
use serde::{Deserialize, Serialize};

/// Sums over the devices of one arm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    devices: u64,
    mean_y: f64,
    mean_n: f64,
    /// Sums of squared and crossed deviations from the means.
    yy: f64,
    nn: f64,
    yn: f64,
}

/// A metric of one arm: its value, and the variance of one device's influence on it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The metric.
    pub value: f64,
    /// Variance a device: the standard error is the root of this over `devices`.
    pub variance: f64,
    /// Devices with a frozen observation.
    pub devices: u64,
}

impl Moments {
    /// Adds one device's observation.
    #[inline]
    pub fn push(&mut self, y: f64, n: f64) {
        self.devices += 1;
        let count = self.devices as f64;
        let (dy, dn) = (y - self.mean_y, n - self.mean_n);
        self.mean_y += dy / count;
        self.mean_n += dn / count;
        self.yy += dy * (y - self.mean_y);
        self.nn += dn * (n - self.mean_n);
        self.yn += dy * (n - self.mean_n);
    }

    /// Adds the devices of another sum.
    pub fn merge(&mut self, other: &Self) {
        if other.devices == 0 {
            return;
        }
        let (a, b) = (self.devices as f64, other.devices as f64);
        let all = a + b;
        let (dy, dn) = (other.mean_y - self.mean_y, other.mean_n - self.mean_n);
        let weight = a * b / all;
        self.yy += other.yy + dy * dy * weight;
        self.nn += other.nn + dn * dn * weight;
        self.yn += other.yn + dy * dn * weight;
        self.mean_y += dy * b / all;
        self.mean_n += dn * b / all;
        self.devices += other.devices;
    }

    /// Devices added.
    pub fn devices(&self) -> u64 {
        self.devices
    }

    /// Mean of y.
    pub fn mean(&self) -> f64 {
        self.mean_y
    }

    /// Sum of n.
    pub fn total_n(&self) -> f64 {
        self.mean_n * self.devices as f64
    }

    /// Sample variance of y; 0 below two devices.
    pub fn variance(&self) -> f64 {
        self.over_devices(self.yy)
    }

    /// The metric under `form`; none before there are two devices and a denominator.
    pub fn estimate(&self, form: Form) -> Option<Estimate> {
        if self.devices < 2 || self.mean_n <= 0.0 {
            return None;
        }
        let ratio = self.mean_y / self.mean_n;
        let crossed = self.yy - 2.0 * ratio * self.yn + ratio * ratio * self.nn;
        // Rounding may leave it a hair below 0.
        let variance = self.over_devices(crossed).max(0.0) / (self.mean_n * self.mean_n);
        let (value, variance) = match form {
            Form::RootRatio => rooted(ratio, variance)?,
            Form::Proportion | Form::Mean | Form::Ratio => (ratio, variance),
        };
        Some(Estimate {
            value,
            variance,
            devices: self.devices,
        })
    }

    fn over_devices(&self, sum: f64) -> f64 {
        if self.devices < 2 {
            0.0
        } else {
            sum / (self.devices - 1) as f64
        }
    }
}

/// The delta method once more: the derivative of the root is 1 / (2 root).
fn rooted(ratio: f64, variance: f64) -> Option<(f64, f64)> {
    (ratio > 0.0).then(|| (ratio.sqrt(), variance / (4.0 * ratio)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(pairs: &[(f64, f64)]) -> Moments {
        let mut moments = Moments::default();
        for (y, n) in pairs {
            moments.push(*y, *n);
        }
        moments
    }

    /// By hand: y = 1, 2, 3 and n = 2, 2, 5; R = 6/9; residuals y - R n = -1/3, 2/3, -1/3; their variance 1/3, over 3^2.
    #[test]
    fn a_ratio_has_the_variance_computed_by_hand() {
        let estimate = of(&[(1.0, 2.0), (2.0, 2.0), (3.0, 5.0)])
            .estimate(Form::Ratio)
            .unwrap();
        assert!((estimate.value - 2.0 / 3.0).abs() < 1e-15);
        assert!((estimate.variance - 1.0 / 27.0).abs() < 1e-15);
        let root = of(&[(1.0, 2.0), (2.0, 2.0), (3.0, 5.0)])
            .estimate(Form::RootRatio)
            .unwrap();
        assert!((root.variance - (1.0 / 27.0) / (4.0 * 2.0 / 3.0)).abs() < 1e-15);
    }

    #[test]
    fn one_device_is_no_estimate() {
        assert_eq!(of(&[]).estimate(Form::Mean), None);
        assert_eq!(of(&[(1.0, 1.0)]).estimate(Form::Mean), None);
        assert_eq!(of(&[(1.0, 0.0), (1.0, 0.0)]).estimate(Form::Ratio), None);
        assert_eq!(
            of(&[(0.0, 1.0), (0.0, 1.0)]).estimate(Form::RootRatio),
            None
        );
    }

    proptest! {
        #[test]
        fn parts_merged_are_the_whole(pairs in prop::collection::vec((-100.0_f64..100.0, 0.5_f64..50.0), 2..60), cut in 0_usize..60) {
            let cut = cut.min(pairs.len());
            let whole = of(&pairs);
            let mut merged = of(&pairs[..cut]);
            merged.merge(&of(&pairs[cut..]));
            let (a, b) = (whole.estimate(Form::Ratio).unwrap(), merged.estimate(Form::Ratio).unwrap());
            prop_assert_eq!(a.devices, b.devices);
            prop_assert!((a.value - b.value).abs() <= 1e-10 * a.value.abs().max(1.0));
            prop_assert!((a.variance - b.variance).abs() <= 1e-9 * a.variance.max(1.0));
        }
    }
}
