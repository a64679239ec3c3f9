//! The road beside its yardsticks: messages a second, server CPU a message, latency, memory of an idle connection.
//!
//!     cargo xtask bench [-- --seconds 5]
//!
//! Every server is a child process of this one (so that its CPU time and memory can be read); the client, its frames and the order are the
//! same for all. Yardsticks: an echo on bare tokio-tungstenite that flushes every message, and the same echo with coalesced
//! flushes. "In flight" counts predictions awaited; every connection's last ack is checked, and the way from a reading to its ack is
//! timed beside. Nothing here fails on a slow machine; it fails when a prediction or an ack is missing.

#[allow(dead_code, reason = "tests use the rest")]
#[path = "../tests/common/postgres.rs"]
mod postgres;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use futures_util::{FutureExt, SinkExt, StreamExt};
use hdrhistogram::Histogram;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tidegate::app;
use tidegate::config::{Overrides, RawConfig};
use tidegate_protocol::{Codec, DeviceMessage, Reading, ServerMessage, Values, Wire};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;

/// Connections of the throughput runs.
const CONNECTIONS: usize = 64;
/// Connections that only sit there.
const IDLE: usize = 2_000;
/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Measures the road beside its yardsticks.
#[derive(Parser)]
struct Args {
    /// Seconds of each run, after a quarter of that to warm up.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Runs of each case; the median is printed.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
    /// What a child process serves: `echo`, `coalesced`, `tidegate` or `postgres`.
    #[arg(long, hide = true)]
    serve: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    match args.serve.as_deref() {
        Some("tidegate") => runtime.block_on(serve_tidegate(None)),
        Some("postgres") => runtime.block_on(serve_on_postgres()),
        Some(kind) => runtime.block_on(serve_echo(kind == "coalesced")),
        None => runtime.block_on(measure(&args)),
    }
}

/// The server on a PostgreSQL of its own; the database's CPU time is not the server's.
async fn serve_on_postgres() -> anyhow::Result<()> {
    let postgres = postgres::Postgres::start().await;
    serve_tidegate(Some(postgres.url())).await
}

async fn serve_tidegate(store_url: Option<String>) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let overrides = Overrides {
        listen: Some("127.0.0.1:0".into()),
        data_dir: Some(dir.path().to_owned()),
        store_url,
        ..Overrides::default()
    };
    let running = app::start(RawConfig::read(None, overrides)?.check()?).await?;
    println!("{}", running.addr().port());
    until_parent_closes().await;
    running.stop().await;
    Ok(())
}

async fn serve_echo(coalesced: bool) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    let accept = async {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(echo(tcp, coalesced));
        }
    };
    tokio::select! { () = accept => {}, () = until_parent_closes() => {} }
    Ok(())
}

async fn echo(tcp: TcpStream, coalesced: bool) -> anyhow::Result<()> {
    tcp.set_nodelay(true)?;
    let mut socket = tokio_tungstenite::accept_async(tcp).await?;
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

/// The parent holds the other end of standard input; it closes when the parent is done or gone.
async fn until_parent_closes() {
    let mut line = String::new();
    // End of file or an error: either way the parent is not there any more.
    let _ = tokio::task::spawn_blocking(move || std::io::stdin().read_line(&mut line)).await;
}

/// A server under measurement; ends when dropped.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(kind: &str) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--serve", kind])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("piped")?).read_line(&mut line)?;
        let port = line
            .trim()
            .parse()
            .with_context(|| format!("{kind} did not start"))?;
        Ok(Self { child, port })
    }

    /// User and system time so far. The kernel counts in ticks of 10 ms.
    fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Memory that is this process's own, with its share of what it shares, bytes.
    fn pss(&self) -> anyhow::Result<u64> {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let line = rollup
            .lines()
            .find(|line| line.starts_with("Pss:"))
            .context("no Pss")?;
        let kib: u64 = line
            .split_whitespace()
            .nth(1)
            .context("no number")?
            .parse()?;
        Ok(kib * 1024)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It ends by itself when its input closes.
        let _ = self.child.wait();
    }
}

/// One case of the table.
#[derive(Clone, Copy)]
struct Case {
    kind: &'static str,
    codec: Codec,
    in_flight: usize,
}

/// What one run came to.
struct Outcome {
    per_s: f64,
    cpu_us: f64,
    latency: Histogram<u64>,
    ack: Histogram<u64>,
}

