//! How every client of librdkafka is configured, and where its words go.

use super::error::{KafkaOptionsError, property_error};
use super::health::{HealthState, ProducerStatistics};
use super::options::{KafkaOptions, own_name};
use super::token;
use chatify_building_blocks::error::chain;
use rdkafka::ClientConfig;
use rdkafka::client::{Client, ClientContext, DefaultClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaType;
use std::error::Error;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// What a client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Appends to the log, or to the dead-letter topic.
    Producer,
    /// Reads the log for this pod alone, by `assign()`; joins no group and commits nothing.
    Broadcast,
    /// Reads the log as a member of the history writers' group.
    Group,
    /// Creates and looks at topics and groups.
    Admin,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::Producer => "producer",
            Self::Broadcast => "broadcast",
            Self::Group => "group",
            Self::Admin => "admin",
        }
    }
}

/// The configuration of a client.
///
/// # Errors
/// Names the option or property that librdkafka refuses by itself. Whether all of them go together is known when a client is made of them ([`try_out`]).
pub(super) fn client_config(options: &KafkaOptions, role: Role) -> Result<ClientConfig, KafkaOptionsError> {
    options.check()?;
    let mut config = ClientConfig::new();
    set_common(&mut config, options);
    match role {
        Role::Producer => set_producer(&mut config, options),
        Role::Broadcast => set_broadcast(&mut config, options),
        Role::Group => set_group(&mut config, options),
        Role::Admin => {}
    }
    options.security.apply(&mut config)?;
    for (property, value) in &options.properties {
        config.set(own_name(property), value);
    }
    config.create_native_config().map_err(property_error)?;
    Ok(config)
}

/// Makes a client of the options and gives it up again, because librdkafka compares them with each other only then. It knows no address, so it connects to
/// nothing. Blocks for some milliseconds.
///
/// # Errors
/// Says what contradicts what.
pub(super) fn try_out(options: &KafkaOptions, role: Role) -> Result<(), KafkaOptionsError> {
    let mut config = client_config(options, role)?;
    config.remove("bootstrap.servers");
    let native = config.create_native_config().map_err(property_error)?;
    let kind = match role {
        // librdkafka has no kind of its own for the last one.
        Role::Producer | Role::Admin => RDKafkaType::RD_KAFKA_PRODUCER,
        Role::Broadcast | Role::Group => RDKafkaType::RD_KAFKA_CONSUMER,
    };
    Client::new(&config, native, kind, DefaultClientContext).map(drop).map_err(property_error)
}

fn set_common(config: &mut ClientConfig, options: &KafkaOptions) {
    config
        .set("bootstrap.servers", options.bootstrap_servers.trim())
        .set("client.id", format!("chatify-{}", options.pod.as_str()))
        .set("socket.keepalive.enable", "true")
        // A frozen broker is given up after this, instead of a minute; it is longer than a broker itself may take (request.timeout.ms).
        .set("socket.timeout.ms", "15000")
        .set("socket.connection.setup.timeout.ms", "5000")
        // Keeps one connection busy, where brokers close those that are idle for ten minutes, and sees new leaders and partitions.
        .set("topic.metadata.refresh.interval.ms", "60000")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000");
}

fn set_producer(config: &mut ClientConfig, options: &KafkaOptions) {
    config
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("max.in.flight", "5")
        .set("request.timeout.ms", "10000")
        .set("message.timeout.ms", options.message_timeout.as_millis().to_string())
        .set("queue.buffering.max.kbytes", (options.queue_bytes / 1024).to_string())
        .set("queue.buffering.max.messages", QUEUE_RECORDS_MAX.to_string())
        .set("linger.ms", options.linger.as_millis().to_string())
        .set("compression.type", &options.compression)
        .set("batch.size", BATCH_BYTES.to_string())
        .set("delivery.report.only.error", "false")
        .set("statistics.interval.ms", STATISTICS_MILLIS.to_string());
}

fn set_consumer(config: &mut ClientConfig) {
    config
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // A reset that nobody decided on would be a loss or a flood; the readers decide where to go on.
        .set("auto.offset.reset", "error")
        .set("allow.auto.create.topics", "false")
        // Only a cap for an idle partition: the brokers answer as soon as there is one byte.
        .set("fetch.wait.max.ms", "50")
        // How long fetching pauses after the queue below was full; librdkafka's own second is a stall.
        .set("fetch.queue.backoff.ms", "10")
        .set("queued.max.messages.kbytes", "16384");
}

fn set_broadcast(config: &mut ClientConfig, options: &KafkaOptions) {
    set_consumer(config);
    config.set("group.id", format!("{}-{}", options.broadcast_group_prefix, options.pod.as_str()));
}

