//! Twice as much as the server can take, for a minute: its memory, what the accepted readings feel, and how it is afterwards.
//!
//! A reading counts as accepted when the client's socket has taken it: what the kernel holds for the server is the server's to bound.

use super::common::backing::Backing;
use super::common::figures::{Figures, thousands};
use super::common::ms;
use super::run::{Answering, Place, Standing};
use super::{Args, SATURATING};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidegate::load::process::Usage;
use tidegate::load::{Pace, Report};

/// Connections that offer too much.
const CONNECTIONS: usize = 64;
/// Length of the overload, s; and in a quick run.
const SECONDS: (usize, usize) = (60, 8);
/// Bounds to aim at: memory of the second half over the first's, latency of what was accepted, and afterwards over before.
const AIM_GROWTH: f64 = 1.1;
const AIM_TAKEN_US: u64 = 1_000_000;
const AIM_AFTER: f64 = 2.0;

pub async fn measure(
    args: &Args,
    backings: &[Backing],
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let standing = Standing::start(Answering::Tidegate(&backings[0]), Place::Pinned).await?;
    let closed = standing
        .load(args, |plan| plan.pace = Pace::InFlight(SATURATING))
        .await?;
    let capacity = closed.per_s.acked;
    let quarter = capacity / 4.0;
    let before = paced(args, &standing, quarter, args.length()).await?;
    let memory = Memory::watch(standing.server.id());
    let length = Duration::from_secs(args.pick(SECONDS) as u64);
    let over = paced(args, &standing, capacity * 2.0, length).await?;
    let (first, second) = memory.halves().await;
    let after = paced(args, &standing, quarter, args.length()).await?;
    println!("\nbefore: {before}\n\noverloaded: {over}\n\nafter: {after}");
    let lost: u64 = over.closed.values().sum();
    figures.note(
        format!("overload, {} readings/s offered", thousands(capacity * 2.0)),
        format!(
            "{} predicted/s, {} acked/s, {lost} of {CONNECTIONS} connections closed",
            thousands(over.per_s.predicted),
            thousands(over.per_s.acked)
        ),
    );
    let growth = second / first;
    figures.aim(
        "memory in the second half of an overload",
        format!(
            "{growth:.2} x the first half's {:.0} MiB",
            first / 1048576.0
        ),
        format!("<= {AIM_GROWTH} x"),
        growth <= AIM_GROWTH,
    );
    figures.aim(
        "p99 of an accepted reading in an overload",
        ms(over.taken_us.p99),
        format!("<= {}", ms(AIM_TAKEN_US)),
        over.taken_us.p99 <= AIM_TAKEN_US,
    );
    let ratio = after.prediction_us.p99 as f64 / before.prediction_us.p99.max(1) as f64;
    figures.aim(
        "p99 right after an overload, at a quarter of the capacity",
        format!("{ratio:.2} x before ({})", ms(after.prediction_us.p99)),
        format!("<= {AIM_AFTER} x"),
        ratio <= AIM_AFTER,
    );
    Ok(())
}

async fn paced(
    args: &Args,
    standing: &Standing,
    per_s: f64,
    length: Duration,
) -> anyhow::Result<Report> {
    standing
        .load(args, |plan| {
            plan.connections = CONNECTIONS;
            plan.pace = Pace::PerSecond(per_s);
            plan.length = length;
        })
        .await
}

/// Looks at a process's memory twice a second.
struct Memory {
    stop: Arc<AtomicBool>,
    seen: tokio::task::JoinHandle<Vec<f64>>,
}

impl Memory {
    fn watch(pid: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let seen = tokio::spawn(async move {
            let mut seen = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                if let Ok(usage) = Usage::of(pid) {
                    seen.push(usage.memory() as f64);
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            seen
        });
        Self { stop, seen }
    }

    /// The most in the first half and in the second, bytes.
    async fn halves(self) -> (f64, f64) {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.seen.await.unwrap_or_default();
        let (first, second) = seen.split_at(seen.len() / 2);
        let most = |part: &[f64]| part.iter().copied().fold(f64::NAN, f64::max);
        (most(first), most(second))
    }
}
