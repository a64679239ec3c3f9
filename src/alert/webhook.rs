//! Sends alerts to other people's servers: signed, in order, tried again, never waited for.
//!
//! One task and one bounded queue a webhook, so that one that hangs delays nobody else. An answer 2xx is the end of it; 408, 429, 5xx and no
//! answer are tried again with growing pauses until `give_up_s`; any other answer will not get better. What is left out is counted, and stays in the history.
//! Signed by HMAC-SHA256 (RFC 2104) over the time and the body, so that a receiver can refuse a forged or an old one.

use crate::config::Webhook;
use crate::stream::now_ms;
use crate::telemetry::metric;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::Full;
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use sha2::Sha256;
use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Between two tries: first and longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A webhook's queue.
pub struct Sending {
    webhook: Arc<Webhook>,
    queue: mpsc::Sender<Arc<[u8]>>,
}

/// Opens a webhook; its task ends when this is dropped.
pub fn open(webhook: Webhook) -> Sending {
    let (queue, waiting) = mpsc::channel(webhook.queue);
    let webhook = Arc::new(webhook);
    tokio::spawn(run(Arc::clone(&webhook), waiting));
    Sending { webhook, queue }
}

impl Sending {
    /// Queues an alert of this severity; one that finds no room is left out. Never waits.
    pub fn send(&self, severity: &str, body: &Arc<[u8]>) {
        let ranks = ["info", "warning", "critical"];
        let rank = |name: &str| ranks.iter().position(|known| *known == name);
        if rank(severity) < rank(self.webhook.least.as_str()) {
            return;
        }
        if self.queue.try_send(Arc::clone(body)).is_err() {
            count("full");
            tracing::warn!(
                webhook = self.webhook.name,
                "its queue is full: an alert is left out"
            );
        }
    }
}

async fn run(webhook: Arc<Webhook>, mut waiting: mpsc::Receiver<Arc<[u8]>>) {
    while let Some(body) = waiting.recv().await {
        let name = &webhook.name;
        metrics::gauge!(metric::WEBHOOK_WAITING, "webhook" => name.clone())
            .set(waiting.len() as f64);
        match deliver(&webhook, &body).await {
            Ok(()) => count("delivered"),
            Err(reason) => {
                count("given_up");
                tracing::warn!(webhook = name, reason, "an alert was not delivered");
            }
        }
    }
}

fn count(outcome: &'static str) {
    metrics::counter!(metric::WEBHOOKS, "outcome" => outcome).increment(1);
}

/// Tries until it is taken, or will never be.
async fn deliver(webhook: &Webhook, body: &Arc<[u8]>) -> Result<(), String> {
    let started = Instant::now();
    let mut wait = PAUSE.0;
    loop {
        let reason = match tokio::time::timeout(webhook.timeout, post(webhook, body)).await {
            Ok(Ok(status)) if (200..300).contains(&status) => return Ok(()),
            Ok(Ok(status)) if !matches!(status, 408 | 429 | 500..) => {
                return Err(format!("it answers {status}"));
            }
            Ok(Ok(status)) => format!("it answers {status}"),
            Ok(Err(error)) => error,
            Err(_) => format!("no answer within {} s", webhook.timeout.as_secs()),
        };
        if started.elapsed() + wait > webhook.give_up {
            return Err(reason);
        }
        count("retried");
        tracing::debug!(webhook = webhook.name, reason, "a webhook is tried again");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(PAUSE.1);
    }
}

/// One try; the status of the answer.
async fn post(webhook: &Webhook, body: &Arc<[u8]>) -> Result<u16, String> {
    let said = |error: std::io::Error| error.to_string();
    let tcp = TcpStream::connect((webhook.host.as_str(), webhook.port));
    let tcp = tcp.await.map_err(said)?;
    if !webhook.is_tls {
        return exchange(webhook, body, tcp).await;
    }
    let name = ServerName::try_from(webhook.host.clone()).map_err(|error| error.to_string())?;
    let tls = connector()?.connect(name, tcp).await.map_err(said)?;
    exchange(webhook, body, tls).await
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    webhook: &Webhook,
    body: &Arc<[u8]>,
    io: S,
) -> Result<u16, String> {
    let said = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(said)?;
    let request = request(webhook, body, now_ms() / 1_000)?;
    let answer = sender.send_request(request);
    // One that has ended has given its answer, or none: that is what `answer` then says.
    let driven = async {
        let _ = connection.await;
        std::future::pending::<std::convert::Infallible>().await
    };
    // The answer's head is all that matters: its body is not read.
    tokio::select! {
        answer = answer => Ok(answer.map_err(said)?.status().as_u16()),
        never = driven => match never {},
    }
}

fn request(webhook: &Webhook, body: &Arc<[u8]>, at_s: i64) -> Result<Request<Full<Bytes>>, String> {
    let signature = sign(webhook.secret.as_bytes(), at_s, body);
    let request = Request::post(webhook.path.as_str())
        .header("host", format!("{}:{}", webhook.host, webhook.port))
        .header("content-type", "application/json")
        .header(
            "user-agent",
            concat!("tidegate/", env!("CARGO_PKG_VERSION")),
        )
        .header("x-tidegate-timestamp", at_s)
        .header("x-tidegate-signature", format!("sha256={signature}"))
        .body(Full::new(Bytes::copy_from_slice(body)));
    request.map_err(|error| error.to_string())
}

/// HMAC-SHA256 over `TIMESTAMP.BODY`, hexadecimal.
pub fn sign(secret: &[u8], at_s: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("a key of any length");
    mac.update(at_s.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    let tag = mac.finalize().into_bytes();
    tag.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Trusts what the machine trusts; read once.
fn connector() -> Result<TlsConnector, String> {
    static CONNECTOR: OnceLock<Result<TlsConnector, String>> = OnceLock::new();
    let made = CONNECTOR.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        let (added, _) =
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if added == 0 {
            return Err("this machine trusts no certificates: install ca-certificates".to_owned());
        }
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    });
    made.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2, whose data begin with no number: the construction is checked on its own words, and on ours by hand.
    #[test]
    fn the_signature_is_hmac_sha256_over_time_and_body() {
        let mut mac = Hmac::<Sha256>::new_from_slice(b"Jefe").unwrap();
        mac.update(b"what do ya want for nothing?");
        let tag: String = mac
            .finalize()
            .into_bytes()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(
            tag,
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        // Python: hmac.new(b"0123456789abcdef", b'1770000000.{"id":1}', "sha256").hexdigest()
        let ours = sign(b"0123456789abcdef", 1_770_000_000, br#"{"id":1}"#);
        assert_eq!(
            ours,
            "430093ccde1393fd9015952e91142eba9cacd69bf451179d08e3151790b63d88"
        );
        assert_ne!(
            ours,
            sign(b"0123456789abcdef", 1_770_000_001, br#"{"id":1}"#)
        );
    }
}
