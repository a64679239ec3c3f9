//! Devices that do not read, that vanish without closing, and that send more than the store takes.

use super::gate::Gate;
use super::lock::Intruder;
use super::{metric, stored_as_if_undisturbed};
use crate::common::http::{Answer, request, samples};
use crate::common::peer::wish;
use crate::common::{Broker, Device, Process, Subscriber, TestServer, batch, plain, reading, rig};
use crate::mqtt::subscribed;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tidegate_protocol::live::DeviceState;
use tidegate_protocol::{Codec, ErrorCode, LiveData, ServerMessage};
use tokio::net::TcpSocket;

/// A server in its own process, with metrics of its own.
async fn serve(data_dir: &Path, variables: &[(&str, &str)]) -> Process {
    Process::serve_with(data_dir, &[], |command| {
        command.envs(variables.iter().copied());
    })
    .await
}

/// Until the server says that the device is gone.
async fn gone(watcher: &mut Subscriber, device: &str) {
    loop {
        if let LiveData::Device(told) = watcher.event().await.data
            && told.device == device
            && told.state == DeviceState::Offline
        {
            return;
        }
    }
}

async fn watcher(addr: SocketAddr) -> Subscriber {
    let mut watcher = Subscriber::connect(addr, Codec::Json).await;
    watcher.subscribe(wish(1, "devices/*")).await;
    watcher
}

#[tokio::test]
async fn a_device_that_stops_reading_is_closed_and_holds_up_nobody() {
    let (dir, values) = (tempfile::tempdir().unwrap(), rig(61, 60_000));
    let liveness = [
        ("TIDEGATE_CONNECTIONS__PING_S", "1"),
        ("TIDEGATE_CONNECTIONS__PONG_S", "1"),
    ];
    let server = serve(dir.path(), &liveness).await;
    let addr = server.addr();
    let mut watcher = watcher(addr).await;
    // Little room for answers on the way, so that they soon wait in the server.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("a small buffer");
    let tcp = socket.connect(addr).await.expect("a connection");
    let mut deaf = Device::open_over(tcp, "device=deaf", Codec::Json).await;
    let mut sent = 0;
    while sent < values.len() {
        let end = sent + 100;
        let readings = batch(&values, sent, end);
        let room = deaf.send(&readings);
        // No room: the server reads no more of one that does not read.
        if tokio::time::timeout(Duration::from_millis(300), room)
            .await
            .is_err()
        {
            break;
        }
        sent = end;
    }
    assert!(
        sent < values.len(),
        "everything was read without an answer being heard"
    );
    let mut other = Device::open(addr, "device=other", Codec::Json).await;
    for seq in 0..100 {
        other.still_works(seq).await;
    }
    gone(&mut watcher, "deaf").await;
    // Its socket goes too, though it is still open at the other end.
    super::patiently("one connection and no second one", async || {
        metric(addr, "tidegate_connections{kind=\"stream\"}").await == 1.0
    })
    .await;
    let closed = metric(addr, "tidegate_closed_total{code=\"4008\"}").await;
    assert_eq!(closed, 1.0);
    drop(deaf);
    // It comes back and reads this time.
    let mut back = Device::open(addr, "device=deaf", Codec::Json).await;
    let from = usize::try_from(back.welcome.resume_from).unwrap();
    let until = sent.max(from) + 500;
    back.stream(&values, from, until).await;
    stored_as_if_undisturbed(addr, "deaf", &values[..until]).await;
}

#[tokio::test]
async fn a_device_behind_a_wire_that_swallows_everything_is_noticed_and_goes_on_elsewhere() {
    let values = rig(62, 600);
    let server = TestServer::start_with(|raw| {
        raw.connections.ping_s = 1;
        raw.connections.pong_s = 1;
    })
    .await;
    let mut watcher = watcher(server.addr()).await;
    let gate = Gate::before(server.addr()).await;
    let mut device = Device::open(gate.addr(), "device=rig-1", Codec::Json).await;
    device.stream(&values, 0, 420).await;
    gate.swallow_all();
    // Nothing is closed on either side, and nothing arrives.
    device.send(&batch(&values, 420, 450)).await;
    gone(&mut watcher, "rig-1").await;
    let mut device = server.device("rig-1").await;
    assert_eq!(device.welcome.resume_from, 420);
    device.stream(&values, 420, 600).await;
    stored_as_if_undisturbed(server.addr(), "rig-1", &values).await;
    assert!(server.stop().await, "something was not acknowledged");
}

