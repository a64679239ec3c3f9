//! The chapters of experiments: what was declared, who is in which arm, and what their analysis reads.

use super::book::{Book, ENDPOINT};
use std::sync::Arc;
use tidegate::store::{NewExperiment, Note, StateChange, StoreError};
use tidegate::stream::{ArmRef, Row, What};
use tidegate_protocol::NackCode;
use tidegate_protocol::message::Label;

fn note(what: &str) -> Note {
    Note {
        who: "ann".into(),
        what: what.into(),
        evidence: "because".into(),
    }
}

fn declared(name: &str) -> NewExperiment {
    NewExperiment {
        name: name.into(),
        endpoint: ENDPOINT.into(),
        definition: "{}".into(),
    }
}

pub async fn a_change_of_an_experiment_is_a_row_of_its_history(book: &mut Book) {
    let store = book.store();
    let new = declared("one");
    store
        .create_experiment(&new, &note("created"))
        .await
        .unwrap();
    let again = store.create_experiment(&new, &note("created")).await;
    assert!(matches!(again, Err(StoreError::Moved(_))), "{again:?}");
    let row = store.experiments().await.unwrap().pop().expect("a row");
    assert_eq!((&row.declared, &*row.state, row.step), (&new, "running", 0));
    let change = |from, to, step| StateChange {
        id: row.id,
        from,
        to,
        step,
    };
    let step = change("running", "running", 2);
    store
        .change_experiment(step, &note("step 2"))
        .await
        .unwrap();
    let stop = change("running", "stopped", 2);
    store
        .change_experiment(stop, &note("stopped"))
        .await
        .unwrap();
    let lost = store.change_experiment(stop, &note("stopped")).await;
    assert!(matches!(lost, Err(StoreError::Moved(_))), "{lost:?}");
    let history = store.experiment_history(row.id).await.unwrap();
    let told: Vec<_> = history.iter().map(|row| &*row.note.what).collect();
    assert_eq!(told, ["created", "step 2", "stopped"]);
    assert!(
        history
            .iter()
            .all(|row| row.note == note(&row.note.what) && row.at > 0)
    );
    let row = store.experiments().await.unwrap().pop().expect("a row");
    assert_eq!((&*row.state, row.step), ("stopped", 2));
}

/// The row, in an arm.
fn in_arm(mut row: Row, arm: &Arc<ArmRef>) -> Row {
    match &mut row.what {
        What::Switch { arm: place, .. } => *place = Some(Arc::clone(arm)),
        What::Sample(sample) => Arc::make_mut(sample).arm = Some(Arc::clone(arm)),
        other => panic!("{other:?}"),
    }
    row
}

pub async fn an_arm_is_stored_with_the_switch_and_every_sample(book: &mut Book) {
    let mut pen = book.pen("armed");
    let arm = |index: u8, at| {
        Arc::new(ArmRef {
            experiment: 77,
            label: format!("one/arm-{index}").into(),
            arm: index,
            bucket: 4_711,
            propensity: 0.25,
            at,
        })
    };
    let first = arm(0, 1_000);
    let rows = vec![
        in_arm(pen.opened(), &first),
        in_arm(pen.reading(0), &first),
        in_arm(pen.opened(), &arm(0, 2_000)),
        in_arm(pen.opened(), &arm(1, 3_000)),
        in_arm(pen.reading(1), &arm(1, 3_000)),
        pen.reading(2),
    ];
    book.write(rows).await;
    let samples = book.samples_of("armed").await;
    let arms: Vec<_> = samples.iter().map(|sample| sample.arm.as_deref()).collect();
    assert_eq!(arms, [Some("one/arm-0"), Some("one/arm-1"), None]);
    let switches = book.store().switches(pen.stream.id, 1).await.unwrap();
    assert_eq!(switches[0].arm.as_deref(), Some("one/arm-1"));
    let assigned = book.store().assignments(77, "", 10).await.unwrap();
    let told: Vec<_> = assigned
        .iter()
        .map(|row| (&*row.device, row.arm, row.bucket, row.propensity, row.at))
        .collect();
    // The first time counts.
    assert_eq!(
        told,
        [
            ("armed", 0, 4_711, 0.25, 1_000),
            ("armed", 1, 4_711, 0.25, 3_000)
        ]
    );
    assert!(
        book.store()
            .assignments(77, "armed", 10)
            .await
            .unwrap()
            .is_empty()
    );
    let devices = book
        .store()
        .devices(Some(ENDPOINT), None, 1_000)
        .await
        .unwrap();
    let row = devices.into_iter().find(|row| row.key == pen.stream.key);
    let last = row.expect("it is listed").last.expect("a sample");
    assert_eq!((last.seq, last.arm), (2, None));
}

pub async fn feedback_comes_in_its_order_with_what_it_corrects(book: &mut Book) {
    book.store()
        .create_experiment(&declared("feedback"), &note("created"))
        .await
        .unwrap();
    let row = book
        .store()
        .experiments()
        .await
        .unwrap()
        .pop()
        .expect("a row");
    let mut pen = book.pen("taught");
    let mut other = book.pen_at("elsewhere", "taught", 0);
    let rows = vec![
        pen.opened(),
        pen.reading(0),
        pen.reading(1),
        pen.feedback(0, Label::Text("normal".into())),
        pen.feedback(1, Label::Number(1.5)),
        pen.feedback(0, Label::Text("worn".into())),
        pen.refusal(Some(2), NackCode::BadReading, "no"),
        other.opened(),
        other.reading(0),
        other.feedback(0, Label::Number(0.0)),
    ];
    book.write(rows).await;
    let found = book
        .store()
        .feedback_after(ENDPOINT, row.first_feedback, 10)
        .await
        .unwrap();
    let told: Vec<_> = found
        .iter()
        .map(|row| (row.seq, row.label.clone(), row.before.clone()))
        .collect();
    let normal = Label::Text("normal".into());
    assert_eq!(
        told,
        [
            (0, normal.clone(), None),
            (1, Label::Number(1.5), None),
            (0, Label::Text("worn".into()), Some(normal)),
        ]
    );
    assert!(
        found
            .iter()
            .all(|row| row.stream == pen.stream.id && row.at > 0)
    );
    let rest = book
        .store()
        .feedback_after(ENDPOINT, found[1].id, 10)
        .await
        .unwrap();
    assert_eq!(rest, found[2..]);
    let refused = book
        .store()
        .refusals_after(ENDPOINT, row.first_refusal, 10)
        .await
        .unwrap();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].stream, pen.stream.id);
    assert!(row.first_sample > 0);
}
