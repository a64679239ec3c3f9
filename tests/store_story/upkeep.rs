//! The chapters of what keeps a database within its bounds.

use super::book::{Book, Pen, START_MS, output, values};
use tidegate::store::Place;
use tidegate::store::rollup::{Bucket, Span};
use tidegate::store::upkeep::{Moves, RollupQuery};
use tidegate_protocol::NackCode;

/// Readings of a stream that fills more than two parts of PostgreSQL.
const MANY: u64 = 2_500;
/// Readings that a version is calibrated on.
const CALIBRATION: u32 = 40;

pub async fn refusals_and_feedback_go_by_their_own_age(book: &mut Book) {
    let mut pen = book.pen("refused-long-ago");
    let mut rows = vec![pen.opened()];
    for seq in 0..5 {
        rows.push(pen.refusal(Some(seq), NackCode::BadReading, "no"));
    }
    book.write(rows).await;
    let find = |seq| book.store().find(pen.stream.id, 0, seq);
    assert!(find(4).await.unwrap().is_some());
    assert_eq!(book.store().expire_notes(0, 1_000).await.unwrap(), 0);
    // The oldest go first, so many at a time.
    while book.store().expire_notes(i64::MAX, 2).await.unwrap() > 0 {}
    assert!(find(0).await.unwrap().is_none() && find(4).await.unwrap().is_none());
}

pub async fn failed_and_late_readings_are_no_part_of_what_is_folded_again(book: &mut Book) {
    let mut pen = book.pen("failing");
    let mut rows = vec![pen.opened()];
    rows.extend(pen.readings(0, 3));
    rows.push(pen.failed(3));
    rows.extend(pen.readings(4, 6));
    book.write(rows).await;
    let newest = book.store().newest_folded(pen.stream.id, 3).await.unwrap();
    let seqs: Vec<_> = newest.iter().map(|reading| reading.values[0]).collect();
    assert_eq!(seqs, [2.0, 4.0, 5.0]);
    assert!(newest.iter().all(|reading| reading.folded));
}

pub async fn roll_ups_add_up_and_move_their_consumer(book: &mut Book) {
    let mut pen = book.pen("rolled");
    book.write(vec![pen.opened()]).await;
    let stream = pen.stream.id;
    let store = book.store();
    let before = store.consumed("roll-ups").await.unwrap();
    let bucket = |start: i64, seqs: std::ops::Range<u64>| {
        let mut bucket = Bucket::new(stream, Span::Minute, start);
        seqs.for_each(|seq| bucket.add(&values(seq), &output(seq)));
        bucket
    };
    let (first, second) = (START_MS, START_MS + 60_000);
    let parts = [bucket(first, 0..30), bucket(second, 60..70)];
    let moves = |from, until| Moves {
        from: before + from,
        until: before + until,
    };
    // The answer to the first try is lost: the second one adds nothing.
    for _ in 0..2 {
        let moved = store.roll_up("roll-ups", moves(0, 40), &parts).await;
        moved.unwrap();
    }
    let skipped = store.roll_up("roll-ups", moves(41, 50), &parts).await;
    assert!(skipped.is_err(), "somebody else moved the offset");
    let more = [
        bucket(first, 30..60),
        Bucket {
            span: Span::Hour,
            ..bucket(first, 0..1)
        },
    ];
    let moved = store.roll_up("roll-ups", moves(40, 70), &more).await;
    moved.unwrap();
    let moved = store.roll_up("roll-ups", moves(70, 71), &[]).await;
    moved.unwrap();
    assert_eq!(store.consumed("roll-ups").await.unwrap(), before + 71);
    assert_eq!(store.consumed("nobody").await.unwrap(), 0);

    let query = RollupQuery {
        stream: pen.stream.key.clone(),
        span: Span::Minute,
        from: None,
        to: None,
        limit: 10,
    };
    let found = store.rollups(&query).await.unwrap();
    let starts: Vec<_> = found
        .iter()
        .map(|found| (found.start, found.count))
        .collect();
    assert_eq!(starts, [(first, 60), (second, 10)]);
    let whole = bucket(first, 0..60);
    assert_eq!((found[0].anomalies, found[0].failed), (30, 0));
    assert_eq!(found[0].features, whole.features);
    assert_eq!(
        (found[0].score.count, found[0].score.max),
        (60, whole.score.max)
    );
    let later = RollupQuery {
        from: Some(second),
        ..query.clone()
    };
    assert_eq!(store.rollups(&later).await.unwrap().len(), 1);
    let earlier = RollupQuery {
        to: Some(second),
        ..query.clone()
    };
    assert_eq!(store.rollups(&earlier).await.unwrap()[0].start, first);

    assert_eq!(
        store.expire_rollups(Span::Minute, START_MS).await.unwrap(),
        0
    );
    assert_eq!(
        store.expire_rollups(Span::Minute, i64::MAX).await.unwrap(),
        2
    );
    let hours = RollupQuery {
        span: Span::Hour,
        ..query
    };
    assert_eq!(store.rollups(&hours).await.unwrap().len(), 1);
}

