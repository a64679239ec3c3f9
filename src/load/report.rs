//! What a run came to: one value that is written as a table and as JSON.
//!
//! A run is clean when every reading was answered and acked and no connection was lost; whoever ran it turns that into an exit code.

use super::counts::Counts;
use super::plan::{Pace, Peer, Plan};
use super::process::Usage;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Share of its threads' time from which on a client is called the limit.
const BOUND: f64 = 0.95;

/// Latencies in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// Half are below.
    pub p50: u64,
    /// 90 % are below.
    pub p90: u64,
    /// 99 % are below.
    pub p99: u64,
    /// 99.9 % are below.
    pub p999: u64,
    /// The longest.
    pub max: u64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            count: histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max(),
        }
    }
}

/// The server's process over a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ServerUsage {
    /// CPU time inside the window, s.
    pub user_s: f64,
    /// See `user_s`.
    pub system_s: f64,
    /// Cores that it kept busy.
    pub cores: f64,
    /// CPU time a predicted reading, us; `None` without any.
    pub cpu_us_per_message: Option<f64>,
    /// Before the first connection, when all stood, and at the end.
    pub before: Usage,
    /// See `before`.
    pub connected: Usage,
    /// See `before`.
    pub after: Usage,
    /// Memory grown with the connections, bytes each; `None` without any.
    pub bytes_per_connection: Option<f64>,
}

/// Devices that sent one reading each before the run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Touched {
    /// How many.
    pub devices: usize,
    /// How long it took, s.
    pub seconds: f64,
}

/// Counts a second inside the window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct PerSecond {
    /// Readings sent.
    pub sent: f64,
    /// Predictions.
    pub predicted: f64,
    /// Readings acked.
    pub acked: f64,
    /// Events that subscribers got, all together.
    pub events: f64,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Who answered: `stream`, `echo`, `mqtt`, `http`.
    pub peer: &'static str,
    /// Where.
    pub place: String,
    /// How devices wrote.
    pub codec: &'static str,
    /// Connections that sent.
    pub connections: usize,
    /// Connections that stood there.
    pub idle: usize,
    /// Subscriptions.
    pub subscribers: usize,
    /// Closed loop: predictions awaited on each connection.
    pub in_flight: Option<usize>,
    /// Open loop: readings a second in all.
    pub rate: Option<f64>,
    /// Length of the window, s.
    pub seconds: f64,
    /// Why it was shorter than planned.
    pub ended_early: Option<String>,
    /// Seconds until all connections stood.
    pub connect_s: f64,
    /// Devices made known before.
    pub touched: Option<Touched>,
    /// Inside the window.
    pub per_s: PerSecond,
    /// From when a reading was due to its prediction, us.
    pub prediction_us: Latency,
    /// From when a reading left to its prediction, us.
    pub taken_us: Latency,
    /// From when a reading was due to its ack, us.
    pub ack_us: Latency,
    /// Readings of the whole run, warm-up and end included, by their fate.
    pub readings: Readings,
    /// Events of the whole run, and those left out.
    pub events: u64,
    /// See `events`.
    pub events_dropped: u64,
    /// Answers that must not be.
    pub wrong: u64,
    /// The first of them.
    pub first_wrong: Option<String>,
    /// Connections that ended before their time, by what was said.
    pub closed: BTreeMap<String, u64>,
    /// Share of the client threads' time that they were busy, 0 to 1.
    pub client_busy: f64,
    /// Whether the client is the limit, so that the server could do more.
    pub client_bound: bool,
    /// The server's process.
    pub server: Option<ServerUsage>,
}

/// Readings by their fate: sent = predicted + nacked before a prediction + shed + unanswered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Readings {
    /// All.
    pub sent: u64,
    /// With a prediction.
    pub predicted: u64,
    /// Of them, while the version calibrated.
    pub calibrating: u64,
    /// Of them, with a failed step.
    pub failed: u64,
    /// Of them, stored and not folded.
    pub skipped: u64,
    /// Committed.
    pub acked: u64,
    /// Refused for good, by code.
    pub nacked: BTreeMap<String, u64>,
    /// Not taken for want of room.
    pub shed: u64,
    /// Whose prediction never came.
    pub unanswered: u64,
    /// Whose ack never came.
    pub unacked: u64,
}

/// The server's process at the moments that count.
#[derive(Debug, Clone, Copy)]
pub struct Looks {
    /// Before the first connection.
    pub before: Usage,
    /// When all stood.
    pub connected: Usage,
    /// At the end of the window.
    pub after: Usage,
    /// CPU time inside the window: user, system, s.
    pub cpu: (f64, f64),
}

/// How long the parts of a run took.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    /// The window, s.
    pub window_s: f64,
    /// The connections, s.
    pub connect_s: f64,
    /// Devices that were touched.
    pub touched: Option<Touched>,
}

