//! Use cases, and the ports that they need. Knows no technology.
//!
//! Read [`ports`] first: their doc comments are the contracts. Then [`commands`] and [`queries`] (one use case per file), `recent` (the pod's
//! memory of the newest events), `dedupe` (which record repeats another) and `services` (the loops that every profile runs: fan-out and
//! history projection). A new use case is a file of its own and a method of [`Application`].
#![warn(missing_docs)]

pub mod ports;

mod application;
pub mod commands;
mod dedupe;
mod fingerprint;
mod history_reader;
mod in_flight;
mod options;
pub mod queries;
mod read_barrier;
mod recent;
mod segments;
mod services;
#[cfg(test)]
mod simulation;
mod single_flight;
mod status;
#[cfg(any(test, feature = "contract-tests"))]
pub mod testing;
mod timeline;

pub use application::Application;
pub use commands::join_scope::{JoinError, JoinScope, Joined, NotRecovered};
pub use commands::send_message::{Accepted, SendError, SendMessage, Sending};
pub use options::{Options, Ports};
pub use queries::history::{HistoryPage, HistoryQuery, HistoryQueryError, Page};
pub use queries::message::{MessageQuery, MessageQueryError};
pub use status::{LoopState, Status};
