use super::*;
use crate::cli::table;
use std::io::Write;

fn rows(text: &str, rate: Rate) -> Rows {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let table = table::open(file.path()).unwrap().read(&[]).unwrap();
    Rows::new(table, rate, false)
}

const THREE: &str = "ts,a\n1000,1\n1002,2\n1001,3\n";

#[test]
fn rates_are_max_real_or_a_multiple() {
    assert_eq!("max".parse(), Ok(Rate::Max));
    assert_eq!("real".parse(), Ok(Rate::Times(1.0)));
    assert_eq!("10x".parse(), Ok(Rate::Times(10.0)));
    for text in ["", "x", "0x", "-1x", "10", "infx", "fast"] {
        assert!(text.parse::<Rate>().is_err(), "{text}");
    }
}

#[test]
fn a_rate_spaces_rows_as_their_timestamps_are() {
    let mut rows = rows(THREE, "2x".parse().unwrap());
    let start = rows.due().unwrap();
    rows.take(start);
    assert_eq!(rows.due().unwrap() - start, Duration::from_secs(1));
    rows.take(start);
    assert_eq!(
        rows.due().unwrap() - start,
        Duration::from_secs(1),
        "a step back in time is no pause"
    );
    rows.take(start);
    assert_eq!(rows.due(), None);
}

#[test]
fn what_is_stored_is_skipped_and_its_ends_are_probed() {
    let mut rows = rows(THREE, Rate::Max);
    let seqs = |readings: Vec<Reading>| {
        readings
            .into_iter()
            .filter_map(|r| r.seq)
            .collect::<Vec<_>>()
    };
    assert_eq!(seqs(rows.probes(0)), [] as [u64; 0]);
    assert_eq!(seqs(rows.probes(1)), [0]);
    assert_eq!(seqs(rows.probes(2)), [0, 1]);
    assert_eq!(seqs(rows.probes(99)), [0, 2]);
    assert_eq!(rows.skip_below(2), 2);
    assert_eq!(rows.skip_below(1), 0);
    assert_eq!(rows.take(Instant::now()).unwrap().seq, Some(2));
    assert_eq!(rows.skip_below(99), 0);
}

#[test]
fn the_summary_says_a_line_each() {
    let mut tally = Tally::default();
    tally.sent = 3;
    tally.acked = 2;
    tally.nacked.insert("bad_reading", 1);
    let took = Duration::from_millis(1_500);
    let text = Summary {
        readings: 5,
        tally: &tally,
        took,
    }
    .to_string();
    let expected = "sent: 3\nalready stored: 0\npredicted: 0\nacked: 2\nnacked: 1 (bad_reading 1)\nnot settled: 2\ngaps: 0\n\
                    anomalies: 0\ncalibrating: 0\nprediction p50: -\nprediction p99: -\nwall time: 1.50 s";
    assert_eq!(text, expected);
}
