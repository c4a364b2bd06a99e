//! Encryption and authentication between pod and brokers.

use super::error::KafkaOptionsError;
use rdkafka::ClientConfig;
use secrecy::{ExposeSecret, SecretString};
use std::path::{Path, PathBuf};

/// How a client proves who it is and whether others can listen.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// What goes over the connection.
    pub protocol: SecurityProtocol,
    /// How the client proves who it is; needed with the two SASL protocols.
    pub mechanism: Option<SaslMechanism>,
    /// Name for PLAIN and SCRAM.
    pub username: Option<String>,
    /// Password for PLAIN and SCRAM.
    pub password: Option<SecretString>,
    /// A file that holds the current OAUTHBEARER token (a JWT, as Kubernetes or a sidecar writes it). It is read again before the token expires.
    pub token_file: Option<PathBuf>,
    /// Certificates (PEM) of the authorities that the brokers' certificates must come from; the system's own when not set.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate (PEM), for brokers that ask for one.
    pub certificate_file: Option<PathBuf>,
    /// The certificate's private key (PEM).
    pub key_file: Option<PathBuf>,
    /// The private key's password.
    pub key_password: Option<SecretString>,
}

/// What goes over the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecurityProtocol {
    /// Neither encrypted nor authenticated.
    #[default]
    Plaintext,
    /// Encrypted; the brokers prove who they are, the client by a certificate if it has one.
    Tls,
    /// Authenticated, not encrypted.
    SaslPlaintext,
    /// Encrypted and authenticated.
    SaslTls,
}

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaslMechanism {
    /// Name and password as they are.
    Plain,
    /// A challenge with SHA-256.
    ScramSha256,
    /// A challenge with SHA-512.
    ScramSha512,
    /// A token from [`Security::token_file`].
    OAuthBearer,
}

impl SecurityProtocol {
    /// The protocol of the name that the configuration has for it.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "plaintext" => Some(Self::Plaintext),
            "tls" => Some(Self::Tls),
            "sasl_plaintext" => Some(Self::SaslPlaintext),
            "sasl_tls" => Some(Self::SaslTls),
            _ => None,
        }
    }

    const fn native(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Tls => "ssl",
            Self::SaslPlaintext => "sasl_plaintext",
            Self::SaslTls => "sasl_ssl",
        }
    }

    const fn has_tls(self) -> bool {
        matches!(self, Self::Tls | Self::SaslTls)
    }

    const fn has_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslTls)
    }
}

impl SaslMechanism {
    /// The mechanism of this name, in Kafka's spelling.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "PLAIN" => Some(Self::Plain),
            "SCRAM-SHA-256" => Some(Self::ScramSha256),
            "SCRAM-SHA-512" => Some(Self::ScramSha512),
            "OAUTHBEARER" => Some(Self::OAuthBearer),
            _ => None,
        }
    }

    const fn native(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::OAuthBearer => "OAUTHBEARER",
        }
    }

    /// The part of librdkafka that does it, and its name for people.
    const fn needs(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Plain => None,
            Self::ScramSha256 | Self::ScramSha512 => Some(("sasl_scram", "SCRAM")),
            Self::OAuthBearer => Some(("sasl_oauthbearer", "OAUTHBEARER")),
        }
    }
}

impl Security {
    /// Puts everything into `config`, or says what is missing, useless or not built in.
    pub(super) fn apply(&self, config: &mut ClientConfig) -> Result<(), KafkaOptionsError> {
        config.set("security.protocol", self.protocol.native());
        self.apply_tls(config)?;
        self.apply_sasl(config)
    }

    fn apply_tls(&self, config: &mut ClientConfig) -> Result<(), KafkaOptionsError> {
        let files = [
            ("ca_file", "ssl.ca.location", &self.ca_file),
            ("certificate_file", "ssl.certificate.location", &self.certificate_file),
            ("key_file", "ssl.key.location", &self.key_file),
        ];
        if !self.protocol.has_tls() {
            return match files.iter().find(|(_, _, file)| file.is_some()) {
                Some((setting, _, _)) => Err(KafkaOptionsError::NoEffect { setting, with: "a protocol without TLS" }),
                None => Ok(()),
            };
        }
        if !is_built_in("ssl") {
            return Err(KafkaOptionsError::NotBuiltIn { wanted: "TLS" });
        }
        if self.certificate_file.is_some() && self.key_file.is_none() {
            return Err(KafkaOptionsError::Missing { missing: "key_file", with: "a certificate" });
        }
        for (setting, property, file) in files {
            if let Some(file) = file {
                check_readable(setting, file)?;
                config.set(property, file.to_string_lossy());
            }
        }
        if let Some(password) = &self.key_password {
            config.set("ssl.key.password", password.expose_secret());
        }
        Ok(())
    }

    fn apply_sasl(&self, config: &mut ClientConfig) -> Result<(), KafkaOptionsError> {
        if !self.protocol.has_sasl() {
            return match self.mechanism {
                Some(_) => {
                    Err(KafkaOptionsError::NoEffect { setting: "sasl_mechanism", with: "a protocol without SASL" })
                }
                None => Ok(()),
            };
        }
        let missing = |missing, with| Err(KafkaOptionsError::Missing { missing, with });
        let Some(mechanism) = self.mechanism else { return missing("sasl_mechanism", "a SASL protocol") };
        if let Some((part, wanted)) = mechanism.needs()
            && !is_built_in(part)
        {
            return Err(KafkaOptionsError::NotBuiltIn { wanted });
        }
        config.set("sasl.mechanisms", mechanism.native());
        if self.token_file.is_some() && mechanism != SaslMechanism::OAuthBearer {
            return Err(KafkaOptionsError::NoEffect { setting: "token_file", with: mechanism.native() });
        }
        if mechanism == SaslMechanism::OAuthBearer {
            let Some(file) = &self.token_file else { return missing("token_file", mechanism.native()) };
            return check_readable("token_file", file);
        }
        let Some(username) = &self.username else { return missing("username", mechanism.native()) };
        let Some(password) = &self.password else { return missing("password", mechanism.native()) };
        config.set("sasl.username", username).set("sasl.password", password.expose_secret());
        Ok(())
    }
}

/// Whether librdkafka was built with this part.
fn is_built_in(part: &str) -> bool {
    let features = ClientConfig::new().create_native_config().and_then(|config| config.get("builtin.features"));
    features.is_ok_and(|features| features.split(',').any(|feature| feature == part))
}

/// A missing file is told by its setting, and at the start, where librdkafka would only fail every connection.
fn check_readable(setting: &'static str, file: &Path) -> Result<(), KafkaOptionsError> {
    match std::fs::File::open(file) {
        Ok(_) => Ok(()),
        Err(source) => Err(KafkaOptionsError::File { setting, file: file.to_path_buf(), source }),
    }
}
