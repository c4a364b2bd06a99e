//! How Redis is reached.

use super::error::RedisStartError;
use super::link::Connector;
use chatify_building_blocks::backoff::Backoff;
use chatify_domain::PodId;
use redis::{ConnectionInfo, IntoConnectionInfo};
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;

/// Where Redis is and how patient the pod is with it. [`RedisOptions::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// `redis://[user:password@]host[:port][/database]`, `rediss://…` (TLS), or `redis+cluster://host1,host2,…` and
    /// `rediss+cluster://…` for a cluster; several hosts mean a cluster anyway. Never printed.
    pub connection_string: SecretString,
    /// This pod: the owner of its presence entries, and its name in Redis's list of clients.
    pub pod: PodId,
    /// The most that a request waits for a command: 50 ms.
    pub deadline: Duration,
    /// The most that one try to connect takes: 1 s. Requests do not wait for it.
    pub connect_timeout: Duration,
    /// Put before every key and channel, so that several deployments can share a Redis. Must not contain braces. Empty.
    pub key_prefix: String,
    /// For how long a pod that fell silent counts as alive: 45 s, three of its renewals.
    pub lease: Duration,
    /// How often a connection without trouble is looked after: 1 s.
    pub health_interval: Duration,
    /// The waits between tries while Redis is away: 100 ms, growing to 500 ms, so that it is back within 2 s of its return.
    pub reconnect: Backoff,
    /// Certificate authorities in PEM that replace the system's, for TLS.
    pub certificate_authorities: Option<Vec<u8>>,
}

impl RedisOptions {
    /// The defaults for `pod`.
    #[must_use]
    pub fn new(connection_string: SecretString, pod: PodId) -> Self {
        Self {
            connection_string,
            pod,
            deadline: Duration::from_millis(50),
            connect_timeout: Duration::from_secs(1),
            key_prefix: String::new(),
            lease: Duration::from_secs(45),
            health_interval: Duration::from_secs(1),
            reconnect: Backoff { first: Duration::from_millis(100), cap: Duration::from_millis(500) },
            certificate_authorities: None,
        }
    }

    /// Whether these options can work, as far as that can be said without asking Redis.
    ///
    /// # Errors
    /// What [`RedisConnection::connect`](super::RedisConnection::connect) would refuse.
    pub fn validate(&self) -> Result<(), RedisStartError> {
        Connector::new(self, &self.endpoint()?).map_err(RedisStartError::Client).map(drop)
    }

    /// What the connection string names.
    pub(super) fn endpoint(&self) -> Result<Endpoint, RedisStartError> {
        if self.key_prefix.contains(['{', '}']) {
            return Err(RedisStartError::KeyPrefix);
        }
        Endpoint::parse(self.connection_string.expose_secret())
    }
}

/// One server, or the first servers of a cluster.
#[derive(Clone)]
pub(super) enum Endpoint {
    Single(ConnectionInfo),
    Cluster(Vec<ConnectionInfo>),
}

impl Endpoint {
    fn parse(text: &str) -> Result<Self, RedisStartError> {
        let malformed = RedisStartError::ConnectionString;
        let (scheme, rest) = text.split_once("://").ok_or(malformed("has no scheme such as `redis://`"))?;
        let (scheme, clustered) = match scheme {
            "redis" | "rediss" => (scheme, false),
            "redis+cluster" => ("redis", true),
            "rediss+cluster" => ("rediss", true),
            _ => return Err(malformed("has a scheme other than redis, rediss, redis+cluster or rediss+cluster")),
        };
        let (authority, suffix) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (credentials, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        let nodes = hosts
            .split(',')
            .map(|host| format!("{scheme}://{credentials}{}{suffix}", host.trim()).into_connection_info())
            .collect::<Result<Vec<_>, _>>()
            // The driver's own error is left out: nothing that was made from the text may be printed.
            .map_err(|_| malformed("does not name a host, or has a malformed port, password or database"))?;
        match <[_; 1]>::try_from(nodes) {
            Ok([node]) if !clustered => Ok(Self::Single(node)),
            Ok([node]) => Ok(Self::Cluster(vec![node])),
            Err(nodes) => Ok(Self::Cluster(nodes)),
        }
    }

    /// Every named server.
    pub(super) fn nodes(&self) -> &[ConnectionInfo] {
        match self {
            Self::Single(node) => std::slice::from_ref(node),
            Self::Cluster(nodes) => nodes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::ConnectionAddr;

    fn addresses(text: &str) -> (bool, Vec<String>) {
        let endpoint = Endpoint::parse(text).expect("a valid connection string");
        let addresses = endpoint.nodes().iter().map(|node| node.addr().to_string()).collect();
        (matches!(endpoint, Endpoint::Cluster(_)), addresses)
    }

    #[test]
    fn one_host_is_a_server_and_several_are_a_cluster() {
        assert_eq!(addresses("redis://a"), (false, vec!["a:6379".into()]));
        assert_eq!(addresses("redis://a:1,b:2"), (true, vec!["a:1".into(), "b:2".into()]));
        assert_eq!(addresses("redis+cluster://a:1"), (true, vec!["a:1".into()]));
        assert_eq!(addresses("rediss+cluster://u:p%40,q@a:1, b"), (true, vec!["a:1".into(), "b:6379".into()]));
    }

    #[test]
    fn credentials_database_and_transport_are_taken_over() {
        let endpoint = Endpoint::parse("rediss://chat:se%2Fcret@a:7/3").expect("a valid connection string");
        let node = &endpoint.nodes()[0];
        assert!(matches!(node.addr(), ConnectionAddr::TcpTls { insecure: false, .. }));
        let settings = node.redis_settings();
        assert_eq!((settings.username(), settings.password(), settings.db()), (Some("chat"), Some("se/cret"), 3));
    }

    #[test]
    fn a_malformed_string_is_refused_and_never_printed() {
        for text in
            ["", "a:6379", "http://hunter2@a", "redis://:hunter2@", "redis://:hunter2@a:port", "redis://hunter2@a,"]
        {
            let error = Endpoint::parse(text).err().expect("an error");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
        let options = RedisOptions::new("redis://:hunter2@a".into(), PodId::parse("pod").expect("a pod"));
        assert!(!format!("{options:?}").contains("hunter2"));
    }

    #[test]
    fn a_prefix_with_braces_would_move_the_hash_tag() {
        let pod = PodId::parse("pod").expect("a pod");
        let options = RedisOptions { key_prefix: "{a}".into(), ..RedisOptions::new("redis://a".into(), pod) };
        assert!(matches!(options.validate(), Err(RedisStartError::KeyPrefix)));
        assert!(RedisOptions { key_prefix: "a:".into(), ..options }.validate().is_ok());
    }

    #[test]
    fn authorities_that_are_none_are_refused_before_anything_is_asked() {
        let pod = PodId::parse("pod").expect("a pod");
        let authorities = Some(b"-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n".to_vec());
        let options =
            RedisOptions { certificate_authorities: authorities, ..RedisOptions::new("rediss://a".into(), pod) };
        assert!(matches!(options.validate(), Err(RedisStartError::Client(_))));
    }
}