async fn measure(args: &Args) -> anyhow::Result<()> {
    let load = std::fs::read_to_string("/proc/loadavg")?;
    println!(
        "{CONNECTIONS} connections, {} x {} s a case, load average {}",
        args.runs,
        args.seconds,
        load.trim()
    );
    for in_flight in [1, 16] {
        println!("\n{in_flight} in flight");
        println!(
            "{:<20} {:>10} {:>8} {:>9} {:>9} {:>9} {:>9} {:>7}",
            "server", "msg/s", "us/msg", "p50 us", "p99 us", "ack p50", "ack p99", "ratio"
        );
        let mut echo = None;
        for (kind, codec) in [
            ("echo", Codec::Json),
            ("coalesced", Codec::Json),
            ("tidegate", Codec::Json),
            ("tidegate", Codec::Bincode),
            ("postgres", Codec::Bincode),
        ] {
            let outcome = median(
                args,
                Case {
                    kind,
                    codec,
                    in_flight,
                },
            )
            .await?;
            let base = *echo.get_or_insert(outcome.per_s);
            print_row(kind, codec, &outcome, outcome.per_s / base);
        }
    }
    idle().await
}

fn print_row(kind: &str, codec: Codec, outcome: &Outcome, ratio: f64) {
    let name = match kind {
        "tidegate" => format!("tidegate {codec:?}").to_lowercase(),
        "postgres" => "tidegate on postgres".to_owned(),
        other => other.to_owned(),
    };
    let ms = |histogram: &Histogram<u64>, quantile| match histogram.len() {
        0 => "-".to_owned(),
        _ => histogram.value_at_quantile(quantile).to_string(),
    };
    println!(
        "{name:<20} {:>10.0} {:>8.2} {:>9} {:>9} {:>9} {:>9} {ratio:>7.2}",
        outcome.per_s,
        outcome.cpu_us,
        ms(&outcome.latency, 0.5),
        ms(&outcome.latency, 0.99),
        ms(&outcome.ack, 0.5),
        ms(&outcome.ack, 0.99),
    );
}

async fn median(args: &Args, case: Case) -> anyhow::Result<Outcome> {
    let mut outcomes = Vec::new();
    for _ in 0..args.runs.max(1) {
        outcomes.push(run(case, Duration::from_secs_f64(args.seconds)).await?);
    }
    outcomes.sort_by(|a, b| a.per_s.total_cmp(&b.per_s));
    Ok(outcomes.swap_remove(outcomes.len() / 2))
}

async fn run(case: Case, length: Duration) -> anyhow::Result<Outcome> {
    let server = Server::start(case.kind)?;
    let mut devices = Vec::new();
    for number in 0..CONNECTIONS {
        devices.push(Device::connect(case, server.port, number).await?);
    }
    let begin = Instant::now() + length / 4;
    let end = begin + length;
    let tasks: Vec<_> = devices
        .into_iter()
        .map(|device| tokio::spawn(device.run(case.in_flight, begin, end)))
        .collect();
    tokio::time::sleep_until(begin.into()).await;
    let cpu = server.cpu()?;
    tokio::time::sleep_until(end.into()).await;
    let cpu = server.cpu()? - cpu;
    let mut messages = 0;
    let mut latency = Histogram::new(3)?;
    let mut ack = Histogram::new(3)?;
    for task in tasks {
        let device = task.await??;
        messages += device.counted;
        latency.add(&device.latency)?;
        ack.add(&device.ack)?;
    }
    ensure!(messages > 0, "{}: no message came back", case.kind);
    let per_s = messages as f64 / length.as_secs_f64();
    Ok(Outcome {
        per_s,
        cpu_us: cpu.as_secs_f64() * 1e6 / messages as f64,
        latency,
        ack,
    })
}

/// A cheap device: prepared values, replies told apart by their first bytes.
struct Device {
    socket: WebSocketStream<TcpStream>,
    codec: Codec,
    acks: bool,
    next_seq: u64,
    /// Sending times of what is not predicted yet, and of what is not acked yet (from `acked` on).
    waiting: VecDeque<Instant>,
    unacked: VecDeque<Instant>,
    acked: u64,
    counted: u64,
    latency: Histogram<u64>,
    ack: Histogram<u64>,
    begin: Instant,
}

impl Device {
    async fn connect(case: Case, port: u16, number: usize) -> anyhow::Result<Self> {
        let url = format!("ws://127.0.0.1:{port}/v1/stream/pump-health?device=bench-{number}");
        let mut request = url.into_client_request()?;
        let acks = matches!(case.kind, "tidegate" | "postgres");
        if acks {
            let name = HeaderValue::from_static(case.codec.subprotocol());
            request.headers_mut().insert("sec-websocket-protocol", name);
        }
        let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
        tcp.set_nodelay(true)?;
        let (mut socket, _) = tokio_tungstenite::client_async(request, tcp).await?;
        if acks {
            socket.next().await.context("no welcome")??;
        }
        Ok(Self {
            socket,
            codec: case.codec,
            acks,
            next_seq: 0,
            waiting: VecDeque::new(),
            unacked: VecDeque::new(),
            acked: 0,
            counted: 0,
            latency: Histogram::new(3)?,
            ack: Histogram::new(3)?,
            begin: Instant::now(),
        })
    }

