//! Alerts from outside: raised by readings and by their absence, told at every door, looked after, kept, and never in anybody's way.

use crate::common::http::{Answer, request};
use crate::common::peer::wish;
use crate::common::{Broker, Subscriber, TestServer, eventually, plain, rig, within};
use hmac::{Hmac, KeyInit, Mac};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use serde_json::{Value, json};
use sha2::Sha256;
use std::net::SocketAddr;
use tidegate::config::{RawAlert, RawWebhook};
use tidegate_protocol::live::AlertChange;
use tidegate_protocol::{Codec, LiveData, LiveMessage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;

/// Readings after which the built-in detector answers with a score.
const CALIBRATED: usize = 450;

fn rule(name: &str, kind: &str, for_s: u32) -> RawAlert {
    RawAlert {
        name: name.into(),
        kind: kind.into(),
        for_s,
        ..RawAlert::default()
    }
}

/// A server with one rule: a device that says nothing for a second.
async fn watching_silence() -> TestServer {
    TestServer::start_with(|raw| raw.alerts = vec![rule("gone", "silent", 1)]).await
}

async fn listening(server: &TestServer) -> Subscriber {
    let mut subscriber = server.subscriber().await;
    subscriber.subscribe(wish(1, "alerts/*/*")).await;
    subscriber
}

async fn change(subscriber: &mut Subscriber, change: &str) -> AlertChange {
    let pick = |message: &LiveMessage| match message {
        LiveMessage::Event(event) => match &event.data {
            LiveData::AlertChange(told) if told.change == change => Some(told.clone()),
            _ => None,
        },
        _ => None,
    };
    subscriber.expect(change, pick).await
}

async fn open(server: &TestServer) -> Vec<Value> {
    let answer = server.get("/api/v1/alerts").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["alerts"].as_array().expect("alerts").clone()
}

async fn put(server: &TestServer, name: &str, body: &Value) -> Answer {
    let path = format!("/api/v1/alerts/rules/{name}");
    request(server.addr(), "PUT", &path, Some(&body.to_string())).await
}

#[tokio::test]
async fn an_alert_is_told_looked_after_and_kept_over_a_restart() {
    let server = watching_silence().await;
    let mut subscriber = listening(&server).await;
    let mut device = server.device("rig-1").await;
    device.read(plain(0)).await;
    device.ack(0).await;
    let opened = change(&mut subscriber, "opened").await;
    assert_eq!((&*opened.rule, &*opened.device), ("gone", "rig-1"));
    let ack = format!("/api/v1/alerts/{}/acknowledge", opened.id);
    let answer = server
        .post(&ack, r#"{"who":"ann","why":"on my way"}"#)
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let told = change(&mut subscriber, "acknowledged").await;
    assert_eq!(told.who.as_deref(), Some("ann"));
    drop(device);

    let server = server.restart().await;
    let alerts = open(&server).await;
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    assert_eq!(alerts[0]["id"], opened.id);
    assert_eq!(alerts[0]["acknowledged"]["who"], "ann");
    let mut subscriber = listening(&server).await;
    let mut device = server.device("rig-1").await;
    device.read(plain(1)).await;
    let resolved = change(&mut subscriber, "resolved").await;
    assert_eq!(resolved.id, opened.id);
    let history = format!("/api/v1/alerts/history?alert={}", opened.id);
    eventually("the history is whole", || async {
        let changes = server.get(&history).await.json();
        let changes = changes["changes"].as_array().expect("changes");
        let names: Vec<&str> = changes
            .iter()
            .filter_map(|row| row["change"].as_str())
            .collect();
        names == ["resolved", "acknowledged", "opened"]
    })
    .await;
    let answer = server.post(&ack, r#"{"who":"ann"}"#).await;
    answer.problem(404, "unknown_alert");
}

#[tokio::test]
async fn a_score_over_the_limit_is_an_alert_and_a_historical_one_is_none() {
    let server = TestServer::start().await;
    let wanted = json!({"kind": "score", "above": 0.0, "severity": "critical", "who": "ann"});
    let answer = put(&server, "any-score", &wanted).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut subscriber = listening(&server).await;
    let values = rig(7, CALIBRATED + 1);
    let mut device = server.device("then").await;
    for (seq, values) in values.iter().enumerate() {
        let mut reading = crate::common::reading(seq as u64, values);
        reading.historical = true;
        device.read(reading).await;
    }
    device.ack(CALIBRATED as u64).await;
    let mut device = server.device("now").await;
    device.stream(&values, 0, CALIBRATED + 1).await;
    let opened = change(&mut subscriber, "opened").await;
    assert_eq!((&*opened.device, &*opened.severity), ("now", "critical"));
    assert_eq!(open(&server).await.len(), 1);
}

#[tokio::test]
async fn rules_are_set_and_taken_away_while_the_server_runs() {
    let server = watching_silence().await;
    for (body, part) in [
        (json!({"kind": "score", "who": "ann"}), "above"),
        (json!({"kind": "loud", "who": "ann"}), "kind"),
        (json!({"kind": "anomaly", "fo_s": 5, "who": "ann"}), "fo_s"),
        (json!({"kind": "anomaly"}), "who"),
    ] {
        let said = put(&server, "mine", &body)
            .await
            .problem(400, "bad_request");
        assert!(said.contains(part), "{said}");
    }
    let held = json!({"kind": "anomaly", "for_s": 30, "who": "ann"});
    put(&server, "gone", &held)
        .await
        .problem(409, "from_config");
    assert_eq!(put(&server, "mine", &held).await.status, 200);
    let server = server.restart().await;
    let rules = server.get("/api/v1/alerts/rules").await.json();
    let sources: Vec<_> = rules["rules"]
        .as_array()
        .expect("rules")
        .iter()
        .map(|rule| (rule["name"].as_str(), rule["source"].as_str()))
        .collect();
    assert_eq!(
        sources,
        [(Some("gone"), Some("config")), (Some("mine"), Some("api"))]
    );
    let path = "/api/v1/alerts/rules/mine?who=ann";
    let gone = request(server.addr(), "DELETE", path, None).await;
    assert_eq!(gone.status, 204, "{gone:?}");
    request(server.addr(), "DELETE", path, None)
        .await
        .problem(404, "unknown_rule");
}

/// Answers each request on a port of its own with the next of these statuses, then with the last; gives what came. None: never answers.
async fn receiver(statuses: Vec<u16>) -> (SocketAddr, tokio::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let (came, coming) = tokio::sync::mpsc::channel(64);
    tokio::spawn(async move {
        let mut kept = Vec::new();
        for turn in 0.. {
            let Ok((mut socket, _)) = listener.accept().await else {
                return;
            };
            let status = statuses.get(turn).or(statuses.last());
            let mut bytes = Vec::new();
            let mut part = [0; 4_096];
            while !is_whole(&bytes) {
                match socket.read(&mut part).await {
                    Ok(count) if count > 0 => bytes.extend_from_slice(&part[..count]),
                    _ => break,
                }
            }
            let _ = came.send(String::from_utf8(bytes).expect("text")).await;
            match status {
                Some(status) => {
                    let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n");
                    let _ = socket.write_all(answer.as_bytes()).await;
                }
                None => kept.push(socket),
            }
        }
    });
    (addr, coming)
}

fn is_whole(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    length.and_then(|length| length.parse().ok()) == Some(body.len())
}

fn webhook(name: &str, addr: SocketAddr) -> RawWebhook {
    RawWebhook {
        name: name.into(),
        url: format!("http://{addr}/in").into(),
        secret: "0123456789abcdef".into(),
        ..RawWebhook::default()
    }
}

#[tokio::test]
async fn a_webhook_is_signed_and_tried_again_while_another_one_hangs() {
    let (hanging, mut never) = receiver(Vec::new()).await;
    let (good, mut coming) = receiver(vec![503, 200]).await;
    let server = TestServer::start_with(|raw| {
        raw.alerts = vec![rule("gone", "silent", 1)];
        raw.webhooks = vec![webhook("hangs", hanging), webhook("good", good)];
    })
    .await;
    let mut device = server.device("rig-1").await;
    device.read(plain(0)).await;
    device.ack(0).await;
    let first = within("the first try", coming.recv())
        .await
        .expect("a request");
    let again = within("the second try", coming.recv())
        .await
        .expect("a request");
    let (head, body) = again.split_once("\r\n\r\n").expect("a body");
    assert_eq!(
        Some(body),
        first.split_once("\r\n\r\n").map(|(_, body)| body)
    );
    let header = |name: &str| {
        head.lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("a header")
    };
    let mut mac = Hmac::<Sha256>::new_from_slice(b"0123456789abcdef").expect("a key");
    mac.update(format!("{}.{body}", header("x-tidegate-timestamp: ")).as_bytes());
    let tag: String = mac
        .finalize()
        .into_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(header("x-tidegate-signature: "), format!("sha256={tag}"));
    let told: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(
        (&told["change"], &told["device"]),
        (&"opened".into(), &"rig-1".into())
    );
    within("the one that hangs", never.recv())
        .await
        .expect("a request");
    // Neither readings nor other alerts wait for it.
    device.read(plain(1)).await;
    device.ack(1).await;
    let resolved = within("the next alert", coming.recv())
        .await
        .expect("a request");
    assert!(resolved.contains(r#""change":"resolved""#), "{resolved}");
}

#[tokio::test]
async fn alerts_are_said_at_the_broker() {
    let broker = Broker::start().await;
    let server = TestServer::start_with(|raw| {
        raw.mqtt.url = Some(broker.url());
        raw.alerts = vec![rule("gone", "silent", 1)];
    })
    .await;
    let mut peer = broker.peer().await;
    crate::mqtt::subscribed(&mut peer).await;
    let (client, mut events) = crate::mqtt::client(&broker);
    let topic = "tidegate/pump-health/late/alerts";
    client
        .subscribe(topic, QoS::AtLeastOnce)
        .await
        .expect("room");
    let subscribed = |packet| matches!(packet, Packet::SubAck(_)).then_some(());
    crate::mqtt::incoming(&mut events, "a subscription", subscribed).await;
    peer.read("late", Codec::Json, plain(0)).await;
    let payload = |packet| match packet {
        Packet::Publish(publish) => Some(publish.payload),
        _ => None,
    };
    let told = crate::mqtt::incoming(&mut events, "an alert", payload).await;
    let told: Value = serde_json::from_slice(&told).expect("JSON");
    assert_eq!(
        (&told["rule"], &told["change"]),
        (&"gone".into(), &"opened".into())
    );
    assert!(server.stop().await);
}

#[tokio::test]
async fn alerts_are_listed_acknowledged_and_silenced_by_command() {
    let server = watching_silence().await;
    let mut subscriber = listening(&server).await;
    let url = format!("http://{}", server.addr());
    let alert = async |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("alert").args(arguments).args(["--url", &url]);
        command.env("USER", "ann").kill_on_drop(true);
        let output = within("the end", command.output())
            .await
            .expect("it starts");
        let said = if output.status.success() {
            output.stdout
        } else {
            output.stderr
        };
        String::from_utf8(said).expect("text")
    };
    assert_eq!(alert(&["list"]).await, "no alerts\n");
    let quiet = alert(&["silence", "--device", "quiet", "--for", "1h"]).await;
    assert!(quiet.contains("quiet for 3600 s"), "{quiet}");
    for name in ["quiet", "rig-1"] {
        let mut device = server.device(name).await;
        device.read(plain(0)).await;
        device.ack(0).await;
    }
    let opened = change(&mut subscriber, "opened").await;
    assert_eq!(opened.device, "rig-1", "the other one is silenced");
    let id = opened.id.to_string();
    let said = alert(&["ack", &id, "--why", "mine"]).await;
    assert!(said.contains("ann looks after it"), "{said}");
    let listed = alert(&["list"]).await;
    let row = listed
        .lines()
        .find(|line| line.contains("rig-1"))
        .expect("a row");
    for part in ["open", "warning", "gone", "ann", "no reading for"] {
        assert!(row.contains(part), "{row}");
    }
    let said = alert(&["ack", "999"]).await;
    assert!(said.contains("no such alert is open"), "{said}");
    let rules = alert(&["rules"]).await;
    assert!(
        rules.contains("silent") && rules.contains("config"),
        "{rules}"
    );
}
