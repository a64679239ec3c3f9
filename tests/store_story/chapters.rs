//! The chapters that every database tells alike.

use super::book::{Book, ENDPOINT, Pen, START_MS, output, values};
use tidegate::store::{Known, LoggedReading, Place, SampleQuery, StoreError, StoredSample};
use tidegate::stream::{Flags, Row};
use tidegate_protocol::NackCode;
use tidegate_protocol::message::Label;

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn seqs(samples: &[StoredSample]) -> Vec<u64> {
    samples.iter().map(|sample| sample.seq).collect()
}

fn of(device: &str) -> SampleQuery {
    SampleQuery {
        device: Some(device.into()),
        limit: 10_000,
        ..SampleQuery::default()
    }
}

/// Opens a stream with readings `0..count`.
async fn begin(book: &mut Book, device: &str, count: u64) -> Pen {
    let mut pen = book.pen(device);
    let mut rows = vec![pen.opened()];
    rows.extend(pen.readings(0, count));
    book.write(rows).await;
    pen
}

pub async fn an_empty_store_has_given_no_ids(book: &mut Book) {
    assert_eq!(book.store().high_ids().await.unwrap(), (0, 0));
    assert!(!book.store().log_id().is_empty());
    assert!(book.samples(of("nobody")).await.is_empty());
    let everything = SampleQuery {
        limit: 10,
        newest_first: true,
        ..SampleQuery::default()
    };
    assert!(book.samples(everything).await.is_empty());
    assert!(
        book.store()
            .devices(None, None, 10)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(book.store().positions(&[1, 2]).await.unwrap().is_empty());
}

pub async fn a_new_stream_is_there_after_its_first_commit(book: &mut Book) {
    let mut pen = book.pen("new");
    assert!(
        book.store()
            .load_stream(&pen.stream.key)
            .await
            .unwrap()
            .is_none()
    );
    book.write(vec![pen.opened(), pen.reading(0)]).await;
    let stored = book.load(&pen).await;
    assert_eq!(stored.stream, *pen.stream);
    assert_eq!(stored.marks, pen.marks);
    assert!(stored.gaps.is_empty());
    assert_eq!(book.position(&pen).await, 2);
    assert_eq!(book.store().high_ids().await.unwrap(), (1, pen.stream.id));
}

pub async fn a_batch_over_several_streams_commits_whole(book: &mut Book) {
    let mut known = begin(book, "several-1", 3).await;
    let mut second = book.pen("several-2");
    let mut third = book.pen("several-3");
    // Rows of the streams interleave; one stream is new, one has no reading in it.
    let rows = vec![
        second.opened(),
        known.reading(3),
        second.reading(0),
        third.opened(),
        known.reading(4),
        second.reading(1),
    ];
    book.write(rows).await;
    for (pen, readings) in [(&known, 5), (&second, 2), (&third, 0)] {
        let device = pen.stream.key.device.as_str();
        let stored = book.samples_of(device).await;
        assert_eq!(seqs(&stored), (0..readings).collect::<Vec<_>>(), "{device}");
        assert_eq!(book.load(pen).await.marks, pen.marks, "{device}");
    }
}

/// A batch that must be refused, with nothing of it stored.
async fn moved(book: &mut Book, mut rows: Vec<Row>) {
    let refused = book.commit(&mut rows).await;
    assert!(matches!(refused, Err(StoreError::Moved(_))), "{refused:?}");
}

pub async fn a_stream_that_moved_takes_the_whole_batch_down(book: &mut Book) {
    let mut first = begin(book, "moved-1", 2).await;
    let mut second = begin(book, "moved-2", 2).await;
    let stale = second.clone();
    book.write(vec![second.reading(2)]).await;
    // What `stale` believes was overtaken: by another writer, or by its own commit whose answer was lost.
    let mut stale_again = stale.clone();
    moved(book, vec![first.clone().reading(2), stale_again.reading(2)]).await;
    moved(book, vec![stale.clone().reading(3)]).await;
    assert_eq!(seqs(&book.samples_of("moved-1").await), [0, 1]);
    assert_eq!(seqs(&book.samples_of("moved-2").await), [0, 1, 2]);
    assert_eq!(book.position(&first).await, first.marks.pos);
    // The store goes on as if nothing had happened.
    book.write(vec![first.reading(2), second.reading(3)]).await;
    assert_eq!(seqs(&book.samples_of("moved-2").await), [0, 1, 2, 3]);
}

pub async fn rows_that_do_not_follow_each_other_are_refused(book: &mut Book) {
    let mut pen = begin(book, "holes", 1).await;
    let (next, _left_out, behind) = (pen.reading(1), pen.reading(2), pen.reading(3));
    moved(book, vec![next, behind]).await;
    assert_eq!(seqs(&book.samples_of("holes").await), [0]);
}

pub async fn a_second_stream_of_the_same_device_is_refused(book: &mut Book) {
    let pen = begin(book, "twice", 1).await;
    let mut other_id = book.pen("twice");
    let mut rows = vec![other_id.opened(), other_id.reading(0)];
    let refused = book.commit(&mut rows).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(book.load(&pen).await.stream, *pen.stream);
    assert_eq!(seqs(&book.samples_of("twice").await), [0]);
}

pub async fn gaps_are_replaced_by_the_newest_list(book: &mut Book) {
    let mut pen = begin(book, "gaps", 1).await;
    let skipped = Row {
        gaps: Some(vec![(1, 4)]),
        ..pen.reading(5)
    };
    let more = Row {
        gaps: Some(vec![(1, 4), (6, 8)]),
        ..pen.reading(9)
    };
    book.write(vec![skipped, more]).await;
    assert_eq!(book.load(&pen).await.gaps, [(1, 4), (6, 8)]);
    let late = Row {
        gaps: Some(vec![(1, 1), (3, 4), (6, 8)]),
        ..pen.late(2)
    };
    book.write(vec![late]).await;
    let stored = book.load(&pen).await;
    assert_eq!(stored.gaps, [(1, 1), (3, 4), (6, 8)]);
    assert_eq!(stored.marks.high_water, Some(9));
    let late = &book.samples_of("gaps").await[3];
    assert!(late.flags.has(Flags::LATE), "{late:?}");
}

pub async fn a_new_epoch_counts_anew(book: &mut Book) {
    let mut pen = begin(book, "epochs", 2).await;
    let skipped = Row {
        gaps: Some(vec![(2, 4)]),
        ..pen.reading(5)
    };
    book.write(vec![skipped]).await;
    book.write(vec![pen.epoch(3), pen.reading(0), pen.reading(1)])
        .await;
    let stored = book.load(&pen).await;
    assert_eq!(stored.marks, pen.marks);
    assert_eq!((stored.marks.epoch, stored.marks.high_water), (3, Some(1)));
    assert!(stored.gaps.is_empty(), "those of the epoch before are over");
    let of_epoch = |epoch| SampleQuery {
        epoch: Some(epoch),
        ..of("epochs")
    };
    assert_eq!(seqs(&book.samples(of_epoch(0)).await), [0, 1, 5]);
    assert_eq!(seqs(&book.samples(of_epoch(3)).await), [0, 1]);
}

pub async fn refusals_are_found_by_the_number_they_consumed(book: &mut Book) {
    let mut pen = begin(book, "refusals", 1).await;
    let rows = vec![
        pen.refusal(Some(1), NackCode::OutOfRange, "temperature: 900"),
        pen.refusal(None, NackCode::BadReading, "no JSON"),
        pen.reading(2),
    ];
    book.write(rows).await;
    let stream = pen.stream.id;
    match book.store().find(stream, 0, 1).await.unwrap() {
        Some(Known::Refusal(refusal)) => {
            assert_eq!(refusal.code, NackCode::OutOfRange);
            assert_eq!(refusal.message, "temperature: 900");
            assert_eq!((refusal.epoch, refusal.seq), (0, Some(1)));
        }
        other => panic!("{other:?}"),
    }
    assert!(book.store().find(stream, 0, 3).await.unwrap().is_none());
    assert!(book.store().find(stream, 1, 1).await.unwrap().is_none());
}

/// A peer's texts reach the store as they are; one that a database cannot hold must not stop the stream.
pub async fn texts_of_any_kind_are_stored(book: &mut Book) {
    let mut pen = begin(book, "texts", 1).await;
    let strange = "naïve\u{0}\u{1f4a1}'\"\\";
    let rows = vec![
        pen.feedback(0, Label::Text(strange.into())),
        pen.feedback(0, Label::Number(f32::MIN_POSITIVE)),
        pen.refusal(Some(1), NackCode::BadReading, strange),
    ];
    book.write(rows).await;
    match book.store().find(pen.stream.id, 0, 1).await.unwrap() {
        Some(Known::Refusal(refusal)) => {
            let shown = refusal.message.replace(['\0', '\u{fffd}'], "");
            assert_eq!(shown, strange.replace('\0', ""));
        }
        other => panic!("{other:?}"),
    }
}

pub async fn a_number_is_found_with_every_bit_of_its_sample(book: &mut Book) {
    let pen = begin(book, "found", 8).await;
    match book.store().find(pen.stream.id, 0, 5).await.unwrap() {
        Some(Known::Sample(sample)) => {
            assert_eq!((sample.epoch, sample.seq), (0, 5));
            assert_eq!(sample.ts, START_MS + 5_000);
            assert_eq!(bits(&sample.values), bits(&values(5)));
            assert_eq!(sample.output, output(5));
            assert_eq!(
                (sample.endpoint.as_str(), sample.device.as_str()),
                (ENDPOINT, "found")
            );
            assert_eq!(
                (sample.model.as_str(), sample.version.as_str()),
                ("mewma", "1.0.0")
            );
            assert_eq!(
                (sample.latency_us, sample.flags),
                (u32::MAX, Flags::TS_SENT)
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(
        book.store()
            .find(pen.stream.id, 0, 8)
            .await
            .unwrap()
            .is_none()
    );
}

pub async fn the_newest_snapshot_comes_back_with_the_readings_behind_it(book: &mut Book) {
    let mut pen = begin(book, "snapshots", 3).await;
    let fourth = pen.reading(3);
    let fourth = pen.with_snapshot(fourth);
    let other = begin(book, "snapshots-other", 2).await;
    book.write(vec![fourth]).await;
    let mut rows = pen.readings(4, 7);
    rows.push(pen.late(9));
    rows.extend(pen.readings(7, 9));
    book.write(rows).await;

    let stored = book.load(&pen).await;
    let snapshot = stored.snapshot.expect("a snapshot");
    assert_eq!(snapshot.place.pos, 5, "opened, then four readings");
    assert_eq!(bits(&snapshot.state), [5_f32.to_bits(), 0x7fc0_0001]);
    assert_eq!(snapshot.version_id, book.version.id);
    assert_eq!(
        (snapshot.layout.as_str(), snapshot.numerics_rev),
        ("mean:2", 1)
    );
    assert_eq!(snapshot.last_ts, Some(START_MS + 3_000));

    let stream = pen.stream.id;
    let behind = book
        .store()
        .log_after(stream, snapshot.place, 100)
        .await
        .unwrap();
    let marks: Vec<_> = behind
        .iter()
        .map(|reading| (reading.place.pos, reading.folded))
        .collect();
    assert_eq!(
        marks,
        [
            (6, true),
            (7, true),
            (8, true),
            (9, false),
            (10, true),
            (11, true)
        ]
    );
    assert_eq!(bits(&behind[0].values), bits(&values(4)));
    assert_eq!(behind[0].ts, START_MS + 4_000);
    // In slices, from wherever the last one ended.
    let slice = book.store().log_after(stream, behind[1].place, 2).await;
    let slice = slice.unwrap();
    assert_eq!(places(&slice), [8, 9]);
    let all = book.store().log_after(stream, Place::default(), 100).await;
    assert_eq!(all.unwrap().len(), 10);
    let end = behind.last().unwrap().place;
    let none = book.store().log_after(stream, end, 100).await.unwrap();
    assert!(none.is_empty());
    let other = book.load(&other).await.snapshot.expect("its own");
    assert_eq!(other.place.pos, 1);
}

fn places(readings: &[LoggedReading]) -> Vec<u64> {
    let places = readings.iter().map(|reading| reading.place.pos);
    places.collect()
}

pub async fn readings_are_counted_from_a_reset(book: &mut Book) {
    let mut pen = begin(book, "resets", 4).await;
    let stream = pen.stream.id;
    let none = book.store().last_reset(stream).await.unwrap();
    assert_eq!(none, Place::default());
    let mut rows = vec![pen.reset()];
    rows.extend(pen.readings(4, 6));
    rows.push(pen.late(9));
    rows.extend(pen.readings(6, 8));
    book.write(rows).await;
    let store = book.store();
    let reset = store.last_reset(stream).await.unwrap();
    assert_eq!(reset.pos, 6);
    let learned = store.calibration(stream, reset, 3).await.unwrap();
    assert_eq!(places(&learned), [7, 8, 10], "the late one was not folded");
    let learned = store.calibration(stream, reset, 9).await.unwrap();
    assert_eq!(places(&learned), [7, 8, 10, 11]);
    let from_the_start = store.calibration(stream, Place::default(), 1).await;
    assert_eq!(places(&from_the_start.unwrap()), [2]);
    let newest = store.newest_folded(stream, 3).await.unwrap();
    assert_eq!(places(&newest), [8, 10, 11]);
    let newest = store.newest_folded(stream, 100).await.unwrap();
    assert_eq!(newest.len(), 8);
}

pub async fn every_filter_of_samples_holds(book: &mut Book) {
    let mut here = begin(book, "filtered", 6).await;
    let mut there = book.pen_at("motor-health", "filtered", 0);
    let mut rows = vec![there.opened()];
    rows.extend(there.readings(10, 13));
    rows.push(here.epoch(1));
    rows.push(here.reading(0));
    book.write(rows).await;

    let filtered = |change: &dyn Fn(&mut SampleQuery)| {
        let mut query = of("filtered");
        change(&mut query);
        query
    };
    type Case<'a> = (&'a str, &'a dyn Fn(&mut SampleQuery), Vec<u64>);
    let cases: [Case<'_>; 7] = [
        ("device", &|_| {}, vec![0, 1, 2, 3, 4, 5, 10, 11, 12, 0]),
        (
            "endpoint",
            &|query| query.endpoint = Some("motor-health".into()),
            vec![10, 11, 12],
        ),
        ("epoch", &|query| query.epoch = Some(1), vec![0]),
        (
            "from",
            &|query| query.from = Some(START_MS + 5_000),
            vec![5, 10, 11, 12],
        ),
        (
            "to",
            &|query| query.to = Some(START_MS + 2_000),
            vec![0, 1, 0],
        ),
        (
            "newest first",
            &|query| query.newest_first = true,
            vec![0, 12, 11, 10, 5, 4, 3, 2, 1, 0],
        ),
        ("limit", &|query| query.limit = 2, vec![0, 1]),
    ];
    for (name, change, expected) in cases {
        let found = book.samples(filtered(change)).await;
        assert_eq!(seqs(&found), expected, "{name}");
    }
    let endpoint_alone = SampleQuery {
        device: None,
        endpoint: Some("motor-health".into()),
        ..of("")
    };
    assert_eq!(seqs(&book.samples(endpoint_alone).await), [10, 11, 12]);
}

pub async fn pages_of_samples_are_whole_in_both_directions(book: &mut Book) {
    let pen = begin(book, "paged", 25).await;
    let all: Vec<u64> = book
        .samples_of("paged")
        .await
        .iter()
        .map(|sample| sample.id)
        .collect();
    assert_eq!(all.len(), 25);
    for device in [Some("paged"), None] {
        for newest_first in [false, true] {
            let mut found = Vec::new();
            let mut query = SampleQuery {
                device: device.map(Into::into),
                cursor: Some(if newest_first {
                    all[24] + 1
                } else {
                    all[0] - 1
                }),
                until: Some(all[24]),
                newest_first,
                limit: 7,
                ..SampleQuery::default()
            };
            while found.len() < 25 {
                let page = book.samples(query.clone()).await;
                assert!(!page.is_empty(), "the pages end early");
                query.cursor = page.last().map(|sample| sample.id);
                found.extend(page.iter().map(|sample| sample.id));
            }
            if newest_first {
                found.reverse();
            }
            // Without a device the last page reaches into what was stored before.
            let wanted: Vec<_> = found.into_iter().filter(|id| all.contains(id)).collect();
            assert_eq!(wanted, all, "{device:?} {newest_first}");
        }
    }
    let until = SampleQuery {
        until: Some(all[3]),
        ..of("paged")
    };
    assert_eq!(seqs(&book.samples(until).await), [0, 1, 2, 3]);
    assert_eq!(book.position(&pen).await, 26);
}

pub async fn devices_come_page_by_page_with_their_newest_sample(book: &mut Book) {
    let endpoint = "z-devices";
    for (device, readings) in [("b", 2), ("A", 3), ("a", 0), ("a-1", 1)] {
        let mut pen = book.pen_at(endpoint, device, 0);
        let mut rows = vec![pen.opened()];
        rows.extend(pen.readings(0, readings));
        book.write(rows).await;
    }
    let mut found = Vec::new();
    let mut cursor = None;
    loop {
        let page = book
            .store()
            .devices(Some(endpoint), cursor.as_ref(), 3)
            .await
            .unwrap();
        let Some(last) = page.last() else { break };
        cursor = Some(last.key.clone());
        found.extend(page);
    }
    let rows: Vec<_> = found
        .iter()
        .map(|row| {
            (
                row.key.device.as_str(),
                row.samples,
                row.high_water,
                row.last.as_ref().map(|last| last.seq),
            )
        })
        .collect();
    // In the order of their bytes, whatever the locale.
    let expected = [
        ("A", 3, Some(2), Some(2)),
        ("a", 0, None, None),
        ("a-1", 1, Some(0), Some(0)),
        ("b", 2, Some(1), Some(1)),
    ];
    assert_eq!(rows, expected);
    assert!(found.iter().all(|row| row.last_seen > START_MS));
    let all = book.store().devices(None, None, 1_000).await.unwrap();
    assert!(all.len() > found.len());
}

pub async fn an_import_is_a_stream_of_its_own(book: &mut Book) {
    let mut live = begin(book, "imported", 2).await;
    let mut import = book.pen_at(ENDPOINT, "imported", 77);
    let mut rows = vec![import.opened()];
    rows.extend(import.readings(0, 3));
    rows.push(live.reading(2));
    book.write(rows).await;
    assert_eq!(book.load(&import).await.marks.epoch, 77);
    assert_eq!(book.load(&live).await.marks, live.marks);
    assert_eq!(seqs(&book.samples_of("imported").await), [0, 1, 0, 1, 2, 2]);
    for device in [Some("imported".into()), None] {
        let live_only = SampleQuery {
            device,
            live_only: true,
            newest_first: true,
            limit: 3,
            ..SampleQuery::default()
        };
        assert_eq!(seqs(&book.samples(live_only).await), [2, 1, 0]);
    }
    let devices = book
        .store()
        .devices(Some(ENDPOINT), None, 1_000)
        .await
        .unwrap();
    let rows = devices
        .iter()
        .filter(|row| row.key.device.as_str() == "imported");
    assert_eq!(rows.map(|row| row.samples).collect::<Vec<_>>(), [3]);
}

pub async fn a_second_server_is_refused(book: &mut Book) {
    let refused = book.place.refusal().await;
    assert!(
        refused.contains("in use by another tidegate server"),
        "{refused}"
    );
    begin(book, "still-works", 1).await;
}

pub async fn everything_is_there_after_it_was_opened_again(book: &mut Book) {
    let pen = begin(book, "reopened", 5).await;
    let log = book.store().log_id().to_owned();
    let high = book.store().high_ids().await.unwrap();
    book.close().await;
    book.open_again().await;
    assert_eq!(book.store().log_id(), log);
    assert_eq!(book.store().high_ids().await.unwrap(), high);
    assert_eq!(seqs(&book.samples_of("reopened").await), [0, 1, 2, 3, 4]);
    assert_eq!(book.load(&pen).await.marks, pen.marks);
    let mut pen = pen;
    book.write(vec![pen.reading(5)]).await;
    assert_eq!(book.position(&pen).await, 7);
}

pub async fn a_newer_schema_is_refused_with_both_versions_named(book: &mut Book) {
    book.close().await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         SELECT 9001, 'later', success, checksum, 0 FROM _sqlx_migrations WHERE version = 1";
    book.place.tamper(newer).await;
    let refused = book.place.refusal().await;
    assert!(refused.contains("9001"), "{refused}");
    assert!(refused.contains("this build knows up to"), "{refused}");
    book.place
        .tamper("DELETE FROM _sqlx_migrations WHERE version = 9001")
        .await;
    book.open_again().await;
}