fn set_group(config: &mut ClientConfig, options: &KafkaOptions) {
    set_consumer(config);
    config
        .set("group.id", &options.group_id)
        .set("partition.assignment.strategy", "cooperative-sticky")
        // The history is written in lots: memory answers for the newest messages, and a lot costs broker and store one request where single records cost
        // one each.
        .set("fetch.min.bytes", "65536")
        .set("fetch.wait.max.ms", "250")
        // A killed pod's partitions have no history writer for this long.
        .set("session.timeout.ms", "10000")
        .set("max.poll.interval.ms", "300000");
}

/// More records than this do not wait for the brokers, however small they are: each has a cost of its own beside its bytes.
const QUEUE_RECORDS_MAX: u32 = 100_000;
/// The default of both librdkafka and, nearly, of a topic's max.message.bytes, which a whole batch has to fit into.
const BATCH_BYTES: u32 = 1_000_000;
/// Often enough that a start is seen at once, and a few kilobytes each time.
const STATISTICS_MILLIS: u32 = 250;

/// Where a client's log lines, errors and statistics go. A consumer with callbacks of its own holds one and passes these on.
pub(super) struct ClientEvents {
    role: Role,
    topic: String,
    token_file: Option<PathBuf>,
    health: Arc<HealthState>,
    errors: Mutex<Errors>,
}

/// What this client has said of its errors so far.
#[derive(Default)]
struct Errors {
    last: Option<(RDKafkaErrorCode, String)>,
    /// When each kind was last worth a line, in the time of the clock's uptime.
    told: Vec<(RDKafkaErrorCode, Duration)>,
}

/// While brokers are away every attempt to connect fails with a text of its own; a line for each would say no more than one a minute.
const TELL_AGAIN: Duration = Duration::from_secs(60);

impl ClientEvents {
    pub(super) fn new(options: &KafkaOptions, role: Role, health: &Arc<HealthState>) -> Self {
        Self {
            role,
            topic: options.topic.clone(),
            token_file: options.security.token_file.clone(),
            health: Arc::clone(health),
            errors: Mutex::default(),
        }
    }

    /// A broker has one more of this client's records.
    pub(super) fn count_acknowledged(&self) {
        self.health.count_acknowledged();
    }

    /// Counts an error, unless it is the one before once more: producers are told of each twice. Gives whether it is worth a line.
    pub(super) fn note(&self, code: RDKafkaErrorCode, reason: &str) -> bool {
        let now = self.health.uptime();
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        if errors.last.as_ref().is_some_and(|(seen, text)| *seen == code && text == reason) {
            return false;
        }
        errors.last = Some((code, reason.to_owned()));
        self.health.count_error();
        match errors.told.iter_mut().find(|(told, _)| *told == code) {
            Some((_, at)) if now.saturating_sub(*at) < TELL_AGAIN => return false,
            Some((_, at)) => *at = now,
            None => errors.told.push((code, now)),
        }
        true
    }
}

impl ClientContext for ClientEvents {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let client = self.role.name();
        // What matters comes as an error or changes the health, too; these are for somebody who looks closer.
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(target: "librdkafka", client, facility, message);
            }
            RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning
            | RDKafkaLogLevel::Notice
            | RDKafkaLogLevel::Info
            | RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", client, facility, message),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let client = self.role.name();
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        // The end of a partition is an answer to a reader that asked to be told.
        if code == RDKafkaErrorCode::PartitionEOF {
            return;
        }
        if is_denial(code, reason) {
            self.health.is_denied(code);
        }
        if self.note(code, reason) {
            tracing::warn!(target: "librdkafka", client, code = %code, reason, "client error");
        } else {
            tracing::debug!(target: "librdkafka", client, code = %code, reason, "client error again");
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        match serde_json::from_slice::<ProducerStatistics>(statistics) {
            Ok(statistics) => self.health.observe(&statistics, &self.topic),
            Err(error) => tracing::warn!(
                client = self.role.name(),
                error = chain(&error),
                "the client's statistics cannot be read"
            ),
        }
    }

    fn generate_oauth_token(&self, _configuration: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        Ok(token::read(self.token_file.as_deref())?)
    }
}

/// A wrong password, or a certificate that one side does not trust. A token that could not be had was shown to nobody: whoever writes its file writes it
/// again.
fn is_denial(code: RDKafkaErrorCode, reason: &str) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed | RDKafkaErrorCode::SSL
    ) && !reason.contains(NO_TOKEN)
}

/// librdkafka has no code of its own for it.
const NO_TOKEN: &str = "Failed to acquire SASL OAUTHBEARER token";

impl ConsumerContext for ClientEvents {}

/// Runs `work`, which blocks, on a thread of its own. For the few calls of librdkafka that wait for a broker and have no other form; each has a
/// deadline, so the thread ends.
///
/// # Errors
/// When the operating system gives no thread, or `work` panicked.
pub(super) async fn on_thread<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<T> {
    let (reply, answer) = oneshot::channel();
    // Nobody waits any more when the caller was dropped; the outcome is then of no use.
    std::thread::Builder::new().name(name.into()).spawn(move || drop(reply.send(work())))?;
    answer.await.map_err(std::io::Error::other)
}