#[tokio::test]
async fn a_subscriber_behind_a_wire_that_swallows_everything_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let liveness = [
        ("TIDEGATE_CONNECTIONS__PING_S", "1"),
        ("TIDEGATE_CONNECTIONS__PONG_S", "1"),
    ];
    let server = serve(dir.path(), &liveness).await;
    let gate = Gate::before(server.addr()).await;
    let mut subscriber = Subscriber::connect(gate.addr(), Codec::Json).await;
    subscriber
        .subscribe(wish(1, "predictions/pump-health/*"))
        .await;
    gate.swallow_all();
    super::patiently("the subscriber's end", async || {
        metric(server.addr(), "tidegate_closed_total{code=\"4012\"}").await == 1.0
    })
    .await;
}

/// Devices that send `each` readings as fast as the server reads, while the store takes none for a while.
async fn flood(addr: SocketAddr, devices: usize, each: usize) -> Vec<tokio::task::JoinHandle<()>> {
    let mut sending = Vec::new();
    for number in 0..devices {
        sending.push(tokio::spawn(async move {
            let query = format!("device=rig-{number}");
            let mut device = Device::open(addr, &query, Codec::Bincode).await;
            let values = rig(number as u64, each);
            device.stream(&values, 0, each).await;
        }));
    }
    sending
}

#[tokio::test]
async fn a_flood_waits_in_the_sockets_until_the_store_takes_it() {
    const DEVICES: usize = 20;
    const EACH: usize = 500;
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), &[("TIDEGATE_STORE__QUEUE", "1024")]).await;
    let addr = server.addr();
    let mut intruder = Intruder::open(dir.path()).await;
    intruder.hold().await;
    let sending = flood(addr, DEVICES, EACH).await;
    let full = async || metric(addr, "tidegate_store_queue_rows").await > 900.0;
    super::patiently("a full queue", full).await;
    // Nothing more is taken than there is room for, and nobody is turned away for it.
    let taken = metric(addr, "tidegate_predictions_total").await;
    assert!(taken <= 1_024.0 + 4_096.0, "{taken} readings were taken");
    assert!(metric(addr, "tidegate_store_queue_rows").await <= 1_024.0);
    intruder.release().await;
    for sending in sending {
        sending.await.expect("every reading was acked");
    }
    assert_eq!(
        metric(addr, "tidegate_closed_total{code=\"4013\"}").await,
        0.0
    );
    for number in 0..DEVICES {
        let device = format!("rig-{number}");
        let numbers: Vec<u64> = samples(addr, &device).await.iter().map(|s| s.seq).collect();
        assert_eq!(numbers, (0..EACH as u64).collect::<Vec<_>>());
    }
    stored_as_if_undisturbed(addr, "rig-7", &rig(7, EACH)).await;
}

#[tokio::test]
async fn a_store_without_room_for_too_long_closes_with_a_time_to_come_back() {
    const EACH: usize = 3_000;
    let (dir, values) = (tempfile::tempdir().unwrap(), rig(63, EACH));
    let variables = [
        ("TIDEGATE_STORE__QUEUE", "1024"),
        ("TIDEGATE_STORE__MAX_BATCH", "64"),
        ("TIDEGATE_CONNECTIONS__OVERLOAD_CLOSE_S", "1"),
    ];
    let server = serve(dir.path(), &variables).await;
    let addr = server.addr();
    let mut intruder = Intruder::open(dir.path()).await;
    intruder.hold().await;
    let mut device = Device::open(addr, "device=rig-1", Codec::Json).await;
    for from in (0..EACH).step_by(100) {
        device.send(&batch(&values, from, from + 100)).await;
    }
    let (error, code) = device.error_and_close().await;
    assert_eq!((error.code, code), (ErrorCode::Overloaded, 4013));
    assert!(error.retry_after_ms.is_some(), "{error:?}");
    // HTTP is told the same in its own words; the last rows of the queue were too few for a whole batch.
    let mut callers: FuturesUnordered<_> = (0..40).map(|number| ask(addr, number)).collect();
    // Those that found room wait for their commit: the first answer is that of one that found none.
    let first = callers.next().await.expect("one that finds no room");
    let turned_away = first.expect("an answer");
    let head = turned_away.head.to_lowercase();
    assert!(head.contains("retry-after: "), "{turned_away:?}");
    turned_away.problem(503, "overloaded");
    intruder.release().await;
    let mut device = Device::open(addr, "device=rig-1", Codec::Json).await;
    let from = usize::try_from(device.welcome.resume_from).unwrap();
    assert!(from < EACH, "everything was taken");
    device.stream(&values, from, EACH).await;
    stored_as_if_undisturbed(addr, "rig-1", &values).await;
}

