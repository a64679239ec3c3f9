//! What subscribers and the server say on `/v1/live`.

use super::{Case, one, server};
use tidegate_protocol::live::{
    AlertChange, AlertEvent, ArmVerdict, DeviceEvent, DeviceState, Event, ExperimentEvent,
    Subscribe, SystemEvent,
};
use tidegate_protocol::message::ServerError;
use tidegate_protocol::{
    ErrorCode, LiveData, LiveMessage, LiveRequest, MISSING, Output, Policy, Position, Sample,
};

pub fn requests() -> Vec<Case<LiveRequest>> {
    let plain = |policy| Subscribe {
        id: 1,
        topic: "predictions/pump-health/*".to_owned(),
        from: None,
        policy,
        max_hz: None,
    };
    let resuming = Subscribe {
        from: Some(Position {
            log: "01hq3v".to_owned(),
            offset: 70_000,
        }),
        max_hz: Some(10.0),
        ..plain(Policy::Latest)
    };
    let [latest, oldest, disconnect] = [Policy::Latest, Policy::DropOldest, Policy::Disconnect]
        .map(|policy| LiveRequest::Subscribe(plain(policy)));
    vec![
        one(
            "subscribe",
            "From now on, the newest event of each topic.",
            latest,
        ),
        one(
            "subscribe-from",
            "Go on after a position, at most ten a second.",
            LiveRequest::Subscribe(resuming),
        ),
        one(
            "subscribe-drop-oldest",
            "The oldest unsent events go.",
            oldest,
        ),
        one(
            "subscribe-disconnect",
            "Rather close than skip.",
            disconnect,
        ),
        one(
            "unsubscribe",
            "Stop listening.",
            LiveRequest::Unsubscribe { id: 1 },
        ),
    ]
}

fn sample(output: Output) -> Sample {
    Sample {
        id: 70_001,
        endpoint: "pump-health".to_owned(),
        device: "rig-1".to_owned(),
        epoch: 0,
        seq: 17,
        ts: 1_770_000_000_000,
        received_at: 1_770_000_000_042,
        values: vec![0.5, MISSING],
        output,
        model: "mewma".to_owned(),
        version: "1.0.0".to_owned(),
        arm: None,
        latency_us: 212,
        flags: Vec::new(),
    }
}

fn event(topic: &str, data: LiveData) -> LiveMessage {
    LiveMessage::Event(Event {
        offset: 70_001,
        topic: topic.to_owned(),
        data,
    })
}

fn device(state: DeviceState, gap: Option<(u64, u64)>) -> LiveMessage {
    let (device, endpoint) = ("rig-1".to_owned(), "pump-health".to_owned());
    event(
        "devices/rig-1",
        LiveData::Device(DeviceEvent {
            device,
            endpoint,
            state,
            at: 1_770_000_000_000,
            gap,
        }),
    )
}

fn alert() -> LiveMessage {
    let alert = AlertEvent {
        endpoint: "pump-health".to_owned(),
        device: "rig-1".to_owned(),
        alert: "seq_reused".to_owned(),
        message: "seq 17 came with other values".to_owned(),
        at: 1_770_000_000_000,
    };
    event("alerts/pump-health/rig-1", LiveData::Alert(alert))
}

fn alert_change() -> LiveMessage {
    let change = AlertChange {
        id: 12,
        rule: "anomaly-held".to_owned(),
        kind: "anomaly".to_owned(),
        severity: "critical".to_owned(),
        change: "acknowledged".to_owned(),
        endpoint: "pump-health".to_owned(),
        device: "rig-1".to_owned(),
        message: "anomaly for 30 s".to_owned(),
        who: Some("ann".to_owned()),
        at: 1_770_000_000_000,
    };
    event("alerts/pump-health/rig-1", LiveData::AlertChange(change))
}

fn system() -> LiveMessage {
    let rates = SystemEvent {
        devices_online: 2000,
        readings_per_s: 1999.5,
        predictions_per_s: 1999.5,
        acks_per_s: 1980.0,
        subscribers: 3,
        store_lag_ms: 4.25,
        uptime_s: 3600,
    };
    event("system", LiveData::System(rates))
}

fn experiment() -> LiveMessage {
    let verdict = ArmVerdict {
        arm: "trees".to_owned(),
        verdict: "better".to_owned(),
        words: "`trees`: better; `accuracy` by 0.0400, between 0.0100 and 0.0700".to_owned(),
    };
    let experiment = ExperimentEvent {
        experiment: "forest-or-trees".to_owned(),
        endpoint: "rig-state".to_owned(),
        state: "running".to_owned(),
        verdicts: vec![verdict],
        at: 1_770_000_000_000,
    };
    event(
        "experiments/forest-or-trees",
        LiveData::Experiment(experiment),
    )
}

pub fn events() -> Vec<Case<LiveMessage>> {
    let anomaly = Output::Anomaly {
        score: 0.93,
        threshold: 0.8,
        anomaly: true,
    };
    let flags = vec!["late".to_owned(), "clock_skew".to_owned()];
    let flagged = Sample {
        arm: Some("b".to_owned()),
        flags,
        ..sample(Output::Skipped("late".to_owned()))
    };
    let outputs = server::outputs()
        .into_iter()
        .map(|(_, _, output)| sample(output));
    let topic = "predictions/pump-health/rig-1";
    let of = |sample| event(topic, LiveData::Sample(sample));
    vec![
        one(
            "event-sample",
            "A committed sample with a missing value.",
            of(sample(anomaly)),
        ),
        one(
            "event-sample-flagged",
            "With an arm and with flags.",
            of(flagged),
        ),
        Case {
            name: "event-sample-outputs",
            what: "A sample with every kind of output.",
            messages: outputs.map(of).collect(),
        },
        one(
            "event-device-online",
            "A device came.",
            device(DeviceState::Online, None),
        ),
        one(
            "event-device-offline",
            "A device went.",
            device(DeviceState::Offline, None),
        ),
        one(
            "event-device-gap",
            "A device skipped 12 to 15.",
            device(DeviceState::Gap, Some((12, 15))),
        ),
        one("event-alert", "Something a person should know.", alert()),
        one("event-system", "Rates of the whole server.", system()),
        one(
            "event-experiment",
            "What the numbers of an experiment say.",
            experiment(),
        ),
        one(
            "event-alert-change",
            "Somebody looks after an alert.",
            alert_change(),
        ),
    ]
}

pub fn others() -> Vec<Case<LiveMessage>> {
    let refused = ServerError {
        code: ErrorCode::BadRequest,
        message: "topic \"x\": no such topic".to_owned(),
        retry_after_ms: None,
    };
    let subscribed = |recovered| LiveMessage::Subscribed {
        id: 1,
        log: "01hq3v".to_owned(),
        offset: 70_000,
        recovered,
    };
    vec![
        one(
            "subscribed",
            "Everything since `from` follows.",
            subscribed(true),
        ),
        one(
            "subscribed-anew",
            "Not everything could be recovered.",
            subscribed(false),
        ),
        one(
            "unsubscribed",
            "The subscription is gone.",
            LiveMessage::Unsubscribed { id: 1 },
        ),
        one(
            "dropped",
            "300 events were left out.",
            LiveMessage::Dropped { id: 1, count: 300 },
        ),
        one(
            "error",
            "A request was refused.",
            LiveMessage::Error(refused),
        ),
    ]
}
