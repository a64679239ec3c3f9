//! Turns: where steps run that are too dear to run where the reading is.
//!
//! A step below `inference.inline_below_us` runs on the task that took the reading: a hop would cost more than the step. Streams of a
//! dearer version stand in that version's line (at most `inference.queue` of them) and step when a core is free for it (at most
//! `inference.cores` at once), on a thread that may block, so that sockets, acks and cheap versions never wait behind them. A
//! turn belongs to one stream: its waiting readings are stepped in order, and two streams never step in the same turn. First come, first
//! served, across versions too. A full line is answered like a full store: the socket is not read, then 4013.
//!
//! Rows of different streams are not stepped together: a fused step of a batch of 64 saves at most a third of a step alone
//! (docs/PERFORMANCE.md), and every stream would wait for the slowest.

use super::Served;
use crate::telemetry::metric;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Semaphore, SemaphorePermit};

/// See the module.
#[derive(Debug)]
pub struct Turns {
    inline_below: Duration,
    places: usize,
    cores: Semaphore,
}

/// A version's line: a place is taken from standing in it to the end of the turn.
#[derive(Debug, Default)]
pub struct Line {
    /// Made for the first that stands in it.
    places: OnceLock<Semaphore>,
}

/// The right to step; it ends when dropped.
#[derive(Debug)]
pub struct Turn<'t> {
    _place: Place<'t>,
    _core: SemaphorePermit<'t>,
}

/// A place in a line, counted.
#[derive(Debug)]
struct Place<'t>(#[expect(dead_code, reason = "held, not read")] SemaphorePermit<'t>);

impl<'t> Place<'t> {
    fn new(permit: SemaphorePermit<'t>) -> Self {
        metrics::gauge!(metric::STEPS_WAITING).increment(1.0);
        Self(permit)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        metrics::gauge!(metric::STEPS_WAITING).decrement(1.0);
    }
}

impl Turns {
    /// Steps dearer than `inline_below` take turns on `cores` cores; a version's line has so many places.
    pub fn new(inline_below: Duration, places: usize, cores: usize) -> Self {
        Self {
            inline_below,
            places,
            cores: Semaphore::new(cores),
        }
    }

    /// Whether steps of this version run where the reading is.
    pub fn is_inline(&self, served: &Served) -> bool {
        served.cost < self.inline_below
    }

    /// Waits for a turn of a stream in its version's line, at most `patience`.
    pub async fn wait<'t>(&'t self, line: &'t Line, patience: Duration) -> Option<Turn<'t>> {
        let waiting = async {
            // Neither is ever closed.
            let places = line.places.get_or_init(|| Semaphore::new(self.places));
            let place = Place::new(places.acquire().await.ok()?);
            let core = self.cores.acquire().await.ok()?;
            Some(Turn {
                _place: place,
                _core: core,
            })
        };
        tokio::time::timeout(patience, waiting).await.ok().flatten()
    }
}

impl Turn<'_> {
    /// Runs `work` on a thread that may block; other tasks go on meanwhile.
    pub fn run<T>(self, work: impl FnOnce() -> T) -> T {
        match Handle::try_current().map(|handle| handle.runtime_flavor()) {
            Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
            // One thread alone has nobody to hand the other tasks to.
            _ => work(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const PATIENT: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn who_finds_the_line_full_for_too_long_is_told() {
        let (turns, line) = (Turns::new(Duration::ZERO, 1, 4), Line::default());
        let first = turns.wait(&line, PATIENT).await.expect("a free line");
        assert!(turns.wait(&line, Duration::ZERO).await.is_none());
        drop(first);
        assert!(turns.wait(&line, PATIENT).await.is_some());
    }

    #[tokio::test]
    async fn a_full_line_holds_up_no_other_version() {
        let turns = Turns::new(Duration::ZERO, 1, 2);
        let (busy, other) = (Line::default(), Line::default());
        let _held = turns.wait(&busy, PATIENT).await.expect("a free line");
        assert!(turns.wait(&other, PATIENT).await.is_some());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_more_steps_run_at_once_than_there_are_cores() {
        let turns = Arc::new(Turns::new(Duration::ZERO, 16, 2));
        let line = Arc::new(Line::default());
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let (turns, line) = (Arc::clone(&turns), Arc::clone(&line));
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            tasks.spawn(async move {
                let turn = turns.wait(&line, PATIENT).await.expect("a turn");
                turn.run(|| {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    now.fetch_sub(1, Ordering::SeqCst);
                });
            });
        }
        let done = tasks.join_all().await.len();
        assert_eq!(done, 16);
        assert!((1..=2).contains(&most.load(Ordering::SeqCst)));
    }
}
