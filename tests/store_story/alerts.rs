//! The chapter of alerts.

use super::book::Book;
use tidegate::store::alerts::{
    Acknowledged, AlertQuery, AlertRecord, AlertRow, ChangeRow, Setting,
};

fn alert(id: u64, device: Option<&str>) -> AlertRow {
    AlertRow {
        id,
        rule: "held".into(),
        kind: "anomaly".into(),
        severity: "warning".into(),
        endpoint: device.map(|_| "pump-health".into()),
        device: device.map(str::to_owned),
        area: String::new(),
        message: "anomaly\0 \u{1f6a8}".into(),
        value: Some(0.25),
        since: 5,
        opened_at: 10 * i64::try_from(id).unwrap(),
        acknowledged: None,
        resolved_at: None,
        silenced: false,
    }
}

fn change(n: u64, alert: Option<u64>, name: &str) -> ChangeRow {
    ChangeRow {
        n,
        alert,
        at: 100,
        change: name.into(),
        who: Some("ann".into()),
        text: String::new(),
    }
}

pub async fn alerts_are_recorded_whole_and_again(book: &mut Book) {
    let store = book.store();
    let empty = store.alert_state().await.unwrap();
    assert_eq!(
        (empty.until, empty.newest_alert, empty.newest_change),
        (0, 0, 0)
    );
    let record = AlertRecord {
        until: 7,
        alerts: vec![alert(1, Some("a")), alert(2, None)],
        changes: vec![change(1, Some(1), "opened"), change(2, Some(2), "opened")],
        settings: vec![
            Setting {
                key: "rule/x".into(),
                body: Some("{}".into()),
            },
            Setting {
                key: "rule/y".into(),
                body: Some("{}".into()),
            },
        ],
    };
    // The answer to a record was lost: made again, it counts once.
    store.record_alerts(&record).await.unwrap();
    store.record_alerts(&record).await.unwrap();
    let state = store.alert_state().await.unwrap();
    assert_eq!(
        (state.until, state.newest_alert, state.newest_change),
        (7, 2, 2)
    );
    assert_eq!(state.open, record.alerts);
    assert_eq!(state.settings.len(), 2);

    let resolved = AlertRow {
        resolved_at: Some(50),
        acknowledged: Some(Acknowledged {
            who: "ann".into(),
            why: String::new(),
            at: 40,
        }),
        ..alert(1, Some("a"))
    };
    let record = AlertRecord {
        until: 9,
        alerts: vec![resolved.clone()],
        changes: vec![change(3, Some(1), "resolved")],
        settings: vec![Setting {
            key: "rule/x".into(),
            body: None,
        }],
    };
    store.record_alerts(&record).await.unwrap();
    let state = store.alert_state().await.unwrap();
    assert_eq!(state.open, [alert(2, None)]);
    assert_eq!(state.settings, [("rule/y".to_owned(), "{}".to_owned())]);

    let every = AlertQuery {
        limit: 10,
        ..AlertQuery::default()
    };
    assert_eq!(
        store.alerts(&every).await.unwrap(),
        [alert(2, None), resolved.clone()]
    );
    for (query, found) in [
        (
            AlertQuery {
                device: Some("a".into()),
                ..every.clone()
            },
            vec![1],
        ),
        (
            AlertQuery {
                rule: Some("other".into()),
                ..every.clone()
            },
            vec![],
        ),
        (
            AlertQuery {
                from: Some(11),
                ..every.clone()
            },
            vec![2],
        ),
        (
            AlertQuery {
                to: Some(20),
                ..every.clone()
            },
            vec![1],
        ),
        (
            AlertQuery {
                cursor: Some(2),
                ..every.clone()
            },
            vec![1],
        ),
        (
            AlertQuery {
                limit: 1,
                ..every.clone()
            },
            vec![2],
        ),
    ] {
        let rows = store.alerts(&query).await.unwrap();
        let ids: Vec<u64> = rows.iter().map(|row| row.id).collect();
        assert_eq!(ids, found, "{query:?}");
    }
    let numbers = async |alert, cursor| {
        let rows = store.alert_changes(alert, cursor, 10).await.unwrap();
        rows.iter().map(|row| row.n).collect::<Vec<u64>>()
    };
    assert_eq!(numbers(None, None).await, [3, 2, 1]);
    assert_eq!(numbers(Some(1), None).await, [3, 1]);
    assert_eq!(numbers(Some(1), Some(3)).await, [1]);
    // An open alert is kept however old it is.
    assert_eq!(store.expire_alerts(51, 10).await.unwrap(), 1);
    assert_eq!(store.alerts(&every).await.unwrap(), [alert(2, None)]);
    assert_eq!(store.expire_alerts(101, 2).await.unwrap(), 2);
    assert_eq!(numbers(None, None).await, [3]);
}
