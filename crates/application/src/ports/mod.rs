//! What the application needs from the world, as traits. Each doc comment is a contract: an adapter that keeps it (and passes the
//! suite in `contract`, feature `contract-tests`) can take the place of any other.
//!
//! MUST, MUST NOT and MAY are used as in RFC 2119.

#[cfg(any(test, feature = "contract-tests"))]
pub mod contract;
pub mod delivery;
pub mod history;
pub mod log;
pub mod observer;
pub mod presence;
pub mod rate_limit;
pub mod signal;

pub use delivery::{LiveSubscription, LocalDelivery};
pub use history::HistoryStore;
pub use log::{LogAppender, LogGroup, LogTail};
pub use observer::{NoObserver, Observer};
pub use presence::PresenceStore;
pub use rate_limit::RateLimiter;
pub use signal::SignalBus;
