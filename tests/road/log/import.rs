//! A file back-filled beside a live stream, which does not notice.

use super::{Said, over, tidegate};
use crate::common::peer::wish;
use crate::common::{Device, ENDPOINT, TestServer, answer, bits, eventually, reading, rig};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use tidegate_protocol::live::DeviceState;
use tidegate_protocol::{Codec, LiveData, NackCode, Sample};

const HEADER: &str = "ts,accelerometer_1_rms,accelerometer_2_rms,current,pressure,temperature,thermocouple,voltage,volume_flow_rate_rms";

/// A file of readings, `change` may spoil a row.
fn file(dir: &Path, values: &[Vec<f32>], change: impl Fn(usize, &mut Vec<String>)) -> PathBuf {
    let mut text = HEADER.to_owned();
    for (row, values) in values.iter().enumerate() {
        let mut cells: Vec<String> = values.iter().map(ToString::to_string).collect();
        change(row, &mut cells);
        write!(
            text,
            "\n{},{}",
            1_700_000_000_000_u64 + 1_000 * row as u64,
            cells.join(",")
        )
        .unwrap();
    }
    let path = dir.join("rig.csv");
    std::fs::write(&path, text).unwrap();
    path
}

async fn import(server: &TestServer, file: &Path, more: &[&str]) -> Said {
    let url = format!("ws://{}", server.addr());
    let file = file.to_str().unwrap();
    let mut arguments = vec![
        "import",
        file,
        "--endpoint",
        ENDPOINT,
        "--device",
        "rig-1",
        "--url",
        &url,
    ];
    arguments.extend(more);
    tidegate(&arguments).await
}

fn is_import(sample: &Sample) -> bool {
    sample.flags == ["historical", "import"]
}

#[tokio::test]
async fn bad_rows_are_named_by_line_and_the_rest_goes_on() {
    let server = TestServer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let values = rig(31, 60);
    let file = file(dir.path(), &values, |row, cells| match row {
        10 => cells[2] = "oops".into(),
        20 => cells.truncate(5),
        30 => cells[4] = "9999".into(),
        40 => cells.fill(String::new()),
        _ => {}
    });
    let list = dir.path().join("bad.csv");
    let said = import(&server, &file, &["--bad-rows", list.to_str().unwrap()]).await;
    assert_eq!(said.code, 1, "{said:?}");
    for (name, count) in [
        ("rows read", 60),
        ("imported", 56),
        ("already stored", 0),
        ("bad", 2),
        ("refused", 2),
    ] {
        assert_eq!(said.count(name), count, "{name}: {said:?}");
    }
    let again = import(&server, &file, &["--bad-rows", list.to_str().unwrap()]).await;
    assert_eq!(again.code, 1, "{again:?}");
    assert!(
        again
            .err
            .contains("bad.csv: there already; name another file with --bad-rows"),
        "{again:?}"
    );
    for line in [
        "line 12: column \"current\": \"oops\" is no number",
        "line 22: 6 cells where the header has 9",
        "line 32: refused, out_of_range: temperature 9999",
        "line 42: refused, bad_reading: every value is missing",
    ] {
        assert!(said.err.contains(line), "{line}: {said:?}");
    }
    let mut listed = csv::Reader::from_path(&list).unwrap();
    let lines: Vec<String> = listed
        .records()
        .map(|row| row.unwrap()[0].to_owned())
        .collect();
    assert_eq!(lines, ["12", "22", "32", "42"]);
    let stored = server.samples("rig-1").await;
    assert_eq!(stored.len(), 56);
    assert!(stored.iter().all(is_import), "{:?}", stored[0]);
    assert!(
        stored
            .iter()
            .all(|sample| sample.epoch == said.count("epoch"))
    );
}

#[tokio::test]
async fn the_same_file_is_stored_once_and_a_changed_row_is_told() {
    let server = TestServer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let values = rig(32, 1_300);
    let whole = file(dir.path(), &values, |_, _| {});
    let first = import(&server, &whole, &[]).await;
    assert_eq!(
        (first.code, first.count("imported")),
        (0, 1_300),
        "{first:?}"
    );
    let epoch = first.count("epoch").to_string();
    let second = import(&server, &whole, &[]).await;
    assert_eq!(second.code, 0, "{second:?}");
    assert_eq!(
        (second.count("imported"), second.count("already stored")),
        (0, 1_300)
    );
    assert_eq!(
        second.count("epoch").to_string(),
        epoch,
        "made of the content"
    );
    let changed = file(dir.path(), &values, |row, cells| {
        if row == 77 {
            cells[0] = "0.5".into();
        }
    });
    let third = import(&server, &changed, &["--epoch", &epoch]).await;
    assert_eq!(third.code, 1, "{third:?}");
    assert_eq!(
        (third.count("already stored"), third.count("refused")),
        (1_299, 1)
    );
    assert!(
        third.err.contains("line 79: refused, seq_reused"),
        "{third:?}"
    );
    // The first row tells that it is another file: the rest is not sent, and said so.
    let other = file(dir.path(), &rig(36, 20), |_, _| {});
    let stopped = import(&server, &other, &["--epoch", &epoch]).await;
    let names = [
        "imported",
        "already stored",
        "bad",
        "refused",
        "not settled",
    ];
    assert_eq!(names.map(|name| stopped.count(name)), [0, 0, 0, 1, 19]);
    let changed = file(dir.path(), &values, |row, cells| {
        if row == 77 {
            cells[0] = "0.5".into();
        }
    });
    // Its own content is another import.
    let fourth = import(&server, &changed, &[]).await;
    assert_eq!(fourth.count("imported"), 1_300, "{fourth:?}");
    assert_eq!(server.samples("rig-1").await.len(), 2_600);
    let replayed = over("replay", &server.data_dir(), &[]).await;
    assert_eq!(
        (replayed.code, replayed.count("streams")),
        (0, 2),
        "{replayed:?}"
    );
}

