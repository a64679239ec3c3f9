//! What goes on behind the road to keep the store within its bounds: roll-ups, retention, the room that is left.
//!
//! Two tasks. `gather` follows the committed log and adds it up by minute and hour; `keep` looks at the disk once a second and retires the oldest
//! samples every ten, by age and by size. Promises that nothing is retired before it is rolled up, nor what a fold needs (the store's
//! part). Never in the way of a reading for longer than one slice takes; does not decide what a reading is worth.

mod gather;
mod keep;

pub use gather::{Feed, Gatherer};
pub use keep::Keeper;
