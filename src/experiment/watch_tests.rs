//! One experiment fed by hand.

use super::super::definition::tests::{ab, canary};
use super::*;
use crate::store::NewExperiment;
use crate::stream::Flags;
use tidegate_experiments::metric::outcome::Known;
use tidegate_experiments::{Direction, Verdict};
use tidegate_protocol::message::Label;

fn watch(definition: &Definition) -> Watch {
    let row = ExperimentRow {
        id: 1,
        declared: NewExperiment {
            name: definition.name.clone(),
            endpoint: definition.endpoint.clone(),
            definition: String::new(),
        },
        state: "running".into(),
        step: 0,
        first_sample: 0,
        first_feedback: 0,
        first_refusal: 0,
        created: 0,
    };
    Watch::new(&row, &Arc::new(definition.clone()), Vec::new()).expect("it can be analysed")
}

fn anomaly(anomaly: bool) -> Output {
    Output::Anomaly {
        score: 0.5,
        threshold: 1.0,
        anomaly,
    }
}

/// Seconds until a verdict: no cycle of a day here.
fn quick(mut definition: Definition) -> Definition {
    (definition.horizon_s, definition.min_s) = (1.0, 0.0);
    definition
}

fn see(watch: &mut Watch, stream: i64, arm: &str, at: i64, output: &Output) {
    let device = format!("rig-{stream}");
    watch.sample(&Seen {
        stream,
        device: &device,
        arm,
        at,
        output,
        latency_us: 100,
    });
}

#[test]
fn a_challenger_that_alarms_less_is_better_and_a_device_counts_once() {
    let mut watch = watch(&quick(ab("one")));
    for stream in 0..600 {
        let (arm, often) = match stream % 2 {
            0 => ("one/control", 3),
            _ => ("one/challenger", 6),
        };
        for reading in 0..10 {
            let output = anomaly((stream / 2 + reading) % often == 0);
            see(&mut watch, stream, arm, stream + reading * 50, &output);
        }
        // Of another experiment, and of none of its arms.
        see(&mut watch, stream, "two/control", stream, &anomaly(true));
    }
    let results = watch.results(10_000);
    assert_eq!(results.metrics, ["anomaly_share"]);
    let report = &results.report;
    assert_eq!((report.arms[0].exposed, report.arms[1].matured), (300, 300));
    let one = &report.comparisons[0];
    assert_eq!(one.verdict, Verdict::Better, "{}", one.words);
}

#[test]
fn feedback_counts_once_and_a_correction_takes_the_one_before_back() {
    let mut definition = quick(ab("one"));
    definition.horizon_s = 10.0;
    definition.wait_s = 10.0;
    definition.metrics[0].measure = Known::Accuracy;
    definition.metrics[0].direction = Some(Direction::HigherIsBetter);
    let mut watch = watch(&definition);
    see(&mut watch, 1, "one/control", 0, &anomaly(true));
    see(&mut watch, 2, "one/control", 0, &anomaly(true));
    let sample = |stream| StoredSample {
        id: 1,
        stream,
        endpoint: "pump-health".into(),
        device: "rig".into(),
        epoch: 0,
        seq: 0,
        ts: 0,
        received_at: 0,
        values: Vec::new(),
        output: anomaly(true),
        model: "mewma".into(),
        version: "1.0.0".into(),
        arm: Some("one/control".into()),
        latency_us: 1,
        flags: Flags::default(),
    };
    let feedback = |id, stream, label: &str, before: Option<&str>| FeedbackRow {
        id,
        stream,
        epoch: 0,
        seq: 0,
        label: Label::Text(label.into()),
        at: 5,
        before: before.map(|label| Label::Text(label.into())),
    };
    watch.learn(&feedback(1, 1, "normal", None), &sample(1));
    watch.learn(&feedback(2, 1, "anomaly", Some("normal")), &sample(1));
    watch.learn(&feedback(3, 2, "normal", None), &sample(2));
    watch.learn(&feedback(4, 3, "normal", None), &sample(3));
    let results = watch.results(60_000);
    let accuracy = results.report.arms[0].metrics[0].expect("two devices are scored");
    assert!((accuracy.value - 0.5).abs() < 1e-12, "{accuracy:?}");
    assert_eq!((results.feedback, results.feedback_unused), (3, 1));
    assert_eq!(results.report.arms[0].coverage, Some(1.0));
}

#[test]
fn a_step_of_a_ramp_draws_the_control_anew_and_readings_on_the_way_are_left_out() {
    let definition = quick(canary("ramp"));
    let mut watch = watch(&definition);
    for stream in 0..400 {
        let device = format!("rig-{stream}");
        let split = definition.split(0).unwrap();
        let arm = split.assign("ramp", &device).unwrap().arm;
        see(
            &mut watch,
            stream,
            &definition.label(arm),
            10,
            &anomaly(false),
        );
    }
    let before = watch.results(20).report;
    assert!(before.arms[1].exposed < 12, "{before:?}");
    watch.note_step(1_000, 2);
    assert_eq!(watch.step(), (2, 1_000));
    // Not switched yet: its version is still the control's.
    see(&mut watch, 7, "ramp/control", 1_100, &anomaly(true));
    let after = watch.results(1_200).report;
    assert_eq!(after.arms[1].exposed, 400, "{after:?}");
    assert_eq!(after.other_arm, 0);
}

#[test]
fn a_version_that_fails_trips_the_breaker_after_a_hundred_readings() {
    let mut watch = watch(&quick(ab("one")));
    let failed = Output::Failed("no".into());
    for at in 0..100 {
        see(&mut watch, 1, "one/control", at, &anomaly(false));
        assert!(watch.tripped(at).is_none());
        see(&mut watch, 2, "one/challenger", at, &failed);
    }
    let tripped = watch.tripped(100).expect("it trips").to_string();
    assert!(
        tripped.starts_with("100.0% of 100 outputs failed in arm 1"),
        "{tripped}"
    );
    for _ in 0..3 {
        watch.refused(2, 100);
        watch.refused(99, 100);
    }
    assert_eq!(
        watch.results(101).breaker.expect("still"),
        watch.tripped(101).unwrap().to_string()
    );
}
