//! Configuration: what was typed, and what code may rely on.
//!
//! Owns [`RawConfig`] (file, then `TIDEGATE_*` variables, then flags; unknown keys refused) and [`Config`] (checked,
//! typed). One conversion reports every problem at once, before any socket opens. Every bound of the server stands here
//! with its default. Does not read command lines; the flags arrive as an [`Overrides`].

mod alerts;
mod bounds;
mod database;
mod raw;
mod said;

pub use alerts::{AlertKind, AlertRule, MOST_RULES, Severity, Webhook};
pub use database::{Database, FILE_NAME, SecretUrl};
pub use raw::{
    RawAlert, RawConfig, RawConnections, RawInference, RawLive, RawMqtt, RawSessions, RawStore,
    RawWebhook,
};

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why the server does not start; each problem names its key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file or a variable cannot be read.
    #[error("config: {0}")]
    Read(String),
    /// Values that cannot be used, one line each.
    #[error("config: {}", .0.join("; "))]
    Invalid(Vec<String>),
}

/// Flags of the command line that win over file and variables.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--listen`
    pub listen: Option<String>,
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
    /// `--models-dir`
    pub models_dir: Option<PathBuf>,
    /// `--mqtt-url`
    pub mqtt_url: Option<String>,
    /// `--store-url`
    pub store_url: Option<String>,
}

/// What code may rely on.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address to bind.
    pub listen: SocketAddr,
    /// Folder of the database and its lock, where the database is a file of no other place.
    pub data_dir: PathBuf,
    /// Where rows are stored.
    pub database: Database,
    /// Folder of models; `None` is the built-in zoo.
    pub models_dir: Option<PathBuf>,
    /// Exact origins allowed beside the server's own.
    pub allowed_origins: Vec<String>,
    /// Limits of connections.
    pub connections: Connections,
    /// Sessions in memory.
    pub sessions: RawSessions,
    /// Versions and where they run.
    pub inference: RawInference,
    /// The durable record.
    pub store: StoreConfig,
    /// Live subscribers.
    pub live: RawLive,
    /// The MQTT door, when there is one.
    pub mqtt: Option<MqttConfig>,
    /// Rules of alerts, checked and as they were typed.
    pub alerts: Vec<(AlertRule, RawAlert)>,
    /// Where alerts are sent.
    pub webhooks: Vec<Webhook>,
}

/// Limits of connections, typed.
#[derive(Debug, Clone, Copy)]
pub struct Connections {
    /// Most WebSockets at once.
    pub max: usize,
    /// Between pings.
    pub ping: Duration,
    /// From a ping to some frame.
    pub pong: Duration,
    /// That a reading may wait for the store's queue.
    pub overload_close: Duration,
    /// That a stop may take.
    pub drain: Duration,
    /// Messages that may wait for one device.
    pub outbox: usize,
    /// That the kernel may hold of what a peer has sent; 0 leaves it to the kernel.
    pub receive_bytes: usize,
    /// That an ack may wait for a prediction to leave with.
    pub ack_linger: Duration,
    /// That a request may wait for its commit.
    pub commit_wait: Duration,
    /// That a request may take.
    pub request: Duration,
}

/// The durable record, typed.
#[derive(Debug, Clone, Copy)]
pub struct StoreConfig {
    /// Rows that may wait for the writer.
    pub queue: usize,
    /// Most rows in one commit.
    pub max_batch: usize,
    /// Longest time that rows gather.
    pub commit_interval: Duration,
    /// Whether every commit is synced to the disk.
    pub synchronous_full: bool,
    /// That a database server may take for a commit before its connection is given up.
    pub commit_timeout: Duration,
    /// What is kept, and for how long.
    pub keep: Keep,
}

/// What the store keeps.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Days that samples are kept; 0 is for ever.
    pub days: u32,
    /// Largest size of the database, bytes; the oldest samples go first.
    pub max_bytes: u64,
    /// Room on the disk below which new readings are refused, bytes.
    pub min_free_bytes: u64,
    /// Days that roll-ups by minute are kept; 0 is for ever.
    pub minutes_days: u32,
    /// Days that roll-ups by hour are kept; 0 is for ever.
    pub hours_days: u32,
}

/// The MQTT door, typed.
#[derive(Clone)]
pub struct MqttConfig {
    /// Broker host.
    pub host: String,
    /// Broker port.
    pub port: u16,
    /// User and password.
    pub credentials: Option<(String, String)>,
    /// Name of this server at the broker.
    pub node: String,
    /// Publishes unacknowledged at once.
    pub receive_maximum: u16,
    /// Answers that may wait for the broker.
    pub outbox: usize,
    /// That one may wait for a broker that takes none.
    pub answer_wait: Duration,
    /// Between two signs of life.
    pub keep_alive: Duration,
    /// Streams that the door remembers.
    pub streams: usize,
    /// Shared subscription group.
    pub share: Option<String>,
}

