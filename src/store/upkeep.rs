//! What keeps a database within its bounds: size, retention, roll-ups, copies.
//!
//! A part of the store's trait of its own, because nothing here is on the road. Promises that retiring never takes what a fold
//! needs: behind the newest snapshot before the cut every reading stays, and so do the readings a stream was calibrated on.

use super::rollup::{Bucket, Span};
use super::{Result, StoreError};
use crate::stream::StreamKey;
use futures_util::future::BoxFuture;

/// How large the database is, and how much room is left for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in use; what is free inside the files and the write-ahead log (some MiB) are left out.
    pub bytes: u64,
    /// Bytes left on the disk that holds it; `None` where this server cannot see that disk.
    pub free_bytes: Option<u64>,
}

/// The oldest samples, as much as is retired at once: a range of ids (SQLite) or a day (PostgreSQL).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OldSlice {
    /// Its lowest id.
    pub from: u64,
    /// The id behind its highest.
    pub until: u64,
    /// Arrival of its newest sample, Unix ms.
    pub newest_arrival: i64,
    /// Where days are partitions: Unix day of arrival.
    pub day: Option<i32>,
}

/// How far a consumer of the committed log moves: sample ids before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moves {
    /// Where its offset stands.
    pub from: u64,
    /// Where it goes.
    pub until: u64,
}

impl Moves {
    /// What to do where the offset is found at `found`: go on, or nothing, because it was done before.
    ///
    /// # Errors
    /// An offset that somebody else has moved.
    pub fn check(self, found: u64, consumer: &str) -> Result<bool> {
        match found {
            found if found == self.until => Ok(false),
            found if found == self.from => Ok(true),
            found => Err(StoreError::Corrupt(format!(
                "consumer {consumer}: its offset is {found} and was {}; a second one?",
                self.from
            ))),
        }
    }
}

/// Which roll-ups to read.
#[derive(Debug, Clone)]
pub struct RollupQuery {
    /// Of this stream.
    pub stream: StreamKey,
    /// Minutes or hours.
    pub span: Span,
    /// Beginning at or after, Unix ms.
    pub from: Option<i64>,
    /// Beginning before, Unix ms.
    pub to: Option<i64>,
    /// At most so many, oldest first.
    pub limit: u32,
}

/// See the module.
pub trait Upkeep: Send + Sync + 'static {
    /// How large the database is.
    fn usage(&self) -> BoxFuture<'_, Result<Usage>>;

    /// Every sample from this id on is kept; below it retention has been. Rises in the transaction that deletes, or before it.
    fn first_kept(&self) -> BoxFuture<'_, Result<u64>>;

    /// The oldest samples that are not retired: about `rows` of them, or their whole partition. `None` when there are none.
    fn oldest(&self, rows: u32) -> BoxFuture<'_, Result<Option<OldSlice>>>;

    /// Retires a slice in one transaction: first the readings that its streams were calibrated on (at most `calibration` since a
    /// stream's last reset) are copied out of it, then every sample up to its stream's last snapshot in the slice goes, with
    /// the snapshots, refusals and shadow predictions before it. Returns the samples that went.
    fn retire<'a>(&'a self, slice: &'a OldSlice, calibration: u32) -> BoxFuture<'a, Result<u64>>;

    /// Deletes refusals and feedback that arrived before `before` (Unix ms), the oldest first, at most `most` of each. Returns how many went.
    fn expire_notes(&self, before: i64, most: u32) -> BoxFuture<'_, Result<u64>>;

    /// Gives the room of retired rows back to the disk, a bounded part of it at a time.
    fn shrink(&self) -> BoxFuture<'_, Result<()>>;

    /// The newest sample id that `consumer` of the committed log has taken in.
    fn consumed<'a>(&'a self, consumer: &'a str) -> BoxFuture<'a, Result<u64>>;

    /// Adds to roll-ups and moves the offset of `consumer`, in one transaction: by compare-and-set, so that a try whose outcome was
    /// not known counts once. Nothing happens when the offset stands at the end of `moves` already.
    fn roll_up<'a>(
        &'a self,
        consumer: &'a str,
        moves: Moves,
        buckets: &'a [Bucket],
    ) -> BoxFuture<'a, Result<()>>;

    /// Roll-ups of one stream, oldest first.
    fn rollups<'a>(&'a self, query: &'a RollupQuery) -> BoxFuture<'a, Result<Vec<Bucket>>>;

    /// Deletes roll-ups of a span that were last added to before `before` (Unix ms). Returns how many went.
    fn expire_rollups(&self, span: Span, before: i64) -> BoxFuture<'_, Result<u64>>;
}