/// Writes readings `from..to` in commits of a hundred, a snapshot behind each.
async fn fill(book: &mut Book, pen: &mut Pen, from: u64, to: u64) {
    for start in (from..to).step_by(100) {
        let mut rows = pen.readings(start, to.min(start + 100));
        let last = rows.pop().expect("a reading");
        rows.push(pen.with_snapshot(last));
        book.write(rows).await;
    }
}

/// Retires all that can go below `until`. Gives the samples that went.
async fn retire(book: &Book, until: u64) -> u64 {
    let mut gone = 0;
    while let Some(slice) = book.store().oldest(500).await.unwrap() {
        if slice.until > until {
            break;
        }
        assert!(slice.newest_arrival >= START_MS, "{slice:?}");
        gone += book.store().retire(&slice, CALIBRATION).await.unwrap();
        book.store().shrink().await.unwrap();
        let first_kept = book.store().first_kept().await.unwrap();
        assert_eq!(first_kept, slice.until);
    }
    gone
}

/// What a session needs is there: the newest snapshot, and every reading behind it.
async fn check_fold(book: &Book, pen: &Pen) -> Vec<u64> {
    let stored = book.load(pen).await;
    let snapshot = stored.snapshot.expect("a snapshot");
    let stream = pen.stream.id;
    let behind = book.store().log_after(stream, snapshot.place, 10_000).await;
    let places: Vec<u64> = behind
        .unwrap()
        .iter()
        .map(|reading| reading.place.pos)
        .collect();
    let expected: Vec<u64> = (snapshot.place.pos + 1..=stored.marks.pos).collect();
    assert_eq!(places, expected, "{}", pen.stream.key);
    places
}

pub async fn retention_keeps_what_a_fold_needs(book: &mut Book) {
    // One stream that said little and rests, with nothing but its first snapshot; one that goes on.
    let mut quiet = book.pen("quiet");
    let mut rows = vec![quiet.opened()];
    rows.extend(quiet.readings(0, 3));
    book.write(rows).await;
    let mut busy = book.pen("busy");
    book.write(vec![busy.opened()]).await;
    fill(book, &mut busy, 0, MANY).await;
    book.write(busy.readings(MANY, MANY + 7)).await;
    let first_kept = book.store().first_kept().await.unwrap();
    let stored = book.samples_of("busy").await;
    assert_eq!(stored.len() as u64, MANY + 7);
    let cut = stored[MANY as usize - 100].id;
    assert!(retire(book, cut).await > 1_000);

    let now_kept = book.store().first_kept().await.unwrap();
    assert!(now_kept > first_kept && now_kept <= cut);
    assert!(
        book.store()
            .find(busy.stream.id, 0, 5)
            .await
            .unwrap()
            .is_none()
    );
    let newest = book.store().find(busy.stream.id, 0, MANY + 3).await;
    assert!(newest.unwrap().is_some());
    assert_eq!(check_fold(book, &busy).await.len(), 7);
    assert_eq!(
        check_fold(book, &quiet).await.len(),
        3,
        "they are all it has"
    );
    assert_eq!(book.samples_of("quiet").await.len(), 3);
    let devices = book.store().devices(None, None, 1_000).await.unwrap();
    let row = devices.iter().find(|row| row.key == quiet.stream.key);
    let last = row.expect("it is listed").last.as_ref().expect("a sample");
    assert_eq!(last.seq, 2, "its newest sample is shown still");

    // Whoever calibrates later learns from the readings that the stream began with.
    let learned = book
        .store()
        .calibration(busy.stream.id, Place::default(), CALIBRATION)
        .await
        .unwrap();
    let places: Vec<u64> = learned.iter().map(|reading| reading.place.pos).collect();
    assert_eq!(places, (2..2 + u64::from(CALIBRATION)).collect::<Vec<_>>());

    // Once a later snapshot of the quiet stream is retired too, its first readings go.
    let last = quiet.reading(3);
    book.write(vec![quiet.with_snapshot(last)]).await;
    fill(book, &mut busy, MANY + 7, 2 * MANY).await;
    let stored = book.samples_of("busy").await;
    retire(book, stored[stored.len() - 100].id).await;
    assert_eq!(check_fold(book, &quiet).await.len(), 0);
    assert!(book.samples_of("quiet").await.is_empty());
    assert_eq!(check_fold(book, &busy).await.len(), 0);
    assert!(book.store().usage().await.unwrap().bytes > 100_000);
    let high = book.store().high_ids().await.unwrap().0;
    assert_eq!(
        high,
        stored.last().expect("some").id,
        "ids are never given twice"
    );
}
