//! `tidegate send` against `tidegate serve`, both as the programs that users run: everything is stored once, whatever happens.

use program::{Server, TIDEGATE, free_port, get};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tidegate_models::rig::Rig;

#[path = "common/program.rs"]
mod program;

/// A file of `rows` readings, 20 ms apart, with a label column as real files have.
fn file(dir: &TempDir, name: &str, seed: u64, rows: usize) -> PathBuf {
    let mut rig = Rig::healthy(seed);
    let mut text = "ts;Accelerometer1RMS;Accelerometer2RMS;Current;Pressure;Temperature;Thermocouple;Voltage;Flow;anomaly".to_owned();
    for row in 0..rows {
        let (values, _) = rig.next_reading();
        write!(text, "\n{}", 1_770_000_000_000_u64 + 20 * row as u64).unwrap();
        values
            .iter()
            .for_each(|value| write!(text, ";{value}").unwrap());
        text.push_str(";0");
    }
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn send(file: &Path, port: u16, more: &[&str]) -> Command {
    let mut command = Command::new(TIDEGATE);
    command
        .arg("send")
        .arg(file)
        .args(["--endpoint", "pump-health", "--device", "rig-1", "--url"]);
    command.arg(format!("ws://127.0.0.1:{port}")).args(more);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The number behind `name: ` in a summary.
fn count(output: &Output, name: &str) -> u64 {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let number = line.unwrap_or_else(|| {
        panic!(
            "no {name} in {text}{}",
            String::from_utf8_lossy(&output.stderr)
        )
    });
    number.split(' ').next().unwrap().parse().unwrap()
}

/// Returns once the reading `seq` of rig-1 is stored.
fn wait_until_stored(port: u16, seq: u64) {
    let (mark, deadline) = (
        format!("\"seq\":{seq},"),
        Instant::now() + Duration::from_secs(30),
    );
    while !get(
        port,
        "/api/v1/samples?endpoint=pump-health&device=rig-1&limit=100",
    )
    .contains(&mark)
    {
        assert!(Instant::now() < deadline, "reading {seq} is never stored");
    }
}

#[test]
fn a_file_is_stored_once_however_often_it_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (port, rows) = (free_port(), 600);
    let file = file(&dir, "rig.csv", 1, rows);
    let _server = Server::start(port, &dir.path().join("data"));
    let first = send(&file, port, &["--codec", "json"]).output().unwrap();
    for name in ["sent", "predicted", "acked"] {
        assert_eq!(count(&first, name), rows as u64, "{name}");
    }
    assert_eq!(count(&first, "calibrating"), 400);
    let second = send(&file, port, &["--codec", "bincode"]).output().unwrap();
    assert_eq!(
        (count(&second, "already stored"), count(&second, "sent")),
        (rows as u64, 0)
    );
    assert!(first.status.success() && second.status.success());
}

#[test]
fn another_file_under_the_same_device_is_refused_before_it_is_mixed_in() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let (one, other) = (file(&dir, "one.csv", 1, 50), file(&dir, "other.csv", 2, 80));
    let _server = Server::start(port, &dir.path().join("data"));
    assert!(send(&one, port, &[]).output().unwrap().status.success());
    let refused = send(&other, port, &[]).output().unwrap();
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("already holds other readings in epoch 0") && said.contains("choose another"),
        "{said}"
    );
    let counted = ["already stored", "acked", "nacked", "not settled"];
    let counted = counted.map(|name| count(&refused, name));
    assert_eq!(
        counted.iter().sum::<u64>(),
        80,
        "every row is accounted for"
    );
    // It stops at the first nack; others may have been on their way.
    assert!(counted[..2] == [0, 0] && counted[2] >= 1, "{counted:?}");
    let again = send(&one, port, &[]).output().unwrap();
    let said = String::from_utf8_lossy(&again.stderr);
    assert_eq!(count(&again, "already stored"), 50, "{said}");
    let new_epoch = send(&other, port, &["--epoch", "1"]).output().unwrap();
    assert_eq!(count(&new_epoch, "acked"), 80);
}

#[test]
fn a_server_that_is_killed_and_comes_back_has_every_reading_once() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let (port, rows) = (free_port(), 100);
    let file = file(&dir, "rig.csv", 3, rows);
    let server = Server::start(port, &data_dir);
    // Two seconds at the file's own pace: the kill falls in between.
    let mut sending = send(&file, port, &["--rate", "real"]).spawn().unwrap();
    let mut said = BufReader::new(sending.stderr.take().unwrap()).lines();
    let begun = said.next().unwrap().unwrap();
    assert!(begun.contains("100 readings"), "{begun}");
    wait_until_stored(port, 20);
    server.kill();
    // The client says that it was cut, and when it comes back.
    let cut = said.next().unwrap().unwrap();
    assert!(cut.contains("again in"), "{cut}");
    let _server = Server::start(port, &data_dir);
    said.for_each(drop);
    let output = sending.wait_with_output().unwrap();
    assert_eq!(
        (count(&output, "acked"), count(&output, "predicted")),
        (rows as u64, rows as u64)
    );
    assert!(count(&output, "reconnects") >= 1 && output.status.success());
    let again = send(&file, port, &[]).output().unwrap();
    assert_eq!(
        (count(&again, "already stored"), count(&again, "sent")),
        (rows as u64, 0)
    );
}

#[test]
fn mistakes_are_one_line_and_nothing_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let bad = dir.path().join("bad.csv");
    std::fs::write(&bad, "a,b,c,d,e,f,g,h\n1,2,3,4,5,6,7,8\n1,2,x,4,5,6,7,8\n").unwrap();
    let unreachable = send(&bad, port, &[]).output().unwrap();
    let said = String::from_utf8_lossy(&unreachable.stderr).into_owned();
    assert!(
        said.contains("refused") && said.lines().count() == 1,
        "{said}"
    );
    let _server = Server::start(port, &dir.path().join("data"));
    let output = send(&bad, port, &[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("bad.csv, line 3, column \"c\": \"x\" is no number"),
        "{said}"
    );
    assert!(!output.status.success() && output.stdout.is_empty());
    let health = Command::new(TIDEGATE)
        .args(["health", "--url", &format!("http://127.0.0.1:{port}")])
        .output()
        .unwrap();
    assert!(health.status.success());
}
