//! The statistics of Tidegate: which version is better, and what has drifted.
//!
//! Pure: no async, no I/O, no clock, no thread but those of [`simulate`]; what it is given decides what it answers. It knows nothing of the
//! other crates. Every module opens with its sources.
//!
//! A tour, in reading order: [`assignment`] (which arm a device is in), [`metric`] (what is measured, and how devices add up), [`plan`]
//! (what is fixed before the start), [`devices`] (one frozen observation a device), [`sequential`] (tests that may be looked at for ever),
//! [`analysis`] (all of it together), [`verdict`] (in words), [`blocks`] (two versions on the same readings), [`bandit`] (arms that learn),
//! [`drift`] (what is not as it was), [`simulate`] (worlds that prove it), [`special`] and [`rng`] (the ground).

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod analysis;
pub mod assignment;
pub mod bandit;
pub mod blocks;
pub mod devices;
pub mod drift;
pub mod metric;
pub mod plan;
pub mod rng;
pub mod sequential;
pub mod simulate;
pub mod special;
pub mod verdict;

pub use analysis::Analysis;
pub use assignment::{Assignment, Split};
pub use metric::{Direction, Form, Metric, Role};
pub use plan::Plan;
pub use verdict::{Report, Verdict};
