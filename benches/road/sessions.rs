//! Very many sessions known, few of them active: memory of one that rests, and whether a look-up costs more among many.

use super::Args;
use super::common::backing::Backing;
use super::common::figures::{Figures, thousands};
use super::run::{Answering, Place, Standing, cpu_us};
use std::time::Duration;
use tidegate::load::{Pace, Peer, Report};
use tidegate_models::Zoo;

/// Sessions known, and active among them; and in a quick run.
const KNOWN: (usize, usize) = (1_000_000, 50_000);
const ACTIVE: (usize, usize) = (10_000, 1_000);
/// Connections that make sessions known.
const RATE: (f64, f64) = (10_000.0, 5_000.0);
/// Bytes of a resting session beyond its model state to aim at, and how much dearer a message may be among many.
const AIM_BYTES: f64 = 500.0;
const AIM_DEARER: f64 = 1.1;

pub async fn measure(
    args: &Args,
    backings: &[Backing],
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let (known, active) = (args.pick(KNOWN), args.pick(ACTIVE));
    let settings = [
        ("TIDEGATE_SESSIONS__MAX", "2000000"),
        ("TIDEGATE_SESSIONS__IDLE_S", "86400"),
    ];
    let who = Answering::Tidegate(&backings[0]);
    let few = Standing::start_with(who, Place::Pinned, &settings).await?;
    touch(args, &few, active).await?;
    let among_few = run(args, &few, active).await?;
    drop(few);
    let many = Standing::start_with(who, Place::Pinned, &settings).await?;
    // What a server needs anyway is there after a first thousand.
    touch(args, &many, 1_000).await?;
    let before = many.server.pss()?;
    let touched = touch(args, &many, known).await?;
    // Rows on their way are written, and their memory given back.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let grown = many.server.pss()?.saturating_sub(before) as f64;
    let sessions = many.server.metric("tidegate_sessions").await?;
    let among_many = run(args, &many, active).await?;
    let state = state_bytes()?;
    let each = grown / (known - 1_000) as f64 - state;
    println!(
        "\n{} sessions in memory; made known: {touched}",
        thousands(sessions)
    );
    println!("among {active}: {among_few}\n\namong {known}: {among_many}");
    figures.aim(
        format!("memory of a resting session among {known}"),
        format!("{each:.0} bytes beyond {state:.0} of model state"),
        format!("<= {AIM_BYTES} bytes"),
        each <= AIM_BYTES,
    );
    let dearer = cpu_us(&among_many) / cpu_us(&among_few);
    figures.aim(
        format!("CPU a message of {active} active devices among {known}"),
        format!(
            "{dearer:.2} x alone ({:.2} us of {:.2})",
            cpu_us(&among_many),
            cpu_us(&among_few)
        ),
        format!("<= {AIM_DEARER} x"),
        dearer <= AIM_DEARER,
    );
    Ok(())
}

/// So many devices send one reading each over HTTP; how it went, for people.
async fn touch(args: &Args, standing: &Standing, devices: usize) -> anyhow::Result<String> {
    let report = standing
        .load(args, |plan| {
            plan.peer = Peer::Http;
            plan.devices = devices;
            plan.connections = 1;
            plan.pace = Pace::PerSecond(10.0);
            plan.warm_up = Duration::ZERO;
            plan.length = Duration::from_millis(200);
        })
        .await?;
    let seconds = report.touched.map_or(f64::NAN, |touched| touched.seconds);
    Ok(format!("{seconds:.1} s, {:.0}/s", devices as f64 / seconds))
}

async fn run(args: &Args, standing: &Standing, active: usize) -> anyhow::Result<Report> {
    standing
        .load(args, |plan| {
            plan.connections = active;
            plan.pace = Pace::PerSecond(args.pick(RATE));
        })
        .await
}

/// Floats of the served version's state.
fn state_bytes() -> anyhow::Result<f64> {
    let zoo = Zoo::embedded()?;
    let endpoint = zoo.endpoints.get("pump-health");
    let endpoint = endpoint.ok_or_else(|| anyhow::anyhow!("no pump-health"))?;
    Ok(endpoint.default_version().state_len() as f64 * 4.0)
}
