use super::book::{Book, Notice, Seen};
use super::watched::{MOST_OPEN, NOTICES_A_MINUTE};
use super::{BookError, Health, Signal, Silence};
use crate::config::{AlertKind, AlertRule, RawAlert};
use crate::store::alerts::AlertState;
use crate::stream::StreamKey;
use tidegate_protocol::Output;

const T0: i64 = 1_770_000_000_000;

fn raw(name: &str, kind: &str) -> RawAlert {
    RawAlert {
        name: name.into(),
        kind: kind.into(),
        ..RawAlert::default()
    }
}

fn with(raws: &[RawAlert]) -> Vec<(AlertRule, RawAlert)> {
    let checked = raws
        .iter()
        .map(|raw| (AlertRule::check(raw).unwrap(), raw.clone()));
    checked.collect()
}

fn book(raws: &[RawAlert]) -> Book {
    Book::new(&with(raws), AlertState::default(), T0)
}

fn key(device: &str) -> StreamKey {
    StreamKey::live("pump-health".parse().unwrap(), device.parse().unwrap())
}

fn output(score: f32) -> Output {
    Output::Anomaly {
        score,
        threshold: 0.5,
        anomaly: score > 0.5,
    }
}

/// A reading of a device, `after` ms after the beginning.
fn see(book: &mut Book, device: &str, score: f32, after: i64) {
    book.see(Seen {
        key: &key(device),
        at: T0 + after,
        output: &output(score),
        is_historical: false,
    });
}

fn told(book: &mut Book) -> Vec<(String, &'static str)> {
    let notices = book.take_notices();
    let name = |notice: &Notice| notice.alert.device.clone().unwrap_or_default();
    notices
        .iter()
        .map(|notice| (name(notice), notice.change))
        .collect()
}

#[test]
fn one_alert_a_rule_and_device_however_often_it_is_seen() {
    let mut book = book(&[RawAlert {
        for_s: 2,
        ..raw("held", "anomaly")
    }]);
    for second in 0..10 {
        see(&mut book, "a", 0.9, second * 1_000);
        see(&mut book, "b", 0.1, second * 1_000);
    }
    assert_eq!(told(&mut book), [("a".to_owned(), "opened")]);
    for second in 10..13 {
        see(&mut book, "a", 0.1, second * 1_000);
    }
    assert_eq!(told(&mut book), [("a".to_owned(), "resolved")]);
    assert_eq!(book.open_count(), 0);
    let (record, newest) = book.take_record();
    assert_eq!((record.changes.len(), newest), (2, 2));
    assert_eq!(record.alerts.len(), 1, "the last state is what counts");
    assert_eq!(record.alerts[0].since, T0);
    assert_eq!(record.alerts[0].opened_at, T0 + 2_000);
    assert_eq!(record.alerts[0].resolved_at, Some(T0 + 12_000));
}

#[test]
fn history_and_back_fills_raise_nothing_and_failed_steps_say_nothing() {
    let mut book = book(&[raw("now", "anomaly")]);
    let bad = output(0.9);
    let mut import = key("a");
    import.import = 7;
    for (key, is_historical, output) in [
        (key("a"), true, &bad),
        (import, false, &bad),
        (key("a"), false, &Output::Failed("x".into())),
        (key("a"), false, &output(f32::NAN)),
    ] {
        book.see(Seen {
            key: &key,
            at: T0,
            output,
            is_historical,
        });
    }
    assert_eq!(book.open_count(), 0);
    see(&mut book, "a", 0.9, 0);
    // A step that fails is no sign that it is well.
    book.see(Seen {
        key: &key("a"),
        at: T0 + 1,
        output: &Output::Failed("x".into()),
        is_historical: false,
    });
    assert_eq!(book.open_count(), 1);
}

#[test]
fn between_the_two_limits_nothing_changes() {
    let mut book = book(&[RawAlert {
        above: Some(0.8),
        clear_below: Some(0.4),
        ..raw("high", "score")
    }]);
    for (score, open) in [(0.7, 0), (0.8, 1), (0.5, 1), (0.79, 1), (0.39, 0), (0.5, 0)] {
        see(&mut book, "a", score, 0);
        assert_eq!(book.open_count(), open, "{score}");
    }
}

