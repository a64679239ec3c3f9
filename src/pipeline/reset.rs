//! Recalibration from outside of the stream's own connection: by API or command line.

use super::{Link, LoadSessionError, Origin, Pipeline, TakeError};
use crate::push::{Drained, Outbox};
use crate::session::OpenError;
use crate::store::StoreError;
use crate::stream::StreamKey;
use std::time::Duration;
use tidegate_protocol::ServerMessage;

/// Why a stream was not set back, or is not known to be.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// Nobody has sent anything under that name.
    #[error("no device {0}: nothing to set back")]
    Unknown(StreamKey),
    /// The store cannot be read; try again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stream cannot be opened now; try again.
    #[error(transparent)]
    Open(#[from] OpenError<LoadSessionError>),
    /// The row was not taken; try again.
    #[error(transparent)]
    Take(#[from] TakeError),
    /// The row is taken, its commit is still on its way; asking again is harmless.
    #[error("the reset is taken but not durable yet: ask again")]
    Pending,
}

impl Pipeline {
    /// Sets a stream back to that of a new one and waits, at most `patience`, until that is durable. Returns epoch and position of
    /// its row.
    ///
    /// # Errors
    /// See [`ResetError`].
    pub async fn reset(
        &self,
        key: &StreamKey,
        patience: Duration,
    ) -> Result<(u64, u64), ResetError> {
        if self.sessions.get(key).is_none() && self.store.load_stream(key).await?.is_none() {
            return Err(ResetError::Unknown(key.clone()));
        }
        let session = self.open(key, None).await?;
        let epoch = session.lock().marks.epoch;
        let link = Link {
            session,
            outbox: Outbox::for_task(None, false),
            generation: None,
            epoch,
        };
        let mut pos = 0;
        self.record_one(&link, Origin::silent(&link), |session| {
            let row = session.reset("asked by an operator");
            pos = row.after.pos;
            row
        })
        .await?;
        let told = tokio::time::timeout(patience, reset_done(&link.outbox)).await;
        told.map_err(|_| ResetError::Pending)?
            .map(|epoch| (epoch, pos))
            .ok_or(ResetError::Take(TakeError::Retired))
    }
}

/// The epoch that the store's answer names; `None` when the stream was stopped instead.
async fn reset_done(outbox: &Outbox) -> Option<u64> {
    let mut drained = Drained::default();
    loop {
        outbox.drain(&mut drained);
        let done = drained.messages.iter().find_map(|message| match message {
            ServerMessage::Reset(done) => Some(done.epoch),
            _ => None,
        });
        if done.is_some() || drained.closing.is_some() {
            return done;
        }
        outbox.ready().await;
    }
}
