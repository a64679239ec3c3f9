//! What is done to a reading before the network sees it: stages in their order, each maps a row to a row.
//!
//! [`Stage`] is what the manifest says; [`Pipeline`] is the stages fitted to an endpoint's features, with their buffers laid end to
//! end in the stream's state. A missing value is settled first (`missing`; without such a stage the last known value is held), so
//! that later stages see numbers. Calibrated stages learn in the stream's first readings only. No allocation per row, one fixed
//! order of operations.

mod history;
mod map;
mod missing;
mod rolling;
mod stage;
mod standardise;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::manifest::{Feature, Mistake, check};
use crate::network::MAX_WIDTH;

use map::Map;
use missing::Missing;
pub use missing::Policy;
pub use rolling::Statistic;
pub use stage::{
    Bounds, Difference, Lags, Length, MissingConfig, Rolling, SelectConfig, Stage,
    StandardiseConfig,
};

/// Largest size of a value; beyond, it is cut, so that squares stay finite.
pub const LARGEST: f32 = 1e12;

/// Most rows that a stage looks back.
pub const MAX_ROWS: usize = 1024;

/// Most stages.
pub const MAX_STAGES: usize = 16;

/// Where a stream stands in its calibration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// Readings of the calibration taken, this one included.
    pub seen: u32,
    /// Whether this reading belongs to it.
    pub learning: bool,
}

/// A stage at its place: how wide its rows are and where its buffers lie in the state.
struct Placed {
    name: String,
    map: Box<dyn Map>,
    outputs: usize,
    state: Range<usize>,
}

/// Stages fitted to an endpoint.
pub struct Pipeline {
    features: usize,
    missing: Missing,
    stages: Vec<Placed>,
    /// Stages before the first that widens the row: behind them a column is still one feature.
    narrow: usize,
    /// The feature of each column there.
    columns: Vec<usize>,
    width: usize,
    widest: usize,
    state_len: usize,
}

/// The rows a [`Pipeline`] makes of one reading.
pub struct Rows<'r> {
    /// Before the first stage that widens the row; [`Pipeline::base`] floats.
    pub base: &'r mut [f32],
    /// What the network takes; [`Pipeline::width`] floats.
    pub row: &'r mut [f32],
}

impl Pipeline {
    /// Fits `stages` to `features`. A mistake names the stage.
    pub fn new(stages: &[Stage], features: &[Feature]) -> Result<Self, Mistake> {
        check(
            stages.len() <= MAX_STAGES,
            "preprocessing",
            &format!("holds more than {MAX_STAGES} stages"),
        )?;
        let (missing, stages, first) = match stages.split_first() {
            Some((Stage::Missing(config), rest)) => {
                let missing = Missing::new(config, features);
                (
                    missing.map_err(|mistake| mistake.inside("preprocessing[0]"))?,
                    rest,
                    1,
                )
            }
            _ => (Missing::hold(features.len()), stages, 0),
        };
        let mut pipeline = Self {
            features: features.len(),
            state_len: missing.state_len(),
            missing,
            stages: Vec::new(),
            narrow: 0,
            columns: (0..features.len()).collect(),
            width: features.len(),
            widest: features.len(),
        };
        let mut widened = false;
        for (index, stage) in stages.iter().enumerate() {
            let path = format!("preprocessing[{}]", index + first);
            let map = stage.fit(pipeline.width, &mut pipeline.columns, widened, features);
            let map = map.map_err(|mistake| mistake.inside(&path))?;
            pipeline.push(format!("{}.{}", index + first, stage.kind()), map, &path)?;
            widened |= pipeline.width != pipeline.columns.len();
            if !widened {
                pipeline.narrow = index + 1;
            }
        }
        Ok(pipeline)
    }

    fn push(&mut self, name: String, map: Box<dyn Map>, path: &str) -> Result<(), Mistake> {
        let outputs = map.outputs();
        check(
            outputs <= MAX_WIDTH,
            path,
            &format!("makes rows of {outputs} values, more than {MAX_WIDTH}"),
        )?;
        let floats: usize = map.buffers().iter().map(|(_, len)| len).sum();
        let state = self.state_len..self.state_len + floats;
        self.state_len = state.end;
        self.width = outputs;
        self.widest = self.widest.max(outputs);
        self.stages.push(Placed {
            name,
            map,
            outputs,
            state,
        });
        Ok(())
    }

