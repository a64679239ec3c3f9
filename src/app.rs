//! Wiring: opens the store, builds the road, binds the port, starts the tasks, and takes it all down again in order.
//!
//! The only file that knows everyone. Start: models, port, database; each failure says in one line what to do. Stop: not ready,
//! stop accepting, finish what was taken, commit, ack, close 4001, close the database; within the drain deadline.

mod drain;

use crate::alert::{self, Alerts};
use crate::config::{Config, Connections};
use crate::experiment::{self, Experiments, Inbox};
use crate::http::{self, Site};
use crate::inference::{Engine, Engines, quiet_steps};
use crate::ingest::mqtt::{self, MqttStatus, Stopping};
use crate::monitor::Monitor;
use crate::pipeline::{Pipeline, Recorder, await_readings, follow, rescue, sweep};
use crate::push::{Hub, Linger};
use crate::registry::{self, OpenError, Registry};
use crate::store::lock::FileLock;
use crate::store::writer::{WriterHandle, writer};
use crate::store::{self, Store, StoreError};
use crate::telemetry::{self, Rates};
use crate::upkeep::{Gatherer, Keeper};
use axum::serve::ListenerExt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tidegate_models::Zoo;
use tidegate_protocol::EndpointName;
use tidegate_protocol::live::SystemEvent;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longest time between two sweeps of idle sessions.
const SWEEP: Duration = Duration::from_secs(10);
/// Files that a process needs beside its sockets.
const OTHER_FILES: u64 = 64;

/// Why the server does not start; one line for people.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data dir or the database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The models.
    #[error(transparent)]
    Models(#[from] OpenError),
    /// The port.
    #[error("listen {}: {}", .0, cannot_listen(.1))]
    Listen(SocketAddr, std::io::Error),
    /// The metrics recorder.
    #[error("metrics: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
}

/// Why a running server stops by itself; one line for people.
#[derive(Debug, thiserror::Error)]
#[error("another tidegate server has taken over this database: nothing was committed since")]
pub struct Lost;

/// A running server.
pub struct Running {
    addr: SocketAddr,
    site: Arc<Site>,
    serving: JoinHandle<()>,
    writing: JoinHandle<()>,
    flush: CancellationToken,
    drain: Duration,
    _lock: Option<FileLock>,
}

/// Starts a server with the models that its configuration names; it accepts connections when this returns.
///
/// # Errors
/// See [`StartError`]; nothing keeps running then.
pub async fn start(config: Config) -> Result<Running, StartError> {
    start_or(config, None).await
}

/// What keeps a port from being bound, and what to do.
fn cannot_listen(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::AddrInUse => format!("{error}: stop what uses it, or choose another --listen"),
        ErrorKind::AddrNotAvailable => format!("{error}: no address of this machine"),
        ErrorKind::PermissionDenied => format!("{error}: choose a port from 1024"),
        _ => error.to_string(),
    }
}

/// Starts a server with these models.
///
/// # Errors
/// See [`StartError`]; nothing keeps running then.
pub async fn start_with(config: Config, zoo: Zoo) -> Result<Running, StartError> {
    start_or(config, Some(zoo)).await
}

async fn start_or(config: Config, zoo: Option<Zoo>) -> Result<Running, StartError> {
    let database = config.database.clone();
    let running = build(config, zoo.as_ref()).await;
    running.map_err(|error| match error {
        StartError::Store(error) => StartError::Store(store::explain(error, &database)),
        StartError::Models(OpenError::Store(error)) => {
            StartError::Store(store::explain(error, &database))
        }
        other => other,
    })
}

