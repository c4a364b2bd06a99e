//! The sections. To add a setting, add a documented field with its default, and its range to `validate`.

use super::describe::section;
use super::properties::PropertyTable;
use super::units;
use super::values::{
    BrokerProtocol, Compression, Consistency, LogFormat, Profile, SaslMechanism, Secret, TextList, TokenAlgorithm,
};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

section! {
    /// What kind of server this is.
    General [""] {
        /// Which adapters are used. `embedded`: one process, everything in one data directory. `cluster`: any number of pods over Kafka, a CQL store and Redis.
        profile: Profile = "\"embedded\"",
    }
}

section! {
    /// Where the server listens, what it keeps where, and how long it waits.
    Server ["server"] {
        /// Address and port to listen on. Use `0.0.0.0:8080` to be reached from other machines.
        listen: SocketAddr = "\"127.0.0.1:8080\"",
        /// Directory for everything that is kept. Made when it is missing; only one process may use it at a time. In the cluster it holds nothing that lasts.
        data_dir: PathBuf = "\"./data\"",
        /// Name of this process in messages and presence, 1 to 256 characters; no two pods of a cluster may share one. Unset: the host's name.
        pod_id: Option<String> = "",
        /// Origins (`https://chat.example.org`) whose web pages may call this server, besides its own.
        origins: TextList = "[]",
        /// The most time over which connections are told to reconnect elsewhere when the server ends; a few need less, 10 ms each.
        #[serde(with = "units::duration")] drain_window: Duration = "\"10s\"",
        /// The most time for each of four steps after that: connections, sends, tasks, presence; what is not done then is cut off. The process ends within `drain_window`, four times this, and 10 s.
        #[serde(with = "units::duration")] drain_grace: Duration = "\"10s\"",
        /// Whether `/` serves the playground, a page that shows what the server can do. Unset: in the profile `embedded` only.
        playground: Option<bool> = "",
        /// Longest time from a request's header to its answer.
        #[serde(with = "units::duration")] request_timeout: Duration = "\"30s\"",
        /// Longest time that a connection may take to send a request's header.
        #[serde(with = "units::duration")] header_timeout: Duration = "\"10s\"",
        /// Largest header of a request.
        #[serde(with = "units::size")] max_header_bytes: usize = "\"16KiB\"",
        /// Largest body of a request.
        #[serde(with = "units::size")] max_body_bytes: usize = "\"64KiB\"",
    }
}

section! {
    /// Who may come in. There is no unauthenticated mode.
    Auth ["auth"] {
        /// The `iss` that a token must have.
        issuer: String = "\"chatify\"",
        /// The `aud` that a token must have.
        audience: String = "\"chatify\"",
        /// The one algorithm that is accepted: `HS256`, `RS256`, `ES256` or `EdDSA`.
        algorithm: TokenAlgorithm = "\"HS256\"",
        /// Shared secret (HS256, at least 32 bytes) or public key in PEM. Unset with HS256: a key that is made in the data directory (`auth.key`); in the cluster, where all pods share one, it is required.
        key: Option<Secret> = "",
        /// File that holds `key`.
        key_file: Option<PathBuf> = "",
        /// How far the clocks of issuer and server may differ.
        #[serde(with = "units::duration")] leeway: Duration = "\"30s\"",
        /// How long a token of `chatify token` is valid.
        #[serde(with = "units::duration")] token_ttl: Duration = "\"12h\"",
    }
}