/// One reading over HTTP.
fn ask(addr: SocketAddr, number: u32) -> tokio::task::JoinHandle<Answer> {
    tokio::spawn(async move {
        let path = format!("/api/v1/pump-health/predict?device=caller-{number}");
        let body = "[0.02,0.04,1.33,0.05,79.3,26.0,233.1,32.0]";
        request(addr, "POST", &path, Some(body)).await
    })
}

#[tokio::test]
async fn a_flood_over_mqtt_waits_at_the_broker_and_loses_nothing() {
    const COUNT: usize = 3_000;
    let values = rig(64, COUNT);
    let broker = Broker::start().await;
    let url = broker.url();
    let server = TestServer::start_with(|raw| {
        raw.mqtt.url = Some(url);
        raw.mqtt.receive_maximum = 4;
        raw.store.queue = 1_024;
    })
    .await;
    let mut peer = broker.peer().await;
    subscribed(&mut peer).await;
    let mut intruder = Intruder::open(&server.data_dir()).await;
    intruder.hold().await;
    for (seq, values) in values.iter().enumerate() {
        peer.read("rig-1", Codec::Json, reading(seq as u64, values))
            .await;
    }
    intruder.release().await;
    super::patiently("every reading", async || {
        let newest = server
            .get("/api/v1/samples?device=rig-1&order=desc&limit=1")
            .await;
        newest.json()["samples"][0]["seq"] == COUNT as u64 - 1
    })
    .await;
    stored_as_if_undisturbed(server.addr(), "rig-1", &values).await;
    assert!(server.stop().await, "something was not acknowledged");
}

#[tokio::test]
async fn more_connections_and_sessions_than_there_is_room_for_are_told_to_come_back() {
    let server = TestServer::start_with(|raw| {
        raw.sessions.max = 2;
        raw.sessions.idle_s = 1;
    })
    .await;
    let mut first = server.device("rig-1").await;
    first.still_works(0).await;
    let mut second = server.device("rig-2").await;
    second.still_works(0).await;
    let path = "pump-health?device=rig-3";
    let mut third = Device::connect(server.addr(), path, Codec::Json).await;
    let (error, code) = crate::common::peer::error_and_close(&mut third).await;
    assert_eq!((error.code, code), (ErrorCode::Overloaded, 4013));
    drop(second);
    // Its session rests, and leaves memory for the third.
    super::patiently("room", async || {
        let mut third = Device::connect(server.addr(), path, Codec::Json).await;
        third
            .expect("an answer", |message| {
                Some(matches!(message, ServerMessage::Welcome(_)))
            })
            .await
    })
    .await;
    first.read(plain(1)).await;
    first.ack(1).await;
}

/// The bounds that the tests above lean on can be read where they are watched.
#[tokio::test]
async fn what_waits_for_devices_shows_and_goes_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), &[]).await;
    let addr = server.addr();
    let mut device = Device::open(addr, "device=rig-1&push=committed", Codec::Json).await;
    device.still_works(0).await;
    let mut intruder = Intruder::open(dir.path()).await;
    intruder.hold().await;
    // Sent twice before its commit: the second one waits for it.
    for _ in 0..2 {
        device.read(plain(1)).await;
    }
    super::patiently("the repeated reading", async || {
        metric(addr, "tidegate_repeats_waiting").await == 1.0
    })
    .await;
    intruder.release().await;
    device.ack(1).await;
    super::patiently("nothing that waits", async || {
        let repeats = metric(addr, "tidegate_repeats_waiting").await;
        let messages = metric(addr, "tidegate_outbox_messages").await;
        repeats == 0.0 && messages == 0.0
    })
    .await;
    assert_eq!(samples(addr, "rig-1").await.len(), 2);
}
