//! Secrets that may be written in the configuration or in a file of their own.

use super::{Config, ConfigError, Secret};
use std::path::{Path, PathBuf};

/// Where a connection string may lead.
const SCHEMES: [&str; 4] = ["redis://", "rediss://", "redis+cluster://", "rediss+cluster://"];

impl Config {
    /// How Redis is reached.
    ///
    /// # Errors
    /// When its file cannot be read, or it is none.
    pub fn redis_connection_string(&self) -> Result<Option<Secret>, ConfigError> {
        let caching = &self.caching;
        let field = "caching.connection_string";
        let found = secret(field, caching.connection_string.as_ref(), caching.connection_string_file.as_deref())?;
        if let Some(found) = &found {
            check_connection_string(found.expose())?;
        }
        Ok(found)
    }

    /// The password for Kafka's brokers.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn broker_password(&self) -> Result<Option<Secret>, ConfigError> {
        let security = &self.message_broker.security;
        secret("message_broker.security.password", security.password.as_ref(), security.password_file.as_deref())
    }

    /// The password of the key for Kafka's brokers.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn broker_key_password(&self) -> Result<Option<Secret>, ConfigError> {
        let security = &self.message_broker.security;
        let field = "message_broker.security.key_password";
        secret(field, security.key_password.as_ref(), security.key_password_file.as_deref())
    }

    /// The password for the CQL store.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn store_password(&self) -> Result<Option<Secret>, ConfigError> {
        secret("scylla.password", self.scylla.password.as_ref(), self.scylla.password_file.as_deref())
    }
}

/// Refuses what cannot lead to a Redis. The text itself is a secret and is not repeated.
pub(super) fn check_connection_string(text: &str) -> Result<(), ConfigError> {
    let host = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme));
    if host.is_some_and(|host| !host.is_empty()) {
        return Ok(());
    }
    let message = format!("must start with {} and a host", SCHEMES.join(", "));
    Err(ConfigError::Invalid { field: "caching.connection_string".into(), message })
}

fn secret(field: &str, written: Option<&Secret>, file: Option<&Path>) -> Result<Option<Secret>, ConfigError> {
    let Some(path) = file else { return Ok(written.cloned()) };
    let read = std::fs::read_to_string(path);
    let text = read.map_err(|source| ConfigError::NamedFile {
        field: format!("{field}_file"),
        path: PathBuf::from(path),
        source,
    })?;
    if text.trim().is_empty() {
        return Err(ConfigError::Invalid { field: format!("{field}_file"), message: "names an empty file".into() });
    }
    Ok(Some(Secret::new(text.trim().into())))
}
