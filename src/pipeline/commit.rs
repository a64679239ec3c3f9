//! After the commit: sessions settle, devices get their acks, subscribers their events.
//!
//! Runs in commit order on a task of its own, beside the writer's next commit, and never waits.

use super::{Arrival, Arrived, Link, prediction};
use crate::experiment;
use crate::push::{Hub, Outbox};
use crate::session::{Hears, SessionCell};
use crate::store::writer::{CommitSink, Entry};
use crate::stream::{Flags, PublishMark, Row, SampleRow, What};
use crate::telemetry::{Rates, metric};
use crate::upkeep::Feed;
use std::sync::Arc;
use tidegate_protocol::message::{FeedbackStored, Gap, Nack, ResetDone};
use tidegate_protocol::{CloseCode, ErrorCode, Output, ServerMessage};

/// Whose row it is and what to say once it is durable.
#[derive(Debug)]
pub struct Origin {
    /// The stream's session.
    pub session: Arc<SessionCell>,
    /// The door that the reading came through.
    pub outbox: Arc<Outbox>,
    /// Whether that door held the stream alone (WebSocket).
    pub exclusive: bool,
    /// Numbers skipped before this reading.
    pub gap: Option<(u64, u64)>,
    /// The publish it came in, on its last reading.
    pub receipt: Option<u64>,
    /// The sender's mark of a feedback.
    pub reference: Option<u64>,
    /// On its way into the row.
    pub(super) mark: Option<PublishMark>,
}

impl Origin {
    /// Of a row that its door hears nothing of.
    pub fn silent(link: &Link) -> Self {
        Self {
            session: Arc::clone(&link.session),
            outbox: Arc::clone(&link.outbox),
            exclusive: link.generation.is_some(),
            gap: None,
            receipt: None,
            reference: None,
            mark: None,
        }
    }

    /// Of an arrival's own row.
    pub fn of(link: &Link, arrival: &Arrival) -> Self {
        let reference = match &arrival.what {
            Arrived::Feedback(_, reference) => *reference,
            _ => None,
        };
        let receipt = arrival.receipt.as_ref();
        Self {
            receipt: receipt.and_then(|receipt| receipt.number),
            mark: receipt.and_then(|receipt| receipt.mark.clone()),
            reference,
            ..Self::silent(link)
        }
    }

    /// The row for the writer's queue.
    pub(super) fn entry(mut self, mut row: Row) -> Entry<Self> {
        row.mark = self.mark.take();
        Entry { row, owner: self }
    }
}

/// The pipeline's side of the writer.
pub struct Recorder {
    hub: Arc<Hub>,
    /// Who follows the committed log beside the hub.
    feeds: Vec<Feed>,
    experiments: experiment::Feed,
    shadows: experiment::Feed,
    rates: Arc<Rates>,
}

impl Recorder {
    /// A recorder that feeds the hub, these and the experiments.
    pub fn new(
        hub: Arc<Hub>,
        feeds: Vec<Feed>,
        (experiments, shadows): (experiment::Feed, experiment::Feed),
        rates: Arc<Rates>,
    ) -> Self {
        Self {
            hub,
            feeds,
            experiments,
            shadows,
            rates,
        }
    }
}

impl CommitSink<Origin> for Recorder {
    fn committed(&mut self, entries: Vec<Entry<Origin>>) {
        let mut samples: Vec<(u64, Arc<SampleRow>)> = Vec::with_capacity(entries.len());
        for Entry { row, owner } in entries {
            self.settle(&row, &owner);
            match row.what {
                What::Sample(sample) => samples.push((row.id, sample)),
                What::Reset { .. } => self.shadows.reset(row.stream.id),
                _ => {}
            }
        }
        self.rates.committed(samples.len());
        for feed in &self.feeds {
            feed.committed(&samples);
        }
        self.experiments.committed(&samples);
        self.shadows.committed_beside(&samples);
        self.hub.committed(samples);
    }

    fn stopped(&mut self, entries: Vec<Entry<Origin>>) {
        for Entry { owner, .. } in entries {
            let mut session = owner.session.lock();
            session.retired = true;
            if let Some(receipt) = owner.receipt {
                owner.outbox.abandon(receipt);
            }
            let witnesses = session.stop();
            count_repeats(-(witnesses.len() as f64));
            let stopped = |outbox: &Arc<Outbox>| {
                let reason = "the store refused a row of this stream: reconnect to load it again";
                let reason = Some((ErrorCode::StreamStopped, reason));
                outbox.close(CloseCode::Overloaded, reason);
            };
            for witness in witnesses {
                if let Hears::Publish(receipt) = witness.hears {
                    witness.outbox.abandon(receipt);
                }
                stopped(&witness.outbox);
            }
            stopped(&owner.outbox);
            session.holder.take().iter().for_each(stopped);
        }
    }
}

impl Recorder {
    fn settle(&self, row: &Row, owner: &Origin) {
        self.note(row, owner);
        // Answered under the lock: whoever finds nothing pending finds every answer in its outbox.
        let mut session = owner.session.lock();
        let witnesses = session.settle(row);
        count_repeats(-(witnesses.len() as f64));
        answer(
            row,
            &owner.outbox,
            Said {
                is_first: true,
                gap: owner.gap,
                receipt: owner.receipt,
                reference: owner.reference,
            },
        );
        for witness in witnesses {
            match witness.hears {
                Hears::Row => answer(row, &witness.outbox, Said::default()),
                Hears::Publish(receipt) => {
                    ack(row, &witness.outbox, None, false);
                    witness.outbox.receipt(receipt);
                }
            }
        }
        let Some(holder) = &session.holder else {
            return;
        };
        // A connection that took over hears how far its predecessor's readings came, and what became of them.
        if owner.exclusive && !Arc::ptr_eq(holder, &owner.outbox) {
            inherit(row, holder, owner.gap);
        }
        if session.pending() == 0 {
            holder.settled();
        }
    }

