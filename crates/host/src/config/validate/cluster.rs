//! Kafka, the CQL store and Redis. Their settings must make sense whenever they are set, and must be there in the profile `cluster`.
//!
//! What only the client of a service can judge (properties, protocols) the adapter checks, before it connects.

use super::{MINUTE, SECOND, count, invalid, time};
use crate::config::sections::{Caching, MessageBroker, Scylla};
use crate::config::{Config, ConfigError, Consistency, Profile, Secret, secrets};
use std::path::PathBuf;
use std::time::Duration;

const MILLISECOND: Duration = Duration::from_millis(1);
/// Kafka's own limit for the name of a topic.
const TOPIC_MAX_CHARACTERS: usize = 249;
/// CQL's own limit for the name of a keyspace.
const KEYSPACE_MAX_CHARACTERS: usize = 48;

pub(super) fn services(config: &Config) -> Result<(), ConfigError> {
    if config.profile == Profile::Cluster {
        required(config)?;
    }
    broker(&config.message_broker)?;
    redis(&config.caching)?;
    store(&config.scylla)?;
    named("chat_history_writer.consumer_group_id", &config.chat_history_writer.consumer_group_id)
}

fn required(config: &Config) -> Result<(), ConfigError> {
    let redis = config.caching.connection_string.is_some() || config.caching.connection_string_file.is_some();
    let settings = [
        ("message_broker.bootstrap_servers", config.message_broker.bootstrap_servers.0.is_empty(), "Kafka's brokers"),
        ("scylla.contact_points", config.scylla.contact_points.0.is_empty(), "the CQL store's nodes"),
        ("caching.connection_string", !redis, "where Redis is"),
    ];
    match settings.into_iter().find(|(_, missing, _)| *missing) {
        Some((field, _, what)) => Err(invalid(field, format!("must name {what} in the profile `cluster`"))),
        None => Ok(()),
    }
}

fn broker(broker: &MessageBroker) -> Result<(), ConfigError> {
    for server in &broker.bootstrap_servers.0 {
        if !is_endpoint(server, true) {
            return Err(invalid(
                "message_broker.bootstrap_servers",
                format!("has `{server}`, which is not `host:port`"),
            ));
        }
    }
    topic("message_broker.topic_name", &broker.topic_name)?;
    if let Some(name) = &broker.dead_letter_topic_name {
        topic("message_broker.dead_letter_topic_name", name)?;
        if *name == broker.topic_name {
            return Err(invalid("message_broker.dead_letter_topic_name", "must not be the log's own topic"));
        }
    }
    count("message_broker.partitions", broker.partitions as usize, 1, 10_000)?;
    count("message_broker.replication_factor", broker.replication_factor.unwrap_or(1).into(), 1, 100)?;
    named("message_broker.broadcast_consumer_group_prefix", &broker.broadcast_consumer_group_prefix)?;
    time("message_broker.linger", broker.linger, Duration::ZERO, SECOND)?;
    let security = &broker.security;
    one_of_two("message_broker.security.password", security.password.as_ref(), security.password_file.as_ref())?;
    one_of_two(
        "message_broker.security.key_password",
        security.key_password.as_ref(),
        security.key_password_file.as_ref(),
    )
}

fn redis(caching: &Caching) -> Result<(), ConfigError> {
    one_of_two(
        "caching.connection_string",
        caching.connection_string.as_ref(),
        caching.connection_string_file.as_ref(),
    )?;
    if let Some(connection_string) = &caching.connection_string {
        secrets::check_connection_string(connection_string.expose())?;
    }
    time("caching.deadline", caching.deadline, MILLISECOND, 5 * SECOND)?;
    let prefix = &caching.key_prefix;
    if prefix.chars().any(|c| c.is_control() || c.is_whitespace() || matches!(c, '{' | '}')) {
        // Braces say which part of a key decides its place in a Redis cluster.
        return Err(invalid("caching.key_prefix", "must not have white space, braces or control characters"));
    }
    Ok(())
}

fn store(store: &Scylla) -> Result<(), ConfigError> {
    for node in &store.contact_points.0 {
        if !is_endpoint(node, false) {
            return Err(invalid("scylla.contact_points", format!("has `{node}`, which is not `host` or `host:port`")));
        }
    }
    let keyspace = &store.keyspace;
    let legal = keyspace.starts_with(|c: char| c.is_ascii_lowercase())
        && keyspace.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !legal || keyspace.len() > KEYSPACE_MAX_CHARACTERS {
        let message = format!("must be a letter followed by at most {} of a-z, 0-9 and _", KEYSPACE_MAX_CHARACTERS - 1);
        return Err(invalid("scylla.keyspace", message));
    }
    count("scylla.replication_factor", store.replication_factor.into(), 1, 100)?;
    if store.local_datacenter.as_ref().is_some_and(|name| name.trim().is_empty()) {
        return Err(invalid("scylla.local_datacenter", "must not be blank"));
    }
    one_of_two("scylla.password", store.password.as_ref(), store.password_file.as_ref())?;
    let password = store.password.is_some() || store.password_file.is_some();
    if store.username.is_some() != password {
        let missing = if password { "scylla.username" } else { "scylla.password" };
        return Err(invalid(missing, "must be set: name and password go together"));
    }
    if store.ca_file.is_some() && !store.tls {
        return Err(invalid("scylla.ca_file", "needs `tls = true`"));
    }
    if store.write_consistency == Consistency::LocalOne {
        return Err(invalid("scylla.write_consistency", "must be a quorum: what is committed has to be durable"));
    }
    time("scylla.request_timeout", store.request_timeout, 10 * MILLISECOND, MINUTE)
}

fn one_of_two(field: &str, secret: Option<&Secret>, file: Option<&PathBuf>) -> Result<(), ConfigError> {
    if secret.is_some() && file.is_some() {
        return Err(invalid(&format!("{field}_file"), format!("must not be set together with `{field}`")));
    }
    Ok(())
}

fn topic(field: &str, name: &str) -> Result<(), ConfigError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let usable = !name.is_empty() && name.len() <= TOPIC_MAX_CHARACTERS && name.chars().all(legal);
    if usable && !matches!(name, "." | "..") {
        return Ok(());
    }
    Err(invalid(field, format!("must be 1 to {TOPIC_MAX_CHARACTERS} of a-z, A-Z, 0-9, `.`, `_` and `-`")))
}

fn named(field: &str, name: &str) -> Result<(), ConfigError> {
    if name.trim().is_empty() || name.chars().any(char::is_control) {
        return Err(invalid(field, "must not be blank or have control characters"));
    }
    Ok(())
}

/// `host:port`, `[::1]:port`, or without a port where that is allowed.
fn is_endpoint(text: &str, port_required: bool) -> bool {
    if text.contains(['/', '@', '?', '#']) || text.chars().any(char::is_whitespace) {
        return false;
    }
    let url = url::Url::parse(&format!("tcp://{text}"));
    url.is_ok_and(|url| url.host_str().is_some_and(|host| !host.is_empty()) && (url.port().is_some() || !port_required))
}
