//! What a device says.

use super::{Case, one};
use tidegate_protocol::message::{Feedback, Label};
use tidegate_protocol::{DeviceMessage, MAX_NUMBER, MISSING, Reading, Values};

pub const PUMP: [f32; 8] = [0.02, 0.04, 1.33, 0.05, 79.3, 26.0, 233.1, 32.0];

fn reading(seq: u64) -> Reading {
    Reading {
        seq: Some(seq),
        values: Values::Ordered(vec![0.5, -1.25]),
        ..Reading::default()
    }
}

pub fn readings() -> Vec<Case<DeviceMessage>> {
    let pump = Reading {
        epoch: None,
        seq: Some(17),
        ts: Some(1_770_000_000_000),
        values: Values::Ordered(PUMP.to_vec()),
        historical: false,
    };
    let named = vec![
        ("flow".to_owned(), 32.0),
        ("pressure".to_owned(), MISSING),
        ("current".to_owned(), -0.0),
    ];
    let historical = Reading {
        epoch: Some(3),
        ts: Some(-1),
        historical: true,
        ..reading(300)
    };
    let largest = Reading {
        epoch: Some(MAX_NUMBER),
        ts: Some(i64::MAX),
        values: Values::Ordered(vec![f32::MAX, f32::MIN_POSITIVE, 1e-45]),
        ..reading(MAX_NUMBER)
    };
    let bare = Reading {
        values: Values::Ordered(vec![1.0]),
        ..Reading::default()
    };
    let missing = Reading {
        values: Values::Ordered(vec![1.5, MISSING]),
        ..reading(250)
    };
    [
        (
            "reading",
            "A reading of the pump rig as devices usually send it.",
            pump,
        ),
        (
            "reading-bare",
            "Without any option: the server numbers it and takes the arrival time.",
            bare,
        ),
        (
            "reading-historical",
            "With every option: epoch, seq, a ts before 1970, historical.",
            historical,
        ),
        (
            "reading-named",
            "Values by feature name; a null and a negative zero keep their bits.",
            Reading {
                values: Values::Named(named),
                ..reading(251)
            },
        ),
        (
            "reading-missing",
            "A missing value is null in JSON and one fixed NaN in bincode.",
            missing,
        ),
        (
            "reading-largest",
            "The largest numbers, the smallest and the largest f32.",
            largest,
        ),
    ]
    .into_iter()
    .map(|(name, what, reading)| one(name, what, DeviceMessage::Reading(reading)))
    .collect()
}

pub fn others() -> Vec<Case<DeviceMessage>> {
    let named = Reading {
        values: Values::Named(vec![("flow".to_owned(), 2.0)]),
        ..reading(2)
    };
    let labelled = |label, epoch, reference| Feedback {
        epoch,
        seq: 17,
        label,
        reference,
    };
    let text = labelled(Label::Text("normal".to_owned()), None, Some(5));
    let number = labelled(Label::Number(-1.5), Some(2), None);
    vec![
        one(
            "batch",
            "Readings in order, each with its own form of values.",
            DeviceMessage::Batch(vec![
                reading(1),
                named,
                Reading {
                    seq: None,
                    ..reading(0)
                },
            ]),
        ),
        one(
            "batch-empty",
            "A batch may be empty.",
            DeviceMessage::Batch(Vec::new()),
        ),
        one(
            "feedback-class",
            "A class as ground truth, with the device's own mark.",
            DeviceMessage::Feedback(text),
        ),
        one(
            "feedback-number",
            "A number as ground truth, of an earlier epoch.",
            DeviceMessage::Feedback(number),
        ),
        one(
            "reset",
            "Forget what was learned of this stream and calibrate again.",
            DeviceMessage::Reset,
        ),
    ]
}
