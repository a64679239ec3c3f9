//! What the statistics must achieve, shown in worlds with a known truth and a look after every reading. `docs/EXPERIMENTS.md` has the tables
//! of 1,000 worlds; here fewer, with room for chance, so that a mistake is seen in seconds.

use tidegate_experiments::metric::{Direction, Form, Metric, Role};
use tidegate_experiments::rng::Rng;
use tidegate_experiments::simulate::{Kind, Rates, Setup, run};
use tidegate_experiments::{Analysis, Plan, Verdict};

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

/// Four arms and a guardrail, all the same, looked at after every device: any verdict or harm in any arm is one false alarm of the whole.
#[test]
fn several_arms_and_a_guardrail_together_keep_the_error() {
    let mut alarms = 0_u32;
    for world in 0..300 {
        let mut rng = Rng::part(21, world);
        let mut analysis = Analysis::new(four_arms()).unwrap();
        let wrong = (0..2_000_u64).any(|device| {
            let arm = rng.below(4);
            analysis.expose(device, arm, device);
            for metric in 0..2 {
                analysis.tally(
                    device,
                    metric,
                    f64::from(u8::from(rng.chance(0.3))),
                    1.0,
                    device,
                );
            }
            (1..4).any(|arm| {
                analysis.verdict(arm, device) != Verdict::Collecting || analysis.harmed(arm)
            })
        });
        alarms += u32::from(wrong);
    }
    // A primary and a guardrail at 5% each, corrected for three challengers.
    assert!(alarms <= 30, "{alarms}");
}

fn four_arms() -> Plan {
    let metric = |name: &str, role| Metric {
        name: name.into(),
        form: Form::Proportion,
        role,
        direction: Direction::LowerIsBetter,
        margin: 0.0,
    };
    Plan {
        arms: ["a", "b", "c", "d"].map(String::from).to_vec(),
        shares: vec![0.25; 4],
        horizon_ms: 1,
        min_ms: 0,
        planned_devices: 500.0,
        ..Plan::two_arms(vec![
            metric("errors", Role::Primary),
            metric("alarms", Role::Guardrail),
        ])
    }
}

/// The truth lies in the interval at all looks together.
#[test]
fn the_interval_holds_the_truth_at_all_looks() {
    let mut missed = 0_u32;
    for world in 0..300 {
        let mut rng = Rng::part(22, world);
        let mut plan = four_arms();
        plan.arms.truncate(2);
        plan.shares = vec![0.5; 2];
        let mut analysis = Analysis::new(plan).unwrap();
        for device in 0..2_000_u64 {
            let arm = rng.below(2);
            analysis.expose(device, arm, device);
            let failed = rng.chance([0.30, 0.35][arm]);
            analysis.tally(device, 0, f64::from(u8::from(failed)), 1.0, device);
            analysis.refresh(device);
        }
        let report = analysis.report(10_000);
        let compared = &report.comparisons[0].metrics[0];
        let (lower, upper) = (compared.lower.unwrap(), compared.upper.unwrap());
        missed += u32::from(!(lower..=upper).contains(&0.05));
    }
    assert!(missed <= 15, "{missed}");
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
