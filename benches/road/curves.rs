//! Curves: how throughput, latency and memory move with connections, known devices, the model's size and subscribers. Drawn into `docs/img/`.
//!
//! Each point is one short run on a server of its own, one core for it and one for the client.

use super::Args;
use super::common::backing::Backing;
use super::run::{Answering, Place, Standing, cpu_us};
use anyhow::anyhow;
use plotters::prelude::*;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidegate::load::{Pace, Peer, Report};

/// What is gone through, and in a quick run.
const CONNECTIONS: [usize; 7] = [1, 8, 64, 512, 2_000, 8_000, 18_000];
const DEVICES: [usize; 5] = [1_000, 10_000, 100_000, 400_000, 1_000_000];
const SUBSCRIBERS: [usize; 5] = [1, 10, 100, 500, 1_000];
/// Endpoints by the cost of their default version's step, the least first.
const ENDPOINTS: [&str; 3] = ["pump-health", "rig-state", "rig-forecast"];
/// Open loop where load is to be the same at every point, readings a second.
const PER_S: f64 = 5_000.0;
/// Events a second to each subscriber.
const EVENTS_PER_S: f64 = 20.0;
/// A picture of panels one above the other.
const WIDTH: u32 = 760;
const PANEL: u32 = 260;

/// One panel: what is up its side, and its curves by name.
struct Panel {
    side: &'static str,
    curves: Vec<(&'static str, Vec<(f64, f64)>)>,
}

impl Panel {
    fn new(side: &'static str, curves: &[&'static str]) -> Self {
        Self {
            side,
            curves: curves.iter().map(|name| (*name, Vec::new())).collect(),
        }
    }

    fn add(&mut self, curve: usize, x: f64, y: f64) {
        if y.is_finite() {
            self.curves[curve].1.push((x, y));
        }
    }
}

pub async fn draw_all(args: &Args, backings: &[Backing]) -> anyhow::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/img");
    std::fs::create_dir_all(&folder)?;
    let backing = &backings[0];
    let panels = connections(args, backing).await?;
    draw(&folder.join("connections.svg"), "connections", &panels)?;
    let panels = subscribers(args, backing).await?;
    draw(
        &folder.join("subscribers.svg"),
        "subscribers of one stream",
        &panels,
    )?;
    let panels = models(args, backing).await?;
    draw(
        &folder.join("models.svg"),
        "floats of a stream's state",
        &panels,
    )?;
    let panels = devices(args, backing).await?;
    draw(&folder.join("devices.svg"), "devices known", &panels)
}

fn points<const N: usize>(args: &Args, all: [usize; N], most: usize) -> Vec<usize> {
    let most = if args.quick { most } else { usize::MAX };
    all.into_iter().filter(|point| *point <= most).collect()
}

async fn connections(args: &Args, backing: &Backing) -> anyhow::Result<Vec<Panel>> {
    let mut rate = Panel::new("messages/s", &["Tidegate", "echo"]);
    let mut p99 = Panel::new("p99 ms", &["Tidegate", "echo"]);
    let mut memory = Panel::new("KiB a connection", &["Tidegate", "echo"]);
    for connections in points(args, CONNECTIONS, 512) {
        for (curve, who) in [Answering::Tidegate(backing), Answering::Echo]
            .into_iter()
            .enumerate()
        {
            let standing = Standing::start(who, Place::Pinned).await?;
            let report = standing
                .load(args, |plan| plan.connections = connections)
                .await?;
            let x = connections as f64;
            rate.add(curve, x, report.per_s.predicted);
            p99.add(curve, x, report.prediction_us.p99 as f64 / 1e3);
            // Few connections drown in what a server takes anyway.
            if connections >= 64 {
                let usage = report.server.as_ref();
                let bytes = usage.and_then(|usage| usage.bytes_per_connection);
                memory.add(curve, x, bytes.unwrap_or(f64::NAN) / 1024.0);
            }
            say("connections", connections, &report);
        }
    }
    Ok(vec![rate, p99, memory])
}

async fn devices(args: &Args, backing: &Backing) -> anyhow::Result<Vec<Panel>> {
    let mut cpu = Panel::new("CPU us a message", &["1,000 active"]);
    let mut p99 = Panel::new("p99 ms", &["1,000 active"]);
    let mut memory = Panel::new("server MiB", &["PSS"]);
    let settings = [
        ("TIDEGATE_SESSIONS__MAX", "2000000"),
        ("TIDEGATE_SESSIONS__IDLE_S", "86400"),
    ];
    for known in points(args, DEVICES, 10_000) {
        let who = Answering::Tidegate(backing);
        let standing = Standing::start_with(who, Place::Pinned, &settings).await?;
        standing
            .load(args, |plan| {
                plan.peer = Peer::Http;
                plan.devices = known;
                plan.connections = 1;
                plan.pace = Pace::PerSecond(10.0);
                plan.length = Duration::from_millis(200);
            })
            .await?;
        let report = standing
            .load(args, |plan| {
                plan.connections = 1_000;
                plan.pace = Pace::PerSecond(PER_S);
            })
            .await?;
        let x = known as f64;
        cpu.add(0, x, cpu_us(&report));
        p99.add(0, x, report.prediction_us.p99 as f64 / 1e3);
        memory.add(0, x, standing.server.pss()? as f64 / 1_048_576.0);
        say("devices", known, &report);
    }
    Ok(vec![cpu, p99, memory])
}

