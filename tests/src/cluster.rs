//! Where the services of a cluster are, and the names in them that belong to one home alone.

use crate::cql;
use chatify_building_blocks::random::{Random, SystemRandom};
use std::time::Duration;

/// Addresses of the services that a cluster needs.
#[derive(Clone, Debug)]
pub struct Services {
    /// Bootstrap servers of the log, as each pod reaches them.
    pub kafka: Vec<String>,
    /// Contact points of the history store, as each pod reaches them.
    pub cql: Vec<String>,
    /// Connection strings of the cache, as each pod reaches it.
    pub redis: Vec<String>,
    /// Where the store can be reached past everything that the harness puts between it and the pods.
    pub cql_direct: String,
}

/// Names in shared services that one home has for itself. Dropping them drops the keyspace.
#[derive(Debug)]
pub struct ClusterNames {
    services: Services,
    id: String,
    key: String,
    keyspace_is_ours: bool,
}

/// How long the store may take to drop a keyspace.
const DROP_WITHIN: Duration = Duration::from_secs(30);

impl Services {
    /// The shared services that the environment names, or those which `scripts/services.sh start kafka cassandra redis` starts.
    #[must_use]
    pub fn of_this_run() -> Self {
        let address = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
        let cql = address("CHATIFY_TEST_CQL", "127.0.0.1:19042");
        Self {
            kafka: vec![address("CHATIFY_TEST_KAFKA", "127.0.0.1:19092")],
            cql: vec![cql.clone()],
            redis: vec![address("CHATIFY_TEST_REDIS", "redis://127.0.0.1:16379")],
            cql_direct: cql,
        }
    }
}

impl ClusterNames {
    /// New names that nobody else has.
    #[must_use]
    pub fn new(services: Services) -> Self {
        let mut names = Self::named(services, &format!("{:016x}", SystemRandom.u64()));
        names.keyspace_is_ours = true;
        names
    }

    /// The names that belong to `id`; what they name stays when they are dropped.
    #[must_use]
    pub fn named(services: Services, id: &str) -> Self {
        let key = format!("a key for tests that nobody else uses: {id}");
        Self { services, id: id.to_owned(), key, keyspace_is_ours: false }
    }

    /// Drops the keyspace.
    #[expect(
        clippy::print_stderr,
        reason = "what is left behind in a shared service is told to whoever reads the output"
    )]
    pub fn forget(&self) {
        let statement = format!("DROP KEYSPACE IF EXISTS {}", self.keyspace());
        if let Err(error) = cql::run(&self.services.cql_direct, &statement, DROP_WITHIN) {
            eprintln!("the keyspace {} stays behind: {error}", self.keyspace());
        }
    }

    /// The topic of the log: a new epoch is a new topic.
    #[must_use]
    pub fn topic(&self, epoch: &str) -> String {
        format!("chat-events-{}-{epoch}", self.id)
    }

    /// The keyspace of the history.
    #[must_use]
    pub fn keyspace(&self) -> String {
        format!("chatify_{}", self.id)
    }

    /// The consumer group that writes the history.
    #[must_use]
    pub fn group(&self) -> String {
        format!("history-{}", self.id)
    }

    /// The secret that tokens are signed with, on every pod.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Where the services are.
    #[must_use]
    pub const fn services(&self) -> &Services {
        &self.services
    }

    /// The environment of pod `number`.
    #[must_use]
    pub fn settings(&self, number: usize, epoch: &str) -> Vec<(String, String)> {
        let at = |addresses: &[String]| addresses[number % addresses.len()].clone();
        let settings = [
            ("PROFILE", "cluster".to_owned()),
            ("SERVER__POD_ID", format!("pod-{number}")),
            // The suites look at it in both profiles; by default only the embedded one shows it.
            ("SERVER__PLAYGROUND", "true".to_owned()),
            ("AUTH__KEY", self.key.clone()),
            ("MESSAGE_BROKER__BOOTSTRAP_SERVERS", at(&self.services.kafka)),
            ("MESSAGE_BROKER__TOPIC_NAME", self.topic(epoch)),
            ("MESSAGE_BROKER__DEAD_LETTER_TOPIC_NAME", format!("{}-dlt", self.topic(epoch))),
            ("MESSAGE_BROKER__PARTITIONS", "3".to_owned()),
            ("MESSAGE_BROKER__BROADCAST_CONSUMER_GROUP_PREFIX", format!("broadcast-{}", self.id)),
            ("CACHING__CONNECTION_STRING", at(&self.services.redis)),
            ("CACHING__KEY_PREFIX", format!("{}:", self.id)),
            ("SCYLLA__CONTACT_POINTS", at(&self.services.cql)),
            ("SCYLLA__KEYSPACE", self.keyspace()),
            ("SCYLLA__REPLICATION_FACTOR", "1".to_owned()),
            ("CHAT_HISTORY_WRITER__CONSUMER_GROUP_ID", self.group()),
        ];
        settings.into_iter().map(|(key, value)| (format!("CHATIFY__{key}"), value)).collect()
    }
}

impl Drop for ClusterNames {
    fn drop(&mut self) {
        if self.keyspace_is_ours {
            self.forget();
        }
    }
}
