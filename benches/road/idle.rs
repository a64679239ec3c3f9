//! Connections that were welcomed and say nothing: memory of the server, and of the kernel beside it.

use super::common::backing::Backing;
use super::common::figures::Figures;
use super::run::{Answering, Place, Standing};
use super::{Args, CLIENT_CORE};
use std::fs;
use std::time::Duration;

/// Connections, within 20,000 files a process; and in a quick run.
const CONNECTIONS: (usize, usize) = (19_000, 2_000);
/// Server memory of a connection to aim at, KiB.
const AIM_KIB: f64 = 8.0;

pub async fn measure(
    args: &Args,
    backings: &[Backing],
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let connections = args.pick(CONNECTIONS);
    let kernel_before = slab_kib();
    let who = Answering::Tidegate(&backings[0]);
    let standing = Standing::start(who, Place::Unpinned).await?;
    let watch = tokio::spawn(highest_slab());
    let report = standing
        .load(args, |plan| {
            plan.connections = 0;
            plan.idle = connections;
            plan.core = Some(CLIENT_CORE);
            plan.warm_up = Duration::ZERO;
            plan.length = Duration::from_secs(2);
        })
        .await?;
    watch.abort();
    anyhow::ensure!(report.is_clean(), "{report}");
    let usage = report.server.as_ref();
    let each = usage.and_then(|usage| usage.bytes_per_connection);
    let each = each.unwrap_or(f64::NAN) / 1024.0;
    println!("\n{report}");
    figures.aim(
        format!("server memory of {connections} idle connections"),
        format!("{each:.2} KiB each (PSS over the empty server)"),
        format!("<= {AIM_KIB} KiB"),
        each <= AIM_KIB,
    );
    // Both ends of a loopback connection are in this kernel.
    let kernel = (HIGHEST.load(std::sync::atomic::Ordering::Relaxed) as f64 - kernel_before)
        / connections as f64
        / 2.0;
    figures.note(
        "kernel memory of one end of a connection",
        format!("{kernel:.2} KiB (slab, half of both ends)"),
    );
    Ok(())
}

static HIGHEST: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

/// Looks at the kernel's slabs while connections stand.
async fn highest_slab() {
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        HIGHEST.fetch_max(slab_kib() as u64, std::sync::atomic::Ordering::Relaxed);
    }
}

/// The kernel's slab memory, KiB.
fn slab_kib() -> f64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Slab:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    kib.and_then(|kib| kib.parse().ok()).unwrap_or_default()
}
