//! Ground truth that comes from outside of a stream's own connection: by API or command line, often long after the reading.
//!
//! Goes the way of a device's own feedback and is answered when it is durable. What names a reading that is not there is kept for a while,
//! because feedback may come before its reading is stored or from a system whose clock runs ahead; then it is counted as an orphan and
//! forgotten. Owns that room, which is bounded and in memory only.

use super::{Arrival, Arrived, Link, LoadSessionError, Pipeline, TakeError};
use crate::push::{Drained, Outbox};
use crate::session::{Numbers, OpenError};
use crate::store::{Known, StoreError};
use crate::stream::{StreamKey, now_ms};
use crate::telemetry::metric;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_protocol::message::Label;
use tidegate_protocol::{NackCode, ServerMessage};
use tokio_util::sync::CancellationToken;

/// How long feedback waits for its reading.
const PATIENCE: Duration = Duration::from_secs(600);
/// Between two looks for the readings that it waits for.
const AGAIN: Duration = Duration::from_secs(5);
/// Feedback that waits at most, some 4 MiB.
const MOST_WAITING: usize = 20_000;

/// Ground truth for a reading of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Truth {
    /// The reading's epoch.
    pub epoch: u64,
    /// The reading's number.
    pub seq: u64,
    /// What was true.
    pub label: Label,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// It is durable.
    Stored,
    /// There is no such reading.
    Unknown,
    /// It cannot be ground truth for that reading.
    Refused(NackCode, String),
}

/// Why it is not known what became of it.
#[derive(Debug, thiserror::Error)]
pub enum FeedbackError {
    /// The store cannot be read; try again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stream cannot be opened now; try again.
    #[error(transparent)]
    Open(#[from] OpenError<LoadSessionError>),
    /// It was not taken, or not all of it; try again.
    #[error(transparent)]
    Take(#[from] TakeError),
    /// It is taken, its commit is still on its way.
    #[error("the feedback is taken but not durable yet")]
    Pending,
}

/// Feedback that waits for its reading.
struct Early {
    key: StreamKey,
    truth: Truth,
    until: Instant,
}

/// The room of those that wait.
#[derive(Default)]
pub(super) struct Waiting(Mutex<VecDeque<Early>>);

impl Pipeline {
    /// Stores ground truth for readings of one stream; says of each, in their order, what became of it.
    ///
    /// # Errors
    /// See [`FeedbackError`]: what was stored before it stays stored, and giving it again is harmless.
    pub async fn give_feedback(
        &self,
        key: &StreamKey,
        truths: &[Truth],
    ) -> Result<Vec<Given>, FeedbackError> {
        let known = self.sessions.get(key).is_some();
        let known = known || self.store.load_stream(key).await?.is_some();
        if !known {
            return Ok(vec![Given::Unknown; truths.len()]);
        }
        let stream = self.open(key, None).await?;
        let mut given = vec![Given::Unknown; truths.len()];
        let mut link = Link {
            session: Arc::clone(&stream),
            outbox: Outbox::for_task(None, false),
            generation: None,
            epoch: stream.lock().marks.epoch,
        };
        let mut arrivals = VecDeque::new();
        for (index, truth) in (0_u64..).zip(truths) {
            if self.is_there(&stream, truth).await? {
                arrivals.push_back(arrival(truth, index));
            }
        }
        let count = arrivals.len();
        let mut replies = Vec::new();
        self.take(&mut link, &mut arrivals, &mut replies).await?;
        let patience = self.config.connections.commit_wait;
        let told = heard(&link.outbox, truths, count, &mut given);
        let told = tokio::time::timeout(patience, told).await;
        told.map_err(|_| FeedbackError::Pending)??;
        Ok(given)
    }

    /// Whether there is such a reading: one that was taken, on its way to the store or in it. A refusal row for each that is not there, asked
    /// for again and again, would fill the store.
    async fn is_there(
        &self,
        session: &crate::session::SessionCell,
        truth: &Truth,
    ) -> Result<bool, StoreError> {
        let stream = {
            let session = session.lock();
            if let Some((_, pending)) = session.find(truth.epoch, truth.seq) {
                return Ok(matches!(pending, crate::session::Known::Sample(_)));
            }
            session.stream.id
        };
        let found = self.store.find(stream, truth.epoch, truth.seq).await?;
        Ok(matches!(found, Some(Known::Sample(_))))
    }

    /// Keeps feedback whose reading is not there yet; false when too much waits already.
    pub fn keep_feedback(&self, key: &StreamKey, truth: Truth) -> bool {
        let mut waiting = self.early.0.lock();
        let fits = waiting.len() < MOST_WAITING;
        if fits {
            waiting.push_back(Early {
                key: key.clone(),
                truth,
                until: Instant::now() + PATIENCE,
            });
        }
        fits
    }

    /// Tries what waits once; what has waited for too long is an orphan.
    async fn try_waiting(&self) {
        let waiting = std::mem::take(&mut *self.early.0.lock());
        for early in waiting {
            let given = self.give_feedback(&early.key, std::slice::from_ref(&early.truth));
            match given.await.as_deref() {
                Ok([Given::Stored]) => {
                    metrics::counter!(metric::FEEDBACK, "outcome" => "stored").increment(1);
                }
                Ok([Given::Refused(..)]) => {
                    metrics::counter!(metric::FEEDBACK, "outcome" => "refused").increment(1);
                }
                _ if early.until <= Instant::now() => {
                    metrics::counter!(metric::FEEDBACK, "outcome" => "orphan").increment(1);
                    tracing::debug!(stream = %early.key, seq = early.truth.seq, "feedback without a reading");
                }
                _ => self.early.0.lock().push_back(early),
            }
        }
    }
}

/// Tries feedback that waits for its reading until the server stops.
pub async fn await_readings(pipeline: Arc<Pipeline>, stop: CancellationToken) {
    let trying = async {
        loop {
            tokio::time::sleep(AGAIN).await;
            pipeline.try_waiting().await;
        }
    };
    tokio::select! {
        () = trying => {}
        () = stop.cancelled() => {}
    }
}

fn arrival(truth: &Truth, index: u64) -> Arrival {
    Arrival {
        numbers: Numbers {
            epoch: Some(truth.epoch),
            seq: Some(truth.seq),
        },
        what: Arrived::Feedback(truth.label.clone(), Some(index)),
        received_at: now_ms(),
        since: Instant::now(),
        receipt: None,
    }
}

/// Notes what the outbox says of `count` of them.
async fn heard(
    outbox: &Outbox,
    truths: &[Truth],
    count: usize,
    given: &mut [Given],
) -> Result<(), FeedbackError> {
    let mut drained = Drained::default();
    let mut told = 0;
    while told < count {
        outbox.drain(&mut drained);
        for message in drained.messages.drain(..) {
            match message {
                ServerMessage::Feedback(stored) => {
                    told += 1;
                    let index = stored
                        .reference
                        .and_then(|index| usize::try_from(index).ok());
                    if let Some(one) = index.and_then(|index| given.get_mut(index)) {
                        *one = Given::Stored;
                    }
                }
                ServerMessage::Nack(nack) => {
                    told += 1;
                    let refused = truths.iter().zip(given.iter_mut());
                    for (truth, one) in refused {
                        if Some(truth.seq) == nack.seq && *one == Given::Unknown {
                            *one = Given::Refused(nack.code, nack.message.clone());
                            break;
                        }
                    }
                }
                _ => {}
            }
        }
        if told < count {
            if drained.closing.is_some() {
                return Err(FeedbackError::Take(TakeError::Retired));
            }
            outbox.ready().await;
        }
    }
    Ok(())
}
