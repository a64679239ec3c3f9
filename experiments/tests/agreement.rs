//! The statistics agree to 1e-9 with implementations that are not ours: scipy, statsmodels and GrowthBook's gbstats, whose values
//! `fixtures.py` wrote into `fixtures.json`.

use serde_json::Value;
use tidegate_experiments::drift::{distance, fleet};
use tidegate_experiments::metric::{Form, Moments};
use tidegate_experiments::sequential::exact::Exact;
use tidegate_experiments::sequential::interval::{Difference, Sequence, Tuning};
use tidegate_experiments::sequential::srm::{self, Srm};
use tidegate_experiments::special;

/// A function of one number, and of two.
type OfOne = fn(f64) -> f64;
type OfTwo = fn(f64, f64) -> f64;

fn fixtures(part: &str) -> Value {
    let all: Value = serde_json::from_str(include_str!("fixtures.json")).unwrap();
    all[part].clone()
}

fn numbers(value: &Value) -> Vec<f64> {
    let list = value.as_array().unwrap();
    list.iter().map(|one| one.as_f64().unwrap()).collect()
}

fn counts(value: &Value) -> Vec<u64> {
    let list = value.as_array().unwrap();
    list.iter().map(|one| one.as_u64().unwrap()).collect()
}

/// Relative to the larger of the value and 1e-3, so that small p-values count too.
#[track_caller]
fn assert_near(ours: f64, theirs: f64, what: &str) {
    let off = (ours - theirs).abs() / theirs.abs().max(1e-3);
    assert!(off < 1e-9, "{what}: {ours} is not {theirs}");
}

#[test]
fn the_functions_of_probability_agree_with_scipy() {
    let all = fixtures("special");
    let one: [(&str, OfOne); 4] = [
        ("ln_gamma", special::ln_gamma),
        ("normal_upper", special::normal_upper),
        ("normal_quantile", special::normal_quantile),
        ("kolmogorov_upper", special::kolmogorov_upper),
    ];
    for (name, ours) in one {
        for row in all[name].as_array().unwrap() {
            let row = numbers(row);
            assert_near(ours(row[0]), row[1], &format!("{name}({})", row[0]));
        }
    }
    let two: [(&str, OfTwo); 3] = [
        ("gamma_q", special::gamma_q),
        ("chi2_upper", special::chi2_upper),
        ("chi2_limit", special::chi2_limit),
    ];
    for (name, ours) in two {
        for row in all[name].as_array().unwrap() {
            let row = numbers(row);
            assert_near(
                ours(row[0], row[1]),
                row[2],
                &format!("{name}({}, {})", row[0], row[1]),
            );
        }
    }
}

#[test]
fn the_tails_agree_relatively() {
    for row in fixtures("special")["normal_upper"].as_array().unwrap() {
        let row = numbers(row);
        assert!(
            (special::normal_upper(row[0]) / row[1] - 1.0).abs() < 1e-9,
            "{row:?}"
        );
    }
}

#[test]
fn the_interval_agrees_with_gbstats() {
    for row in fixtures("intervals").as_array().unwrap() {
        let (devices, means, variances) = (
            numbers(&row["devices"]),
            numbers(&row["means"]),
            numbers(&row["variances"]),
        );
        let difference = Difference {
            value: means[1] - means[0],
            se: (variances[0] / devices[0] + variances[1] / devices[1]).sqrt(),
            units: devices[0] + devices[1],
        };
        let number = |name: &str| row[name].as_f64().unwrap();
        let tuning = Tuning::two_sided(number("alpha"), number("planned"));
        let mut sequence = Sequence::default();
        sequence.look(&tuning, &difference);
        assert_near(difference.se, number("se"), "se");
        assert_near(sequence.lower, number("lower"), "lower");
        assert_near(sequence.upper, number("upper"), "upper");
        assert_near(sequence.p, number("p"), "p");
    }
}

#[test]
fn the_variance_of_a_ratio_agrees_with_gbstats() {
    let row = fixtures("ratios");
    let mut moments = Moments::default();
    for (y, n) in numbers(&row["y"]).into_iter().zip(numbers(&row["n"])) {
        moments.push(y, n);
    }
    let estimate = moments.estimate(Form::Ratio).unwrap();
    assert_near(estimate.value, row["value"].as_f64().unwrap(), "ratio");
    assert_near(
        estimate.variance,
        row["variance"].as_f64().unwrap(),
        "variance",
    );
}

