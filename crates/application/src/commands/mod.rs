//! What changes something: one use case per file, with its errors.

pub mod join_scope;
pub mod leave_scope;
pub mod send_message;