impl std::fmt::Debug for MqttConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "mqtt://{}:{} as {}", self.host, self.port, self.node)
    }
}

impl RawConfig {
    /// Reads the file (if any), then `TIDEGATE_*` variables (`TIDEGATE_STORE__QUEUE=1000`), then flags.
    ///
    /// # Errors
    /// An unreadable file, an unknown key, a value of the wrong kind.
    pub fn read(file: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(file) = file {
            said::check_file(file).map_err(ConfigError::Read)?;
            figment = figment.merge(Toml::file_exact(file));
        }
        // Left out: variables that other parts of the project read.
        let variables = Env::prefixed("TIDEGATE_")
            .ignore(&[
                "bin",
                "log",
                "log_format",
                "skab_dir",
                "bless",
                "url",
                "mqtt_url",
            ])
            .split("__");
        let mut raw: Self = figment
            .merge(variables)
            .extract()
            .map_err(|error| ConfigError::Read(said::mistakes(error)))?;
        overrides.apply(&mut raw);
        Ok(raw)
    }

    /// The configuration as a commented file.
    pub fn to_toml(&self) -> String {
        let body = toml::to_string_pretty(self).expect("every field is a TOML value");
        format!(
            "# Tidegate's configuration. Every key may be left out; these are the values in force.\n\
             # Variables win over the file (TIDEGATE_STORE__QUEUE=1000), flags over both.\n\
             # models_dir: folder of models (built-in ones when left out); mqtt.url: mqtt://user:password@host:1883\n\
             # store.url: sqlite:PATH (tidegate.db in data_dir when left out) or postgres://user:password@host:5432/database\n\n{body}"
        )
    }

    /// Checks everything and reports every problem at once.
    ///
    /// # Errors
    /// Each key that cannot be used, with the reason.
    pub fn check(self) -> Result<Config, ConfigError> {
        let mut problems = Vec::new();
        let listen = self.listen.parse().ok();
        if listen.is_none() {
            problems.push(format!("listen {:?}: expected ADDRESS:PORT", self.listen));
        }
        bounds::check(&self, &mut problems);
        if let Some(dir) = &self.models_dir
            && !dir.is_dir()
        {
            let dir = dir.display();
            problems.push(format!("models_dir {dir}: no such folder"));
        }
        let mqtt = check_mqtt(&self.mqtt, &mut problems);
        let alerts = alerts::check(&self.alerts, &self.webhooks, &mut problems);
        let database = database::parse(self.store.url.as_ref(), &self.data_dir)
            .map_err(|reason| problems.push(format!("store.url: {reason}")))
            .ok();
        match (listen, database) {
            (Some(listen), Some(database)) if problems.is_empty() => Ok(Config {
                alerts: alerts.0,
                webhooks: alerts.1,
                ..self.typed(listen, database, mqtt)
            }),
            _ => Err(ConfigError::Invalid(problems)),
        }
    }

    fn typed(self, listen: SocketAddr, database: Database, mqtt: Option<MqttConfig>) -> Config {
        let seconds = |s: u32| Duration::from_secs(s.into());
        Config {
            listen,
            data_dir: self.data_dir,
            database,
            models_dir: self.models_dir,
            allowed_origins: self.allowed_origins,
            connections: Connections {
                max: self.connections.max,
                ping: seconds(self.connections.ping_s),
                pong: seconds(self.connections.pong_s),
                overload_close: seconds(self.connections.overload_close_s),
                drain: seconds(self.connections.drain_s),
                outbox: self.connections.outbox,
                receive_bytes: self.connections.receive_bytes,
                ack_linger: Duration::from_millis(self.connections.ack_linger_ms.into()),
                commit_wait: seconds(self.connections.commit_wait_s),
                request: seconds(self.connections.request_s),
            },
            sessions: self.sessions,
            inference: self.inference,
            store: StoreConfig {
                queue: self.store.queue,
                max_batch: self.store.max_batch,
                commit_interval: Duration::from_millis(self.store.commit_interval_ms.into()),
                synchronous_full: self.store.synchronous == "full",
                commit_timeout: seconds(self.store.commit_timeout_s),
                keep: Keep {
                    days: self.store.keep_days,
                    max_bytes: self.store.max_bytes,
                    min_free_bytes: self.store.min_free_bytes,
                    minutes_days: self.store.keep_minutes_days,
                    hours_days: self.store.keep_hours_days,
                },
            },
            live: self.live,
            mqtt,
            alerts: Vec::new(),
            webhooks: Vec::new(),
        }
    }
}

