//! What the CQL adapter can be told.

use super::session::{self, ConnectError};
use secrecy::SecretString;
use std::path::PathBuf;
use std::time::Duration;

/// The port of a contact point that names none.
const DEFAULT_PORT: u16 = 9042;
/// A keyspace's name has at most so many characters, in Cassandra and in ScyllaDB.
const KEYSPACE_MAX_CHARS: usize = 48;

/// Options of [`super::ScyllaHistory`] and [`super::migrate`].
#[derive(Clone, Debug)]
pub struct ScyllaOptions {
    /// `host:port` or `host` of some nodes, by which the others are found.
    pub contact_points: Vec<String>,
    /// The keyspace: a lower-case letter, then lower-case letters, digits and `_`, at most 48.
    pub keyspace: String,
    /// Copies of each row in each data centre. Used only when the keyspace has to be made.
    pub replication_factor: u16,
    /// The only data centre that is asked, also when all of its nodes are away; `None` takes any. Needed when there are several, because `LOCAL_QUORUM` is
    /// local to the node that is asked.
    pub local_datacenter: Option<String>,
    /// Who logs in; needs a password.
    pub username: Option<String>,
    /// The password of `username`.
    pub password: Option<SecretString>,
    /// `None` talks in the clear.
    pub tls: Option<TlsOptions>,
    /// How long a call on the history may take, with all its requests and pages.
    pub request_timeout: Duration,
    /// How long opening a connection may take.
    pub connect_timeout: Duration,
    /// How many copies answer a read.
    pub read_consistency: Consistency,
    /// How many copies have a row when its write returns.
    pub write_consistency: Consistency,
    /// Whether [`super::ScyllaHistory::connect`] brings the schema up to date. Without it the schema has to be there.
    pub migrate_at_start: bool,
}

/// How the nodes of the store are trusted. They are reached by address, so their certificates must name their IP addresses.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// The certificates (PEM) of the authorities that are trusted; `None` trusts those of the machine.
    pub ca_file: Option<PathBuf>,
}

/// How many copies of a row take part in a read or a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// One copy in the local data centre. For reads: it may be a copy that the newest rows have not reached, so a page may lack them although it says
    /// that it is complete.
    LocalOne,
    /// More than half of the copies in the local data centre.
    LocalQuorum,
    /// More than half of all copies.
    Quorum,
}

/// An option that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("scylla.{field} {problem}")]
pub struct OptionsError {
    /// The option's name.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl ScyllaOptions {
    /// The defaults, for the store at these contact points.
    #[must_use]
    pub fn new(contact_points: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            contact_points: contact_points.into_iter().map(Into::into).collect(),
            keyspace: "chatify".into(),
            replication_factor: 3,
            local_datacenter: None,
            username: None,
            password: None,
            tls: None,
            request_timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(5),
            read_consistency: Consistency::LocalQuorum,
            write_consistency: Consistency::LocalQuorum,
            migrate_at_start: true,
        }
    }

    /// Checks what can be checked without a store.
    ///
    /// # Errors
    /// The first option that cannot work.
    pub fn validate(&self) -> Result<(), OptionsError> {
        let rules = [
            (!self.contact_points.is_empty(), "contact_points", "must name at least one node"),
            (self.contact_points.iter().all(|point| !point.trim().is_empty()), "contact_points", "must not be blank"),
            (
                is_keyspace(&self.keyspace),
                "keyspace",
                "must be a lower-case letter, then lower-case letters, digits and `_`, at most 48",
            ),
            (self.replication_factor > 0, "replication_factor", "must be at least 1"),
            (
                self.username.is_some() == self.password.is_some(),
                "username",
                "and scylla.password must be given together",
            ),
            (!self.request_timeout.is_zero(), "request_timeout", "must be longer than zero"),
            (!self.connect_timeout.is_zero(), "connect_timeout", "must be longer than zero"),
            (
                self.write_consistency != Consistency::LocalOne,
                "write_consistency",
                "must be a quorum: an answered write has to be durable",
            ),
        ];
        match rules.into_iter().find(|(holds, _, _)| !holds) {
            Some((_, field, problem)) => Err(OptionsError { field, problem }),
            None => Ok(()),
        }
    }

    /// Reads the certificates of [`TlsOptions::ca_file`], when one is named, as a connection will. Asks no store.
    ///
    /// # Errors
    /// When the file cannot be read or holds nothing that can be trusted.
    pub fn check_authorities(&self) -> Result<(), ConnectError> {
        match &self.tls {
            Some(tls) if tls.ca_file.is_some() => session::client_config(tls).map(drop),
            Some(_) | None => Ok(()),
        }
    }

    /// The contact points, each with a port.
    pub(super) fn nodes(&self) -> impl Iterator<Item = String> + '_ {
        self.contact_points.iter().map(|point| with_port(point.trim()))
    }
}

impl Consistency {
    pub(super) const fn to_driver(self) -> scylla::statement::Consistency {
        match self {
            Self::LocalOne => scylla::statement::Consistency::LocalOne,
            Self::LocalQuorum => scylla::statement::Consistency::LocalQuorum,
            Self::Quorum => scylla::statement::Consistency::Quorum,
        }
    }
}

/// The name stands unquoted in statements, so nothing else may be in it.
fn is_keyspace(name: &str) -> bool {
    name.len() <= KEYSPACE_MAX_CHARS
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .chars()
            .all(|character| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_')
}

fn with_port(point: &str) -> String {
    let is_bare_ipv6 = point.parse::<std::net::Ipv6Addr>().is_ok();
    let has_port = !is_bare_ipv6 && point.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    match (has_port, is_bare_ipv6) {
        (true, _) => point.to_owned(),
        (false, true) => format!("[{point}]:{DEFAULT_PORT}"),
        (false, false) => format!("{point}:{DEFAULT_PORT}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let good = || ScyllaOptions::new(["127.0.0.1"]);
        assert_eq!(good().validate(), Ok(()));
        let cases: [(&str, ScyllaOptions); 8] = [
            ("contact_points", ScyllaOptions::new(Vec::<String>::new())),
            ("contact_points", ScyllaOptions::new([" "])),
            ("keyspace", ScyllaOptions { keyspace: "a; DROP KEYSPACE b".into(), ..good() }),
            ("keyspace", ScyllaOptions { keyspace: "a".repeat(49), ..good() }),
            ("replication_factor", ScyllaOptions { replication_factor: 0, ..good() }),
            ("username", ScyllaOptions { username: Some("chatify".into()), ..good() }),
            ("request_timeout", ScyllaOptions { request_timeout: Duration::ZERO, ..good() }),
            ("write_consistency", ScyllaOptions { write_consistency: Consistency::LocalOne, ..good() }),
        ];
        for (field, options) in cases {
            assert_eq!(options.validate().map_err(|error| error.field), Err(field));
        }
    }

    #[test]
    fn a_contact_point_without_a_port_gets_the_usual_one() {
        for (given, expected) in [
            ("127.0.0.1", "127.0.0.1:9042"),
            ("scylla-0.chat:19042", "scylla-0.chat:19042"),
            ("scylla", "scylla:9042"),
            ("::1", "[::1]:9042"),
            ("[::1]:19042", "[::1]:19042"),
            ("[::1]", "[::1]:9042"),
        ] {
            assert_eq!(with_port(given), expected);
        }
    }

    #[test]
    fn the_password_is_not_printed() {
        let options = ScyllaOptions { password: Some("swordfish".into()), ..ScyllaOptions::new(["a"]) };
        assert!(!format!("{options:?}").contains("swordfish"));
    }
}
