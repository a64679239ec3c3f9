//! The yardsticks of the road as child processes: what is left of a server when everything that Tidegate does is taken away.
//!
//! An echo on bare tokio-tungstenite, with a flush a message or with coalesced flushes; a broadcast of prepared frames; a rumqttc loop that takes,
//! answers with prepared bytes, and acknowledges by hand. Each serves until it is killed; its port, or 0, is its only line.

use anyhow::Context;
use futures_util::{FutureExt, SinkExt, StreamExt};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use std::collections::BTreeMap;
use std::time::Duration;
use tidegate_protocol::live::{Event as LiveEvent, LiveData};
use tidegate_protocol::message::{Ack, Prediction};
use tidegate_protocol::{Codec, DeviceMessage, LiveMessage, Output, Sample, ServerMessage, Wire};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// Frames that may wait for a socket of the broadcast.
const WAITING: usize = 1_024;
/// Publishes that the rumqttc loop may be sent before it acknowledges: as many as the server takes.
const RECEIVE_MAXIMUM: u16 = 1_024;
/// Answers that may wait in the rumqttc loop.
const ANSWERS: usize = 20_000;

/// Serves as `kind`, with its argument.
pub async fn serve(kind: &str, argument: &str) -> anyhow::Result<()> {
    match kind {
        "echo" => echo(false).await,
        "coalesced" => echo(true).await,
        "broadcast" => broadcast(argument.parse()?).await,
        "rumqttc" => rumqttc(argument.parse()?).await,
        _ => anyhow::bail!("no yardstick {kind:?}"),
    }
}

async fn listen() -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    Ok(listener)
}

/// Buffers as Tidegate's: the library's own would cost 128 KiB a connection.
fn buffers() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4 * 1024)
        .write_buffer_size(16 * 1024)
}

async fn echo(coalesced: bool) -> anyhow::Result<()> {
    let listener = listen().await?;
    while let Ok((tcp, _)) = listener.accept().await {
        tokio::spawn(echo_one(tcp, coalesced));
    }
    Ok(())
}

async fn echo_one(tcp: TcpStream, coalesced: bool) -> anyhow::Result<()> {
    tcp.set_nodelay(true)?;
    let config = coalesced.then(buffers);
    let mut socket = tokio_tungstenite::accept_async_with_config(tcp, config).await?;
    while let Some(message) = socket.next().await {
        let mut next = Some(message?);
        while let Some(message) = next.take().filter(|m| m.is_text() || m.is_binary()) {
            if !coalesced {
                socket.send(message).await?;
                break;
            }
            socket.feed(message).await?;
            next = socket.next().now_or_never().flatten().transpose()?;
        }
        socket.flush().await?;
    }
    Ok(())
}

/// `per_s` events a second to everyone, each encoded once.
async fn broadcast(per_s: f64) -> anyhow::Result<()> {
    let listener = listen().await?;
    let (sender, _) = broadcast::channel(WAITING);
    let to_all = sender.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / per_s));
        for offset in 1.. {
            ticks.tick().await;
            // Nobody may be there.
            let _ = to_all.send(text(&event(offset)));
        }
    });
    while let Ok((tcp, _)) = listener.accept().await {
        tokio::spawn(hear(tcp, sender.subscribe()));
    }
    Ok(())
}

async fn hear(tcp: TcpStream, mut frames: broadcast::Receiver<Message>) -> anyhow::Result<()> {
    tcp.set_nodelay(true)?;
    #[allow(clippy::result_large_err, reason = "the library's own type")]
    let choose = |_: &Request, mut response: Response| {
        let name = Codec::Json.subprotocol().parse().expect("a header's value");
        let headers = response.headers_mut();
        headers.insert("sec-websocket-protocol", name);
        Ok(response)
    };
    let config = Some(buffers());
    let mut socket = tokio_tungstenite::accept_hdr_async_with_config(tcp, choose, config).await?;
    // The wish to listen, answered as the server does.
    socket.next().await.context("gone")??;
    let answer = LiveMessage::Subscribed {
        id: 1,
        log: "bare".into(),
        offset: 0,
        recovered: true,
    };
    socket.send(text(&answer)).await?;
    while let Ok(frame) = frames.recv().await {
        socket.feed(frame).await?;
        while let Ok(frame) = frames.try_recv() {
            socket.feed(frame).await?;
        }
        socket.flush().await?;
    }
    Ok(())
}

