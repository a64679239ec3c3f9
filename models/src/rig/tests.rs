//! One seed is one rig, rigs differ, and each fault moves the sensors it should.

use super::*;

/// Mean of each sensor over `count` readings.
fn mean(rig: &mut Rig, count: u32) -> [f64; 8] {
    let mut sum = [0.0; 8];
    for _ in 0..count {
        let values = rig.next_reading().0;
        sum.iter_mut()
            .zip(values)
            .for_each(|(s, v)| *s += f64::from(v));
    }
    sum.map(|s| s / f64::from(count))
}

/// Relative change of each sensor's mean when `fault` holds at full severity.
fn change_under(fault: Fault) -> [f64; 8] {
    let episode = Episode {
        fault,
        start: 400,
        rise: 10,
        hold: 300,
        fall: 10,
        severity: 1.0,
    };
    let mut rig = Rig::with_plan(21, FaultPlan::Listed(vec![episode]));
    let healthy = mean(&mut rig, 400);
    mean(&mut rig, 10);
    let ill = mean(&mut rig, 290);
    std::array::from_fn(|j| ill[j] / healthy[j] - 1.0)
}

#[test]
fn one_seed_gives_the_same_bits_and_another_does_not() {
    let run = |seed| {
        let mut rig = Rig::new(seed);
        (0..2000)
            .map(|_| rig.next_reading())
            .map(|(v, f)| (v.map(f32::to_bits), f))
            .collect::<Vec<_>>()
    };
    assert_eq!(run(9), run(9));
    assert_ne!(run(9), run(10));
}

#[test]
fn the_bits_are_those_of_every_other_machine() {
    let mut rig = Rig::new(1);
    let sum = (0..3000).fold(0u64, |sum, _| {
        let values = rig.next_reading().0;
        values
            .iter()
            .fold(sum, |sum, v| sum.rotate_left(5) ^ u64::from(v.to_bits()))
    });
    assert_eq!(sum, 0x081f_773f_cace_a1e3, "{sum:#x}");
}

#[test]
fn levels_are_those_of_a_laboratory_rig() {
    let usual = [
        (0.02, 0.04),
        (0.03, 0.055),
        (0.7, 1.4),
        (-0.3, 0.4),
        (50.0, 95.0),
        (15.0, 35.0),
        (225.0, 237.0),
        (25.0, 40.0),
    ];
    for seed in 0..50 {
        let level = mean(&mut Rig::healthy(seed), 400);
        for ((low, high), (value, (name, _))) in usual.iter().zip(level.iter().zip(SENSORS)) {
            assert!((low..high).contains(&value), "seed {seed}: {name} {value}");
        }
    }
}

#[test]
fn readings_stay_finite_and_physical_for_a_day() {
    let mut rig = Rig::new(2);
    for _ in 0..86_400 {
        let values = rig.next_reading().0;
        assert!(values.iter().all(|v| v.is_finite()));
        assert!(
            values[2] >= 0.0 && values[7] >= 0.0 && (0.0..150.0).contains(&values[4]),
            "{values:?}"
        );
    }
}

#[test]
fn a_closing_valve_takes_flow() {
    let change = change_under(Fault::ValveClosing);
    assert!(change[7] < -0.08, "{change:?}");
    assert!(change[0].abs() < 0.05, "{change:?}");
}

#[test]
fn cavitation_shakes_the_pump_and_takes_flow() {
    let change = change_under(Fault::Cavitation);
    assert!(
        change[7] < -0.05 && change[1] > 0.05 && change[1] > change[0],
        "{change:?}"
    );
}

#[test]
fn imbalance_shakes_the_motor_and_leaves_the_flow() {
    let change = change_under(Fault::Imbalance);
    assert!(
        change[0] > 0.08 && change[0] > change[1] && change[7].abs() < 0.01,
        "{change:?}"
    );
}

#[test]
fn a_demo_rig_is_healthy_first_and_then_meets_every_fault() {
    let mut rig = Rig::new(3);
    let faults: Vec<_> = (0..8000).map(|_| rig.next_reading().1).collect();
    assert!(
        faults[..HEALTHY_FIRST as usize]
            .iter()
            .all(|f| !f.is_fault())
    );
    assert!(Fault::ALL.iter().all(|kind| faults.contains(kind)));
    let ill = faults.iter().filter(|f| f.is_fault()).count() as f64 / 8000.0;
    assert!((0.1..0.6).contains(&ill), "{ill}");
}

#[test]
fn a_shorter_healthy_start_can_be_asked_for() {
    let mut rig = Rig::with_plan(3, FaultPlan::Random { healthy_first: 0 });
    assert!((0..430).any(|_| rig.next_reading().1.is_fault()));
}

#[test]
fn a_healthy_rig_never_fails_until_told_to() {
    let mut rig = Rig::healthy(4);
    assert!((0..1000).all(|_| !rig.next_reading().1.is_fault()));
    let episode = Episode {
        fault: Fault::Imbalance,
        start: rig.readings() + 5,
        rise: 0,
        hold: 10,
        fall: 0,
        severity: 0.5,
    };
    rig.set_faults(FaultPlan::Listed(vec![episode]));
    let ill = (0..100).filter(|_| rig.next_reading().1.is_fault()).count();
    assert_eq!(ill, 10);
}