#[test]
fn a_silent_device_is_told_once_and_ends_with_its_next_reading() {
    let mut book = book(&[RawAlert {
        for_s: 30,
        ..raw("gone", "silent")
    }]);
    book.remember(key("b"), T0 - 60_000);
    see(&mut book, "a", 0.1, 0);
    for second in 0..40 {
        book.tick(T0 + second * 1_000, Health::default());
    }
    let mut gone = told(&mut book);
    gone.sort();
    assert_eq!(
        gone,
        [("a".to_owned(), "opened"), ("b".to_owned(), "opened")]
    );
    see(&mut book, "a", 0.1, 41_000);
    assert_eq!(told(&mut book), [("a".to_owned(), "resolved")]);
}

#[test]
fn while_commits_fail_nobody_is_called_silent() {
    let mut book = book(&[RawAlert {
        for_s: 1,
        ..raw("gone", "silent")
    }]);
    see(&mut book, "a", 0.1, 0);
    let failing = Health {
        is_failing: true,
        ..Health::default()
    };
    for second in 0..100 {
        book.tick(T0 + second * 1_000, failing);
    }
    assert_eq!(book.open_count(), 0);
}

#[test]
fn the_server_itself_is_watched() {
    let mut book = book(&[
        RawAlert {
            above: Some(2.0),
            ..raw("lag", "store_lag")
        },
        RawAlert {
            above: Some(0.8),
            clear_below: Some(0.5),
            ..raw("full", "queue")
        },
    ]);
    let mut tick = |lag_s, queue, now| {
        let health = Health {
            lag_s,
            queue,
            is_failing: false,
        };
        book.tick(T0 + now, health);
        book.open_count()
    };
    assert_eq!(tick(1.9, 0.79, 0), 0);
    assert_eq!(tick(2.0, 0.8, 1_000), 2);
    assert_eq!(tick(0.0, 0.6, 2_000), 1, "the queue is between its limits");
    assert_eq!(tick(0.0, 0.4, 3_000), 0);
}

#[test]
fn other_parts_signal_by_endpoint_and_area() {
    let raw = RawAlert {
        endpoint: Some("pump-health".into()),
        ..raw("drift", "anomaly")
    };
    let rule = AlertRule {
        kind: AlertKind::Drift,
        ..AlertRule::check(&raw).unwrap()
    };
    let mut book = Book::new(&[(rule, raw)], AlertState::default(), T0);
    let mut signal = |endpoint: &str, area: &str, is_bad| {
        let signal = Signal {
            kind: AlertKind::Drift,
            endpoint: endpoint.into(),
            area: area.into(),
            is_bad,
            message: "psi".into(),
            value: Some(0.3),
        };
        book.signal(&signal, T0);
        book.open_count()
    };
    assert_eq!(signal("other", "x", true), 0);
    assert_eq!(signal("pump-health", "x", true), 1);
    assert_eq!(signal("pump-health", "x", true), 1);
    assert_eq!(signal("pump-health", "y", true), 2);
    assert_eq!(signal("pump-health", "x", false), 1);
}

fn silence(device: &str, until: i64) -> Silence {
    Silence {
        id: 0,
        rule: None,
        endpoint: None,
        device: Some(device.into()),
        until,
        who: "ann".into(),
        why: "maintenance".into(),
        at: T0,
    }
}

#[test]
fn what_is_silenced_is_recorded_and_told_when_the_silence_ends() {
    let mut book = book(&[raw("now", "anomaly")]);
    let until = T0 + 60_000;
    book.silence(silence("a", until), T0).unwrap();
    see(&mut book, "a", 0.9, 0);
    see(&mut book, "b", 0.9, 0);
    assert_eq!(told(&mut book), [("b".to_owned(), "opened")]);
    assert_eq!(book.open_count(), 2);
    book.tick(until - 1, Health::default());
    assert_eq!(told(&mut book), []);
    book.tick(until, Health::default());
    assert_eq!(told(&mut book), [("a".to_owned(), "opened")]);
    // One that came and went in a silence is told to nobody.
    let id = book.silence(silence("c", until * 2), until).unwrap();
    see(&mut book, "c", 0.9, 61_000);
    see(&mut book, "c", 0.1, 62_000);
    book.end_silence(id, "ann", until + 3_000).unwrap();
    assert_eq!(told(&mut book), []);
    let ended = book.end_silence(id, "ann", until);
    assert_eq!(ended, Err(BookError::UnknownSilence(id)));
}