    /// Floats of the row that the network takes.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Floats of the row before the first stage that widens it.
    pub fn base(&self) -> usize {
        self.columns.len()
    }

    /// The feature of each column of the base row.
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// The column of a feature in the base row.
    pub fn column_of(&self, feature: usize) -> Option<usize> {
        self.columns.iter().position(|known| *known == feature)
    }

    /// Floats of the state.
    pub fn state_len(&self) -> usize {
        self.state_len
    }

    /// Floats of scratch for [`Pipeline::run`].
    pub fn scratch_len(&self) -> usize {
        self.features + 2 * self.widest
    }

    /// Rows before the newest that the stages need, all together.
    pub fn looks_back(&self) -> usize {
        self.stages.iter().map(|stage| stage.map.looks_back()).sum()
    }

    /// Whether any stage learns in the calibration.
    pub fn learns(&self) -> bool {
        self.stages.iter().any(|stage| stage.map.learns())
    }

    /// Names and lengths of the buffers, in order.
    pub fn buffers(&self) -> Vec<(String, usize)> {
        let missing = (self.missing.state_len() > 0)
            .then(|| ("missing.last".to_owned(), self.missing.state_len()));
        let stages = self.stages.iter().flat_map(|stage| {
            let name = |(buffer, len): (&str, usize)| (format!("{}.{buffer}", stage.name), len);
            stage.map.buffers().into_iter().map(name)
        });
        missing.into_iter().chain(stages).collect()
    }

    /// Writes the state before the first reading.
    pub fn init(&self, state: &mut [f32]) {
        state.fill(0.0);
        self.missing.init(&mut state[..self.missing.state_len()]);
    }

    /// Drops past rows, keeps what was learned and the last known values.
    pub fn forget(&self, state: &mut [f32]) {
        for stage in &self.stages {
            stage.map.forget(&mut state[stage.state.clone()]);
        }
    }

    /// The first feature whose missing value makes this reading unanswerable.
    pub fn refuses(&self, values: &[f32]) -> Option<usize> {
        self.missing.refuses(values)
    }

    /// One reading through every stage; what `scratch` holds before does not matter.
    pub fn run(
        &self,
        state: &mut [f32],
        values: &[f32],
        now: Moment,
        rows: Rows<'_>,
        scratch: &mut [f32],
    ) {
        let (present, scratch) = scratch.split_at_mut(self.features);
        let (mut front, rest) = scratch.split_at_mut(self.widest);
        let mut back = &mut rest[..self.widest];
        for (present, value) in present.iter_mut().zip(values) {
            *present = f32::from(value.is_finite());
        }
        self.missing
            .apply(state, values, &mut back[..self.features]);
        let mut width = self.features;
        for (index, stage) in self.stages.iter().enumerate() {
            if index == self.narrow {
                rows.base.copy_from_slice(&back[..width]);
            }
            let state = &mut state[stage.state.clone()];
            let (input, output) = (&back[..width], &mut front[..stage.outputs]);
            stage.map.apply(state, present, input, output, now);
            width = stage.outputs;
            std::mem::swap(&mut front, &mut back);
        }
        if self.narrow == self.stages.len() {
            rows.base.copy_from_slice(&back[..width]);
        }
        rows.row.copy_from_slice(&back[..width]);
    }

    /// Whether [`Pipeline::restore`] can undo the stages before the base row.
    pub fn restores(&self) -> bool {
        self.stages[..self.narrow]
            .iter()
            .all(|stage| stage.map.restores())
    }

    /// A value of a base column in the units of the feature.
    pub fn restore(&self, state: &[f32], mut column: usize, mut value: f32, now: Moment) -> f32 {
        for stage in self.stages[..self.narrow].iter().rev() {
            let state = &state[stage.state.clone()];
            (column, value) = stage.map.restore(state, column, value, now);
        }
        value
    }
}
