//! Stopping in order: everything that was taken is committed and acked, or counted as not.
//!
//! Not ready, then the listener and the doors close, requests in flight get their answers, sockets their acks and their close frame, the broker
//! its acknowledgements; then the writer empties its queue and the database closes. Whoever is not done after `connections.drain_s` is told that
//! time is over, and what is left is counted: the log says how much of what, and the stop is not clean.

use super::Running;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Time to give up in order once the drain is over.
const GRACE: Duration = Duration::from_secs(3);

/// What a stop left undone.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    /// Readings that were taken and are not known to be stored.
    readings_not_committed: u64,
    /// Readings whose ack did not leave for a device that was still there.
    readings_not_acked: u64,
    /// Publishes that were taken and not acknowledged: the broker delivers them again.
    publishes_not_acknowledged: usize,
    /// Answers that the broker did not take.
    answers_not_said: usize,
    /// Connections and requests that did not end.
    peers_not_told: usize,
}

impl Running {
    /// Stops in order; true when everything that was taken is committed and every peer was told.
    pub async fn stop(mut self) -> bool {
        tracing::info!("stopping");
        self.site.ready.store(false, Ordering::Relaxed);
        self.site.stop.cancel();
        self.site.tracker.close();
        let told = self.finish_peers().await;
        self.flush.cancel();
        // Its own time: peers that used up theirs must not cost a commit.
        let written = tokio::time::timeout(self.drain, &mut self.writing).await;
        if written.is_err() {
            self.writing.abort();
        }
        let mut left = self.left();
        if !told {
            self.serving.abort();
            left.peers_not_told = self.site.tracker.len().max(1);
        }
        self.site.pipeline.store.close().await;
        let clean = left == Left::default();
        if clean {
            tracing::info!("stopped");
        } else {
            let Left {
                readings_not_committed,
                readings_not_acked,
                publishes_not_acknowledged,
                answers_not_said,
                peers_not_told,
            } = left;
            tracing::error!(
                readings_not_committed,
                readings_not_acked,
                publishes_not_acknowledged,
                answers_not_said,
                peers_not_told,
                "stopped before everything was finished: devices send again what was not acked"
            );
        }
        clean
    }

    /// Waits for connections, requests and the broker; past the drain they are told to give up. True when all have ended.
    async fn finish_peers(&mut self) -> bool {
        let (tracker, serving) = (&self.site.tracker, &mut self.serving);
        let ended = async { tokio::join!(tracker.wait(), serving) };
        tokio::pin!(ended);
        if tokio::time::timeout(self.drain, &mut ended).await.is_ok() {
            return true;
        }
        self.site.overdue.cancel();
        tokio::time::timeout(GRACE, ended).await.is_ok()
    }

    fn left(&self) -> Left {
        let pipeline = &self.site.pipeline;
        let mut left = Left {
            readings_not_acked: pipeline.rates.unacked(),
            ..Left::default()
        };
        pipeline.sessions.for_each(|_, session| {
            left.readings_not_committed += session.pending_readings();
            if let Some(holder) = &session.holder {
                left.readings_not_acked += session.pending_readings() + holder.owed();
            }
        });
        if let Some(mqtt) = &self.site.mqtt {
            left.publishes_not_acknowledged = mqtt.unacknowledged();
            left.answers_not_said = mqtt.unsaid();
        }
        left
    }
}