async fn build(config: Config, zoo: Option<&Zoo>) -> Result<Running, StartError> {
    let started = Instant::now();
    let metrics = telemetry::metrics_handle()?;
    quiet_steps();
    let (listener, addr) = bind(config.listen, config.connections.receive_bytes).await?;
    let store::Opened { store, lock } = store::open(&config).await?;
    let registry = match zoo {
        Some(zoo) => Registry::given(zoo, Arc::clone(&store)).await?,
        None => Registry::open(config.models_dir.as_deref(), Arc::clone(&store)).await?,
    };
    let (registry, tasks) = (Arc::new(registry), Tasks::default());
    let engines = Arc::clone(registry.engines());
    report_costs(&engines.load(), config.inference.inline_below_us);
    let Road {
        pipeline,
        alerts,
        monitor,
        writing,
        inboxes,
    } = lay_road(&config, Arc::clone(&store), engines, &tasks).await?;
    let board = Arc::clone(&pipeline.board);
    let experiments = Arc::new(Experiments::open(store, Arc::clone(&registry), board).await?);
    // Not tracked, as the roll-ups.
    tokio::spawn(experiment::follow(
        Arc::clone(&experiments),
        Arc::clone(&pipeline.hub),
        inboxes.0,
        tasks.stop.clone(),
    ));
    tokio::spawn(experiment::shade(
        Arc::clone(&experiments),
        Arc::clone(&pipeline.hub),
        inboxes.1,
        tasks.stop.clone(),
    ));
    let every = Duration::from_secs(config.inference.look_every_s.into());
    // Not tracked: a version that takes long to load must not hold up a stop.
    tokio::spawn(registry::watch(
        Arc::clone(&registry),
        every,
        tasks.stop.clone(),
    ));
    let mqtt = open_mqtt(&config, &pipeline, &alerts, &tasks);
    let site = Arc::new(Site {
        pipeline,
        registry,
        experiments,
        alerts,
        monitor,
        sockets: Arc::new(Semaphore::new(config.connections.max)),
        tracker: tasks.tracker,
        stop: tasks.stop,
        overdue: tasks.overdue,
        ready: AtomicBool::new(true),
        metrics,
        mqtt,
    });
    site.tracker.spawn(tick(Arc::clone(&site)));
    site.tracker.spawn(introduce(Arc::clone(&site)));
    let serving = tokio::spawn(accept(listener, Arc::clone(&site)));
    tracing::info!(%addr, took_ms = started.elapsed().as_millis() as u64, "ready");
    Ok(Running {
        addr,
        site,
        serving,
        writing,
        flush: tasks.flush,
        drain: config.connections.drain,
        _lock: lock,
    })
}

/// What tasks are told, and who waits for them.
#[derive(Default)]
struct Tasks {
    /// Those that a peer waits for.
    tracker: TaskTracker,
    /// Take nothing new.
    stop: CancellationToken,
    /// The time for stopping in order is over.
    overdue: CancellationToken,
    /// The writer: commit what is there and end.
    flush: CancellationToken,
}

/// Every socket that is accepted inherits the bound of its receive buffer. Left alone it would grow to megabytes under a flood, and what is
/// taken from it would have waited for seconds.
async fn bind(
    listen: SocketAddr,
    receive_bytes: usize,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let refused = |error| StartError::Listen(listen, error);
    let listener = TcpListener::bind(listen).await.map_err(refused)?;
    if receive_bytes > 0 {
        // The kernel takes twice as many, for its own overhead.
        let socket = socket2::SockRef::from(&listener);
        socket
            .set_recv_buffer_size(receive_bytes)
            .map_err(refused)?;
    }
    let addr = listener.local_addr().map_err(refused)?;
    Ok((listener, addr))
}

/// The road, and who follows what is committed on it.
struct Road {
    pipeline: Arc<Pipeline>,
    alerts: Arc<Alerts>,
    monitor: Arc<Monitor>,
    writing: JoinHandle<()>,
    /// Of experiments: readings in an arm, readings beside a challenger.
    inboxes: (Inbox, Inbox),
}

