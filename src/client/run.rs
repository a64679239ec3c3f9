//! The loop that joins a source, a window and a connection until everything is settled.
//!
//! One task drives one stream. Arms of its `select!`: messages from the server, the next reading falls due, the answer
//! timeout, told to stop. Comes back after a cut with back-off; gives up only when nothing is settled for `give_up_after`.

use super::backoff::{Backoff, dice};
use super::link::{Link, LinkEnd};
use super::target::Target;
use super::window::Window;
use super::{ClientError, Outcome, Tally};
use std::time::Instant;
use tidegate_protocol::message::{Nack, Prediction};
use tidegate_protocol::{Reading, ServerMessage};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

/// Where readings come from. They carry rising `seq`s and no epoch.
pub trait Source: Send {
    /// When the next reading is due; `None` when there are no more.
    fn due(&self) -> Option<Instant>;

    /// The next reading; called only when it is due.
    fn take(&mut self, now: Instant) -> Option<Reading>;

    /// The server holds everything below `seq`: go on from there. Returns how many readings are left out.
    fn skip_below(&mut self, seq: u64) -> u64;

    /// One or two of the readings below `seq`, with which the server's memory is compared before anything new is sent.
    fn probes(&self, _below: u64) -> Vec<Reading> {
        Vec::new()
    }
}

/// Who watches a stream.
pub trait Observer: Send {
    /// The first prediction of a reading in this run.
    fn prediction(&mut self, _prediction: &Prediction) {}

    /// A reading will never be taken.
    fn refused(&mut self, _nack: &Nack) {}

    /// The counts have changed.
    fn progress(&mut self, _tally: &Tally) {}

    /// Something that a person may want to know: a cut, a return.
    fn note(&mut self, _text: &str) {}
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Observer for Quiet {}

/// Streams everything that `source` gives and returns when all is settled, when `stop` is cancelled (after
/// [`super::Options::drain`]), or when it cannot go on.
///
/// Memory: at most `limits.unsettled` readings.
pub async fn stream<S: Source, O: Observer>(
    mut target: Target,
    source: &mut S,
    observer: &mut O,
    stop: &CancellationToken,
) -> Outcome {
    let mut run = Run {
        window: Window::new(target.options.limits).resending(target.options.resend),
        backoff: Backoff::new(target.options.give_up_after),
        epoch: target.epoch,
        settled: 0,
        source,
        observer,
        stop,
    };
    let error = run.until_settled(&mut target).await.err();
    Outcome {
        tally: run.window.tally().clone(),
        error,
    }
}

struct Run<'a, S, O> {
    window: Window,
    backoff: Backoff,
    /// Known after the first welcome.
    epoch: Option<u64>,
    /// Readings settled or predicted when progress was last seen.
    settled: u64,
    source: &'a mut S,
    observer: &'a mut O,
    stop: &'a CancellationToken,
}

/// Why one connection was left.
enum Left {
    /// Nothing more to do.
    Done,
    /// Ended from outside.
    Ended(LinkEnd),
    /// The server holds other readings.
    Conflict(u64),
}

