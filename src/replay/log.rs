//! One stream's log, row by row in position order, read in slices.
//!
//! The database keeps readings, turns (switches, resets, epochs) and snapshots apart; here they are one log again. Holds one slice: at
//! most [`SLICE`] rows of each kind. Reads up to the position where the stream stood when it was listed; what commits later is not seen.

use crate::store::history::{History, LoggedSample, LoggedStream, Turn, Turned};
use crate::store::{Place, StoreError, StoredSnapshot};
use std::collections::VecDeque;
use std::iter::Peekable;
use std::vec::IntoIter;

/// Rows of one kind read at once.
pub const SLICE: u32 = 1_024;

/// A row of the log, and the state behind it where it carries one.
#[derive(Debug)]
pub struct LogRow {
    /// Position.
    pub pos: u64,
    /// What it says.
    pub what: Logged,
    /// The model state behind it.
    pub snapshot: Option<StoredSnapshot>,
}

/// What a row says.
#[derive(Debug)]
pub enum Logged {
    /// A reading and its prediction.
    Sample(Box<LoggedSample>),
    /// A switch, a reset or an epoch.
    Turn(Turned),
    /// Nothing that a fold needs (a refusal, feedback): only its snapshot counts.
    Other,
}

/// Reads one stream's log from front to back.
pub struct LogReader<'a> {
    history: &'a dyn History,
    stream: i64,
    /// Everything up to here was given out; its sample id seeks the next one.
    at: Place,
    until: u64,
    rows: VecDeque<LogRow>,
}

impl<'a> LogReader<'a> {
    /// A reader of what lies behind `from`.
    pub fn new(history: &'a dyn History, stream: &LoggedStream, from: Place) -> Self {
        Self {
            history,
            stream: stream.stream.id,
            at: from,
            until: stream.pos,
            rows: VecDeque::new(),
        }
    }

    /// The next slice; empty at the end of the log.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub async fn next_slice(&mut self) -> Result<VecDeque<LogRow>, StoreError> {
        while self.rows.is_empty() && self.at.pos < self.until {
            self.fill().await?;
        }
        Ok(std::mem::take(&mut self.rows))
    }

    /// Reads a slice of each kind and merges what lies within the shortest.
    async fn fill(&mut self) -> Result<(), StoreError> {
        let (history, stream, after) = (self.history, self.stream, self.at.pos);
        let mut samples = history.samples_after(stream, self.at, SLICE).await?;
        samples.retain(|sample| sample.pos <= self.until);
        let mut to = end_of(&samples, |sample| sample.pos).unwrap_or(self.until);
        let turns = history.turns(stream, after, to, SLICE).await?;
        to = end_of(&turns, |turn| turn.pos).unwrap_or(to);
        let snapshots = history.snapshots(stream, after, to, SLICE).await?;
        to = end_of(&snapshots, |snapshot| snapshot.place.pos).unwrap_or(to);
        samples.retain(|sample| sample.pos <= to);
        self.at = Place {
            sample_id: samples.last().map_or(self.at.sample_id, |sample| sample.id),
            pos: to,
        };
        self.rows = merge(samples, turns, snapshots, to);
        Ok(())
    }
}

/// Where a full slice ends; one that is not full reaches as far as was asked.
fn end_of<T>(slice: &[T], pos: impl Fn(&T) -> u64) -> Option<u64> {
    let is_full = slice.len() >= SLICE as usize;
    slice.last().filter(|_| is_full).map(pos)
}

/// One log of three lists, each in position order, up to `to`.
fn merge(
    samples: Vec<LoggedSample>,
    turns: Vec<Turn>,
    snapshots: Vec<StoredSnapshot>,
    to: u64,
) -> VecDeque<LogRow> {
    let mut samples = samples.into_iter().peekable();
    let mut turns = turns.into_iter().peekable();
    let mut snapshots = snapshots.into_iter().peekable();
    let mut rows = VecDeque::with_capacity(samples.len() + turns.len());
    loop {
        let heads = [
            samples.peek().map(|sample| sample.pos),
            turns.peek().map(|turn| turn.pos),
            snapshots.peek().map(|snapshot| snapshot.place.pos),
        ];
        let Some(pos) = heads.into_iter().flatten().min().filter(|pos| *pos <= to) else {
            return rows;
        };
        let what = match take_at(&mut samples, pos, |sample| sample.pos) {
            Some(sample) => Logged::Sample(Box::new(sample)),
            None => match take_at(&mut turns, pos, |turn| turn.pos) {
                Some(turn) => Logged::Turn(turn.what),
                None => Logged::Other,
            },
        };
        let snapshot = take_at(&mut snapshots, pos, |snapshot| snapshot.place.pos);
        rows.push_back(LogRow {
            pos,
            what,
            snapshot,
        });
    }
}

fn take_at<T>(list: &mut Peekable<IntoIter<T>>, pos: u64, pos_of: impl Fn(&T) -> u64) -> Option<T> {
    list.next_if(|item| pos_of(item) == pos)
}
