//! Everything that leaves the server: a device's own answers, and events for whoever listens.
//!
//! [`Outbox`] belongs to one device's door. The [`Hub`] is fed from the committed log alone and gives it out through `flow`, which knows who
//! listens to what; `recover` brings a subscription there from where it was; a [`live`] task owns one subscriber's socket. An event is encoded once a codec
//! and its bytes are shared; each subscriber has its own bounded queue and policy, so a slow one never slows another.

mod event;
mod flow;
#[cfg(test)]
mod flow_tests;
mod hub;
#[cfg(test)]
mod hub_tests;
mod linger;
pub mod live;
mod outbox;
mod reach;
mod recover;
mod ring;
mod snapshot;
mod subscriber;
#[cfg(test)]
mod subscriber_tests;
mod topics;
mod weight;

pub use event::Event;
pub use flow::Listener;
pub use hub::{Hub, HubFeed};
pub use linger::{Linger, Lingering};
pub use outbox::{Closing, Drained, OUTBOX_MESSAGES, Outbox};
pub use recover::{RecoverError, Recovery, Subscribed};
pub use subscriber::Subscriber;
pub use topics::{Pattern, TopicError};
