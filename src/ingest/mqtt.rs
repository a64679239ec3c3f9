//! The MQTT door: a client of the user's broker that takes readings and answers on the device's topics.
//!
//! Two clients: one receives and acknowledges, one publishes, because acknowledgements share a client's queue and a full queue of
//! publishes must never hold one back. The poll tasks wait for the broker only; nothing is awaited inside. A publish is
//! acknowledged after the commit of its last reading, in arrival order (`window`), and only on the connection it came
//! over. While the store has no room no publish is taken; the broker pauses at the receive maximum. A publish whose readings carry no
//! number is remembered with its rows (`receipts`), so that it is not taken twice when the broker delivers it again.

mod publish;
mod receipts;
mod receive;
mod reply;
mod take;
mod window;

use crate::config::MqttConfig;
use crate::pipeline::Pipeline;
use crate::push::Outbox;
use crate::stream::StreamKey;
use crate::telemetry::metric;
use parking_lot::Mutex;
use receipts::Receipts;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectProperties, LastWill};
use rumqttc::v5::{AsyncClient, EventLoop, MqttOptions};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tidegate_protocol::{MAX_FRAME_BYTES, topic};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use window::AckWindow;

/// How long the broker keeps this server's session while it is away, seconds.
const SESSION_EXPIRY_S: u32 = 24 * 3_600;
/// Between two tries to reach the broker: first and longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Longest wait for the broker to close a connection that was ended.
const HANG_UP: Duration = Duration::from_secs(1);
/// A packet is a message and its topic and properties.
const MAX_PACKET_BYTES: u32 = MAX_FRAME_BYTES as u32 + 1_024;

/// Whether the broker is there, and what it has not been told yet.
#[derive(Debug, Default)]
pub struct MqttStatus {
    receiving: AtomicBool,
    replying: AtomicBool,
    unacknowledged: AtomicUsize,
    unsaid: AtomicUsize,
    left_out: AtomicUsize,
}

impl MqttStatus {
    /// Whether both clients are connected.
    pub fn is_connected(&self) -> bool {
        self.receiving.load(Ordering::Relaxed) && self.replying.load(Ordering::Relaxed)
    }

    /// Publishes that were taken and are not acknowledged.
    pub fn unacknowledged(&self) -> usize {
        self.unacknowledged.load(Ordering::Relaxed)
    }

    /// Answers that have not left.
    pub fn unsaid(&self) -> usize {
        self.unsaid.load(Ordering::Relaxed)
    }

    /// Answers that were left out since the start.
    pub fn left_out(&self) -> usize {
        self.left_out.load(Ordering::Relaxed)
    }

    fn set(&self, which: impl Fn(&Self) -> &AtomicBool, connected: bool) {
        which(self).store(connected, Ordering::Relaxed);
        metrics::gauge!(metric::MQTT_CONNECTED).set(f64::from(u8::from(self.is_connected())));
    }

    /// Counts answers that were given to the client.
    fn given(&self, answers: usize) {
        let before = self.unsaid.fetch_add(answers, Ordering::Relaxed);
        metrics::gauge!(metric::MQTT_ANSWERS).set((before + answers) as f64);
    }

    /// Counts answers that have left the client, one way or another.
    fn gone(&self, answers: usize) {
        let less = |before: usize| Some(before.saturating_sub(answers));
        let before = self
            .unsaid
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        let now = before.unwrap_or_default().saturating_sub(answers);
        metrics::gauge!(metric::MQTT_ANSWERS).set(now as f64);
    }

    /// Counts answers that no device will get.
    fn dropped(&self, answers: usize) {
        self.left_out.fetch_add(answers, Ordering::Relaxed);
        metrics::counter!(metric::MQTT_DROPPED, "what" => "answer").increment(answers as u64);
    }
}

/// When the door closes.
#[derive(Debug, Clone)]
pub struct Stopping {
    /// The server stops: what was taken is finished.
    pub stop: CancellationToken,
    /// The time for that is over.
    pub overdue: CancellationToken,
}

