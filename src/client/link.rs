//! One connection as the loop sees it: readings in, the server's messages out, and why it ended.
//!
//! Owns the choice of door (WebSocket or MQTT) and the words for an end. Readings are bounded by the window, so `queue` never
//! waits; `receive` moves what is queued while it waits and may be dropped at any time.

use super::mqtt::MqttLink;
use super::target::{Address, Target};
use super::ws::WsLink;
use std::time::Duration;
use tidegate_protocol::message::Welcome;
use tidegate_protocol::{DeviceMessage, ErrorCode, Reading, ServerMessage, Wire};

/// Longest time for reaching a peer and hearing its first word.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// Longest time for a polite good-bye.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Most messages taken at once before the window is looked at again.
pub(super) const TAKE_AT_ONCE: usize = 256;

/// Why a connection ended, or could not be made.
#[derive(Debug)]
pub(super) struct LinkEnd {
    /// Whether coming back can help.
    pub retry: bool,
    /// Whether a peer was there and hung up without a word: coming back soon can help.
    pub hung_up: bool,
    /// What the server asked for.
    pub after: Option<Duration>,
    /// Why, for programs, where the server named it.
    pub code: Option<ErrorCode>,
    /// Why, for people.
    pub why: String,
}

impl LinkEnd {
    /// Network weather.
    pub fn cut(why: impl ToString) -> Self {
        Self {
            retry: true,
            hung_up: false,
            after: None,
            code: None,
            why: why.to_string(),
        }
    }

    /// The peer was reached and is gone.
    pub fn hung_up(why: impl ToString) -> Self {
        Self {
            hung_up: true,
            ..Self::cut(why)
        }
    }

    /// Something has to change first.
    pub fn refused(why: impl ToString) -> Self {
        Self {
            retry: false,
            ..Self::cut(why)
        }
    }
}

/// A live connection.
pub(super) enum Link {
    Ws(Box<WsLink>),
    Mqtt(MqttLink),
}

impl Link {
    /// Connects; a WebSocket brings its welcome.
    pub async fn connect(target: &Target) -> Result<(Self, Option<Welcome>), LinkEnd> {
        match &target.address {
            Address::Server { .. } => {
                let (link, welcome) = WsLink::connect(target).await?;
                Ok((Self::Ws(Box::new(link)), Some(welcome)))
            }
            Address::Broker { .. } => Ok((Self::Mqtt(MqttLink::connect(target).await?), None)),
        }
    }

    /// Takes a reading over for sending.
    pub fn queue(&mut self, reading: &Reading) -> Result<(), LinkEnd> {
        match self {
            Self::Ws(link) => link.queue(reading),
            Self::Mqtt(link) => link.queue(reading),
        }
    }

    /// Sends what is queued and waits for at least one message; takes along what has come with it. Cancel-safe.
    pub async fn receive(&mut self, into: &mut Vec<ServerMessage>) -> Result<(), LinkEnd> {
        match self {
            Self::Ws(link) => link.receive(into).await,
            Self::Mqtt(link) => link.receive(into).await,
        }
    }

    /// Says good-bye, within [`CLOSE_TIMEOUT`].
    pub async fn close(self) {
        match self {
            Self::Ws(link) => link.close().await,
            Self::Mqtt(link) => link.close().await,
        }
    }
}

/// A reading as a message of its own.
pub(super) fn encode(reading: &Reading, codec: tidegate_protocol::Codec) -> Vec<u8> {
    DeviceMessage::Reading(reading.clone()).to_bytes(codec)
}
