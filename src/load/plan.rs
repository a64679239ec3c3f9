//! What a run of load is: whom it speaks to, how many, how fast, how long.
//!
//! Checked before anything is opened. Knows neither sockets nor clocks.

use std::net::SocketAddr;
use std::time::Duration;
use tidegate_protocol::{Codec, DeviceId, EndpointName};

/// Most threads of a client.
const MOST_THREADS: usize = 64;

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Tidegate's device stream over WebSocket.
    Stream,
    /// A WebSocket that sends every frame back: a yardstick. No acks.
    Echo,
    /// An MQTT broker that a Tidegate server listens to.
    Mqtt,
    /// Tidegate's HTTP API; an answer is prediction and ack in one.
    Http,
}

/// When readings leave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// So many predictions awaited on each connection.
    InFlight(usize),
    /// So many readings a second in all, whatever comes back; latency counts from the time a reading was due.
    PerSecond(f64),
}

/// A run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Who answers.
    pub peer: Peer,
    /// Where.
    pub addr: SocketAddr,
    /// The same as the user wrote it, for requests and errors.
    pub authority: String,
    /// User and password of a broker.
    pub login: Option<(String, String)>,
    /// The prediction task.
    pub endpoint: EndpointName,
    /// What devices' names begin with: `{prefix}-{number}`.
    pub prefix: String,
    /// Connections that send, one device each.
    pub connections: usize,
    /// Connections that only stand there; each is a device too.
    pub idle: usize,
    /// Devices that send one reading each before the run, so that the server knows them.
    pub devices: usize,
    /// Live subscriptions.
    pub subscribers: usize,
    /// What they listen to.
    pub topic: String,
    /// When readings leave.
    pub pace: Pace,
    /// Before anything is counted.
    pub warm_up: Duration,
    /// What is counted.
    pub length: Duration,
    /// How devices write.
    pub codec: Codec,
    /// Most connections opened a second.
    pub connect_per_s: u32,
    /// Threads of the client.
    pub threads: usize,
    /// The core that the client's threads stay on.
    pub core: Option<usize>,
    /// The server's process, to be looked at.
    pub pid: Option<u32>,
    /// Values of readings, taken in turn.
    pub rows: Vec<Vec<f32>>,
}

impl Plan {
    /// A run of one second of 64 connections with one in flight, without a warm-up.
    pub fn new(peer: Peer, addr: SocketAddr, endpoint: EndpointName, rows: Vec<Vec<f32>>) -> Self {
        Self {
            peer,
            addr,
            authority: addr.to_string(),
            login: None,
            topic: format!("predictions/{endpoint}/*"),
            endpoint,
            prefix: "bench".into(),
            connections: 64,
            idle: 0,
            devices: 0,
            subscribers: 0,
            pace: Pace::InFlight(1),
            warm_up: Duration::ZERO,
            length: Duration::from_secs(1),
            codec: Codec::Json,
            connect_per_s: 5_000,
            threads: 1,
            core: None,
            pid: None,
            rows,
        }
    }

    /// Name of device `number`.
    pub fn device(&self, number: usize) -> String {
        format!("{}-{number}", self.prefix)
    }

    /// Connections in all.
    pub fn sockets(&self) -> usize {
        self.connections + self.idle + self.subscribers
    }

    /// Whether it can be run.
    ///
    /// # Errors
    /// What does not fit together, in one line.
    pub fn check(&self) -> Result<(), String> {
        let width = self.rows.first().map_or(0, Vec::len);
        if width == 0 || self.rows.iter().any(|row| row.len() != width) {
            return Err("readings need values, equally many in each".into());
        }
        // The longest name there will be.
        DeviceId::new(&self.device(usize::MAX))
            .map_err(|error| format!("prefix {:?}: {error}", self.prefix))?;
        if self.sockets() == 0 {
            return Err("no connection to open".into());
        }
        if !(1..=MOST_THREADS).contains(&self.threads) {
            return Err(format!("threads: expected 1 to {MOST_THREADS}"));
        }
        match self.pace {
            Pace::InFlight(0) => return Err("in flight: expected at least 1".into()),
            Pace::InFlight(most) if most > 1 && self.peer == Peer::Http => {
                return Err("over HTTP one request is answered at a time: more connections instead of more in flight".into());
            }
            Pace::PerSecond(rate) if !(rate > 0.0 && rate.is_finite()) => {
                return Err("rate: expected more than 0".into());
            }
            _ => {}
        }
        if self.length.is_zero() {
            return Err("seconds: expected more than 0".into());
        }
        if self.devices > 0 && matches!(self.peer, Peer::Mqtt | Peer::Echo) {
            return Err(
                "devices beyond the connections are touched over ws:// or http:// only".into(),
            );
        }
        if self.subscribers > 0 && !matches!(self.peer, Peer::Stream | Peer::Http) {
            return Err("subscribers need the server's own address: ws:// or http://".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(change: impl FnOnce(&mut Plan)) -> Result<(), String> {
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        let endpoint = "pump-health".parse().unwrap();
        let mut plan = Plan::new(Peer::Http, addr, endpoint, vec![vec![1.0; 8]]);
        change(&mut plan);
        plan.check()
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        assert_eq!(plan(|_| {}), Ok(()));
        let refused = [
            plan(|plan| plan.rows.clear()),
            plan(|plan| plan.rows.push(vec![1.0])),
            plan(|plan| plan.prefix = "a b".into()),
            plan(|plan| plan.connections = 0),
            plan(|plan| plan.threads = 0),
            plan(|plan| plan.pace = Pace::InFlight(0)),
            plan(|plan| plan.pace = Pace::InFlight(2)),
            plan(|plan| plan.pace = Pace::PerSecond(f64::NAN)),
            plan(|plan| plan.length = Duration::ZERO),
            plan(|plan| (plan.peer, plan.devices) = (Peer::Mqtt, 1)),
            plan(|plan| (plan.peer, plan.subscribers) = (Peer::Echo, 1)),
        ];
        for (index, refused) in refused.iter().enumerate() {
            assert!(refused.is_err(), "{index}");
        }
    }
}
