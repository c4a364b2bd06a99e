//! The loops that run for as long as the process does, over ports, the same for every profile.

pub(crate) mod fanout;
pub(crate) mod history_lag;
pub(crate) mod history_projection;
pub(crate) mod presence_lease;
mod standstill;