/// The road from a reading to its subscribers, with the writer at its end and what goes on behind it.
async fn lay_road(
    config: &Config,
    store: Arc<dyn Store>,
    engines: Arc<Engines>,
    tasks: &Tasks,
) -> Result<Road, StartError> {
    let (high_sample, high_stream) = store.high_ids().await?;
    let (hub, feed) = Hub::new(
        Arc::clone(&store),
        high_sample,
        names(&engines.load()),
        config.live.clone(),
    );
    let rates = Arc::new(Rates::default());
    let (rollups, gatherer) = Gatherer::new(Arc::clone(&store), high_sample).await?;
    let (in_arms, arms) = experiment::feed(high_sample);
    let (beside, shadows) = experiment::feed(high_sample);
    let (alerts, alerting, watcher) = Alerts::open(
        Arc::clone(&store),
        Arc::clone(&hub),
        &config.alerts,
        &config.webhooks,
        high_sample,
    )
    .await?;
    let (monitor, monitored, monitoring) = Monitor::open(Arc::clone(&store), high_sample);
    let feeds = vec![rollups, alerting, monitored];
    let recorder = Recorder::new(
        Arc::clone(&hub),
        feeds,
        (in_arms, beside),
        Arc::clone(&rates),
    );
    let (handle, writer) = writer(Arc::clone(&store), config.store, high_sample, recorder);
    let writing = tokio::spawn(writer.run(tasks.flush.clone()));
    let keeper = Keeper {
        store: Arc::clone(&store),
        keep: config.store.keep,
        health: Arc::clone(handle.health()),
        rolled_up: gatherer.stored(),
        calibration: engines.calibration(),
    };
    // Not tracked: no peer waits for them, and a store that hangs must not hold up a stop. What they leave is made up for at the next start.
    tokio::spawn(gatherer.run(tasks.stop.clone()));
    tokio::spawn(keeper.run(tasks.stop.clone()));
    let health = health_of(&handle);
    tokio::spawn(watcher.run(health, tasks.stop.clone()));
    tokio::spawn(monitoring.run(tasks.stop.clone()));
    let (mut pipeline, failing) = Pipeline::new(
        engines,
        store,
        Arc::clone(&hub),
        handle,
        rates,
        config.clone(),
        high_stream,
    );
    pipeline.linger = linger(&config.connections);
    let pipeline = Arc::new(pipeline);
    let rescuing = rescue(Arc::clone(&pipeline), failing, tasks.stop.clone());
    tasks.tracker.spawn(rescuing);
    tasks
        .tracker
        .spawn(follow(Arc::clone(&pipeline), tasks.stop.clone()));
    tokio::spawn(await_readings(Arc::clone(&pipeline), tasks.stop.clone()));
    // Ends with its feed's sender, which the pipeline holds.
    tokio::spawn(hub.run(feed));
    Ok(Road {
        pipeline,
        alerts,
        monitor,
        writing,
        inboxes: (arms, shadows),
    })
}

/// How the server is, for alerts about it.
fn health_of<T: Send + 'static>(
    handle: &WriterHandle<T>,
) -> impl Fn() -> alert::Health + Send + use<T> {
    let (health, fullness) = (Arc::clone(handle.health()), handle.fullness());
    move || alert::Health {
        lag_s: health.lag().as_secs_f64(),
        queue: fullness(),
        is_failing: health.is_failing(),
    }
}

/// Where acks wait for a prediction to leave with; ends with the pipeline and the last connection.
fn linger(connections: &Connections) -> Option<Linger> {
    let time = connections.ack_linger;
    (!time.is_zero()).then(|| {
        let (linger, lingering) = Linger::new(connections.max);
        tokio::spawn(lingering.run(time));
        linger
    })
}

fn open_mqtt(
    config: &Config,
    pipeline: &Arc<Pipeline>,
    alerts: &Alerts,
    tasks: &Tasks,
) -> Option<Arc<MqttStatus>> {
    let broker = config.mqtt.clone()?;
    let status = Arc::new(MqttStatus::default());
    let stopping = Stopping {
        stop: tasks.stop.clone(),
        overdue: tasks.overdue.clone(),
    };
    let (pipeline, shown) = (Arc::clone(pipeline), Arc::clone(&status));
    let voice = mqtt::open(broker, pipeline, shown, &tasks.tracker, stopping);
    alerts.say_at(Box::new(move |stream, body| voice.say_alert(stream, body)));
    Some(status)
}

/// Says what a step of each version costs.
fn report_costs(engine: &Engine, inline_below_us: u32) {
    for served in engine
        .endpoints()
        .into_iter()
        .flat_map(|endpoint| endpoint.versions.values())
    {
        let step_us = served.step_us();
        tracing::info!(endpoint = %served.reference.endpoint, version = %served.reference, step_us, "version loaded");
        if step_us > f64::from(inline_below_us) {
            tracing::info!(version = %served.reference, step_us, inline_below_us, "a dear step: its streams take turns");
        }
    }
}

