//! The newest committed samples, kept in memory so that a subscriber who was away for a moment does not ask the store.
//!
//! Owns batches as the writer gave them out, shared and never copied; bounded in bytes, the oldest batch goes first. Promises that every row
//! behind `floor` is there: a hole would be a lie, so whoever finds one resets the ring. Pure.

use super::flow::{Batch, Committed};
use super::weight;
use crate::stream::SampleRow;
use std::collections::VecDeque;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub struct Ring {
    kept: VecDeque<Kept>,
    /// Rows up to here are not known.
    floor: u64,
    bytes: usize,
    most_bytes: usize,
}

#[derive(Debug)]
struct Kept {
    rows: Arc<Batch>,
    last: u64,
    bytes: usize,
}

impl Ring {
    /// An empty ring at a place of the log.
    pub fn new(floor: u64, most_bytes: usize) -> Self {
        Self {
            kept: VecDeque::new(),
            floor,
            bytes: 0,
            most_bytes,
        }
    }

    /// Keeps a batch that follows on what is kept. What had to go for it is returned: its rows are long out of the processor's
    /// caches, so the caller lets them go outside of its lock.
    #[must_use]
    pub fn push(&mut self, rows: &Arc<Batch>) -> Vec<Arc<Batch>> {
        let Some(&(last, _)) = rows.last() else {
            return Vec::new();
        };
        let bytes = rows.iter().map(|(_, row)| held_bytes(row)).sum();
        self.bytes += bytes;
        self.kept.push_back(Kept {
            rows: Arc::clone(rows),
            last,
            bytes,
        });
        let mut gone = Vec::new();
        while self.bytes > self.most_bytes
            && let Some(oldest) = self.kept.pop_front()
        {
            self.bytes -= oldest.bytes;
            self.floor = oldest.last;
            gone.push(oldest.rows);
        }
        gone
    }

    /// Forgets everything: rows up to `floor` went by without coming through here.
    pub fn reset(&mut self, floor: u64) {
        *self = Self::new(floor, self.most_bytes);
    }

    /// Whether every row after `at` is here.
    pub fn reaches(&self, at: u64) -> bool {
        at >= self.floor
    }

    /// Rows after `at`, rising.
    pub fn after(&self, at: u64) -> impl Iterator<Item = &Committed> {
        let first = self.kept.partition_point(|kept| kept.last <= at);
        let rows = self.kept.range(first..).flat_map(|kept| kept.rows.iter());
        rows.skip_while(move |(id, _)| *id <= at)
    }

    /// Bytes that the kept rows hold.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Memory of a row, without what it shares with every row of its stream.
fn held_bytes(row: &SampleRow) -> usize {
    /// Counts of the `Arc`, and headers of the allocator for the row and its values.
    const OVERHEAD: usize = 48;
    let inline = size_of::<SampleRow>() + size_of::<Committed>() + OVERHEAD;
    inline + size_of_val(&*row.values) + weight::of_output(&row.output)
}
