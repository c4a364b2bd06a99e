//! What every layer of Chatify may use and that knows nothing about chat.
//!
//! Read in this order: [`clock`] (the only reader of the wall clock), [`error`] (what a failure means to a
//! caller), [`mod@text_id`] (how ids get their own types), [`correlation`], [`backoff`], [`random`], [`tasks`] (the only
//! place that spawns) and [`seeded_bugs`] (what the fault suite must find). To add something here, ask first whether a second layer really needs it.
#![warn(missing_docs)]

pub mod backoff;
pub mod clock;
pub mod correlation;
pub mod error;
pub mod random;
pub mod seeded_bugs;
pub mod tasks;
pub mod text_id;
