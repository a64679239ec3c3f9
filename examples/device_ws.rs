//! A device in plain tokio-tungstenite and serde_json: what a firmware engineer ports to the chip at hand.
//!
//!     cargo run --example device_ws -- ws://127.0.0.1:8080 my-pump
//!
//! The whole rule of resuming: keep a reading until it is acked, and after a cut go on from `resume_from`. `tidegate::client` is
//! the full version, with a window, back-off and a deadline.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::Duration;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

/// Readings to send before leaving.
const READINGS: u64 = 20;
/// Unacked readings that the device has memory for.
const MOST_KEPT: usize = 64;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let server = args.next().unwrap_or_else(|| "ws://127.0.0.1:8080".into());
    let device = args.next().unwrap_or_else(|| "my-pump".into());
    let url = format!("{server}/v1/stream/pump-health?device={device}");
    let mut kept: VecDeque<(u64, String)> = VecDeque::new();
    let mut end = None;
    loop {
        match connection(&url, &mut kept, &mut end).await {
            Ok(true) => return Ok(()),
            // 4500-4999 mean: do not come back, something has to change first.
            Ok(false) => anyhow::bail!("the server refused for good"),
            Err(error) => eprintln!("cut: {error}; again in a second"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// One connection; true when everything is acked, false when the server does not want us back.
async fn connection(
    url: &str,
    kept: &mut VecDeque<(u64, String)>,
    end: &mut Option<u64>,
) -> anyhow::Result<bool> {
    let (mut socket, _) = connect_async(url).await?;
    let (mut next, mut every) = (0, tokio::time::interval(Duration::from_millis(100)));
    loop {
        tokio::select! {
            frame = socket.next() => match frame.ok_or_else(|| anyhow::anyhow!("no close frame"))?? {
                Message::Close(frame) if frame.as_ref().is_some_and(|f| u16::from(f.code) >= 4500) => return Ok(false),
                Message::Text(text) => {
                    let said: Value = serde_json::from_str(&text)?;
                    let seq = said["seq"].as_u64().unwrap_or(0);
                    match said["type"].as_str() {
                        Some("welcome") => {
                            // Everything below is stored. What is above goes out again before anything new.
                            next = said["resume_from"].as_u64().unwrap_or(0);
                            end.get_or_insert(next + READINGS);
                            kept.retain(|(seq, _)| *seq >= next);
                            for (seq, reading) in &*kept {
                                socket.send(Message::text(reading.as_str())).await?;
                                next = seq + 1;
                            }
                        }
                        Some("prediction") => println!("{seq}: {}", said["output"]),
                        Some("ack") => kept.retain(|(kept, _)| *kept > seq),
                        // Refused for good: sending it again would change nothing.
                        Some("nack") => kept.retain(|(kept, _)| *kept != seq),
                        _ => {}
                    }
                }
                _ => {}
            },
            // Measure only while there is memory to keep the reading until its ack.
            _ = every.tick(), if end.is_some_and(|end| next < end) && kept.len() < MOST_KEPT => {
                let values = [0.026, 0.040, 1.33, 0.055, 79.3, 26.0, 233.1, 32.0];
                let reading = json!({ "seq": next, "values": values }).to_string();
                kept.push_back((next, reading.clone()));
                next += 1;
                socket.send(Message::text(reading)).await?;
            }
        }
        if end.is_some_and(|end| next >= end) && kept.is_empty() {
            socket.close(None).await?;
            return Ok(true);
        }
    }
}
