//! A reference distribution as counts between quantiles, and live counts over the same edges.
//!
//! Edges are quantiles of the reference (training data, or the first readings in production), 128 at most, so that a reference
//! takes 2 KiB a feature whatever it was made of, and every live window 1 KiB. Counts merge by adding: windows of minutes make hours, devices
//! make a fleet. Missing values are counted apart and compared as a share. Bins are closed on the right: a bin holds `edge[i-1] < x <= edge[i]`.

use serde::{Deserialize, Serialize};

/// Bins of a reference at most.
pub const MAX_BINS: usize = 128;
/// Values that a reference is made of at most; more are thinned evenly.
pub const MAX_VALUES: usize = 1_000_000;

/// Counts between edges.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Readings in each bin.
    pub bins: Vec<u64>,
    /// Readings without a value.
    pub missing: u64,
}

impl Counts {
    /// Readings with a value.
    pub fn total(&self) -> u64 {
        self.bins.iter().sum()
    }

    /// Adds another window over the same edges.
    ///
    /// # Errors
    /// [`DriftError::Edges`] when it has another number of bins.
    pub fn merge(&mut self, other: &Self) -> Result<(), DriftError> {
        if self.bins.len() != other.bins.len() {
            return Err(DriftError::Edges {
                expected: self.bins.len(),
                found: other.bins.len(),
            });
        }
        for (sum, n) in self.bins.iter_mut().zip(&other.bins) {
            *sum += n;
        }
        self.missing += other.missing;
        Ok(())
    }
}

/// Why distributions cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriftError {
    /// Too little to take quantiles of.
    #[error("reference: {0} values; at least 2 that are finite are needed")]
    Few(usize),
    /// Other edges.
    #[error(
        "window: has {found} bins, the reference has {expected}; both must be made of the same reference"
    )]
    Edges {
        /// Bins of the reference.
        expected: usize,
        /// Bins of the window.
        found: usize,
    },
}

/// A frozen distribution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    edges: Vec<f64>,
    counts: Counts,
}

impl Reference {
    /// Freezes `values` into at most `bins` bins of about equal count; NaN is a missing value. A constant gives one edge.
    ///
    /// # Errors
    /// [`DriftError::Few`].
    pub fn freeze(values: &[f64], bins: usize) -> Result<Self, DriftError> {
        let step = values.len().div_ceil(MAX_VALUES).max(1);
        let mut sorted: Vec<f64> = values
            .iter()
            .step_by(step)
            .copied()
            .filter(|x| x.is_finite())
            .collect();
        if sorted.len() < 2 {
            return Err(DriftError::Few(sorted.len()));
        }
        sorted.sort_by(f64::total_cmp);
        let bins = bins.clamp(2, MAX_BINS);
        let mut edges: Vec<f64> = (1..bins)
            .map(|i| sorted[(i * sorted.len()).div_ceil(bins) - 1])
            .collect();
        edges.dedup();
        // The last bin must hold something of the reference, or what falls there has nothing to be compared with.
        let largest = sorted[sorted.len() - 1];
        while edges.len() > 1 && edges.last() == Some(&largest) {
            edges.pop();
        }
        let mut reference = Self {
            counts: Counts::default(),
            edges,
        };
        let mut counts = reference.window();
        for value in values {
            reference.count(&mut counts, *value);
        }
        reference.counts = counts;
        Ok(reference)
    }

    /// An empty window over these edges.
    pub fn window(&self) -> Counts {
        Counts {
            bins: vec![0; self.edges.len() + 1],
            missing: 0,
        }
    }

    /// Counts a value into a window; about 10 ns.
    #[inline]
    pub fn count(&self, window: &mut Counts, value: f64) {
        if value.is_nan() {
            window.missing += 1;
        } else {
            window.bins[self.edges.partition_point(|edge| *edge < value)] += 1;
        }
    }

    /// The reference's own counts.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Upper edges of all bins but the last.
    pub fn edges(&self) -> &[f64] {
        &self.edges
    }

    /// Both distributions over at most `bins` coarser bins of about equal reference count (PSI takes deciles).
    ///
    /// # Errors
    /// [`DriftError::Edges`].
    pub fn coarse(&self, window: &Counts, bins: usize) -> Result<(Vec<u64>, Vec<u64>), DriftError> {
        let (expected, found) = (self.counts.bins.len(), window.bins.len());
        if expected != found {
            return Err(DriftError::Edges { expected, found });
        }
        let total = self.counts.total() as f64;
        let (mut reference, mut live) = (vec![0], vec![0]);
        let mut sum = 0_u64;
        for (r, w) in self.counts.bins.iter().zip(&window.bins) {
            // A bin belongs where its middle lies.
            let middle = sum as f64 + *r as f64 / 2.0;
            let at = (middle / total * bins as f64) as usize;
            let full = reference.last().is_some_and(|n| *n > 0) && at >= reference.len();
            if full && reference.len() < bins {
                reference.push(0);
                live.push(0);
            }
            let last = reference.len() - 1;
            reference[last] += r;
            live[last] += w;
            sum += r;
        }
        Ok((reference, live))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_reference_has_bins_of_equal_count() {
        let values: Vec<f64> = (0..1_000).map(f64::from).collect();
        let reference = Reference::freeze(&values, 10).unwrap();
        assert_eq!(reference.counts().bins, vec![100; 10]);
        let fine = Reference::freeze(&values, 100).unwrap();
        let (coarse, live) = fine.coarse(fine.counts(), 10).unwrap();
        assert_eq!(coarse, vec![100; 10]);
        assert_eq!(coarse, live);
    }

    #[test]
    fn a_constant_and_a_discrete_feature_have_few_bins_and_no_empty_one() {
        let constant = Reference::freeze(&[4.0; 50], 10).unwrap();
        assert_eq!(constant.edges(), [4.0]);
        let mut window = constant.window();
        for value in [3.0, 4.0, 5.0, f64::NAN] {
            constant.count(&mut window, value);
        }
        assert_eq!((window.bins, window.missing), (vec![2, 1], 1));
        let coin: Vec<f64> = (0..100).map(|i| f64::from(i % 2)).collect();
        assert_eq!(
            Reference::freeze(&coin, 10).unwrap().counts().bins,
            vec![50, 50]
        );
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        assert_eq!(
            Reference::freeze(&[f64::NAN, 1.0], 10),
            Err(DriftError::Few(1))
        );
        let reference = Reference::freeze(&[1.0, 2.0, 3.0], 3).unwrap();
        let error = reference
            .coarse(&Counts::default(), 10)
            .unwrap_err()
            .to_string();
        assert!(error.contains("has 0 bins, the reference has 3"), "{error}");
        assert!(reference.window().merge(&Counts::default()).is_err());
    }

    proptest! {
        #[test]
        fn windows_merged_are_the_window_of_all(values in prop::collection::vec(-5.0_f64..5.0, 2..200), cut in 0_usize..200) {
            let reference = Reference::freeze(&values, 16).unwrap();
            let cut = cut.min(values.len());
            let (mut a, mut b) = (reference.window(), reference.window());
            values[..cut].iter().for_each(|x| reference.count(&mut a, *x));
            values[cut..].iter().for_each(|x| reference.count(&mut b, *x));
            a.merge(&b).unwrap();
            prop_assert_eq!(&a, reference.counts());
            prop_assert_eq!(a.total() as usize, values.len());
            let (coarse, live) = reference.coarse(&a, 10).unwrap();
            prop_assert_eq!(coarse.iter().sum::<u64>(), a.total());
            prop_assert_eq!(coarse, live);
        }
    }
}
