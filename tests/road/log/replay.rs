//! The recorded versions run again: all is equal to the bit, and whatever is not is found and named.

use super::{EVENTFUL, over, over_log, record_eventful_run, tamper, tidegate};
use crate::common::{ENDPOINT, Process, START_MS, TestServer, eventually, reading, rig};
use crate::faults::steps;
use std::path::Path;
use std::sync::Arc;
use tidegate::config::Database;
use tidegate::replay::{Options, Outcome, Progress, Verified, Versions, verify};
use tidegate::store::history::{StreamFilter, all_streams};
use tidegate::store::open_readonly;
use tidegate_models::Zoo;
use tidegate_protocol::{DeviceMessage, Output};

#[tokio::test]
async fn an_eventful_run_replays_equal_to_the_bit_without_a_server_and_beside_one() {
    let dir = tempfile::tempdir().unwrap();
    record_eventful_run(dir.path()).await;
    let said = over("replay", dir.path(), &[]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("result: equal to the bit"), "{said:?}");
    assert_eq!(said.count("readings"), EVENTFUL);
    assert_eq!(said.count("late, not folded"), 1);
    assert_eq!(said.count("equal"), EVENTFUL - 1);
    assert_eq!(said.count("not reproducible"), 0);
    // Nothing was written: a server goes on, and a replay beside it sees the same.
    let server = Process::serve(dir.path(), &[]).await;
    assert_eq!(over("replay", dir.path(), &[]).await, said);
    let one = over("replay", dir.path(), &["--device", "rig-2"]).await;
    assert_eq!((one.count("streams"), one.count("equal")), (1, 300));
    server.kill().await;
}

#[tokio::test]
async fn a_changed_prediction_is_found_and_named() {
    let dir = tempfile::tempdir().unwrap();
    record_eventful_run(dir.path()).await;
    tamper(
        dir.path(),
        "UPDATE samples SET output = (SELECT output FROM samples WHERE seq = 511) \
         WHERE seq = 510 AND stream_id = (SELECT id FROM streams WHERE device = 'rig-1')",
    )
    .await;
    let said = over("replay", dir.path(), &[]).await;
    assert_eq!(said.code, 1, "{said:?}");
    assert_eq!(
        (said.count("different"), said.count("snapshots")),
        (1, snapshots(dir.path()).await)
    );
    assert!(
        said.out.contains("rig-1, epoch 0, seq 510, id "),
        "{said:?}"
    );
    assert!(said.out.contains("recorded {\"score\":"), "{said:?}");
    // Outside the range nothing differs; the fold begins before it all the same.
    let later = (START_MS + 511_000).to_string();
    let rest = over("replay", dir.path(), &["--from", &later]).await;
    assert_eq!(rest.code, 0, "{rest:?}");
    assert!(rest.count("readings") < EVENTFUL);
}

async fn snapshots(dir: &Path) -> u64 {
    over("replay", dir, &[]).await.count("snapshots")
}

#[tokio::test]
async fn a_changed_reading_is_found_and_the_damage_ends_at_the_next_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    record_eventful_run(dir.path()).await;
    let whole = over("replay", dir.path(), &[]).await;
    tamper(
        dir.path(),
        "UPDATE samples SET \"values\" = (SELECT \"values\" FROM samples WHERE seq = 100) WHERE seq = 500",
    )
    .await;
    let said = over("replay", dir.path(), &["--format", "json"]).await;
    assert_eq!(said.code, 1, "{said:?}");
    let report: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let first = &report["differences"][0];
    assert_eq!(
        (&first["what"], &first["sample"]["seq"]),
        (&"output".into(), &500.into())
    );
    // The snapshot behind it is the state that the server had: from there on all is equal again.
    let different = report["counts"]["different"].as_u64().unwrap();
    assert!((1..=20).contains(&different), "{different}");
    let equal = report["counts"]["equal"].as_u64().unwrap();
    assert_eq!(equal + different, whole.count("equal"));
}

#[tokio::test]
async fn a_changed_snapshot_is_found_and_nothing_else_differs() {
    let dir = tempfile::tempdir().unwrap();
    record_eventful_run(dir.path()).await;
    let whole = over("replay", dir.path(), &[]).await;
    tamper(
        dir.path(),
        "UPDATE snapshots SET state = (SELECT state FROM snapshots WHERE stream_id = 1 AND pos = 1) \
         WHERE stream_id = 1 AND pos = (SELECT min(pos) FROM snapshots WHERE stream_id = 1 AND pos > 200)",
    )
    .await;
    let said = over("replay", dir.path(), &[]).await;
    assert_eq!(said.code, 1, "{said:?}");
    assert_eq!(said.count("different"), 0);
    assert_eq!(said.count("equal"), whole.count("equal"));
    assert_eq!(said.count("snapshots"), whole.count("snapshots") - 1);
    assert!(
        said.out.contains(": snapshot\n  recorded float "),
        "{said:?}"
    );
}

