//! The hot path on one screen: admit -> step -> push -> record.
//!
//! Every door (WebSocket, MQTT, HTTP) hands its readings to [`Pipeline::take`]; predictions come back at once, everything that waits
//! for the commit comes through the door's outbox. Promises that room in the store's queue is held before a step runs,
//! so that a step and its recording happen together or not at all.

mod commit;
mod feedback;
mod load;
mod lookup;
mod moving;
mod rescue;
mod reset;
mod switch;
mod warming;

pub use commit::{Origin, Recorder};
pub use feedback::{FeedbackError, Given, Truth, await_readings};
pub use load::LoadSessionError;
pub use moving::follow;
pub use rescue::{FailingStreams, rescue};
pub use reset::ResetError;
pub use switch::SwitchError;

use moving::Moves;
use rescue::Failing;
use warming::Warming;

use crate::config::{Config, RawInference};
use crate::experiment::Board;
use crate::inference::{Engines, Served, Turns};
use crate::push::{Hub, Linger, Outbox};
use crate::session::{Admission, Checked, Numbers, Session, SessionCell, Sessions};
use crate::store::writer::{Entry, Full, WriterHandle};
use crate::store::{Store, StoreError};
use crate::stream::{PublishMark, Row, SampleRow, What};
use crate::telemetry::{Rates, Stage};
use std::collections::VecDeque;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidegate_protocol::message::{Label, Prediction};
use tidegate_protocol::{NackCode, ServerMessage};
use tokio::sync::mpsc;

/// Most readings under one lock.
const STEPS_A_LOCK: usize = 32;
/// Longest time under one lock.
const TIME_A_LOCK: Duration = Duration::from_micros(200);

/// What a door received, decoded and checked against the endpoint's schema.
#[derive(Debug)]
pub struct Arrival {
    /// Epoch and number as sent.
    pub numbers: Numbers,
    /// What it says.
    pub what: Arrived,
    /// Unix ms.
    pub received_at: i64,
    /// For the latency.
    pub since: Instant,
    /// What it owes the publish it came in (MQTT).
    pub receipt: Option<Receipt>,
}

/// What an arrival owes the publish that it came in.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// The publish's number, on its last arrival: told once that is durable.
    pub number: Option<u64>,
    /// Stored with the arrival's row, where nothing else tells a redelivery.
    pub mark: Option<PublishMark>,
}

/// What an arrival says.
#[derive(Debug)]
pub enum Arrived {
    /// A reading that fits the schema.
    Reading(Checked),
    /// A reading that does not.
    Refused(NackCode, String),
    /// Ground truth, and the sender's mark.
    Feedback(Label, Option<u64>),
    /// Forget what was learned.
    Reset,
}

/// A door's hold on a stream.
#[derive(Debug)]
pub struct Link {
    /// The stream's session.
    pub session: Arc<SessionCell>,
    /// Where answers that wait for the commit go.
    pub outbox: Arc<Outbox>,
    /// The holder's number; `None` for doors that share the stream (MQTT, HTTP).
    pub generation: Option<u64>,
    /// The epoch of readings that name none.
    pub epoch: u64,
}

/// Why readings were not taken; those already taken stay taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The store's queue had no room for `overload_close_s`.
    #[error("the store cannot keep up")]
    Overloaded,
    /// New readings stay out: no room on the disk.
    #[error("{0}")]
    Full(Full),
    /// A newer connection holds the stream.
    #[error("a newer connection of this stream took over")]
    TakenOver,
    /// The session left memory: open the stream again.
    #[error("the stream has to be opened again")]
    Retired,
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// A number could not be looked up.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// See the module.
pub struct Pipeline {
    /// Versions that can run.
    pub engines: Arc<Engines>,
    /// The durable record.
    pub store: Arc<dyn Store>,
    /// Live subscribers.
    pub hub: Arc<Hub>,
    /// Sessions in memory.
    pub sessions: Sessions,
    /// What passes.
    pub rates: Arc<Rates>,
    /// Where acks of WebSockets wait for a prediction to leave with; `None` says each at once.
    pub linger: Option<Linger>,
    /// Which experiment a device takes part in.
    pub board: Arc<Board>,
    writer: WriterHandle<Origin>,
    /// Streams that need another version.
    failing: mpsc::Sender<Failing>,
    moves: Moves,
    early: feedback::Waiting,
    warming: Warming,
    turns: Turns,
    config: Config,
    next_stream: AtomicI64,
    requests: AtomicU64,
}

/// What stopped a run of readings under the lock.
enum Pause {
    /// All are taken, or the lock was held long enough.
    Done,
    /// The first arrival's number is known: look it up.
    Lookup,
}

