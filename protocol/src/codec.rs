//! Bytes to messages and back: JSON, and bincode behind a version byte. The only file that names bincode.
//!
//! Promises that no input allocates more than [`MAX_DECODED_BYTES`] and that a frame is checked against its limits before
//! it is read. Does not check a reading against an endpoint's schema; that is the server's ingest.
//!
//! The layout is "bincode 2 standard": little-endian, variable-length integers. It is written down byte by byte in
//! `protocol/README.md`, so that any other implementation of that layout can take the crate's place.

pub use bincode::{Decode, Encode};

use crate::live::{LiveMessage, LiveRequest};
use crate::message::{DeviceMessage, Output, ServerMessage};
use crate::{MAX_FRAME_BYTES, MAX_NUMBER, check, json};

/// First byte of every binary message.
pub const VERSION_BYTE: u8 = 1;
/// Tag of [`DeviceMessage::Reading`].
const READING_TAG: u32 = 0;
/// Most memory that decoding one message may ask for, bytes.
pub const MAX_DECODED_BYTES: usize = 1024 * 1024;

/// Subprotocol of JSON in text frames.
pub const JSON_SUBPROTOCOL: &str = "tidegate.v1.json";
/// Subprotocol of bincode in binary frames.
pub const BINCODE_SUBPROTOCOL: &str = "tidegate.v1.bincode";
/// MQTT content type of JSON.
pub const JSON_CONTENT_TYPE: &str = "application/json";
/// MQTT content type of bincode.
pub const BINCODE_CONTENT_TYPE: &str = "application/vnd.tidegate.v1+bincode";

/// How a peer writes its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Codec {
    /// JSON in text frames.
    #[default]
    Json,
    /// A version byte and bincode in binary frames.
    Bincode,
}

impl Codec {
    /// The WebSocket subprotocol's name.
    pub fn subprotocol(self) -> &'static str {
        match self {
            Self::Json => JSON_SUBPROTOCOL,
            Self::Bincode => BINCODE_SUBPROTOCOL,
        }
    }

    /// The codec of a subprotocol's name.
    pub fn from_subprotocol(name: &str) -> Option<Self> {
        match name {
            JSON_SUBPROTOCOL => Some(Self::Json),
            BINCODE_SUBPROTOCOL => Some(Self::Bincode),
            _ => None,
        }
    }

    /// The content type over MQTT and HTTP.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => JSON_CONTENT_TYPE,
            Self::Bincode => BINCODE_CONTENT_TYPE,
        }
    }

    /// The codec of a content type (parameters after `;` are ignored).
    pub fn from_content_type(text: &str) -> Option<Self> {
        match text.split(';').next().unwrap_or_default().trim() {
            JSON_CONTENT_TYPE => Some(Self::Json),
            BINCODE_CONTENT_TYPE => Some(Self::Bincode),
            _ => None,
        }
    }
}

/// Why bytes are no message. Tell the peer; the same bytes will never be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Larger than a frame may be.
    #[error("message of {0} bytes: at most {MAX_FRAME_BYTES} are allowed")]
    TooLarge(usize),
    /// Another version of the layout.
    #[error("version byte {0}: expected {VERSION_BYTE}")]
    Version(u8),
    /// Not a message.
    #[error("not a message: {reason}")]
    Malformed {
        /// What was wrong, for people.
        reason: String,
        /// The reading's epoch, where it could still be read.
        epoch: Option<u64>,
        /// The reading's number, where it could still be read.
        seq: Option<u64>,
    },
}

impl DecodeError {
    pub(crate) fn malformed(reason: impl std::fmt::Display) -> Self {
        Self::Malformed {
            reason: reason.to_string(),
            epoch: None,
            seq: None,
        }
    }

    /// Says which reading it is about. A number beyond the limit names none, and without its epoch a seq would name
    /// the wrong reading.
    pub(crate) fn about(self, epoch: Option<u64>, seq: Option<u64>) -> Self {
        let usable = |number: Option<u64>| number.is_none_or(|number| number <= MAX_NUMBER);
        match self {
            Self::Malformed { reason, .. } if usable(epoch) && usable(seq) => {
                Self::Malformed { reason, epoch, seq }
            }
            other => other,
        }
    }
}

/// A message that goes over the wire in both codecs.
pub trait Wire: Sized {
    /// Appends the message to `out`.
    fn encode(&self, codec: Codec, out: &mut Vec<u8>);

    /// Reads one message from a whole frame.
    ///
    /// # Errors
    /// A frame that is too large, of another version, or no message; nothing of it has been taken.
    fn decode(codec: Codec, frame: &[u8]) -> Result<Self, DecodeError>;

    /// The message as bytes of its own.
    fn to_bytes(&self, codec: Codec) -> Vec<u8> {
        let mut out = Vec::with_capacity(192);
        self.encode(codec, &mut out);
        out
    }
}

impl Wire for DeviceMessage {
    fn encode(&self, codec: Codec, out: &mut Vec<u8>) {
        encode_with(self, codec, out);
    }

    fn decode(codec: Codec, frame: &[u8]) -> Result<Self, DecodeError> {
        check_size(frame)?;
        let message = match codec {
            Codec::Json => {
                json::read_device_message(frame).map_err(|error| json_refusal(&error, frame))?
            }
            Codec::Bincode => decode_binary(frame).map_err(|error| binary_refusal(error, frame))?,
        };
        check::device_message(&message)?;
        Ok(message)
    }
}

