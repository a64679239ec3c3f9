//! The device's side of the protocol: what `tidegate send`, the demo's rigs and the scoring program speak.
//!
//! [`stream`] takes readings from a [`Source`], sends them over WebSocket or MQTT with a bounded number unanswered, keeps each
//! until it is acked or nacked, and comes back after a cut as the protocol's client rule says: what was not settled is sent
//! again, duplicates are answered. The rule itself is [`window`], values in and values out; [`backoff`] says when to
//! come back; `ws` and `mqtt` move bytes. Depends on `tidegate-protocol` only and knows nothing of the server's inside.
//!
//! Order of the files: window, tally, backoff (pure); link, ws, mqtt (bytes); run (the loop that joins them).

pub mod backoff;
mod link;
mod mqtt;
mod run;
pub mod tally;
mod target;
pub mod window;
mod ws;

pub use run::{Observer, Quiet, Source, stream};
pub use tally::Tally;
pub use target::{Address, Options, Target, TargetError};
pub use window::Limits;

use backoff::Backoff;
use std::time::{Duration, Instant};
use tidegate_protocol::ErrorCode;
use tidegate_protocol::message::Welcome;

/// Why a stream ended before everything was settled. The [`Tally`] up to then is in the caller's [`Outcome`].
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server said no and meant it; something has to change first.
    #[error("{place}: {message}")]
    Refused {
        /// Where it was said.
        place: String,
        /// Why, for programs, where the server named it.
        code: Option<ErrorCode>,
        /// Why, for people.
        message: String,
    },
    /// It failed for longer than the caller wanted to wait; try later, nothing is lost at the server.
    #[error("{place}: {message}; gave up after {waited_s} s")]
    GaveUp {
        /// Where it was tried.
        place: String,
        /// The last failure.
        message: String,
        /// Seconds since it began to fail.
        waited_s: u64,
    },
    /// The stream already holds other readings under these numbers: choose another device or epoch.
    #[error(
        "device {device:?} already holds other readings in epoch {epoch} (seq {seq} differs): choose another device, or another epoch"
    )]
    OtherReadings {
        /// The device.
        device: String,
        /// The epoch.
        epoch: u64,
        /// The first number that was found to differ.
        seq: u64,
    },
}

/// What a stream came to: the counts, and the error that ended it early, if any.
#[derive(Debug)]
pub struct Outcome {
    /// Everything that was counted.
    pub tally: Tally,
    /// Why it ended early.
    pub error: Option<ClientError>,
}

/// How long a peer that hangs up in the handshake is asked again.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);

/// Connects, reads the server's welcome and closes: what is the schema, what is stored already.
///
/// # Errors
/// A server that cannot be reached or says no is reported at once; one that hangs up without a word is tried again for some seconds.
pub async fn hello(target: &Target) -> Result<Welcome, ClientError> {
    let refused = |end: link::LinkEnd| ClientError::Refused {
        place: target.address.to_string(),
        code: end.code,
        message: end.why,
    };
    let mut backoff = Backoff::new(HELLO_PATIENCE);
    loop {
        let end = match ws::WsLink::connect(target).await {
            Ok((link, welcome)) => {
                link.close().await;
                return Ok(welcome);
            }
            Err(end) => end,
        };
        let wait = backoff.next(Instant::now(), backoff::dice(), None);
        match wait.filter(|_| end.hung_up) {
            Some(wait) => tokio::time::sleep(wait).await,
            None => return Err(refused(end)),
        }
    }
}
