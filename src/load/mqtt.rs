//! MQTT 5 packets as a load generator needs them: one connection is one device that publishes readings and hears its own answers.
//!
//! Owns the handful of packets that it takes; whatever else a broker sends is passed over. QoS 1 both ways. Pure.

use super::words::{self, Heard};
use tidegate_protocol::Codec;

/// Publishes of the broker that a client which says nothing may be sent before it acknowledges.
const DEFAULT_RECEIVE_MAXIMUM: u16 = 65_535;
/// Longest packet that is taken.
const MOST_BYTES: usize = 1024 * 1024;

/// One device at a broker.
#[derive(Debug)]
pub struct Client {
    /// What follows the packet id in every publish: properties with the content type.
    properties: Vec<u8>,
    topic: Vec<u8>,
    /// Of the last publish.
    packet: u16,
    /// Publishes that the broker has not acknowledged, and how many it takes.
    unacknowledged: u16,
    receive_maximum: u16,
}

impl Client {
    /// A client for the readings of a topic.
    pub fn new(topic: &str, codec: Codec) -> Self {
        let mut content_type = vec![3];
        text(&mut content_type, codec.content_type());
        let mut properties = Vec::new();
        length(&mut properties, content_type.len());
        properties.extend(content_type);
        let mut name = Vec::new();
        text(&mut name, topic);
        Self {
            properties,
            topic: name,
            packet: 0,
            unacknowledged: 0,
            receive_maximum: DEFAULT_RECEIVE_MAXIMUM,
        }
    }

    /// Whether the broker takes another publish now.
    pub fn has_room(&self) -> bool {
        self.unacknowledged < self.receive_maximum
    }

    /// Begins a publish of `len` bytes; the payload follows.
    pub fn begin(&mut self, out: &mut Vec<u8>, len: usize) {
        self.packet = self.packet.checked_add(1).unwrap_or(1);
        self.unacknowledged += 1;
        out.push(0x32);
        length(out, self.topic.len() + 2 + self.properties.len() + len);
        out.extend(&self.topic);
        out.extend(self.packet.to_be_bytes());
        out.extend(&self.properties);
    }

    /// The first packet in `bytes`; what must be acknowledged is, in `out`.
    ///
    /// # Errors
    /// A refusal of the broker, or bytes that are no packet, for people.
    pub fn take(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<(Heard, usize)>, String> {
        let Some((kind, body, used)) = packet(bytes)? else {
            return Ok(None);
        };
        let heard = match kind >> 4 {
            2 => self.connected(body)?,
            3 => published(kind, body, out)?,
            4 => {
                self.unacknowledged = self.unacknowledged.saturating_sub(1);
                match body.get(2) {
                    Some(0x10) => return Err("nobody listens at the broker: does a server?".into()),
                    Some(&reason) if reason >= 0x80 => {
                        return Err(format!(
                            "the broker refuses a reading: reason {reason:#04x}"
                        ));
                    }
                    _ => Heard::Other,
                }
            }
            9 if body.last().is_some_and(|reason| *reason >= 0x80) => {
                return Err("the broker refuses the subscription".into());
            }
            14 => {
                let reason = body.first().copied().unwrap_or_default();
                return Err(format!("the broker hangs up: reason {reason:#04x}"));
            }
            _ => Heard::Other,
        };
        Ok(Some((heard, used)))
    }

    fn connected(&mut self, body: &[u8]) -> Result<Heard, String> {
        let reason = body.get(1).copied().unwrap_or_default();
        if reason != 0 {
            return Err(format!(
                "the broker refuses the connection: reason {reason:#04x}"
            ));
        }
        if let Some(most) = receive_maximum(body.get(2..).unwrap_or_default()) {
            self.receive_maximum = most;
        }
        Ok(Heard::Other)
    }
}

/// CONNECT with a clean start; without keep-alive, as load follows load.
pub fn connect(out: &mut Vec<u8>, client: &str, login: Option<(&str, &str)>) {
    let mut body = Vec::new();
    text(&mut body, "MQTT");
    let flags = if login.is_some() { 0xc2 } else { 0x02 };
    body.extend([5, flags, 0, 0, 0]);
    text(&mut body, client);
    if let Some((user, password)) = login {
        text(&mut body, user);
        text(&mut body, password);
    }
    whole(out, 0x10, &body);
}

/// SUBSCRIBE to both filters with QoS 1.
pub fn subscribe(out: &mut Vec<u8>, filters: &[String]) {
    let mut body = vec![0, 1, 0];
    for filter in filters {
        text(&mut body, filter);
        body.push(1);
    }
    whole(out, 0x82, &body);
}

/// Whether `bytes` hold the answer to a SUBSCRIBE, as far as whole packets go.
pub fn is_subscribed(mut bytes: &[u8]) -> bool {
    while let Ok(Some((kind, _, used))) = packet(bytes) {
        if kind >> 4 == 9 {
            return true;
        }
        bytes = &bytes[used..];
    }
    false
}

fn whole(out: &mut Vec<u8>, kind: u8, body: &[u8]) {
    out.push(kind);
    length(out, body.len());
    out.extend(body);
}

/// Lengths of strings are two bytes; ours are far shorter.
fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
}

fn length(out: &mut Vec<u8>, mut len: usize) {
    loop {
        let low = (len & 0x7f) as u8;
        len >>= 7;
        if len == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// A variable-length integer and how many bytes it takes.
fn read_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, String> {
    let mut len = 0;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        len |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((len, at + 1)));
        }
    }
    if bytes.len() >= 4 {
        return Err("a length of more than four bytes".into());
    }
    Ok(None)
}