macro_rules! plain_wire {
    ($($name:ty),*) => {$(
        impl Wire for $name {
            fn encode(&self, codec: Codec, out: &mut Vec<u8>) {
                encode_with(self, codec, out);
            }

            fn decode(codec: Codec, frame: &[u8]) -> Result<Self, DecodeError> {
                check_size(frame)?;
                match codec {
                    Codec::Json => serde_json::from_slice(frame).map_err(DecodeError::malformed),
                    Codec::Bincode => decode_binary(frame),
                }
            }
        }
    )*};
}

plain_wire!(ServerMessage, LiveMessage);

impl Wire for LiveRequest {
    fn encode(&self, codec: Codec, out: &mut Vec<u8>) {
        encode_with(self, codec, out);
    }

    fn decode(codec: Codec, frame: &[u8]) -> Result<Self, DecodeError> {
        check_size(frame)?;
        let request = match codec {
            Codec::Json => serde_json::from_slice(frame).map_err(DecodeError::malformed)?,
            Codec::Bincode => decode_binary(frame)?,
        };
        check::live_request(&request)?;
        Ok(request)
    }
}

/// Writes an output as it is stored: bincode without a version byte.
pub fn encode_output(output: &Output, out: &mut Vec<u8>) {
    bincode::encode_into_std_write(output, out, bincode::config::standard())
        .expect("a Vec takes every write");
}

/// Reads a stored output.
///
/// # Errors
/// Bytes that no version of this crate wrote.
pub fn decode_output(bytes: &[u8]) -> Result<Output, DecodeError> {
    decode_layout(bytes)
}

fn encode_with<M: Encode + serde::Serialize>(message: &M, codec: Codec, out: &mut Vec<u8>) {
    match codec {
        Codec::Json => serde_json::to_writer(out, message)
            .expect("wire types have string keys and a Vec takes every write"),
        Codec::Bincode => {
            out.push(VERSION_BYTE);
            bincode::encode_into_std_write(message, out, bincode::config::standard())
                .expect("a Vec takes every write");
        }
    }
}

fn check_size(frame: &[u8]) -> Result<(), DecodeError> {
    if frame.len() > MAX_FRAME_BYTES {
        return Err(DecodeError::TooLarge(frame.len()));
    }
    Ok(())
}

fn decode_binary<M: Decode<()>>(frame: &[u8]) -> Result<M, DecodeError> {
    match frame.split_first() {
        None => Err(DecodeError::malformed("empty frame")),
        Some((&VERSION_BYTE, body)) => decode_layout(body),
        Some((&other, _)) => Err(DecodeError::Version(other)),
    }
}

fn decode_layout<M: Decode<()>>(body: &[u8]) -> Result<M, DecodeError> {
    let config = bincode::config::standard().with_limit::<MAX_DECODED_BYTES>();
    let (message, read) =
        bincode::decode_from_slice(body, config).map_err(|error| layout_error(&error))?;
    if read != body.len() {
        return Err(DecodeError::malformed(format_args!(
            "bytes after the message: {}",
            body.len() - read
        )));
    }
    Ok(message)
}

/// The crate's own error texts are its Debug form; a peer gets words.
fn layout_error(error: &bincode::error::DecodeError) -> DecodeError {
    use bincode::error::DecodeError as Layout;
    match error {
        Layout::UnexpectedEnd { .. } => DecodeError::malformed("the frame ends inside the message"),
        Layout::LimitExceeded | Layout::OutsideUsizeRange(_) => DecodeError::malformed(
            format_args!("a length asks for more than {MAX_DECODED_BYTES} bytes"),
        ),
        Layout::UnexpectedVariant {
            type_name, found, ..
        } => DecodeError::malformed(format_args!("unknown tag {found} of {}", short(type_name))),
        Layout::Utf8 { .. } => DecodeError::malformed("a string is not utf-8"),
        Layout::InvalidBooleanValue(byte) => {
            DecodeError::malformed(format_args!("boolean byte {byte}: expected 0 or 1"))
        }
        Layout::InvalidIntegerType { expected, found } => DecodeError::malformed(format_args!(
            "an integer of {found:?} where {expected:?} is expected"
        )),
        other => DecodeError::malformed(other),
    }
}

/// A type's name without its path.
fn short(type_name: &str) -> &str {
    type_name.rsplit("::").next().unwrap_or(type_name)
}

fn json_refusal(error: &serde_json::Error, frame: &[u8]) -> DecodeError {
    let (epoch, seq) = json::salvage_numbers(frame);
    DecodeError::malformed(error).about(epoch, seq)
}

/// A reading's epoch and seq come first, so that they can be read where what follows cannot.
fn binary_refusal(error: DecodeError, frame: &[u8]) -> DecodeError {
    let config = bincode::config::standard();
    let body = frame.get(1..).unwrap_or_default();
    match bincode::decode_from_slice::<(u32, Option<u64>, Option<u64>), _>(body, config) {
        Ok(((READING_TAG, epoch, seq), _)) => error.about(epoch, seq),
        _ => error,
    }
}
