//! What was typed: every key with its meaning and its default. Checked by the module above, never here.

use super::SecretUrl;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What was typed. Serialises to the commented defaults of `--print-config`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    /// Address for WebSocket, HTTP, page and metrics.
    pub listen: String,
    /// Folder of the database and its lock; not used with a `store.url`.
    pub data_dir: PathBuf,
    /// Folder of models; the built-in ones when left out.
    pub models_dir: Option<PathBuf>,
    /// Exact origins that pages may connect from, beside the server's own.
    pub allowed_origins: Vec<String>,
    /// Limits of connections.
    pub connections: RawConnections,
    /// Sessions in memory.
    pub sessions: RawSessions,
    /// Versions and where they run.
    pub inference: RawInference,
    /// The durable record.
    pub store: RawStore,
    /// Live subscribers.
    pub live: RawLive,
    /// The MQTT door.
    pub mqtt: RawMqtt,
    /// Rules of alerts.
    pub alerts: Vec<RawAlert>,
    /// Where alerts are sent.
    pub webhooks: Vec<RawWebhook>,
}

/// One rule of alerts.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAlert {
    /// A name of its own: 1-64 characters of a-z, 0-9 and -.
    pub name: String,
    /// `anomaly`, `score`, `silent`, `store_lag` or `queue`.
    pub kind: String,
    /// Only this endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Only this device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// How much is too much: a score, seconds of `store_lag`, a share of the `queue`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub above: Option<f64>,
    /// Below it is well again; `above` when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clear_below: Option<f64>,
    /// Seconds that it lasts before it is an alert.
    pub for_s: u32,
    /// Seconds that it is well before the alert is over; `for_s` when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clear_for_s: Option<u32>,
    /// `info`, `warning` or `critical`.
    pub severity: String,
}

/// One place that alerts are sent to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawWebhook {
    /// A name of its own, for logs and metrics.
    pub name: String,
    /// `http://` or `https://`.
    pub url: SecretUrl,
    /// Signs what is sent; at least 16 bytes.
    pub secret: SecretUrl,
    /// Only alerts at least as bad.
    pub severity: String,
    /// Alerts that may wait for it; one more is left out.
    pub queue: usize,
    /// Seconds that one try may take.
    pub timeout_s: u32,
    /// Seconds that an alert is tried for before it is left out.
    pub give_up_s: u32,
}

impl Default for RawAlert {
    fn default() -> Self {
        Self {
            name: String::new(),
            kind: String::new(),
            endpoint: None,
            device: None,
            above: None,
            clear_below: None,
            for_s: 0,
            clear_for_s: None,
            severity: "warning".into(),
        }
    }
}

impl Default for RawWebhook {
    fn default() -> Self {
        Self {
            name: String::new(),
            url: "".into(),
            secret: "".into(),
            severity: "info".into(),
            queue: 1_000,
            timeout_s: 5,
            give_up_s: 3_600,
        }
    }
}

/// Limits of connections.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConnections {
    /// Most WebSockets at once; one more is closed with 4504.
    pub max: usize,
    /// Seconds between pings.
    pub ping_s: u32,
    /// Seconds within which some frame must follow a ping, else 4012.
    pub pong_s: u32,
    /// Seconds that a reading may wait for room in the store's queue before 4013.
    pub overload_close_s: u32,
    /// Seconds that a stop may take.
    pub drain_s: u32,
    /// Messages that may wait for one device.
    pub outbox: usize,
    /// Bytes that the kernel may hold of what one peer has sent and the server has not read; 0 leaves it to the kernel.
    pub receive_bytes: usize,
    /// Milliseconds that an ack may wait for a prediction to leave with; 0 says each at once.
    pub ack_linger_ms: u32,
    /// Seconds that an HTTP request may wait for the commit of what it brought.
    pub commit_wait_s: u32,
    /// Seconds that an HTTP request may take.
    pub request_s: u32,
}

/// Sessions in memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSessions {
    /// Most sessions in memory.
    pub max: usize,
    /// Seconds without a reading after which a session leaves memory.
    pub idle_s: u32,
    /// Readings between two snapshots of a stream.
    pub snapshot_every: u32,
    /// Skipped ranges remembered a stream.
    pub max_gaps: usize,
    /// Seconds without a reading after which an MQTT device counts as offline.
    pub offline_after_s: u32,
    /// Readings sent again that may wait for a commit, a stream.
    pub max_repeats: usize,
    /// Failed steps in a row after which a stream gets its last good version back; 0 is never.
    pub max_failed_steps: u32,
}

/// Versions and where they run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawInference {
    /// Steps that cost less than this (microseconds) run where the reading is; dearer ones take turns.
    pub inline_below_us: u32,
    /// Streams that may wait for a turn, a version.
    pub queue: usize,
    /// Dear steps that run at once; 0 is as many as there are cores.
    pub cores: usize,
    /// Hundredths of one core that versions which are warmed for streams may take together.
    pub warm_percent: u32,
    /// Seconds between two looks at the folder of models; 0 looks only when asked.
    pub look_every_s: u32,
}

