//! Tidegate: live model predictions on sensor streams. One binary between sensors and decisions.
//!
//! The modules in the order a reading passes them: [`ingest`] (bytes to arrivals), [`pipeline`] (admit, step, push, record, on one screen),
//! [`session`] (one stream's place and state), [`inference`] (versions and the step), [`store`] (the durable record), [`push`]
//! (answers and live events). Around them: [`http`] (API, page, upgrades), [`socket`] (the WebSocket stack), [`stream`] (the words
//! that all share), [`config`], [`telemetry`], [`registry`] (versions and their status), [`upkeep`] (roll-ups, retention, room), [`alert`] (what a person should know), [`monitor`] (how devices and versions are), and [`app`], which wires everything. [`client`] is the device's side of the protocol, [`load`] very many devices at once;
//! [`replay`] runs the stored log again, [`export`] writes it out; [`cli`] holds the commands. `docs/ARCHITECTURE.md` has the map.

pub mod alert;
pub mod app;
pub mod cli;
pub mod client;
pub mod config;
pub mod experiment;
pub mod export;
pub mod http;
pub mod inference;
pub mod ingest;
pub mod load;
pub mod monitor;
pub mod pipeline;
pub mod push;
pub mod registry;
pub mod replay;
pub mod session;
pub mod socket;
pub mod store;
pub mod stream;
pub mod telemetry;
pub mod upkeep;
