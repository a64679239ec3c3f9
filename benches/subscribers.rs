//! Subscribers that never read: what they cost the server's memory, the devices and a subscriber that does read.
//!
//!     cargo xtask bench --only subscribers [-- --subscribers 300]
//!
//! A fleet sends at set times; one subscriber reads every event. First alone, then beside hundreds that subscribe to everything and never read
//! again, once their sockets and queues are full: first such that listen from now on, then such that ask for thousands of past events each. An event's
//! latency counts from the time its reading was due. Both times are measured in slices: the p99 in the middle of the slices beside the stalled ones
//! is held against the worst slice before them, which is the noise of this machine.

#[path = "common/mod.rs"]
mod common;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use common::backing::{Backing, Fresh};
use common::device::{Device, Pace};
use common::figures::{Figures, thousands};
use common::server::Server;
use common::tally::{Counts, Part, Tally};
use common::{PATIENCE, ms};
use futures_util::{SinkExt, StreamExt};
use std::time::{Duration, Instant};
use tidegate_protocol::live::Subscribe;
use tidegate_protocol::{Codec, LiveData, LiveMessage, LiveRequest, Policy, Position, Wire};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;

/// Devices of the fleet.
const DEVICES: usize = 64;
/// Slices measured before the stalled subscribers come, and beside them.
const SLICES: usize = 5;
/// Until the stalled ones' sockets and queues are full.
const FILL: Duration = Duration::from_secs(6);
/// Receive buffer of a stalled subscriber, bytes: small, so that it is full soon.
const STALLED_BUFFER: u32 = 4 * 1024;
/// Past events that a recovering subscriber asks for.
const MISSED: u64 = 8_000;

/// Measures what subscribers that never read cost.
#[derive(Parser)]
struct Args {
    /// Subscribers that never read.
    #[arg(long, default_value_t = 300)]
    subscribers: usize,
    /// Readings a second of the whole fleet.
    #[arg(long, default_value_t = 2_000.0)]
    rate: f64,
    /// Seconds of a slice.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

type Socket = WebSocketStream<TcpStream>;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    common::run(measure(&args))
}

async fn measure(args: &Args) -> anyhow::Result<()> {
    println!(
        "{DEVICES} devices, {} readings/s, {} subscribers that never read, load average {}",
        thousands(args.rate),
        args.subscribers,
        common::load_average()
    );
    let mut figures = Figures::default();
    for kind in [Stalled::Live, Stalled::Recovering] {
        measure_beside(args, kind, &mut figures).await?;
    }
    figures.print();
    Ok(())
}

/// What a subscriber that never reads has asked for.
#[derive(Clone, Copy)]
enum Stalled {
    Live,
    Recovering,
}

impl Stalled {
    fn name(self) -> &'static str {
        match self {
            Self::Live => "stalled",
            Self::Recovering => "stalled in recovery",
        }
    }

    /// Where its subscription begins, when the log has come to `now`.
    fn from(self, now: &Position) -> Option<Position> {
        let offset = now.offset.saturating_sub(MISSED);
        let log = now.log.clone();
        match self {
            Self::Live => None,
            Self::Recovering => Some(Position { log, offset }),
        }
    }
}

async fn measure_beside(args: &Args, kind: Stalled, figures: &mut Figures) -> anyhow::Result<()> {
    let fresh = Backing::Sqlite.fresh().await?;
    let server = fresh.serve()?;
    let fleet = Fleet::start(args, &fresh, server.port).await?;
    let part = fleet.part.clone();
    let slice = Duration::from_secs_f64(args.seconds);
    tokio::time::sleep(slice).await;
    let before = run_slices(&server, &part, slice).await?;
    // What is between the two is counted apart and not shown.
    part.next();
    let (_probe, now) = subscribe(server.port, None, None).await?;
    let mut stalled = Vec::new();
    for _ in 0..args.subscribers {
        stalled.push(subscribe(server.port, kind.from(&now), Some(STALLED_BUFFER)).await?);
    }
    tokio::time::sleep(FILL).await;
    let beside = run_slices(&server, &part, slice).await?;
    let left = server.metric("tidegate_connections{kind=\"live\"}").await?;
    part.next();
    let (acks, events) = fleet.end().await?;
    ensure!(
        left as usize > args.subscribers,
        "{left} subscribers were left at the end: some were closed before"
    );
    let bound = args.subscribers as u64 * fresh.config()?.live.outbox_bytes as u64;
    let who = format!("{} {}", args.subscribers, kind.name());
    note_memory(figures, &who, (before, beside), bound);
    note_latency(figures, &who, "event", &events);
    note_latency(figures, &who, "ack", &acks);
    Ok(())
}

