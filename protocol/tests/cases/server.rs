//! What the server says to a device.

use super::{Case, one};
use tidegate_protocol::message::{
    Ack, FeatureInfo, FeedbackStored, Gap, Nack, Prediction, ResetDone, ServerError, Welcome,
};
use tidegate_protocol::{ErrorCode, NackCode, Output, ServerMessage};

fn prediction(output: Output) -> Prediction {
    Prediction {
        epoch: None,
        seq: 17,
        ts: 1_770_000_000_000,
        model: "mewma".to_owned(),
        version: "1.0.0".to_owned(),
        output,
        latency_us: 212,
    }
}

fn pairs(pairs: &[(&str, f32)]) -> Vec<(String, f32)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), *value))
        .collect()
}

/// Every kind of output, with its name and sentence.
pub fn outputs() -> Vec<(&'static str, &'static str, Output)> {
    let forecast = Output::Forecast {
        horizon: vec![60.0, 120.0],
        values: vec![1.5, 1.75],
        quantiles: vec![
            ("0.9".to_owned(), vec![2.0, 2.5]),
            ("0.1".to_owned(), vec![1.0, 1.25]),
        ],
    };
    vec![
        (
            "prediction-calibrating",
            "The detector still learns what is normal.",
            Output::Calibrating {
                seen: 120,
                needed: 400,
            },
        ),
        (
            "prediction-anomaly",
            "A score above its threshold.",
            Output::Anomaly {
                score: 0.93,
                threshold: 0.8,
                anomaly: true,
            },
        ),
        (
            "prediction-classification",
            "A class and the probabilities of all, in order.",
            Output::Classification {
                label: "worn".to_owned(),
                probabilities: pairs(&[("worn", 0.9), ("ok", 0.1)]),
            },
        ),
        (
            "prediction-regression",
            "Named values.",
            Output::Regression {
                values: pairs(&[("hours_left", 1.2)]),
            },
        ),
        (
            "prediction-forecast",
            "Values ahead of now, quantiles in the model's order.",
            forecast,
        ),
        (
            "prediction-failed",
            "The step failed; the reading is stored.",
            Output::Failed("step panicked".to_owned()),
        ),
        (
            "prediction-skipped",
            "A late reading is stored but not folded.",
            Output::Skipped("late".to_owned()),
        ),
    ]
}

pub fn predictions() -> Vec<Case<ServerMessage>> {
    let mut cases: Vec<_> = outputs()
        .into_iter()
        .map(|(name, what, output)| one(name, what, ServerMessage::Prediction(prediction(output))))
        .collect();
    let other_epoch = Prediction {
        epoch: Some(2),
        ..prediction(Output::Skipped("late".to_owned()))
    };
    let what = "With its epoch, as always over MQTT.";
    cases.push(one(
        "prediction-epoch",
        what,
        ServerMessage::Prediction(other_epoch),
    ));
    cases
}

fn welcome() -> ServerMessage {
    let feature = |name: &str, unit: &str| FeatureInfo {
        name: name.to_owned(),
        unit: unit.to_owned(),
    };
    ServerMessage::Welcome(Welcome {
        endpoint: "pump-health".to_owned(),
        device: "rig-1".to_owned(),
        epoch: 0,
        resume_from: 18,
        features: vec![feature("pressure", "bar"), feature("temperature", "°C")],
        model: "mewma".to_owned(),
        version: "1.0.0".to_owned(),
        ping_s: 25,
        max_frame_bytes: 65536,
    })
}

fn nack(epoch: Option<u64>, seq: Option<u64>, code: NackCode, message: &str) -> ServerMessage {
    ServerMessage::Nack(Nack {
        epoch,
        seq,
        code,
        message: message.to_owned(),
    })
}

fn error(code: ErrorCode, message: &str, retry_after_ms: Option<u64>) -> ServerMessage {
    ServerMessage::Error(ServerError {
        code,
        message: message.to_owned(),
        retry_after_ms,
    })
}

pub fn others() -> Vec<Case<ServerMessage>> {
    let ack = |epoch, seq, late: &[u64]| {
        ServerMessage::Ack(Ack {
            epoch,
            seq,
            late: late.to_vec(),
        })
    };
    let gap = |epoch| {
        ServerMessage::Gap(Gap {
            epoch,
            from: 12,
            to: 15,
        })
    };
    let stored = |epoch, reference| {
        ServerMessage::Feedback(FeedbackStored {
            epoch,
            seq: 17,
            reference,
        })
    };
    let wrong_count = "expected 8 values, got 7";
    vec![
        one("welcome", "First message of a connection.", welcome()),
        one(
            "ack",
            "Everything up to 17 is committed.",
            ack(None, 17, &[]),
        ),
        one(
            "ack-late",
            "With late readings of another epoch.",
            ack(Some(1), 70_000, &[12, 13]),
        ),
        one(
            "nack",
            "A permanent refusal.",
            nack(None, Some(17), NackCode::BadReading, wrong_count),
        ),
        one(
            "nack-unnumbered",
            "No number could be read.",
            nack(None, None, NackCode::BadReading, "not a message"),
        ),
        one(
            "nack-epoch",
            "With its epoch.",
            nack(
                Some(1),
                Some(4),
                NackCode::OldEpoch,
                "the stream is at epoch 2",
            ),
        ),
        one("gap", "12 to 15 were skipped, both included.", gap(None)),
        one("gap-epoch", "With its epoch.", gap(Some(1))),
        one(
            "error",
            "Why the connection closes next.",
            error(ErrorCode::UnknownEndpoint, "no endpoint \"x\"", None),
        ),
        one(
            "error-retry",
            "With a time to come back.",
            error(ErrorCode::Overloaded, "store is full", Some(10_000)),
        ),
        one("feedback", "Feedback is committed.", stored(None, Some(5))),
        one(
            "feedback-epoch",
            "With its epoch, without a mark.",
            stored(Some(1), None),
        ),
        one(
            "reset",
            "A reset is committed.",
            ServerMessage::Reset(ResetDone { epoch: 0 }),
        ),
    ]
}

/// Tables: every code once.
pub fn codes() -> Vec<Case<ServerMessage>> {
    let nacks = NackCode::ALL
        .iter()
        .map(|code| nack(None, Some(1), *code, "why"));
    let errors = ErrorCode::ALL.iter().map(|code| error(*code, "why", None));
    vec![
        Case {
            name: "nack-codes",
            what: "Every nack code once, in wire order.",
            messages: nacks.collect(),
        },
        Case {
            name: "error-codes",
            what: "Every error code once, in wire order.",
            messages: errors.collect(),
        },
    ]
}