#[tokio::test]
async fn an_import_does_not_touch_the_live_stream() {
    let server = TestServer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let alone = TestServer::start().await;
    let values = rig(33, 450);
    let expected = alone.device("rig-1").await.stream(&values, 0, 450).await;

    let mut watching = server.subscriber().await;
    for (id, topic) in [
        (1, "predictions/pump-health/*"),
        (2, "devices/*"),
        (3, "alerts/*/*"),
    ] {
        watching.subscribe(wish(id, topic)).await;
    }
    let mut live = server.device("rig-1").await;
    let mut predictions = live.stream(&values, 0, 200).await;
    let file = file(dir.path(), &rig(34, 600), |row, cells| {
        if row == 5 {
            cells[4] = "9999".into();
        }
    });
    // The device goes on while its past is filled in.
    let (said, rest) = tokio::join!(import(&server, &file, &[]), live.stream(&values, 200, 450));
    predictions.extend(rest);
    assert_eq!(said.count("imported"), 599, "{said:?}");
    let answers = |list: &[_]| list.iter().map(answer).collect::<Vec<_>>();
    assert_eq!(answers(&predictions), answers(&expected));

    // The live stream stands where it stood, and is not taken over.
    live.still_works(450).await;
    let devices = server.get("/api/v1/devices").await.json();
    let devices = devices["devices"].as_array().unwrap().clone();
    assert_eq!(devices.len(), 1, "{devices:?}");
    assert_eq!(
        (&devices[0]["samples"], &devices[0]["epoch"]),
        (&451.into(), &0.into())
    );
    let (imported, live): (Vec<_>, Vec<_>) = server
        .samples("rig-1")
        .await
        .into_iter()
        .partition(is_import);
    assert_eq!((imported.len(), live.len()), (599, 451));

    // Subscribers heard of the live readings only: each once, and one arrival.
    let mut heard = 0;
    while heard < 451 {
        match watching.event().await.data {
            LiveData::Sample(sample) => {
                assert!(!is_import(&sample), "{sample:?}");
                heard += 1;
            }
            LiveData::Device(event) => assert_eq!(event.state, DeviceState::Online),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_import_starts_from_a_new_state_with_the_version_asked_for() {
    let server = TestServer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let values = rig(35, 450);
    server.device("rig-1").await.stream(&values, 0, 450).await;
    let alone = TestServer::start().await;
    let query = "device=rig-1&version=autoencoder/1.0.0";
    let mut device = alone.device_with(query, Codec::Json).await;
    let expected = device.stream(&values, 0, 450).await;
    let file = file(dir.path(), &values, |_, _| {});
    let more = ["--epoch", "9", "--version", "autoencoder/1.0.0"];
    assert_eq!(import(&server, &file, &more).await.code, 0);
    let stored = server.samples("rig-1").await;
    let imported: Vec<&Sample> = stored.iter().filter(|sample| sample.epoch == 9).collect();
    assert_eq!(imported.len(), 450);
    for (sample, prediction) in imported.iter().zip(&expected) {
        assert_eq!(sample.model, "autoencoder");
        assert_eq!(
            bits(&sample.output),
            bits(&prediction.output),
            "{}",
            sample.seq
        );
    }
}

#[tokio::test]
async fn an_import_is_one_epoch_and_says_so() {
    let server = TestServer::start().await;
    for (query, reason) in [
        ("device=rig-1&import=0", "expected 1 to 2^53-1"),
        ("device=rig-1&import=x", "import: epoch \"x\""),
        ("device=rig-1&import=5&epoch=6", "leave out epoch 6"),
    ] {
        let path = format!("{ENDPOINT}?{query}");
        let mut peer = Device::connect(server.addr(), &path, Codec::Json).await;
        let (error, code) = crate::common::peer::error_and_close(&mut peer).await;
        assert_eq!(code, 4501);
        assert!(error.message.contains(reason), "{error:?}");
    }
    let mut device = server
        .device_with("device=rig-1&import=5", Codec::Json)
        .await;
    assert_eq!((device.welcome.epoch, device.welcome.resume_from), (5, 0));
    let values = rig(36, 3);
    device.read(reading(0, &values[0])).await;
    device.ack(0).await;
    let mut other = reading(1, &values[1]);
    other.epoch = Some(6);
    device.read(other).await;
    let nack = device.nack(None, NackCode::BadReading).await;
    assert!(nack.message.contains("this import is epoch 5"), "{nack:?}");
    device.read(reading(1, &values[1])).await;
    assert_eq!(device.ack(1).await.epoch, None, "still epoch 5");
}

#[tokio::test]
async fn the_roll_ups_of_an_import_are_read_by_its_epoch_and_are_none_of_the_live_stream() {
    let server = TestServer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = file(dir.path(), &rig(35, 130), |_, _| {});
    let said = import(&server, &file, &["--epoch", "7"]).await;
    assert_eq!(said.count("imported"), 130, "{said:?}");
    let path = "/api/v1/rollups?endpoint=pump-health&device=rig-1&span=hour";
    eventually("the roll-ups", || async {
        let page = server.get(&format!("{path}&import=7")).await;
        let rollups = page.json()["rollups"].as_array().unwrap().clone();
        rollups
            .iter()
            .filter_map(|r| r["count"].as_u64())
            .sum::<u64>()
            == 130
    })
    .await;
    let page = server.get(&format!("{path}&import=7")).await.json();
    assert_eq!(page["import"], 7);
    server.get(path).await.problem(404, "unknown_device");
}
