//! What can go wrong with Redis, and what it says about Redis's health.

use chatify_building_blocks::error::{Classify, ErrorKind};
use redis::{RedisError, ServerErrorKind};

/// Why there is no connection object. Redis being away is none of these: that is a state, see
/// [`RedisConnection`](super::RedisConnection).
#[derive(Debug, thiserror::Error)]
pub enum RedisStartError {
    /// The connection string cannot be used. It may hold a password, so only what is wrong with it is said.
    #[error("the connection string of Redis {0}")]
    ConnectionString(&'static str),
    /// The prefix would take the hash tag's place.
    #[error("the key prefix of Redis must not contain `{{` or `}}`")]
    KeyPrefix,
    /// The driver refuses the combination of options, TLS among them.
    #[error("these options of Redis cannot be used")]
    Client(#[source] RedisError),
}

impl Classify for RedisStartError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::ConnectionString(_) | Self::KeyPrefix | Self::Client(_) => ErrorKind::Configuration,
        }
    }
}

/// Why a command has no answer. After [`CallError::Deadline`] and [`CallError::Failed`] it may have had its effect.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// Redis does not answer lately; the command was not sent.
    #[error("redis is away")]
    Away,
    /// Too many commands wait for an answer; this one was not sent.
    #[error("too many commands wait for redis")]
    Overloaded,
    /// The deadline passed.
    #[error("redis did not answer within the deadline")]
    Deadline,
    /// Redis or the connection to it failed.
    #[error("redis did not carry out a command")]
    Failed(#[source] RedisError),
}

/// What a failed command says about Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing: the command itself was wrong, or was not sent.
    Unrelated,
    /// It may be going away.
    Suspect,
    /// The connection is gone.
    Gone,
}

impl CallError {
    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::Away | Self::Overloaded => Verdict::Unrelated,
            Self::Deadline => Verdict::Suspect,
            Self::Failed(error) if error.is_connection_dropped() || error.is_unrecoverable_error() => Verdict::Gone,
            Self::Failed(error) if cannot_serve(error) => Verdict::Suspect,
            Self::Failed(_) => Verdict::Unrelated,
        }
    }
}

/// Whether the server or the way to it is at fault, not the command.
fn cannot_serve(error: &RedisError) -> bool {
    use ServerErrorKind as Server;
    match error.kind() {
        redis::ErrorKind::Server(kind) => match kind {
            Server::BusyLoading
            | Server::ClusterDown
            | Server::MasterDown
            | Server::NoPerm
            | Server::NotBusy
            | Server::ReadOnly
            | Server::TryAgain => true,
            Server::Ask | Server::CrossSlot | Server::ExecAbort | Server::Moved | Server::NoScript | Server::NoSub => {
                false
            }
            // These have no kind of their own in the driver.
            _ => matches!(error.code(), Some("OOM" | "MISCONF" | "NOREPLICAS" | "NOAUTH" | "BUSY")),
        },
        redis::ErrorKind::Extension => {
            matches!(error.code(), Some("OOM" | "MISCONF" | "NOREPLICAS" | "NOAUTH" | "BUSY"))
        }
        redis::ErrorKind::Parse | redis::ErrorKind::UnexpectedReturnType => false,
        // Everything else is the driver's: no route, no authentication, no connection.
        _ => true,
    }
}
