//! How a subscription gets into the live flow: at once, or by way of everything it missed.
//!
//! What it gets is decided before its first event: all that was committed since its position, or the latest of each topic. Then it is read in
//! portions, from memory where that reaches, else from the store, and the next portion is read only once the last one is written to
//! the socket: a recovering subscription costs one portion of memory, one short read at a time, and is offered no live
//! events until it stands where the flow does. Policies and `max_hz` speak of live events; what is recovered comes whole.
//!
//! Bounded by `live.max_recover` events and by `live.recover_s`; a store that cannot be read and samples that retention
//! takes meanwhile end the connection, never the promise.

use super::flow::{Batch, Listener, Next, Portion};
use super::snapshot::Streams;
use super::{Event, Hub};
use crate::store::StoreError;
use crate::stream::StreamKey;
use crate::telemetry::metric;
use std::sync::Arc;
use std::time::Duration;
use tidegate_protocol::Position;
use tokio::time::Instant;

/// Most rows of a portion.
const PORTION_ROWS: usize = 500;
/// Most bytes of a portion, unless half of `live.outbox_bytes` is less.
const PORTION_BYTES: usize = 256 * 1024;
/// What an event is taken to weigh before one was seen.
const FIRST_WEIGHT: usize = 16 * 1024;

/// Why a recovery ends early; the connection ends with it.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The store cannot be read; come back.
    #[error("the store cannot be read now: come back")]
    Store(#[from] StoreError),
    /// Retention took samples that were still to come; come back, to be told that they are gone.
    #[error("samples that were still to be recovered are retired")]
    Retired,
    /// It reads more slowly than the log grows.
    #[error("not caught up with the log within {0} s")]
    Late(u32),
}

/// A new subscription: where it begins, and what comes before its first live event.
#[derive(Debug)]
pub struct Subscribed {
    /// Events after this offset follow.
    pub offset: u64,
    /// Whether everything since the wished position follows.
    pub recovered: bool,
    /// What is still to be read before it hears the live flow.
    pub recovery: Option<Recovery>,
}

/// One subscription on its way into the live flow.
#[derive(Debug)]
pub struct Recovery {
    listener: Listener,
    stage: Stage,
    /// The heaviest event so far.
    heaviest: Option<usize>,
    _counted: Counted,
}

#[derive(Debug)]
enum Stage {
    /// The newest sample of each stream, up to the place where its log begins.
    Latest(u64, Streams),
    /// Everything after `at`.
    Log { at: u64, deadline: Instant },
    /// Who is online, after this stream; the flow is joined already.
    Presence(Option<StreamKey>),
    /// Nothing: it hears the live flow.
    Done,
}

/// In the gauge while it lives.
#[derive(Debug)]
struct Counted;

impl Counted {
    fn new() -> Self {
        metrics::gauge!(metric::RECOVERING).increment(1.0);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!(metric::RECOVERING).decrement(1.0);
    }
}

impl Recovery {
    fn new(listener: Listener, stage: Stage) -> Self {
        Self {
            listener,
            stage,
            heaviest: None,
            _counted: Counted::new(),
        }
    }

    /// The subscription's number.
    pub fn id(&self) -> u64 {
        self.listener.id
    }

    /// Whether nothing is left: the subscription hears the live flow.
    pub fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    fn move_to(&mut self, reached: u64) {
        if let Stage::Log { at, .. } = &mut self.stage {
            *at = reached;
        }
    }
}

impl Hub {
    /// Opens a subscription, whose queue is open already.
    ///
    /// # Errors
    /// A store that cannot be read; the subscription does not stand then.
    pub async fn subscribe(
        &self,
        listener: Listener,
        from: Option<&Position>,
    ) -> Result<Subscribed, StoreError> {
        let Some(from) = from else {
            return Ok(Subscribed {
                offset: self.flow.lock().join(&listener),
                recovered: true,
                recovery: None,
            });
        };
        if !listener.pattern.is_predictions() {
            return Ok(Subscribed {
                offset: self.flow.lock().join(&listener),
                recovered: false,
                recovery: Some(Recovery::new(listener, Stage::Presence(None))),
            });
        }
        let recovered = self.is_within_reach(&listener.pattern, from).await?;
        let outcome = if recovered { "whole" } else { "anew" };
        metrics::counter!(metric::RECOVERIES, "outcome" => outcome).increment(1);
        let (offset, stage) = if recovered {
            (from.offset, self.log_after(from.offset))
        } else {
            let offset = self.flow.lock().offset();
            let streams = self.streams(&listener.pattern);
            (offset, Stage::Latest(offset, streams))
        };
        Ok(Subscribed {
            offset,
            recovered,
            recovery: Some(Recovery::new(listener, stage)),
        })
    }

