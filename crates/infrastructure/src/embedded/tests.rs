//! The contract suites over the embedded adapters, and what is true of these alone.

mod damage;
mod faults;
mod fixture;
mod log;

use fixture::{Fixture, MemoryFixture};

chatify_application::log_contract!(Fixture::new());
chatify_application::history_contract!(Fixture::new());
chatify_application::presence_contract!(MemoryFixture::new());
chatify_application::rate_limit_contract!(MemoryFixture::new());
