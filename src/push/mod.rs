//! Everything that leaves the server: a device's own answers, and events for whoever listens.
//!
//! [`Outbox`] belongs to one device's door. The [`Hub`] knows who listens to what and is fed from the committed log alone; a
//! [`live`] task owns one subscriber's socket. An event is encoded once a codec and its bytes are shared; each
//! subscriber has its own bounded queue and policy, so a slow one never slows another.

mod event;
mod hub;
pub mod live;
mod outbox;
mod subscriber;
mod topics;

pub use event::Event;
pub use hub::{Hub, HubFeed, Subscribed};
pub use outbox::{Closing, Drained, OUTBOX_MESSAGES, Outbox};
pub use subscriber::Subscriber;
pub use topics::{Pattern, TopicError};
