//! From the configuration to what the adapters are told.

use crate::config::{BrokerProtocol, Config, ConfigError, Consistency, SaslMechanism, Secret};
use chatify_domain::Epoch;
use chatify_domain::limits::DEDUPE_MARGIN;
use chatify_infrastructure::{kafka, redis, scylla};
use std::path::Path;
use std::time::Duration;

/// What each service's adapters are told.
pub struct ClusterOptions {
    /// For the log.
    pub kafka: kafka::KafkaOptions,
    /// For the history.
    pub scylla: scylla::ScyllaOptions,
    /// For presence and limits.
    pub redis: redis::RedisOptions,
}

impl ClusterOptions {
    /// The options of `config`, with secrets and certificates from their files; nothing is connected.
    ///
    /// # Errors
    /// Names the setting that cannot work.
    pub fn of(config: &Config) -> Result<Self, ConfigError> {
        let options =
            Self { kafka: kafka_options(config)?, scylla: scylla_options(config)?, redis: redis_options(config)? };
        options.kafka.validate().map_err(ConfigError::refused)?;
        check_window(config.message_broker.dedupe_window, options.kafka.message_timeout)?;
        options.scylla.validate().map_err(ConfigError::refused)?;
        options.scylla.check_authorities().map_err(ConfigError::refused)?;
        options.redis.validate().map_err(ConfigError::refused)?;
        Ok(options)
    }
}

/// A repeat must be recognised however late each of the two entered the log.
fn check_window(window: Duration, message_timeout: Duration) -> Result<(), ConfigError> {
    let least = message_timeout + DEDUPE_MARGIN * 2;
    if window >= least {
        return Ok(());
    }
    let message = format!(
        "must be at least {} s in the cluster: a message may wait for the brokers for {} s",
        least.as_secs(),
        message_timeout.as_secs()
    );
    Err(ConfigError::Invalid { field: "message_broker.dedupe_window".into(), message })
}

fn kafka_options(config: &Config) -> Result<kafka::KafkaOptions, ConfigError> {
    let broker = &config.message_broker;
    let dead_letters = broker.dead_letter_topic_name.clone();
    Ok(kafka::KafkaOptions {
        topic: broker.topic_name.clone(),
        dead_letter_topic: dead_letters.unwrap_or_else(|| format!("{}-dlt", broker.topic_name)),
        partitions: broker.partitions,
        replication_factor: broker.replication_factor,
        retention: broker.retention,
        group_id: config.chat_history_writer.consumer_group_id.clone(),
        broadcast_group_prefix: broker.broadcast_consumer_group_prefix.clone(),
        epoch: Epoch::new(broker.log_epoch).map_err(ConfigError::refused)?,
        linger: broker.linger,
        compression: broker.compression.as_str().into(),
        security: security(config)?,
        properties: broker.properties.0.clone(),
        ..kafka::KafkaOptions::new(broker.bootstrap_servers.0.join(","), config.pod_id())
    })
}

fn security(config: &Config) -> Result<kafka::Security, ConfigError> {
    let security = &config.message_broker.security;
    Ok(kafka::Security {
        protocol: match security.protocol {
            BrokerProtocol::Plaintext => kafka::SecurityProtocol::Plaintext,
            BrokerProtocol::Tls => kafka::SecurityProtocol::Tls,
            BrokerProtocol::SaslPlaintext => kafka::SecurityProtocol::SaslPlaintext,
            BrokerProtocol::SaslTls => kafka::SecurityProtocol::SaslTls,
        },
        mechanism: security.sasl_mechanism.map(|mechanism| match mechanism {
            SaslMechanism::Plain => kafka::SaslMechanism::Plain,
            SaslMechanism::ScramSha256 => kafka::SaslMechanism::ScramSha256,
            SaslMechanism::ScramSha512 => kafka::SaslMechanism::ScramSha512,
            SaslMechanism::OauthBearer => kafka::SaslMechanism::OAuthBearer,
        }),
        username: security.username.clone(),
        password: config.broker_password()?.map(Secret::into_inner),
        token_file: security.token_file.clone(),
        ca_file: security.ca_file.clone(),
        certificate_file: security.certificate_file.clone(),
        key_file: security.key_file.clone(),
        key_password: config.broker_key_password()?.map(Secret::into_inner),
    })
}

fn scylla_options(config: &Config) -> Result<scylla::ScyllaOptions, ConfigError> {
    let store = &config.scylla;
    if let Some(path) = &store.ca_file {
        // The client reads it itself, each time that it connects. Here it is only told by its name when it is not there.
        read_authorities("scylla.ca_file", path)?;
    }
    Ok(scylla::ScyllaOptions {
        keyspace: store.keyspace.clone(),
        replication_factor: store.replication_factor,
        local_datacenter: store.local_datacenter.clone(),
        username: store.username.clone(),
        password: config.store_password()?.map(Secret::into_inner),
        tls: store.tls.then(|| scylla::TlsOptions { ca_file: store.ca_file.clone() }),
        request_timeout: store.request_timeout,
        read_consistency: consistency(store.read_consistency),
        write_consistency: consistency(store.write_consistency),
        migrate_at_start: store.migrate_at_start,
        ..scylla::ScyllaOptions::new(&store.contact_points.0)
    })
}

