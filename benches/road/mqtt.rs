//! Readings a second through Mosquitto, beside a bare rumqttc loop that answers and acknowledges as Tidegate does, at the same broker.

use super::Args;
use super::common::backing::Backing;
use super::common::broker::Broker;
use super::common::figures::{Figures, thousands};
use super::common::server::Server;
use super::run::{Place, run};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tidegate::load::{Pace, Peer, Plan, Report};

/// Devices at the broker and what each has in flight.
const DEVICES: usize = 32;
const IN_FLIGHT: usize = 16;
/// Share of the bare loop to aim at.
const AIM: f64 = 0.7;
/// Longest wait for the server to reach the broker.
const PATIENCE: Duration = Duration::from_secs(20);

pub async fn measure(
    args: &Args,
    backings: &[Backing],
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let broker = Broker::start().await?;
    let bare = Server::of_this_program_on(None, "rumqttc", &broker.port.to_string())?;
    let bare_report = load(args, &broker, &bare, "bare").await?;
    drop(bare);
    drop(broker);
    // A broker of its own: nothing is left of the other's sessions.
    let broker = Broker::start().await?;
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    let fresh = backings[0].fresh().await?;
    let ours = fresh.serve_on(None, &[("TIDEGATE_MQTT__URL", &url)])?;
    reached(&ours).await?;
    let report = load(args, &broker, &ours, "ours").await?;
    println!("\nbare rumqttc loop: {bare_report}\n\nTidegate: {report}");
    let ratio = report.per_s.acked / bare_report.per_s.acked;
    figures.aim(
        format!("readings/s through Mosquitto, {}", Place::Unpinned.name()),
        format!(
            "{ratio:.2} x a bare rumqttc loop ({} of {})",
            thousands(report.per_s.acked),
            thousands(bare_report.per_s.acked)
        ),
        format!(">= {AIM} x"),
        ratio >= AIM,
    );
    Ok(())
}

async fn load(args: &Args, broker: &Broker, server: &Server, name: &str) -> anyhow::Result<Report> {
    let addr = SocketAddr::from(([127, 0, 0, 1], broker.port));
    let rows = (0..17).map(|seq| super::common::device::values(seq).to_vec());
    let mut plan = Plan::new(Peer::Mqtt, addr, "pump-health".parse()?, rows.collect());
    plan.connections = DEVICES;
    plan.pace = Pace::InFlight(IN_FLIGHT);
    plan.prefix = format!("mqtt-{name}");
    plan.length = args.length();
    plan.warm_up = args.length() / 4;
    plan.pid = Some(server.id());
    let report = run(plan).await?;
    anyhow::ensure!(report.is_clean(), "{report}");
    Ok(report)
}

async fn reached(server: &Server) -> anyhow::Result<()> {
    let begin = Instant::now();
    while server.metric("tidegate_mqtt_connected").await? < 1.0 {
        anyhow::ensure!(begin.elapsed() < PATIENCE, "the broker is not reached");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