/// First byte, body, and bytes in all.
type Packet<'a> = (u8, &'a [u8], usize);

fn packet(bytes: &[u8]) -> Result<Option<Packet<'_>>, String> {
    let Some((&kind, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let Some((len, width)) = read_length(rest)? else {
        return Ok(None);
    };
    if len > MOST_BYTES {
        return Err(format!("a packet of {len} bytes"));
    }
    let body = rest.get(width..width + len);
    Ok(body.map(|body| (kind, body, 1 + width + len)))
}

fn published(kind: u8, body: &[u8], out: &mut Vec<u8>) -> Result<Heard, String> {
    let cut = || "a publish that ends early".to_owned();
    let topic = body.first_chunk().map(|len| u16::from_be_bytes(*len));
    let mut at = 2 + usize::from(topic.ok_or_else(cut)?);
    if kind & 0x06 != 0 {
        let id = body.get(at..at + 2).ok_or_else(cut)?;
        out.extend([0x40, 2, id[0], id[1]]);
        at += 2;
    }
    let rest = body.get(at..).ok_or_else(cut)?;
    let (len, width) = read_length(rest)?.ok_or_else(cut)?;
    let payload = rest.get(width + len..).ok_or_else(cut)?;
    words::read(Codec::Json, payload)
}

/// Property 0x21 of a CONNACK; Mosquitto and others put it behind ones of fixed width only.
fn receive_maximum(properties: &[u8]) -> Option<u16> {
    let (len, width) = read_length(properties).ok()??;
    let mut rest = properties.get(width..width + len)?;
    while let Some((&id, after)) = rest.split_first() {
        if id == 0x21 {
            return after.first_chunk().map(|most| u16::from_be_bytes(*most));
        }
        let skip = match id {
            0x11 | 0x27 => 4,
            0x22 | 0x13 => 2,
            0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 1,
            // Texts: assigned id, reason, response information, server, method, data.
            0x12 | 0x1f | 0x1a | 0x1c | 0x15 | 0x16 => {
                2 + usize::from(u16::from_be_bytes(*after.first_chunk()?))
            }
            _ => return None,
        };
        rest = after.get(skip..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use rumqttc::v5::mqttbytes::v5::Packet as Theirs;

    fn read_by_rumqttc(out: &[u8]) -> Theirs {
        Theirs::read(&mut BytesMut::from(out), Some(100_000)).unwrap()
    }

    #[test]
    fn another_client_library_reads_the_same() {
        let mut out = Vec::new();
        connect(&mut out, "me", Some(("ann", "secret")));
        let Theirs::Connect(connect, _, login) = read_by_rumqttc(&out) else {
            panic!("not a CONNECT")
        };
        assert!(connect.client_id == "me" && connect.clean_start);
        assert_eq!(login.map(|login| login.username), Some("ann".into()));
        out.clear();
        subscribe(&mut out, &["a/+".into(), "b".into()]);
        assert!(
            matches!(read_by_rumqttc(&out), Theirs::Subscribe(wish) if wish.filters.len() == 2)
        );
        for len in [3, 200, 20_000] {
            out.clear();
            let mut client = Client::new("tidegate/e/d/readings", Codec::Bincode);
            client.begin(&mut out, len);
            out.extend(vec![7; len]);
            let Theirs::Publish(publish) = read_by_rumqttc(&out) else {
                panic!("not a PUBLISH")
            };
            assert_eq!((publish.pkid, publish.payload.len()), (1, len));
            let properties = publish.properties.unwrap();
            assert_eq!(
                properties.content_type.as_deref(),
                Some(Codec::Bincode.content_type())
            );
        }
    }

    #[test]
    fn an_answer_is_read_and_acknowledged() {
        let payload = br#"{"type":"ack","epoch":9,"seq":4}"#;
        let mut bytes = vec![0x32];
        let mut body = Vec::new();
        text(&mut body, "t");
        body.extend([0, 77, 0]);
        body.extend(payload);
        length(&mut bytes, body.len());
        bytes.extend(body);
        let (mut client, mut out) = (Client::new("t", Codec::Json), Vec::new());
        for end in 0..bytes.len() {
            assert_eq!(client.take(&bytes[..end], &mut out), Ok(None));
        }
        assert_eq!(
            client.take(&bytes, &mut out),
            Ok(Some((Heard::Ack(4), bytes.len())))
        );
        assert_eq!(out, [0x40, 2, 0, 77]);
    }

    #[test]
    fn no_more_is_published_than_the_broker_takes() {
        let (mut client, mut out) = (Client::new("t", Codec::Json), Vec::new());
        // Session present, success, properties: topic alias maximum, receive maximum 2.
        let connack = [0x20, 9, 0, 0, 6, 0x22, 0, 10, 0x21, 0, 2];
        client.take(&connack, &mut out).unwrap().unwrap();
        client.begin(&mut out, 0);
        assert!(client.has_room());
        client.begin(&mut out, 0);
        assert!(!client.has_room());
        client.take(&[0x40, 2, 0, 1], &mut out).unwrap().unwrap();
        assert!(client.has_room());
        let refused = client.take(&[0x20, 3, 0, 0x87, 0], &mut out).unwrap_err();
        assert!(refused.contains("0x87"), "{refused}");
        assert!(client.take(&[0x40, 3, 0, 2, 0x10], &mut out).is_err());
    }
}