/// The server's resident memory, bytes, and the cores that it used.
type Memory = (u64, f64);

/// Counts slices one after the other; what the server took at their end.
async fn run_slices(server: &Server, part: &Part, slice: Duration) -> anyhow::Result<Memory> {
    let (start, cpu) = (Instant::now(), server.cpu()?);
    for _ in 0..SLICES {
        part.next();
        tokio::time::sleep(slice).await;
    }
    let cores = (server.cpu()? - cpu).as_secs_f64() / start.elapsed().as_secs_f64();
    Ok((server.rss()?, cores))
}

/// A fleet that sends, and the subscriber that reads it.
struct Fleet {
    part: Part,
    devices: Vec<tokio::task::JoinHandle<anyhow::Result<Tally>>>,
    reader: tokio::task::JoinHandle<anyhow::Result<Tally>>,
}

impl Fleet {
    async fn start(args: &Args, fresh: &Fresh, port: u16) -> anyhow::Result<Self> {
        // Before, what lies between, beside.
        let part = Part::warm_up(2 * SLICES + 1);
        let every = Duration::from_secs_f64(DEVICES as f64 / args.rate);
        let mut connected = Vec::new();
        for number in 0..DEVICES {
            connected.push(Device::connect(port, Codec::Bincode, &fresh.device(number)).await?);
        }
        let (socket, _) = subscribe(port, None, None).await?;
        let start = Instant::now();
        let pace = |number: usize| Pace {
            first: start + every * number as u32 / DEVICES as u32,
            every,
        };
        let paces = (0..DEVICES).map(|number| (fresh.device(number), pace(number)));
        let reader = tokio::spawn(read(socket, paces.collect(), part.clone()));
        let devices = connected.into_iter().enumerate();
        let devices =
            devices.map(|(number, device)| tokio::spawn(drive(device, pace(number), part.clone())));
        Ok(Self {
            devices: devices.collect(),
            reader,
            part,
        })
    }

    /// What the devices and the reader counted.
    async fn end(self) -> anyhow::Result<(Tally, Tally)> {
        let mut acks = Tally::new(&self.part)?;
        for device in self.devices {
            acks.add(&device.await??)?;
        }
        Ok((acks, self.reader.await??))
    }
}

async fn drive(mut device: Device, pace: Pace, part: Part) -> anyhow::Result<Tally> {
    let mut tally = Tally::new(&part)?;
    device.pace(pace, &mut tally).await?;
    Ok(tally)
}

/// A subscriber of everything, once its subscription stands, and where the log was then.
async fn subscribe(
    port: u16,
    from: Option<Position>,
    buffer: Option<u32>,
) -> anyhow::Result<(Socket, Position)> {
    let tcp = TcpSocket::new_v4()?;
    if let Some(bytes) = buffer {
        tcp.set_recv_buffer_size(bytes)?;
    }
    let tcp = tcp.connect(([127, 0, 0, 1], port).into()).await?;
    tcp.set_nodelay(true)?;
    let mut request = format!("ws://127.0.0.1:{port}/v1/live").into_client_request()?;
    let codec = HeaderValue::from_static(Codec::Bincode.subprotocol());
    let headers = request.headers_mut();
    headers.insert("sec-websocket-protocol", codec);
    let (mut socket, _) = tokio_tungstenite::client_async(request, tcp).await?;
    let recovers = from.is_some();
    let wish = LiveRequest::Subscribe(Subscribe {
        id: 1,
        topic: "predictions/pump-health/*".into(),
        from,
        policy: Policy::DropOldest,
        max_hz: None,
    });
    let frame = tidegate::socket::frame(Codec::Bincode, wish.to_bytes(Codec::Bincode));
    socket.send(frame).await?;
    match hear(&mut socket).await? {
        LiveMessage::Subscribed {
            log,
            offset,
            recovered,
            ..
        } => {
            ensure!(recovered || !recovers, "the log does not reach back so far");
            Ok((socket, Position { log, offset }))
        }
        other => bail!("{other:?} instead of a subscription"),
    }
}

