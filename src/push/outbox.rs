//! What waits to be said to one device besides its provisional predictions.
//!
//! Owns a bounded list and one cumulative ack. The task that settles commits puts things in after a commit and never waits; the task that owns the
//! socket (or the broker's client) takes them out. Order: what is listed goes before the ack, so a nack or gap
//! always precedes the ack that covers its number. When it is full the peer reads too slowly and is closed with 4008. An ack alone
//! may linger ([`super::linger`]) for a prediction to leave with.

use super::linger::Linger;
use crate::stream::StreamKey;
use crate::telemetry::metric;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tidegate_protocol::message::{Ack, ServerError};
use tidegate_protocol::{CloseCode, ErrorCode, ServerMessage};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};

/// Messages that may wait where nobody says otherwise.
pub const OUTBOX_MESSAGES: usize = 8_192;

/// How to wake whoever empties the outbox.
#[derive(Debug)]
pub enum Wake {
    /// One task waits for this outbox alone; acks may linger.
    Task(Notify, Option<Linger>),
    /// One task serves the outboxes of many streams. Each stands in its queue at most once, and there are no more of them than the
    /// queue has places, so it never fills.
    Shared(StreamKey, mpsc::Sender<Arc<Outbox>>),
}

/// Why a connection ends.
#[derive(Debug, Clone)]
pub struct Closing {
    /// The close code.
    pub code: CloseCode,
    /// Said before the close frame.
    pub error: Option<ServerError>,
}

/// What was taken out at once.
#[derive(Debug, Default)]
pub struct Drained {
    /// In order, before `ack`.
    pub messages: Vec<ServerMessage>,
    /// The newest ack, if there is one.
    pub ack: Option<Ack>,
    /// Publishes whose rows are all committed (MQTT).
    pub receipts: Vec<u64>,
    /// Publishes whose rows will never be committed; the broker delivers them again (MQTT).
    pub abandoned: Vec<u64>,
    /// Close after saying the rest.
    pub closing: Option<Closing>,
    /// Messages that found no room.
    pub left_out: usize,
    /// Committed readings that all of this answers.
    pub owed: u64,
}

impl Drained {
    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.receipts.clear();
        self.abandoned.clear();
        self.ack = None;
        self.closing = None;
        self.left_out = 0;
        self.owed = 0;
    }
}

#[derive(Debug, Default)]
struct Waiting {
    drained: Drained,
    /// Whoever empties it was woken.
    listed: bool,
    /// The next tick looks at it.
    lingers: bool,
}

/// How soon something must leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Haste {
    Now,
    /// With the next prediction, or soon.
    Soon,
}

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    waiting: Mutex<Waiting>,
    /// Messages that may wait.
    most: usize,
    wake: Wake,
    /// Committed readings whose answer has not left.
    owed: AtomicU64,
    /// The epoch that messages leave out; `None` names every epoch (MQTT, HTTP).
    home_epoch: Option<u64>,
    /// Nothing more is taken in: every answer is waited for.
    finishing: AtomicBool,
    /// Predictions are delivered only after commit.
    pub push_committed: bool,
}

impl Outbox {
    /// An outbox of a connection that its own task empties.
    pub fn for_task(home_epoch: Option<u64>, push_committed: bool) -> Arc<Self> {
        Self::for_peer(home_epoch, push_committed, OUTBOX_MESSAGES, None)
    }

    /// The same, for a peer for whom `most` messages may wait, and whose acks may linger.
    pub fn for_peer(
        home_epoch: Option<u64>,
        push_committed: bool,
        most: usize,
        linger: Option<Linger>,
    ) -> Arc<Self> {
        let wake = Wake::Task(Notify::new(), linger);
        Self::new(wake, most, home_epoch, push_committed)
    }

    /// An outbox that a shared task empties.
    pub fn for_shared(
        stream: StreamKey,
        ready: mpsc::Sender<Arc<Outbox>>,
        most: usize,
    ) -> Arc<Self> {
        Self::new(Wake::Shared(stream, ready), most, None, false)
    }

    fn new(wake: Wake, most: usize, home_epoch: Option<u64>, push_committed: bool) -> Arc<Self> {
        Arc::new(Self {
            waiting: Mutex::default(),
            most,
            wake,
            owed: AtomicU64::new(0),
            finishing: AtomicBool::new(false),
            home_epoch,
            push_committed,
        })
    }

    /// The stream of a shared outbox.
    pub fn stream(&self) -> Option<&StreamKey> {
        match &self.wake {
            Wake::Task(..) => None,
            Wake::Shared(stream, _) => Some(stream),
        }
    }

    /// The epoch as messages to this peer carry it.
    pub fn epoch_tag(&self, epoch: u64) -> Option<u64> {
        (self.home_epoch != Some(epoch)).then_some(epoch)
    }

    /// Adds a message that goes before the next ack.
    pub fn say(self: &Arc<Self>, message: ServerMessage) {
        self.put(Haste::Now, |drained| {
            if drained.messages.len() >= self.most {
                drained.left_out += 1;
                drained.closing.get_or_insert_with(|| too_slow(self.most));
            } else {
                drained.messages.push(message);
            }
        });
    }