/// Tells the hub of endpoints that come while the server runs.
async fn introduce(site: Arc<Site>) {
    let mut picture = site.pipeline.engines.picture();
    loop {
        let names = names(picture.engine());
        site.pipeline.hub.set_endpoints(names);
        tokio::select! {
            () = picture.changed() => {}
            () = site.stop.cancelled() => return,
        }
    }
}

fn names(engine: &Engine) -> Vec<EndpointName> {
    let endpoints = engine.endpoints().into_iter();
    endpoints.map(|endpoint| endpoint.name.clone()).collect()
}

async fn accept(listener: TcpListener, site: Arc<Site>) {
    let stop = site.stop.clone();
    let listener = listener.tap_io(|tcp| {
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY not set");
        }
    });
    let served = axum::serve(listener, http::router(site))
        .with_graceful_shutdown(stop.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the listener ended");
    }
}

/// Once a second: the server's rates for subscribers, who is gone, which sessions rest.
async fn tick(site: Arc<Site>) {
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    let started = Instant::now();
    let mut swept = Instant::now();
    let rates = &site.pipeline.rates;
    let mut before = rates.read();
    let idle = Duration::from_secs(site.pipeline.config().sessions.idle_s.into());
    let between_sweeps = (idle / 4).min(SWEEP);
    loop {
        tokio::select! {
            _ = every_second.tick() => {}
            () = site.stop.cancelled() => return,
        }
        let now = rates.read();
        let rate = |index: usize| (now[index] - before[index]) as f32;
        site.pipeline.hub.system(SystemEvent {
            devices_online: site.pipeline.hub.devices_online(),
            readings_per_s: rate(0),
            predictions_per_s: rate(1),
            acks_per_s: rate(2),
            subscribers: site.pipeline.hub.subscribers(),
            store_lag_ms: site.pipeline.writer().health().lag().as_secs_f32() * 1e3,
            uptime_s: started.elapsed().as_secs(),
        });
        before = now;
        // Times that nobody scrapes would gather for ever.
        site.metrics.run_upkeep();
        let sweeps = swept.elapsed() > between_sweeps;
        if sweeps {
            swept = Instant::now();
        }
        look_around(&site, sweeps).await;
    }
}

/// Looks at every device and perhaps every session, on a thread of its own: a million of them would hold up whoever shares a worker.
async fn look_around(site: &Arc<Site>, sweeps: bool) {
    let site = Arc::clone(site);
    let looking = tokio::task::spawn_blocking(move || {
        notice_gone(&site);
        if sweeps {
            sweep(&site.pipeline);
        }
    });
    if let Err(error) = looking.await {
        tracing::error!(%error, "devices could not be looked at");
    }
}

/// Devices without a connection that were not seen for `offline_after_s`.
fn notice_gone(site: &Site) {
    let silent = Duration::from_secs(site.pipeline.config().sessions.offline_after_s.into());
    for key in site.pipeline.hub.online() {
        let session = site.pipeline.sessions.get(&key);
        let there = session.is_some_and(|session| {
            let session = session.lock();
            session.holder.is_some() || session.seen.elapsed() < silent
        });
        if !there {
            site.pipeline.hub.device_offline(&key);
        }
    }
}

impl Running {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where a browser looks.
    pub fn url(&self) -> String {
        let ip = if self.addr.ip().is_unspecified() {
            "127.0.0.1".into()
        } else {
            self.addr.ip().to_string()
        };
        format!("http://{ip}:{}/", self.addr.port())
    }

    /// Ends when another server has taken the database over: this one is to stop.
    pub async fn lost(&self) -> Lost {
        self.site.pipeline.writer().health().lost().await;
        Lost
    }
}

/// Says so when fewer files may be open than connections are allowed.
pub fn check_open_files(connections: usize) {
    let Ok(limits) = std::fs::read_to_string("/proc/self/limits") else {
        return;
    };
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok());
    if let Some(soft) = soft.filter(|soft| *soft < connections as u64 + OTHER_FILES) {
        tracing::warn!(
            open_files = soft,
            connections,
            "fewer open files are allowed than connections: raise it with ulimit -n"
        );
    }
}
