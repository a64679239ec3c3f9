//! Logs and metrics: the subscriber, and the name of every metric in one place.
//!
//! Nothing per reading is logged above debug. Metric labels are few and fixed; device ids are never labels.

use metrics::{Counter, Histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use std::io::IsTerminal;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// Names of metrics: `noun_unit` for gauges and histograms, `noun_unit_total` for counters.
pub mod metric {
    /// Open WebSockets, by `kind`: stream, live.
    pub const CONNECTIONS: &str = "tidegate_connections";
    /// Readings that were decoded, by `door`: ws, mqtt, http.
    pub const READINGS: &str = "tidegate_readings_total";
    /// Predictions made.
    pub const PREDICTIONS: &str = "tidegate_predictions_total";
    /// Readings committed.
    pub const COMMITTED: &str = "tidegate_committed_total";
    /// Refusals, by `code`.
    pub const NACKS: &str = "tidegate_nacks_total";
    /// Skipped ranges.
    pub const GAPS: &str = "tidegate_gaps_total";
    /// Readings that fell into a gap.
    pub const LATE: &str = "tidegate_late_total";
    /// Readings that were known already.
    pub const DUPLICATES: &str = "tidegate_duplicates_total";
    /// Steps that failed.
    pub const STEPS_FAILED: &str = "tidegate_steps_failed_total";
    /// Versions that were found, by `state`: ready, not_ready.
    pub const VERSIONS: &str = "tidegate_versions";
    /// Mistakes found in the folder of models while the server runs.
    pub const MODEL_MISTAKES: &str = "tidegate_model_mistakes_total";
    /// Versions put in place on streams, by `reason`.
    pub const SWITCHES: &str = "tidegate_switches_total";
    /// Ground truth that came over HTTP, by `outcome`: `stored`, `refused`, `orphan`.
    pub const FEEDBACK: &str = "tidegate_feedback_total";
    /// Commits that did not fit in the queue of experiments and were read from the store.
    pub const EXPERIMENTS_LAGGED: &str = "tidegate_experiments_lagged_total";
    /// Streams whose arm's version is not there, each time one is looked at: production serves them.
    pub const ARMS_MISSING: &str = "tidegate_arms_missing_total";
    /// Streams in memory that are still to be moved to their production version.
    pub const STREAMS_TO_MOVE: &str = "tidegate_streams_to_move";
    /// Streams that wait for a turn of a dear version, or have it.
    pub const STEPS_WAITING: &str = "tidegate_steps_waiting";
    /// Messages that wait for devices.
    pub const OUTBOX_MESSAGES: &str = "tidegate_outbox_messages";
    /// Readings sent again that wait for a commit.
    pub const REPEATS: &str = "tidegate_repeats_waiting";
    /// Streams whose steps failed again and again, by `outcome`: moved (to a version that worked), stays.
    pub const FAILING_STREAMS: &str = "tidegate_failing_streams_total";
    /// Sessions in memory.
    pub const SESSIONS: &str = "tidegate_sessions";
    /// Time a stage takes, by `stage`: decode, wait, compute, push, store.
    pub const STAGE_SECONDS: &str = "tidegate_stage_seconds";
    /// Rows waiting for the writer.
    pub const STORE_QUEUE: &str = "tidegate_store_queue_rows";
    /// Rows in one commit.
    pub const STORE_BATCH_ROWS: &str = "tidegate_store_batch_rows";
    /// Commits.
    pub const STORE_COMMITS: &str = "tidegate_store_commits_total";
    /// Commits that failed and were tried again.
    pub const STORE_FAILURES: &str = "tidegate_store_failures_total";
    /// Bytes of the database.
    pub const STORE_BYTES: &str = "tidegate_store_bytes";
    /// Bytes left on the disk that holds it.
    pub const STORE_FREE_BYTES: &str = "tidegate_store_free_bytes";
    /// 1 while new readings stay out for want of room.
    pub const STORE_FULL: &str = "tidegate_store_full";
    /// Samples that retention took.
    pub const RETIRED: &str = "tidegate_retired_samples_total";
    /// Times the roll-ups fell behind the committed log and read it from the store.
    pub const ROLLUPS_LAGGED: &str = "tidegate_rollups_lagged_total";
    /// Alerts that are open.
    pub const ALERTS_OPEN: &str = "tidegate_alerts_open";
    /// What became of alerts and was told, by `change`: opened, acknowledged, resolved, more.
    pub const ALERT_CHANGES: &str = "tidegate_alert_changes_total";
    /// Times the alerts fell behind the committed log and read it from the store.
    pub const ALERTS_LAGGED: &str = "tidegate_alerts_lagged_total";
    /// Alerts sent to webhooks, by `outcome`: delivered, retried, given_up, full.
    pub const WEBHOOKS: &str = "tidegate_webhooks_total";
    /// Alerts that wait for a webhook, by `webhook`.
    pub const WEBHOOK_WAITING: &str = "tidegate_webhook_waiting";
    /// Answers committed, by `endpoint` and `version`.
    pub const VERSION_PREDICTIONS: &str = "tidegate_version_predictions_total";
    /// Answers that call an anomaly, by `endpoint` and `version`.
    pub const VERSION_ANOMALIES: &str = "tidegate_version_anomalies_total";
    /// Steps that failed, by `endpoint` and `version`.
    pub const VERSION_FAILED: &str = "tidegate_version_failed_total";
    /// Time from a reading's decoding to its answer (`stage` step) and from its arrival to its commit (commit), by `endpoint` and `version`.
    pub const VERSION_SECONDS: &str = "tidegate_version_seconds";
    /// Score over threshold of an anomaly, the largest probability of a classification, by `endpoint` and `version`.
    pub const VERSION_SCORE: &str = "tidegate_version_score_ratio";
    /// Times the monitoring fell behind the committed log and read it from the store.
    pub const MONITOR_LAGGED: &str = "tidegate_monitor_lagged_total";
    /// 1 while commits fail.
    pub const STORE_FAILING: &str = "tidegate_store_failing";
    /// Times the connection that writes to PostgreSQL was made anew.
    pub const STORE_RECONNECTS: &str = "tidegate_store_reconnects_total";
    /// Streams stopped because the store refused a row.
    pub const STREAMS_STOPPED: &str = "tidegate_streams_stopped_total";
    /// Connections closed by the server, by `code`.
    pub const CLOSED: &str = "tidegate_closed_total";
    /// Live subscriptions.
    pub const SUBSCRIPTIONS: &str = "tidegate_subscriptions";
    /// Events given to subscribers.
    pub const EVENTS: &str = "tidegate_events_total";
    /// Events that a subscription's policy left out.
    pub const EVENTS_DROPPED: &str = "tidegate_events_dropped_total";
    /// Bytes of events that wait for subscribers or are on their way into their sockets.
    pub const LIVE_WAITING: &str = "tidegate_live_waiting_bytes";
    /// Bytes of committed samples kept in memory for recovery.
    pub const LIVE_RING: &str = "tidegate_live_ring_bytes";
    /// Subscriptions that have not caught up with the live flow yet.
    pub const RECOVERING: &str = "tidegate_recovering_subscriptions";
    /// Subscriptions that named a position, by `outcome`: whole, anew, failed.
    pub const RECOVERIES: &str = "tidegate_recoveries_total";
    /// Events replayed to recovering subscriptions, by `from`: memory, store.
    pub const RECOVERED_EVENTS: &str = "tidegate_recovered_events_total";
    /// Times the hub fell behind the committed log and read it from the store.
    pub const HUB_LAGGED: &str = "tidegate_hub_lagged_total";
    /// 1 while the broker is connected.
    pub const MQTT_CONNECTED: &str = "tidegate_mqtt_connected";
    /// Publishes received and not acknowledged yet.
    pub const MQTT_INFLIGHT: &str = "tidegate_mqtt_inflight";
    /// Publishes that could not be stored and stay at the broker until the next connection.
    pub const MQTT_PASSED_OVER: &str = "tidegate_mqtt_passed_over";
    /// Streams with answers that wait to be said to the broker.
    pub const MQTT_OUTBOX: &str = "tidegate_mqtt_outbox";
    /// Answers that were given to the broker's client and have not left.
    pub const MQTT_ANSWERS: &str = "tidegate_mqtt_answers";
    /// Streams that the MQTT door remembers.
    pub const MQTT_STREAMS: &str = "tidegate_mqtt_streams";
    /// Times that the broker was not read because it had sent more than it was allowed and the queue was full.
    pub const MQTT_HELD_BACK: &str = "tidegate_mqtt_held_back_total";
    /// Publishes that the broker delivered again and that were taken before.
    pub const MQTT_REDELIVERED: &str = "tidegate_mqtt_redelivered_total";
    /// Answers left out because the broker took them too slowly.
    pub const MQTT_DROPPED: &str = "tidegate_mqtt_dropped_total";
    /// Times the broker was lost.
    pub const MQTT_RECONNECTS: &str = "tidegate_mqtt_reconnects_total";
}

/// Upper bounds of stage times, seconds.
const STAGE_BUCKETS: [f64; 16] = [
    1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2, 2e-1, 1.0,
];

/// Upper bounds of scores over their thresholds, and of probabilities.
const SCORE_BUCKETS: [f64; 12] = [0.1, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0, 5.0];

/// Logs to standard error, in colours on a terminal only: `TIDEGATE_LOG` (such as `info,tidegate=debug`), JSON when `TIDEGATE_LOG_FORMAT=json`.
pub fn init_logs(default: &str) {
    // What the database's client has to say of a slow or restarted server is said by the store, in words of this program.
    let default = format!("{default},sqlx::pool=error,sqlx::postgres::notice=error");
    let filter =
        EnvFilter::try_from_env("TIDEGATE_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let plain = std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(!plain && std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let json = std::env::var("TIDEGATE_LOG_FORMAT").is_ok_and(|format| format == "json");
    // A second call (tests start several servers in one process) keeps the first subscriber.
    let _ = if json {
        builder.json().try_init()
    } else {
        builder.try_init()
    };
}

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
static INSTALLING: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

/// The process's metrics; installed by the first call.
///
/// # Errors
/// Another recorder was installed by someone else.
pub fn metrics_handle() -> Result<PrometheusHandle, BuildError> {
    // Two servers of one process may start at once: one of them installs.
    let _one_at_a_time = INSTALLING.lock();
    if let Some(handle) = RECORDER.get() {
        return Ok(handle.clone());
    }
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(metric::STAGE_SECONDS.into()), &STAGE_BUCKETS)?
        .set_buckets_for_metric(
            Matcher::Full(metric::VERSION_SECONDS.into()),
            &STAGE_BUCKETS,
        )?
        .set_buckets_for_metric(Matcher::Full(metric::VERSION_SCORE.into()), &SCORE_BUCKETS)?
        .set_buckets_for_metric(
            Matcher::Full(metric::STORE_BATCH_ROWS.into()),
            &[1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0],
        )?;
    let handle = builder.install_recorder()?;
    Ok(RECORDER.get_or_init(|| handle).clone())
}

/// A door that readings come through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// A device's WebSocket.
    Ws,
    /// The broker.
    Mqtt,
    /// A request.
    Http,
}

