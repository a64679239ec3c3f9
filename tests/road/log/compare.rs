//! Another version over the same readings: the report of a small seeded log, number by number.

use super::over;
use crate::common::{TestServer, reading, rig};
use tidegate_protocol::DeviceMessage;

/// What `replay --version` says of the log below, as text.
const GOLDEN: &str = include_str!("golden/comparison.txt");
const GOLDEN_CSV: &str = include_str!("golden/comparison.csv");

/// Three rigs, one with a late reading and a reset.
async fn record() -> TestServer {
    let server = TestServer::start().await;
    for seed in [41, 42] {
        let mut device = server.device(&format!("rig-{seed}")).await;
        device.stream(&rig(seed, 900), 0, 900).await;
    }
    let values = rig(43, 1_000);
    let mut device = server.device("rig-43").await;
    device.stream(&values, 0, 450).await;
    device.read(reading(452, &values[452])).await;
    device.read(reading(451, &values[451])).await;
    device.late_ack(451).await;
    device.send(&DeviceMessage::Reset).await;
    device.stream(&values, 453, 1_000).await;
    server
}

#[tokio::test]
async fn a_comparison_says_who_agrees_how_far_scores_moved_and_what_changes_most() {
    let server = record().await;
    let dir = server.data_dir();
    let more = ["--version", "autoencoder/1.0.0"];
    let said = over("replay", &dir, &more).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.out, GOLDEN, "\n{}", said.out);
    let csv = over("replay", &dir, &[&more[..], &["--format", "csv"]].concat()).await;
    assert_eq!(csv.out, GOLDEN_CSV, "\n{}", csv.out);
    let json = over("replay", &dir, &[&more[..], &["--format", "json"]].concat()).await;
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    let table = &json["agreement"]["decisions"];
    let decided: u64 = ["both_normal", "only_recorded", "only_other", "both_anomaly"]
        .iter()
        .map(|name| table[name].as_u64().unwrap())
        .sum();
    assert_eq!(json["rows"]["compared"], decided);
    assert_eq!(json["most_changed"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_version_beside_itself_agrees_with_every_answer() {
    let server = record().await;
    let more = ["--version", "mewma/1.0.0", "--format", "json"];
    let said = over("replay", &server.data_dir(), &more).await;
    let report: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(report["agreement"]["share"], 1.0, "{report}");
    assert_eq!(report["shift"]["ks"], 0.0);
    assert_eq!(report["shift"]["difference"]["mean_absolute"], 0.0);
    assert_eq!(report["rows"]["late"], 1);
}
