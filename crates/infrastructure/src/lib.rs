//! Adapters: each is one port of the application over one technology, and nothing else. No rule of the chat is decided here.
//!
//! Read [`record`] first (the one form of an event that leaves the process), then [`embedded`] (SQLite and memory). A new adapter is a
//! module beside them that passes the suites in `chatify_application::ports::contract`.
#![warn(missing_docs)]

pub mod embedded;
pub mod kafka;
pub mod record;
pub mod redis;
pub mod scylla;