#[test]
fn differences_of_means_and_proportions_agree_with_statsmodels() {
    let row = fixtures("means");
    let of = |values: Vec<f64>| {
        let mut moments = Moments::default();
        values.into_iter().for_each(|y| moments.push(y, 1.0));
        moments.estimate(Form::Mean).unwrap()
    };
    let difference = Difference::between(&of(numbers(&row["a"])), &of(numbers(&row["b"])));
    assert_near(difference.se, row["se"].as_f64().unwrap(), "se");
    let [x, y, n, m] = numbers(&row["proportions"])[..] else {
        panic!("four counts");
    };
    let arm = |ones: f64, all: f64| {
        of((0..all as u32)
            .map(|i| f64::from(u8::from(f64::from(i) < ones)))
            .collect())
    };
    let difference = Difference::between(&arm(x, n), &arm(y, m));
    assert_near(
        difference.value,
        row["difference"].as_f64().unwrap(),
        "difference",
    );
    // statsmodels divides by n, we by n - 1.
    let part = |ones: f64, all: f64| ones / all * (1.0 - ones / all) / all;
    let wald = part(x, n) + part(y, m);
    assert_near(wald, row["wald_variance"].as_f64().unwrap(), "variance");
    let ours = part(x, n) * n / (n - 1.0) + part(y, m) * m / (m - 1.0);
    assert_near(difference.se * difference.se, ours, "our variance");
}

#[test]
fn the_distances_of_drift_agree_with_scipy() {
    let row = fixtures("drift");
    let number = |name: &str| row[name].as_f64().unwrap();
    let (d, p) = distance::ks(&mut numbers(&row["a"]), &mut numbers(&row["b"]));
    assert_near(d, number("ks"), "ks");
    assert_near(p, number("ks_p"), "ks p");
    let (reference, live) = (counts(&row["reference"]), counts(&row["live"]));
    let (chi2, p) = distance::chi_square(&reference, &live);
    assert_near(chi2, number("chi2"), "chi2");
    assert_near(p, number("chi2_p"), "chi2 p");
    let psi = distance::psi(&reference, &live);
    assert_near(psi, number("psi"), "psi");
    assert_near(psi, number("psi_jeffreys"), "psi as a divergence");
}

#[test]
fn discoveries_agree_with_statsmodels() {
    let row = fixtures("fleet");
    let p = numbers(&row["p"]);
    for (name, dependence) in [
        ("bh", fleet::Dependence::Positive),
        ("by", fleet::Dependence::Any),
    ] {
        let mut found = fleet::discoveries(&p, 0.05, dependence);
        found.sort_unstable();
        let theirs: Vec<usize> = counts(&row[name]).into_iter().map(|i| i as usize).collect();
        assert!(!theirs.is_empty());
        assert_eq!(found, theirs, "{name}");
    }
}

#[test]
fn the_e_process_agrees_with_a_plain_loop_over_scipy() {
    for row in fixtures("e_process").as_array().unwrap() {
        let sizes = numbers(&row["sizes"]);
        let mut process = Exact::new(sizes[0], sizes[1]);
        for block in row["blocks"].as_array().unwrap() {
            for (side, outcomes) in block.as_array().unwrap().iter().enumerate() {
                for outcome in counts(outcomes) {
                    process.push(side == 1, outcome == 1);
                }
            }
        }
        assert_near(process.e_value(), row["e"].as_f64().unwrap(), "e");
    }
}

#[test]
fn the_test_of_the_split_agrees_with_scipy() {
    let row = fixtures("srm");
    let (shares, seen) = (numbers(&row["shares"]), counts(&row["counts"]));
    let factor = srm::ln_bayes_factor(&seen, &shares);
    assert_near(factor, row["ln_factor"].as_f64().unwrap(), "factor");
    let mut srm = Srm::new(&shares);
    for (arm, count) in seen.iter().enumerate() {
        (0..*count).for_each(|_| srm.push(arm));
    }
    assert_near(srm.p_once(), row["chi2_p"].as_f64().unwrap(), "chi2 p");
}