impl Pipeline {
    /// Joins the parts; gives the queue of [`rescue()`] too. `high_stream` is the highest stream id given so far.
    pub fn new(
        engines: Arc<Engines>,
        store: Arc<dyn Store>,
        hub: Arc<Hub>,
        writer: WriterHandle<Origin>,
        rates: Arc<Rates>,
        config: Config,
        high_stream: i64,
    ) -> (Self, FailingStreams) {
        let next_stream = AtomicI64::new(high_stream + 1);
        let (failing, streams) = rescue::queue();
        let pipeline = Self {
            engines,
            store,
            hub,
            sessions: Sessions::default(),
            rates,
            linger: None,
            board: Arc::default(),
            writer,
            failing,
            moves: Moves::default(),
            early: feedback::Waiting::default(),
            warming: Warming::new(config.inference.warm_percent),
            turns: turns(&config.inference),
            config,
            next_stream,
            requests: AtomicU64::new(0),
        };
        (pipeline, streams)
    }

    /// The way to the store.
    pub fn writer(&self) -> &WriterHandle<Origin> {
        &self.writer
    }

    /// The place of a request for a stream among all of them.
    pub fn number_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Takes all arrivals in order; `replies` gets the predictions and answers that wait for no commit.
    ///
    /// # Errors
    /// See [`TakeError`]; arrivals that were not taken are still in the queue.
    pub async fn take(
        &self,
        link: &mut Link,
        arrivals: &mut VecDeque<Arrival>,
        replies: &mut Vec<ServerMessage>,
    ) -> Result<(), TakeError> {
        while !arrivals.is_empty() {
            match self.take_some(link, arrivals, replies).await? {
                Pause::Done => {}
                Pause::Lookup => {
                    // Given up only once it is answered: an error leaves it to be taken again.
                    let Some(arrival) = arrivals.front() else {
                        break;
                    };
                    // Boxed: it is seldom needed, and its size would weigh on every connection.
                    Box::pin(self.answer_known(link, arrival, replies)).await?;
                    arrivals.pop_front();
                }
            }
        }
        Ok(())
    }

    async fn take_some(
        &self,
        link: &mut Link,
        arrivals: &mut VecDeque<Arrival>,
        replies: &mut Vec<ServerMessage>,
    ) -> Result<Pause, TakeError> {
        let ready = Instant::now();
        // Before the room in the store, which others need while this one waits.
        let dear = self.dear(&link.session);
        let turn = match &dear {
            None => None,
            Some(served) => {
                let patience = self.config.connections.overload_close;
                let turn = Box::pin(self.turns.wait(&served.line, patience)).await;
                Some(turn.ok_or(TakeError::Overloaded)?)
            }
        };
        // A reading brings at most an epoch row and its own; a new stream one more.
        let rows = 2 * arrivals.len().min(STEPS_A_LOCK) + 1;
        let permits = self.room(rows).await?;
        let steps = || self.step_some(link, arrivals, replies, permits, ready);
        match turn {
            None => steps(),
            Some(turn) => turn.run(steps),
        }
    }

    /// The version that serves, if its steps are dear.
    fn dear(&self, session: &SessionCell) -> Option<Arc<Served>> {
        let session = session.lock();
        let served = session.served();
        (!self.turns.is_inline(served)).then(|| Arc::clone(served))
    }

    /// Steps through what waits, under the session's lock.
    fn step_some(
        &self,
        link: &mut Link,
        arrivals: &mut VecDeque<Arrival>,
        replies: &mut Vec<ServerMessage>,
        mut permits: mpsc::PermitIterator<'_, Entry<Origin>>,
        ready: Instant,
    ) -> Result<Pause, TakeError> {
        let cell = Arc::clone(&link.session);
        let mut session = cell.lock();
        check_hold(&session, link)?;
        let start = Instant::now();
        self.rates.took(Stage::Wait, start - ready);
        let mut record = |row: Row, origin: Origin| {
            let permit = permits.next().expect("room for every row was reserved");
            permit.send(origin.entry(row));
        };
        for _ in 0..STEPS_A_LOCK {
            let Some(arrival) = arrivals.pop_front() else {
                break;
            };
            if let Err(arrival) = take_one(&mut session, link, arrival, replies, &mut record) {
                arrivals.push_front(*arrival);
                return Ok(Pause::Lookup);
            }
            self.ask_for_help(&cell, &mut session);
            if start.elapsed() > TIME_A_LOCK {
                break;
            }
        }
        drop(session);
        self.rates.took(Stage::Compute, start.elapsed());
        Ok(Pause::Done)
    }