#[tokio::test]
async fn a_version_that_is_gone_or_another_one_is_named_and_its_readings_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    record_eventful_run(dir.path()).await;
    let models = tempfile::tempdir().unwrap();
    let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/zoo/pump-health");
    let copy = models.path().join("pump-health");
    std::fs::create_dir_all(copy.join("mewma/1.0.0")).unwrap();
    for file in [
        "endpoint.toml",
        "mewma/1.0.0/model.toml",
        "mewma/1.0.0/golden.json",
    ] {
        std::fs::copy(zoo.join(file), copy.join(file)).unwrap();
    }
    let with = ["--models-dir", models.path().to_str().unwrap()];
    let said = over("replay", dir.path(), &with).await;
    assert_eq!(said.code, 2, "{said:?}");
    assert!(
        said.out
            .contains("version autoencoder/1.0.0 is not among the models"),
        "{said:?}"
    );
    let gone = said.count("not reproducible");
    assert!(gone > 0 && said.count("different") == 0);
    assert_eq!(said.count("equal") + gone, EVENTFUL - 1);

    // The same name with other files is not the same version.
    let manifest = copy.join("mewma/1.0.0/model.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, format!("{text}# changed\n")).unwrap();
    let said = over("replay", dir.path(), &with).await;
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.out.contains("its files have another hash"), "{said:?}");
    assert_eq!(said.count("equal"), 0);
}

/// Hears nothing.
struct Unwatched;

impl Progress for Unwatched {
    fn replayed(&self, _samples: u64) {}
}

/// A replay in this process, with versions that no folder has.
async fn replay_with(zoo: &Zoo, dir: &Path) -> Verified {
    let database = Database::Sqlite(dir.join("tidegate.db"));
    let history = open_readonly(&database, 2).await.unwrap();
    let recorded = history.versions().await.unwrap();
    let versions = Versions::of(zoo, &ENDPOINT.parse().unwrap(), &recorded);
    let filter = StreamFilter::default();
    let streams = all_streams(history.as_ref(), &filter).await.unwrap();
    let options = Options {
        listed: 5,
        threads: 2,
        ..Options::default()
    };
    let (versions, watch) = (Arc::new(versions), Arc::new(Unwatched));
    let replayed = verify(history, versions, ENDPOINT, streams, options, watch);
    replayed.await.unwrap()
}

#[tokio::test]
async fn steps_that_failed_and_the_rescue_from_them_replay_equal_to_the_bit() {
    let server = steps::server("mewma/1.0.0").await;
    // One failed step, then so many in a row that the stream is given back to the version before.
    let broken = [470, 480, 481, 482];
    let values = steps::broken(52, 620, &broken, steps::GIVES_NAN);
    server.device("rig-1").await.stream(&values, 0, 450).await;
    let mut device = steps::pinned(&server, "brittle/1.0.0").await;
    device.stream(&values, 450, 520).await;
    eventually("the rescue", || async {
        let versions = server.get("/api/v1/devices").await.body;
        versions.contains("mewma") || {
            let next = server.samples("rig-1").await.len();
            server
                .device("rig-1")
                .await
                .stream(&values, next, next + 1)
                .await;
            false
        }
    })
    .await;
    let report = replay_with(&steps::zoo("mewma/1.0.0"), &server.data_dir()).await;
    assert_eq!(report.result, Outcome::Equal, "{report}");
    assert!(report.versions["brittle/1.0.0"] >= 70, "{report}");
    let failed = server.samples("rig-1").await;
    let failed = failed
        .iter()
        .filter(|sample| matches!(sample.output, Output::Failed(_)));
    assert_eq!(failed.count(), broken.len());
}

#[tokio::test]
async fn a_report_is_the_same_for_any_number_of_threads() {
    let server = TestServer::start().await;
    for seed in 0..7 {
        let mut device = server.device(&format!("rig-{seed}")).await;
        let count = 420 + 10 * seed as usize;
        device.stream(&rig(seed, count), 0, count).await;
    }
    let dir = server.data_dir();
    for format in ["text", "json", "csv"] {
        for version in [&[][..], &["--version", "autoencoder/1.0.0"]] {
            let mut said = Vec::new();
            for threads in ["1", "4"] {
                let mut more = vec!["--format", format, "--threads", threads];
                more.extend(version);
                said.push(over("replay", &dir, &more).await);
            }
            assert_eq!(said[0].code, 0, "{said:?}");
            assert!(!said[0].out.is_empty());
            assert_eq!(said[0], said[1], "{format}");
        }
    }
}

