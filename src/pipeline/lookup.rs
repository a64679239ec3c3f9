//! Readings whose number is known, and feedback: answered from what is on its way to the store, or from the store.
//!
//! Never runs a model. The same reading gets its stored prediction again; another one under the same number is refused.

use super::commit::count_repeats;
use super::{Arrival, Arrived, Link, Origin, Pipeline, TakeError, check_hold, prediction};
use crate::experiment::outcome;
use crate::push::Outbox;
use crate::session::{Checked, Hears, Known as Pending, Session, Witness};
use crate::store::{Known, StoredSample};
use crate::stream::{Flags, Marks, RefusalRow, Row};
use crate::telemetry::metric;
use std::sync::Arc;
use tidegate_protocol::message::{Label, Nack, Prediction};
use tidegate_protocol::{NackCode, ServerMessage};

/// What a number stands for.
enum Found {
    /// It was taken.
    Taken(Taken),
    /// It was refused; at this position while that is not committed.
    Refused(NackCode, String, Option<u64>),
    /// Nothing is left of it.
    Gone,
}

/// A reading that was taken under the number.
struct Taken {
    prediction: Box<Prediction>,
    /// Whether the arrival is the same reading.
    same: bool,
    /// Whether it fell into a gap.
    late: bool,
    /// Its position while it is not committed.
    pending: Option<u64>,
}

impl Pipeline {
    /// Answers an arrival whose number is known, or which is feedback. The caller keeps the arrival until this returns.
    pub(super) async fn answer_known(
        &self,
        link: &Link,
        arrival: &Arrival,
        replies: &mut Vec<ServerMessage>,
    ) -> Result<(), TakeError> {
        let epoch = arrival.numbers.epoch.unwrap_or(link.epoch);
        let Some(seq) = arrival.numbers.seq else {
            return Ok(());
        };
        let found = self.find(link, epoch, seq, arrival).await?;
        if let Arrived::Feedback(label, _) = &arrival.what {
            let label = label.clone();
            return self
                .record_feedback(link, arrival, (epoch, seq), label, &found)
                .await;
        }
        match found {
            Found::Taken(taken) if taken.same => {
                metrics::counter!(metric::DUPLICATES).increment(1);
                self.answer_again(link, arrival, taken, replies)
            }
            Found::Taken(_) => {
                let message = format!("seq {seq} was taken with other values or another ts");
                self.refuse(link, arrival, epoch, (NackCode::SeqReused, message))
                    .await
            }
            Found::Refused(code, message, pending) => {
                let nack = ServerMessage::Nack(Nack {
                    epoch: link.outbox.epoch_tag(epoch),
                    seq: Some(seq),
                    code,
                    message,
                });
                // Through the outbox, so that it goes before the ack that covers it.
                self.hear(link, arrival, pending, |committed| {
                    link.outbox.say(nack);
                    repeat_ack(link, committed, None);
                })?;
                Ok(())
            }
            Found::Gone if epoch < link.session.lock().marks.epoch => {
                let message = "the stream has moved to a later epoch".to_owned();
                self.refuse(link, arrival, epoch, (NackCode::OldEpoch, message))
                    .await
            }
            Found::Gone => {
                let message = format!("seq {seq} was used before and its row is retired");
                self.refuse(link, arrival, epoch, (NackCode::AlreadyTaken, message))
                    .await
            }
        }
    }

    /// The same reading again: the same prediction; the ack now, or with the commit that is on its way.
    fn answer_again(
        &self,
        link: &Link,
        arrival: &Arrival,
        taken: Taken,
        replies: &mut Vec<ServerMessage>,
    ) -> Result<(), TakeError> {
        let (epoch, seq) = (
            arrival.numbers.epoch.unwrap_or(link.epoch),
            taken.prediction.seq,
        );
        let is_pending = self.hear(link, arrival, taken.pending, |committed| {
            let late = taken.late && epoch == committed.epoch;
            repeat_ack(link, committed, late.then_some(seq));
        })?;
        if !is_pending || !link.outbox.push_committed {
            replies.push(ServerMessage::Prediction(*taken.prediction));
        }
        Ok(())
    }