fn text(message: &LiveMessage) -> Message {
    let bytes = message.to_bytes(Codec::Json);
    Message::text(String::from_utf8(bytes).unwrap_or_default())
}

/// An event as long as the server's.
fn event(offset: u64) -> LiveMessage {
    let sample = Sample {
        id: offset,
        endpoint: "pump-health".into(),
        device: "bench-1770000000000-0".into(),
        epoch: 0,
        seq: offset,
        ts: 1_770_000_000_000,
        received_at: 1_770_000_000_000,
        values: super::common::device::values(offset).to_vec(),
        output: answer(),
        model: "mewma".into(),
        version: "1.0.0".into(),
        arm: None,
        latency_us: 100,
        flags: Vec::new(),
    };
    LiveMessage::Event(LiveEvent {
        offset,
        topic: "predictions/pump-health/bench-1770000000000-0".into(),
        data: LiveData::Sample(sample),
    })
}

fn answer() -> Output {
    Output::Anomaly {
        score: 0.123_456_7,
        threshold: 0.9,
        anomaly: false,
    }
}

/// Takes readings at the broker on `port`, answers each with a prediction and an ack, acknowledges it by hand.
async fn rumqttc(port: u16) -> anyhow::Result<()> {
    let options = |name: &str| {
        let mut options = MqttOptions::new(name, "127.0.0.1", port);
        // Without it an answer waits 40 ms for the broker's acknowledgement of the one before.
        let mut network = rumqttc::NetworkOptions::new();
        network.set_tcp_nodelay(true);
        options.set_network_options(network);
        options
            .set_receive_maximum(Some(RECEIVE_MAXIMUM))
            .set_manual_acks(true);
        options
    };
    // As the server has it: one client takes, another answers.
    let (out, mut outgoing) = AsyncClient::new(options("bare-out"), ANSWERS);
    tokio::spawn(async move { while outgoing.poll().await.is_ok() {} });
    let (input, mut incoming) = AsyncClient::new(options("bare-in"), ANSWERS);
    input
        .subscribe("tidegate/+/+/readings", QoS::AtLeastOnce)
        .await?;
    // Acks that are due: one a device covers what came meanwhile, as the server's do.
    let mut due = BTreeMap::new();
    loop {
        let event = match incoming.poll().now_or_never() {
            Some(event) => event?,
            None => {
                for (base, ack) in std::mem::take(&mut due) {
                    say(&out, format!("{base}acks"), &ack)?;
                }
                incoming.poll().await?
            }
        };
        match event {
            Event::Incoming(Packet::SubAck(_)) => println!("0"),
            Event::Incoming(Packet::Publish(publish)) => {
                let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                let base = topic.trim_end_matches("readings");
                let (prediction, ack) = answers(&publish.payload)?;
                say(&out, format!("{base}predictions"), &prediction)?;
                due.insert(base.to_owned(), ack);
                input.try_ack(&publish)?;
            }
            _ => {}
        }
    }
}

fn say(out: &AsyncClient, topic: String, message: &ServerMessage) -> anyhow::Result<()> {
    let bytes = message.to_bytes(Codec::Json);
    Ok(out.try_publish(topic, QoS::AtLeastOnce, false, bytes)?)
}

fn answers(payload: &[u8]) -> anyhow::Result<(ServerMessage, ServerMessage)> {
    let DeviceMessage::Reading(reading) = DeviceMessage::decode(Codec::Json, payload)? else {
        anyhow::bail!("not a reading");
    };
    let (epoch, seq) = (reading.epoch, reading.seq.context("a number")?);
    let prediction = Prediction {
        epoch,
        seq,
        ts: 1_770_000_000_000,
        model: "mewma".into(),
        version: "1.0.0".into(),
        output: answer(),
        latency_us: 100,
    };
    let ack = Ack {
        epoch,
        seq,
        late: Vec::new(),
    };
    Ok((
        ServerMessage::Prediction(prediction),
        ServerMessage::Ack(ack),
    ))
}
