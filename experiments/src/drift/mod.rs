//! What is not as it was: the inputs of a version, its output, and its errors.
//!
//! [`histogram`] keeps a reference and live windows in bounded, mergeable counts; [`distance`] compares them (PSI, KS, chi-square);
//! [`cusum`] watches residuals reading by reading; [`fleet`] turns the answers of many devices into few alarms. The reference is frozen
//! and stored with the version; a live window never changes it.

pub mod cusum;
pub mod distance;
pub mod fleet;
pub mod histogram;

pub use cusum::Cusum;
pub use histogram::{Counts, Reference};
