//! The loop over real sockets against a small fake server which keeps readings, and cuts or refuses as told.

use super::*;
use crate::client::{Address, Limits, Options, Quiet, hello};
use futures_util::{SinkExt, StreamExt};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidegate_protocol::message::{Ack, FeatureInfo, Nack, ServerError, Welcome};
use tidegate_protocol::{
    CloseCode, Codec, DeviceMessage, ErrorCode, NackCode, Output, Values, Wire,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{
    Callback, ErrorResponse, Request, Response,
};
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

/// What one connection does.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// Answers everything.
    Well,
    /// Takes this many readings, answers all but the last, and is gone.
    CutAfter(usize),
    /// Says an error and closes.
    Refuse(ErrorCode, CloseCode),
    /// Takes readings and says nothing.
    Mute,
    /// Reads the request for an upgrade, says so much of an answer, and hangs up.
    HangUp(&'static str),
}

#[derive(Default)]
struct Shared {
    manners: Mutex<VecDeque<Manner>>,
    store: Mutex<BTreeMap<u64, Values>>,
    connections: Mutex<Vec<String>>,
}

struct Fake {
    url: String,
    shared: Arc<Shared>,
}

impl Fake {
    /// The listed manners, one a connection, then `Well` for ever.
    async fn start(manners: &[Manner]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared::default());
        shared.manners.lock().unwrap().extend(manners);
        let serving = shared.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let manner = serving
                    .manners
                    .lock()
                    .unwrap()
                    .pop_front()
                    .unwrap_or(Manner::Well);
                tokio::spawn(serve(socket, serving.clone(), manner));
            }
        });
        Self { url, shared }
    }

    fn target(&self, codec: Codec) -> Target {
        let address = Address::server(&self.url).unwrap();
        let mut target = Target::new(
            address,
            "pump-health".parse().unwrap(),
            "rig-1".parse().unwrap(),
        );
        target.codec = codec;
        target.options = Options {
            limits: Limits {
                unsettled: 64,
                in_flight: 16,
            },
            answer_timeout: Duration::from_millis(200),
            give_up_after: Duration::from_secs(10),
            drain: Duration::from_millis(200),
            resend: false,
        };
        target
    }

    fn stored(&self) -> usize {
        self.shared.store.lock().unwrap().len()
    }
}

/// Accepts the offered subprotocol and notes the path.
struct Accept<'a>(&'a Shared, &'a mut Codec);

impl Callback for Accept<'_> {
    fn on_request(
        self,
        request: &Request,
        mut response: Response,
    ) -> Result<Response, ErrorResponse> {
        let offer = request.headers()[SEC_WEBSOCKET_PROTOCOL].clone();
        *self.1 = Codec::from_subprotocol(offer.to_str().unwrap()).unwrap();
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, offer);
        self.0
            .connections
            .lock()
            .unwrap()
            .push(request.uri().to_string());
        Ok(response)
    }
}

async fn serve(mut socket: TcpStream, shared: Arc<Shared>, manner: Manner) {
    if let Manner::HangUp(word) = manner {
        let mut request = [0; 2048];
        let read = socket.read(&mut request).await.unwrap();
        assert!(request[..read].ends_with(b"\r\n\r\n"));
        return socket.write_all(word.as_bytes()).await.unwrap();
    }
    let mut codec = Codec::Json;
    let mut socket = accept_hdr_async(socket, Accept(&shared, &mut codec))
        .await
        .unwrap();
    if let Manner::Refuse(code, close) = manner {
        return refuse(socket, codec, code, close).await;
    }
    say(&mut socket, codec, &welcome(&shared)).await;
    let mut taken = 0;
    while let Some(Ok(frame)) = socket.next().await {
        if frame.is_close() {
            continue;
        }
        let Ok(DeviceMessage::Reading(reading)) = DeviceMessage::decode(codec, &frame.into_data())
        else {
            continue;
        };
        taken += 1;
        let answers = answer(&shared, reading.seq.unwrap(), &reading.values);
        match manner {
            Manner::Mute => continue,
            Manner::CutAfter(most) if taken >= most => return,
            _ => {}
        }
        for message in answers {
            say(&mut socket, codec, &message).await;
        }
    }
}

async fn refuse(
    mut socket: WebSocketStream<TcpStream>,
    codec: Codec,
    code: ErrorCode,
    close: CloseCode,
) {
    let error = ServerError {
        code,
        message: format!("because {code}"),
        retry_after_ms: Some(1),
    };
    say(&mut socket, codec, &ServerMessage::Error(error)).await;
    let frame = CloseFrame {
        code: close.code().into(),
        reason: close.reason().into(),
    };
    socket.close(Some(frame)).await.ok();
    while socket.next().await.is_some() {}
}

