//! The harness of the end-to-end suites: it starts the real binary and speaks to it over its public surfaces only.
//!
//! Read in this order: [`profile`] (embedded or cluster), [`server`] (one process or three pods), made of [`home`] (what outlives
//! it), [`pod`] (a process and its log), [`cluster`] (services and names, [`cql`] to clean them) and [`link`] (load balancer and
//! cables that can be cut); [`http`] and [`hub`] (well-behaved clients),
//! [`raw`] (a client that can misbehave), [`records`] and [`messagepack`] (the hub protocol's wire), [`checker`] (the
//! promise as a function over what clients saw), [`process`] (what the server holds), [`tokens`] (tokens nobody should
//! accept), [`waiting`] (deadlines) and [`seeds`] (randomness that repeats itself). The suites are in `tests/it`, programs that
//! measure in `examples`; [`measure`] is what they share.
#![warn(missing_docs)]

pub mod checker;
pub mod cluster;
pub mod cql;
pub mod faults;
pub mod home;
pub mod http;
pub mod hub;
pub mod link;
pub mod measure;
pub mod message;
pub mod messagepack;
pub mod pod;
pub mod process;
pub mod profile;
pub mod raw;
pub mod records;
pub mod seeds;
pub mod server;
pub mod tokens;
pub mod waiting;
