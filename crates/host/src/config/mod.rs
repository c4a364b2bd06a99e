//! Configuration: defaults, under a TOML file, under environment variables.
//!
//! Read [`sections`] for what can be set. [`Config::load`] is the only way in: what it returns is valid.

pub mod describe;
mod properties;
pub mod secrets;
pub mod sections;
pub mod units;
mod validate;
pub mod values;

use chatify_domain::PodId;
pub use properties::PropertyTable;
use sections::{
    Auth, BrokerSecurity, Caching, ChatHistoryWriter, General, Limits, MessageBroker, Scylla, Server, Telemetry,
};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
pub use values::{
    BrokerProtocol, Compression, Consistency, LogFormat, Profile, SaslMechanism, Secret, TextList, TokenAlgorithm,
};

/// The file that is read when no other is named.
pub const DEFAULT_FILE: &str = "chatify.toml";

const PREFIX: &str = "CHATIFY__";

/// Every section, in the order of the documentation.
pub const SECTIONS: [describe::Section; 10] = [
    General::SECTION,
    Server::SECTION,
    Auth::SECTION,
    Limits::SECTION,
    MessageBroker::SECTION,
    BrokerSecurity::SECTION,
    Caching::SECTION,
    Scylla::SECTION,
    ChatHistoryWriter::SECTION,
    Telemetry::SECTION,
];

/// A valid configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Which adapters are used.
    pub profile: Profile,
    /// `[server]`
    pub server: Server,
    /// `[auth]`
    pub auth: Auth,
    /// `[limits]`
    pub limits: Limits,
    /// `[message_broker]`
    pub message_broker: MessageBroker,
    /// `[caching]`
    pub caching: Caching,
    /// `[scylla]`
    pub scylla: Scylla,
    /// `[chat_history_writer]`
    pub chat_history_writer: ChatHistoryWriter,
    /// `[telemetry]`
    pub telemetry: Telemetry,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration file `{path}` cannot be read")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no TOML. The parser's own error is not kept: it holds and prints the line, in which a password may stand.
    #[error("the configuration file `{path}` is not valid TOML: line {line}, column {column}: {message}")]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// Where in the line, in characters from 1.
        column: usize,
        /// What is wrong, without the text that is.
        message: String,
    },
    /// A key that nothing reads: a mistyped one, most likely.
    #[error("unknown configuration key `{key}`{hint}")]
    UnknownKey {
        /// The key, or the name of the variable.
        key: String,
        /// What may have been meant.
        hint: String,
    },
    /// A value of the wrong type or form.
    #[error("the configuration is not valid")]
    Value(#[source] Box<config::ConfigError>),
    /// A file that another setting names cannot be read.
    #[error("configuration key `{field}` names `{path}`, which cannot be read")]
    NamedFile {
        /// The field, for example `scylla.password_file`.
        field: String,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A service, or its client, does not take what is configured.
    #[error("the configuration cannot be used")]
    Refused(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A value out of its range, or two that contradict each other.
    #[error("configuration key `{field}` {message}")]
    Invalid {
        /// The field, for example `server.listen`.
        field: String,
        /// What is wrong with it.
        message: String,
    },
}

impl ConfigError {
    /// [`ConfigError::Syntax`] of the file `path` with this text.
    fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> Self {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or(text);
        let line_begins = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self::Syntax {
            path: path.into(),
            line: before.matches('\n').count() + 1,
            column: before[line_begins..].chars().count() + 1,
            message: error.message().into(),
        }
    }

    /// [`ConfigError::Refused`].
    pub(crate) fn refused(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Refused(Box::new(error))
    }
}

impl Config {
    /// Reads `file` (or [`DEFAULT_FILE`] when it exists) and the process's environment.
    ///
    /// # Errors
    /// When something cannot be read, is unknown, has the wrong form or is out of range; the error names it.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::from_sources(read_file(file)?, std::env::vars_os())
    }

    /// The defaults alone.
    ///
    /// # Errors
    /// Never, as long as the test of the defaults passes.
    pub fn defaults() -> Result<Self, ConfigError> {
        Self::from_sources(None, std::iter::empty())
    }

    fn from_sources(
        file: Option<(PathBuf, String)>,
        environment: impl IntoIterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
    ) -> Result<Self, ConfigError> {
        let toml = |text: &str| config::File::from_str(text, config::FileFormat::Toml);
        let mut layers = config::Config::builder().add_source(toml(&describe::defaults(&SECTIONS)));
        if let Some((path, text)) = file {
            check_keys(&path, &text)?;
            layers = layers.add_source(toml(&text));
        }
        let variables = own_variables(environment)?;
        // Numbers and booleans are read from text at deserialisation; parsing them here would turn a secret `0123` into 123.
        let environment = config::Environment::with_prefix("CHATIFY")
            .prefix_separator("__")
            .separator("__")
            .try_parsing(false)
            .source(Some(variables));
        let merged = layers.add_source(environment).build().map_err(|error| ConfigError::Value(error.into()))?;
        let this: Self = merged.try_deserialize().map_err(|error| ConfigError::Value(error.into()))?;
        validate::validate(&this)?;
        Ok(this)
    }

    /// This process's name: what is configured, else the host's, else `chatify`.
    #[must_use]
    pub fn pod_id(&self) -> PodId {
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let named = self.server.pod_id.clone().or_else(host).and_then(|name| PodId::parse(name.trim()).ok());
        named.unwrap_or_else(|| PodId::parse("chatify").expect("a valid id"))
    }

    /// Whether the playground is served: where nothing is said, for people who try things on their own machine.
    #[must_use]
    pub fn playground(&self) -> bool {
        self.server.playground.unwrap_or(match self.profile {
            Profile::Embedded => true,
            Profile::Cluster => false,
        })
    }

    /// The configuration in force as TOML, with secrets masked.
    ///
    /// # Errors
    /// When a value cannot be written as TOML.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string_pretty(self)
    }
}

