//! Opens connections: many handshakes at once, at a bounded rate, from many source addresses on loopback.
//!
//! Blocking, with a deadline; a batch is written before its answers are read, so that a server works on all of it. Also lets devices that are to
//! be known send their one reading.

use super::connection::{Connection, Door, Role, opcode};
use super::ledger::Ledger;
use super::plan::{Pace, Peer, Plan};
use super::words::{self, Encoder, Heard};
use super::{http, mqtt, websocket};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use tidegate_protocol::live::Subscribe;
use tidegate_protocol::{LiveRequest, Policy, ServerMessage, Wire};

/// Handshakes on their way at once.
pub const AT_ONCE: usize = 64;
/// Devices that are touched at once over connections that stay.
pub const TOUCHED_AT_ONCE: usize = 512;
/// What the kernel may hold of an open loop's readings on this side (it takes twice as many bytes): with its usual megabytes a server past
/// saturation would seem to have taken what it has never seen.
const OPEN_LOOP_SEND_BYTES: usize = 16 * 1024;
/// Longest wait for a peer's part of a handshake.
const PATIENCE: Duration = Duration::from_secs(15);
/// Connections from one source address: a port for each, and as many that the kernel has not forgotten yet.
const PORTS_EACH: usize = 8_000;
/// Source addresses in use: 127.0.0.2 and so many behind it.
const ADDRESSES: u32 = 60_000;
/// Longest head of an answer to an upgrade.
const MOST_HEAD_BYTES: usize = 16 * 1024;

/// Which connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// It sends, as device of this number.
    Sender(usize),
    /// It stands there, as device of this number.
    Idle(usize),
    /// It listens.
    Subscriber,
}

/// Opens connections of one plan.
pub struct Opener<'a> {
    plan: &'a Plan,
    /// Epoch of doors that tell no welcome.
    epoch: u64,
    opened: usize,
    begin: Instant,
    /// The first source address differs from run to run: the kernel remembers ports for a minute.
    first_address: u32,
}

/// A socket in its handshake.
struct Half {
    tcp: TcpStream,
    wish: Wish,
    read: Vec<u8>,
}

impl<'a> Opener<'a> {
    /// For a run whose readings have `epoch` at doors without a welcome.
    pub fn new(plan: &'a Plan, epoch: u64) -> Self {
        Self {
            plan,
            epoch,
            opened: 0,
            begin: Instant::now(),
            first_address: (epoch as u32).wrapping_mul(7919) % ADDRESSES,
        }
    }

    /// The epoch that readings name; `None` is the connection's.
    pub fn epoch(&self) -> Option<u64> {
        matches!(self.plan.peer, Peer::Mqtt | Peer::Http).then_some(self.epoch)
    }

    /// When the next batch may begin.
    pub fn not_before(&self) -> Instant {
        let seconds = self.opened as f64 / f64::from(self.plan.connect_per_s.max(1));
        self.begin + Duration::from_secs_f64(seconds)
    }

    /// Opens a batch.
    ///
    /// # Errors
    /// The first that is refused, in one line.
    pub fn open(&mut self, wishes: &[Wish]) -> Result<Vec<Connection>, String> {
        let mut halves = Vec::new();
        for wish in wishes {
            let tcp = self.connect()?;
            halves.push(Half {
                tcp,
                wish: *wish,
                read: Vec::new(),
            });
            let last = halves.last_mut().expect("pushed above");
            let hello = self.hello(*wish);
            last.tcp
                .write_all(&hello)
                .map_err(|error| self.failed(&error))?;
        }
        halves.into_iter().map(|half| self.greet(half)).collect()
    }

    fn connect(&mut self) -> Result<TcpStream, String> {
        let addr = self.plan.addr;
        let connect = || {
            let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
            if let Some(source) = self.source() {
                socket.bind(&SocketAddr::from((source, 0)).into())?;
            }
            if matches!(self.plan.pace, Pace::PerSecond(_)) {
                socket.set_send_buffer_size(OPEN_LOOP_SEND_BYTES)?;
            }
            socket.connect_timeout(&addr.into(), PATIENCE)?;
            let tcp = TcpStream::from(socket);
            tcp.set_nodelay(true)?;
            tcp.set_read_timeout(Some(PATIENCE))?;
            tcp.set_write_timeout(Some(PATIENCE))?;
            Ok(tcp)
        };
        let tcp = connect().map_err(|error: std::io::Error| self.failed(&error))?;
        self.opened += 1;
        Ok(tcp)
    }

