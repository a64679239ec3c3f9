//! The chapters of retention and roll-ups.

use super::book::{Book, ENDPOINT, Pen, output, values};
use super::chapters::{begin, first_values, seqs};
use tidegate::store::rollup::{Bucket, Span, Stat};
use tidegate::store::upkeep::{OldSlice, RollupQuery, StoredRollup};
use tidegate::store::{Known, Place};

/// Readings of a calibration.
const CALIBRATION: u32 = 3;

fn bucket(pen: &Pen, start: i64, seqs: std::ops::Range<u64>) -> Bucket {
    let mut bucket = Bucket::new(pen.stream.id, Span::Minute, start);
    seqs.for_each(|seq| bucket.add(&values(seq)[..3], &output(seq)));
    bucket
}

async fn rollups(book: &Book, device: &str) -> Vec<StoredRollup> {
    let query = RollupQuery {
        endpoint: ENDPOINT.into(),
        device: device.into(),
        span: Span::Minute,
        from: None,
        to: None,
        limit: 100,
    };
    book.store().rollups(&query).await.expect("a read")
}

pub async fn roll_ups_of_one_bucket_add_up_and_the_offset_moves_with_them(book: &mut Book) {
    let pen = begin(book, "rolled", 6).await;
    let store = book.store();
    assert_eq!(store.consumed("story").await.unwrap(), 0);
    let first = [bucket(&pen, 0, 0..2), bucket(&pen, 60_000, 0..1)];
    store.roll_up("story", 7, &first).await.unwrap();
    store
        .roll_up("story", 9, &[bucket(&pen, 0, 2..6)])
        .await
        .unwrap();
    assert_eq!(store.consumed("story").await.unwrap(), 9);
    assert_eq!(store.consumed("another").await.unwrap(), 0);
    let found = rollups(book, "rolled").await;
    assert_eq!(
        found.iter().map(|r| (r.start, r.count)).collect::<Vec<_>>(),
        [(0, 6), (60_000, 1)]
    );
    let whole = bucket(&pen, 0, 0..6);
    assert_eq!((found[0].anomalies, found[0].failed), (whole.anomalies, 0));
    let extremes = |stat: &Stat| (stat.count, stat.min.to_bits(), stat.max.to_bits());
    assert_eq!(extremes(&found[0].score), extremes(&whole.score));
    assert_eq!(
        extremes(&found[0].features[0]),
        extremes(&whole.features[0])
    );
    assert_eq!(found[0].features.len(), 3);
    assert_eq!(store.expire_rollups(Span::Hour, i64::MAX).await.unwrap(), 0);
    assert_eq!(
        store.expire_rollups(Span::Minute, 1).await.unwrap(),
        0,
        "their age is not their time"
    );
    assert_eq!(
        store.expire_rollups(Span::Minute, i64::MAX).await.unwrap(),
        2
    );
}

/// Everything that is older than the last commit.
async fn oldest(book: &mut Book, other: &mut Pen) -> OldSlice {
    book.place.a_day_passes().await;
    book.close().await;
    book.open_again().await;
    let seq = other.marks.pos - 1;
    book.write(vec![other.reading(seq)]).await;
    book.store()
        .oldest(u32::MAX)
        .await
        .unwrap()
        .expect("samples")
}

/// What a fold and a new version find of a stream.
async fn found(book: &Book, pen: &Pen) -> (u64, Vec<u64>, Vec<u64>, Vec<u64>) {
    let (store, stream) = (book.store(), pen.stream.id);
    let snapshot = book.load(pen).await.snapshot.expect("a snapshot");
    let behind = store.log_after(stream, snapshot.place, 100).await.unwrap();
    let calibration = store
        .calibration(stream, Place::default(), CALIBRATION)
        .await
        .unwrap();
    let newest = store.newest_folded(stream, 2).await.unwrap();
    (
        snapshot.place.pos,
        first_values(&behind),
        first_values(&calibration),
        first_values(&newest),
    )
}

pub async fn retired_samples_leave_what_folds_and_calibrations_need(book: &mut Book) {
    let mut pen = begin(book, "retired", 3).await;
    let fourth = pen.reading(3);
    let fourth = pen.with_snapshot(fourth);
    let mut rows = vec![fourth];
    rows.extend(pen.readings(4, 6));
    book.write(rows).await;
    let mut young = begin(book, "young", 2).await;
    let mut other = begin(book, "other", 1).await;
    let before = found(book, &pen).await;
    let high = book.store().high_ids().await.unwrap();

    let slice = oldest(book, &mut other).await;
    let gone = book.store().retire(&slice, CALIBRATION).await.unwrap();
    assert!(gone >= 4, "{gone}");
    assert_eq!(book.store().first_kept().await.unwrap(), slice.until);
    assert_eq!(found(book, &pen).await, before);
    assert_eq!(
        found(book, &young).await.1,
        [0, 1],
        "no later snapshot: all of it stays"
    );
    let find = |seq| book.store().find(pen.stream.id, 0, seq);
    assert!(find(3).await.unwrap().is_none());
    assert!(matches!(find(4).await.unwrap(), Some(Known::Sample(_))));
    assert_eq!(seqs(&book.samples_of("retired").await), [4, 5]);
    assert!(
        book.store().high_ids().await.unwrap().0 > high.0,
        "ids are not given again"
    );

    // The stream goes on; what was left for the fold goes once a later snapshot stands.
    let mut rows = pen.readings(6, 8);
    let ninth = pen.reading(8);
    rows.push(pen.with_snapshot(ninth));
    rows.extend(pen.readings(9, 11));
    rows.extend(young.readings(2, 4));
    book.write(rows).await;
    let slice = oldest(book, &mut other).await;
    book.store().retire(&slice, CALIBRATION).await.unwrap();
    let (_, behind, calibration, newest) = found(book, &pen).await;
    assert_eq!((behind, newest), (vec![9, 10], vec![9, 10]));
    assert_eq!(calibration, [0, 1, 2]);
    assert_eq!(seqs(&book.samples_of("retired").await), [9, 10]);
    assert_eq!(found(book, &young).await.1, [0, 1, 2, 3]);
    let mut rows = pen.readings(11, 12);
    rows.extend(young.readings(4, 5));
    book.write(rows).await;
    assert_eq!(found(book, &pen).await.1, [9, 10, 11]);
    assert_eq!(found(book, &young).await.1, [0, 1, 2, 3, 4]);
}
