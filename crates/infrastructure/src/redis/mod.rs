//! Presence, limits and signals in Redis.
//!
//! Redis holds nothing that cannot be lost: every adapter says what it does without it, and makes whole what it forgot. All share one
//! [`RedisConnection`] for each pod.

mod breaker;
mod connection;
mod error;
mod keys;
mod ledger;
mod link;
mod options;
mod presence;
mod rate_limiter;
mod signal_bus;
mod signal_codec;

pub use connection::{RedisConnection, RedisCounts, RedisOutage};
pub use error::RedisStartError;
pub use options::RedisOptions;
pub use presence::RedisPresence;
pub use rate_limiter::RedisRateLimiter;
pub use signal_bus::RedisSignalBus;

#[cfg(test)]
mod tests;
