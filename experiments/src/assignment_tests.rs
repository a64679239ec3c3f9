use super::*;
use crate::special::chi2_upper;
use proptest::prelude::*;

/// Cases of the SDK whose hash this is (its `cases.json`, hash version 2), in ten-thousandths.
#[test]
fn the_hash_agrees_with_its_published_vectors() {
    let cases = [
        ("seed", "a", 505),
        ("seed", "b", 2696),
        ("foo", "ab", 2575),
        ("foo", "def", 2019),
        ("89123klj", "8952klfjas09ujkasdf", 1240),
        ("90850943850283058242805", "123", 7516),
        ("()**(%$##$%#$#", "___)((*\":&", 128),
    ];
    for (seed, device, expected) in cases {
        assert_eq!(bucket(seed, device), expected, "{seed} {device}");
    }
    assert_eq!(fnv1a32(b""), 0x811c_9dc5);
    assert_eq!(fnv1a32(b"foobar"), 0xbf9c_f968);
}

#[test]
fn arms_get_their_shares_of_a_fleet() {
    let split = Split::new(&[0.5, 0.3, 0.2], 1.0).unwrap();
    for seed in ["pump-2026", "x", "a-longer-seed-with-words"] {
        let mut counts = [0_u32; 3];
        for device in 0..30_000 {
            let id = format!("rig-{device}");
            counts[split.assign(seed, &id).unwrap().arm] += 1;
        }
        let expected = [15_000.0, 9_000.0, 6_000.0];
        let x: f64 = counts
            .iter()
            .zip(expected)
            .map(|(n, e)| (f64::from(*n) - e).powi(2) / e)
            .sum();
        assert!(chi2_upper(x, 2.0) > 1e-4, "{seed}: {counts:?}");
    }
}

/// A device's arm in one experiment says nothing about its arm in another: chi-square of the 10 x 10 table of buckets.
#[test]
fn experiments_with_seeds_of_their_own_are_independent() {
    for (one, two) in [
        ("exp-1", "exp-2"),
        ("a", "b"),
        ("rig-v1", "rig-v2"),
        ("7", "77"),
    ] {
        let mut table = [[0_u32; 10]; 10];
        for device in 0..20_000 {
            let id = format!("device-{device}");
            let (i, j) = (bucket(one, &id) / 1000, bucket(two, &id) / 1000);
            table[usize::from(i)][usize::from(j)] += 1;
        }
        let rows: Vec<f64> = table
            .iter()
            .map(|r| f64::from(r.iter().sum::<u32>()))
            .collect();
        let columns: Vec<f64> = (0..10)
            .map(|j| table.iter().map(|r| f64::from(r[j])).sum())
            .collect();
        let mut x = 0.0;
        for (i, row) in table.iter().enumerate() {
            for (j, n) in row.iter().enumerate() {
                let expected = rows[i] * columns[j] / 20_000.0;
                x += (f64::from(*n) - expected).powi(2) / expected;
            }
        }
        assert!(chi2_upper(x, 81.0) > 1e-4, "{one} {two}: {x}");
    }
}

#[test]
fn weights_that_are_wrong_are_named() {
    let error = |weights: &[f64]| Split::new(weights, 1.0).unwrap_err().to_string();
    assert_eq!(error(&[0.5, 0.4]), "weights: they sum to 0.9, not to 1");
    assert_eq!(error(&[1.0]), "an experiment has 2 to 8 arms, not 1");
    assert!(error(&[0.5, -0.5, 1.0]).contains("arm 1 has -0.5"));
    assert!(error(&[f64::NAN, 0.5]).contains("arm 0 has NaN"));
    assert!(error(&[0.99999, 0.00001]).contains("arm 1 would get none"));
    assert!(Split::new(&[0.5, 0.5], 0.0).is_err());
    assert!(Split::new(&[0.5, 0.5], f64::NAN).is_err());
    assert!(Split::canary(1.5).is_err());
}

