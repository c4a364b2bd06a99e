//! What only reads: one use case per file, with its errors.

pub mod history;
pub mod message;