impl<S: Source, O: Observer> Run<'_, S, O> {
    async fn until_settled(&mut self, target: &mut Target) -> Result<(), ClientError> {
        loop {
            let end = match self.connect(target).await {
                Ok(link) => match self.drive(link, target).await {
                    Left::Done => return Ok(()),
                    Left::Conflict(seq) => return Err(self.other_readings(target, seq)),
                    Left::Ended(end) => end,
                },
                Err(end) => end,
            };
            if self.stop.is_cancelled() {
                return Ok(());
            }
            self.wait_out(&end, target).await?;
        }
    }

    async fn connect(&mut self, target: &mut Target) -> Result<Link, LinkEnd> {
        let (link, welcome) = tokio::select! {
            connected = Link::connect(target) => connected?,
            () = self.stop.cancelled() => return Err(LinkEnd::cut("stopped")),
        };
        if let Some(welcome) = &welcome {
            self.epoch = Some(welcome.epoch);
            target.epoch = self.epoch;
        }
        let resume_from = welcome.map(|welcome| welcome.resume_from);
        if self.window.is_empty() {
            self.backoff.heard();
        }
        let first = self.window.tally().settled() == 0 && self.window.is_empty();
        self.window.connected(resume_from);
        if let (true, Some(resume_from)) = (first, resume_from) {
            let skipped = self.source.skip_below(resume_from);
            self.window
                .stored_before(skipped, self.source.probes(resume_from));
        }
        Ok(link)
    }

    /// Moves messages over one connection until it ends or everything is settled.
    async fn drive(&mut self, mut link: Link, target: &Target) -> Left {
        let mut messages = Vec::new();
        let mut heard_at = Instant::now();
        let mut stopped_at = None;
        loop {
            if !self.window.is_owed() {
                heard_at = Instant::now();
            }
            if let Err(end) = self.fill(&mut link, target, stopped_at.is_some()) {
                return Left::Ended(end);
            }
            if self.is_done(stopped_at.map(|at: Instant| at + target.options.drain)) {
                link.close().await;
                return Left::Done;
            }
            let due = self.next_due(stopped_at.is_some());
            let deadline = self.deadline(heard_at, stopped_at, target);
            tokio::select! {
                received = link.receive(&mut messages) => {
                    if let Err(end) = received {
                        return Left::Ended(end);
                    }
                    heard_at = Instant::now();
                }
                () = at(due) => {}
                () = at(deadline) => {
                    if stopped_at.is_none() {
                        let waited = target.options.answer_timeout.as_secs();
                        return Left::Ended(LinkEnd::cut(format_args!("no answer within {waited} s")));
                    }
                }
                () = self.stop.cancelled(), if stopped_at.is_none() => stopped_at = Some(Instant::now()),
            }
            self.hear(&mut messages);
            if let Some(seq) = self.window.conflict() {
                link.close().await;
                return Left::Conflict(seq);
            }
        }
    }

    /// Takes what is due from the source and puts what may be sent on the wire.
    fn fill(&mut self, link: &mut Link, target: &Target, stopped: bool) -> Result<(), LinkEnd> {
        let now = Instant::now();
        let skipped = self.source.skip_below(self.window.floor());
        self.window.stored_before(skipped, Vec::new());
        while !stopped && self.window.has_room() && self.source.due().is_some_and(|due| due <= now)
        {
            let Some(mut reading) = self.source.take(now) else {
                break;
            };
            // Over MQTT there is no connection to name the epoch.
            reading.epoch = matches!(link, Link::Mqtt(_)).then(|| target.epoch.unwrap_or(0));
            self.window.offer(reading);
        }
        while let Some(reading) = self.window.next_to_send(now) {
            link.queue(reading)?;
        }
        Ok(())
    }

    fn is_done(&self, drained_at: Option<Instant>) -> bool {
        let nothing_comes = self.source.due().is_none() || drained_at.is_some();
        (nothing_comes && self.window.is_settled())
            || drained_at.is_some_and(|at| Instant::now() >= at)
    }

    /// When the source is worth looking at; never while the window is full, else the loop would spin.
    fn next_due(&self, stopped: bool) -> Option<Instant> {
        self.source
            .due()
            .filter(|_| !stopped && self.window.has_room())
    }

    fn deadline(
        &self,
        heard_at: Instant,
        stopped_at: Option<Instant>,
        target: &Target,
    ) -> Option<Instant> {
        let drained = stopped_at.map(|at| at + target.options.drain);
        let silent = self
            .window
            .is_owed()
            .then(|| heard_at + target.options.answer_timeout);
        drained.or(silent)
    }

    fn hear(&mut self, messages: &mut Vec<ServerMessage>) {
        let now = Instant::now();
        for message in messages.drain(..) {
            let epoch = epoch_of(&message);
            if epoch.is_none() || epoch == Some(self.epoch.unwrap_or(0)) {
                self.hear_one(&message, now);
            }
        }
        let tally = self.window.tally();
        let settled = tally.settled() + tally.predicted;
        if settled != self.settled {
            self.settled = settled;
            self.backoff.heard();
            self.observer.progress(tally);
        }
    }

    fn hear_one(&mut self, message: &ServerMessage, now: Instant) {
        match message {
            ServerMessage::Prediction(prediction) if self.window.on_prediction(prediction, now) => {
                self.observer.prediction(prediction);
            }
            ServerMessage::Ack(ack) => self.window.on_ack(ack),
            ServerMessage::Nack(nack) if self.window.on_nack(nack) => self.observer.refused(nack),
            ServerMessage::Gap(gap) => self.window.on_gap(gap),
            _ => {}
        }
    }

    async fn wait_out(&mut self, end: &LinkEnd, target: &Target) -> Result<(), ClientError> {
        if !end.retry {
            return Err(ClientError::Refused {
                place: target.address.to_string(),
                code: end.code,
                message: end.why.clone(),
            });
        }
        let now = Instant::now();
        let Some(wait) = self.backoff.next(now, dice(), end.after) else {
            return Err(ClientError::GaveUp {
                place: target.address.to_string(),
                message: end.why.clone(),
                waited_s: self.backoff.failing(now).as_secs(),
            });
        };
        self.window.tally_mut().reconnects += 1;
        let text = format!(
            "{}: {}; again in {} ms",
            target.address,
            end.why,
            wait.as_millis()
        );
        self.observer.note(&text);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.stop.cancelled() => {}
        }
        Ok(())
    }

    fn other_readings(&self, target: &Target, seq: u64) -> ClientError {
        ClientError::OtherReadings {
            device: target.device.to_string(),
            epoch: self.epoch.unwrap_or(0),
            seq,
        }
    }
}

/// Sleeps until `instant`; for ever without one.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

fn epoch_of(message: &ServerMessage) -> Option<u64> {
    match message {
        ServerMessage::Prediction(prediction) => prediction.epoch,
        ServerMessage::Ack(ack) => ack.epoch,
        ServerMessage::Nack(nack) => nack.epoch,
        ServerMessage::Gap(gap) => gap.epoch,
        _ => None,
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