#[test]
fn an_acknowledgement_names_who_and_leaves_the_alert_open() {
    let mut book = book(&[raw("now", "anomaly")]);
    see(&mut book, "a", 0.9, 0);
    let id = book.open().next().unwrap().id;
    book.acknowledge(id, "ann", "on my way", T0 + 5).unwrap();
    let row = book.open().next().unwrap().clone();
    assert_eq!(row.acknowledged.unwrap().who, "ann");
    see(&mut book, "a", 0.1, 10);
    let late = book.acknowledge(id, "bob", "", T0 + 20);
    assert_eq!(late, Err(BookError::NotOpen(id)));
    let changes: Vec<&str> = told(&mut book)
        .into_iter()
        .map(|(_, change)| change)
        .collect();
    assert_eq!(changes, ["opened", "acknowledged", "resolved"]);
}

#[test]
fn ten_thousand_devices_are_not_ten_thousand_messages() {
    let mut book = book(&[raw("now", "anomaly")]);
    for device in 0..10_000 {
        see(&mut book, &format!("d{device}"), 0.9, 0);
    }
    assert_eq!(book.open_count(), 10_000);
    assert_eq!(book.take_notices().len(), NOTICES_A_MINUTE as usize);
    book.tick(T0 + 60_000, Health::default());
    let more = book.take_notices();
    assert_eq!(more.len(), 1);
    assert_eq!(
        (more[0].change, more[0].alert.value),
        ("more", Some(9_900.0))
    );
    const { assert!(MOST_OPEN >= 10_000) };
}

#[test]
fn open_alerts_outlive_a_restart_and_end_with_their_rule() {
    let rules = [raw("now", "anomaly"), raw("other", "anomaly")];
    let mut before = book(&rules);
    see(&mut before, "a", 0.9, 0);
    let (record, newest_change) = before.take_record();
    let stored = AlertState {
        until: 9,
        newest_alert: 2,
        newest_change,
        open: record.alerts,
        settings: Vec::new(),
    };
    let mut after = Book::new(&with(&rules[..1]), stored, T0 + 1_000);
    let over: Vec<_> = after.take_notices();
    assert_eq!(over.len(), 1, "that of the rule that is gone");
    assert_eq!(
        (over[0].change, &*over[0].alert.rule),
        ("resolved", "other")
    );
    see(&mut after, "a", 0.9, 2_000);
    assert_eq!(told(&mut after), [], "it is known");
    see(&mut after, "a", 0.1, 3_000);
    assert_eq!(told(&mut after), [("a".to_owned(), "resolved")]);
    see(&mut after, "a", 0.9, 4_000);
    assert_eq!(after.open().next().unwrap().id, 3, "ids go on");
}

#[test]
fn rules_come_and_go_while_those_of_the_configuration_stay() {
    let mut book = book(&[raw("file", "anomaly")]);
    let rule = |raw: &RawAlert| AlertRule::check(raw).unwrap();
    let mine = raw("mine", "anomaly");
    book.put_rule(rule(&mine), mine.clone(), "ann", T0).unwrap();
    see(&mut book, "a", 0.9, 0);
    assert_eq!(book.open_count(), 2);
    let file = raw("file", "anomaly");
    let refused = book.put_rule(rule(&file), file, "ann", T0);
    assert_eq!(refused, Err(BookError::FromFile("file".into())));
    let refused = book.remove_rule("file", "ann", T0);
    assert_eq!(refused, Err(BookError::FromFile("file".into())));
    book.remove_rule("mine", "ann", T0).unwrap();
    assert_eq!(book.open_count(), 1);
    let gone = book.remove_rule("mine", "ann", T0);
    assert_eq!(gone, Err(BookError::UnknownRule("mine".into())));
    let (record, _) = book.take_record();
    let settings: Vec<_> = record
        .settings
        .iter()
        .map(|s| (&*s.key, s.body.is_some()))
        .collect();
    assert_eq!(settings, [("rule/mine", true), ("rule/mine", false)]);
    // Stored ones are there after a restart; one that the configuration has too is its.
    let body = serde_json::to_string(&raw("mine", "silent")).unwrap();
    let stored = AlertState {
        settings: vec![("rule/mine".into(), body), ("rule/x".into(), "{}".into())],
        ..AlertState::default()
    };
    let after = Book::new(&with(&[mine]), stored, T0);
    assert_eq!(after.rules().len(), 1);
    assert_eq!(after.rules()[0].0.kind, "anomaly");
}
