//! `tidegate bench`: load on a running server, and what it came to.
//!
//! Owns the flags and what is printed; the load itself is [`crate::load`]. Succeeds only when every reading was answered and acked.

use super::output::Output;
use super::send::CodecName;
use crate::client::Address;
use crate::load::{self, Pace, Peer, Plan, Progress, Stage};
use anyhow::{Context, anyhow, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget};
use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tidegate_models::rig::Rig;
use tidegate_protocol::EndpointName;

/// Simulated readings that are sent in turn.
const ROWS: usize = 64;
/// Most connections of one run.
const MOST_CONNECTIONS: i64 = 1_000_000;

/// Put load on a running server and measure it.
///
/// Opens its connections, one device each, sends readings of a simulated pump rig, and checks every answer: that each reading gets its
/// prediction and its ack once. Closed loop (--in-flight): each connection keeps so many predictions awaited; acks are timed beside.
/// Open loop (--rate): readings leave at set times whatever comes back, and latency counts from the time a reading was due, so
/// that a server that stalls is not spared the readings that should have come meanwhile.
///
/// With --pid the server's CPU time and memory are read from /proc: CPU a reading, bytes a connection. "client-bound" in
/// the table says that this client was the limit; give it more --threads or another machine.
///
/// Devices are named PREFIX-0 and so on, and their readings are stored like any others: measure on a data dir of its own.
///
/// Exits with 0 only when every reading was answered and acked and no connection was lost.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// The server, `ws://HOST:PORT` or `http://HOST:PORT`, or the broker that it listens to, `mqtt://[USER:PASSWORD@]HOST[:PORT]`.
    #[arg(long, env = "TIDEGATE_URL", default_value = super::send::DEFAULT_URL)]
    pub url: String,
    /// The endpoint.
    #[arg(long, short, default_value = "pump-health")]
    pub endpoint: EndpointName,
    /// Connections that send, one device each.
    #[arg(long, short, value_name = "N", default_value_t = 64, value_parser = number(0))]
    pub connections: u32,
    /// Predictions awaited on each connection (closed loop).
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = number(1), conflicts_with = "rate")]
    pub in_flight: u32,
    /// Readings a second in all, whatever comes back (open loop).
    #[arg(long, value_name = "R")]
    pub rate: Option<f64>,
    /// Seconds that are counted.
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = seconds)]
    pub seconds: f64,
    /// Seconds of load before that.
    #[arg(long, value_name = "S", default_value_t = 2.0, value_parser = seconds)]
    pub warm_up: f64,
    /// How readings are written.
    #[arg(long, value_enum, default_value_t = CodecName::Json)]
    pub codec: CodecName,
    /// Further connections, each a device, that only stand there.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = number(0))]
    pub idle: u32,
    /// Connections opened a second, at most.
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = number(1))]
    pub connect_rate: u32,
    /// So many devices send one reading each before the run, so that the server knows their sessions (ws:// and http://).
    #[arg(long, value_name = "D", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100_000_000))]
    pub devices: u32,
    /// What devices' names begin with [default: bench and the time].
    #[arg(long, value_name = "NAME")]
    pub prefix: Option<String>,
    /// Live subscriptions of one pattern, each on a connection of its own (ws:// and http://).
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = number(0))]
    pub subscribers: u32,
    /// What they listen to [default: predictions/ENDPOINT/*].
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// Values of every reading, instead of a simulated pump rig's.
    #[arg(
        long,
        value_name = "V,..",
        value_delimiter = ',',
        allow_negative_numbers = true
    )]
    pub values: Vec<f32>,
    /// The server's process on this machine.
    #[arg(long, value_name = "P")]
    pub pid: Option<u32>,
    /// Threads of this client.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// The core that they stay on.
    #[arg(long, value_name = "CORE")]
    pub core: Option<usize>,
    /// Writes the result as JSON too; - is standard output, with the table on standard error.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

fn number(least: i64) -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(least..=MOST_CONNECTIONS)
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (0.0..=86_400.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("expected 0 to 86400".into())
    }
}

