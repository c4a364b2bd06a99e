//! The one binary: transports, configuration, life and death. `main.rs` is a page over this library.
//!
//! Read [`bootstrap`] first (how the parts are wired), then [`lifecycle`] (how they end), [`realtime`] and [`signalr`] (live messages), [`http`] (REST, the
//! event stream and pages), [`net`] (sockets), [`auth`], [`error`] (the one table of errors), [`config`], [`dependencies`], [`metrics`],
//! [`telemetry`] and [`operations`] (what the command line can ask and do beside a running server).

pub mod auth;
pub mod bootstrap;
pub mod cli;
pub mod config;
pub mod dependencies;
pub mod error;
pub mod fuzz;
pub mod http;
pub mod lifecycle;
pub mod metrics;
pub mod net;
pub mod operations;
pub mod realtime;
pub mod signalr;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod welcome;
