//! The chapter of the log read whole: streams, slices of samples, turns and snapshots, spans of ids.

use super::book::{Book, Pen, START_MS, output, values};
use tidegate::store::history::{
    History, Imports, LoggedSample, LoggedStream, SampleFilter, StreamFilter, Turned, all_streams,
};
use tidegate::store::{Place, StoredSnapshot};
use tidegate::stream::{Flags, Row};
use tidegate_protocol::NackCode;
use tidegate_protocol::codec::encode_output;

/// An endpoint that no other chapter writes to.
const ENDPOINT: &str = "history";

/// A stream with every kind of row: twelve samples, a reset before the seventh, an epoch before the tenth.
fn write_long(pen: &mut Pen) -> Vec<Row> {
    let mut rows = vec![pen.opened()];
    rows.extend(pen.readings(0, 6));
    let sixth = rows.pop().expect("a reading");
    rows.push(pen.with_snapshot(sixth));
    rows.push(pen.refusal(Some(6), NackCode::BadReading, "no"));
    rows.push(pen.reset());
    rows.extend(pen.readings(7, 9));
    rows.push(pen.late(100));
    rows.push(pen.epoch(4));
    rows.extend(pen.readings(0, 3));
    rows
}

fn filter(imports: Imports) -> StreamFilter {
    StreamFilter {
        endpoint: Some(ENDPOINT.into()),
        device: None,
        imports,
    }
}

async fn listed(history: &dyn History, filter: &StreamFilter) -> Vec<(String, u64)> {
    let streams = all_streams(history, filter).await.expect("a read");
    let name = |stream: &LoggedStream| {
        let key = &stream.stream.key;
        (key.device.to_string(), key.import)
    };
    streams.iter().map(name).collect()
}

/// Every sample behind a place, in slices of five.
async fn slices(history: &dyn History, pen: &Pen) -> Vec<LoggedSample> {
    let mut samples: Vec<LoggedSample> = Vec::new();
    loop {
        let place = samples.last().map_or(Place::default(), |last| Place {
            pos: last.pos,
            sample_id: last.id,
        });
        let slice = history.samples_after(pen.stream.id, place, 5).await;
        let slice = slice.expect("a read");
        if slice.is_empty() {
            return samples;
        }
        assert!(slice.len() <= 5);
        samples.extend(slice);
    }
}

pub async fn the_log_is_read_whole_slice_by_slice(book: &mut Book) {
    let (mut long, mut import, mut short) = (
        book.pen_at(ENDPOINT, "long", 0),
        book.pen_at(ENDPOINT, "long", 9),
        book.pen_at(ENDPOINT, "short", 0),
    );
    let rows = write_long(&mut long);
    let expected: Vec<(u64, u64, u64)> = vec![
        (2, 0, 0),
        (3, 0, 1),
        (4, 0, 2),
        (5, 0, 3),
        (6, 0, 4),
        (7, 0, 5),
        (10, 0, 7),
        (11, 0, 8),
        (12, 0, 100),
        (14, 4, 0),
        (15, 4, 1),
        (16, 4, 2),
    ];
    book.write(rows).await;
    for pen in [&mut import, &mut short] {
        let mut rows = vec![pen.opened()];
        rows.extend(pen.readings(0, 2));
        book.write(rows).await;
    }
    let history = book.store().history();

    let all = [("long".into(), 0), ("long".into(), 9), ("short".into(), 0)];
    assert_eq!(listed(history, &filter(Imports::With)).await, all);
    assert_eq!(listed(history, &filter(Imports::Only)).await, all[1..2]);
    let live = [all[0].clone(), all[2].clone()];
    assert_eq!(listed(history, &filter(Imports::Without)).await, live);
    let behind = history
        .streams(&filter(Imports::With), Some(&long.stream.key), 1)
        .await;
    let behind = behind.expect("a read");
    assert_eq!(behind[0].stream, *import.stream);
    assert_eq!((behind[0].pos, behind[0].samples), (3, 2));

    let samples = slices(history, &long).await;
    let places: Vec<_> = samples.iter().map(|s| (s.pos, s.epoch, s.seq)).collect();
    assert_eq!(places, expected);
    check_bits(&samples[5], &book.version);
    assert!(samples[8].flags.has(Flags::LATE));
    let kept = history.kept(long.stream.id).await.expect("a read");
    let first = Place {
        pos: 2,
        sample_id: samples[0].id,
    };
    assert_eq!((kept.count, kept.first), (12, Some(first)));
    let none = history.kept(i64::MAX).await.expect("a read");
    assert_eq!((none.count, none.first), (0, None));

    check_turns_and_snapshots(history, &long, book.version.id).await;
    check_spans(history, &samples).await;
    let versions = history.versions().await.expect("a read");
    let found = versions
        .iter()
        .find(|version| version.id == book.version.id);
    let found = found.expect("it is recorded");
    assert_eq!(
        (found.model.as_str(), found.hash.as_slice()),
        ("mewma", &[7; 32][..])
    );
}