fn read_file(file: Option<&Path>) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let path = match file {
        Some(path) => path,
        None if Path::new(DEFAULT_FILE).exists() => Path::new(DEFAULT_FILE),
        None => return Ok(None),
    };
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::File { path: path.into(), source })?;
    Ok(Some((path.into(), text)))
}

/// Refuses a file with a key that no section knows.
fn check_keys(path: &Path, text: &str) -> Result<(), ConfigError> {
    let table: toml::Table = toml::from_str(text).map_err(|error| ConfigError::syntax(path, text, &error))?;
    check_table("", &table)
}

/// A table is a section, or the value of a setting.
fn check_table(section: &str, table: &toml::Table) -> Result<(), ConfigError> {
    table.iter().try_for_each(|(key, value)| {
        let path = if section.is_empty() { key.clone() } else { format!("{section}.{key}") };
        match value {
            toml::Value::Table(inner) if SECTIONS.iter().any(|known| known.key == path) => check_table(&path, inner),
            _ => check_key(&path),
        }
    })
}

fn check_key(path: &str) -> Result<(), ConfigError> {
    let known = || SECTIONS.iter().flat_map(|section| section.fields.iter().map(|field| section.path_of(field)));
    if known().any(|key| key == path) {
        return Ok(());
    }
    Err(ConfigError::UnknownKey { key: path.into(), hint: hint(path, known()) })
}

/// The variables of ours.
///
/// # Errors
/// One that starts with our prefix and that no section knows, or that is not UTF-8.
fn own_variables(
    environment: impl IntoIterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
) -> Result<HashMap<String, String>, ConfigError> {
    let known: Vec<String> =
        SECTIONS.iter().flat_map(|section| section.fields.iter().map(|field| section.variable_of(field))).collect();
    let mut own = HashMap::new();
    for (name, value) in environment {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)).map(String::from) else { continue };
        if !known.contains(&name) {
            let hint = hint(&name, known.into_iter());
            return Err(ConfigError::UnknownKey { key: name, hint });
        }
        let value = value
            .into_string()
            .map_err(|_| ConfigError::Invalid { field: name.clone(), message: "must be UTF-8".into() })?;
        own.insert(name, value);
    }
    Ok(own)
}

/// `, did you mean …?` for a known name that differs by at most a third of its letters.
fn hint(wrong: &str, known: impl Iterator<Item = String>) -> String {
    let nearest = known.map(|name| (distance(wrong, &name), name)).min();
    match nearest {
        Some((edits, name)) if edits * 3 <= name.len() => format!(", did you mean `{name}`?"),
        Some(_) | None => String::new(),
    }
}

/// Levenshtein's distance in bytes.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in right.bytes().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests;
