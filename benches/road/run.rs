//! One case of the table: a server, 64 devices in a closed loop, and what came of it.

use super::common::backing::Backing;
use super::common::device::Device;
use super::common::server::Server;
use super::common::tally::{Counts, Part, Tally};
use super::{Args, CONNECTIONS};
use anyhow::ensure;
use hdrhistogram::Histogram;
use std::time::{Duration, Instant};
use tidegate_protocol::Codec;

/// Who answers.
#[derive(Clone, Copy)]
pub enum Peer<'a> {
    Echo,
    Coalesced,
    Tidegate(&'a Backing),
}

/// One case of the table.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    pub peer: Peer<'a>,
    pub codec: Codec,
    pub in_flight: usize,
}

/// What one run came to.
pub struct Outcome {
    pub per_s: f64,
    pub acked_per_s: f64,
    cpu_us: f64,
    tally: Tally,
}

impl Case<'_> {
    fn name(&self) -> String {
        match self.peer {
            Peer::Echo => "echo".into(),
            Peer::Coalesced => "coalesced".into(),
            Peer::Tidegate(backing) => {
                format!("{} {:?}", backing.name(), self.codec).to_lowercase()
            }
        }
    }
}

pub fn print_head() {
    println!(
        "{:<20} {:>10} {:>10} {:>8} {:>9} {:>9} {:>9} {:>9} {:>7}",
        "server", "msg/s", "acked/s", "us/msg", "p50 us", "p99 us", "ack p50", "ack p99", "ratio"
    );
}

pub fn print_row(case: &Case<'_>, outcome: &Outcome, ratio: f64) {
    let counts = outcome.counts();
    let at = |histogram: &Histogram<u64>, quantile| match histogram.len() {
        0 => "-".to_owned(),
        _ => histogram.value_at_quantile(quantile).to_string(),
    };
    println!(
        "{:<20} {:>10.0} {:>10.0} {:>8.2} {:>9} {:>9} {:>9} {:>9} {ratio:>7.2}",
        case.name(),
        outcome.per_s,
        outcome.acked_per_s,
        outcome.cpu_us,
        at(&counts.prediction, 0.5),
        at(&counts.prediction, 0.99),
        at(&counts.ack, 0.5),
        at(&counts.ack, 0.99),
    );
}

impl Outcome {
    pub fn new(tally: Tally, took: Duration, cpu: Duration) -> Self {
        let counts = &tally.parts()[0];
        Self {
            per_s: counts.predicted as f64 / took.as_secs_f64(),
            acked_per_s: counts.acked as f64 / took.as_secs_f64(),
            cpu_us: cpu.as_secs_f64() * 1e6 / counts.predicted as f64,
            tally,
        }
    }

    pub fn counts(&self) -> &Counts {
        &self.tally.parts()[0]
    }
}

/// The run in the middle, by messages a second.
pub async fn median(args: &Args, case: Case<'_>) -> anyhow::Result<Outcome> {
    let mut outcomes = Vec::new();
    for _ in 0..args.runs.max(1) {
        outcomes.push(run(case, args.length()).await?);
    }
    outcomes.sort_by(|a, b| a.per_s.total_cmp(&b.per_s));
    Ok(outcomes.swap_remove(outcomes.len() / 2))
}

async fn run(case: Case<'_>, length: Duration) -> anyhow::Result<Outcome> {
    let fresh = match case.peer {
        Peer::Tidegate(backing) => Some(backing.fresh().await?),
        _ => None,
    };
    let server = match case.peer {
        Peer::Echo => Server::of_this_program("echo")?,
        Peer::Coalesced => Server::of_this_program("coalesced")?,
        Peer::Tidegate(_) => fresh.as_ref().expect("made above").serve()?,
    };
    let mut devices = Vec::new();
    for number in 0..CONNECTIONS {
        devices.push(match &fresh {
            Some(fresh) => Device::connect(server.port, case.codec, &fresh.device(number)).await?,
            None => Device::connect_echo(server.port, case.codec).await?,
        });
    }
    let part = Part::warm_up(1);
    let tasks: Vec<_> = devices
        .into_iter()
        .map(|device| tokio::spawn(drive(device, case.in_flight, part.clone())))
        .collect();
    let (took, cpu) = count(&server, &part, length).await?;
    let mut tally = Tally::new(&part)?;
    for task in tasks {
        tally.add(&task.await??)?;
    }
    ensure!(
        tally.parts()[0].predicted > 0,
        "{}: no message came back",
        case.name()
    );
    Ok(Outcome::new(tally, took, cpu))
}

async fn drive(mut device: Device, in_flight: usize, part: Part) -> anyhow::Result<Tally> {
    let mut tally = Tally::new(&part)?;
    device.run(in_flight, &mut tally).await?;
    Ok(tally)
}

/// Lets a run warm up, counts for `length` and ends it; how long it really was, and the server's CPU time.
pub async fn count(
    server: &Server,
    part: &Part,
    length: Duration,
) -> anyhow::Result<(Duration, Duration)> {
    tokio::time::sleep(length / 4).await;
    part.next();
    let (begin, cpu) = (Instant::now(), server.cpu()?);
    tokio::time::sleep(length).await;
    part.next();
    Ok((begin.elapsed(), server.cpu()? - cpu))
}