impl Report {
    /// Puts together what was counted.
    pub fn new(
        plan: &Plan,
        counts: &Counts,
        took: Took,
        looks: Option<Looks>,
        ended_early: Option<String>,
    ) -> Self {
        let window_s = took.window_s.max(1e-9);
        let counted = counts.counted;
        let client_busy = counts.cpu_s / window_s / plan.threads as f64;
        let (in_flight, rate) = match plan.pace {
            Pace::InFlight(most) => (Some(most), None),
            Pace::PerSecond(rate) => (None, Some(rate)),
        };
        Self {
            peer: match plan.peer {
                Peer::Stream => "stream",
                Peer::Echo => "echo",
                Peer::Mqtt => "mqtt",
                Peer::Http => "http",
            },
            place: plan.authority.clone(),
            codec: match plan.codec {
                tidegate_protocol::Codec::Json => "json",
                tidegate_protocol::Codec::Bincode => "bincode",
            },
            connections: plan.connections,
            idle: plan.idle,
            subscribers: plan.subscribers,
            in_flight,
            rate,
            seconds: window_s,
            ended_early,
            connect_s: took.connect_s,
            touched: took.touched,
            per_s: PerSecond {
                sent: counted.sent as f64 / window_s,
                predicted: counted.predicted as f64 / window_s,
                acked: counted.acked as f64 / window_s,
                events: counted.events as f64 / window_s,
            },
            prediction_us: Latency::of(&counts.prediction),
            taken_us: Latency::of(&counts.taken),
            ack_us: Latency::of(&counts.ack),
            readings: Readings::of(counts),
            events: counts.events,
            events_dropped: counts.dropped,
            wrong: counts.wrong,
            first_wrong: counts.first_wrong.clone(),
            closed: counts.closed.clone(),
            client_busy,
            client_bound: client_busy >= BOUND,
            server: looks.map(|looks| looks.usage(plan, window_s, counted.predicted)),
        }
    }

    /// Whether every reading was answered and acked, and nothing was wrong or lost.
    pub fn is_clean(&self) -> bool {
        let readings = &self.readings;
        let all_answered = readings.unanswered + readings.unacked + readings.shed == 0;
        let sent_some = readings.sent > 0 || self.connections == 0;
        all_answered
            && sent_some
            && readings.nacked.is_empty()
            && self.wrong == 0
            && self.closed.is_empty()
            && self.ended_early.is_none()
    }
}

impl Readings {
    fn of(counts: &Counts) -> Self {
        Self {
            sent: counts.sent,
            predicted: counts.predicted,
            calibrating: counts.calibrating,
            failed: counts.failed,
            skipped: counts.skipped,
            acked: counts.acked,
            nacked: counts.nacked.clone(),
            shed: counts.shed,
            unanswered: counts.unanswered,
            unacked: counts.unacked,
        }
    }
}

impl Looks {
    fn usage(&self, plan: &Plan, window_s: f64, predicted: u64) -> ServerUsage {
        let (user_s, system_s) = self.cpu;
        let cpu_s = user_s + system_s;
        let sockets = plan.sockets();
        let grown = self.connected.memory() as f64 - self.before.memory() as f64;
        ServerUsage {
            user_s,
            system_s,
            cores: cpu_s / window_s,
            cpu_us_per_message: (predicted > 0).then(|| cpu_s * 1e6 / predicted as f64),
            before: self.before,
            connected: self.connected,
            after: self.after,
            bytes_per_connection: (sockets > 0).then(|| grown / sockets as f64),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_head(f)?;
        self.write_rates(f)?;
        self.write_readings(f)?;
        self.write_server(f)?;
        let busy = self.client_busy * 100.0;
        let bound = if self.client_bound {
            " (client-bound: the server could do more)"
        } else {
            ""
        };
        write!(f, "client: {busy:.0} % busy{bound}")
    }
}

impl Report {
    fn write_head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pace = match (self.in_flight, self.rate) {
            (Some(most), _) => format!("{most} in flight each"),
            (_, rate) => format!(
                "{:.0} readings/s offered, latency from when a reading was due",
                rate.unwrap_or_default()
            ),
        };
        writeln!(
            f,
            "{} at {}, {}: {} connections ({} idle, {} subscribers beside), {pace}, {:.1} s",
            self.peer,
            self.place,
            self.codec,
            self.connections,
            self.idle,
            self.subscribers,
            self.seconds
        )?;
        if let Some(why) = &self.ended_early {
            writeln!(f, "ENDED EARLY: {why}")?;
        }
        if let Some(touched) = self.touched {
            let per_s = touched.devices as f64 / touched.seconds.max(1e-9);
            writeln!(
                f,
                "devices touched before: {} in {:.1} s, {per_s:.0}/s",
                touched.devices, touched.seconds
            )?;
        }
        writeln!(f, "connected in: {:.2} s", self.connect_s)
    }

