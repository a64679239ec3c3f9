//! The chapters of endpoints, versions and their status.

use super::book::{Book, ENDPOINT, Pen};
use tidegate::store::{StatusChange, StoreError};
use tidegate::stream::{Status, now_ms};
use tidegate_protocol::{EndpointName, NackCode};

pub async fn a_version_never_changes(book: &mut Book) {
    let endpoint = EndpointName::new(ENDPOINT).unwrap();
    let store = book.store();
    let again = store
        .register_version(&endpoint, "mewma", "1.0.0", &[7; 32])
        .await;
    assert_eq!(again.unwrap(), book.version.id);
    let other = store
        .register_version(&endpoint, "mewma", "1.0.1", &[8; 32])
        .await;
    assert_ne!(other.unwrap(), book.version.id);
    let changed = store
        .register_version(&endpoint, "mewma", "1.0.0", &[9; 32])
        .await;
    let said = changed.unwrap_err().to_string();
    for part in [
        "pump-health/mewma/1.0.0",
        &"07".repeat(32),
        &"09".repeat(32),
    ] {
        assert!(said.contains(part), "{said}");
    }
}

pub async fn a_revision_keeps_its_schema(book: &mut Book) {
    let endpoint = EndpointName::new(ENDPOINT).unwrap();
    for (revision, given, recorded) in [
        (1, "a schema", "a schema"),
        (1, "a schema", "a schema"),
        (2, "another", "another"),
        (1, "a third", "a schema"),
    ] {
        let found = book.store().register_endpoint(&endpoint, revision, given);
        assert_eq!(found.await.unwrap(), recorded);
    }
}

pub async fn changes_of_status_are_added_whole_and_in_order(book: &mut Book) {
    let endpoint = EndpointName::new(ENDPOINT).unwrap();
    let store = book.store();
    let other = store
        .register_version(&endpoint, "mewma", "1.0.1", &[8; 32])
        .await
        .unwrap();
    assert!(store.status_changes().await.unwrap().is_empty());
    let change = |version_id, status, why: &str| StatusChange {
        version_id,
        status,
        who: "ann\0".into(),
        why: why.into(),
    };
    let first = [
        change(book.version.id, Status::Archived, "replaced"),
        change(other, Status::Production, "better"),
    ];
    store.change_status(0, &first).await.unwrap();
    let rows = store.status_changes().await.unwrap();
    let told: Vec<_> = rows
        .iter()
        .map(|row| (row.version.as_str(), row.change.status, &*row.change.why))
        .collect();
    assert_eq!(
        told,
        [
            ("1.0.0", Status::Archived, "replaced"),
            ("1.0.1", Status::Production, "better")
        ]
    );
    assert!(rows[0].change.who.starts_with("ann") && rows[0].at > 0);
    // The answer to a change was lost: asked for again, it is not added twice.
    let again = store.change_status(0, &first).await;
    assert!(matches!(again, Err(StoreError::Moved(_))), "{again:?}");
    let newest = rows[1].id;
    let testing = [change(other, Status::Testing, "")];
    store.change_status(newest, &testing).await.unwrap();
    assert_eq!(store.status_changes().await.unwrap().len(), 3);
}

/// A device's row in the list of devices says when something of it arrived last, Unix ms.
async fn last_seen(book: &Book, pen: &Pen) -> i64 {
    let listed = book.store().devices(Some(ENDPOINT), None, 1_000).await;
    let row = listed
        .unwrap()
        .into_iter()
        .find(|row| row.key == pen.stream.key);
    let seen = row.expect("it is listed").last_seen;
    assert_eq!(book.load(pen).await.last_seen, seen);
    seen
}

pub async fn a_version_that_changes_is_no_sign_of_life_of_its_device(book: &mut Book) {
    let mut pen = book.pen("idle");
    let rows = vec![pen.opened(), pen.reading(0)];
    book.write(rows).await;
    let seen = last_seen(book, &pen).await;
    while now_ms() <= seen {
        std::hint::spin_loop();
    }
    for row in [pen.opened(), pen.reset(), pen.epoch(1)] {
        book.write(vec![row]).await;
        assert_eq!(last_seen(book, &pen).await, seen);
    }
    // Beside a row that moves no other device's time, and in one batch with something the device sent.
    let mut other = book.pen("idle-too");
    let rows = vec![pen.opened(), other.opened(), other.reading(0)];
    book.write(rows).await;
    assert_eq!(last_seen(book, &pen).await, seen);
    let refused = pen.refusal(Some(0), NackCode::BadReading, "no");
    let rows = vec![refused, pen.opened()];
    book.write(rows).await;
    assert!(last_seen(book, &pen).await > seen);
}
