//! Readings that a request brings into a stream, answered once all of them are durable.
//!
//! The same road as any other door's: opened, taken, committed. Owns nothing beyond the request. Promises that a prediction is told
//! only when its reading is stored; a request that gives up leaves what it took on its way.

use super::{Problem, Site};
use crate::inference::Served;
use crate::pipeline::{Arrival, Link, TakeError};
use crate::push::{Drained, Outbox};
use crate::stream::StreamKey;
use crate::telemetry::Door;
use axum::http::StatusCode;
use std::collections::VecDeque;
use std::sync::Arc;
use tidegate_protocol::message::{Ack, Nack, Prediction};
use tidegate_protocol::{NackCode, Output, ServerMessage};

/// Takes `arrivals` into the stream and waits for their commit: one prediction each, in their order.
///
/// # Errors
/// A stream that cannot be opened now or is served by another version than `pin`, the first reading that is refused, a store that
/// takes too long.
pub async fn take(
    site: &Site,
    key: &StreamKey,
    pin: Option<&Arc<Served>>,
    mut arrivals: VecDeque<Arrival>,
) -> Result<Vec<Prediction>, Problem> {
    let count = arrivals.len();
    let again = send_again(arrivals.iter().all(|arrival| arrival.numbers.seq.is_some()));
    let mut link = open(site, key, pin).await?;
    let pipeline = &site.pipeline;
    pipeline.rates.readings(Door::Http, count);
    let mut waiting = Waiting::new(count);
    let taken = pipeline.take(&mut link, &mut arrivals, &mut waiting.replies);
    taken.await.map_err(not_taken)?;
    pipeline.hub.device_online(key);
    let patience = pipeline.config().connections.commit_wait;
    let predictions = tokio::select! {
        done = tokio::time::timeout(patience, waiting.until_durable(&link.outbox)) => done.map_err(|_| {
            Problem::later(format!("the reading is taken but not durable yet: {again}"), 2)
        })??,
        () = site.overdue.cancelled() => {
            return Err(Problem::later(format!("the server stops before the reading is durable: {again}"), 2));
        }
    };
    pipeline.rates.predictions(count);
    Ok(predictions)
}

/// A link of its own to the stream.
async fn open(site: &Site, key: &StreamKey, pin: Option<&Arc<Served>>) -> Result<Link, Problem> {
    let pipeline = &site.pipeline;
    let session = pipeline.open(key, pin).await.map_err(|error| {
        tracing::warn!(stream = %key, %error, "a stream could not be opened");
        Problem::later("the stream cannot be opened now", 2)
    })?;
    let (epoch, version) = {
        let session = session.lock();
        (session.marks.epoch, Arc::clone(&session.served().reference))
    };
    if pin.is_some_and(|pin| pin.reference != version) {
        let detail = format!(
            "{key} is served by {version}: a request does not switch a stream, its connection does"
        );
        return Err(Problem::new(StatusCode::CONFLICT, "other_version", detail));
    }
    Ok(Link {
        session,
        outbox: Outbox::for_peer(None, false, pipeline.config().connections.outbox, None),
        generation: None,
        epoch,
    })
}

/// What a request has heard so far.
struct Waiting {
    count: usize,
    replies: Vec<ServerMessage>,
    predictions: Vec<Prediction>,
    acks: Vec<Ack>,
}

impl Waiting {
    fn new(count: usize) -> Self {
        Self {
            count,
            replies: Vec::new(),
            predictions: Vec::with_capacity(count),
            acks: Vec::new(),
        }
    }

    async fn until_durable(&mut self, outbox: &Outbox) -> Result<Vec<Prediction>, Problem> {
        let mut drained = Drained::default();
        loop {
            outbox.drain(&mut drained);
            self.replies.append(&mut drained.messages);
            self.replies
                .extend(drained.ack.take().map(ServerMessage::Ack));
            for reply in self.replies.drain(..) {
                match reply {
                    ServerMessage::Nack(nack) => return Err(nacked(nack)),
                    ServerMessage::Prediction(prediction) => self.predictions.push(prediction),
                    ServerMessage::Ack(ack) => self.acks.push(ack),
                    _ => {}
                }
            }
            if drained.closing.is_some() {
                return Err(Problem::later("the store refused a row of this stream", 2));
            }
            let is_whole = self.predictions.len() == self.count;
            if is_whole && self.predictions.iter().all(|one| self.is_durable(one)) {
                return Ok(std::mem::take(&mut self.predictions));
            }
            outbox.ready().await;
        }
    }

    /// An ack covers what lies below it in its epoch, and all of the epochs before.
    fn is_durable(&self, prediction: &Prediction) -> bool {
        self.acks.iter().any(|ack| {
            let in_epoch = match prediction.output {
                // One that fell into a gap lies below the mark anyway: it is named.
                Output::Skipped(_) => ack.late.contains(&prediction.seq),
                _ => prediction.seq <= ack.seq,
            };
            ack.epoch > prediction.epoch || (ack.epoch == prediction.epoch && in_epoch)
        })
    }
}

/// What to do about a reading that may be stored or not: without a seq a second one would count apart.
fn send_again(numbered: bool) -> &'static str {
    if numbered {
        "send it again with the same seq"
    } else {
        "it had no seq, so look whether it is stored before you send it again"
    }
}

fn not_taken(error: TakeError) -> Problem {
    Problem::later(error.to_string(), 2)
}

fn nacked(nack: Nack) -> Problem {
    refused(nack.code, nack.message)
}

/// A reading that will never be taken.
pub fn refused(code: NackCode, message: String) -> Problem {
    let status = match code {
        NackCode::BadReading => StatusCode::BAD_REQUEST,
        NackCode::OutOfRange => StatusCode::UNPROCESSABLE_ENTITY,
        NackCode::SeqReused | NackCode::OldEpoch | NackCode::Numbering => StatusCode::CONFLICT,
        NackCode::AlreadyTaken => StatusCode::GONE,
        NackCode::NoModel => StatusCode::SERVICE_UNAVAILABLE,
        NackCode::UnknownReading => StatusCode::NOT_FOUND,
    };
    Problem::new(status, code.as_str(), message)
}
