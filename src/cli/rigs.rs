//! Simulated pump rigs that stream to a server over real sockets: the demo's devices.
//!
//! Each rig is one task with a [`Rig`] of its own seed; every second one writes bincode. Rigs follow the client's rule like
//! any device. Bounded: 256 unsettled readings a rig.

use super::send::Ms;
use crate::client::{Address, Limits, Observer, Options, Source, Tally, Target, stream};
use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tidegate_models::rig::Rig;
use tidegate_protocol::{Codec, DeviceId, EndpointName, Reading, Values};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The endpoint that rigs speak to when nothing else is said.
pub const ENDPOINT: &str = "pump-health";
/// Most streams of one demo: rigs by endpoints.
pub const MOST_RIGS: u32 = 10_000;
/// A rig that fell behind catches up at most this much, then goes on from now.
const MOST_BEHIND: Duration = Duration::from_secs(1);

/// How many rigs, how fast, to whom.
#[derive(Debug, Clone)]
pub struct RigOptions {
    /// Rigs; times the endpoints at most [`MOST_RIGS`].
    pub devices: u32,
    /// Readings a second of each rig.
    pub rate_hz: f64,
    /// Endpoints that each rig speaks to, all of the rigs' schema.
    pub endpoints: Vec<EndpointName>,
}

/// What the rigs came to.
#[derive(Debug)]
pub struct RigTotals {
    /// Rigs that ran.
    pub devices: u32,
    /// All their counts added up.
    pub tally: Tally,
    /// What ended a rig early, a line each.
    pub errors: Vec<String>,
}

/// The block that ends a demo.
impl fmt::Display for RigTotals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tally = &self.tally;
        writeln!(f, "devices: {}", self.devices)?;
        writeln!(f, "readings: {}", tally.sent)?;
        writeln!(f, "predictions: {}", tally.predicted)?;
        writeln!(f, "acked: {}", tally.acked)?;
        if tally.nacked_total() > 0 {
            writeln!(f, "nacked: {}", tally.nacked_total())?;
        }
        writeln!(f, "calibrating: {}", tally.calibrating)?;
        writeln!(f, "anomalies: {}", tally.anomalies)?;
        writeln!(f, "prediction p50: {}", Ms(tally.round_trip_ms(0.50)))?;
        write!(f, "prediction p99: {}", Ms(tally.round_trip_ms(0.99)))
    }
}

/// Runs the rigs against the server at `url` until `stop` is cancelled, then waits for their last acks.
///
/// # Errors
/// An address that is none; what ends a single rig is in [`RigTotals::errors`].
pub async fn run_rigs(
    url: &str,
    options: RigOptions,
    stop: CancellationToken,
) -> anyhow::Result<RigTotals> {
    let address = Address::server(url)?;
    let devices = options.devices;
    let streams = u64::from(devices) * options.endpoints.len() as u64;
    anyhow::ensure!(
        streams <= u64::from(MOST_RIGS),
        "{devices} rigs at {} endpoints are {streams} streams: at most {MOST_RIGS}",
        options.endpoints.len()
    );
    let mut rigs = JoinSet::new();
    let all = (1..=devices).flat_map(|number| options.endpoints.iter().map(move |e| (number, e)));
    for (number, endpoint) in all {
        let device: DeviceId = format!("rig-{number}").parse()?;
        let mut target = Target::new(address.clone(), endpoint.clone(), device);
        target.codec = if number % 2 == 0 {
            Codec::Bincode
        } else {
            Codec::Json
        };
        target.options = patience();
        let mut source = RigSource::new(number, &options);
        let stop = stop.clone();
        rigs.spawn(async move {
            let stream_name = format!("{}/{}", target.endpoint, target.device);
            let outcome = stream(target, &mut source, &mut Notes, &stop).await;
            (stream_name, outcome)
        });
    }
    let mut totals = RigTotals {
        devices,
        tally: Tally::default(),
        errors: Vec::new(),
    };
    while let Some(ended) = rigs.join_next().await {
        let (name, outcome) = ended?;
        totals.tally.add(&outcome.tally);
        totals
            .errors
            .extend(outcome.error.map(|error| format!("{name}: {error}")));
    }
    Ok(totals)
}

fn patience() -> Options {
    Options {
        limits: Limits {
            unsettled: 256,
            in_flight: 64,
        },
        give_up_after: Duration::from_secs(30),
        ..Options::default()
    }
}

/// Cuts go to the log.
struct Notes;

impl Observer for Notes {
    fn note(&mut self, text: &str) {
        tracing::info!(rig = text, "a rig was cut off");
    }
}

/// One rig's readings, measured when they are due.
struct RigSource {
    rig: Rig,
    seq: u64,
    due: Instant,
    period: Duration,
}

impl RigSource {
    /// Rigs start spread over one period, so that they do not all measure at once.
    fn new(number: u32, options: &RigOptions) -> Self {
        let period = Duration::from_secs_f64(1.0 / options.rate_hz.clamp(0.001, 100_000.0));
        let share = f64::from(number - 1) / f64::from(options.devices.max(1));
        Self {
            rig: Rig::new(u64::from(number)),
            seq: 0,
            due: Instant::now() + period.mul_f64(share),
            period,
        }
    }
}

impl Source for RigSource {
    fn due(&self) -> Option<Instant> {
        Some(self.due)
    }

    fn take(&mut self, now: Instant) -> Option<Reading> {
        let (values, _) = self.rig.next_reading();
        let reading = Reading {
            seq: Some(self.seq),
            ts: Some(unix_ms()),
            values: Values::Ordered(values.to_vec()),
            ..Reading::default()
        };
        self.seq += 1;
        let earliest = now.checked_sub(MOST_BEHIND).unwrap_or(now);
        self.due = (self.due + self.period).max(earliest);
        Some(reading)
    }

    /// A rig remembers nothing over a restart: it goes on counting where the server is.
    fn skip_below(&mut self, seq: u64) -> u64 {
        self.seq = self.seq.max(seq);
        0
    }
}

fn unix_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_millis() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rig_measures_in_order_and_goes_on_where_the_server_is() {
        let options = RigOptions {
            devices: 2,
            rate_hz: 10.0,
            endpoints: Vec::new(),
        };
        let mut source = RigSource::new(2, &options);
        assert_eq!(source.skip_below(40), 0);
        let due = source.due().unwrap();
        let seqs: Vec<_> = (0..3).filter_map(|_| source.take(due)?.seq).collect();
        assert_eq!(seqs, [40, 41, 42]);
        assert_eq!(source.due().unwrap(), due + 3 * source.period);
    }

    #[test]
    fn a_rig_that_fell_behind_does_not_catch_up_for_ever() {
        let options = RigOptions {
            devices: 1,
            rate_hz: 10.0,
            endpoints: Vec::new(),
        };
        let mut source = RigSource::new(1, &options);
        let much_later = source.due().unwrap() + Duration::from_secs(60);
        source.take(much_later);
        assert_eq!(source.due().unwrap(), much_later - MOST_BEHIND);
    }

    #[tokio::test]
    async fn rigs_at_several_endpoints_count_once_for_each() {
        let options = RigOptions {
            devices: MOST_RIGS,
            rate_hz: 1.0,
            endpoints: ["a", "b"].map(|name| name.parse().unwrap()).into(),
        };
        let stop = CancellationToken::new();
        let refused = run_rigs("http://127.0.0.1:1", options, stop).await;
        let refused = refused.unwrap_err().to_string();
        assert!(
            refused.contains("20000 streams: at most 10000"),
            "{refused}"
        );
    }
}
