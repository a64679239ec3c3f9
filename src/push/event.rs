//! One event, encoded at most once a codec, its bytes shared by every subscriber.

use std::sync::OnceLock;
use tidegate_protocol::live::Event as WireEvent;
use tidegate_protocol::{Codec, LiveData, LiveMessage, Wire};
use tokio_tungstenite::tungstenite::Message;

/// See the module.
#[derive(Debug)]
pub struct Event {
    message: LiveMessage,
    topic: String,
    offset: u64,
    json: OnceLock<Message>,
    bincode: OnceLock<Message>,
}

impl Event {
    /// An event at `offset` of the committed log.
    pub fn new(offset: u64, topic: String, data: LiveData) -> Self {
        let message = LiveMessage::Event(WireEvent {
            offset,
            topic: topic.clone(),
            data,
        });
        Self {
            message,
            topic,
            offset,
            json: OnceLock::new(),
            bincode: OnceLock::new(),
        }
    }

    /// Its topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Its place in the committed log.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The frame in a codec; cloning it shares the bytes.
    pub fn frame(&self, codec: Codec) -> Message {
        let slot = match codec {
            Codec::Json => &self.json,
            Codec::Bincode => &self.bincode,
        };
        slot.get_or_init(|| crate::socket::frame(codec, self.message.to_bytes(codec)))
            .clone()
    }
}
