//! Stages that look at past rows: differences, lags, windows. Before a stream has enough rows, its first one stands for the missing.

use super::Moment;
use super::map::Map;

/// A ring of rows in a state: `[rows held][head][ring]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ring {
    pub rows: usize,
    pub width: usize,
}

const HELD: usize = 0;
const HEAD: usize = 1;
const RING: usize = 2;

impl Ring {
    pub(super) fn len(self) -> usize {
        RING + self.rows * self.width
    }

    pub(super) fn clear(state: &mut [f32]) {
        state[HELD] = 0.0;
        state[HEAD] = 0.0;
    }

    /// Rows put in since it was empty, at most `rows`.
    pub(super) fn held(state: &[f32]) -> usize {
        state[HELD] as usize
    }

    /// Puts `row` in; into an empty ring as often as it has places.
    pub(super) fn push(self, state: &mut [f32], row: &[f32]) {
        let (head, is_empty) = (state[HEAD] as usize % self.rows, state[HELD] == 0.0);
        let ring = &mut state[RING..];
        if is_empty {
            ring.chunks_exact_mut(self.width)
                .for_each(|place| place.copy_from_slice(row));
        } else {
            ring[head * self.width..][..self.width].copy_from_slice(row);
        }
        state[HEAD] = ((head + 1) % self.rows) as f32;
        state[HELD] = (state[HELD] + 1.0).min(self.rows as f32);
    }

    /// The row put in `age` rows before the newest one; `age` is below `rows`.
    pub(super) fn row(self, state: &[f32], age: usize) -> &[f32] {
        let newest = state[HEAD] as usize + self.rows - 1;
        let place = (newest + self.rows - age) % self.rows;
        &state[RING + place * self.width..][..self.width]
    }
}

/// `x[t] - x[t - lag]`, in place of the row or behind it.
pub(super) struct Differences {
    pub ring: Ring,
    pub keep: bool,
}

impl Map for Differences {
    fn outputs(&self) -> usize {
        self.ring.width * (1 + usize::from(self.keep))
    }

    fn buffers(&self) -> Vec<(&'static str, usize)> {
        vec![("rows", self.ring.len())]
    }

    fn forget(&self, state: &mut [f32]) {
        Ring::clear(state);
    }

    fn looks_back(&self) -> usize {
        self.ring.rows - 1
    }

    fn apply(&self, state: &mut [f32], _: &[f32], row: &[f32], output: &mut [f32], _: Moment) {
        self.ring.push(state, row);
        let (kept, output) = output.split_at_mut(if self.keep { row.len() } else { 0 });
        if self.keep {
            kept.copy_from_slice(row);
        }
        let earlier = self.ring.row(state, self.ring.rows - 1);
        for ((output, x), earlier) in output.iter_mut().zip(row).zip(earlier) {
            *output = x - earlier;
        }
    }

    fn restores(&self) -> bool {
        self.keep
    }
}

/// The row, and earlier ones behind it.
pub(super) struct Earlier {
    pub ring: Ring,
    pub lags: Vec<usize>,
}

impl Map for Earlier {
    fn outputs(&self) -> usize {
        self.ring.width * (1 + self.lags.len())
    }

    fn buffers(&self) -> Vec<(&'static str, usize)> {
        vec![("rows", self.ring.len())]
    }

    fn forget(&self, state: &mut [f32]) {
        Ring::clear(state);
    }

    fn looks_back(&self) -> usize {
        self.ring.rows - 1
    }

    fn apply(&self, state: &mut [f32], _: &[f32], row: &[f32], output: &mut [f32], _: Moment) {
        self.ring.push(state, row);
        let ages = [0].into_iter().chain(self.lags.iter().copied());
        for (place, age) in output.chunks_exact_mut(self.ring.width).zip(ages) {
            place.copy_from_slice(self.ring.row(state, age));
        }
    }
}

/// The last rows end to end, oldest first.
pub(super) struct Window {
    pub ring: Ring,
}

impl Map for Window {
    fn outputs(&self) -> usize {
        self.ring.width * self.ring.rows
    }

    fn buffers(&self) -> Vec<(&'static str, usize)> {
        vec![("rows", self.ring.len())]
    }

    fn forget(&self, state: &mut [f32]) {
        Ring::clear(state);
    }

    fn looks_back(&self) -> usize {
        self.ring.rows - 1
    }

    fn apply(&self, state: &mut [f32], _: &[f32], row: &[f32], output: &mut [f32], _: Moment) {
        self.ring.push(state, row);
        let ages = (0..self.ring.rows).rev();
        for (place, age) in output.chunks_exact_mut(self.ring.width).zip(ages) {
            place.copy_from_slice(self.ring.row(state, age));
        }
    }
}
