//! A subscriber that follows every prediction through every restart: it names the last offset it saw and asks for the rest.
//!
//! Writes down each event. What it must have seen at the end is the committed log from its first position on, once and in
//! order. A `recovered:false` is written down too: the plan gives it no cause.

use super::door::{Ended, hear, say, upgrade};
use std::net::SocketAddr;
use std::time::Duration;
use tidegate_protocol::live::{LiveData, Subscribe};
use tidegate_protocol::{Codec, LiveMessage, LiveRequest, Policy, Position, Sample};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;

/// Silence after which it connects anew: while devices send, events come all the time.
const SILENCE: Duration = Duration::from_millis(700);

/// What one subscriber wrote down.
#[derive(Debug, Default)]
pub struct Seen {
    pub log: Option<String>,
    /// Events after this position were asked for.
    pub first: u64,
    pub samples: Vec<Sample>,
    /// Answers that did not go on where it left.
    pub unrecovered: u32,
    pub connections: u32,
}

impl Seen {
    fn position(&self) -> Option<Position> {
        let offset = self.samples.last().map_or(self.first, |sample| sample.id);
        Some(Position {
            log: self.log.clone()?,
            offset,
        })
    }
}

/// See the module.
pub struct Subscriber {
    addr: SocketAddr,
    codec: Codec,
    seen: Seen,
    deaf_ms: mpsc::Receiver<u64>,
    /// The last offset that there is, once it is known.
    until: watch::Receiver<Option<u64>>,
}

impl Subscriber {
    pub fn new(
        addr: SocketAddr,
        codec: Codec,
        deaf_ms: mpsc::Receiver<u64>,
        until: watch::Receiver<Option<u64>>,
    ) -> Self {
        Self {
            addr,
            codec,
            seen: Seen::default(),
            deaf_ms,
            until,
        }
    }

    /// Subscribes for the first time; the log stands still until this returns.
    pub async fn begin(mut self) -> (Self, WebSocketStream<TcpStream>) {
        let socket = self.connect().await.expect("a calm server");
        (self, socket)
    }

    /// Until everything up to `until` is seen.
    pub async fn run(mut self, socket: WebSocketStream<TcpStream>) -> Seen {
        let mut socket = Some(socket);
        loop {
            if let Some(socket) = socket.as_mut() {
                let _ = self.follow(socket).await;
            }
            if self.is_done() {
                return self.seen;
            }
            sleep(Duration::from_millis(10)).await;
            socket = self.connect().await.ok();
        }
    }

    fn is_done(&self) -> bool {
        let until = *self.until.borrow();
        let at = self.seen.position().map(|position| position.offset);
        until.is_some_and(|until| at >= Some(until))
    }

    async fn connect(&mut self) -> Result<WebSocketStream<TcpStream>, Ended> {
        self.seen.connections += 1;
        let mut socket = upgrade(self.addr, "/v1/live", self.codec).await?;
        let wish = Subscribe {
            id: 1,
            topic: "predictions/*/*".into(),
            from: self.seen.position(),
            policy: Policy::Disconnect,
            max_hz: None,
        };
        let wish = LiveRequest::Subscribe(wish);
        let asked = say(&mut socket, self.codec, &wish);
        timeout(SILENCE, asked).await.unwrap_or(Err(Ended::Cut))?;
        let answer = hear(&mut socket, self.codec);
        match timeout(SILENCE, answer).await.unwrap_or(Err(Ended::Cut))? {
            LiveMessage::Subscribed {
                log,
                offset,
                recovered,
                ..
            } => {
                if self.seen.log.is_none() {
                    self.seen.first = offset;
                }
                self.seen.log = Some(log);
                self.seen.unrecovered += u32::from(!recovered);
                Ok(socket)
            }
            _ => Err(Ended::Cut),
        }
    }

    async fn follow(&mut self, socket: &mut WebSocketStream<TcpStream>) -> Result<(), Ended> {
        while !self.is_done() {
            tokio::select! {
                heard = timeout(SILENCE, hear(socket, self.codec)) => {
                    if let LiveMessage::Event(event) = heard.unwrap_or(Err(Ended::Cut))?
                        && let LiveData::Sample(sample) = event.data
                    {
                        self.seen.samples.push(sample);
                    }
                }
                Some(ms) = self.deaf_ms.recv() => sleep(Duration::from_millis(ms)).await,
                Ok(()) = self.until.changed() => {}
            }
        }
        Ok(())
    }
}