async fn say(socket: &mut WebSocketStream<TcpStream>, codec: Codec, message: &ServerMessage) {
    let bytes = message.to_bytes(codec);
    let frame = match codec {
        Codec::Json => Message::text(String::from_utf8(bytes).unwrap()),
        Codec::Bincode => Message::binary(bytes),
    };
    socket.send(frame).await.ok();
}

fn welcome(shared: &Shared) -> ServerMessage {
    let store = shared.store.lock().unwrap();
    ServerMessage::Welcome(Welcome {
        endpoint: "pump-health".into(),
        device: "rig-1".into(),
        epoch: 0,
        resume_from: store.last_key_value().map_or(0, |(seq, _)| seq + 1),
        features: vec![FeatureInfo {
            name: "a".into(),
            unit: "bar".into(),
        }],
        model: "m".into(),
        version: "1.0.0".into(),
        ping_s: 25,
        max_frame_bytes: 65_536,
    })
}

fn answer(shared: &Shared, seq: u64, values: &Values) -> Vec<ServerMessage> {
    let mut store = shared.store.lock().unwrap();
    if store.get(&seq).is_some_and(|held| held != values) {
        return vec![ServerMessage::Nack(Nack {
            epoch: None,
            seq: Some(seq),
            code: NackCode::SeqReused,
            message: "other values".into(),
        })];
    }
    store.insert(seq, values.clone());
    let high = *store.last_key_value().unwrap().0;
    let prediction = Prediction {
        epoch: None,
        seq,
        ts: 0,
        model: "m".into(),
        version: "1.0.0".into(),
        output: Output::Anomaly {
            score: 3.0,
            threshold: 2.0,
            anomaly: seq.is_multiple_of(10),
        },
        latency_us: 1,
    };
    let ack = Ack {
        epoch: None,
        seq: high,
        late: Vec::new(),
    };
    vec![
        ServerMessage::Prediction(prediction),
        ServerMessage::Ack(ack),
    ]
}

/// Readings 0..total, all due at once; with `endless` one more is always to come.
struct Count {
    next: u64,
    total: u64,
    endless: bool,
    offset: f32,
    start: Instant,
}

impl Count {
    fn to(total: u64) -> Self {
        Self {
            next: 0,
            total,
            endless: false,
            offset: 0.0,
            start: Instant::now(),
        }
    }

    fn reading(&self, seq: u64) -> Reading {
        Reading {
            seq: Some(seq),
            values: Values::Ordered(vec![seq as f32 + self.offset]),
            ..Reading::default()
        }
    }
}

impl Source for Count {
    fn due(&self) -> Option<Instant> {
        let far = self.start + Duration::from_secs(3_600);
        match self.next < self.total {
            true => Some(self.start),
            false => self.endless.then_some(far),
        }
    }

    fn take(&mut self, _now: Instant) -> Option<Reading> {
        self.next += 1;
        Some(self.reading(self.next - 1))
    }

    fn skip_below(&mut self, seq: u64) -> u64 {
        let skipped = seq.min(self.total).saturating_sub(self.next);
        self.next += skipped;
        skipped
    }

    fn probes(&self, below: u64) -> Vec<Reading> {
        (0..below.min(1)).map(|seq| self.reading(seq)).collect()
    }
}

async fn run(target: Target, mut source: Count) -> Outcome {
    stream(target, &mut source, &mut Quiet, &CancellationToken::new()).await
}

#[tokio::test]
async fn everything_is_acked_once_through_any_number_of_cuts() {
    for codec in [Codec::Json, Codec::Bincode] {
        let cuts = [
            Manner::CutAfter(1),
            Manner::CutAfter(7),
            Manner::CutAfter(30),
            Manner::CutAfter(2),
        ];
        let fake = Fake::start(&cuts).await;
        let outcome = run(fake.target(codec), Count::to(100)).await;
        assert!(outcome.error.is_none(), "{:?}", outcome.error);
        let tally = outcome.tally;
        assert_eq!((tally.sent, tally.predicted, tally.acked), (100, 100, 100));
        assert_eq!(
            (tally.anomalies, tally.reconnects, tally.nacked_total()),
            (10, 4, 0)
        );
        assert!(tally.resent > 0 && tally.round_trip_ms(0.5).is_some());
        assert_eq!(fake.stored(), 100);
        let connections = fake.shared.connections.lock().unwrap().clone();
        assert_eq!(connections[0], "/v1/stream/pump-health?device=rig-1");
        assert_eq!(
            connections[4],
            "/v1/stream/pump-health?device=rig-1&epoch=0"
        );
    }
}

#[tokio::test]
async fn a_second_run_sends_nothing_new() {
    let fake = Fake::start(&[]).await;
    run(fake.target(Codec::Json), Count::to(50)).await;
    let tally = run(fake.target(Codec::Json), Count::to(50)).await.tally;
    assert_eq!(
        (
            tally.already_stored,
            tally.sent,
            tally.acked,
            tally.predicted
        ),
        (50, 0, 0, 0)
    );
    let tally = run(fake.target(Codec::Bincode), Count::to(60)).await.tally;
    assert_eq!(
        (
            tally.already_stored,
            tally.sent,
            tally.acked,
            tally.predicted
        ),
        (50, 10, 10, 10)
    );
}