    /// Lets the arrival's door hear of a row: now by `say`, under the session's lock, so that no newer ack overtakes it; or with
    /// the commit that is on its way, and then it returns true. The publish it came in is acknowledged once all that was taken of
    /// the stream so far is durable: readings before this one may have come in the same publish.
    fn hear(
        &self,
        link: &Link,
        arrival: &Arrival,
        pending: Option<u64>,
        say: impl FnOnce(Marks),
    ) -> Result<bool, TakeError> {
        let mut session = link.session.lock();
        check_hold(&session, link)?;
        let pending = pending.filter(|pos| *pos > session.committed.pos);
        let receipt = number(arrival);
        let waits = receipt.filter(|_| session.pending() > 0);
        let row = pending.map(|pos| (pos, Hears::Row));
        let publish = waits.map(|receipt| (session.marks.pos, Hears::Publish(receipt)));
        watch(&mut session, link, row.into_iter().chain(publish))?;
        if pending.is_none() {
            say(session.committed);
        }
        if waits.is_none() {
            receipt
                .iter()
                .for_each(|receipt| link.outbox.receipt(*receipt));
        }
        Ok(pending.is_some())
    }

    async fn find(
        &self,
        link: &Link,
        epoch: u64,
        seq: u64,
        arrival: &Arrival,
    ) -> Result<Found, TakeError> {
        let (stream, pending) = {
            let session = link.session.lock();
            check_hold(&session, link)?;
            (session.stream.id, session.find(epoch, seq))
        };
        if let Some((pos, pending)) = pending {
            return Ok(found_pending(pos, &pending, arrival, &link.outbox));
        }
        Ok(match self.store.find(stream, epoch, seq).await? {
            Some(Known::Sample(sample)) => found_stored(*sample, arrival, &link.outbox),
            Some(Known::Refusal(refusal)) => found_refusal(&refusal, None),
            None => Found::Gone,
        })
    }

    async fn refuse(
        &self,
        link: &Link,
        arrival: &Arrival,
        epoch: u64,
        refusal: (NackCode, String),
    ) -> Result<(), TakeError> {
        if refusal.0 == NackCode::SeqReused {
            let key = link.session.lock().stream.key.clone();
            self.hub
                .alert(&key, "seq_reused", &refusal.1, arrival.received_at);
        }
        let origin = Origin::of(link, arrival);
        let (seq, at) = (arrival.numbers.seq, arrival.received_at);
        self.record_one(link, origin, |session| {
            session.refuse_apart(epoch, seq, refusal, at)
        })
        .await
    }

    async fn record_feedback(
        &self,
        link: &Link,
        arrival: &Arrival,
        (epoch, seq): (u64, u64),
        label: Label,
        found: &Found,
    ) -> Result<(), TakeError> {
        let origin = Origin::of(link, arrival);
        if matches!(found, Found::Taken(_)) {
            if let Some(message) = self.unfit(link, &label) {
                let (refusal, at) = ((NackCode::BadReading, message), arrival.received_at);
                return self
                    .record_one(link, origin, |session| {
                        session.refuse_apart(epoch, Some(seq), refusal, at)
                    })
                    .await;
            }
            return self
                .record_one(link, origin, |session| session.feedback(epoch, seq, label))
                .await;
        }
        let message = format!("feedback for seq {seq}: no such reading");
        let refusal = (NackCode::UnknownReading, message);
        let at = arrival.received_at;
        self.record_one(link, origin, |session| {
            session.refuse_apart(epoch, Some(seq), refusal, at)
        })
        .await
    }

    /// What is wrong with a label for a reading of this stream.
    fn unfit(&self, link: &Link, label: &Label) -> Option<String> {
        let engine = self.engines.load();
        let session = link.session.lock();
        let endpoint = engine.endpoint(session.stream.key.endpoint.as_str())?;
        let task = endpoint.manifest.task.as_str();
        let expected = outcome::check(task, label).err()?;
        Some(format!("label: expected {expected}, the task is {task}"))
    }

