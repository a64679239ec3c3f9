use super::*;
use crate::metric::{Direction, Metric};
use crate::plan::DAY_MS;
use crate::rng::Rng;
use crate::verdict::Verdict;

fn metric(name: &str, role: Role, direction: Direction, margin: f64) -> Metric {
    Metric {
        name: name.into(),
        form: Form::Proportion,
        role,
        direction,
        margin,
    }
}

fn plan() -> Plan {
    Plan {
        horizon_ms: 1_000,
        min_ms: 0,
        ..Plan::two_arms(vec![metric(
            "errors",
            Role::Primary,
            Direction::LowerIsBetter,
            0.02,
        )])
    }
}

/// Plays devices that fail with the probabilities `rates`, one a second, alternating arms.
fn play(analysis: &mut Analysis, rates: [f64; 2], devices: u64, seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    for device in 0..devices {
        let arm = (device % 2) as usize;
        let now = device * 1_000;
        analysis.expose(device, arm, now);
        let y = f64::from(u8::from(rng.chance(rates[arm])));
        for metric in 0..analysis.plan().metrics.len() {
            analysis.tally(device, metric, y, 1.0, now);
        }
        analysis.refresh(now);
    }
    devices * 1_000 + 1_000
}

#[test]
fn a_difference_is_found_in_the_right_direction() {
    for (rates, expected) in [([0.4, 0.2], Verdict::Better), ([0.2, 0.4], Verdict::Worse)] {
        let mut analysis = Analysis::new(plan()).unwrap();
        let end = play(&mut analysis, rates, 4_000, 1);
        let report = analysis.report(end);
        assert_eq!(report.comparisons[0].verdict, expected);
        let words = &report.comparisons[0].words;
        assert!(
            words.contains(&format!("is {expected} in `errors`: by ")),
            "{words}"
        );
        let compared = &report.comparisons[0].metrics[0];
        let (d, l, u) = (
            compared.difference.unwrap(),
            compared.lower.unwrap(),
            compared.upper.unwrap(),
        );
        assert!(l < d && d < u && l * u > 0.0, "{l} {d} {u}");
        assert!((d - (rates[1] - rates[0])).abs() < 0.06);
        assert_eq!(
            report.may_promote(1, false).is_ok(),
            expected == Verdict::Better
        );
        assert_eq!(report.roll_back(1).is_some(), expected == Verdict::Worse);
    }
}

#[test]
fn equal_arms_are_found_equal_within_the_margin() {
    let mut analysis = Analysis::new(plan()).unwrap();
    let end = play(&mut analysis, [0.05, 0.05], 20_000, 2);
    let report = analysis.report(end);
    assert_eq!(
        report.comparisons[0].verdict,
        Verdict::NoDifference,
        "{}",
        report.comparisons[0].words
    );
    assert!(report.may_promote(1, true).is_ok() && report.may_promote(1, false).is_err());
}

/// Better by less than shows, but never worse by the margin: enough for who only wants not to lose.
#[test]
fn what_is_surely_not_worse_may_be_promoted_where_that_suffices() {
    let mut plan = plan();
    plan.metrics[0].margin = 0.05;
    let mut analysis = Analysis::new(plan).unwrap();
    let end = play(&mut analysis, [0.23, 0.20], 2_000, 3);
    let report = analysis.report(end);
    assert_eq!(
        report.comparisons[0].verdict,
        Verdict::Collecting,
        "{}",
        report.comparisons[0].words
    );
    assert!(report.comparisons[0].not_worse);
    assert!(report.may_promote(1, true).is_ok() && report.may_promote(1, false).is_err());
    assert!(report.p_split_once.is_some(), "the split was tested for it");
}

#[test]
fn nothing_is_said_before_there_are_enough_devices_and_a_full_cycle() {
    let mut analysis = Analysis::new(plan()).unwrap();
    let end = play(&mut analysis, [0.9, 0.1], 198, 3);
    let report = analysis.report(end);
    assert_eq!(report.comparisons[0].verdict, Verdict::Collecting);
    assert_eq!(report.comparisons[0].needed.unwrap().devices, Some(2));
    assert!(
        report.comparisons[0].words.contains("2 more devices"),
        "{}",
        report.comparisons[0].words
    );
    let mut slow = Analysis::new(Plan {
        min_ms: DAY_MS,
        ..plan()
    })
    .unwrap();
    let end = play(&mut slow, [0.9, 0.1], 2_000, 3);
    assert_eq!(slow.verdict(1, end), Verdict::Collecting);
    assert_eq!(slow.verdict(1, DAY_MS), Verdict::Better);
}