    /// Room for `rows` rows in the store's queue, held before any step runs.
    async fn room(
        &self,
        rows: usize,
    ) -> Result<mpsc::PermitIterator<'_, Entry<Origin>>, TakeError> {
        let health = self.writer.health();
        if health.full().is_none()
            && let Some(permits) = self.writer.try_reserve(rows)
        {
            return Ok(permits);
        }
        let waiting = async {
            health.has_room().await;
            self.writer.reserve(rows).await
        };
        let patience = self.config.connections.overload_close;
        // Boxed, as it is seldom needed: its size would weigh on every connection.
        match Box::pin(tokio::time::timeout(patience, waiting)).await {
            Ok(permits) => permits.ok_or(TakeError::Stopping),
            Err(_) => Err(health.full().map_or(TakeError::Overloaded, TakeError::Full)),
        }
    }
}

/// Turns as configured.
fn turns(raw: &RawInference) -> Turns {
    let all = std::thread::available_parallelism().map_or(1, NonZero::get);
    let cores = if raw.cores == 0 { all } else { raw.cores };
    let inline_below = Duration::from_micros(raw.inline_below_us.into());
    Turns::new(inline_below, raw.queue, cores)
}

fn check_hold(session: &Session, link: &Link) -> Result<(), TakeError> {
    if session.retired {
        return Err(TakeError::Retired);
    }
    match link.generation {
        Some(generation) if generation != session.generation => Err(TakeError::TakenOver),
        _ => Ok(()),
    }
}

/// Takes one arrival, or gives it back when its number has to be looked up first.
fn take_one(
    session: &mut Session,
    link: &mut Link,
    arrival: Arrival,
    replies: &mut Vec<ServerMessage>,
    record: &mut impl FnMut(Row, Origin),
) -> Result<(), Box<Arrival>> {
    let numbers = arrival.numbers;
    if matches!(arrival.what, Arrived::Feedback(..)) {
        return Err(Box::new(arrival));
    }
    if let Some(row) = session.open() {
        record(row, Origin::silent(link));
    }
    session.seen = arrival.since;
    if matches!(arrival.what, Arrived::Reset) {
        record(
            session.reset("asked by the device"),
            Origin::of(link, &arrival),
        );
        return Ok(());
    }
    // A refused reading without a number (not even decodable, perhaps) uses up none.
    if let Arrived::Refused(code, message) = &arrival.what
        && numbers.seq.is_none()
    {
        let epoch = numbers.epoch.unwrap_or(link.epoch);
        let row = session.refuse_apart(epoch, None, (*code, message.clone()), arrival.received_at);
        record(row, Origin::of(link, &arrival));
        return Ok(());
    }
    let (seq, gap, late) = match session.admit(numbers, link.epoch) {
        Admission::Known { .. } => return Err(Box::new(arrival)),
        Admission::Refuse(code, message) => {
            let epoch = numbers.epoch.unwrap_or(link.epoch);
            let row = session.refuse_apart(
                epoch,
                numbers.seq,
                (code, message.into()),
                arrival.received_at,
            );
            record(row, Origin::of(link, &arrival));
            return Ok(());
        }
        Admission::OpenEpoch { epoch, seq } => {
            record(session.open_epoch(epoch), Origin::silent(link));
            (seq, None, false)
        }
        Admission::Take { seq, gap } => (seq, gap, false),
        Admission::Late { seq } => (seq, None, true),
    };
    // A welcome fixes what readings without an epoch belong to; doors without one follow the stream.
    if link.generation.is_none() {
        link.epoch = link.epoch.max(session.marks.epoch);
    }
    let origin = Origin {
        gap,
        ..Origin::of(link, &arrival)
    };
    let row = match arrival.what {
        Arrived::Refused(code, message) => {
            session.refuse(numbers, seq, gap, (code, message), arrival.received_at)
        }
        Arrived::Reading(reading) if late => session.take_late(seq, reading, arrival.since),
        Arrived::Reading(reading) => session.take(numbers, seq, gap, reading, arrival.since),
        Arrived::Feedback(..) | Arrived::Reset => unreachable!("handled above"),
    };
    if let What::Sample(sample) = &row.what
        && !link.outbox.push_committed
    {
        replies.push(ServerMessage::Prediction(prediction(sample, &link.outbox)));
    }
    record(row, origin);
    Ok(())
}

/// A sample's prediction as its device gets it.
pub fn prediction(sample: &SampleRow, outbox: &Outbox) -> Prediction {
    Prediction {
        epoch: outbox.epoch_tag(sample.epoch),
        seq: sample.seq,
        ts: sample.ts,
        model: sample.version.model.clone(),
        version: sample.version.version.clone(),
        output: sample.output.clone(),
        latency_us: sample.latency_us,
    }
}

/// Takes sessions out of memory that rest for longer than `idle`.
pub fn sweep(pipeline: &Pipeline) {
    let idle = Duration::from_secs(pipeline.config.sessions.idle_s.into());
    pipeline.sessions.sweep(idle);
}