    fn write_rates(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_s = self.per_s;
        writeln!(f)?;
        writeln!(
            f,
            "{:<22} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "", "/s", "p50 us", "p90 us", "p99 us", "p99.9 us", "max us"
        )?;
        let mut row = |name: &str, per_s: f64, latency: Latency| {
            writeln!(
                f,
                "{name:<22} {per_s:>10.0} {:>9} {:>9} {:>9} {:>9} {:>9}",
                latency.p50, latency.p90, latency.p99, latency.p999, latency.max
            )
        };
        row("predictions", per_s.predicted, self.prediction_us)?;
        if self.rate.is_some() {
            row("  from leaving", per_s.predicted, self.taken_us)?;
        }
        if self.peer != "echo" {
            row("acks", per_s.acked, self.ack_us)?;
        }
        if self.subscribers > 0 {
            writeln!(
                f,
                "{:<22} {:>10.0} ({} left out)",
                "events", per_s.events, self.events_dropped
            )?;
        }
        writeln!(f)
    }

    fn write_readings(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let readings = &self.readings;
        write!(
            f,
            "readings, warm-up and end included: {} sent, {} predicted ({} calibrating), {} acked",
            readings.sent, readings.predicted, readings.calibrating, readings.acked
        )?;
        for (name, count) in [
            ("failed steps", readings.failed),
            ("skipped", readings.skipped),
            ("shed", readings.shed),
            ("without prediction", readings.unanswered),
            ("without ack", readings.unacked),
        ] {
            if count > 0 {
                write!(f, ", {count} {name}")?;
            }
        }
        writeln!(f)?;
        for (code, count) in &readings.nacked {
            writeln!(f, "nacked {code}: {count}")?;
        }
        for (why, count) in &self.closed {
            writeln!(f, "connections lost: {count}, {why}")?;
        }
        if let Some(what) = &self.first_wrong {
            writeln!(f, "WRONG ANSWERS: {}, the first: {what}", self.wrong)?;
        }
        Ok(())
    }

    fn write_server(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(server) = &self.server else {
            return Ok(());
        };
        let mib = |usage: Usage| usage.memory() as f64 / 1024.0 / 1024.0;
        write!(
            f,
            "server: {:.2} cores ({:.2} s user, {:.2} s system)",
            server.cores, server.user_s, server.system_s
        )?;
        if let Some(each) = server.cpu_us_per_message {
            write!(f, ", {each:.2} us of CPU a reading")?;
        }
        let (before, connected, after) = (server.before, server.connected, server.after);
        write!(
            f,
            "; memory {:.1} MiB before, {:.1} connected, {:.1} after",
            mib(before),
            mib(connected),
            mib(after)
        )?;
        // A server that has served before has room left over.
        if let Some(each) = server.bytes_per_connection.filter(|each| *each > 0.0) {
            write!(f, ", {each:.0} bytes a connection")?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::ledger::Times;
    use crate::load::words::Kind;
    use std::net::SocketAddr;

    fn report(change: impl FnOnce(&mut Counts)) -> Report {
        let addr = SocketAddr::from(([127, 0, 0, 1], 9));
        let plan = Plan::new(
            Peer::Stream,
            addr,
            "pump-health".parse().unwrap(),
            vec![vec![1.0]],
        );
        let mut counts = Counts::default();
        counts.set_window(crate::load::counts::Window {
            start: 0,
            from: 0,
            until: 2_000_000_000,
        });
        counts.send(0);
        counts.predict(Times { due: 0, sent: 0 }, Kind::Answer, 500_000);
        counts.ack(Times { due: 0, sent: 0 }, 700_000);
        change(&mut counts);
        let took = Took {
            window_s: 2.0,
            connect_s: 0.1,
            touched: None,
        };
        Report::new(&plan, &counts, took, None, None)
    }

    #[test]
    fn a_clean_run_is_one_where_everything_was_answered() {
        assert!(report(|_| {}).is_clean());
        let spoilt = [
            report(|counts| counts.nack("bad_reading".into())),
            report(|counts| counts.close("hung up".into())),
            report(|counts| counts.wrong("twice".into())),
            report(|counts| counts.unanswered = 1),
            report(|counts| counts.unacked = 1),
            report(|counts| counts.shed = 1),
            report(|counts| counts.sent = 0),
        ];
        assert!(spoilt.iter().all(|report| !report.is_clean()));
    }

    #[test]
    fn the_table_and_the_json_say_the_same() {
        let report = report(|counts| counts.nack("bad_reading".into()));
        let text = report.to_string();
        assert!(text.contains("nacked bad_reading: 1"), "{text}");
        let json: serde_json::Value =
            serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(json["readings"]["nacked"]["bad_reading"], 1);
        assert_eq!(json["per_s"]["predicted"], 0.5);
        assert_eq!(json["prediction_us"]["count"], 1);
        assert_eq!(json["in_flight"], 1);
    }
}