/// What the door's tasks share.
struct Door {
    config: MqttConfig,
    pipeline: Arc<Pipeline>,
    status: Arc<MqttStatus>,
    window: Mutex<AckWindow>,
    /// Woken when the window may have something to release.
    moved: Notify,
    /// Woken when a publish was passed over.
    passed_over: Notify,
    /// Woken when the connection is to be ended, so that the broker delivers again.
    again: Notify,
    receipts: Mutex<Receipts>,
    /// The broker has lost the session, and the receipts of it are still kept.
    session_lost: AtomicBool,
    /// Woken with a new connection.
    connected: Notify,
    /// Receives and acknowledges.
    input: AsyncClient,
    /// Says answers.
    output: AsyncClient,
    /// Outboxes with something to say.
    ready: mpsc::Sender<Arc<Outbox>>,
    stopping: Stopping,
    /// The server stops and everything that was taken is acknowledged.
    drained: CancellationToken,
}

impl Door {
    /// Changes the window and wakes who releases from it.
    fn settle(&self, change: impl FnOnce(&mut AckWindow)) {
        let mut window = self.window.lock();
        let before = window.passed_over();
        change(&mut window);
        let (waiting, passed_over) = (window.len(), window.passed_over());
        drop(window);
        metrics::gauge!(metric::MQTT_PASSED_OVER).set(passed_over as f64);
        if passed_over > before {
            self.passed_over.notify_one();
        }
        self.status.unacknowledged.store(waiting, Ordering::Relaxed);
        metrics::gauge!(metric::MQTT_INFLIGHT).set(waiting as f64);
        self.moved.notify_one();
    }

    fn is_stopping(&self) -> bool {
        self.stopping.stop.is_cancelled()
    }

    /// Until a poll task should give up: a connection lives on through a stop, until it was ended or time is over.
    async fn give_up(&self, connected: bool) {
        if connected {
            self.stopping.overdue.cancelled().await;
        } else {
            self.stopping.stop.cancelled().await;
        }
    }
}

/// Opens the door and gives who announces at it: spawns its tasks, which end after a stop once what was taken is acknowledged and answered.
pub fn open(
    config: MqttConfig,
    pipeline: Arc<Pipeline>,
    status: Arc<MqttStatus>,
    tracker: &TaskTracker,
    stopping: Stopping,
) -> Announcer {
    let (input, input_loop) = receive::connect(&config);
    let (output, output_loop) = reply::connect(&config);
    // As many places as there are outboxes, see `take::Streams`.
    let (ready, outboxes) = mpsc::channel(config.streams);
    let client = format!("{}-in@{}:{}", config.node, config.host, config.port);
    let door = Arc::new(Door {
        receipts: Mutex::new(Receipts::new(&client, config.receive_maximum)),
        config,
        pipeline,
        status,
        window: Mutex::default(),
        moved: Notify::new(),
        passed_over: Notify::new(),
        again: Notify::new(),
        session_lost: AtomicBool::new(false),
        connected: Notify::new(),
        input,
        output,
        ready,
        stopping,
        drained: CancellationToken::new(),
    });
    receive::spawn(&door, input_loop, tracker);
    reply::spawn(&door, output_loop, outboxes, tracker);
    Announcer(door)
}

/// Says what no device has asked for.
pub struct Announcer(Arc<Door>);

impl Announcer {
    /// Says an alert about a stream, or about the server, if the client has room for it; otherwise it is left out and counted.
    pub fn say_alert(&self, stream: Option<&StreamKey>, body: &[u8]) -> bool {
        let topic = match stream {
            Some(key) => topic::alerts(key.endpoint.as_str(), key.device.as_str()),
            None => topic::node_alerts(&self.0.config.node),
        };
        reply::try_publish(&self.0, topic, body.to_vec())
    }
}

/// Options that both clients share.
fn options(config: &MqttConfig, role: &str) -> MqttOptions {
    let mut options = MqttOptions::new(
        format!("{}-{role}", config.node),
        config.host.clone(),
        config.port,
    );
    options
        .set_keep_alive(config.keep_alive)
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
        QoS::AtLeastOnce,
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

/// Reads on after a goodbye until the broker has closed: a socket closed over unread bytes may take sent ones with it.
async fn hang_up(events: &mut EventLoop) {
    let closed = async { while events.poll().await.is_ok() {} };
    // A broker that does not close has had its time.
    let _ = tokio::time::timeout(HANG_UP, closed).await;
}
