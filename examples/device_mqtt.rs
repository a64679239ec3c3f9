//! A device over MQTT 5 in plain rumqttc and serde_json: what a firmware engineer ports to the chip at hand.
//!
//!     cargo run --example device_mqtt -- 127.0.0.1 1883 my-pump
//!
//! The broker's PUBACK says that the broker has a reading; only `ack` on the device's own topic says that it is stored. So a reading
//! is kept until that ack, and after a reconnect everything kept goes out again: the server answers what it has already.

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Readings to send before leaving.
const READINGS: u64 = 20;
/// Unacked readings that the device has memory for.
const MOST_KEPT: usize = 64;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let host = args.next().unwrap_or_else(|| "127.0.0.1".into());
    let port = args.next().map_or(Ok(1883), |port| port.parse())?;
    let device = args.next().unwrap_or_else(|| "my-pump".into());
    let topic = |last: &str| format!("tidegate/pump-health/{device}/{last}");
    // Without memory over a restart a device takes a new epoch, which only has to rise: the clock will do.
    let epoch = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();

    let mut options = MqttOptions::new(format!("{device}-{epoch}"), host, port);
    options.set_keep_alive(Duration::from_secs(15));
    let (client, mut events) = AsyncClient::new(options, 2 * MOST_KEPT);
    let mut kept: VecDeque<(u64, String)> = VecDeque::new();
    let (mut next, mut online) = (0, false);
    let mut every = tokio::time::interval(Duration::from_millis(100));
    while next < READINGS || !kept.is_empty() {
        tokio::select! {
            event = events.poll() => match event {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    for last in ["predictions", "acks", "errors"] {
                        client.try_subscribe(topic(last), QoS::AtLeastOnce)?;
                    }
                }
                // Subscribed, so no answer is missed: what is not acked goes out again before anything new.
                Ok(Event::Incoming(Packet::SubAck(_))) if !online => {
                    online = true;
                    for (_, reading) in &kept {
                        client.try_publish(topic("readings"), QoS::AtLeastOnce, false, reading.clone())?;
                    }
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => hear(&publish.payload, epoch, &mut kept)?,
                Ok(_) => {}
                Err(error) => {
                    eprintln!("cut: {error}; again in a second");
                    online = false;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            },
            // `try_publish` never waits: waiting for room in the task that makes room would never end.
            _ = every.tick(), if online && next < READINGS && kept.len() < MOST_KEPT => {
                let values = [0.026, 0.040, 1.33, 0.055, 79.3, 26.0, 233.1, 32.0];
                let reading = json!({ "epoch": epoch, "seq": next, "values": values }).to_string();
                client.try_publish(topic("readings"), QoS::AtLeastOnce, false, reading.clone())?;
                kept.push_back((next, reading));
                next += 1;
            }
        }
    }
    client.try_disconnect()?;
    while events.poll().await.is_ok() {}
    Ok(())
}

fn hear(payload: &[u8], epoch: u64, kept: &mut VecDeque<(u64, String)>) -> anyhow::Result<()> {
    let said: Value = serde_json::from_slice(payload)?;
    let seq = said["seq"].as_u64().unwrap_or(0);
    match said["type"].as_str() {
        Some("prediction") => println!("{seq}: {}", said["output"]),
        Some("ack") if said["epoch"] == epoch => kept.retain(|(kept, _)| *kept > seq),
        Some("nack") if said["epoch"] == epoch => kept.retain(|(kept, _)| *kept != seq),
        Some("error") => eprintln!("{}", said["message"]),
        _ => {}
    }
    Ok(())
}
