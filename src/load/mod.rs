//! Load: many devices from few threads, every answer checked, latency as it is felt. What `tidegate bench` and the benchmarks drive servers with.
//!
//! [`run`] carries out a [`Plan`] and gives a [`Report`]. It opens all connections first, then runs a warm-up and a counted window, then awaits what is
//! on its way. One thread serves thousands of connections: it polls them by itself, reads all that waits, and writes all that is due at
//! once, with readings prepared up to their number, so that it costs little beside the server. Speaks to Tidegate over WebSocket, MQTT and HTTP, and
//! to an echo, the yardstick. Knows the protocol and nothing of the server's inside.
//!
//! Order of the files: `plan`; `words`, `websocket`, `mqtt`, `http`, `ledger` (pure); `connection`, `open`, `drive` (sockets); `counts`, `process`, `report`.

mod connection;
mod counts;
mod drive;
mod http;
mod ledger;
mod mqtt;
mod open;
mod plan;
pub mod process;
mod report;
mod websocket;
mod words;

pub use counts::Progress;
pub use plan::{Pace, Peer, Plan};
pub use report::{Latency, Report, ServerUsage, Touched};

use counts::{Counts, Window};
use drive::Driver;
use open::{AT_ONCE, Opener, TOUCHED_AT_ONCE, Wish};
use process::Usage;
use report::{Looks, Took};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;
use words::Encoder;

/// From the last connection to the first reading: every thread is there by then.
const BEFORE_START: Duration = Duration::from_millis(50);
/// How often whoever watches is told.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Which part of a run it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Devices send their one reading, connections are opened.
    Opening,
    /// Readings leave, nothing counts.
    WarmUp,
    /// What is counted.
    Counting,
    /// What is on its way is awaited.
    Draining,
}

/// Carries out a plan; `watch` is called ten times a second.
///
/// # Errors
/// What keeps it from beginning: a plan that does not fit together, too few files, a peer that refuses. In one line, for people. What goes
/// wrong later is in the report.
pub async fn run(
    plan: Plan,
    progress: &Arc<Progress>,
    mut watch: impl FnMut(Stage),
) -> Result<Report, String> {
    plan.check()?;
    let touching = plan.devices.min(TOUCHED_AT_ONCE);
    process::allow_files(plan.sockets().max(touching))?;
    let look = |plan: &Plan| plan.pid.map(Usage::of).transpose();
    let before = look(&plan)?;
    let opening = tokio::task::spawn_blocking({
        let (plan, progress) = (plan.clone(), Arc::clone(progress));
        move || open_all(&plan, &progress)
    });
    let opened = watched(opening, &mut watch, Stage::Opening).await;
    let opened = opened.map_err(|error| format!("opening connections: {error}"))??;
    let connected = look(&plan)?;
    let window = opened.window(&plan);
    let base = opened.base;
    let took = opened.took;
    let threads = start(opened.drivers, window)?;
    let counted = count(&plan, base, window, progress, &mut watch).await;
    let after = look(&plan);
    let mut counts = Counts::default();
    for thread in threads {
        let ended = watched(thread, &mut watch, Stage::Draining).await;
        counts.add(&ended.map_err(|_| "a thread of the client died".to_owned())??);
    }
    let looks = match (before, connected, counted.cpu, after) {
        (Some(before), Some(connected), Some(cpu), Ok(Some(after))) => Some(Looks {
            before,
            connected,
            after,
            cpu,
        }),
        _ => None,
    };
    let took = Took {
        window_s: counted.seconds,
        ..took
    };
    Ok(Report::new(
        &plan,
        &counts,
        took,
        looks,
        counted.ended_early,
    ))
}

/// Awaits something and tells the watcher meanwhile.
async fn watched<T>(
    mut what: impl Future<Output = T> + Unpin,
    watch: &mut impl FnMut(Stage),
    stage: Stage,
) -> T {
    loop {
        match tokio::time::timeout(TELL_EVERY, &mut what).await {
            Ok(done) => return done,
            Err(_) => watch(stage),
        }
    }
}

/// Everything that stands before the first reading.
struct Opened {
    drivers: Vec<Driver>,
    base: Instant,
    took: Took,
}

impl Opened {
    fn window(&self, plan: &Plan) -> Window {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let start = nanos(self.base.elapsed() + BEFORE_START);
        let from = start.saturating_add(nanos(plan.warm_up));
        Window {
            start,
            from,
            until: from.saturating_add(nanos(plan.length)),
        }
    }
}