#[test]
fn a_ramp_that_would_take_devices_out_of_an_arm_is_refused() {
    let wide = Split::new(&[0.5, 0.5], 0.5).unwrap();
    let narrow = Split::new(&[0.5, 0.5], 0.1).unwrap();
    assert!(narrow.grown_to(wide.clone()).is_ok());
    let error = wide.grown_to(narrow).unwrap_err().to_string();
    assert!(error.contains("arm 0 would lose devices"), "{error}");
    let (five, one) = (Split::canary(0.05).unwrap(), Split::canary(0.01).unwrap());
    assert!(one.grown_to(five.clone()).is_ok());
    let error = five.grown_to(one).unwrap_err().to_string();
    assert!(
        error.contains("arm 1 would lose devices (buckets 500 to 100)"),
        "{error}"
    );
}

#[test]
fn a_canary_takes_its_devices_from_the_control_with_the_stated_probability() {
    let (one, five) = (Split::canary(0.01).unwrap(), Split::canary(0.05).unwrap());
    let redraw = one.redraw(&five);
    assert!((redraw[1] - 0.04 / 0.99).abs() < 1e-12, "{redraw:?}");
    assert!((redraw.iter().sum::<f64>() - 1.0).abs() < 1e-12);
}

#[test]
fn two_experiments_of_a_layer_never_share_a_device() {
    let mut layer = Layer::new("pumps").unwrap();
    layer.take("first", 0..5_000).unwrap();
    let error = layer.take("second", 4_000..9_000).unwrap_err().to_string();
    assert!(
        error.contains("buckets 4000 to 5000 are taken by `first`"),
        "{error}"
    );
    layer.take("second", 5_000..9_000).unwrap();
    let mut seen = [0_u32; 3];
    for device in 0..1_000 {
        match layer.experiment_of(&format!("rig-{device}")) {
            Some("first") => seen[0] += 1,
            Some("second") => seen[1] += 1,
            _ => seen[2] += 1,
        }
    }
    assert!(seen.iter().all(|n| *n > 0), "{seen:?}");
    layer.release("first");
    layer.take("third", 0..100).unwrap();
    assert!(Layer::new("").is_err());
}

proptest! {
    #[test]
    fn a_device_keeps_its_arm_for_ever(seed in "[a-z0-9-]{1,40}", device in "[A-Za-z0-9._:-]{1,128}") {
        let split = Split::new(&[0.4, 0.6], 1.0).unwrap();
        let first = split.assign(&seed, &device).unwrap();
        prop_assert_eq!(first, split.assign(&seed, &device).unwrap());
        prop_assert!(first.bucket < BUCKETS);
        prop_assert!((first.propensity - [0.4, 0.6][first.arm]).abs() < 1e-12);
    }

    #[test]
    fn along_a_ramp_who_is_in_stays_in(parts in prop::collection::vec(1_u32..100, 2..=8), steps in prop::collection::vec(0.05_f64..1.0, 1..6)) {
        let sum: u32 = parts.iter().sum();
        let weights: Vec<f64> = parts.iter().map(|p| f64::from(*p) / f64::from(sum)).collect();
        let mut steps = steps;
        steps.sort_by(f64::total_cmp);
        let mut splits = Vec::new();
        for coverage in steps {
            match Split::new(&weights, coverage) {
                Ok(split) => splits.push(split),
                Err(SplitError::Empty(_)) => {}
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            }
        }
        for pair in splits.windows(2) {
            prop_assert!(pair[0].grown_to(pair[1].clone()).is_ok());
            for bucket in (0..BUCKETS).step_by(7) {
                if let Some(arm) = pair[0].arm_of(bucket) {
                    prop_assert_eq!(pair[1].arm_of(bucket), Some(arm));
                }
            }
        }
    }

    #[test]
    fn shares_are_the_weights_within_two_buckets(parts in prop::collection::vec(1_u32..100, 2..=8)) {
        let sum: u32 = parts.iter().sum();
        let weights: Vec<f64> = parts.iter().map(|p| f64::from(*p) / f64::from(sum)).collect();
        let split = Split::new(&weights, 1.0).unwrap();
        prop_assert_eq!(split.covered(), BUCKETS);
        for (share, weight) in split.shares().iter().zip(&weights) {
            prop_assert!((share - weight).abs() < 2e-4);
        }
    }
}
