//! What the benchmarks share: the server as a child process, a cheap device, a store of its own for each run, figures beside their targets.
//!
//! Servers are driven from outside, over sockets, and looked at through `/proc`; only the bare insert names the store's code, for the
//! schema. Nothing here fails on a slow machine: it fails when an answer is missing.

#![allow(dead_code, reason = "each benchmark uses its part")]

pub mod backing;
pub mod bare;
pub mod broker;
pub mod device;
pub mod figures;
#[path = "../../tests/common/postgres.rs"]
mod postgres;
pub mod server;
pub mod tally;

use anyhow::bail;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Longest wait for what must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a benchmark to its end; ctrl-c and SIGTERM end it early, and its servers with it.
pub fn run(measure: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::select! {
            measured = measure => measured,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            _ = terminated.recv() => bail!("terminated"),
        }
    })
}

/// The machine's load before anything is measured: with it a reader can tell a noisy run.
pub fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}

pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Microseconds as milliseconds with two digits.
pub fn ms(micros: u64) -> String {
    format!("{:.2} ms", micros as f64 / 1e3)
}
