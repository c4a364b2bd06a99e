//! Ranges, and settings that must fit together.

mod cluster;

use super::{Config, ConfigError, Profile, TokenAlgorithm};
use chatify_domain::{Epoch, PodId};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Checks every field.
///
/// # Errors
/// The first field that is out of range, with the range.
pub(super) fn validate(config: &Config) -> Result<(), ConfigError> {
    server(config)?;
    auth(config)?;
    limits(config)?;
    log_and_history(config)?;
    cluster::services(config)?;
    filter(config)
}

fn server(config: &Config) -> Result<(), ConfigError> {
    let server = &config.server;
    if let Some(name) = &server.pod_id {
        PodId::parse(name).map_err(|error| invalid("server.pod_id", error.to_string()))?;
    }
    for origin in &server.origins.0 {
        check_origin(origin)?;
    }
    if server.data_dir.as_os_str().is_empty() {
        return Err(invalid("server.data_dir", "must not be empty"));
    }
    time("server.drain_window", server.drain_window, Duration::ZERO, HOUR)?;
    time("server.drain_grace", server.drain_grace, SECOND, HOUR)?;
    time("server.request_timeout", server.request_timeout, SECOND, HOUR)?;
    time("server.header_timeout", server.header_timeout, SECOND, HOUR)?;
    size("server.max_header_bytes", server.max_header_bytes, 8 * KIB, MIB)?;
    size("server.max_body_bytes", server.max_body_bytes, 32 * KIB, 16 * MIB)
}

/// An origin is exactly what a browser sends: scheme, host and, when it is not the scheme's own, port.
fn check_origin(origin: &str) -> Result<(), ConfigError> {
    let exact = url::Url::parse(origin)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .is_some_and(|url| url.origin().ascii_serialization() == origin);
    if exact {
        return Ok(());
    }
    let message =
        format!("has `{origin}`, which is not an origin such as `https://chat.example.org` (no path, no final slash)");
    Err(invalid("server.origins", message))
}

fn auth(config: &Config) -> Result<(), ConfigError> {
    let auth = &config.auth;
    for (field, value) in [("auth.issuer", &auth.issuer), ("auth.audience", &auth.audience)] {
        if value.trim().is_empty() {
            return Err(invalid(field, "must not be blank"));
        }
    }
    if auth.key.is_some() && auth.key_file.is_some() {
        return Err(invalid("auth.key_file", "must not be set together with `auth.key`"));
    }
    if auth.key.is_none() && auth.key_file.is_none() {
        if auth.algorithm != TokenAlgorithm::HS256 {
            return Err(invalid("auth.key", "must be the public key in PEM with this `auth.algorithm`"));
        }
        if config.profile == Profile::Cluster {
            let message = "(or `auth.key_file`) must be set in the profile `cluster`: a token from one pod is shown to all, so all share one key";
            return Err(invalid("auth.key", message));
        }
    }
    time("auth.leeway", auth.leeway, Duration::ZERO, 10 * MINUTE)?;
    time("auth.token_ttl", auth.token_ttl, SECOND, 366 * DAY)
}

fn limits(config: &Config) -> Result<(), ConfigError> {
    let limits = &config.limits;
    count("limits.send_messages", limits.send_messages as usize, 1, u32::MAX as usize)?;
    time("limits.send_window", limits.send_window, SECOND, DAY)?;
    count("limits.connections", limits.connections, 1, 10_000_000)?;
    count("limits.connections_per_user", limits.connections_per_user.unwrap_or(1), 1, 1_000_000)?;
    count("limits.scopes_per_connection", limits.scopes_per_connection, 1, 100_000)?;
    count("limits.sends_in_flight", limits.sends_in_flight, 1, 1_000)?;
    // The longest text takes 16 KiB as UTF-8, and up to 48 KiB when every character of it is escaped.
    size("limits.frame", limits.frame, 32 * KIB, 16 * MIB)?;
    count("limits.outbox_frames", limits.outbox_frames, 16, 100_000)?;
    size("limits.outbox_bytes", limits.outbox_bytes, limits.frame, 256 * MIB)?;
    size("limits.tail_bytes", limits.tail_bytes, MIB, 64 << 30)?;
    time("limits.keep_alive", limits.keep_alive, SECOND, HOUR)?;
    time("limits.client_timeout", limits.client_timeout, 2 * SECOND, DAY)?;
    time("limits.handshake_timeout", limits.handshake_timeout, SECOND, 10 * MINUTE)?;
    time("limits.close_timeout", limits.close_timeout, SECOND, 10 * MINUTE)?;
    if limits.client_timeout <= limits.keep_alive {
        return Err(invalid("limits.client_timeout", "must be longer than `limits.keep_alive`"));
    }
    if limits.close_timeout >= config.server.drain_grace {
        return Err(invalid(
            "limits.close_timeout",
            "must be shorter than `server.drain_grace`, or a client that does not close its side is cut off when the server ends",
        ));
    }
    Ok(())
}

fn log_and_history(config: &Config) -> Result<(), ConfigError> {
    let broker = &config.message_broker;
    Epoch::new(broker.log_epoch).map_err(|error| invalid("message_broker.log_epoch", error.to_string()))?;
    time("message_broker.retention", broker.retention, HOUR, 3_660 * DAY)?;
    // The window costs a few tens of bytes for each message in it.
    time("message_broker.dedupe_window", broker.dedupe_window, 2 * MINUTE, HOUR)?;
    let writer = &config.chat_history_writer;
    count("chat_history_writer.database_retry_attempts", writer.database_retry_attempts as usize, 1, 100)?;
    time("chat_history_writer.database_retry_first", writer.database_retry_first, Duration::from_millis(1), MINUTE)?;
    time("chat_history_writer.database_retry_cap", writer.database_retry_cap, writer.database_retry_first, HOUR)?;
    time(
        "chat_history_writer.consumer_backoff_first",
        writer.consumer_backoff_first,
        Duration::from_millis(1),
        MINUTE,
    )?;
    time("chat_history_writer.consumer_backoff_cap", writer.consumer_backoff_cap, writer.consumer_backoff_first, HOUR)?;
    size("chat_history_writer.max_payload_log_bytes", writer.max_payload_log_bytes, 0, 64 * KIB)
}

fn filter(config: &Config) -> Result<(), ConfigError> {
    let filter = &config.telemetry.log_filter;
    let parsed = tracing_subscriber::EnvFilter::builder().parse(filter);
    parsed.map(drop).map_err(|error| invalid("telemetry.log_filter", format!("cannot be read: {error}")))
}

fn time(field: &str, value: Duration, least: Duration, most: Duration) -> Result<(), ConfigError> {
    use super::units::format_duration;
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(invalid(field, format!("must be between {} and {}", format_duration(least), format_duration(most))))
}

fn size(field: &str, value: usize, least: usize, most: usize) -> Result<(), ConfigError> {
    use super::units::format_size;
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(invalid(field, format!("must be between {} and {}", format_size(least), format_size(most))))
}

fn count(field: &str, value: usize, least: usize, most: usize) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(invalid(field, format!("must be between {least} and {most}")))
}

fn invalid(field: &str, message: impl Into<String>) -> ConfigError {
    ConfigError::Invalid { field: field.into(), message: message.into() }
}