fn open_all(plan: &Plan, progress: &Arc<Progress>) -> Result<Opened, String> {
    // Doors without a welcome: an epoch that no earlier run had.
    let epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    let epoch = epoch.unwrap_or_default().as_millis() as u64;
    let base = Instant::now();
    let mut opener = Opener::new(plan, epoch);
    let encoder = Encoder::new(plan.codec, opener.epoch(), &plan.rows);
    let touched = touch_all(plan, &mut opener, &encoder, progress)?;
    let mut drivers = Vec::new();
    for _ in 0..plan.threads {
        let driver = Driver::new(plan, encoder.clone(), base, Arc::clone(progress));
        drivers.push(driver.map_err(|error| format!("poll: {error}"))?);
    }
    let senders = (0..plan.connections).map(Wish::Sender);
    let idle = (plan.connections..plan.connections + plan.idle).map(Wish::Idle);
    let subscribers = (0..plan.subscribers).map(|_| Wish::Subscriber);
    // Those that stand there first: whoever sends waits the least.
    let wishes: Vec<Wish> = idle.chain(subscribers).chain(senders).collect();
    let begin = Instant::now();
    let mut next = 0;
    for batch in wishes.chunks(AT_ONCE) {
        if progress.is_stopped() {
            return Err("stopped before it began".into());
        }
        for connection in opener.open(batch)? {
            let thread = next % plan.threads;
            next += 1;
            drivers[thread]
                .add(connection)
                .map_err(|error| error.to_string())?;
        }
        pause(&mut drivers, opener.not_before())?;
    }
    let took = Took {
        window_s: 0.0,
        connect_s: begin.elapsed().as_secs_f64(),
        touched,
    };
    Ok(Opened {
        drivers,
        base,
        took,
    })
}

/// Until `not_before`, and at least once: a ping is answered while others still connect.
fn pause(drivers: &mut [Driver], not_before: Instant) -> Result<(), String> {
    loop {
        let left = not_before.saturating_duration_since(Instant::now());
        let wait = left / u32::try_from(drivers.len()).unwrap_or(1);
        for driver in &mut *drivers {
            driver
                .turn(wait)
                .map_err(|error| format!("poll: {error}"))?;
        }
        if Instant::now() >= not_before {
            return Ok(());
        }
    }
}

fn touch_all(
    plan: &Plan,
    opener: &mut Opener<'_>,
    encoder: &Encoder,
    progress: &Progress,
) -> Result<Option<Touched>, String> {
    if plan.devices == 0 {
        return Ok(None);
    }
    let begin = Instant::now();
    let mut lines = Vec::new();
    // Over HTTP connections serve one device after the other; over WebSocket each is opened and closed.
    let at_once = match plan.peer {
        Peer::Http => TOUCHED_AT_ONCE,
        _ => AT_ONCE,
    };
    for from in (0..plan.devices).step_by(at_once) {
        if progress.is_stopped() {
            return Err("stopped before it began".into());
        }
        let to = (from + at_once).min(plan.devices);
        opener.touch(encoder, from..to, &mut lines)?;
        progress.touched.store(to, Ordering::Relaxed);
    }
    Ok(Some(Touched {
        devices: plan.devices,
        seconds: begin.elapsed().as_secs_f64(),
    }))
}

type Ended = oneshot::Receiver<Result<Counts, String>>;

fn start(drivers: Vec<Driver>, window: Window) -> Result<Vec<Ended>, String> {
    let mut threads = Vec::new();
    for driver in drivers {
        let (done, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("load".into());
        thread
            .spawn(move || {
                // Whoever waited may be gone.
                let _ = done.send(driver.run(window));
            })
            .map_err(|error| format!("a thread of the client: {error}"))?;
        threads.push(ended);
    }
    Ok(threads)
}

struct Counting {
    seconds: f64,
    cpu: Option<(f64, f64)>,
    ended_early: Option<String>,
}

/// Waits through warm-up and window and reads the server's CPU time at both ends.
async fn count(
    plan: &Plan,
    base: Instant,
    window: Window,
    progress: &Progress,
    watch: &mut impl FnMut(Stage),
) -> Counting {
    let at = |nanos| base + Duration::from_nanos(nanos);
    let cpu = || plan.pid.and_then(|pid| process::cpu(pid).ok());
    let mut ended_early = wait(at(window.from), plan, progress, || watch(Stage::WarmUp)).await;
    let (from, before) = (Instant::now(), cpu());
    if ended_early.is_none() {
        ended_early = wait(at(window.until), plan, progress, || watch(Stage::Counting)).await;
    }
    let spent = before.zip(cpu());
    Counting {
        seconds: from.elapsed().as_secs_f64(),
        cpu: spent.map(|(before, after)| (after.0 - before.0, after.1 - before.1)),
        ended_early,
    }
}

/// Until then; why it was not waited for so long.
async fn wait(
    until: Instant,
    plan: &Plan,
    progress: &Progress,
    mut watch: impl FnMut(),
) -> Option<String> {
    loop {
        if progress.is_stopped() {
            return Some("stopped".into());
        }
        if plan.connections > 0 && progress.senders.load(Ordering::Relaxed) == 0 {
            return Some("all connections are lost: is the server gone?".into());
        }
        let now = Instant::now();
        if now >= until {
            return None;
        }
        tokio::time::sleep((until - now).min(TELL_EVERY)).await;
        watch();
    }
}
