//! Samples written out: every value reads back with its bits, and a file is whole or not there.

use super::{EVENTFUL, over, record_eventful_run};
use crate::common::http::samples;
use crate::common::{Process, TestServer, bits, reading, rig, within};
use std::path::Path;
use tidegate_protocol::{Output, Sample};
use tokio::io::{AsyncBufReadExt, BufReader};

/// What the API says of each row, as an export has to say it.
fn check(row: &csv::StringRecord, names: &csv::StringRecord, sample: &Sample, features: &[String]) {
    let cell = |name: &str| {
        let column = names.iter().position(|known| known == name);
        &row[column.unwrap_or_else(|| panic!("no column {name}"))]
    };
    assert_eq!(cell("id"), sample.id.to_string());
    assert_eq!(cell("device"), sample.device);
    assert_eq!(
        (cell("epoch"), cell("seq")),
        (&*sample.epoch.to_string(), &*sample.seq.to_string())
    );
    assert_eq!(cell("ts"), sample.ts.to_string());
    assert_eq!(cell("received_at"), sample.received_at.to_string());
    for (feature, value) in features.iter().zip(&sample.values) {
        let read = match cell(feature) {
            "" => tidegate_protocol::MISSING,
            text => text.parse().unwrap(),
        };
        assert_eq!(
            read.to_bits(),
            value.to_bits(),
            "{feature} of {}",
            sample.id
        );
    }
    let output: Output = serde_json::from_str(cell("output")).unwrap();
    assert_eq!(bits(&output), bits(&sample.output), "{}", sample.id);
    let score = match &sample.output {
        Output::Anomaly { score, .. } => score.to_string(),
        _ => String::new(),
    };
    assert_eq!(cell("score"), score);
    let late = sample.flags.iter().any(|flag| flag == "late");
    assert_eq!(cell("skipped"), if late { "late" } else { "" });
    assert_eq!(
        (cell("model"), cell("flags")),
        (&*sample.model, &*sample.flags.join("|"))
    );
}

#[tokio::test]
async fn a_csv_file_reads_back_as_what_is_stored_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    record_eventful_run(dir.path()).await;
    let server = Process::serve(dir.path(), &[]).await;
    let file = dir.path().join("out.csv");
    let more = ["--format", "csv", "--out", file.to_str().unwrap()];
    let said = over("export", dir.path(), &more).await;
    assert_eq!((said.code, &*said.out), (0, ""), "{said:?}");
    let mut stored = samples(server.addr(), "rig-1").await;
    stored.extend(samples(server.addr(), "rig-2").await);
    stored.sort_by_key(|sample| sample.id);
    let mut reader = csv::Reader::from_path(&file).unwrap();
    let names = reader.headers().unwrap().clone();
    let features: Vec<String> = names.iter().skip(7).take(8).map(str::to_owned).collect();
    let rows: Vec<_> = reader.records().map(Result::unwrap).collect();
    assert_eq!((rows.len(), rows.len() as u64), (stored.len(), EVENTFUL));
    for (row, sample) in rows.iter().zip(&stored) {
        check(row, &names, sample, &features);
    }
}

#[tokio::test]
async fn json_lines_and_filters_say_the_same_rows() {
    let dir = tempfile::tempdir().unwrap();
    record_eventful_run(dir.path()).await;
    let more = [
        "--format", "jsonl", "--out", "-", "--device", "rig-1", "--epoch", "4",
    ];
    let said = over("export", dir.path(), &more).await;
    let rows: Vec<serde_json::Value> = said
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.len(), 5, "{said:?}");
    for (seq, row) in rows.iter().enumerate() {
        assert_eq!((&row["seq"], &row["epoch"]), (&seq.into(), &4.into()));
        assert!(row["output"]["calibrating"]["seen"].is_u64(), "{row}");
        assert!(
            row["score"].is_null() && row["voltage"].is_number(),
            "{row}"
        );
    }
}

