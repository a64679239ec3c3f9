//! `tidegate bench` against `tidegate serve`, both as the programs that users run: what it reports is what happened, and what goes wrong is said.

#[path = "common/program.rs"]
mod program;

use futures_util::{SinkExt, StreamExt};
use program::{Server, TIDEGATE, free_port, get};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tidegate::load::{self, Pace, Peer, Plan, Progress, Report};
use tokio::net::TcpListener;

/// A reading that `pump-health` refuses for good.
const OUT_OF_RANGE: &str = "1,2,3,4,5,6,7,1e9";

fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(TIDEGATE);
    command
        .args([
            "bench",
            "--seconds",
            "0.5",
            "--warm-up",
            "0.2",
            "--json",
            "-",
        ])
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs it against a server of its own; the result and the exit code.
fn measure(door: &str, arguments: &[&str]) -> (Value, bool) {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let server = Server::start(port, dir.path());
    let (url, pid) = (format!("{door}127.0.0.1:{port}"), server.id().to_string());
    let output = bench(&["--url", &url, "--pid", &pid])
        .args(arguments)
        .output()
        .unwrap();
    (result(&output), output.status.success())
}

fn result(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn number(result: &Value, path: &str) -> f64 {
    result
        .pointer(path)
        .and_then(Value::as_f64)
        .unwrap_or_else(|| panic!("no {path} in {result}"))
}

#[test]
fn every_reading_is_counted_once_at_every_door() {
    for (door, arguments) in [
        ("ws://", &["--connections", "8", "--in-flight", "4"][..]),
        (
            "ws://",
            &["--codec", "bincode", "--rate", "500", "--idle", "20"],
        ),
        ("http://", &["--connections", "4", "--devices", "6"]),
    ] {
        let (result, clean) = measure(door, arguments);
        let count = |name| number(&result, &format!("/readings/{name}"));
        assert!(clean && count("sent") > 0.0, "{result}");
        for name in ["predicted", "acked"] {
            assert!(count(name) == count("sent"), "{name}: {result}");
        }
        assert!(number(&result, "/per_s/predicted") > 0.0, "{result}");
        assert!(number(&result, "/prediction_us/p50") > 0.0, "{result}");
        assert!(number(&result, "/ack_us/p99") >= number(&result, "/ack_us/p50"));
        assert!(number(&result, "/server/connected/rss_bytes") > 0.0);
    }
}

#[test]
fn each_subscriber_gets_each_event() {
    let arguments = ["--connections", "4", "--rate", "400", "--subscribers", "3"];
    let (result, clean) = measure("ws://", &arguments);
    let (events, acked) = (
        number(&result, "/events"),
        number(&result, "/readings/acked"),
    );
    assert!(clean, "{result}");
    assert!(events == 3.0 * acked && acked > 0.0, "{result}");
}

#[test]
fn a_server_that_refuses_is_counted_and_the_run_fails() {
    let (result, clean) = measure("ws://", &["--connections", "4", "--values", OUT_OF_RANGE]);
    let sent = number(&result, "/readings/sent");
    assert!(sent > 0.0 && !clean, "{result}");
    assert!(
        number(&result, "/readings/nacked/out_of_range") == sent,
        "{result}"
    );
    assert!(number(&result, "/readings/predicted") == 0.0 && number(&result, "/wrong") == 0.0);
}

#[test]
fn a_server_that_is_killed_ends_the_run_early() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let server = Server::start(port, dir.path());
    let url = format!("ws://127.0.0.1:{port}");
    let running = bench(&["--url", &url, "--connections", "8"]);
    let running = with_seconds(running, "60").spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let has_begun = |text: &str| {
        text.lines()
            .any(|line| line.starts_with("tidegate_readings_total") && !line.ends_with(" 0"))
    };
    while !has_begun(&get(port, "/metrics")) {
        assert!(Instant::now() < deadline, "no reading comes");
    }
    server.kill();
    let begin = Instant::now();
    let output = running.wait_with_output().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(30));
    let (result, said) = (
        result(&output),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    assert!(
        !output.status.success() && said.contains("ENDED EARLY: all connections are lost"),
        "{said}"
    );
    let lost: u64 = result["closed"]
        .as_object()
        .unwrap()
        .values()
        .filter_map(Value::as_u64)
        .sum();
    assert_eq!(lost, 8, "{result}");
    let count = |name| number(&result, &format!("/readings/{name}"));
    assert!(
        count("sent") == count("predicted") + count("unanswered"),
        "{result}"
    );
    assert!(
        count("sent") == count("acked") + count("unacked"),
        "{result}"
    );
}

/// The last of an option that is given twice is refused, so it is put in its place.
fn with_seconds(command: Command, seconds: &str) -> Command {
    let mut other = Command::new(command.get_program());
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let at = arguments
        .iter()
        .position(|argument| argument == "--seconds")
        .unwrap();
    other
        .args(&arguments[..=at])
        .arg(seconds)
        .args(&arguments[at + 2..]);
    other.stdout(Stdio::piped()).stderr(Stdio::piped());
    other
}