const fn consistency(configured: Consistency) -> scylla::Consistency {
    match configured {
        Consistency::LocalOne => scylla::Consistency::LocalOne,
        Consistency::LocalQuorum => scylla::Consistency::LocalQuorum,
        Consistency::Quorum => scylla::Consistency::Quorum,
    }
}

fn redis_options(config: &Config) -> Result<redis::RedisOptions, ConfigError> {
    let caching = &config.caching;
    let missing = || ConfigError::Invalid { field: "caching.connection_string".into(), message: "must be set".into() };
    let connection_string = config.redis_connection_string()?.ok_or_else(missing)?;
    let authorities = caching.ca_file.as_ref().map(|path| read_authorities("caching.ca_file", path));
    Ok(redis::RedisOptions {
        deadline: caching.deadline,
        key_prefix: caching.key_prefix.clone(),
        certificate_authorities: authorities.transpose()?,
        ..redis::RedisOptions::new(connection_string.into_inner(), config.pod_id())
    })
}

fn read_authorities(field: &str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|source| ConfigError::NamedFile { field: field.into(), path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Profile, TextList};
    use std::error::Error as _;

    fn config() -> Config {
        let list = |items: &[&str]| TextList(items.iter().map(ToString::to_string).collect());
        let mut config = Config::defaults().expect("valid");
        config.profile = Profile::Cluster;
        config.server.pod_id = Some("pod-7".into());
        config.message_broker.bootstrap_servers = list(&["a:9092", "b:9092"]);
        config.scylla.contact_points = list(&["a", "b:9043"]);
        config.caching.connection_string = Some(Secret::new("redis://:hunter2@cache".into()));
        config
    }

    #[test]
    fn without_more_said_the_adapters_have_their_own_defaults() {
        let options = ClusterOptions::of(&config()).expect("usable");
        let pod = chatify_domain::PodId::parse("pod-7").expect("an id");
        let kafka = kafka::KafkaOptions::new("a:9092,b:9092", pod.clone());
        assert_eq!(format!("{:?}", options.kafka), format!("{kafka:?}"));
        let scylla = scylla::ScyllaOptions::new(["a", "b:9043"]);
        assert_eq!(format!("{:?}", options.scylla), format!("{scylla:?}"));
        let redis = redis::RedisOptions::new("redis://:hunter2@cache".into(), pod);
        assert_eq!(format!("{:?}", options.redis), format!("{redis:?}"));
    }

    #[test]
    fn what_is_said_gets_through() {
        let mut config = config();
        let broker = &mut config.message_broker;
        (broker.topic_name, broker.log_epoch) = ("events".into(), 3);
        broker.properties.0.insert("client.rack".into(), "here".into());
        broker.security.protocol = BrokerProtocol::SaslPlaintext;
        broker.security.sasl_mechanism = Some(SaslMechanism::Plain);
        broker.security.username = Some("chatify".into());
        broker.security.password = Some(Secret::new("hunter2".into()));
        config.scylla.tls = true;
        config.scylla.read_consistency = Consistency::LocalOne;
        config.scylla.migrate_at_start = false;
        config.caching.key_prefix = "chat:".into();
        let options = ClusterOptions::of(&config).expect("usable");
        assert_eq!((options.kafka.dead_letter_topic.as_str(), options.kafka.epoch.number()), ("events-dlt", 3));
        assert_eq!(options.kafka.properties["client.rack"], "here");
        assert_eq!(options.kafka.security.protocol, kafka::SecurityProtocol::SaslPlaintext);
        assert!(options.scylla.tls.is_some() && !options.scylla.migrate_at_start);
        assert_eq!(options.scylla.read_consistency, scylla::Consistency::LocalOne);
        assert_eq!(options.redis.key_prefix, "chat:");
    }

    #[test]
    fn what_a_client_does_not_take_is_refused_before_anything_is_connected() {
        let refused = |change: fn(&mut Config)| {
            let mut config = config();
            change(&mut config);
            let error = ClusterOptions::of(&config).err().expect("refused");
            let cause = error.source().map(ToString::to_string).unwrap_or_default();
            format!("{error}: {cause}")
        };
        let property = |config: &mut Config| drop(config.message_broker.properties.0.insert("acks".into(), "0".into()));
        assert!(refused(property).contains("`acks`"));
        let protocol = |config: &mut Config| config.message_broker.security.protocol = BrokerProtocol::SaslPlaintext;
        assert!(refused(protocol).contains("`message_broker.security.sasl_mechanism`"));
        let file = |config: &mut Config| config.caching.ca_file = Some("missing.pem".into());
        assert!(refused(file).contains("`caching.ca_file` names `missing.pem`"));
        let window = |config: &mut Config| config.message_broker.dedupe_window = Duration::from_secs(239);
        assert!(refused(window).contains("message_broker.dedupe_window` must be at least 240 s in the cluster"));
        let file =
            |config: &mut Config| (config.scylla.tls, config.scylla.ca_file) = (true, Some("missing.pem".into()));
        assert!(refused(file).contains("`scylla.ca_file` names `missing.pem`"));
        let no_certificate = |config: &mut Config| {
            let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
            (config.scylla.tls, config.scylla.ca_file) = (true, Some(file.into()));
        };
        assert!(refused(no_certificate).contains("scylla.ca_file: the certificates"));
        let password = |config: &mut Config| config.message_broker.security.password_file = Some("missing".into());
        assert!(refused(password).contains("`message_broker.security.password_file` names `missing`"));
    }
}