    /// On loopback, another address for every few thousand connections.
    fn source(&self) -> Option<Ipv4Addr> {
        let IpAddr::V4(addr) = self.plan.addr.ip() else {
            return None;
        };
        if !addr.is_loopback() {
            return None;
        }
        let block = (self.opened / PORTS_EACH) as u32;
        let number = (self.first_address + block) % ADDRESSES;
        Some(Ipv4Addr::from_bits(
            Ipv4Addr::new(127, 0, 0, 2).to_bits() + number,
        ))
    }

    fn failed(&self, error: &std::io::Error) -> String {
        let (place, opened) = (&self.plan.authority, self.opened);
        match error.kind() {
            ErrorKind::ConnectionRefused => {
                format!("{place}: connection refused: is it running, and is this its address?")
            }
            ErrorKind::WouldBlock | ErrorKind::TimedOut => format!(
                "{place}: no answer within {} s to connection {opened}",
                PATIENCE.as_secs()
            ),
            _ => format!("{place}: connection {opened}: {error}"),
        }
    }

    /// What a client says first.
    fn hello(&self, wish: Wish) -> Vec<u8> {
        let plan = self.plan;
        let mut out = Vec::new();
        match (plan.peer, wish) {
            (Peer::Mqtt, Wish::Sender(number) | Wish::Idle(number)) => {
                let device = plan.device(number);
                let login = plan.login.as_ref();
                let login = login.map(|(user, password)| (user.as_str(), password.as_str()));
                mqtt::connect(&mut out, &device, login);
                let topic = |kind: &str| format!("tidegate/{}/{device}/{kind}", self.plan.endpoint);
                mqtt::subscribe(&mut out, &["predictions", "acks", "errors"].map(topic));
            }
            (Peer::Http, Wish::Sender(_) | Wish::Idle(_)) => {}
            (_, Wish::Sender(number) | Wish::Idle(number)) => {
                let path = format!(
                    "/v1/stream/{}?device={}",
                    plan.endpoint,
                    plan.device(number)
                );
                // An echo knows no subprotocol.
                let offer = plan.peer == Peer::Stream;
                out = self.upgrade(&path, offer);
            }
            (_, Wish::Subscriber) => out = self.upgrade("/v1/live", true),
        }
        out
    }

