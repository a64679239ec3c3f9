//! How far a live window is from its reference, and whether that is more than chance.
//!
//! - PSI, sum (p - q) ln(p / q), with the limit that knows both sample sizes: (1/n + 1/m) chi2_{B-1, 1-a} (Yurdakul and Naranjo, 2020,
//!   "Statistical properties of the population stability index"). The customary limits 0.1 and 0.25 are wrong for small windows.
//! - Kolmogorov-Smirnov, two samples, limit distribution (Kolmogorov, 1933; Smirnov, 1939); over bins it sees the distance at the edges
//!   only, so it alarms no more often than over all values.
//! - Pearson's chi-square (1900) for classes: is the mix of labels the same.
//!
//! All assume independent readings. Readings of one sensor are not: [`effective`] says how many independent ones they are worth.

use super::histogram::{Counts, DriftError, Reference};
use crate::special::{chi2_limit, chi2_upper, kolmogorov_upper};
use serde::{Deserialize, Serialize};

/// Bins of the PSI.
pub const PSI_BINS: usize = 10;

/// One window beside its reference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Shift {
    /// Population stability index over reference deciles.
    pub psi: f64,
    /// What the PSI stays below with probability 1 - `alpha` when nothing drifted.
    pub psi_limit: f64,
    /// The p-value of the PSI by the same approximation.
    pub p_psi: f64,
    /// Pearson's p-value over the same bins; keeps its level in small windows, where the PSI's limit is passed a little too often.
    pub p_bins: f64,
    /// Largest distance of the cumulated shares.
    pub ks: f64,
    /// Its p-value.
    pub p_ks: f64,
    /// Missing values: share in the window minus share in the reference.
    pub missing: f64,
}

impl Shift {
    /// Whether the window drifted, at error `alpha`, the one that the limit was made with: the PSI is over it and Pearson agrees.
    pub fn drifted(&self, alpha: f64) -> bool {
        self.psi > self.psi_limit && self.p_bins < alpha
    }
}

/// Compares a window with its reference. `correlation` is the lag-1 autocorrelation of the live readings (0: independent).
///
/// # Errors
/// [`DriftError`] when they have other edges.
pub fn shift(
    reference: &Reference,
    window: &Counts,
    alpha: f64,
    correlation: f64,
) -> Result<Shift, DriftError> {
    let (expected, live) = reference.coarse(window, PSI_BINS)?;
    let n = effective(window.total() as f64, correlation);
    let m = effective(reference.counts().total() as f64, correlation);
    let df = expected.len().saturating_sub(1).max(1) as f64;
    let scale = 1.0 / n + 1.0 / m;
    let psi = psi(&expected, &live);
    let (chi2, _) = chi_square(&expected, &live);
    let worth = effective(1.0, correlation);
    let ks = ks_counts(&reference.counts().bins, &window.bins);
    let share = |counts: &Counts| {
        let all = counts.total() + counts.missing;
        if all == 0 {
            0.0
        } else {
            counts.missing as f64 / all as f64
        }
    };
    Ok(Shift {
        psi,
        psi_limit: scale * chi2_limit(alpha, df),
        p_psi: if n > 0.0 {
            chi2_upper(psi / scale, df)
        } else {
            1.0
        },
        p_bins: chi2_upper(chi2 * worth, df),
        ks,
        p_ks: if n > 0.0 {
            kolmogorov_upper(ks / scale.sqrt())
        } else {
            1.0
        },
        missing: share(window) - share(reference.counts()),
    })
}

/// Readings that count when each is correlated with the one before: n (1 - r) / (1 + r) (Bartlett, 1946, for an AR(1) series).
pub fn effective(n: f64, correlation: f64) -> f64 {
    let r = correlation.clamp(0.0, 0.999);
    n * (1.0 - r) / (1.0 + r)
}

/// Population stability index of counts over the same bins; an empty bin counts as half a reading. 0 while one side is empty.
pub fn psi(reference: &[u64], live: &[u64]) -> f64 {
    let (n, m) = (total(reference), total(live));
    if n <= 0.0 || m <= 0.0 {
        return 0.0;
    }
    let share = |count: u64, all: f64| (count as f64).max(0.5) / all;
    let term = |(a, b): (&u64, &u64)| {
        let (p, q) = (share(*b, m), share(*a, n));
        (p - q) * (p / q).ln()
    };
    // A bin that both lack says nothing.
    let seen = reference.iter().zip(live).filter(|(a, b)| **a + **b > 0);
    seen.map(term).sum()
}

/// Kolmogorov-Smirnov distance at the edges of the bins.
pub fn ks_counts(reference: &[u64], live: &[u64]) -> f64 {
    let (n, m) = (total(reference), total(live));
    if n <= 0.0 || m <= 0.0 {
        return 0.0;
    }
    let (mut a, mut b, mut most) = (0.0, 0.0, 0.0_f64);
    for (r, w) in reference.iter().zip(live) {
        a += *r as f64 / n;
        b += *w as f64 / m;
        most = most.max((a - b).abs());
    }
    most
}

