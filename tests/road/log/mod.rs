//! The log read whole, by the programs that users run: `replay`, `export` and `import` beside a server and without one.

mod compare;
mod export;
mod import;
mod postgres;
mod replay;

use crate::common::{Device, ENDPOINT, Process, batch, reading, rig, within};
use std::path::Path;
use std::process::Stdio;
use tidegate_protocol::{Codec, DeviceMessage, Reading, ServerMessage, Values};
use tokio::process::Command;

/// What a command said and how it ended.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    /// The number behind `name: ` in a report.
    fn count(&self, name: &str) -> u64 {
        let line = self
            .out
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let number = line.and_then(|line| line.split(' ').next()?.parse().ok());
        number.unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }
}

/// Runs the binary to its end.
async fn tidegate(arguments: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).stdin(Stdio::null());
    command.env_remove("TIDEGATE_URL").kill_on_drop(true);
    let output = within("the end", command.output()).await;
    let output = output.expect("the binary starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said {
        code: output.status.code().expect("an exit code"),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}

/// `tidegate COMMAND --endpoint .. --data-dir DIR ..`
async fn over(command: &str, dir: &Path, more: &[&str]) -> Said {
    let dir = dir.to_str().expect("a path in UTF-8");
    over_log(command, ["--data-dir", dir], more).await
}

/// `tidegate COMMAND --endpoint ..` over the log that `place` names.
async fn over_log(command: &str, place: [&str; 2], more: &[&str]) -> Said {
    let mut arguments = vec![command, "--endpoint", ENDPOINT];
    arguments.extend(place);
    arguments.extend(more);
    tidegate(&arguments).await
}

/// Changes the database of a server that is not running.
async fn tamper(dir: &Path, sql: &'static str) {
    use sqlx::Connection;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.join("tidegate.db"));
    let mut database = sqlx::SqliteConnection::connect_with(&options)
        .await
        .expect("the database opens");
    let changed = sqlx::query(sql).execute(&mut database).await;
    assert!(changed.expect("the change is made").rows_affected() > 0);
    database.close().await.expect("it closes");
}

async fn device(server: &Process, query: &str) -> Device {
    Device::open(server.addr(), query, Codec::Json).await
}

/// Readings of the eventful run that are stored: every kind of row that a log has, and two kills.
const EVENTFUL: u64 = 1_000;

/// Records `rig-1` with everything that can happen to a stream, and a plain `rig-2`; the server is killed at the end.
async fn record_eventful_run(dir: &Path) {
    record_on(dir, &[]).await;
}

/// The same, by servers that are started with `more`.
async fn record_on(dir: &Path, more: &[&str]) {
    let values = rig(21, 1_100);
    let server = Process::serve(dir, more).await;
    let mut one = device(&server, "device=rig-1").await;
    one.stream(&values, 0, 430).await;
    // A gap, a late reading in it, a reading with a missing value, one that is refused, and feedback.
    one.read(reading(435, &values[435])).await;
    one.read(reading(432, &values[432])).await;
    let mut holed = values[436].clone();
    holed[2] = f32::NAN;
    one.read(missing(436, &holed)).await;
    let mut far = values[437].clone();
    far[4] = 9_999.0;
    one.read(reading(437, &far)).await;
    one.say(r#"{"type":"feedback","seq":435,"label":"normal"}"#)
        .await;
    one.stream(&values, 438, 520).await;
    server.kill().await;

    let server = Process::serve(dir, more).await;
    // Another version, warmed on what is stored, then a kill with readings on their way.
    let mut one = device(&server, "device=rig-1&version=autoencoder/1.0.0").await;
    one.stream(&values, 520, 560).await;
    one.send(&batch(&values, 560, 640)).await;
    one.any_ack().await;
    server.kill().await;

    let server = Process::serve(dir, more).await;
    let mut one = device(&server, "device=rig-1").await;
    let from = usize::try_from(one.welcome.resume_from).unwrap();
    one.stream(&values, from, 650).await;
    one.send(&DeviceMessage::Reset).await;
    one.expect("reset", |message| match message {
        ServerMessage::Reset(done) => Some(done.epoch),
        _ => None,
    })
    .await;
    one.stream(&values, 650, 700).await;
    // A new epoch inherits the state.
    let mut next = device(&server, "device=rig-1&epoch=4").await;
    next.stream(&values, 0, 5).await;
    let mut two = Device::open(server.addr(), "device=rig-2", Codec::Bincode).await;
    two.stream(&rig(22, 300), 0, 300).await;
    server.kill().await;
}

/// A reading whose third value is missing, as JSON says it.
fn missing(seq: u64, values: &[f32]) -> Reading {
    let values = values.iter().map(|value| {
        if value.is_nan() {
            tidegate_protocol::MISSING
        } else {
            *value
        }
    });
    Reading {
        values: Values::Ordered(values.collect()),
        ..reading(seq, &[])
    }
}