/// A stage of the road. What is taken together is timed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Bytes to checked readings.
    Decode,
    /// For a turn, for room in the store's queue and for the session.
    Wait,
    /// Admission, step, rows.
    Compute,
    /// Replies into the socket.
    Push,
    /// One commit.
    Store,
}

/// Counts and times of what passes; behind the rates that subscribers of `system` see. Made after [`metrics_handle`]. What every
/// message touches is held here: a look-up by name and labels would cost more than the counting.
pub struct Rates {
    readings: AtomicU64,
    predictions: AtomicU64,
    committed: AtomicU64,
    unacked: AtomicU64,
    doors: [Counter; 3],
    predicted: Counter,
    stored: Counter,
    stages: [Histogram; 5],
}

impl Default for Rates {
    fn default() -> Self {
        let door = |door: &'static str| metrics::counter!(metric::READINGS, "door" => door);
        let stage =
            |stage: &'static str| metrics::histogram!(metric::STAGE_SECONDS, "stage" => stage);
        Self {
            readings: AtomicU64::new(0),
            predictions: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            unacked: AtomicU64::new(0),
            doors: ["ws", "mqtt", "http"].map(door),
            predicted: metrics::counter!(metric::PREDICTIONS),
            stored: metrics::counter!(metric::COMMITTED),
            stages: ["decode", "wait", "compute", "push", "store"].map(stage),
        }
    }
}

