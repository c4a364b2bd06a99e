//! A session of the driver: authentication, encryption, and what it means when there is none.

use super::options::{ScyllaOptions, TlsOptions};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{
    ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, MetadataError, NewSessionError,
};
use scylla::policies::load_balancing::DefaultPolicy;
use secrecy::ExposeSecret;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// A connection that says nothing for so long is asked for a sign of life …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// … and given up, to be made anew, when none comes.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long all nodes may take to agree on a schema, asked this often.
pub(super) const AGREEMENT_TIMEOUT: Duration = Duration::from_secs(20);
const AGREEMENT_INTERVAL: Duration = Duration::from_millis(50);

/// Why there is no session with the store.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No node answers, or not in time; trying again may help.
    #[error("no node of the history store answers")]
    Away(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store knows neither this name nor this password, or wants one.
    #[error("the history store refuses the login: check scylla.username and scylla.password")]
    LoginRefused(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No node is in the data centre that is to be asked, so every request would fail.
    #[error("scylla.local_datacenter: no node of the history store is in `{wanted}`; there are {found:?}")]
    UnknownDatacenter {
        /// The option.
        wanted: String,
        /// The data centres of the nodes.
        found: BTreeSet<String>,
    },
    /// The authorities cannot be read.
    #[error("scylla.ca_file: the certificates that are to be trusted cannot be read")]
    Certificates(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ConnectError {
    /// Whether trying again may help although nobody changes anything.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Away(_) => true,
            Self::LoginRefused(_) | Self::UnknownDatacenter { .. } | Self::Certificates(_) => false,
        }
    }
}

/// The time for it has passed.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
struct NoAnswer(Duration);

/// Opens a session.
pub(super) async fn open(options: &ScyllaOptions) -> Result<Session, ConnectError> {
    let profile = ExecutionProfile::builder()
        .consistency(options.read_consistency.to_driver())
        .request_timeout(Some(options.request_timeout))
        .load_balancing_policy(routing(options))
        .build();
    let mut builder = SessionBuilder::new()
        .known_nodes(options.nodes())
        .default_execution_profile_handle(profile.into_handle())
        .connection_timeout(options.connect_timeout)
        .hostname_resolution_timeout(Some(options.connect_timeout))
        .keepalive_interval(KEEPALIVE_INTERVAL)
        .keepalive_timeout(KEEPALIVE_TIMEOUT)
        .schema_agreement_timeout(AGREEMENT_TIMEOUT)
        .schema_agreement_interval(AGREEMENT_INTERVAL)
        // Routing needs to know how this keyspace is replicated; other people's keyspaces may be many.
        .keyspaces_to_fetch([&options.keyspace]);
    if let (Some(username), Some(password)) = (&options.username, &options.password) {
        builder = builder.user(username, password.expose_secret());
    }
    if let Some(tls) = &options.tls {
        builder = builder.tls_context(Some(client_config(tls)?));
    }
    // Several nodes are tried one after the other, so the whole is bounded as well.
    let limit = options.connect_timeout * 2;
    let session = match tokio::time::timeout(limit, builder.build()).await {
        Ok(built) => built.map_err(classify)?,
        Err(_) => return Err(ConnectError::Away(Box::new(NoAnswer(limit)))),
    };
    check_datacenter(&session, options)?;
    Ok(session)
}

fn check_datacenter(session: &Session, options: &ScyllaOptions) -> Result<(), ConnectError> {
    let Some(wanted) = &options.local_datacenter else { return Ok(()) };
    let state = session.get_cluster_state();
    let found: BTreeSet<String> = state.get_nodes_info().iter().filter_map(|node| node.datacenter.clone()).collect();
    if found.contains(wanted) { Ok(()) } else { Err(ConnectError::UnknownDatacenter { wanted: wanted.clone(), found }) }
}

/// Requests go to a node that has the row itself, in the local data centre when one is named.
fn routing(options: &ScyllaOptions) -> Arc<dyn scylla::policies::load_balancing::LoadBalancingPolicy> {
    let policy = DefaultPolicy::builder().token_aware(true);
    match &options.local_datacenter {
        Some(datacenter) => policy.prefer_datacenter(datacenter.clone()).permit_dc_failover(false).build(),
        None => policy.build(),
    }
}

pub(super) fn client_config(tls: &TlsOptions) -> Result<Arc<ClientConfig>, ConnectError> {
    let mut roots = RootCertStore::empty();
    match &tls.ca_file {
        Some(file) => {
            let certificates = CertificateDer::pem_file_iter(file).map_err(unreadable)?;
            for certificate in certificates {
                roots.add(certificate.map_err(unreadable)?).map_err(unreadable)?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
    }
    if roots.is_empty() {
        return Err(unreadable("there are none"));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unreadable)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn unreadable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ConnectError {
    ConnectError::Certificates(error.into())
}

/// Reasons with which a store refuses a login because it could not look it up, as they begin: its logins are rows too, and their nodes may be away.
/// Cassandra says the first one, ScyllaDB the others, each with the code of wrong credentials.
const LOGINS_AWAY: [&str; 5] = [
    "Unable to perform authentication",
    "Cannot achieve consistency level",
    "Operation timed out",
    "Operation failed",
    "authentication failed",
];

/// A login that was refused does not get better by trying again; everything else may.
fn classify(error: NewSessionError) -> ConnectError {
    if is_login_refused(&error) {
        return ConnectError::LoginRefused(Box::new(error));
    }
    ConnectError::Away(Box::new(error))
}

fn is_login_refused(error: &NewSessionError) -> bool {
    let NewSessionError::MetadataError(MetadataError::ConnectionPoolError(ConnectionPoolError::Broken {
        last_connection_error: ConnectionError::ConnectionSetupRequestError(refused),
    })) = error
    else {
        return false;
    };
    match refused.get_error() {
        ConnectionSetupRequestErrorKind::DbError(DbError::AuthenticationError, reason) => !could_not_look_up(reason),
        ConnectionSetupRequestErrorKind::MissingAuthentication => true,
        _ => false,
    }
}

fn could_not_look_up(reason: &str) -> bool {
    LOGINS_AWAY.iter().any(|beginning| reason.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_that_cannot_be_looked_up_are_not_wrong() {
        for passing in [
            "Unable to perform authentication: Cannot achieve consistency level QUORUM",
            "Cannot achieve consistency level for cl LOCAL_ONE. Requires 1, alive 0",
            "Operation timed out for system.roles - received only 0 responses from 1 CL=ONE.",
        ] {
            assert!(could_not_look_up(passing), "{passing}");
        }
        for wrong in [
            "Provided username chatify and/or password are incorrect",
            "Username and/or password are incorrect",
            "chatify is not permitted to log in",
            "",
        ] {
            assert!(!could_not_look_up(wrong), "{wrong}");
        }
    }
}
