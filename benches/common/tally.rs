//! What is counted in each part of a run: readings and their latencies, by everyone who takes part, in the same parts.
//!
//! One task says which part it is; whoever counts looks at that. Latencies are in microseconds.

use super::micros;
use hdrhistogram::Histogram;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Which part of a run it is: 0 warms up and is not counted, the parts after it are, then it is over.
#[derive(Clone)]
pub struct Part {
    now: Arc<AtomicUsize>,
    over: usize,
}

impl Part {
    /// A run of a warm-up and `counted` parts.
    pub fn warm_up(counted: usize) -> Self {
        Self {
            now: Arc::new(AtomicUsize::new(0)),
            over: counted + 1,
        }
    }

    /// Goes on to the next part.
    pub fn next(&self) {
        self.now.fetch_add(1, Ordering::Relaxed);
    }

    fn now(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    pub fn is_over(&self) -> bool {
        self.now() >= self.over
    }
}

/// What was counted in one part.
pub struct Counts {
    pub predicted: u64,
    pub acked: u64,
    /// From a reading to its prediction and to its ack, microseconds.
    pub prediction: Histogram<u64>,
    pub ack: Histogram<u64>,
}

impl Counts {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            predicted: 0,
            acked: 0,
            prediction: Histogram::new(3)?,
            ack: Histogram::new(3)?,
        })
    }
}

/// What was counted in each part of a run.
pub struct Tally {
    part: Part,
    parts: Vec<Counts>,
}

impl Tally {
    pub fn new(part: &Part) -> anyhow::Result<Self> {
        let parts = (1..part.over).map(|_| Counts::new());
        Ok(Self {
            part: part.clone(),
            parts: parts.collect::<anyhow::Result<_>>()?,
        })
    }

    /// Counts of the parts, in their order.
    pub fn parts(&self) -> &[Counts] {
        &self.parts
    }

    pub fn is_over(&self) -> bool {
        self.part.is_over()
    }

    pub fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        for (mine, theirs) in self.parts.iter_mut().zip(&other.parts) {
            mine.predicted += theirs.predicted;
            mine.acked += theirs.acked;
            mine.prediction.add(&theirs.prediction)?;
            mine.ack.add(&theirs.ack)?;
        }
        Ok(())
    }

    /// The prediction of a reading sent at `sent` has come.
    pub fn note_prediction(&mut self, sent: Instant) -> anyhow::Result<()> {
        if let Some(counts) = self.now() {
            counts.predicted += 1;
            counts.prediction.record(micros(sent.elapsed()))?;
        }
        Ok(())
    }

    /// A reading sent at `sent` has come as far as it is followed: its ack, or the event of its sample.
    pub fn note_ack(&mut self, sent: Instant) -> anyhow::Result<()> {
        if let Some(counts) = self.now() {
            counts.acked += 1;
            counts.ack.record(micros(sent.elapsed()))?;
        }
        Ok(())
    }

    fn now(&mut self) -> Option<&mut Counts> {
        let part = self.part.now().checked_sub(1)?;
        self.parts.get_mut(part)
    }
}