#[tokio::test]
async fn a_parquet_file_has_every_row_and_column() {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    let dir = tempfile::tempdir().unwrap();
    record_eventful_run(dir.path()).await;
    let file = dir.path().join("out.parquet");
    let more = ["--format", "parquet", "--out", file.to_str().unwrap()];
    let said = over("export", dir.path(), &more).await;
    assert_eq!(said.code, 0, "{said:?}");
    let reader = SerializedFileReader::new(std::fs::File::open(&file).unwrap()).unwrap();
    let about = reader.metadata().file_metadata();
    assert_eq!(about.num_rows(), EVENTFUL as i64);
    let names: Vec<String> = about
        .schema()
        .get_fields()
        .iter()
        .map(|field| field.name().to_owned())
        .collect();
    assert_eq!(names.len(), 30);
    let csv = over("export", dir.path(), &["--format", "csv", "--out", "-"]).await;
    assert_eq!(names.join(","), csv.out.lines().next().unwrap());
    let to_stdout = over("export", dir.path(), &["--format", "parquet", "--out", "-"]).await;
    assert!(
        to_stdout.code == 1 && to_stdout.err.contains("name a file"),
        "{to_stdout:?}"
    );
}

#[tokio::test]
async fn a_range_with_nothing_in_it_has_an_exit_code_and_no_file() {
    let server = TestServer::start().await;
    let dir = server.data_dir();
    let out = dir.join("out.csv");
    let export = async |more: &[&str]| {
        let mut all = vec!["--format", "csv", "--out", out.to_str().unwrap()];
        all.extend(more);
        over("export", &dir, &all).await
    };
    let said = export(&[]).await;
    assert_eq!((said.code, said.err.lines().count()), (3, 1), "{said:?}");
    let mut device = server.device("rig-1").await;
    device.read(reading(0, &rig(1, 1)[0])).await;
    device.ack(0).await;
    for nothing in [
        &["--device", "rig-9"][..],
        &["--from", "2030-01-01T00:00:00Z"],
        &["--epoch", "7"],
        &["--imports", "only"],
    ] {
        let said = export(nothing).await;
        assert_eq!(said.code, 3, "{said:?}");
        assert!(said.err.contains("no stored reading"), "{said:?}");
        assert!(left(&dir).is_empty(), "{:?}", left(&dir));
    }
    // A file that is there stays as it is.
    assert_eq!(export(&[]).await.code, 0);
    let first = std::fs::read(&out).unwrap();
    let refused = export(&[]).await;
    assert!(
        refused.code == 1 && refused.err.contains("--force"),
        "{refused:?}"
    );
    assert_eq!(export(&["--force", "--epoch", "7"]).await.code, 3);
    assert_eq!(std::fs::read(&out).unwrap(), first);
    assert_eq!(export(&["--force"]).await.code, 0);
}

/// Files of exports, unfinished ones included.
fn left(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| name.starts_with("out") || name.starts_with('.'))
        .collect()
}

#[tokio::test]
async fn a_reader_that_has_enough_ends_an_export_quietly() {
    let dir = tempfile::tempdir().unwrap();
    record_eventful_run(dir.path()).await;
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["export", "--endpoint", "pump-health", "--format", "jsonl"]);
    command.args(["--out", "-", "--data-dir", dir.path().to_str().unwrap()]);
    command.stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    let mut exporting = command.kill_on_drop(true).spawn().unwrap();
    let mut out = BufReader::new(exporting.stdout.take().unwrap());
    let mut line = String::new();
    within("a line", out.read_line(&mut line)).await.unwrap();
    assert!(line.starts_with("{\"id\":1,"), "{line}");
    drop(out);
    let ended = within("its end", exporting.wait_with_output()).await;
    let ended = ended.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success() && said.is_empty(), "{said}");
}

#[tokio::test]
async fn a_range_that_ends_before_it_begins_is_said_in_dates() {
    let dir = tempfile::tempdir().unwrap();
    let range = ["--from", "2021-01-01", "--to", "2020-01-01T00:00:00Z"];
    let out = ["--format", "csv", "--out", "-"];
    let said = over("export", dir.path(), &[range, out].concat()).await;
    assert_eq!(
        (said.code, said.err.trim()),
        (
            1,
            "tidegate: --from 2021-01-01T00:00:00Z is not before --to 2020-01-01T00:00:00Z"
        )
    );
}