    /// Says `receipt` once all that was taken of the stream so far is durable: the publish came again.
    ///
    /// # Errors
    /// A stream that was stopped, or for which too many publishes wait already.
    pub fn confirm(&self, link: &Link, receipt: u64) -> Result<(), TakeError> {
        let mut session = link.session.lock();
        check_hold(&session, link)?;
        if session.pending() > 0 {
            let all = (session.marks.pos, Hears::Publish(receipt));
            return watch(&mut session, link, [all]);
        }
        repeat_ack(link, session.committed, None);
        link.outbox.receipt(receipt);
        Ok(())
    }

    /// Records one row made under the session's lock.
    pub(super) async fn record_one(
        &self,
        link: &Link,
        origin: Origin,
        make: impl FnOnce(&mut Session) -> Row,
    ) -> Result<(), TakeError> {
        let mut permits = self.room(2).await?;
        let mut session = link.session.lock();
        check_hold(&session, link)?;
        if let Some(row) = session.open()
            && let Some(permit) = permits.next()
        {
            permit.send(Origin::silent(link).entry(row));
        }
        if let Some(permit) = permits.next() {
            let row = make(&mut session);
            permit.send(origin.entry(row));
        }
        Ok(())
    }
}

/// Says again what is committed, so that a device which waits for it is never stuck.
fn repeat_ack(link: &Link, committed: Marks, late: Option<u64>) {
    if let Some(high) = committed.high_water {
        link.outbox.ack(committed.epoch, high, late);
    }
}

/// Lets the link's door wait for commits.
fn watch(
    session: &mut Session,
    link: &Link,
    commits: impl IntoIterator<Item = (u64, Hears)>,
) -> Result<(), TakeError> {
    let mut count = 0;
    let witnesses = commits.into_iter().map(|(pos, hears)| {
        count += 1;
        let outbox = Arc::clone(&link.outbox);
        Witness { pos, outbox, hears }
    });
    if !session.watch(witnesses) {
        return Err(TakeError::Overloaded);
    }
    count_repeats(f64::from(count));
    Ok(())
}

/// The publish that hears of this arrival.
fn number(arrival: &Arrival) -> Option<u64> {
    arrival.receipt.as_ref()?.number
}

fn found_pending(pos: u64, pending: &Pending, arrival: &Arrival, outbox: &Outbox) -> Found {
    match pending {
        Pending::Sample(sample) => Found::Taken(Taken {
            same: is_same(arrival, &sample.values, sample.ts),
            prediction: Box::new(prediction(sample, outbox)),
            late: sample.flags.has(Flags::LATE),
            pending: Some(pos),
        }),
        Pending::Refusal(refusal) => found_refusal(refusal, Some(pos)),
    }
}

fn found_stored(sample: StoredSample, arrival: &Arrival, outbox: &Outbox) -> Found {
    Found::Taken(Taken {
        same: is_same(arrival, &sample.values, sample.ts),
        late: sample.flags.has(Flags::LATE),
        pending: None,
        prediction: Box::new(Prediction {
            epoch: outbox.epoch_tag(sample.epoch),
            seq: sample.seq,
            ts: sample.ts,
            model: sample.model,
            version: sample.version,
            output: sample.output,
            latency_us: sample.latency_us,
        }),
    })
}

fn found_refusal(refusal: &RefusalRow, pending: Option<u64>) -> Found {
    Found::Refused(refusal.code, refusal.message.clone(), pending)
}

/// The same f32 bits, and the same ts where one was sent.
fn is_same(arrival: &Arrival, values: &[f32], ts: i64) -> bool {
    match &arrival.what {
        Arrived::Reading(Checked {
            values: sent,
            ts: sent_ts,
            flags,
            ..
        }) => {
            let same_bits = sent
                .iter()
                .map(|v| v.to_bits())
                .eq(values.iter().map(|v| v.to_bits()));
            same_bits && (!flags.has(Flags::TS_SENT) || *sent_ts == ts)
        }
        _ => false,
    }
}