async fn subscribers(args: &Args, backing: &Backing) -> anyhow::Result<Vec<Panel>> {
    let mut rate = Panel::new("events/s", &["Tidegate", "bare broadcast"]);
    let mut cpu = Panel::new("CPU us an event", &["Tidegate", "bare broadcast"]);
    let mut memory = Panel::new("KiB a subscriber", &["Tidegate", "bare broadcast"]);
    for subscribers in points(args, SUBSCRIBERS, 100) {
        for curve in 0..2 {
            let standing = match curve {
                0 => Standing::start(Answering::Tidegate(backing), Place::Pinned).await?,
                _ => Standing::yardstick("broadcast", &EVENTS_PER_S.to_string(), Place::Pinned)?,
            };
            let report = standing
                .load(args, |plan| {
                    plan.connections = 1 - curve;
                    plan.subscribers = subscribers;
                    plan.pace = Pace::PerSecond(EVENTS_PER_S);
                })
                .await?;
            let (x, usage) = (subscribers as f64, report.server.as_ref());
            let cores = usage.map_or(f64::NAN, |usage| usage.cores);
            rate.add(curve, x, report.per_s.events);
            cpu.add(curve, x, cores * 1e6 / report.per_s.events);
            if subscribers >= 100 {
                let bytes = usage.and_then(|usage| usage.bytes_per_connection);
                memory.add(curve, x, bytes.unwrap_or(f64::NAN) / 1024.0);
            }
            say("subscribers", subscribers, &report);
        }
    }
    Ok(vec![rate, cpu, memory])
}

/// The default versions of the built-in endpoints, by the size of their state.
async fn models(args: &Args, backing: &Backing) -> anyhow::Result<Vec<Panel>> {
    let mut rate = Panel::new("messages/s", &["64 x 16"]);
    let mut p99 = Panel::new("p99 ms", &["64 x 16"]);
    let mut cpu = Panel::new("CPU us a message", &["64 x 16"]);
    let zoo = tidegate_models::Zoo::embedded()?;
    let mut sizes = Vec::new();
    for name in ENDPOINTS {
        let endpoint = zoo.endpoints.get(name);
        let endpoint = endpoint.ok_or_else(|| anyhow!("no endpoint {name}"))?;
        sizes.push((endpoint.default_version().state_len(), name));
    }
    sizes.sort_unstable();
    for (floats, name) in sizes {
        let standing = Standing::start(Answering::Tidegate(backing), Place::Pinned).await?;
        let endpoint = name.parse()?;
        let report = standing
            .load(args, |plan| {
                plan.endpoint = endpoint;
                plan.pace = Pace::InFlight(super::SATURATING);
            })
            .await?;
        let x = floats.max(1) as f64;
        rate.add(0, x, report.per_s.predicted);
        p99.add(0, x, report.prediction_us.p99 as f64 / 1e3);
        cpu.add(0, x, cpu_us(&report));
        say(name, floats, &report);
    }
    Ok(vec![rate, p99, cpu])
}

fn say(what: &str, at: usize, report: &Report) {
    println!(
        "{what} {at}, {}: {:.0} messages/s, {:.0} events/s, p99 {} us, {:.2} us of CPU",
        report.peer,
        report.per_s.predicted,
        report.per_s.events,
        report.prediction_us.p99,
        cpu_us(report)
    );
}

/// Panels one above the other, over a logarithmic axis.
fn draw(path: &PathBuf, below: &str, panels: &[Panel]) -> anyhow::Result<()> {
    let height = PANEL * panels.len() as u32;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| anyhow!("{error}"))?;
    for (panel, area) in panels.iter().zip(area.split_evenly((panels.len(), 1))) {
        draw_panel(panel, below, &area).map_err(|error| anyhow!("{}: {error}", panel.side))?;
    }
    area.present().map_err(|error| anyhow!("{error}"))?;
    println!("{}", path.display());
    Ok(())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw_panel(panel: &Panel, below: &str, area: &Area<'_>) -> Result<(), String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let all = || panel.curves.iter().flat_map(|(_, points)| points);
    let least = all().map(|point| point.0).fold(f64::INFINITY, f64::min);
    let most = all().map(|point| point.0).fold(0.0, f64::max);
    let top = all().map(|point| point.1).fold(0.0, f64::max) * 1.1;
    if most == 0.0 || top <= 0.0 {
        return Ok(());
    }
    let across = (least * 0.9..most * 1.1).log_scale();
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(72)
        .build_cartesian_2d(across, 0.0..top)
        .map_err(|error| said(&error))?;
    chart
        .configure_mesh()
        .x_desc(below)
        .y_desc(panel.side)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .label_style(("sans-serif", 12))
        .light_line_style(WHITE.mix(0.0))
        .draw()
        .map_err(|error| said(&error))?;
    let colours = [RGBColor(11, 110, 153), RGBColor(190, 90, 20)];
    for ((name, points), colour) in panel.curves.iter().zip(colours) {
        let line = LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(3);
        chart
            .draw_series(line)
            .map_err(|error| said(&error))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 12))
        .draw()
        .map_err(|error| said(&error))
}