fn check_bits(sample: &LoggedSample, version: &tidegate::stream::VersionRef) {
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&sample.values), bits(&values(5)));
    let mut bytes = Vec::new();
    encode_output(&output(5), &mut bytes);
    assert_eq!(sample.output, bytes);
    assert_eq!((sample.version_id, sample.numerics_rev), (version.id, 1));
    assert_eq!((sample.ts, sample.latency_us), (START_MS + 5_000, u32::MAX));
}

async fn check_turns_and_snapshots(history: &dyn History, pen: &Pen, version: i64) {
    let id = pen.stream.id;
    let turns = history.turns(id, 0, 100, 10).await.expect("a read");
    let said: Vec<_> = turns.iter().map(|turn| (turn.pos, turn.what)).collect();
    let expected = [
        (1, Turned::Switch(version)),
        (9, Turned::Reset),
        (13, Turned::Epoch),
    ];
    assert_eq!(said, expected);
    assert_eq!(
        history.turns(id, 1, 9, 10).await.expect("a read"),
        turns[1..2]
    );
    assert_eq!(
        history.turns(id, 0, 100, 2).await.expect("a read"),
        turns[..2]
    );

    let places = |list: Vec<StoredSnapshot>| list.iter().map(|s| s.place.pos).collect::<Vec<_>>();
    let snapshots = history.snapshots(id, 0, 100, 10).await.expect("a read");
    assert_eq!(snapshots[1].state[0], 7.0);
    assert_eq!(snapshots[1].state[1].to_bits(), 0x7fc0_0001);
    assert_eq!(places(snapshots), [1, 7, 9]);
    let some = history.snapshots(id, 1, 8, 10).await.expect("a read");
    assert_eq!(places(some), [7]);
    let first = history.snapshots(id, 0, 100, 1).await.expect("a read");
    assert_eq!(places(first), [1]);
}

/// Samples by spans of ids, as an export reads them; the streams of this chapter have the newest ids.
async fn check_spans(history: &dyn History, long: &[LoggedSample]) {
    let (lowest, highest) = history
        .sample_ids()
        .await
        .expect("a read")
        .expect("samples");
    let before = long[0].id - 1;
    assert!(lowest <= before + 1 && highest == before + 16);
    let all = SampleFilter {
        streams: filter(Imports::With),
        ..SampleFilter::default()
    };
    let count = async |filter: SampleFilter, after: u64, until: u64| {
        let found = history.samples_between(&filter, after, until).await;
        let found = found.expect("a read");
        assert!(found.is_sorted_by_key(|sample| sample.id));
        found.len()
    };
    let whole = history
        .samples_between(&all, 0, highest)
        .await
        .expect("a read");
    let ids = |samples: &[LoggedSample]| samples.iter().map(|s| s.id).collect::<Vec<_>>();
    assert_eq!(ids(&whole[..12]), ids(long));
    assert_eq!(count(all.clone(), before, highest).await, 16);
    assert_eq!(count(all.clone(), before + 10, before + 14).await, 4);
    assert_eq!(count(all.clone(), highest, highest + 100).await, 0);
    let of = |device: &str, imports| SampleFilter {
        streams: StreamFilter {
            device: Some(device.into()),
            ..filter(imports)
        },
        ..SampleFilter::default()
    };
    assert_eq!(count(of("long", Imports::With), 0, highest).await, 14);
    assert_eq!(count(of("long", Imports::Without), 0, highest).await, 12);
    assert_eq!(count(of("short", Imports::Only), 0, highest).await, 0);
    let narrow = SampleFilter {
        epoch: Some(0),
        from: Some(START_MS + 1_000),
        to: Some(START_MS + 8_000),
        ..of("long", Imports::With)
    };
    // Readings 1 to 5 and 7; the late one was measured before.
    assert_eq!(count(narrow, 0, highest).await, 6);
}