    /// Counts what happened, and tells subscribers of gaps.
    fn note(&self, row: &Row, owner: &Origin) {
        if let Some(gap) = owner.gap {
            metrics::counter!(metric::GAPS).increment(1);
            self.hub.device_gap(&row.stream.key, gap);
        }
        match &row.what {
            What::Sample(sample) if sample.flags.has(Flags::LATE) => {
                metrics::counter!(metric::LATE).increment(1);
            }
            What::Sample(sample) if matches!(sample.output, Output::Failed(_)) => {
                metrics::counter!(metric::STEPS_FAILED).increment(1);
            }
            What::Refusal(refusal) => {
                metrics::counter!(metric::NACKS, "code" => refusal.code.as_str()).increment(1);
            }
            _ => {}
        }
    }
}

/// Keeps the gauge of repeated readings that wait for a commit.
pub(super) fn count_repeats(more: f64) {
    if more != 0.0 {
        metrics::gauge!(metric::REPEATS).increment(more);
    }
}

/// What a door hears beside the row itself.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    /// The reading came through this door first; others hear of it because it came again.
    is_first: bool,
    gap: Option<(u64, u64)>,
    receipt: Option<u64>,
    reference: Option<u64>,
}

/// Tells a door that a row is durable: gap and nack before the ack that covers them.
fn answer(row: &Row, outbox: &Arc<Outbox>, said: Said) {
    if let Some((from, to)) = said.gap {
        let epoch = outbox.epoch_tag(row.after.epoch);
        outbox.say(ServerMessage::Gap(Gap { epoch, from, to }));
    }
    match &row.what {
        What::Sample(sample) => {
            if outbox.push_committed {
                outbox.say(ServerMessage::Prediction(prediction(sample, outbox)));
            }
            let late = sample.flags.has(Flags::LATE).then_some(sample.seq);
            ack(row, outbox, late, said.is_first);
        }
        What::Refusal(refusal) => {
            outbox.say(ServerMessage::Nack(Nack {
                epoch: outbox.epoch_tag(refusal.epoch),
                seq: refusal.seq,
                code: refusal.code,
                message: refusal.message.clone(),
            }));
            if refusal.consumed {
                ack(row, outbox, None, said.is_first);
            }
        }
        What::Feedback { epoch, seq, .. } => outbox.say(ServerMessage::Feedback(FeedbackStored {
            epoch: outbox.epoch_tag(*epoch),
            seq: *seq,
            reference: said.reference,
        })),
        What::Reset { .. } => outbox.say(ServerMessage::Reset(ResetDone {
            epoch: row.after.epoch,
        })),
        What::Epoch | What::Switch { .. } => {}
    }
    if let Some(receipt) = said.receipt {
        outbox.receipt(receipt);
    }
}

/// Tells the connection that took over what became of its predecessor's numbers: all but the predictions, which that one was
/// given. A refusal that took no number says nothing of one: what the predecessor sent under a taken number is not what the
/// new connection sends under it.
fn inherit(row: &Row, holder: &Arc<Outbox>, gap: Option<(u64, u64)>) {
    let said = Said {
        gap,
        ..Said::default()
    };
    match &row.what {
        What::Refusal(refusal) if refusal.consumed => answer(row, holder, said),
        What::Refusal(_) => {}
        _ => {
            if let Some((from, to)) = gap {
                let epoch = holder.epoch_tag(row.after.epoch);
                holder.say(ServerMessage::Gap(Gap { epoch, from, to }));
            }
            ack(row, holder, None, false);
        }
    }
}

fn ack(row: &Row, outbox: &Arc<Outbox>, late: Option<u64>, is_first: bool) {
    let epoch = row.after.epoch;
    match row.after.high_water {
        Some(high) if is_first => outbox.ack_reading(epoch, high, late),
        Some(high) => outbox.ack(epoch, high, late),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::Drained;
    use crate::stream::{Marks, RefusalRow, StreamKey, StreamRef};
    use tidegate_protocol::NackCode;

    /// A refusal of number 49 of a stream that has committed it.
    fn refusal(code: NackCode, consumed: bool) -> Row {
        let key = StreamKey::live("pump-health".parse().unwrap(), "rig-1".parse().unwrap());
        let refusal = RefusalRow {
            epoch: 0,
            seq: Some(49),
            code,
            message: "no".to_owned(),
            consumed,
            at: 0,
        };
        Row {
            id: 0,
            stream: Arc::new(StreamRef { id: 1, key }),
            after: Marks {
                high_water: Some(49),
                ..Marks::default()
            },
            what: What::Refusal(Arc::new(refusal)),
            gaps: None,
            snapshot: None,
            mark: None,
        }
    }

    fn heard(row: &Row) -> Drained {
        let holder = Outbox::for_task(Some(0), false);
        inherit(row, &holder, None);
        let mut drained = Drained::default();
        holder.drain(&mut drained);
        drained
    }

    #[test]
    fn a_connection_that_took_over_is_not_refused_for_what_its_predecessor_sent_under_a_taken_number()
     {
        let apart = heard(&refusal(NackCode::SeqReused, false));
        assert!(
            apart.messages.is_empty() && apart.ack.is_none(),
            "{apart:?}"
        );
        let consumed = heard(&refusal(NackCode::BadReading, true));
        assert!(
            matches!(&consumed.messages[..], [ServerMessage::Nack(nack)] if nack.seq == Some(49))
        );
        assert_eq!(consumed.ack.map(|ack| ack.seq), Some(49));
    }
}
