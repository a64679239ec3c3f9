//! Mean, standard deviation, least and largest value of each column over the last rows; over fewer before there are enough.
//!
//! Each is computed anew from the rows, oldest first, in f64: nothing adds up over the life of a stream.

use serde::Deserialize;

use super::Moment;
use super::history::Ring;
use super::map::Map;

/// A number over the last rows of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statistic {
    /// The arithmetic mean.
    Mean,
    /// The standard deviation, by the number of rows (not one less); 0 for one row.
    Std,
    /// The least value.
    Min,
    /// The largest value.
    Max,
}

pub(super) struct Rolled {
    pub ring: Ring,
    pub of: Vec<Statistic>,
    pub keep: bool,
}

impl Rolled {
    fn statistic(&self, state: &[f32], held: usize, column: usize, of: Statistic) -> f32 {
        let values = || (0..held).rev().map(|age| self.ring.row(state, age)[column]);
        let mean = || values().map(f64::from).sum::<f64>() / held as f64;
        match of {
            Statistic::Mean => mean() as f32,
            Statistic::Std => {
                let mean = mean();
                let off = |value: f32| f64::from(value) - mean;
                let squares: f64 = values().map(|value| off(value) * off(value)).sum();
                (squares / held as f64).sqrt() as f32
            }
            // Not `min` and `max`: of 0 and -0 they may give either.
            Statistic::Min => values()
                .reduce(|a, b| if b < a { b } else { a })
                .unwrap_or(0.0),
            Statistic::Max => values()
                .reduce(|a, b| if b > a { b } else { a })
                .unwrap_or(0.0),
        }
    }
}

impl Map for Rolled {
    fn outputs(&self) -> usize {
        self.ring.width * (self.of.len() + usize::from(self.keep))
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
        let held = Ring::held(state);
        let (kept, output) = output.split_at_mut(if self.keep { row.len() } else { 0 });
        if self.keep {
            kept.copy_from_slice(row);
        }
        for (place, of) in output.chunks_exact_mut(row.len()).zip(&self.of) {
            for (column, output) in place.iter_mut().enumerate() {
                *output = self.statistic(state, held, column, *of);
            }
        }
    }

    fn restores(&self) -> bool {
        self.keep
    }
}