    fn upgrade(&self, path: &str, offers: bool) -> Vec<u8> {
        let offer = if offers {
            format!(
                "Sec-WebSocket-Protocol: {}\r\n",
                self.plan.codec.subprotocol()
            )
        } else {
            String::new()
        };
        format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offer}\r\n",
            self.plan.authority
        )
        .into_bytes()
    }

    /// Reads the peer's part.
    fn greet(&self, mut half: Half) -> Result<Connection, String> {
        let plan = self.plan;
        let door = match (plan.peer, half.wish) {
            (_, Wish::Subscriber) => Door::Live(plan.codec),
            (Peer::Stream, _) => Door::Stream(plan.codec),
            (Peer::Echo, _) => Door::Echo(plan.codec),
            (Peer::Mqtt, Wish::Sender(number) | Wish::Idle(number)) => {
                let topic = format!(
                    "tidegate/{}/{}/readings",
                    plan.endpoint,
                    plan.device(number)
                );
                Door::Mqtt(mqtt::Client::new(&topic, plan.codec))
            }
            (Peer::Http, Wish::Sender(number) | Wish::Idle(number)) => {
                let device = plan.device(number);
                let endpoint = plan.endpoint.as_str();
                Door::Http(http::Client::new(
                    &plan.authority,
                    endpoint,
                    &device,
                    plan.codec,
                ))
            }
        };
        let mut next = 0;
        match &door {
            Door::Stream(_) => {
                self.upgraded(&mut half)?;
                next = self.welcomed(&mut half)?;
            }
            Door::Echo(_) | Door::Live(_) => self.upgraded(&mut half)?,
            Door::Mqtt(_) => {
                while !mqtt::is_subscribed(&half.read) {
                    self.read_more(&mut half)?;
                }
            }
            Door::Http(_) => {
                // The first reading of a device that was touched is there already.
                let number = match half.wish {
                    Wish::Sender(number) | Wish::Idle(number) => number,
                    Wish::Subscriber => 0,
                };
                next = u64::from(number < plan.devices);
            }
        }
        if half.wish == Wish::Subscriber {
            self.subscribe(&mut half)?;
        }
        let role = match half.wish {
            Wish::Sender(number) => {
                Role::Sender(number, Ledger::new(next, plan.peer != Peer::Echo))
            }
            Wish::Idle(_) => Role::Idle,
            Wish::Subscriber => Role::Subscriber(0),
        };
        half.tcp
            .set_nonblocking(true)
            .map_err(|error| self.failed(&error))?;
        Ok(Connection::new(half.tcp, door, role, half.read))
    }

    fn read_more(&self, half: &mut Half) -> Result<(), String> {
        let mut buffer = [0; 4096];
        match half.tcp.read(&mut buffer) {
            Ok(0) => Err(format!(
                "{}: hung up in the handshake of connection {}",
                self.plan.authority, self.opened
            )),
            Ok(len) => {
                half.read.extend(&buffer[..len]);
                Ok(())
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// HTTP 101, and what comes behind it stays.
    fn upgraded(&self, half: &mut Half) -> Result<(), String> {
        let end = loop {
            let found = half.read.windows(4).position(|part| part == b"\r\n\r\n");
            match found {
                Some(at) => break at + 4,
                None if half.read.len() > MOST_HEAD_BYTES => {
                    return Err(format!("{}: no WebSocket here", self.plan.authority));
                }
                None => self.read_more(half)?,
            }
        };
        let head = String::from_utf8_lossy(&half.read[..end]).into_owned();
        if !head.starts_with("HTTP/1.1 101 ") {
            let status = head.lines().next().unwrap_or_default();
            return Err(format!(
                "{}: no WebSocket here: {status}",
                self.plan.authority
            ));
        }
        half.read.drain(..end);
        Ok(())
    }

    /// The number of the device's next reading.
    fn welcomed(&self, half: &mut Half) -> Result<u64, String> {
        let place = &self.plan.authority;
        let (message, used) = loop {
            match websocket::take(&half.read).map_err(|error| format!("{place}: {error}"))? {
                Some((websocket::Frame::Message(bytes), used)) => {
                    let message = ServerMessage::decode(self.plan.codec, bytes);
                    break (message.map_err(|error| format!("{place}: {error}"))?, used);
                }
                Some((websocket::Frame::Close(code, reason), _)) => {
                    return Err(format!("{place}: closed with {code} {reason}"));
                }
                Some((_, used)) => drop(half.read.drain(..used)),
                None => self.read_more(half)?,
            }
        };
        half.read.drain(..used);
        let welcome = match message {
            ServerMessage::Welcome(welcome) => welcome,
            ServerMessage::Error(error) => {
                return Err(format!("{place}: {}: {}", error.code, error.message));
            }
            _ => return Err(format!("{place}: the first message was no welcome")),
        };
        let (have, want) = (
            self.plan.rows.first().map_or(0, Vec::len),
            welcome.features.len(),
        );
        if have != want {
            return Err(format!(
                "{} has {want} features and readings have {have} values: give others with --values",
                self.plan.endpoint
            ));
        }
        Ok(welcome.resume_from)
    }

    fn subscribe(&self, half: &mut Half) -> Result<(), String> {
        let wish = LiveRequest::Subscribe(Subscribe {
            id: 1,
            topic: self.plan.topic.clone(),
            from: None,
            policy: Policy::DropOldest,
            max_hz: None,
        });
        let bytes = wish.to_bytes(self.plan.codec);
        let mut out = Vec::new();
        websocket::begin(&mut out, opcode(self.plan.codec), bytes.len());
        out.extend(bytes);
        half.tcp
            .write_all(&out)
            .map_err(|error| self.failed(&error))?;
        // The answer may come with the first events: it is looked at and stays.
        loop {
            let taken = websocket::take(&half.read);
            match taken.map_err(|error| format!("{}: {error}", self.plan.authority))? {
                Some((websocket::Frame::Message(bytes), _)) => {
                    return match words::read_live(self.plan.codec, bytes) {
                        Ok(Heard::Error(said)) => Err(format!("{}: {said}", self.plan.topic)),
                        Ok(_) => Ok(()),
                        Err(error) => Err(format!("{}: {error}", self.plan.authority)),
                    };
                }
                Some((websocket::Frame::Close(code, reason), _)) => {
                    return Err(format!(
                        "{}: closed with {code} {reason}",
                        self.plan.authority
                    ));
                }
                Some((_, used)) => drop(half.read.drain(..used)),
                None => self.read_more(half)?,
            }
        }
    }

    /// Devices `numbers` send one reading each and are acked. At doors where a device has a connection of its own they come and go.
    ///
    /// # Errors
    /// The first that fails, in one line.
    pub fn touch(
        &mut self,
        encoder: &Encoder,
        numbers: std::ops::Range<usize>,
        lines: &mut Vec<Connection>,
    ) -> Result<(), String> {
        let wishes: Vec<Wish> = numbers.map(Wish::Sender).collect();
        if self.plan.peer != Peer::Http {
            lines.clear();
        }
        if lines.len() < wishes.len() {
            *lines = self.open(&wishes)?;
        }
        for (line, wish) in lines.iter_mut().zip(&wishes) {
            let Wish::Sender(number) = *wish else {
                continue;
            };
            if self.plan.peer == Peer::Http {
                let (device, endpoint) = (self.plan.device(number), self.plan.endpoint.as_str());
                let client =
                    http::Client::new(&self.plan.authority, endpoint, &device, self.plan.codec);
                (line.door, line.role) = (
                    Door::Http(client),
                    Role::Sender(number, Ledger::new(0, true)),
                );
            }
            line.put(encoder, super::ledger::Times { due: 0, sent: 0 });
            let written = line.tcp.set_nonblocking(false).and_then(|()| line.flush());
            written.map_err(|error| self.failed(&error))?;
        }
        for line in lines.iter_mut().take(wishes.len()) {
            self.settle(line)?;
        }
        if self.plan.peer != Peer::Http {
            lines.iter_mut().for_each(Connection::bid_farewell);
        }
        Ok(())
    }

    fn settle(&self, line: &mut Connection) -> Result<(), String> {
        let said = |what: String| format!("{}: {what}", self.plan.authority);
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let Role::Sender(_, ledger) = &mut line.role else {
                return Ok(());
            };
            if ledger.is_done() {
                return Ok(());
            }
            let Some(len) = line.read(&mut buffer).map_err(said)? else {
                return Err(said(format!("no ack within {} s", PATIENCE.as_secs())));
            };
            let mut at = 0;
            while let Some((heard, used)) = line.take(&buffer[at..len]).map_err(said)? {
                at += used;
                let Role::Sender(_, ledger) = &mut line.role else {
                    continue;
                };
                match heard {
                    Heard::Prediction(seq, _) => drop(ledger.answer(seq).map_err(said)?),
                    Heard::Ack(seq) => ledger.ack(seq, |_| {}).map_err(said)?,
                    Heard::Stored(seq, _) => {
                        ledger.answer(seq).map_err(said)?;
                        ledger.ack(seq, |_| {}).map_err(said)?;
                    }
                    Heard::Nack(_, code, text) => return Err(said(format!("{code}: {text}"))),
                    Heard::Shed(code) | Heard::Error(code) => return Err(said(code)),
                    Heard::Gap(..) | Heard::Event(_) | Heard::Dropped(_) | Heard::Other => {}
                }
            }
            line.keep(&buffer[at..len]);
        }
    }
}