/// Runs the command.
///
/// # Errors
/// What keeps it from beginning: an address that is none, a server that is not there, too few files allowed.
pub async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    // A place that cannot be written is said before the load, not behind it.
    let json = args.json.as_ref();
    let json = json.map(|path| Output::open(path, true)).transpose()?;
    let to_stdout = matches!(json, Some(Output::Standard(_)));
    let plan = plan(&args)?;
    let progress = Arc::new(Progress::default());
    let told = super::told_to_stop()?;
    let on_stop = Arc::clone(&progress);
    let stopper = tokio::spawn(async move {
        told.await;
        on_stop.stop.store(true, Ordering::Relaxed);
    });
    let mut line = Line::new(&plan);
    let outcome = load::run(plan, &progress, |stage| line.show(stage, &progress)).await;
    stopper.abort();
    line.0.finish_and_clear();
    let report = outcome.map_err(|error| anyhow!(error))?;
    if to_stdout {
        eprintln!("{report}");
    } else {
        println!("{report}");
    }
    if let Some(mut out) = json {
        serde_json::to_writer_pretty(&mut out, &report).context("the result as JSON")?;
        writeln!(out).context("the result as JSON")?;
        out.finish()?;
    }
    Ok(if report.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn plan(args: &BenchArgs) -> anyhow::Result<Plan> {
    let (peer, authority, login) = address(&args.url)?;
    let addr = resolve(&authority)?;
    let rows = if args.values.is_empty() {
        let mut rig = Rig::healthy(1);
        (0..ROWS).map(|_| rig.next_reading().0.to_vec()).collect()
    } else {
        vec![args.values.clone()]
    };
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let prefix = args.prefix.clone();
    let plan = Plan {
        authority,
        login,
        prefix: prefix.unwrap_or_else(|| format!("bench-{}", since.as_millis())),
        connections: args.connections as usize,
        idle: args.idle as usize,
        devices: args.devices as usize,
        subscribers: args.subscribers as usize,
        pace: match args.rate {
            Some(rate) => Pace::PerSecond(rate),
            None => Pace::InFlight(args.in_flight as usize),
        },
        warm_up: Duration::from_secs_f64(args.warm_up),
        length: Duration::from_secs_f64(args.seconds),
        codec: args.codec.into(),
        connect_per_s: args.connect_rate,
        threads: args.threads,
        core: args.core,
        pid: args.pid,
        ..Plan::new(peer, addr, args.endpoint.clone(), rows)
    };
    let topic = args.topic.clone();
    Ok(Plan {
        topic: topic.unwrap_or_else(|| plan.topic.clone()),
        ..plan
    })
}

type Login = Option<(String, String)>;

/// Who is meant, `host:port`, and a broker's login.
fn address(url: &str) -> anyhow::Result<(Peer, String, Login)> {
    if url.starts_with("mqtt://") {
        return match Address::broker(url)? {
            Address::Broker { host, port, login } => {
                Ok((Peer::Mqtt, format!("{host}:{port}"), login))
            }
            Address::Server { .. } => bail!("{url:?}: not a broker's address"),
        };
    }
    let peer = if url.starts_with("http://") {
        Peer::Http
    } else {
        Peer::Stream
    };
    match Address::server(url)? {
        Address::Server { authority } => Ok((peer, authority, None)),
        Address::Broker { .. } => bail!("{url:?}: not a server's address"),
    }
}

fn resolve(authority: &str) -> anyhow::Result<SocketAddr> {
    let mut found = authority
        .to_socket_addrs()
        .with_context(|| authority.to_owned())?;
    found
        .next()
        .with_context(|| format!("{authority}: no address"))
}

/// The progress line; on a terminal only.
struct Line(ProgressBar, State);

struct State {
    sockets: usize,
    devices: usize,
    /// When it was last shown, and the predictions and events by then.
    last: Instant,
    before: (u64, u64),
}

impl Line {
    fn new(plan: &Plan) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(super::said::bar("{elapsed} {msg}"));
        let state = State {
            sockets: plan.sockets(),
            devices: plan.devices,
            last: Instant::now(),
            before: (0, 0),
        };
        Self(bar, state)
    }

    fn show(&mut self, stage: Stage, progress: &Progress) {
        let state = &mut self.1;
        let connected = progress.connected.load(Ordering::Relaxed);
        if stage == Stage::Opening {
            let touched = progress.touched.load(Ordering::Relaxed);
            let (devices, sockets) = (state.devices, state.sockets);
            let text = if touched < devices {
                format!("{touched} of {devices} devices touched")
            } else {
                format!("{connected} of {sockets} connections")
            };
            return self.0.set_message(text);
        }
        let since = state.last.elapsed().as_secs_f64();
        if since < 1.0 {
            return;
        }
        let now = (
            progress.predicted.load(Ordering::Relaxed),
            progress.events.load(Ordering::Relaxed),
        );
        let rate = |now: u64, before: u64| (now - before) as f64 / since;
        let name = match stage {
            Stage::WarmUp => "warm-up",
            Stage::Counting | Stage::Opening => "counting",
            Stage::Draining => "awaiting the rest",
        };
        let mut text = format!(
            "{name}: {connected} connections, {:.0} predictions/s",
            rate(now.0, state.before.0)
        );
        if now.1 > 0 {
            text.push_str(&format!(", {:.0} events/s", rate(now.1, state.before.1)));
        }
        (state.last, state.before) = (Instant::now(), now);
        self.0.set_message(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_says_which_door() {
        for (url, peer, authority) in [
            ("ws://127.0.0.1:1", Peer::Stream, "127.0.0.1:1"),
            ("http://a:2/", Peer::Http, "a:2"),
            ("mqtt://u:p@b", Peer::Mqtt, "b:1883"),
        ] {
            let (found, place, login) = address(url).unwrap();
            assert_eq!((found, place.as_str()), (peer, authority));
            assert_eq!(login.is_some(), peer == Peer::Mqtt);
        }
        assert!(address("tcp://a:1").is_err() && address("ws://a:1/x").is_err());
    }
}