/// The durable record.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawStore {
    /// `sqlite:PATH` or `postgres://user:password@host:port/database`; `tidegate.db` in `data_dir` when left out.
    pub url: Option<SecretUrl>,
    /// Rows that may wait for the writer.
    pub queue: usize,
    /// Most rows in one commit.
    pub max_batch: usize,
    /// Longest time that rows gather before a commit, ms.
    pub commit_interval_ms: u32,
    /// `full` (an ack survives power loss) or `normal` (an ack survives a process kill).
    pub synchronous: String,
    /// Seconds that PostgreSQL may take for a commit before its connection is given up and the outcome looked up.
    pub commit_timeout_s: u32,
    /// Days that samples are kept; 0 is for ever. What a fold needs is kept beyond.
    pub keep_days: u32,
    /// Largest size of the database, bytes: past it the oldest samples go, and when nothing more can go, new readings are refused.
    pub max_bytes: u64,
    /// Room on the disk below which new readings are refused, bytes.
    pub min_free_bytes: u64,
    /// Days that roll-ups by minute are kept; 0 is for ever.
    pub keep_minutes_days: u32,
    /// Days that roll-ups by hour are kept; 0 is for ever.
    pub keep_hours_days: u32,
}

/// Live subscribers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLive {
    /// Subscriptions one connection may hold.
    pub max_subscriptions: usize,
    /// Events waiting for one subscription before its policy speaks.
    pub outbox: usize,
    /// Bytes that one connection may cost: half of them for events that wait, half for those on their way into its socket.
    pub outbox_bytes: usize,
    /// Seconds within which a subscriber must take what is being written to it, else 4008.
    pub stall_s: u32,
    /// Most events replayed to one recovering subscription; beyond it starts from the latest.
    pub max_recover: u32,
    /// Seconds within which a recovering subscription must have caught up with the live flow, else 4008.
    pub recover_s: u32,
    /// Bytes of the newest committed samples that are kept in memory for recovery; 0 keeps none.
    pub ring_bytes: usize,
    /// Commits that the hub may be behind before it reads them from the store.
    pub backlog: usize,
}

/// The MQTT door.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawMqtt {
    /// `mqtt://[user:password@]host[:port]`; no MQTT when left out.
    pub url: Option<String>,
    /// Name of this server at the broker; its sessions are kept under it.
    pub node: String,
    /// Publishes that may be unacknowledged at once.
    pub receive_maximum: u16,
    /// Answers that may wait for the broker.
    pub outbox: usize,
    /// Seconds that an answer may wait for a broker that takes none, before answers are left out (counted).
    pub answer_wait_s: u32,
    /// Seconds between two signs of life to the broker; one that answers none of them is left and tried again.
    pub keep_alive_s: u32,
    /// Streams that the door remembers.
    pub streams: usize,
    /// Shared subscription group; only with a broker that hashes by topic.
    pub share: Option<String>,
    /// Whether the broker gives each topic of a shared group to one consumer.
    pub share_hashes_by_topic: bool,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".into(),
            data_dir: "data".into(),
            models_dir: None,
            allowed_origins: Vec::new(),
            connections: RawConnections::default(),
            sessions: RawSessions::default(),
            inference: RawInference::default(),
            store: RawStore::default(),
            live: RawLive::default(),
            mqtt: RawMqtt::default(),
            alerts: Vec::new(),
            webhooks: Vec::new(),
        }
    }
}

impl Default for RawConnections {
    fn default() -> Self {
        Self {
            max: 19_000,
            ping_s: 25,
            pong_s: 8,
            overload_close_s: 10,
            drain_s: 10,
            outbox: 8_192,
            receive_bytes: 64 * 1024,
            ack_linger_ms: 5,
            commit_wait_s: 15,
            request_s: 30,
        }
    }
}

impl Default for RawSessions {
    fn default() -> Self {
        Self {
            max: 1_000_000,
            idle_s: 600,
            snapshot_every: 128,
            max_gaps: 64,
            offline_after_s: 30,
            max_repeats: 8_192,
            max_failed_steps: 10,
        }
    }
}

impl Default for RawInference {
    fn default() -> Self {
        Self {
            inline_below_us: 20,
            queue: 4_096,
            cores: 0,
            warm_percent: 25,
            look_every_s: 2,
        }
    }
}

impl Default for RawStore {
    fn default() -> Self {
        Self {
            url: None,
            queue: 65_536,
            max_batch: 4_096,
            commit_interval_ms: 5,
            synchronous: "full".into(),
            commit_timeout_s: 30,
            keep_days: 90,
            max_bytes: 64 << 30,
            min_free_bytes: 256 << 20,
            keep_minutes_days: 400,
            keep_hours_days: 3_650,
        }
    }
}

impl Default for RawLive {
    fn default() -> Self {
        Self {
            max_subscriptions: 64,
            outbox: 1_024,
            outbox_bytes: 1024 * 1024,
            stall_s: 30,
            max_recover: 10_000,
            recover_s: 120,
            ring_bytes: 16 * 1024 * 1024,
            backlog: 1_024,
        }
    }
}

impl Default for RawMqtt {
    fn default() -> Self {
        Self {
            url: None,
            node: "tidegate".into(),
            receive_maximum: 1_024,
            outbox: 16_384,
            answer_wait_s: 2,
            keep_alive_s: 30,
            streams: 100_000,
            share: None,
            share_hashes_by_topic: false,
        }
    }
}