/// Kolmogorov-Smirnov distance of two samples and its p-value by the limit distribution. Both are sorted here.
pub fn ks(one: &mut [f64], two: &mut [f64]) -> (f64, f64) {
    one.sort_by(f64::total_cmp);
    two.sort_by(f64::total_cmp);
    let (n, m) = (one.len() as f64, two.len() as f64);
    if one.is_empty() || two.is_empty() {
        return (0.0, 1.0);
    }
    let (mut i, mut j, mut most) = (0, 0, 0.0_f64);
    while i < one.len() && j < two.len() {
        let at = one[i].min(two[j]);
        while i < one.len() && one[i] <= at {
            i += 1;
        }
        while j < two.len() && two[j] <= at {
            j += 1;
        }
        most = most.max((i as f64 / n - j as f64 / m).abs());
    }
    let scaled = most * (n * m / (n + m)).sqrt();
    (most, kolmogorov_upper(scaled))
}

/// Pearson's chi-square of two rows of class counts, and its p-value. Classes that both lack are left out.
pub fn chi_square(reference: &[u64], live: &[u64]) -> (f64, f64) {
    let (n, m) = (total(reference), total(live));
    if n <= 0.0 || m <= 0.0 {
        return (0.0, 1.0);
    }
    let mut chi2 = 0.0;
    let mut classes = 0_u32;
    for (a, b) in reference.iter().zip(live) {
        let (a, b) = (*a as f64, *b as f64);
        if a + b <= 0.0 {
            continue;
        }
        classes += 1;
        let expected = [(a + b) * n / (n + m), (a + b) * m / (n + m)];
        chi2 += (a - expected[0]).powi(2) / expected[0] + (b - expected[1]).powi(2) / expected[1];
    }
    if classes < 2 {
        return (0.0, 1.0);
    }
    (chi2, chi2_upper(chi2, f64::from(classes - 1)))
}

fn total(counts: &[u64]) -> f64 {
    counts.iter().sum::<u64>() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn normals(rng: &mut Rng, n: usize, mean: f64) -> Vec<f64> {
        (0..n).map(|_| mean + rng.normal()).collect()
    }

    /// The share of windows without drift in which each rule alarms.
    fn false_alarms(n: usize, rule: impl Fn(&Shift) -> bool) -> f64 {
        let mut alarms = 0_u32;
        for world in 0..1_000 {
            let mut rng = Rng::part(11, world);
            let reference = Reference::freeze(&normals(&mut rng, 5_000, 0.0), 100).unwrap();
            let mut window = reference.window();
            normals(&mut rng, n, 0.0)
                .iter()
                .for_each(|x| reference.count(&mut window, *x));
            let shift = shift(&reference, &window, 0.05, 0.0).unwrap();
            alarms += u32::from(rule(&shift));
        }
        f64::from(alarms) / 1_000.0
    }

    #[test]
    fn the_limit_of_the_psi_knows_the_size_of_the_window() {
        let customary = false_alarms(100, |shift| shift.psi > 0.1);
        assert!(
            (0.30..0.45).contains(&customary),
            "the trap is there: {customary}"
        );
        for n in [100, 1_000] {
            // With ten expected readings a bin the limit is passed in 8.8% of the windows, with a hundred in 5%.
            let rate = false_alarms(n, |shift| shift.psi > shift.psi_limit);
            assert!((0.02..=0.10).contains(&rate), "{n}: {rate}");
            let rate = false_alarms(n, |shift| shift.drifted(0.05));
            assert!((0.02..=0.065).contains(&rate), "{n}: {rate}");
            let rate = false_alarms(n, |shift| shift.p_ks < 0.05);
            assert!(rate <= 0.065, "{n}: {rate}");
        }
    }

    #[test]
    fn a_shift_of_half_a_deviation_is_seen_in_three_hundred_readings() {
        let mut rng = Rng::new(2);
        let reference = Reference::freeze(&normals(&mut rng, 5_000, 0.0), 100).unwrap();
        let mut window = reference.window();
        normals(&mut rng, 300, 0.5)
            .iter()
            .for_each(|x| reference.count(&mut window, *x));
        let shift = shift(&reference, &window, 1e-4, 0.0).unwrap();
        assert!(
            shift.psi > shift.psi_limit && shift.p_psi < 1e-4 && shift.p_ks < 1e-4,
            "{shift:?}"
        );
    }

    /// Readings that hang together look like drift unless it is said how much they do.
    #[test]
    fn correlated_readings_count_for_fewer() {
        let mut alarms = [0_u32; 2];
        for world in 0..500 {
            let mut rng = Rng::part(12, world);
            let reference = Reference::freeze(&normals(&mut rng, 5_000, 0.0), 100).unwrap();
            let mut window = reference.window();
            let mut x = rng.normal();
            for _ in 0..1_000 {
                x = 0.9 * x + (1.0_f64 - 0.81).sqrt() * rng.normal();
                reference.count(&mut window, x);
            }
            for (alarms, correlation) in alarms.iter_mut().zip([0.0, 0.9]) {
                let shift = shift(&reference, &window, 0.05, correlation).unwrap();
                *alarms += u32::from(shift.psi > shift.psi_limit);
            }
        }
        assert!(alarms[0] > 300 && alarms[1] <= 25, "{alarms:?}");
    }

    #[test]
    fn an_empty_window_alarms_nobody() {
        let reference = Reference::freeze(&[1.0, 2.0, 3.0, 4.0], 4).unwrap();
        let shift = shift(&reference, &reference.window(), 0.05, 0.0).unwrap();
        assert_eq!(
            (shift.psi, shift.p_psi, shift.ks, shift.p_ks),
            (0.0, 1.0, 0.0, 1.0)
        );
        assert_eq!(chi_square(&[1, 2], &[0, 0]), (0.0, 1.0));
        assert_eq!(ks(&mut [], &mut [1.0]), (0.0, 1.0));
    }
}
