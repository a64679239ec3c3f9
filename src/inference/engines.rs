//! The newest [`Engine`] while the server runs.
//!
//! A change makes another engine and puts it in the place of the one before; whoever holds that goes on with it. Nothing on the way of a
//! reading takes a lock for it: a connection looks once when it opens, and a door that takes readings of all streams keeps a picture and
//! asks an atomic whether there is a newer one ([`Picture`]).

use super::Engine;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::watch;

/// See the module.
#[derive(Debug)]
pub struct Engines {
    current: watch::Sender<Arc<Engine>>,
    /// Readings that the hungriest version of all so far is calibrated on.
    calibration: Arc<AtomicU32>,
}

impl Engines {
    /// Begins with this one.
    pub fn new(engine: Engine) -> Self {
        let calibration = Arc::new(AtomicU32::new(engine.longest_calibration()));
        Self {
            current: watch::Sender::new(Arc::new(engine)),
            calibration,
        }
    }

    /// The newest one.
    pub fn load(&self) -> Arc<Engine> {
        Arc::clone(&self.current.borrow())
    }

    /// Puts another one in place; everyone who watches is told.
    pub fn replace(&self, engine: Engine) {
        self.calibration
            .fetch_max(engine.longest_calibration(), Ordering::Relaxed);
        self.current.send_replace(Arc::new(engine));
    }

    /// Readings that are kept for calibrations: as many as the hungriest version so far asks for.
    pub fn calibration(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.calibration)
    }

    /// A picture that renews itself.
    pub fn picture(&self) -> Picture {
        let mut watch = self.current.subscribe();
        let engine = Arc::clone(&watch.borrow_and_update());
        Picture { watch, engine }
    }
}

/// An engine in one task's hands, renewed when there is a newer one.
#[derive(Debug)]
pub struct Picture {
    watch: watch::Receiver<Arc<Engine>>,
    engine: Arc<Engine>,
}

impl Picture {
    /// The newest engine; an atomic read where it has not changed.
    pub fn engine(&mut self) -> &Arc<Engine> {
        if self.watch.has_changed().unwrap_or(false) {
            self.engine = Arc::clone(&self.watch.borrow_and_update());
        }
        &self.engine
    }

    /// Waits for another engine than the one last seen; for ever when there will be none.
    pub async fn changed(&mut self) {
        if self.watch.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.engine = Arc::clone(&self.watch.borrow_and_update());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_picture_renews_itself_when_the_engine_is_replaced() {
        let engines = Engines::new(Engine::default());
        let mut picture = engines.picture();
        let first = Arc::clone(picture.engine());
        assert!(Arc::ptr_eq(&first, &engines.load()));
        engines.replace(Engine::default());
        picture.changed().await;
        assert!(!Arc::ptr_eq(&first, picture.engine()));
        assert!(Arc::ptr_eq(&engines.load(), picture.engine()));
    }
}