#[test]
fn an_experiment_without_a_device_has_a_report() {
    let report = Analysis::new(plan()).unwrap().report(5);
    assert_eq!(report.comparisons[0].verdict, Verdict::Collecting);
    assert_eq!(report.arms[0].coverage, None);
}

#[test]
fn a_broken_split_is_never_read_past() {
    let mut analysis = Analysis::new(plan()).unwrap();
    let mut rng = Rng::new(4);
    for device in 0..4_000 {
        let arm = usize::from(rng.chance(0.4));
        analysis.expose(device, arm, device);
        analysis.tally(
            device,
            0,
            f64::from(u8::from(rng.chance([0.1, 0.9][arm]))),
            1.0,
            device,
        );
    }
    let report = analysis.report(10_000);
    assert_eq!(report.comparisons[0].verdict, Verdict::BrokenSplit);
    assert!(
        report.comparisons[0]
            .words
            .starts_with("broken split: devices an arm are [")
    );
    assert!(report.may_promote(1, true).is_err() && report.roll_back(1).is_none());
}

#[test]
fn a_harmed_guardrail_asks_for_a_rollback_before_the_primary_knows_anything() {
    let mut plan = plan();
    plan.min_ms = DAY_MS;
    plan.metrics.push(metric(
        "alarms",
        Role::Guardrail,
        Direction::LowerIsBetter,
        0.05,
    ));
    let mut analysis = Analysis::new(plan).unwrap();
    let end = play(&mut analysis, [0.1, 0.7], 1_000, 5);
    let report = analysis.report(end);
    assert_eq!(report.comparisons[0].verdict, Verdict::Collecting);
    let reason = report.roll_back(1).unwrap();
    assert!(
        reason.starts_with("guardrail `alarms` is harmed: by 0."),
        "{reason}"
    );
    assert!(analysis.harmed(1));
    let guardrail = &report.comparisons[0].metrics[1];
    assert!(guardrail.lower.unwrap() > 0.05 && guardrail.upper.is_none());
}

#[test]
fn feedback_that_is_less_complete_in_one_arm_is_flagged() {
    let mut analysis = Analysis::new(plan()).unwrap();
    let mut rng = Rng::new(6);
    for device in 0..4_000_u64 {
        let arm = (device % 2) as usize;
        analysis.expose(device, arm, device);
        if rng.chance([0.9, 0.6][arm]) {
            analysis.tally(
                device,
                0,
                f64::from(u8::from(rng.chance([0.5, 0.2][arm]))),
                1.0,
                device,
            );
        }
    }
    let report = analysis.report(10_000);
    assert!(report.comparisons[0].coverage_differs);
    assert!((report.arms[1].coverage.unwrap() - 0.6).abs() < 0.05);
    assert_eq!(report.comparisons[0].verdict, Verdict::Better);
    assert!(
        report
            .may_promote(1, false)
            .unwrap_err()
            .contains("less complete")
    );
}

#[test]
fn the_exact_process_decides_with_thirty_devices_an_arm() {
    let mut analysis = Analysis::new(Plan {
        exact: true,
        ..plan()
    })
    .unwrap();
    let end = play(&mut analysis, [0.9, 0.1], 60, 7);
    let report = analysis.report(end);
    assert_eq!(
        report.comparisons[0].verdict,
        Verdict::Better,
        "{}",
        report.comparisons[0].words
    );
    assert!(report.comparisons[0].words.contains("(exact, p = "));
}

