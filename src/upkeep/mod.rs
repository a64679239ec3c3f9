//! What goes on behind the road to keep the store within its bounds: roll-ups, retention, the room that is left.
//!
//! `feed` is the committed log for whoever must not make the writer wait. Two tasks: `gather` follows the committed log and adds it up by minute and hour; `keep` looks at the disk once a second and retires the oldest
//! samples every ten, by age and by size. Promises that nothing is retired before it is rolled up, nor what a fold needs (the store's
//! part). Never in the way of a reading for longer than one slice takes; does not decide what a reading is worth.

mod feed;
mod gather;
mod keep;

pub use feed::{Feed, Follower, Portion};
pub use gather::Gatherer;
pub use keep::Keeper;