impl Rates {
    /// Readings came through `door`.
    pub fn readings(&self, door: Door, count: usize) {
        self.readings.fetch_add(count as u64, Ordering::Relaxed);
        self.doors[door as usize].increment(count as u64);
    }

    /// Predictions went out.
    pub fn predictions(&self, count: usize) {
        self.predictions.fetch_add(count as u64, Ordering::Relaxed);
        self.predicted.increment(count as u64);
    }

    /// Readings are durable.
    pub fn committed(&self, count: usize) {
        self.committed.fetch_add(count as u64, Ordering::Relaxed);
        self.stored.increment(count as u64);
    }

    /// A stage took so long.
    pub fn took(&self, stage: Stage, time: Duration) {
        self.stages[stage as usize].record(time.as_secs_f64());
    }

    /// A connection was closed by a stop before these readings were acked.
    pub fn leave_unacked(&self, count: u64) {
        self.unacked.fetch_add(count, Ordering::Relaxed);
    }

    /// Readings that a stop left without an ack.
    pub fn unacked(&self) -> u64 {
        self.unacked.load(Ordering::Relaxed)
    }

    /// Readings, predictions and committed readings since the start.
    pub fn read(&self) -> [u64; 3] {
        [&self.readings, &self.predictions, &self.committed]
            .map(|count| count.load(Ordering::Relaxed))
    }
}