/// A canary that grows from 5% to 50%, while all devices get worse by the hour: read naively, the challenger would look worse.
#[test]
fn a_split_that_moves_is_read_with_its_propensities() {
    let mut plan = plan();
    plan.estimator = Estimator::Weighted;
    plan.shares = vec![0.95, 0.05];
    let mut rng = Rng::new(8);
    let mut analysis = Analysis::new(plan).unwrap();
    let mut plain = [Moments::default(); 2];
    for device in 0..20_000_u64 {
        let late = device >= 10_000;
        if device == 10_000 {
            analysis.reweigh(&[0.5, 0.5]).unwrap();
        }
        let arm = usize::from(rng.chance(if late { 0.5 } else { 0.05 }));
        analysis.expose(device, arm, device);
        let y = f64::from(u8::from(rng.chance(if late { 0.5 } else { 0.1 })));
        plain[arm].push(y, 1.0);
        analysis.tally(device, 0, y, 1.0, device);
        analysis.refresh(device);
    }
    let report = analysis.report(1_000_000);
    let compared = &report.comparisons[0].metrics[0];
    assert!(plain[1].mean() - plain[0].mean() > 0.1, "the trap is there");
    assert!(compared.difference.unwrap().abs() < 0.02, "{compared:?}");
    assert!(!matches!(
        report.comparisons[0].verdict,
        Verdict::Better | Verdict::Worse
    ));
}

/// By hand, four devices at p1 = 1/4: h = 3/16 each. The first has no past: m = 0, psi = -y / p0 = -4/3. Its y = 1 is the mean of all for the
/// second: psi = (1 - 1) / p1 = 0. Third, challenger, y = 0: psi = (0 - 1) / p1 = -4. Fourth, control, y = 0 against m = 2/3: (2/3) / (3/4) = 8/9.
#[test]
fn four_devices_are_weighed_as_a_hand_does() {
    let mut plan = plan();
    plan.estimator = Estimator::Weighted;
    plan.shares = vec![0.75, 0.25];
    plan.min_devices = 2;
    let mut analysis = Analysis::new(plan).unwrap();
    for (device, (arm, y)) in [(0, 1.0), (1, 1.0), (1, 0.0), (0, 0.0)]
        .into_iter()
        .enumerate()
    {
        analysis.expose(device as u64, arm, device as u64);
        analysis.tally(device as u64, 0, y, 1.0, device as u64);
    }
    let report = analysis.report(10_000);
    let psi = [-4.0 / 3.0, 0.0, -4.0, 8.0 / 9.0];
    let mean = psi.iter().sum::<f64>() / 4.0;
    let variance = psi.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 3.0;
    let compared = &report.comparisons[0].metrics[0];
    assert!(
        (compared.difference.unwrap() - mean).abs() < 1e-12,
        "{compared:?}"
    );
    assert!(
        (compared.se.unwrap() - (variance / 4.0).sqrt()).abs() < 1e-12,
        "{compared:?}"
    );
    let units = analysis.pairs[0][0].latest.unwrap().units;
    assert!((units - 4.0 * 4.0 * 3.0 / 16.0).abs() < 1e-12, "{units}");
}

#[test]
fn an_analysis_that_was_stored_goes_on_where_it_was() {
    let mut analysis = Analysis::new(Plan {
        exact: true,
        ..plan()
    })
    .unwrap();
    let end = play(&mut analysis, [0.4, 0.3], 150, 9);
    analysis.expose(1_000, 0, end);
    let text = serde_json::to_string(&analysis).unwrap();
    let mut stored: Analysis = serde_json::from_str(&text).unwrap();
    for one in [&mut analysis, &mut stored] {
        assert_eq!(one.expose(1_000, 0, end), Exposed::Known);
        assert!(one.tally(1_000, 0, 1.0, 1.0, end));
    }
    let (mut a, mut b) = (analysis.report(2 * end), stored.report(2 * end));
    // JSON numbers may differ in the last bit.
    let p = |report: &mut Report| std::mem::take(&mut report.comparisons[0].p_exact).unwrap();
    assert!((p(&mut a) - p(&mut b)).abs() < 1e-12);
    assert_eq!(a.arms[0].matured, 76);
    assert_eq!(a.comparisons[0].words, b.comparisons[0].words);
}

#[test]
fn shares_cannot_move_under_an_estimator_for_a_fixed_split() {
    let mut analysis = Analysis::new(plan()).unwrap();
    assert!(
        analysis
            .reweigh(&[0.4, 0.6])
            .unwrap_err()
            .to_string()
            .contains("estimator")
    );
    assert!(
        analysis
            .reweigh(&[0.4, 0.4])
            .unwrap_err()
            .to_string()
            .contains("sum to")
    );
}