section! {
    /// How much one user, one connection and the whole server may use.
    Limits ["limits"] {
        /// Messages that a user may send at once, and within `send_window`.
        send_messages: u32 = "100",
        /// See `send_messages`.
        #[serde(with = "units::duration")] send_window: Duration = "\"60s\"",
        /// Open connections of the server.
        connections: usize = "20000",
        /// Open hub and event-stream connections of one user.
        connections_per_user: Option<usize> = "",
        /// Scopes that one connection may be in.
        scopes_per_connection: usize = "500",
        /// Sends of one connection that may wait for the log; the next one waits in the socket.
        sends_in_flight: usize = "32",
        /// Largest message from a client on the hub.
        #[serde(with = "units::size")] frame: usize = "\"64KiB\"",
        /// Frames that may wait for a slow connection before it is closed and has to resume.
        outbox_frames: usize = "512",
        /// Bytes that may wait for a slow connection before it is closed and has to resume.
        #[serde(with = "units::size")] outbox_bytes: usize = "\"1MiB\"",
        /// Memory for the newest messages, from which joins and resumes are answered.
        #[serde(with = "units::size")] tail_bytes: usize = "\"64MiB\"",
        /// How often an idle connection is pinged.
        #[serde(with = "units::duration")] keep_alive: Duration = "\"15s\"",
        /// Silence after which a client counts as gone.
        #[serde(with = "units::duration")] client_timeout: Duration = "\"30s\"",
        /// Longest time from a WebSocket's opening to the hub's handshake.
        #[serde(with = "units::duration")] handshake_timeout: Duration = "\"10s\"",
        /// Longest time that a WebSocket which was told why it ends may take to read that and to close its side. Shorter than `server.drain_grace`.
        #[serde(with = "units::duration")] close_timeout: Duration = "\"2s\"",
    }
}

section! {
    /// The log. What has no effect in the profile `embedded` says so.
    MessageBroker ["message_broker"] {
        /// Generation of the log, 1 to 8191. Raise it by one, in the cluster together with a new `topic_name`, when the log was lost or made anew, or gets another number of partitions. All pods are stopped for that, see `docs/OPERATIONS.md`.
        log_epoch: u16 = "1",
        /// How long the log keeps messages; the history keeps them for good. What the history has not got yet is never removed (`embedded`). In the cluster the topic is made with it, and keeps its own when it is there already.
        #[serde(with = "units::duration")] retention: Duration = "\"7d\"",
        /// How long a repeated message id is recognised without a look at the history. The same on every pod.
        #[serde(with = "units::duration")] dedupe_window: Duration = "\"5m\"",
        /// Kafka's brokers to ask first, `host:port`. Required in the cluster; this and what follows has no effect in `embedded`.
        bootstrap_servers: TextList = "[]",
        /// The topic that is the log. Made when it is missing. A new one needs a new `log_epoch`.
        topic_name: String = "\"chat-events\"",
        /// The topic for records that cannot be understood. Made when it is missing, with a retention of 30 days. Unset: the log's, followed by `-dlt`.
        dead_letter_topic_name: Option<String> = "",
        /// Partitions of the log. A topic that is there must have as many; see `log_epoch`.
        partitions: u32 = "3",
        /// Copies of each partition when a topic is made; from 3 on it is made with `min.insync.replicas=2` as well. A topic that is there keeps its own. Unset: the brokers' defaults for both.
        replication_factor: Option<u16> = "",
        /// The name under which a pod reads the whole log is this, `-` and the pod's.
        broadcast_consumer_group_prefix: String = "\"chatify-broadcast\"",
        /// How long the producer waits for more messages before it sends a batch.
        #[serde(with = "units::duration")] linger: Duration = "\"1ms\"",
        /// `none`, `gzip`, `snappy`, `lz4` or `zstd`.
        compression: Compression = "\"lz4\"",
        /// Any property of librdkafka for all its clients, for example `{ "socket.keepalive.enable" = true }`; as a variable `name=value,name=value`. What other settings decide cannot be set here.
        properties: PropertyTable = "{}",
    } with {
        /// How brokers are spoken to.
        security: BrokerSecurity,
    }
}

section! {
    /// How Kafka's brokers are spoken to. TLS, SCRAM and OAUTHBEARER need a binary that was built with the feature `kafka-tls`.
    BrokerSecurity ["message_broker.security"] {
        /// `plaintext`, `tls`, `sasl_plaintext` or `sasl_tls`.
        protocol: BrokerProtocol = "\"plaintext\"",
        /// `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512` or `OAUTHBEARER`; required with `sasl_…`.
        sasl_mechanism: Option<SaslMechanism> = "",
        /// Who the pods are to the brokers.
        username: Option<String> = "",
        /// Their password.
        password: Option<Secret> = "",
        /// File that holds `password`.
        password_file: Option<PathBuf> = "",
        /// File with the token for `OAUTHBEARER`; it is read again before the token expires.
        token_file: Option<PathBuf> = "",
        /// File with the authorities that the brokers' certificates are checked against, in PEM. Unset: the system's.
        ca_file: Option<PathBuf> = "",
        /// File with the pods' certificate, in PEM, for brokers that ask for one.
        certificate_file: Option<PathBuf> = "",
        /// File with the certificate's private key, in PEM.
        key_file: Option<PathBuf> = "",
        /// The password of that key.
        key_password: Option<Secret> = "",
        /// File that holds `key_password`.
        key_password_file: Option<PathBuf> = "",
    }
}