    async fn run(mut self, in_flight: usize, begin: Instant, end: Instant) -> anyhow::Result<Self> {
        self.begin = begin;
        while Instant::now() < end {
            while self.waiting.len() < in_flight {
                self.feed().await?;
            }
            self.socket.flush().await?;
            let message = self.hear().await?;
            self.count(&message, end)?;
            while let Some(Some(message)) = self.socket.next().now_or_never() {
                self.count(&message?, end)?;
            }
        }
        while !self.waiting.is_empty() || (self.acks && self.acked < self.next_seq) {
            let message = self.hear().await?;
            self.count(&message, end)?;
        }
        Ok(self)
    }

    async fn hear(&mut self) -> anyhow::Result<Message> {
        let next = tokio::time::timeout(PATIENCE, self.socket.next()).await;
        Ok(next
            .context("a prediction or an ack is missing")?
            .context("closed")??)
    }

    async fn feed(&mut self) -> anyhow::Result<()> {
        let seq = self.next_seq;
        let wobble = (seq % 17) as f32 * 0.01;
        let values = [
            0.026,
            0.04,
            1.33 + wobble,
            0.05 + wobble,
            79.3,
            26.0,
            233.1 - wobble,
            32.0,
        ];
        let message = match self.codec {
            Codec::Json => Message::text(format!(
                r#"{{"seq":{seq},"values":[{},{},{},{},{},{},{},{}]}}"#,
                values[0],
                values[1],
                values[2],
                values[3],
                values[4],
                values[5],
                values[6],
                values[7]
            )),
            Codec::Bincode => {
                let values = Values::Ordered(values.to_vec());
                let reading = Reading {
                    seq: Some(seq),
                    values,
                    ..Reading::default()
                };
                Message::binary(DeviceMessage::Reading(reading).to_bytes(Codec::Bincode))
            }
        };
        self.next_seq += 1;
        let now = Instant::now();
        self.waiting.push_back(now);
        if self.acks {
            self.unacked.push_back(now);
        }
        Ok(self.socket.feed(message).await?)
    }

    fn count(&mut self, message: &Message, end: Instant) -> anyhow::Result<()> {
        let bytes: &[u8] = match message {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => bytes,
            _ => return Ok(()),
        };
        let is_prediction = match self.codec {
            _ if !self.acks => true,
            Codec::Json => bytes.starts_with(br#"{"type":"prediction""#),
            // The version byte, then the variant.
            Codec::Bincode => bytes.starts_with(&[1, 1]),
        };
        let now = Instant::now();
        if is_prediction {
            let sent = self
                .waiting
                .pop_front()
                .context("a prediction nobody asked for")?;
            if now >= self.begin && now < end {
                self.counted += 1;
                self.latency.record(micros(now - sent))?;
            }
            return Ok(());
        }
        match ServerMessage::decode(self.codec, bytes)? {
            ServerMessage::Ack(ack) => self.settle(ack.seq, now),
            other => bail!("unexpected {other:?}"),
        }
    }

    fn settle(&mut self, seq: u64, now: Instant) -> anyhow::Result<()> {
        ensure!(
            seq < self.next_seq,
            "ack {seq} of a reading that was never sent"
        );
        while self.acked <= seq {
            let sent = self.unacked.pop_front().context("acked twice")?;
            self.acked += 1;
            if now >= self.begin {
                self.ack.record(micros(now - sent))?;
            }
        }
        Ok(())
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Memory of connections that were welcomed and then say nothing.
async fn idle() -> anyhow::Result<()> {
    let server = Server::start("tidegate")?;
    let case = Case {
        kind: "tidegate",
        codec: Codec::Json,
        in_flight: 0,
    };
    // The first few bring allocations that the server needs anyway.
    let mut held = Vec::new();
    for number in 0..50 {
        held.push(Device::connect(case, server.port, number).await?);
    }
    let before = server.pss()?;
    for number in 50..50 + IDLE {
        held.push(Device::connect(case, server.port, number).await?);
    }
    let grown = server.pss()?.saturating_sub(before);
    println!(
        "\n{IDLE} idle connections: {:.1} KiB of server memory each",
        grown as f64 / IDLE as f64 / 1024.0
    );
    Ok(())
}
