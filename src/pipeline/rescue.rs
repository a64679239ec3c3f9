//! Streams whose steps fail one after the other: moved to the version that served them before.
//!
//! Off the hot path: a session counts its failed steps, and when `sessions.max_failed_steps` of them came in a row its stream is put in a
//! bounded queue, once. One task takes from it and moves a few streams at a time by the usual switch, with the reason `failing`. A stream
//! that knew no other version gets what was in production before at its endpoint. A
//! stream for which there is no other version stays where it is. Either way an alert says so. When the queue is full or the switch fails, the
//! next failed step asks again. The count starts anew with each load of the session.

use super::moving::aside;
use super::{Pipeline, SwitchError};
use crate::inference::Served;
use crate::session::{Session, SessionCell, Wanted};
use crate::store::StoreError;
use crate::stream::{StreamKey, now_ms, reason};
use crate::telemetry::metric;
use futures_util::StreamExt;
use futures_util::stream::poll_fn;
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Streams that may wait to be moved.
const WAITING: usize = 256;
/// Streams that are moved at the same time.
const AT_ONCE: usize = 4;
/// Switches of a stream that are looked through for a version that worked.
const SWITCHES: u32 = 64;

/// A stream whose steps failed.
pub(super) struct Failing {
    session: Arc<SessionCell>,
    /// Under which version.
    under: Arc<Served>,
    /// How many in a row.
    steps: u32,
}

/// Streams that wait to be moved, for [`rescue`].
pub struct FailingStreams(mpsc::Receiver<Failing>);

/// The queue of streams to be moved.
pub(super) fn queue() -> (mpsc::Sender<Failing>, FailingStreams) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (sender, FailingStreams(receiver))
}

/// Moves failing streams until the server stops.
pub async fn rescue(pipeline: Arc<Pipeline>, mut streams: FailingStreams, stop: CancellationToken) {
    let waiting = poll_fn(|context| streams.0.poll_recv(context));
    let moving = waiting.for_each_concurrent(AT_ONCE, |failing| pipeline.move_on(failing));
    tokio::select! {
        () = moving => {}
        () = stop.cancelled() => {}
    }
}

impl Pipeline {
    /// Asks for another version when this one has failed too often in a row.
    pub(super) fn ask_for_help(&self, cell: &Arc<SessionCell>, session: &mut Session) {
        if !session.needs_help(self.config.sessions.max_failed_steps) {
            return;
        }
        let failing = Failing {
            session: Arc::clone(cell),
            under: Arc::clone(session.served()),
            steps: session.failed_in_a_row(),
        };
        let asked = self.failing.try_send(failing).is_ok();
        session.set_asked_for_help(asked);
    }

    async fn move_on(&self, failing: Failing) {
        let Failing {
            session,
            under,
            steps,
        } = failing;
        let (key, serves) = {
            let session = session.lock();
            (session.stream.key.clone(), Arc::clone(session.served()))
        };
        // Somebody else moved it meanwhile.
        if !Arc::ptr_eq(&serves, &under) {
            return;
        }
        let from = &under.reference;
        match self.move_from(&session, &key, &under).await {
            Ok(Some(served)) => {
                let to = &served.reference;
                let message = format!("{steps} steps in a row failed under {from}: moved to {to}");
                self.tell(&key, "moved", &message);
            }
            Ok(None) => {
                let message = format!(
                    "{steps} steps in a row failed under {from}, and there is no other version to move to"
                );
                self.tell(&key, "stays", &message);
            }
            Err(error) => {
                tracing::warn!(stream = %key, version = %from, %error, "a failing version stays for now");
                session.lock().set_asked_for_help(false);
            }
        }
    }

    async fn move_from(
        &self,
        cell: &Arc<SessionCell>,
        key: &StreamKey,
        failing: &Arc<Served>,
    ) -> Result<Option<Arc<Served>>, SwitchError> {
        let Some(good) = self.last_good(cell, key, failing).await? else {
            return Ok(None);
        };
        let wanted = Wanted::plain(Arc::clone(&good), reason::FAILING);
        self.switch(&aside(cell), &wanted).await?;
        Ok(Some(good))
    }

    /// The version that served last without failing; else the endpoint's production version, or the one that was in production before
    /// it, if that did not fail here either.
    async fn last_good(
        &self,
        cell: &SessionCell,
        key: &StreamKey,
        failing: &Arc<Served>,
    ) -> Result<Option<Arc<Served>>, StoreError> {
        let stream = cell.lock().stream.id;
        let engine = self.engines.load();
        let mut failed = HashSet::from([failing.reference.id]);
        let mut left_failing = false;
        // Newest first: a row's version served until the row before it in this list.
        for switch in self.store.switches(stream, SWITCHES).await? {
            if left_failing {
                failed.insert(switch.version_id);
            }
            left_failing = switch.reason == reason::FAILING;
            let served = engine.by_id(switch.version_id);
            if let Some(served) = served.filter(|_| !failed.contains(&switch.version_id)) {
                return Ok(Some(Arc::clone(served)));
            }
        }
        let endpoint = engine.endpoint(key.endpoint.as_str());
        let mut of_endpoint = endpoint
            .into_iter()
            .flat_map(|endpoint| std::iter::once(&endpoint.production).chain(&endpoint.before));
        let good = of_endpoint.find(|served| !failed.contains(&served.reference.id));
        Ok(good.cloned())
    }

    fn tell(&self, key: &StreamKey, outcome: &'static str, message: &str) {
        tracing::error!(stream = %key, "{message}");
        metrics::counter!(metric::FAILING_STREAMS, "outcome" => outcome).increment(1);
        if key.is_live() {
            self.hub.alert(key, "failing", message, now_ms());
        }
    }
}