    fn log_after(&self, at: u64) -> Stage {
        let deadline = Instant::now() + Duration::from_secs(self.config.recover_s.into());
        Stage::Log { at, deadline }
    }

    /// The next portion; it is to be written to the socket before another is asked for.
    ///
    /// # Errors
    /// See [`RecoverError`].
    pub async fn recover(&self, recovery: &mut Recovery) -> Result<Vec<Arc<Event>>, RecoverError> {
        let rows = rows_of(self.portion(), recovery.heaviest);
        let pattern = &recovery.listener.pattern;
        let events = match &mut recovery.stage {
            Stage::Latest(until, streams) => {
                let until = *until;
                let events = self.latest(pattern, streams, until, rows).await?;
                if streams.are_done() {
                    recovery.stage = self.log_after(until);
                }
                events
            }
            Stage::Log { deadline, .. } if *deadline < Instant::now() => {
                return Err(RecoverError::Late(self.config.recover_s));
            }
            Stage::Log { at, .. } => {
                let at = *at;
                self.missed(recovery, at).await?
            }
            Stage::Presence(after) => {
                let events = self.presence(pattern, after, rows as usize);
                if after.is_none() {
                    recovery.stage = Stage::Done;
                }
                events
            }
            Stage::Done => Vec::new(),
        };
        let heaviest = events.iter().map(|event| event.weight()).max();
        recovery.heaviest = recovery.heaviest.max(heaviest);
        Ok(events)
    }

    /// The next portion of the log after `at`; the last one stands where the flow does.
    async fn missed(
        &self,
        recovery: &mut Recovery,
        at: u64,
    ) -> Result<Vec<Arc<Event>>, RecoverError> {
        let portion = self.portion();
        // By itself: no guard lives into the arms.
        let next = self.flow.lock().next(&recovery.listener, at, portion);
        match next {
            Next::Live(rows) => {
                recovery.stage = Stage::Done;
                Ok(from_memory(rows))
            }
            Next::Part { rows, at } => {
                recovery.move_to(at);
                Ok(from_memory(rows))
            }
            Next::Read(until) => self.read(recovery, at, until, portion).await,
        }
    }

    fn portion(&self) -> Portion {
        Portion {
            rows: PORTION_ROWS,
            bytes: PORTION_BYTES.min(self.config.outbox_bytes / 2),
        }
    }

    /// The next portion from the store, `until` at most.
    async fn read(
        &self,
        recovery: &mut Recovery,
        at: u64,
        until: u64,
        portion: Portion,
    ) -> Result<Vec<Arc<Event>>, RecoverError> {
        let mut query = super::reach::query(&recovery.listener.pattern, at, until);
        query.limit = rows_of(portion, recovery.heaviest);
        let turn = self.reads.acquire().await;
        let samples = self.store.samples(&query).await?;
        // After the read: what retention took before it is known by now.
        if self.store.first_kept().await? > at + 1 {
            return Err(RecoverError::Retired);
        }
        drop(turn);
        let whole = samples.len() < query.limit as usize;
        let reached = samples.last().filter(|_| !whole).map(|last| last.id);
        recovery.move_to(reached.or(query.until).unwrap_or(until));
        metrics::counter!(metric::RECOVERED_EVENTS, "from" => "store")
            .increment(samples.len() as u64);
        Ok(samples
            .into_iter()
            .map(Event::stored)
            .map(Arc::new)
            .collect())
    }
}

/// Rows to read where the heaviest so far weighed so much.
fn rows_of(portion: Portion, heaviest: Option<usize>) -> u32 {
    let rows = portion.bytes / heaviest.unwrap_or(FIRST_WEIGHT);
    rows.clamp(1, portion.rows) as u32
}

fn from_memory(rows: Batch) -> Vec<Arc<Event>> {
    metrics::counter!(metric::RECOVERED_EVENTS, "from" => "memory").increment(rows.len() as u64);
    let events = rows.iter().map(|(id, row)| Event::committed(*id, row));
    events.map(Arc::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portion_has_as_many_rows_as_fit_its_bytes() {
        let portion = Portion {
            rows: 500,
            bytes: 64 * 1024,
        };
        assert_eq!(rows_of(portion, None), 4);
        assert_eq!(rows_of(portion, Some(1024)), 64);
        assert_eq!(rows_of(portion, Some(100)), 500);
        assert_eq!(rows_of(portion, Some(1 << 20)), 1);
    }
}