section! {
    /// Redis: presence, and limits that hold over all pods. No effect in the profile `embedded`.
    Caching ["caching"] {
        /// `redis://[user:password@]host[:port]`, `rediss://…` with TLS, `redis+cluster://host:port,host:port` or `rediss+cluster://…`. Required in the cluster; a secret.
        connection_string: Option<Secret> = "",
        /// File that holds `connection_string`.
        connection_string_file: Option<PathBuf> = "",
        /// File with the authorities that Redis's certificate is checked against, in PEM. Unset: the system's.
        ca_file: Option<PathBuf> = "",
        /// Longest wait for an answer; after it the pod goes on without.
        #[serde(with = "units::duration")] deadline: Duration = "\"50ms\"",
        /// In front of every key, for a Redis that serves others too.
        key_prefix: String = "\"\"",
    }
}

section! {
    /// ScyllaDB or another CQL store: the history. No effect in the profile `embedded`.
    Scylla ["scylla"] {
        /// Nodes to ask first, `host` or `host:port`. Required in the cluster.
        contact_points: TextList = "[]",
        /// The keyspace. Made when it is missing.
        keyspace: String = "\"chatify\"",
        /// Copies of each row when the keyspace is made.
        replication_factor: u16 = "3",
        /// The datacenter of this pod, whose nodes are asked and whose copies count. Unset: any; needed when there are several.
        local_datacenter: Option<String> = "",
        /// Who the pods are to the store.
        username: Option<String> = "",
        /// Their password.
        password: Option<Secret> = "",
        /// File that holds `password`.
        password_file: Option<PathBuf> = "",
        /// Whether the store is spoken to through TLS.
        tls: bool = "false",
        /// File with the authorities that the nodes' certificates are checked against, in PEM. Unset: the system's.
        ca_file: Option<PathBuf> = "",
        /// Longest time for one call with all its requests and pages: one read of the history, or up to 1,000 messages that are written.
        #[serde(with = "units::duration")] request_timeout: Duration = "\"3s\"",
        /// Copies that must answer a read: `local_one` (may miss the newest rows), `local_quorum` or `quorum`.
        read_consistency: Consistency = "\"local_quorum\"",
        /// Copies that must have a write before it counts: `local_quorum` or `quorum`.
        write_consistency: Consistency = "\"local_quorum\"",
        /// Whether a starting pod brings the schema up to date; otherwise `chatify migrate` does, before.
        migrate_at_start: bool = "true",
    }
}

section! {
    /// The loop that writes the history.
    ChatHistoryWriter ["chat_history_writer"] {
        /// Tries for one batch before the writer pauses.
        database_retry_attempts: u32 = "5",
        /// Longest wait after the first failed try; it doubles with each one.
        #[serde(with = "units::duration")] database_retry_first: Duration = "\"100ms\"",
        /// No wait between tries is longer.
        #[serde(with = "units::duration")] database_retry_cap: Duration = "\"10s\"",
        /// Longest first pause after all tries failed; it doubles each time.
        #[serde(with = "units::duration")] consumer_backoff_first: Duration = "\"1s\"",
        /// No pause is longer.
        #[serde(with = "units::duration")] consumer_backoff_cap: Duration = "\"16s\"",
        /// The consumer group in which the pods share the work. No effect in the profile `embedded`.
        consumer_group_id: String = "\"chatify-chat-history-writer\"",
        /// The most that `chatify dead-letters show` prints of a record that cannot be understood; log lines have nothing of it. No effect in the profile `embedded`.
        #[serde(with = "units::size")] max_payload_log_bytes: usize = "\"256B\"",
    }
}

section! {
    /// Logs.
    Telemetry ["telemetry"] {
        /// `text`, `json`, or `auto`: text on a terminal and JSON otherwise.
        log_format: LogFormat = "\"auto\"",
        /// Levels by module, for example `info,chatify_application=debug`. The variable `RUST_LOG` wins.
        log_filter: String = "\"info\"",
    }
}