impl Overrides {
    fn apply(self, raw: &mut RawConfig) {
        if let Some(listen) = self.listen {
            raw.listen = listen;
        }
        if let Some(data_dir) = self.data_dir {
            raw.data_dir = data_dir;
        }
        if let Some(models_dir) = self.models_dir {
            raw.models_dir = Some(models_dir);
        }
        if let Some(url) = self.mqtt_url {
            raw.mqtt.url = Some(url);
        }
        if let Some(url) = self.store_url {
            raw.store.url = Some(url.into());
        }
    }
}

fn check_mqtt(raw: &RawMqtt, problems: &mut Vec<String>) -> Option<MqttConfig> {
    let url = raw.url.as_deref()?;
    if !tidegate_protocol::id::is_name(&raw.node) {
        problems.push(format!(
            "mqtt.node {:?}: expected 1-64 characters of a-z, 0-9 and -",
            raw.node
        ));
    }
    if raw.share.is_some() && !raw.share_hashes_by_topic {
        problems.push(
            "mqtt.share: a shared group breaks the order of a device's readings unless the broker hashes by topic; \
             set mqtt.share_hashes_by_topic = true if it does"
                .into(),
        );
    }
    let parsed = parse_mqtt_url(url);
    if parsed.is_none() {
        problems.push("mqtt.url: expected mqtt://[user:password@]host[:port]".into());
    }
    let (credentials, host, port) = parsed?;
    Some(MqttConfig {
        host,
        port,
        credentials,
        node: raw.node.clone(),
        receive_maximum: raw.receive_maximum,
        outbox: raw.outbox,
        answer_wait: Duration::from_secs(raw.answer_wait_s.into()),
        keep_alive: Duration::from_secs(raw.keep_alive_s.into()),
        streams: raw.streams,
        share: raw.share.clone(),
    })
}

type Broker = (Option<(String, String)>, String, u16);

fn parse_mqtt_url(url: &str) -> Option<Broker> {
    let rest = url.strip_prefix("mqtt://")?.trim_end_matches('/');
    let (credentials, address) = match rest.rsplit_once('@') {
        Some((user, address)) => {
            let (name, password) = user.split_once(':')?;
            (Some((name.to_owned(), password.to_owned())), address)
        }
        None => (None, rest),
    };
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (address, 1883),
    };
    let is_host = !host.is_empty() && !host.contains(['/', '?', '#', ' ']);
    is_host.then(|| (credentials, host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_print_as_a_file_that_reads_back() {
        let text = RawConfig::default().to_toml();
        let again: RawConfig = toml::from_str(&text).unwrap();
        assert!(again.check().is_ok());
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let mut raw = RawConfig {
            listen: "nowhere".into(),
            ..RawConfig::default()
        };
        raw.store.queue = 1;
        raw.store.url = Some("mysql://x".into());
        raw.mqtt.url = Some("http://x".into());
        let text = raw.check().unwrap_err().to_string();
        for key in ["listen", "store.queue", "store.url", "mqtt.url"] {
            assert!(text.contains(key), "{text}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tidegate.toml");
        std::fs::write(&file, "[store]\nqueeu = 5\n").unwrap();
        let text = RawConfig::read(Some(&file), Overrides::default())
            .unwrap_err()
            .to_string();
        assert!(text.contains("queeu"), "{text}");
    }

    #[test]
    fn a_shared_group_needs_a_broker_that_hashes_by_topic() {
        let mut raw = RawConfig::default();
        raw.mqtt.url = Some("mqtt://localhost".into());
        raw.mqtt.share = Some("group".into());
        assert!(
            raw.clone()
                .check()
                .unwrap_err()
                .to_string()
                .contains("mqtt.share")
        );
        raw.mqtt.share_hashes_by_topic = true;
        assert!(raw.check().is_ok());
    }

    #[test]
    fn broker_addresses_are_taken_apart() {
        let (credentials, host, port) = parse_mqtt_url("mqtt://me:se:cret@broker:1884/").unwrap();
        assert_eq!(credentials, Some(("me".into(), "se:cret".into())));
        assert_eq!((host.as_str(), port), ("broker", 1884));
        assert_eq!(parse_mqtt_url("mqtt://broker").unwrap().2, 1883);
        assert!(parse_mqtt_url("broker").is_none());
        for refused in ["mqtt://", "mqtt://broker/topic", "mqtt://broker?ssl=true"] {
            assert!(parse_mqtt_url(refused).is_none(), "{refused}");
        }
    }

    #[test]
    fn a_password_never_shows() {
        let mut raw = RawConfig::default();
        raw.mqtt.url = Some("mqtt://me:secret@broker".into());
        raw.store.url = Some("postgres://me:secret@there/db".into());
        assert!(!format!("{:?}", raw.store).contains("secret"));
        assert!(!format!("{:?}", raw.check().unwrap()).contains("secret"));
    }
}
