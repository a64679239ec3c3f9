//! One event, encoded at most once a codec, its bytes shared by every subscriber.
//!
//! Holds the committed row itself, which the session and the ring share, so that making an event copies nothing; its wire form
//! is made when the first socket wants it. Its `weight` is what it counts for in a bounded queue.

use super::{topics, weight};
use crate::store::StoredSample;
use crate::stream::SampleRow;
use std::sync::{Arc, OnceLock};
use tidegate_protocol::live::Event as WireEvent;
use tidegate_protocol::{Codec, LiveData, LiveMessage, Wire};
use tokio_tungstenite::tungstenite::Message;

/// See the module.
#[derive(Debug)]
pub struct Event {
    offset: u64,
    topic: Arc<str>,
    content: Content,
    weight: usize,
    json: OnceLock<Message>,
    bincode: OnceLock<Message>,
}

#[derive(Debug)]
enum Content {
    /// A row as the writer gave it out.
    Row(Arc<SampleRow>),
    /// Anything else; boxed, because it is many times larger than a row's pointer.
    Data(Box<LiveData>),
}

impl Event {
    /// An event at `offset` of the committed log.
    pub fn new(offset: u64, topic: String, data: LiveData) -> Self {
        let weight = weight::of_data(&topic, &data);
        Self::with(offset, topic, Content::Data(Box::new(data)), weight)
    }

    /// A row that was committed as `id`.
    pub fn committed(id: u64, row: &Arc<SampleRow>) -> Self {
        let topic = topics::predictions(&row.stream.key);
        Self::with(
            id,
            topic,
            Content::Row(Arc::clone(row)),
            weight::of_row(row),
        )
    }

    /// A sample as it was read back.
    pub fn stored(sample: StoredSample) -> Self {
        let topic = format!("predictions/{}/{}", sample.endpoint, sample.device);
        Self::new(sample.id, topic, LiveData::Sample(sample.into_wire()))
    }

    fn with(offset: u64, topic: String, content: Content, weight: usize) -> Self {
        Self {
            offset,
            topic: topic.into(),
            content,
            weight,
            json: OnceLock::new(),
            bincode: OnceLock::new(),
        }
    }

    /// Its topic.
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// Its place in the committed log.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes that it counts for in a queue: at least its frame in either codec.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// The frame in a codec; cloning it shares the bytes.
    pub fn frame(&self, codec: Codec) -> Message {
        let slot = match codec {
            Codec::Json => &self.json,
            Codec::Bincode => &self.bincode,
        };
        slot.get_or_init(|| crate::socket::frame(codec, self.message().to_bytes(codec)))
            .clone()
    }

    fn message(&self) -> LiveMessage {
        let data = match &self.content {
            Content::Row(row) => LiveData::Sample(row.to_wire(self.offset)),
            Content::Data(data) => LiveData::clone(data),
        };
        LiveMessage::Event(WireEvent {
            offset: self.offset,
            topic: self.topic.to_string(),
            data,
        })
    }
}
