//! One connection: bytes in, what was heard out; readings in, bytes out in as few writes as the socket takes.
//!
//! Owns the socket, what is half read and half written, and the device's [`Ledger`]. Knows every door; when what leaves is the driver's to say.

use super::ledger::{Ledger, Times};
use super::words::{self, Encoder, Heard};
use super::{http, mqtt, websocket};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use tidegate_protocol::Codec;

/// Bytes that may wait to be written before no further reading is encoded.
const MOST_WAITING: usize = 16 * 1024;

/// What is spoken on a connection.
#[derive(Debug)]
pub enum Door {
    /// A device's stream.
    Stream(Codec),
    /// A WebSocket that sends everything back.
    Echo(Codec),
    /// A subscriber's socket.
    Live(Codec),
    /// A device at a broker.
    Mqtt(mqtt::Client),
    /// A device over HTTP.
    Http(http::Client),
}

impl Door {
    /// The first thing in `bytes` and how many it takes; what must be answered at once is, in `out`.
    ///
    /// # Errors
    /// The end of the connection, for people.
    pub fn take(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<(Heard, usize)>, String> {
        let read: fn(Codec, &[u8]) -> Result<Heard, String> = match self {
            Self::Mqtt(client) => return client.take(bytes, out),
            Self::Http(_) => return http::take(bytes),
            Self::Stream(_) => words::read,
            Self::Echo(_) => words::read_echo,
            Self::Live(_) => words::read_live,
        };
        let (Self::Stream(codec) | Self::Echo(codec) | Self::Live(codec)) = self else {
            return Ok(None);
        };
        let Some((frame, used)) = websocket::take(bytes)? else {
            return Ok(None);
        };
        let heard = match frame {
            websocket::Frame::Message(payload) => read(*codec, payload)?,
            websocket::Frame::Ping(payload) => {
                websocket::pong(out, payload);
                Heard::Other
            }
            websocket::Frame::Pong => Heard::Other,
            websocket::Frame::Close(code, reason) => {
                return Err(format!("closed with {code} {reason}").trim_end().to_owned());
            }
        };
        Ok(Some((heard, used)))
    }
}

/// What a connection is there for.
#[derive(Debug)]
pub enum Role {
    /// It sends readings: its number among those that do, and its readings.
    Sender(usize, Ledger),
    /// It stands there.
    Idle,
    /// It listens; the last offset.
    Subscriber(u64),
}

/// See the module.
#[derive(Debug)]
pub struct Connection {
    /// Not blocking.
    pub tcp: TcpStream,
    /// What is spoken.
    pub door: Door,
    /// What it is for.
    pub role: Role,
    /// Still there.
    pub open: bool,
    /// Whether the poll tells when it can be written again.
    pub asks_to_write: bool,
    /// Readings sent.
    pub sent: u64,
    /// Half a message.
    rest: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    /// The last thing said before the end.
    last_word: Option<String>,
}

impl Connection {
    /// A connection whose handshake is over; `rest` came behind it.
    pub fn new(tcp: TcpStream, door: Door, role: Role, rest: Vec<u8>) -> Self {
        Self {
            tcp,
            door,
            role,
            open: true,
            asks_to_write: false,
            sent: 0,
            rest,
            out: Vec::new(),
            written: 0,
            last_word: None,
        }
    }

    /// Whether another reading may be encoded now.
    pub fn has_room(&self) -> bool {
        let in_flight = match &self.role {
            Role::Sender(_, ledger) => ledger.in_flight(),
            Role::Idle | Role::Subscriber(_) => return false,
        };
        let door = match &self.door {
            Door::Mqtt(client) => client.has_room(),
            Door::Http(_) => in_flight == 0,
            _ => true,
        };
        door && self.open && self.out.len() - self.written < MOST_WAITING
    }

    /// Encodes the next reading.
    pub fn put(&mut self, encoder: &Encoder, times: Times) {
        let Role::Sender(_, ledger) = &mut self.role else {
            return;
        };
        let seq = ledger.next();
        let (number, len) = encoder.number(seq);
        match &mut self.door {
            Door::Stream(codec) | Door::Echo(codec) | Door::Live(codec) => {
                websocket::begin(&mut self.out, opcode(*codec), len);
            }
            Door::Mqtt(client) => client.begin(&mut self.out, len),
            Door::Http(client) => client.begin(&mut self.out, len),
        }
        encoder.put(&mut self.out, seq, &number);
        ledger.send(times);
        self.sent += 1;
    }

    /// Writes what waits; whether something is left.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn flush(&mut self) -> io::Result<bool> {
        while self.written < self.out.len() {
            match self.tcp.write(&self.out[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(len) => self.written += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(false)
    }

    /// Reads once into `buffer`, behind what was left over; `None` when nothing is there.
    ///
    /// # Errors
    /// The connection is gone, for people.
    pub fn read(&mut self, buffer: &mut Vec<u8>) -> Result<Option<usize>, String> {
        let left = self.rest.len();
        if buffer.len() < 2 * left {
            buffer.resize(2 * left, 0);
        }
        buffer[..left].copy_from_slice(&self.rest);
        match self.tcp.read(&mut buffer[left..]) {
            Ok(0) => Err("hung up".into()),
            Ok(len) => {
                self.rest.clear();
                Ok(Some(left + len))
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(None)
            }
            Err(error) => Err(error.kind().to_string()),
        }
    }

    /// The first thing in `bytes` and how many it takes.
    ///
    /// # Errors
    /// The end of the connection, for people.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Option<(Heard, usize)>, String> {
        let taken = self.door.take(bytes, &mut self.out)?;
        if let Some((Heard::Error(said), _)) = &taken {
            self.last_word = Some(said.clone());
        }
        Ok(taken)
    }

    /// What came behind the handshake.
    pub fn take_rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.rest)
    }

    /// What was not a whole message waits for the next read.
    pub fn keep(&mut self, rest: &[u8]) {
        self.rest.extend_from_slice(rest);
    }

    /// The connection is over; why, for people.
    pub fn end(&mut self, why: String) -> String {
        self.open = false;
        match self.last_word.take() {
            Some(said) => format!("{why} ({said})"),
            None => why,
        }
    }

    /// Says goodbye; nobody waits for an answer.
    pub fn bid_farewell(&mut self) {
        if self.open && matches!(self.door, Door::Stream(_) | Door::Echo(_) | Door::Live(_)) {
            websocket::close(&mut self.out);
            // It is over either way.
            let _ = self.flush();
        }
    }
}

/// The opcode of a codec's frames.
pub fn opcode(codec: Codec) -> u8 {
    match codec {
        Codec::Json => websocket::TEXT,
        Codec::Bincode => websocket::BINARY,
    }
}