#[tokio::test]
async fn a_log_that_retention_cuts_meanwhile_replays_equal() {
    let server = TestServer::start_with(|raw| raw.store.max_bytes = 1_000_000).await;
    let dir = server.data_dir();
    replays_equal_under_retention(&server, ["--data-dir", dir.to_str().unwrap()]).await;
}

/// Records more than the server may keep, and replays until something of it is retired.
pub async fn replays_equal_under_retention(server: &TestServer, place: [&str; 2]) {
    let count = 9_000;
    let values = rig(51, count);
    let mut device = server.device("rig-1").await;
    for from in (0..count).step_by(1_000) {
        device.stream(&values, from, from + 1_000).await;
    }
    eventually("retention", || async {
        let said = over_log("replay", place, &[]).await;
        assert_eq!(said.code, 0, "{said:?}");
        assert_eq!(said.count("not reproducible"), 0, "{said:?}");
        let retired = match said.out.contains("no longer stored") {
            true => said.count("no longer stored"),
            false => 0,
        };
        assert_eq!(said.count("equal") + retired, count as u64, "{said:?}");
        retired > 0
    })
    .await;
}

#[tokio::test]
async fn what_retention_took_is_counted_and_the_rest_replays_from_the_first_kept_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    record_eventful_run(dir.path()).await;
    // As retention leaves it: nothing before a snapshot, everything behind it.
    for sql in [
        "DELETE FROM snapshots WHERE stream_id = 1 AND pos < 250",
        "DELETE FROM samples WHERE stream_id = 1 \
         AND pos <= (SELECT min(pos) FROM snapshots WHERE stream_id = 1)",
    ] {
        tamper(dir.path(), sql).await;
    }
    let said = over("replay", dir.path(), &[]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let retired = said.count("no longer stored");
    assert!(retired > 200, "{said:?}");
    assert_eq!(said.count("readings") + retired, EVENTFUL);
    assert_eq!(said.count("not reproducible"), 0);
    // Without its first snapshot the log is known from the next one on only.
    tamper(
        dir.path(),
        "DELETE FROM snapshots WHERE stream_id = 1 AND pos = (SELECT min(pos) FROM snapshots WHERE stream_id = 1)",
    )
    .await;
    let said = over("replay", dir.path(), &[]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.count("not reproducible") > 0, "{said:?}");
    assert!(
        said.out.contains("before the first kept snapshot"),
        "{said:?}"
    );
}

#[tokio::test]
async fn what_cannot_be_replayed_says_why_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let said = over("replay", dir.path(), &[]).await;
    assert_eq!((said.code, said.err.lines().count()), (2, 1), "{said:?}");
    assert!(
        said.err
            .contains("name the server's folder with --data-dir"),
        "{said:?}"
    );
    assert!(!dir.path().join("tidegate.db").exists(), "nothing is made");

    let server = TestServer::start().await;
    let mut device = server.device("rig-1").await;
    device.read(reading(0, &rig(1, 1)[0])).await;
    device.send(&DeviceMessage::Reset).await;
    device.ack(0).await;
    let dir = server.data_dir();
    let said = over("replay", &dir, &["--version", "oracle/9.9.9"]).await;
    assert_eq!(said.code, 2);
    assert!(
        said.err.contains("there is autoencoder/1.0.0, mewma/1.0.0"),
        "{said:?}"
    );
    let said = over("replay", &dir, &["--to", "2020-01-01T00:00:00Z"]).await;
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.err.contains("no stored reading"), "{said:?}");
    let said = over("replay", &dir, &["--from", "5", "--to", "5"]).await;
    assert!(
        said.code == 2 && said.err.contains("is not before"),
        "{said:?}"
    );
    let (place, other) = (dir.to_str().unwrap(), "other");
    let said = tidegate(&["replay", "--endpoint", other, "--data-dir", place]).await;
    assert_eq!(said.code, 3, "{said:?}");
}

#[tokio::test]
async fn what_the_demo_records_replays_equal_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let said = tidegate(&[
        "demo",
        "--seconds",
        "3",
        "--devices",
        "3",
        "--rate",
        "200",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        data.to_str().unwrap(),
    ])
    .await;
    assert_eq!(said.code, 0, "{said:?}");
    let replayed = over("replay", &data, &[]).await;
    assert_eq!(replayed.code, 0, "{replayed:?}");
    assert_eq!(replayed.count("equal"), said.count("readings"));
}
