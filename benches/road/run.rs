//! One run of load on one server: who answers, where both run, what came of it.
//!
//! Every server is a child process. Pinned, the server has core 0 and the client core 1; unpinned, both have all cores. The client is the
//! same for Tidegate and the yardsticks: `tidegate::load`.

use super::common::backing::{Backing, Fresh};
use super::common::server::Server;
use super::{Args, CLIENT_CORE, SERVER_CORE};
use anyhow::{anyhow, ensure};
use std::net::SocketAddr;
use std::sync::Arc;
use tidegate::load::{self, Peer, Plan, Progress, Report};
use tidegate_protocol::Codec;

/// Where server and client run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Pinned,
    Unpinned,
}

impl Place {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pinned => "one core each",
            Self::Unpinned => "unpinned",
        }
    }

    fn server_core(self) -> Option<usize> {
        (self == Self::Pinned).then_some(SERVER_CORE)
    }

    fn client_core(self) -> Option<usize> {
        (self == Self::Pinned).then_some(CLIENT_CORE)
    }
}

/// Who answers.
#[derive(Clone, Copy)]
pub enum Answering<'a> {
    Echo,
    Coalesced,
    Tidegate(&'a Backing),
}

impl Answering<'_> {
    pub fn name(self, codec: Codec) -> String {
        match self {
            Self::Echo => "echo".into(),
            Self::Coalesced => "coalesced echo".into(),
            Self::Tidegate(backing) => format!("{}, {codec:?}", backing.name()),
        }
    }

    fn peer(self) -> Peer {
        match self {
            Self::Tidegate(_) => Peer::Stream,
            Self::Echo | Self::Coalesced => Peer::Echo,
        }
    }
}

/// A server, and the store it has if it is ours.
pub struct Standing {
    pub server: Server,
    pub place: Place,
    peer: Peer,
    fresh: Option<Fresh>,
}

impl Standing {
    /// Starts one.
    pub async fn start(who: Answering<'_>, place: Place) -> anyhow::Result<Self> {
        Self::start_with(who, place, &[]).await
    }

    /// The same with `settings` of Tidegate.
    pub async fn start_with(
        who: Answering<'_>,
        place: Place,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let core = place.server_core();
        let fresh = match who {
            Answering::Tidegate(backing) => Some(backing.fresh().await?),
            _ => None,
        };
        let server = match (who, &fresh) {
            (Answering::Tidegate(_), Some(fresh)) => fresh.serve_on(core, settings)?,
            (Answering::Coalesced, _) => Server::of_this_program_on(core, "coalesced", "")?,
            _ => Server::of_this_program_on(core, "echo", "")?,
        };
        Ok(Self {
            server,
            place,
            peer: who.peer(),
            fresh,
        })
    }

    /// A yardstick that is no echo.
    pub fn yardstick(kind: &str, argument: &str, place: Place) -> anyhow::Result<Self> {
        let server = Server::of_this_program_on(place.server_core(), kind, argument)?;
        Ok(Self {
            server,
            place,
            peer: Peer::Stream,
            fresh: None,
        })
    }

    /// A run of 64 connections, its window and warm-up from the arguments; `change` it.
    pub async fn load(
        &self,
        args: &Args,
        change: impl FnOnce(&mut Plan),
    ) -> anyhow::Result<Report> {
        let addr = SocketAddr::from(([127, 0, 0, 1], self.server.port));
        let rows = (0..17).map(|seq| super::common::device::values(seq).to_vec());
        let mut plan = Plan::new(self.peer, addr, "pump-health".parse()?, rows.collect());
        plan.length = args.length();
        plan.warm_up = args.length() / 4;
        plan.pid = Some(self.server.id());
        plan.core = self.place.client_core();
        if let Some(fresh) = &self.fresh {
            plan.prefix = fresh.prefix();
        }
        change(&mut plan);
        run(plan).await
    }
}

/// Runs a plan; a wrong answer fails.
pub async fn run(plan: Plan) -> anyhow::Result<Report> {
    let report = load::run(plan, &Arc::new(Progress::default()), |_| {}).await;
    let report = report.map_err(|error| anyhow!(error))?;
    ensure!(report.wrong == 0, "{report}");
    Ok(report)
}

/// The run in the middle, by messages a second; each on a server of its own.
pub async fn median(
    args: &Args,
    who: Answering<'_>,
    place: Place,
    change: impl Fn(&mut Plan),
) -> anyhow::Result<Report> {
    let mut reports = Vec::new();
    for _ in 0..args.runs() {
        let standing = Standing::start(who, place).await?;
        let report = standing.load(args, &change).await?;
        ensure!(report.is_clean(), "{report}");
        reports.push(report);
    }
    reports.sort_by(|a, b| a.per_s.predicted.total_cmp(&b.per_s.predicted));
    Ok(reports.swap_remove(reports.len() / 2))
}

/// CPU time of the server a message, us.
pub fn cpu_us(report: &Report) -> f64 {
    let server = report.server.as_ref();
    server
        .and_then(|server| server.cpu_us_per_message)
        .unwrap_or(f64::NAN)
}

/// Who was the limit, where it is the client.
pub fn bound(report: &Report) -> &'static str {
    if report.client_bound {
        "client-bound"
    } else {
        ""
    }
}
