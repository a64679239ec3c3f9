//! What a stage is to the pipeline, and the stages without a state of their own.

use super::Moment;

/// A row to a row.
pub(super) trait Map: Send + Sync {
    /// Floats of a row that it gives.
    fn outputs(&self) -> usize;

    /// Names and lengths of its buffers; together the state it is given, all zero before the first row.
    fn buffers(&self) -> Vec<(&'static str, usize)> {
        Vec::new()
    }

    /// Drops past rows, keeps what was learned.
    fn forget(&self, _state: &mut [f32]) {}

    /// Rows before the newest that it needs.
    fn looks_back(&self) -> usize {
        0
    }

    /// Whether it learns in the calibration.
    fn learns(&self) -> bool {
        false
    }

    /// One row. `present` says of each feature of the endpoint whether its value came with this reading.
    fn apply(
        &self,
        state: &mut [f32],
        present: &[f32],
        row: &[f32],
        output: &mut [f32],
        now: Moment,
    );

    /// Whether [`Map::restore`] undoes it.
    fn restores(&self) -> bool {
        true
    }

    /// A value of a column of its output: the column of its input, and the value there.
    fn restore(&self, _state: &[f32], column: usize, value: f32, _now: Moment) -> (usize, f32) {
        (column, value)
    }
}

/// Columns of the row, in another order or not all of them.
pub(super) struct Select {
    pub columns: Vec<usize>,
}

impl Map for Select {
    fn outputs(&self) -> usize {
        self.columns.len()
    }

    fn apply(&self, _: &mut [f32], _: &[f32], row: &[f32], output: &mut [f32], _: Moment) {
        for (output, column) in output.iter_mut().zip(&self.columns) {
            *output = row[*column];
        }
    }

    fn restore(&self, _: &[f32], column: usize, value: f32, _: Moment) -> (usize, f32) {
        (self.columns[column], value)
    }
}

/// Values held between two bounds.
pub(super) struct Clip {
    pub width: usize,
    pub low: f32,
    pub high: f32,
}

impl Map for Clip {
    fn outputs(&self) -> usize {
        self.width
    }

    fn apply(&self, _: &mut [f32], _: &[f32], row: &[f32], output: &mut [f32], _: Moment) {
        for (output, x) in output.iter_mut().zip(row) {
            *output = x.clamp(self.low, self.high);
        }
    }
}
