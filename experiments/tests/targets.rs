//! What the statistics must achieve, shown in worlds with a known truth and a look after every reading. `docs/EXPERIMENTS.md` has the tables
//! of 1,000 worlds; here fewer, with room for chance, so that a mistake is seen in seconds.

use tidegate_experiments::simulate::{Kind, Rates, Setup, run};

fn rates(kind: Kind, effect: f64, worlds: u32) -> Rates {
    let setup = Setup {
        worlds,
        ..Setup::new(kind, effect)
    };
    run(&setup, 2).unwrap()
}

/// 5% of 200 is 10; twice that would happen by chance once in a thousand times.
#[test]
fn constant_peeking_raises_few_false_alarms_in_every_kind_of_world() {
    for kind in Kind::ALL {
        let worlds = 200;
        let rates = rates(kind, 0.0, worlds);
        assert!(rates.decided <= 0.095, "{}: {}", kind.name(), rates.decided);
        assert!(
            rates.broken_split <= 0.01,
            "{}: {}",
            kind.name(),
            rates.broken_split
        );
    }
}

#[test]
fn a_plain_test_that_is_peeked_at_errs_several_times_as_often() {
    for kind in [Kind::Independent, Kind::Autocorrelated, Kind::Peeked] {
        let rates = rates(kind, 0.0, 200);
        assert!(
            rates.plain > 0.25 && rates.plain > 4.0 * rates.decided,
            "{}: {rates:?}",
            kind.name()
        );
    }
}

#[test]
fn an_effect_of_four_points_is_found_with_five_thousand_devices_an_arm() {
    for kind in [
        Kind::Independent,
        Kind::AtOnce,
        Kind::Autocorrelated,
        Kind::Uneven,
        Kind::Peeked,
        Kind::Shadow,
    ] {
        let rates = rates(kind, 0.04, 100);
        assert!(rates.found >= 0.88, "{}: {}", kind.name(), rates.found);
        assert!(
            rates.wrong_way <= 0.01,
            "{}: {}",
            kind.name(),
            rates.wrong_way
        );
    }
}

#[test]
fn a_small_fleet_finds_a_large_effect() {
    let setup = Setup {
        worlds: 200,
        devices: 30,
        baseline: 0.1,
        ..Setup::new(Kind::Small, 0.6)
    };
    let rates = run(&setup, 2).unwrap();
    assert!(rates.found >= 0.9, "{}", rates.found);
}
