//! The fault suite: several hundred clients over a cluster of their own, a nemesis that breaks one thing after the other, a recorder
//! of everything that was done, and a checker that knows the promise and no server.
//!
//! Read in this order: [`run`] (one run from start to verdict), [`clients`] and [`senders`] (the load), [`nemesis`] (what breaks), [`machines`]
//! (services and pods, and the cables between them), [`record`] (the history of a run), [`log`] (the log as an independent reader sees
//! it), [`store`] (the rows of the history store), [`verdict`] (the promise as functions) and [`report`] (the figures).

pub mod clients;
pub mod log;
pub mod machines;
pub mod nemesis;
pub mod record;
pub mod report;
pub mod run;
pub mod senders;
pub mod store;
pub mod verdict;
pub mod watch;
