//! The whole server from outside: devices, subscribers, a broker and HTTP clients against a running Tidegate.
//!
//! One binary, because linking is what costs. A module holds one side of the promise; `common` holds the server under test and
//! its peers. Every wait is for a message and has a deadline; every port and folder is the test's own.

#[allow(
    dead_code,
    unused_imports,
    reason = "peers and servers for the modules that follow"
)]
mod common;

mod alerts;
mod connections;
mod copies;
mod devices;
mod experiments;
mod faults;
mod http;
mod lifecycle;
mod live;
mod log;
mod monitor;
mod mqtt;
mod numbers;
mod oip;
mod postgres;
mod refusals;
mod restart;
mod shadows;
mod start;
mod stop;
mod upkeep;
mod versions;