#[test]
fn mistakes_are_one_line_and_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let _server = Server::start(port, dir.path());
    let url = format!("ws://127.0.0.1:{port}");
    for (arguments, wanted) in [
        (["--url", "ws://127.0.0.1:9"], "connection refused"),
        (["--endpoint", "nope"], "no endpoint \"nope\""),
        (["--values", "1,2"], "8 features"),
        (["--connections", "200000"], "ulimit -n"),
        (["--prefix", "a b"], "prefix \"a b\""),
    ] {
        let mut command = bench(&arguments);
        if arguments[0] != "--url" {
            command.args(["--url", &url]);
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(wanted) && said.lines().count() == 1, "{said}");
        assert!(
            !output.status.success() && output.stdout.is_empty(),
            "{said}"
        );
    }
}

#[test]
fn a_low_soft_limit_of_files_is_raised() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let _server = Server::start(port, dir.path());
    let line = format!(
        "ulimit -S -n 40; exec {TIDEGATE} bench --url ws://127.0.0.1:{port} --seconds 0.3 --warm-up 0 --connections 60"
    );
    let output = Command::new("sh").args(["-c", &line]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("60 connections"));
}

/// An echo that says nothing for a while after so many messages.
async fn stalling_echo(after: u64, stall: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(tcp).await.unwrap();
        let mut echoed = 0;
        while let Some(Ok(message)) = socket.next().await {
            echoed += 1;
            if echoed == after {
                tokio::time::sleep(stall).await;
            }
            if !message.is_close() && socket.send(message).await.is_err() {
                return;
            }
        }
    });
    addr
}

async fn load_on(addr: SocketAddr, pace: Pace) -> Report {
    let endpoint = "pump-health".parse().unwrap();
    let plan = Plan {
        connections: 1,
        pace,
        length: Duration::from_secs(1),
        ..Plan::new(Peer::Echo, addr, endpoint, vec![vec![1.0; 8]])
    };
    load::run(plan, &Arc::new(Progress::default()), |_| {})
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latency_of_an_open_loop_includes_a_stall_for_all_that_was_due_meanwhile() {
    let stall = Duration::from_millis(400);
    let open = load_on(stalling_echo(100, stall).await, Pace::PerSecond(500.0)).await;
    assert!(open.is_clean(), "{open}");
    // 200 of 500 readings were due in the stall: a tenth of all waited for nearly all of it.
    assert!(open.prediction_us.p90 >= 250_000, "{open}");
    assert!(open.prediction_us.max >= 390_000, "{open}");
    // A closed loop waits with the server, and a single reading feels it.
    let closed = load_on(stalling_echo(100, stall).await, Pace::InFlight(1)).await;
    assert!(
        closed.is_clean() && closed.prediction_us.max >= 390_000,
        "{closed}"
    );
    assert!(closed.prediction_us.p90 < 100_000, "{closed}");
}

/// Mosquitto on a port; killed when dropped.
struct Broker(
    Child,
    #[allow(dead_code, reason = "removed when dropped")] TempDir,
);

impl Broker {
    fn start(port: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mosquitto.conf");
        let lines = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_inflight_messages 1000\nmax_queued_messages 100000\nset_tcp_nodelay true\n"
        );
        std::fs::write(&file, lines).unwrap();
        let sbin = "/usr/sbin/mosquitto";
        let program = if Path::new(sbin).exists() {
            sbin
        } else {
            "mosquitto"
        };
        let child = Command::new(program)
            .arg("-c")
            .arg(&file)
            .stderr(Stdio::null())
            .spawn();
        let broker = Self(
            child.expect("mosquitto starts: apt-get install mosquitto"),
            dir,
        );
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "the broker does not start");
        }
        broker
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn devices_at_a_broker_are_answered_and_acked() {
    let dir = tempfile::tempdir().unwrap();
    let (port, broker_port) = (free_port(), free_port());
    let _broker = Broker::start(broker_port);
    let url = format!("mqtt://127.0.0.1:{broker_port}");
    let _server = Server::start_with(port, dir.path(), &["--mqtt-url", &url]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !get(port, "/metrics").contains("tidegate_mqtt_connected 1") {
        assert!(
            Instant::now() < deadline,
            "the server does not reach the broker"
        );
    }
    for codec in ["json", "bincode"] {
        let output = bench(&[
            "--url",
            &url,
            "--connections",
            "6",
            "--in-flight",
            "8",
            "--codec",
            codec,
        ])
        .output()
        .unwrap();
        let result = result(&output);
        let count = |name| number(&result, &format!("/readings/{name}"));
        assert!(output.status.success() && count("sent") > 0.0, "{result}");
        assert!(
            count("predicted") == count("sent") && count("acked") == count("sent"),
            "{result}"
        );
    }
}
