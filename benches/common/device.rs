//! A cheap device: prepared values, replies told apart by their first bytes, so that the client costs little beside the server.
//!
//! It counts its readings with seq and checks that each is predicted once and acked once. It sends at set times, whatever comes back: a latency
//! counts from the time that it was due. Where a closed loop or very many connections are wanted there is `tidegate::load`.

use super::PATIENCE;
use super::tally::Tally;
use anyhow::{Context, bail, ensure};
use futures_util::{FutureExt, SinkExt, StreamExt};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tidegate_protocol::{Codec, DeviceMessage, Reading, ServerMessage, Values, Wire};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;

/// Values of a reading.
const FEATURES: usize = 8;

/// When an open loop's readings are due.
#[derive(Clone, Copy)]
pub struct Pace {
    pub first: Instant,
    pub every: Duration,
}

impl Pace {
    /// When reading number `index` of the loop is due.
    pub fn due(self, index: u64) -> Instant {
        self.first + Duration::from_secs_f64(self.every.as_secs_f64() * index as f64)
    }
}

pub struct Device {
    socket: WebSocketStream<TcpStream>,
    codec: Codec,
    next_seq: u64,
    /// Sending times of what is not predicted yet, and of what is not acked yet (from `acked` on).
    waiting: VecDeque<Instant>,
    unacked: VecDeque<Instant>,
    acked: u64,
}

impl Device {
    /// A device of a Tidegate server; its next reading is the one that the welcome asks for.
    pub async fn connect(port: u16, codec: Codec, name: &str) -> anyhow::Result<Self> {
        let mut device = Self::open(port, codec, name).await?;
        let welcome = device.hear().await?;
        let bytes = welcome.into_data();
        match ServerMessage::decode(codec, &bytes)? {
            ServerMessage::Welcome(welcome) => device.next_seq = welcome.resume_from,
            other => bail!("{other:?} instead of a welcome"),
        }
        device.acked = device.next_seq;
        Ok(device)
    }

    async fn open(port: u16, codec: Codec, name: &str) -> anyhow::Result<Self> {
        let url = format!("ws://127.0.0.1:{port}/v1/stream/pump-health?device={name}");
        let mut request = url.into_client_request()?;
        let name = HeaderValue::from_static(codec.subprotocol());
        request.headers_mut().insert("sec-websocket-protocol", name);
        let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
        tcp.set_nodelay(true)?;
        let (socket, _) = tokio_tungstenite::client_async(request, tcp).await?;
        Ok(Self {
            socket,
            codec,
            next_seq: 0,
            waiting: VecDeque::new(),
            unacked: VecDeque::new(),
            acked: 0,
        })
    }

    /// The reading that comes next.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Readings that wait for their ack.
    pub fn unacked(&self) -> usize {
        self.unacked.len()
    }

    /// Open loop: readings leave when they are due until the run is over, then everything is awaited.
    pub async fn pace(&mut self, pace: Pace, tally: &mut Tally) -> anyhow::Result<()> {
        let mut sent = 0;
        while !tally.is_over() {
            let now = Instant::now();
            while pace.due(sent) <= now {
                self.feed(pace.due(sent)).await?;
                sent += 1;
            }
            self.socket.flush().await?;
            let due = tokio::time::sleep_until(pace.due(sent).into());
            tokio::select! {
                heard = self.hear_some(tally) => heard?,
                () = due => {}
            }
        }
        self.finish(tally).await
    }

    async fn finish(&mut self, tally: &mut Tally) -> anyhow::Result<()> {
        while !self.waiting.is_empty() || !self.unacked.is_empty() {
            self.hear_some(tally).await?;
        }
        Ok(())
    }

    /// One reading, as its own message.
    pub async fn send(&mut self) -> anyhow::Result<()> {
        self.feed(Instant::now()).await?;
        Ok(self.socket.flush().await?)
    }

