//! What earlier systems got wrong about A/B tests on live predictions, one test each, through the public interface.

use tidegate_experiments::metric::{Direction, Form, Metric, Role};
use tidegate_experiments::rng::Rng;
use tidegate_experiments::{Analysis, Plan, Split, Verdict};

fn plan() -> Plan {
    let metric = Metric {
        name: "accuracy".into(),
        form: Form::Ratio,
        role: Role::Primary,
        direction: Direction::HigherIsBetter,
        margin: 0.02,
    };
    Plan {
        horizon_ms: 100,
        wait_ms: 100,
        min_ms: 0,
        ..Plan::two_arms(vec![metric])
    }
}

#[test]
fn the_coin_is_tossed_once_a_device_and_not_once_a_request() {
    let split = Split::new(&[0.5, 0.5], 1.0).unwrap();
    for device in 0..100 {
        let id = format!("rig-{device}");
        let first = split.assign("exp", &id).unwrap();
        assert!((0..50).all(|_| split.assign("exp", &id) == Some(first)));
    }
}

/// The control's devices send no feedback for half of their readings; what is there is as good as the challenger's.
#[test]
fn missing_feedback_is_missing_and_not_wrong() {
    let mut analysis = Analysis::new(plan()).unwrap();
    let mut rng = Rng::new(1);
    for device in 0..2_000 {
        let arm = (device % 2) as usize;
        analysis.expose(device, arm, device);
        for reading in 0..20 {
            if arm == 0 && reading % 2 == 0 {
                continue;
            }
            let right = f64::from(u8::from(rng.chance(0.8)));
            analysis.tally(device, 0, right, 1.0, device + reading);
        }
    }
    let report = analysis.report(10_000);
    let value = |arm: usize| report.arms[arm].metrics[0].unwrap().value;
    assert!(
        (value(0) - value(1)).abs() < 0.02,
        "{} {}",
        value(0),
        value(1)
    );
    assert!(!matches!(
        report.comparisons[0].verdict,
        Verdict::Better | Verdict::Worse
    ));
}

#[test]
fn a_difference_without_enough_devices_wins_nothing() {
    let mut analysis = Analysis::new(plan()).unwrap();
    for device in 0..20 {
        let arm = (device % 2) as usize;
        analysis.expose(device, arm, 0);
        analysis.tally(device, 0, [0.0, 1.0][arm], 1.0, 0);
    }
    let report = analysis.report(1_000);
    assert_eq!(report.comparisons[0].verdict, Verdict::Collecting);
    assert!(report.may_promote(1, true).is_err());
    assert!(
        report.comparisons[0].words.contains("180 more devices"),
        "{}",
        report.comparisons[0].words
    );
}

#[test]
fn an_arm_that_nobody_came_to_is_reported_and_can_be_ended() {
    let mut analysis = Analysis::new(plan()).unwrap();
    for device in 0..5 {
        analysis.expose(device, 0, 0);
        analysis.tally(device, 0, 1.0, 1.0, 0);
    }
    let report = analysis.report(1_000);
    assert_eq!((report.arms[0].matured, report.arms[1].matured), (5, 0));
    assert_eq!(report.arms[1].metrics, [None]);
    assert_eq!(report.comparisons[0].verdict, Verdict::Collecting);
}

#[test]
fn a_device_that_comes_with_another_arm_is_counted_and_changes_nothing() {
    let mut analysis = Analysis::new(plan()).unwrap();
    analysis.expose(1, 0, 0);
    analysis.expose(1, 1, 1);
    let report = analysis.report(1_000);
    assert_eq!(
        (
            report.arms[0].matured,
            report.arms[1].matured,
            report.other_arm
        ),
        (1, 0, 1)
    );
}

/// Two experiments on one endpoint: half of each arm of the one is in each arm of the other, so neither shifts the other's result.
#[test]
fn two_experiments_on_one_endpoint_do_not_mix() {
    let split = Split::new(&[0.5, 0.5], 1.0).unwrap();
    let mut analysis = Analysis::new(plan()).unwrap();
    let mut rng = Rng::new(2);
    for device in 0..10_000_u64 {
        let id = format!("rig-{device}");
        let (mine, other) = (
            split.assign("one", &id).unwrap(),
            split.assign("two", &id).unwrap(),
        );
        analysis.expose(device, mine.arm, device);
        let accuracy = [0.6, 0.9][other.arm];
        analysis.tally(
            device,
            0,
            f64::from(u8::from(rng.chance(accuracy))),
            1.0,
            device,
        );
    }
    let report = analysis.report(100_000);
    assert!(!matches!(
        report.comparisons[0].verdict,
        Verdict::Better | Verdict::Worse | Verdict::BrokenSplit
    ));
    let value = |arm: usize| report.arms[arm].metrics[0].unwrap().value;
    assert!((value(0) - value(1)).abs() < 0.03);
}

#[test]
fn a_third_arm_takes_its_part_of_the_error() {
    let mut plan = plan();
    plan.arms = vec!["a".into(), "b".into(), "c".into()];
    plan.shares = vec![0.4, 0.3, 0.3];
    assert!((plan.tuning(0).alpha() - 0.025).abs() < 1e-15);
    let mut analysis = Analysis::new(plan).unwrap();
    let mut rng = Rng::new(3);
    for device in 0..6_000 {
        let arm = rng.choose(&[0.4, 0.3, 0.3]);
        analysis.expose(device, arm, device);
        let right = f64::from(u8::from(rng.chance([0.5, 0.5, 0.8][arm])));
        analysis.tally(device, 0, right, 1.0, device);
    }
    let report = analysis.report(100_000);
    assert_eq!(report.comparisons[1].verdict, Verdict::Better);
    assert_ne!(report.comparisons[0].verdict, Verdict::Better);
}
