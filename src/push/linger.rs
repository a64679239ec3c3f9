//! Acks that may wait a little for a prediction to leave with.
//!
//! A device that streams gets a prediction every few milliseconds; an ack that leaves with it costs no wake-up, no frame header and no
//! write of its own. Owns the queue of outboxes whose ack waits, each at most once, and one timer for all of them.
//! Promises that an ack waits at most twice the configured time; where the queue is full it is said at once. Whatever else
//! is said takes the ack along at once.

use super::Outbox;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Outboxes woken at one tick before the queue is looked at again.
const AT_ONCE: usize = 4_096;

/// The way into the queue.
#[derive(Debug, Clone)]
pub struct Linger(mpsc::Sender<Arc<Outbox>>);

/// The queue's other end.
pub struct Lingering(mpsc::Receiver<Arc<Outbox>>);

impl Linger {
    /// A queue for so many connections.
    pub fn new(connections: usize) -> (Self, Lingering) {
        let (sender, receiver) = mpsc::channel(connections.max(1));
        (Self(sender), Lingering(receiver))
    }

    /// Remembers an outbox until the next tick; false when it has to speak for itself.
    pub(super) fn remember(&self, outbox: &Arc<Outbox>) -> bool {
        self.0.try_send(Arc::clone(outbox)).is_ok()
    }
}

impl Lingering {
    /// Wakes who still has something to say, every `time`, until nobody can put anything in.
    pub async fn run(mut self, time: Duration) {
        let mut waiting = Vec::new();
        while self.0.recv_many(&mut waiting, AT_ONCE).await > 0 {
            tokio::time::sleep(time).await;
            waiting.drain(..).for_each(|outbox| outbox.speak_up());
        }
    }
}
