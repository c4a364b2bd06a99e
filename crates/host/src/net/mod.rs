//! From the listening socket to HTTP requests and upgraded sockets.
//!
//! [`listener`] accepts, bounds and times connections (`axum::serve` sets no deadline for a request's head); [`upgrade`] turns a request into a
//! WebSocket.

pub mod listener;
pub mod upgrade;
