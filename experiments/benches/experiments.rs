//! How long a refresh takes: 8 arms x 100,000 devices, two metrics, when every device matures at once, and when nothing has changed.
//!
//! `cargo xtask bench --only experiments`. The worst case first: a whole fleet whose horizon ends in one refresh. Prints the times and the
//! memory of the device table, and one table of figures beside targets at the end.

use std::hint::black_box;
use std::time::{Duration, Instant};

use tidegate_experiments::drift::{Reference, distance};
use tidegate_experiments::metric::{Direction, Form, Metric, Role};
use tidegate_experiments::rng::Rng;
use tidegate_experiments::{Analysis, Plan};

const ARMS: usize = 8;
const DEVICES: u64 = 100_000;
const RUNS: usize = 5;
/// Horizon of a device, ms.
const HORIZON: u64 = 1_000;

fn main() {
    let mut filled = Vec::new();
    let (mut whole, mut idle, mut trickle, mut tally) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for run in 0..RUNS {
        let before = resident();
        let mut analysis = Analysis::new(plan()).expect("the plan is fixed here");
        tally.push(fill(&mut analysis, run as u64) / (2 * ARMS as u32 * DEVICES as u32));
        filled.push(resident().saturating_sub(before));
        whole.push(timed(|| _ = black_box(analysis.report(2 * HORIZON))));
        idle.push(timed(|| _ = black_box(analysis.report(2 * HORIZON + 1))));
        for device in 0..1_000 {
            analysis.expose(10_000_000 + device, device as usize % ARMS, 3 * HORIZON);
            analysis.tally(10_000_000 + device, 0, 1.0, 1.0, 3 * HORIZON);
        }
        trickle.push(timed(|| _ = black_box(analysis.report(5 * HORIZON))));
    }
    let shift = drift();
    let memory = filled
        .iter()
        .max()
        .map_or(0, |bytes| bytes / (ARMS as u64 * DEVICES));
    println!(
        "refresh, all {} devices at once: {:?}",
        ARMS as u64 * DEVICES,
        median(&mut whole)
    );
    println!("memory a device, all open: {memory} bytes");
    println!();
    println!("| what | figure | target | met |");
    println!("|---|---|---|---|");
    let worst = median(&mut whole);
    row(
        "experiments: refresh, 8 arms x 100,000 devices mature at once",
        worst,
        Some(Duration::from_millis(200)),
    );
    row(
        "experiments: refresh, 1,000 devices matured since the last",
        median(&mut trickle),
        None,
    );
    row(
        "experiments: refresh, nothing matured",
        median(&mut idle),
        None,
    );
    row(
        "experiments: exposure and tallies, a tally",
        median(&mut tally),
        None,
    );
    row(
        "drift: 1,000 readings counted and compared, a reading",
        shift,
        None,
    );
}

fn row(what: &str, figure: Duration, target: Option<Duration>) {
    let (limit, met) = match target {
        Some(target) if figure <= target => (format!("< {target:?}"), "yes"),
        Some(target) => (format!("< {target:?}"), "no"),
        None => ("-".to_owned(), "-"),
    };
    println!("| {what} | {figure:.2?} | {limit} | {met} |");
}

fn plan() -> Plan {
    let metric = |name: &str, role, form| Metric {
        name: name.into(),
        form,
        role,
        direction: Direction::LowerIsBetter,
        margin: 0.01,
    };
    Plan {
        arms: (0..ARMS).map(|arm| format!("arm-{arm}")).collect(),
        shares: vec![1.0 / ARMS as f64; ARMS],
        horizon_ms: HORIZON,
        min_ms: 0,
        ..Plan::two_arms(vec![
            metric("errors", Role::Primary, Form::Ratio),
            metric("latency", Role::Guardrail, Form::Mean),
        ])
    }
}

/// Exposes every device and gives it both tallies; ids in no order, as a server's are to an experiment.
fn fill(analysis: &mut Analysis, seed: u64) -> Duration {
    let mut rng = Rng::new(seed);
    let mut devices: Vec<u64> = (0..ARMS as u64 * DEVICES).collect();
    rng.shuffle(&mut devices);
    timed(|| {
        for device in devices {
            let arm = (device % ARMS as u64) as usize;
            analysis.expose(device, arm, 0);
            analysis.tally(device, 0, f64::from(u8::from(rng.chance(0.2))), 1.0, 0);
            analysis.tally(device, 1, rng.uniform(), 1.0, 0);
        }
    })
}

fn drift() -> Duration {
    let mut rng = Rng::new(1);
    let values: Vec<f64> = (0..10_000).map(|_| rng.normal()).collect();
    let reference = Reference::freeze(&values, 128).expect("there are values");
    let mut all: Vec<Duration> = (0..200)
        .map(|_| {
            timed(|| {
                let mut window = reference.window();
                values[..1_000]
                    .iter()
                    .for_each(|x| reference.count(&mut window, *x));
                _ = black_box(distance::shift(&reference, &window, 0.001, 0.0));
            }) / 1_000
        })
        .collect();
    median(&mut all)
}

fn timed(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

fn median(all: &mut [Duration]) -> Duration {
    all.sort_unstable();
    all[all.len() / 2]
}

/// Resident memory of this process, bytes; 0 where there is no /proc.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}
