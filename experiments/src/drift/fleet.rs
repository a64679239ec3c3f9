//! Many devices, few alarms: which of thousands of p-values are discoveries, and what to say of the fleet.
//!
//! Sources: Benjamini and Hochberg (1995), the step-up rule that keeps the expected share of false ones among those named below q;
//! Benjamini and Yekutieli (2001), the same under any dependence (divided by 1 + 1/2 + .. + 1/n). Devices under one weather depend on each
//! other positively, for which the first suffices. Alarms are by feature: one that says how many devices, instead of one a device.

use serde::{Deserialize, Serialize};

/// What is known of how the p-values hang together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dependence {
    /// Independent, or positively dependent.
    Positive,
    /// Anything.
    Any,
}

/// Which p-values are discoveries at a false discovery rate of `q`: their indices, the least p first. O(n log n).
pub fn discoveries(p_values: &[f64], q: f64, dependence: Dependence) -> Vec<usize> {
    let mut order: Vec<usize> = (0..p_values.len())
        .filter(|i| p_values[*i].is_finite())
        .collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]).then(a.cmp(b)));
    let n = order.len() as f64;
    let q = match dependence {
        Dependence::Positive => q,
        Dependence::Any => {
            q / (1..=order.len())
                .map(|i| 1.0 / i as f64)
                .sum::<f64>()
                .max(1.0)
        }
    };
    let passes = |(rank, index): (usize, &usize)| p_values[*index] <= q * (rank + 1) as f64 / n;
    let last = order.iter().enumerate().rposition(passes);
    order.truncate(last.map_or(0, |last| last + 1));
    order
}

/// What is said of one feature over the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// No device stands out.
    Quiet,
    /// Few do: they are named.
    Devices(Vec<usize>),
    /// So many that it is not the devices: the season, a firmware, the feed.
    Fleet {
        /// How many stand out.
        drifting: usize,
        /// Of how many.
        of: usize,
    },
}

/// Judges a feature over the fleet: from a share of `common` on it is one alarm for all.
pub fn judge(p_values: &[f64], q: f64, common: f64) -> Said {
    let found = discoveries(p_values, q, Dependence::Positive);
    let of = p_values.len();
    match found.len() {
        0 => Said::Quiet,
        drifting if of >= 10 && drifting as f64 >= common * of as f64 => {
            Said::Fleet { drifting, of }
        }
        _ => Said::Devices(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// Ranks and limits by hand at q = 0.05, n = 5: 0.01, 0.02, 0.03, 0.04, 0.05; the third is the last that passes.
    #[test]
    fn the_step_up_rule_is_the_one_worked_by_hand() {
        let p = [0.9, 0.001, 0.025, 0.021, 0.2];
        assert_eq!(discoveries(&p, 0.05, Dependence::Positive), [1, 3, 2]);
        assert_eq!(discoveries(&p, 0.05, Dependence::Any), [1]);
        assert!(discoveries(&[], 0.05, Dependence::Any).is_empty());
        assert!(discoveries(&[f64::NAN], 0.05, Dependence::Positive).is_empty());
    }

    #[test]
    fn ten_thousand_quiet_devices_raise_hardly_an_alarm() {
        let mut loud = 0_u32;
        for window in 0..200 {
            let mut rng = Rng::part(6, window);
            let p: Vec<f64> = (0..10_000).map(|_| rng.uniform()).collect();
            loud += u32::from(judge(&p, 0.01, 0.2) != Said::Quiet);
        }
        assert!(loud <= 8, "{loud}");
    }

    #[test]
    fn few_devices_are_named_and_many_are_one_alarm() {
        let mut rng = Rng::new(7);
        let mut p: Vec<f64> = (0..1_000).map(|_| rng.uniform()).collect();
        p[17] = 1e-9;
        assert_eq!(judge(&p, 0.01, 0.2), Said::Devices(vec![17]));
        p[..400].fill(1e-9);
        let Said::Fleet { drifting, of } = judge(&p, 0.01, 0.2) else {
            panic!("four in ten are the fleet");
        };
        assert!(drifting >= 400 && of == 1_000);
    }
}
