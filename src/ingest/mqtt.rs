//! The MQTT door: a client of the user's broker that takes readings and answers on the device's topics.
//!
//! Two clients: one receives and acknowledges, one publishes, because acknowledgements share a client's queue and a full queue of
//! publishes must never hold one back. The poll tasks wait for the broker only; nothing is awaited inside. A publish is
//! acknowledged after the commit of its last reading, in arrival order (`window`), and only on the connection it came
//! over. While the store has no room no publish is taken; the broker pauses at the receive maximum.

mod receive;
mod reply;
mod window;

use crate::config::MqttConfig;
use crate::pipeline::Pipeline;
use crate::push::Outbox;
use crate::telemetry::metric;
use parking_lot::Mutex;
use rumqttc::v5::mqttbytes::v5::{ConnectProperties, LastWill};
use rumqttc::v5::{AsyncClient, MqttOptions};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidegate_protocol::{MAX_FRAME_BYTES, topic};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use window::AckWindow;

/// How long the broker keeps this server's session while it is away, seconds.
const SESSION_EXPIRY_S: u32 = 24 * 3_600;
/// Between two tries to reach the broker: first and longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// A packet is a message and its topic and properties.
const MAX_PACKET_BYTES: u32 = MAX_FRAME_BYTES as u32 + 1_024;

/// Whether the broker is there.
#[derive(Debug, Default)]
pub struct MqttStatus {
    receiving: AtomicBool,
    replying: AtomicBool,
}

impl MqttStatus {
    /// Whether both clients are connected.
    pub fn is_connected(&self) -> bool {
        self.receiving.load(Ordering::Relaxed) && self.replying.load(Ordering::Relaxed)
    }

    fn set(&self, which: impl Fn(&Self) -> &AtomicBool, connected: bool) {
        which(self).store(connected, Ordering::Relaxed);
        metrics::gauge!(metric::MQTT_CONNECTED).set(f64::from(u8::from(self.is_connected())));
    }
}

/// What the door's tasks share.
struct Door {
    config: MqttConfig,
    pipeline: Arc<Pipeline>,
    status: Arc<MqttStatus>,
    window: Mutex<AckWindow>,
    /// Outboxes with something to say.
    ready: mpsc::UnboundedSender<Arc<Outbox>>,
    stop: CancellationToken,
}

/// Opens the door: spawns its tasks, which end after `stop` once what was taken is acknowledged.
pub fn open(
    config: MqttConfig,
    pipeline: Arc<Pipeline>,
    status: Arc<MqttStatus>,
    tracker: &TaskTracker,
    stop: CancellationToken,
) {
    // Every outbox stands in it at most once, so its length is bounded by the sessions in memory.
    #[expect(
        clippy::disallowed_methods,
        reason = "bounded by what it carries, see above"
    )]
    let (ready, outboxes) = mpsc::unbounded_channel();
    let window = Mutex::new(AckWindow::default());
    let door = Arc::new(Door {
        config,
        pipeline,
        status,
        window,
        ready,
        stop,
    });
    receive::spawn(&door, tracker);
    reply::spawn(&door, outboxes, tracker);
}

/// Options that both clients share.
fn options(config: &MqttConfig, role: &str) -> MqttOptions {
    let mut options = MqttOptions::new(
        format!("{}-{role}", config.node),
        config.host.clone(),
        config.port,
    );
    options
        .set_keep_alive(Duration::from_secs(30))
        .set_connection_timeout(5);
    if let Some((user, password)) = &config.credentials {
        options.set_credentials(user.clone(), password.clone());
    }
    let mut properties = ConnectProperties::new();
    properties.session_expiry_interval = Some(if role == "in" { SESSION_EXPIRY_S } else { 0 });
    properties.receive_maximum = Some(config.receive_maximum);
    properties.max_packet_size = Some(MAX_PACKET_BYTES);
    options.set_connect_properties(properties);
    options
}

/// The retained status of this server, and the will that replaces it.
fn status_message(state: &str) -> String {
    format!(
        r#"{{"state":"{state}","version":"{}"}}"#,
        env!("CARGO_PKG_VERSION")
    )
}

fn last_will(config: &MqttConfig) -> LastWill {
    let topic = topic::node_status(&config.node);
    LastWill::new(
        topic,
        status_message("offline"),
        rumqttc::v5::mqttbytes::QoS::AtLeastOnce,
        true,
        None,
    )
}

/// Waits before the next try, longer each time, but not past a stop.
async fn pause(wait: &mut Duration, stop: &CancellationToken) {
    // Elapsed means the wait is over; otherwise the server stops.
    let _ = tokio::time::timeout(*wait, stop.cancelled()).await;
    *wait = (*wait * 2).min(RETRY.1);
}

/// A client handle that is replaced when its event loop has to be rebuilt.
type SharedClient = Arc<Mutex<AsyncClient>>;