#[tokio::test]
async fn other_readings_under_the_same_numbers_stop_before_anything_new_is_sent() {
    let fake = Fake::start(&[]).await;
    run(fake.target(Codec::Json), Count::to(5)).await;
    let mut other = Count::to(9);
    other.offset = 0.5;
    let outcome = run(fake.target(Codec::Json), other).await;
    assert!(matches!(
        outcome.error,
        Some(ClientError::OtherReadings { seq: 0, .. })
    ));
    assert_eq!(fake.stored(), 5);
}

#[tokio::test]
async fn a_final_close_is_not_tried_again() {
    let fake = Fake::start(&[Manner::Refuse(ErrorCode::TakenOver, CloseCode::TakenOver)]).await;
    let outcome = run(fake.target(Codec::Json), Count::to(5)).await;
    let Some(ClientError::Refused { code, message, .. }) = outcome.error else {
        panic!("{outcome:?}")
    };
    assert_eq!(
        (code, message.as_str()),
        (Some(ErrorCode::TakenOver), "because taken_over")
    );
    assert_eq!(fake.shared.connections.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_passing_close_is_tried_again() {
    let fake = Fake::start(&[Manner::Refuse(ErrorCode::Overloaded, CloseCode::Overloaded)]).await;
    let outcome = run(fake.target(Codec::Json), Count::to(5)).await;
    assert!(outcome.error.is_none());
    assert_eq!((outcome.tally.acked, outcome.tally.reconnects), (5, 1));
}

#[tokio::test]
async fn a_connection_cut_in_its_handshake_is_tried_again() {
    let cuts = ["", "HTTP/1.1 101 Swit", ""];
    let cuts = cuts.map(Manner::HangUp);
    let fake = Fake::start(&cuts).await;
    let outcome = run(fake.target(Codec::Json), Count::to(20)).await;
    assert!(outcome.error.is_none(), "{:?}", outcome.error);
    assert_eq!((fake.stored(), outcome.tally.reconnects), (20, 3));
    // The first question too: somebody is there.
    let fake = Fake::start(&cuts).await;
    let welcome = hello(&fake.target(Codec::Json)).await.unwrap();
    assert_eq!(welcome.device, "rig-1");
}

#[tokio::test]
async fn a_peer_that_speaks_no_websocket_is_not_tried_again() {
    let fake = Fake::start(&[Manner::HangUp("SSH-2.0-OpenSSH_9.2\r\n\r\n")]).await;
    let outcome = run(fake.target(Codec::Json), Count::to(3)).await;
    assert!(matches!(outcome.error, Some(ClientError::Refused { .. })));
    assert_eq!(outcome.tally.reconnects, 0);
}

#[tokio::test]
async fn a_mute_connection_is_made_anew() {
    let fake = Fake::start(&[Manner::Mute]).await;
    let outcome = run(fake.target(Codec::Json), Count::to(5)).await;
    assert_eq!((outcome.tally.acked, outcome.tally.reconnects), (5, 1));
}

#[tokio::test]
async fn patience_with_a_server_that_never_answers_ends() {
    let fake = Fake::start(&[Manner::Mute; 100]).await;
    let mut target = fake.target(Codec::Json);
    target.options.give_up_after = Duration::from_millis(300);
    let outcome = run(target, Count::to(5)).await;
    assert!(
        matches!(outcome.error, Some(ClientError::GaveUp { .. })),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_stop_waits_for_what_is_under_way_and_ends_an_endless_source() {
    let fake = Fake::start(&[]).await;
    let mut source = Count::to(20);
    source.endless = true;
    let stop = CancellationToken::new();
    struct StopAt(u64, CancellationToken);
    impl Observer for StopAt {
        fn progress(&mut self, tally: &Tally) {
            if tally.acked >= self.0 {
                self.1.cancel();
            }
        }
    }
    let mut observer = StopAt(20, stop.clone());
    let outcome = stream(fake.target(Codec::Json), &mut source, &mut observer, &stop).await;
    assert!(outcome.error.is_none());
    assert_eq!(outcome.tally.acked, 20);
}

#[tokio::test]
async fn a_hello_brings_the_welcome_and_leaves() {
    let fake = Fake::start(&[]).await;
    let welcome = hello(&fake.target(Codec::Json)).await.unwrap();
    assert_eq!((welcome.features.len(), welcome.resume_from), (1, 0));
    let gone = Fake::start(&[Manner::Refuse(
        ErrorCode::UnknownEndpoint,
        CloseCode::BadRequest,
    )])
    .await;
    let error = hello(&gone.target(Codec::Json))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.ends_with("because unknown_endpoint"), "{error}");
}