    /// Many readings in one message.
    pub async fn send_batch(&mut self, readings: u64) -> anyhow::Result<()> {
        let batch = (0..readings).map(|index| reading(self.next_seq + index));
        let message = DeviceMessage::Batch(batch.collect());
        self.note(readings, Instant::now());
        let frame = tidegate::socket::frame(self.codec, message.to_bytes(self.codec));
        Ok(self.socket.send(frame).await?)
    }

    /// Waits until at most `most` readings are without ack.
    pub async fn wait_for_acks(&mut self, most: usize, tally: &mut Tally) -> anyhow::Result<()> {
        while self.unacked.len() > most {
            self.hear_some(tally).await?;
        }
        Ok(())
    }

    async fn hear(&mut self) -> anyhow::Result<Message> {
        let next = tokio::time::timeout(PATIENCE, self.socket.next()).await;
        Ok(next
            .context("a prediction or an ack is missing")?
            .context("closed")??)
    }

    /// The next message and all that are there already.
    async fn hear_some(&mut self, tally: &mut Tally) -> anyhow::Result<()> {
        let message = self.hear().await?;
        self.count(&message, tally)?;
        while let Some(Some(message)) = self.socket.next().now_or_never() {
            self.count(&message?, tally)?;
        }
        Ok(())
    }

    async fn feed(&mut self, due: Instant) -> anyhow::Result<()> {
        let seq = self.next_seq;
        let message = match self.codec {
            Codec::Json => Message::text(json(seq)),
            Codec::Bincode => {
                Message::binary(DeviceMessage::Reading(reading(seq)).to_bytes(Codec::Bincode))
            }
        };
        self.note(1, due);
        Ok(self.socket.feed(message).await?)
    }

    fn note(&mut self, readings: u64, sent: Instant) {
        self.next_seq += readings;
        for _ in 0..readings {
            self.waiting.push_back(sent);
            self.unacked.push_back(sent);
        }
    }

    fn count(&mut self, message: &Message, tally: &mut Tally) -> anyhow::Result<()> {
        let bytes: &[u8] = match message {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => bytes,
            Message::Close(frame) => bail!("closed: {frame:?}"),
            _ => return Ok(()),
        };
        let is_prediction = match self.codec {
            Codec::Json => bytes.starts_with(br#"{"type":"prediction""#),
            // The version byte, then the variant.
            Codec::Bincode => bytes.starts_with(&[1, 1]),
        };
        if is_prediction {
            let sent = self.waiting.pop_front();
            let sent = sent.context("a prediction nobody asked for")?;
            return tally.note_prediction(sent);
        }
        match ServerMessage::decode(self.codec, bytes)? {
            ServerMessage::Ack(ack) => self.settle(ack.seq, tally),
            other => bail!("unexpected {other:?}"),
        }
    }

    fn settle(&mut self, seq: u64, tally: &mut Tally) -> anyhow::Result<()> {
        ensure!(
            seq < self.next_seq,
            "ack {seq} of a reading that was never sent"
        );
        while self.acked <= seq {
            let sent = self.unacked.pop_front().context("acked twice")?;
            self.acked += 1;
            tally.note_ack(sent)?;
        }
        Ok(())
    }
}

pub fn values(seq: u64) -> [f32; FEATURES] {
    let wobble = (seq % 17) as f32 * 0.01;
    [
        0.026,
        0.04,
        1.33 + wobble,
        0.05 + wobble,
        79.3,
        26.0,
        233.1 - wobble,
        32.0,
    ]
}

fn reading(seq: u64) -> Reading {
    Reading {
        seq: Some(seq),
        values: Values::Ordered(values(seq).to_vec()),
        ..Reading::default()
    }
}

fn json(seq: u64) -> String {
    let [a, b, c, d, e, f, g, h] = values(seq);
    format!(r#"{{"seq":{seq},"values":[{a},{b},{c},{d},{e},{f},{g},{h}]}}"#)
}
