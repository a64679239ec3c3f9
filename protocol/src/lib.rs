//! Protocol v1 of Tidegate: what devices, dashboards and the server say to each other.
//!
//! For everyone who speaks to a Tidegate server from Rust, and for the server itself. Owns the wire types
//! ([`message`], [`live`]), the two codecs ([`codec`]), names and numbers with their limits ([`id`]), MQTT topics ([`topic`]) and
//! close codes ([`close`]). Promises that reading bytes checks its limits before it allocates, and that the layout
//! behind a version byte never changes: variants are only appended.
//!
//! No async, no sockets, no clocks, no database: values in, values out. The specification in words and byte tables
//! is `protocol/README.md`; `protocol/vectors/` holds one golden file a message.

mod check;
pub mod close;
pub mod codec;
pub mod id;
mod json;
pub mod live;
pub mod message;
pub mod topic;

pub use close::CloseCode;
pub use codec::{Codec, DecodeError, Wire};
pub use id::{DeviceId, EndpointName, IdError, MAX_NUMBER};
pub use live::{LiveData, LiveMessage, LiveRequest, Policy, Position, Sample};
pub use message::{DeviceMessage, ErrorCode, NackCode, Output, Reading, ServerMessage, Values};

/// Largest message either side sends, in bytes; a larger one from a device is closed with 1009.
pub const MAX_FRAME_BYTES: usize = 64 * 1024;
/// Most values in one reading.
pub const MAX_VALUES: usize = 1024;
/// Most readings in one `batch`.
pub const MAX_BATCH: usize = 1024;
/// Longest topic of a subscription, in bytes.
pub const MAX_TOPIC_BYTES: usize = 256;
/// Longest class name of a feedback, in bytes.
pub const MAX_LABEL_BYTES: usize = 128;
/// Seconds between the server's pings.
pub const PING_S: u32 = 25;
/// Seconds within which some frame must follow a ping.
pub const PONG_S: u32 = 8;
/// Bits of the one NaN that stands for a missing value (JSON `null`).
pub const MISSING_BITS: u32 = 0x7fc0_0000;
/// The one NaN that stands for a missing value.
pub const MISSING: f32 = f32::from_bits(MISSING_BITS);
