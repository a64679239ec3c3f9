//! Streams follow their endpoint's production version, or the arm of an experiment that their device is in: those in memory one after the
//! other, the others when they load.
//!
//! One task looks at every session whenever the engine or the experiments change, and moves a few streams at a time by the usual switch; each is answered by
//! its old version until its switch is recorded. What could not be moved (a stream too busy, a store that is not read) is tried again. A
//! stream that loads is moved before its door gets it, if that takes no longer than a second; else the task moves it. Nothing here can
//! fail a stream: the version before goes on.

use super::{Link, Pipeline, SwitchError, TakeError};
use crate::inference::{Engine, ServedEndpoint};
use crate::push::Outbox;
use crate::session::{Session, SessionCell, Stand, Wanted};
use crate::stream::{StreamKey, reason};
use crate::telemetry::metric;
use futures_util::{StreamExt, stream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Streams that are moved at the same time: one reads the store while another folds. More would take cores from live readings.
const AT_ONCE: usize = 2;
/// Before what could not be moved is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest that a door waits for its stream to be moved.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is left to be moved.
#[derive(Default)]
pub(super) struct Moves {
    left: AtomicU64,
    /// Something was left to the task.
    asked: Notify,
}

/// Moves streams to where they belong until the server stops.
pub async fn follow(pipeline: Arc<Pipeline>, stop: CancellationToken) {
    let mut picture = pipeline.engines.picture();
    let mut experiments = pipeline.board.changes();
    let moving = async {
        loop {
            let left = pipeline.move_all().await;
            tokio::select! {
                () = picture.changed() => {}
                Ok(()) = experiments.changed() => {}
                () = pipeline.moves.asked.notified() => {}
                () = tokio::time::sleep(AGAIN), if left => {}
            }
        }
    };
    tokio::select! {
        () = moving => {}
        () = stop.cancelled() => {}
    }
}

impl Pipeline {
    /// Streams in memory that are still to be moved to the version that they belong to.
    pub fn streams_to_move(&self) -> u64 {
        let engine = self.engines.load();
        let mut waiting = 0;
        // Beyond what the task knows of: it may not have looked since the engine changed.
        self.sessions.for_each(|_, session| {
            waiting += u64::from(self.wanted_by(session, &engine).is_some());
        });
        waiting
    }

    /// Streams that the task was about to move when it last looked.
    pub fn moves_left(&self) -> u64 {
        self.moves.left.load(Ordering::Relaxed)
    }

    /// Moves every stream in memory that wants it; whether some were left.
    async fn move_all(&self) -> bool {
        let engine = self.engines.load();
        let mut keys = Vec::new();
        self.sessions.for_each(|key, session| {
            if self.wanted_by(session, &engine).is_some() {
                keys.push(key.clone());
            }
        });
        if keys.is_empty() {
            return false;
        }
        tracing::info!(
            streams = keys.len(),
            "moving streams to the version that they belong to"
        );
        self.moves.left.store(keys.len() as u64, Ordering::Relaxed);
        let (all, mut failed) = (keys.len(), 0_usize);
        let mut moved = stream::iter(keys)
            .map(|key| self.move_one(key))
            .buffer_unordered(AT_ONCE);
        while let Some(done) = moved.next().await {
            self.moves.left.fetch_sub(1, Ordering::Relaxed);
            failed += usize::from(!done);
        }
        drop(moved);
        self.moves.left.store(failed as u64, Ordering::Relaxed);
        tracing::info!(streams = all - failed, left = failed, "streams moved");
        failed > 0
    }

    /// Whether the stream is where it belongs now, or will be when it loads.
    async fn move_one(&self, key: StreamKey) -> bool {
        let Some(session) = self.sessions.get(&key) else {
            return true;
        };
        let Some(wanted) = self.wanted(&session) else {
            return true;
        };
        match self.switch(&aside(&session), &wanted).await {
            Ok(()) | Err(SwitchError::Take(TakeError::Retired | TakeError::Stopping)) => true,
            Err(error) => {
                tracing::warn!(stream = %key, to = %wanted.served.reference, %error, "a stream stays with its version for now");
                false
            }
        }
    }

    /// Where the stream is to be moved, if it is elsewhere.
    fn wanted(&self, session: &SessionCell) -> Option<Wanted> {
        let engine = self.engines.load();
        self.wanted_by(&session.lock(), &engine)
    }

    /// A back-fill ends under the version it began with, and a pinned stream stays.
    fn wanted_by(&self, session: &Session, engine: &Engine) -> Option<Wanted> {
        let key = &session.stream.key;
        let endpoint = engine.endpoint(key.endpoint.as_str())?;
        let production = &endpoint.production;
        let wanted = match session.stand() {
            _ if !key.is_live() => return None,
            Stand::Pinned => return None,
            Stand::Fled(from) => {
                let is_other = session.served().reference != production.reference;
                if from == production.reference.id || !is_other {
                    return None;
                }
                Wanted::plain(Arc::clone(production), reason::PRODUCTION)
            }
            Stand::Assigned | Stand::InArm => {
                let current = session.arm().map(|arm| &*arm.label);
                self.due(endpoint, key, current)
            }
        };
        (!session.has(&wanted)).then_some(wanted)
    }

    /// The version that a stream belongs to which nobody has pinned: that of its arm, else the one in production. An arm whose version is
    /// not there is no reason to fail: production serves.
    pub(super) fn due(
        &self,
        endpoint: &ServedEndpoint,
        key: &StreamKey,
        current: Option<&str>,
    ) -> Wanted {
        let (name, device) = (endpoint.name.as_str(), key.device.as_str());
        let placed = match key.is_live() {
            true => self.board.place(name, device, current),
            false => None,
        };
        if let Some(placed) = placed {
            if let Some(served) = endpoint.versions.get(&placed.version) {
                return Wanted {
                    served: Arc::clone(served),
                    reason: reason::EXPERIMENT,
                    arm: Some(placed.arm),
                };
            }
            metrics::counter!(metric::ARMS_MISSING).increment(1);
        }
        let reason = match current {
            Some(_) => reason::EXPERIMENT_OVER,
            None => reason::PRODUCTION,
        };
        Wanted::plain(Arc::clone(&endpoint.production), reason)
    }

    /// Moves a stream that was just opened, if it is quick; else the task does it.
    pub(super) async fn settle_in(&self, session: &Arc<SessionCell>) {
        let Some(wanted) = self.wanted(session) else {
            return;
        };
        let link = aside(session);
        let switched = self.switch(&link, &wanted);
        if !matches!(tokio::time::timeout(PATIENCE, switched).await, Ok(Ok(()))) {
            self.moves.asked.notify_one();
        }
    }

    /// A connection that asks for no version has a pinned stream: it follows production again, or its arm. What keeps it from that is no reason to
    /// turn the connection away.
    pub async fn release(&self, link: &Link) {
        let wanted = {
            let session = link.session.lock();
            if session.stand() != Stand::Pinned || !session.stream.key.is_live() {
                return;
            }
            let engine = self.engines.load();
            let endpoint = engine.endpoint(session.stream.key.endpoint.as_str());
            endpoint.map(|endpoint| self.due(endpoint, &session.stream.key, None))
        };
        let Some(mut wanted) = wanted else { return };
        if wanted.arm.is_none() {
            wanted.reason = reason::RELEASED;
        }
        let switched = self.switch(link, &wanted);
        match tokio::time::timeout(PATIENCE, switched).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "a stream stays pinned for now"),
            Err(_) => tracing::warn!("a stream stays pinned for now: its release took too long"),
        }
    }
}

/// A hold on a stream beside its connection.
pub(super) fn aside(session: &Arc<SessionCell>) -> Link {
    Link {
        session: Arc::clone(session),
        outbox: Outbox::for_task(None, false),
        generation: None,
        epoch: 0,
    }
}