    /// Everything up to `seq` of `epoch` is committed. An ack of an earlier epoch that still waits is said on its own.
    pub fn ack(self: &Arc<Self>, epoch: u64, seq: u64, late: Option<u64>) {
        self.ack_owed(epoch, seq, late, 0);
    }

    /// The same, as what is owed for one reading that came through this door.
    pub fn ack_reading(self: &Arc<Self>, epoch: u64, seq: u64, late: Option<u64>) {
        self.owed.fetch_add(1, Ordering::Relaxed);
        self.ack_owed(epoch, seq, late, 1);
    }

    fn ack_owed(self: &Arc<Self>, epoch: u64, seq: u64, late: Option<u64>, owed: u64) {
        let tag = self.epoch_tag(epoch);
        self.put(Haste::Soon, |drained| {
            drained.owed += owed;
            // It could cover a nack or a gap that was left out.
            if drained.left_out > 0 {
                return;
            }
            if let Some(before) = drained.ack.take_if(|ack| ack.epoch != tag) {
                drained.messages.push(ServerMessage::Ack(before));
            }
            let ack = drained.ack.get_or_insert(Ack {
                epoch: tag,
                seq,
                late: Vec::new(),
            });
            ack.seq = ack.seq.max(seq);
            ack.late.extend(late);
        });
    }

    /// What was drained has left.
    pub fn pay(&self, drained: &Drained) {
        self.owed.fetch_sub(drained.owed, Ordering::Relaxed);
    }

    /// Committed readings whose answer has not left.
    pub fn owed(&self) -> u64 {
        self.owed.load(Ordering::Relaxed)
    }

    /// The publish with this number is committed.
    pub fn receipt(self: &Arc<Self>, number: u64) {
        self.put(Haste::Now, |drained| drained.receipts.push(number));
    }

    /// The publish with this number will not be committed: it must not be acknowledged.
    pub fn abandon(self: &Arc<Self>, number: u64) {
        self.put(Haste::Now, |drained| drained.abandoned.push(number));
    }

    /// Ends the connection once the rest is said; the first reason stays.
    pub fn close(self: &Arc<Self>, code: CloseCode, error: Option<(ErrorCode, &str)>) {
        let error = error.map(|(code, message)| ServerError {
            code,
            message: message.to_owned(),
            retry_after_ms: None,
        });
        self.put(Haste::Now, |drained| {
            drained.closing.get_or_insert(Closing { code, error });
        });
    }

    /// From now on nothing lingers, and [`Self::settled`] wakes whoever empties it.
    pub fn finish(&self) {
        self.finishing.store(true, Ordering::Relaxed);
    }

    /// The stream's last row is durable, and may have had nothing to say to a connection that waits for it.
    pub fn settled(self: &Arc<Self>) {
        if self.finishing.load(Ordering::Relaxed) {
            self.put(Haste::Now, |_| {});
        }
    }

    fn put(self: &Arc<Self>, haste: Haste, change: impl FnOnce(&mut Drained)) {
        let mut waiting = self.waiting.lock();
        let before = waiting.drained.messages.len();
        change(&mut waiting.drained);
        count_waiting(before, waiting.drained.messages.len());
        if waiting.listed || (haste == Haste::Soon && self.linger(&mut waiting)) {
            return;
        }
        waiting.listed = true;
        drop(waiting);
        match &self.wake {
            Wake::Task(notify, _) => notify.notify_one(),
            Wake::Shared(_, ready) => {
                // The receiver is gone only when the server has stopped.
                let listed = ready.try_send(Arc::clone(self));
                debug_assert!(!matches!(listed, Err(TrySendError::Full(_))), "see `Wake`");
            }
        }
    }

    /// Whether what waits may go on waiting for the next tick.
    fn linger(self: &Arc<Self>, waiting: &mut Waiting) -> bool {
        let Wake::Task(_, Some(linger)) = &self.wake else {
            return false;
        };
        if self.finishing.load(Ordering::Relaxed) {
            return false;
        }
        waiting.lingers = waiting.lingers || linger.remember(self);
        waiting.lingers
    }

    /// The tick has come: what still waits is said.
    pub(super) fn speak_up(&self) {
        let mut waiting = self.waiting.lock();
        waiting.lingers = false;
        if waiting.listed || waiting.drained.ack.is_none() {
            return;
        }
        waiting.listed = true;
        drop(waiting);
        if let Wake::Task(notify, _) = &self.wake {
            notify.notify_one();
        }
    }

    /// Whether nothing waits in it, and nobody but the caller could put anything in.
    pub fn is_idle(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1 && !self.waiting.lock().listed
    }

    /// Takes everything out by swapping with an empty `into`.
    pub fn drain(&self, into: &mut Drained) {
        into.clear();
        let mut waiting = self.waiting.lock();
        waiting.listed = false;
        std::mem::swap(&mut waiting.drained, into);
        count_waiting(into.messages.len(), 0);
    }