async fn hear(socket: &mut Socket) -> anyhow::Result<LiveMessage> {
    loop {
        let next = tokio::time::timeout(PATIENCE, socket.next()).await;
        match next.context("an event is missing")?.context("closed")?? {
            Message::Binary(bytes) => return Ok(LiveMessage::decode(Codec::Bincode, &bytes)?),
            Message::Close(frame) => bail!("closed: {frame:?}"),
            _ => {}
        }
    }
}

/// Reads every event and times it against the moment when its reading was due.
async fn read(
    mut socket: Socket,
    paces: std::collections::HashMap<String, Pace>,
    part: Part,
) -> anyhow::Result<Tally> {
    let mut tally = Tally::new(&part)?;
    let mut dropped = 0;
    while !part.is_over() {
        let heard = match hear(&mut socket).await {
            // The fleet's last event came before the run was over.
            Err(_) if part.is_over() => break,
            heard => heard?,
        };
        match heard {
            LiveMessage::Event(event) => {
                let LiveData::Sample(sample) = event.data else {
                    bail!("an event of {}", event.topic);
                };
                let pace = paces.get(&sample.device).context("an unknown device")?;
                tally.note_ack(pace.due(sample.seq))?;
            }
            LiveMessage::Dropped { count, .. } => dropped += count,
            other => bail!("unexpected {other:?}"),
        }
    }
    if dropped > 0 {
        println!("the reader was too slow for {dropped} events");
    }
    Ok(tally)
}

/// The p99 of each slice before the stalled ones came, and beside them, microseconds.
fn slices(tally: &Tally) -> (Vec<u64>, Vec<u64>) {
    let p99 = |counts: &Counts| counts.ack.value_at_quantile(0.99);
    let before = tally.parts()[..SLICES].iter().map(p99).collect();
    let beside = tally.parts()[SLICES + 1..].iter().map(p99).collect();
    (before, beside)
}

fn note_memory(figures: &mut Figures, who: &str, at: (Memory, Memory), bound: u64) {
    let ((before, cores_before), (beside, cores_beside)) = at;
    let grown = beside.saturating_sub(before);
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    println!("{who}: server's cores {cores_before:.2} before, {cores_beside:.2} beside");
    figures.aim(
        format!("memory grown by {who}"),
        mib(grown),
        format!("<= {} (so many times live.outbox_bytes)", mib(bound)),
        grown <= bound,
    );
}

fn note_latency(figures: &mut Figures, who: &str, what: &str, tally: &Tally) {
    let (before, beside) = slices(tally);
    println!(
        "p99 from reading to {what}, ms: before {}, beside {who} {}",
        list(&before),
        list(&beside)
    );
    let worst = before.iter().copied().max().unwrap_or(0);
    let middle = middle(beside);
    figures.aim(
        format!("p99 from reading to {what}, beside {who}"),
        ms(middle),
        format!("<= {} (worst slice before)", ms(worst)),
        middle <= worst,
    );
}

fn list(micros: &[u64]) -> String {
    let ms = micros.iter().map(|us| format!("{:.1}", *us as f64 / 1e3));
    ms.collect::<Vec<_>>().join(" ")
}

fn middle(mut micros: Vec<u64>) -> u64 {
    micros.sort_unstable();
    micros[micros.len() / 2]
}
