//! Who holds a stream, and who may connect: takeover, limits, origins.

use crate::common::peer::{Peer, error_and_close, wish};
use crate::common::{Device, ENDPOINT, TestServer, batch, eventually, rig};
use tidegate_protocol::{Codec, ErrorCode, LiveMessage, LiveRequest, ServerMessage};

/// Opens a stream as a page of `origin` does.
async fn from_page(server: &TestServer, origin: &str) -> Peer<ServerMessage> {
    let path = format!("/v1/stream/{ENDPOINT}?device=page");
    Peer::connect(server.addr(), &path, Codec::Json, &[("origin", origin)]).await
}

/// Whether the first message is the welcome.
async fn is_welcomed(peer: &mut Peer<ServerMessage>) -> bool {
    peer.expect("an answer", |message| {
        Some(matches!(message, ServerMessage::Welcome(_)))
    })
    .await
}

#[tokio::test]
async fn the_newer_connection_takes_over_and_goes_on() {
    let server = TestServer::start().await;
    let mut older = server.device("rig-1").await;
    older.still_works(0).await;
    older.still_works(1).await;
    let mut newer = server.device("rig-1").await;
    assert_eq!(newer.welcome.resume_from, 2);
    let (error, close) = older.error_and_close().await;
    assert_eq!((error.code, close), (ErrorCode::TakenOver, 4502));
    newer.still_works(2).await;
    newer.still_works(3).await;
}

/// What the older one had in flight is on one side of `resume_from` or the other, never on both and never on none.
#[tokio::test]
async fn a_takeover_in_the_middle_of_a_burst_loses_and_doubles_nothing() {
    const BURST: usize = 300;
    let server = TestServer::start().await;
    let values = rig(3, BURST + 50);
    let mut older = server.device("rig-1").await;
    for first in (0..BURST).step_by(10) {
        older.send(&batch(&values, first, first + 10)).await;
    }
    older.prediction(0).await;
    let mut newer = server.device("rig-1").await;
    let from = usize::try_from(newer.welcome.resume_from).unwrap();
    newer.stream(&values, from, values.len()).await;
    let (error, close) = older.error_and_close().await;
    assert_eq!((error.code, close), (ErrorCode::TakenOver, 4502));
    let stored: Vec<u64> = server
        .samples("rig-1")
        .await
        .iter()
        .map(|s| s.seq)
        .collect();
    let sent: Vec<u64> = (0..values.len() as u64).collect();
    assert_eq!(stored, sent);
}

#[tokio::test]
async fn a_connection_over_the_limit_is_closed_until_there_is_room() {
    let server = TestServer::start_with(|raw| raw.connections.max = 1).await;
    let addr = server.addr();
    let mut first = server.device("rig-1").await;
    let path = format!("{ENDPOINT}?device=rig-2");
    let mut second = Device::connect(addr, &path, Codec::Json).await;
    let (error, close) = error_and_close(&mut second).await;
    assert_eq!((error.code, close), (ErrorCode::Limit, 4504));
    // Subscribers count too, and the first is not touched.
    let mut subscriber = server.subscriber().await;
    assert_eq!(subscriber.error().await.code, ErrorCode::Limit);
    assert_eq!(subscriber.close_code().await, 4504);
    first.still_works(0).await;
    drop(first);
    eventually("room", || async {
        let mut peer = Device::connect(addr, &path, Codec::Json).await;
        is_welcomed(&mut peer).await
    })
    .await;
}

#[tokio::test]
async fn a_page_of_another_origin_is_refused() {
    let server = TestServer::start().await;
    let other_port = "http://127.0.0.1:1";
    for origin in ["http://elsewhere.example", other_port, "null"] {
        let mut page = from_page(&server, origin).await;
        let (error, close) = error_and_close(&mut page).await;
        assert_eq!((error.code, close), (ErrorCode::OriginNotAllowed, 4507));
        let headers = [("origin", origin)];
        let mut live: Peer<LiveMessage> =
            Peer::connect(server.addr(), "/v1/live", Codec::Json, &headers).await;
        let code = live
            .expect("an error", |message| match message {
                LiveMessage::Error(error) => Some(error.code),
                _ => None,
            })
            .await;
        assert_eq!(code, ErrorCode::OriginNotAllowed);
        assert_eq!(live.close_code().await, 4507);
    }
}

#[tokio::test]
async fn the_servers_own_page_a_listed_one_and_no_page_may_connect() {
    let listed = "https://plant.example";
    let server = TestServer::start_with(|raw| raw.allowed_origins = vec![listed.into()]).await;
    let own = format!("http://{}", server.addr());
    for origin in [own.as_str(), listed] {
        let mut page = from_page(&server, origin).await;
        assert!(is_welcomed(&mut page).await, "{origin}");
    }
    server.device("rig-1").await.still_works(0).await;
}

#[tokio::test]
async fn a_stop_acks_what_was_taken_before_it_closes() {
    const TAKEN: usize = 500;
    // Commits are rare, so that the stop finds readings that are not committed.
    let server = TestServer::start_with(|raw| raw.store.commit_interval_ms = 300).await;
    let mut subscriber = server.subscriber().await;
    let topic = "predictions/pump-health/rig-1";
    subscriber.subscribe(wish(1, topic)).await;
    let mut device = server.device("rig-1").await;
    device.send(&batch(&rig(1, TAKEN), 0, TAKEN)).await;
    device.prediction(TAKEN as u64 - 1).await;
    let stop = tokio::spawn(server.stop());
    let (error, close) = device.error_and_close().await;
    assert_eq!((error.code, close), (ErrorCode::ShuttingDown, 4001));
    let acked = device
        .heard()
        .iter()
        .rev()
        .find_map(|message| match message {
            ServerMessage::Ack(ack) => Some(ack.seq),
            _ => None,
        });
    assert_eq!(acked, Some(TAKEN as u64 - 1));
    // Requests are no longer heard.
    subscriber.send(&LiveRequest::Unsubscribe { id: 1 }).await;
    assert_eq!(subscriber.close_code().await, 4001);
    assert!(stop.await.unwrap(), "the stop was not clean");
}