    /// Waits until something was put in since the last drain.
    pub async fn ready(&self) {
        match &self.wake {
            Wake::Task(notify, _) => notify.notified().await,
            Wake::Shared(..) => std::future::pending().await,
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        count_waiting(self.waiting.lock().drained.messages.len(), 0);
    }
}

/// Keeps the gauge of messages that wait for devices.
fn count_waiting(before: usize, after: usize) {
    if before != after {
        metrics::gauge!(metric::OUTBOX_MESSAGES).increment(after as f64 - before as f64);
    }
}

fn too_slow(most: usize) -> Closing {
    let message = format!("{most} messages wait to be read");
    Closing {
        code: CloseCode::TooSlow,
        error: Some(ServerError {
            code: ErrorCode::TooSlow,
            message,
            retry_after_ms: None,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::time::Duration;
    use tidegate_protocol::message::Gap;

    #[test]
    fn acks_merge_and_follow_what_they_cover() {
        let outbox = Outbox::for_task(Some(0), false);
        outbox.ack(0, 4, None);
        outbox.say(ServerMessage::Gap(Gap {
            epoch: None,
            from: 5,
            to: 6,
        }));
        outbox.ack(0, 7, Some(2));
        let mut drained = Drained::default();
        outbox.drain(&mut drained);
        assert_eq!(drained.messages.len(), 1);
        assert_eq!(
            drained.ack,
            Some(Ack {
                epoch: None,
                seq: 7,
                late: vec![2]
            })
        );
        outbox.drain(&mut drained);
        assert!(drained.ack.is_none() && drained.messages.is_empty());
    }

    #[tokio::test]
    async fn an_ack_lingers_for_a_message_and_leaves_alone_at_the_tick() {
        let (linger, lingering) = Linger::new(4);
        let outbox = Outbox::for_peer(Some(0), false, 8, Some(linger));
        let mut drained = Drained::default();
        outbox.ack(0, 4, None);
        assert!(
            outbox.ready().now_or_never().is_none(),
            "it was said at once"
        );
        outbox.say(ServerMessage::Gap(Gap {
            epoch: None,
            from: 5,
            to: 5,
        }));
        outbox.ready().await;
        outbox.drain(&mut drained);
        assert_eq!(drained.ack.as_ref().map(|ack| ack.seq), Some(4));
        outbox.ack(0, 6, None);
        let ticking = tokio::spawn(lingering.run(Duration::from_millis(1)));
        outbox.ready().await;
        outbox.drain(&mut drained);
        assert_eq!(drained.ack.as_ref().map(|ack| ack.seq), Some(6));
        drop(outbox);
        ticking
            .await
            .expect("it ends when nobody can put anything in");
    }

    #[tokio::test]
    async fn an_ack_is_said_at_once_where_the_queue_is_full_or_the_connection_finishes() {
        let (linger, _lingering) = Linger::new(1);
        let outboxes = [(); 3].map(|()| Outbox::for_peer(Some(0), false, 8, Some(linger.clone())));
        outboxes[2].finish();
        outboxes.iter().for_each(|outbox| outbox.ack(0, 1, None));
        let said = outboxes
            .each_ref()
            .map(|outbox| outbox.ready().now_or_never());
        assert_eq!(said, [None, Some(()), Some(())]);
    }

    #[test]
    fn an_ack_of_the_epoch_before_is_not_swallowed() {
        let outbox = Outbox::for_task(Some(0), false);
        outbox.ack(0, 4, None);
        outbox.ack(1, 0, None);
        let mut drained = Drained::default();
        outbox.drain(&mut drained);
        assert_eq!(
            drained.messages,
            [ServerMessage::Ack(Ack {
                epoch: None,
                seq: 4,
                late: vec![]
            })]
        );
        assert_eq!(
            drained.ack,
            Some(Ack {
                epoch: Some(1),
                seq: 0,
                late: vec![]
            })
        );
    }

    #[test]
    fn a_peer_that_never_reads_is_closed_instead_of_kept_in_memory() {
        let outbox = Outbox::for_task(Some(0), false);
        for seq in 0..OUTBOX_MESSAGES as u64 + 10 {
            outbox.say(ServerMessage::Gap(Gap {
                epoch: None,
                from: seq,
                to: seq,
            }));
        }
        let mut drained = Drained::default();
        outbox.drain(&mut drained);
        assert_eq!(drained.messages.len(), OUTBOX_MESSAGES);
        assert_eq!(drained.closing.unwrap().code, CloseCode::TooSlow);
    }

    #[test]
    fn no_ack_leaves_behind_a_nack_that_found_no_room() {
        let outbox = Outbox::for_peer(Some(0), false, 1, None);
        let gap = |seq| {
            ServerMessage::Gap(Gap {
                epoch: None,
                from: seq,
                to: seq,
            })
        };
        outbox.ack(0, 2, None);
        outbox.say(gap(3));
        outbox.say(gap(5));
        outbox.ack(0, 6, None);
        let mut drained = Drained::default();
        outbox.drain(&mut drained);
        assert_eq!(drained.left_out, 1);
        assert_eq!(drained.ack.map(|ack| ack.seq), Some(2));
    }
}
