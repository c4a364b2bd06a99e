//! One live connection of the driver, to a server or to a cluster.

use super::keys::{SLOT_RANGES, slot_range};
use super::options::{Endpoint, RedisOptions};
use redis::aio::{ConnectionLike, MultiplexedConnection, PubSub};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, FromRedisValue, ProtocolVersion, RedisResult, TlsCertificates,
    cmd,
};
use std::time::Duration;

/// The commands that the driver queues before it makes callers wait; what is waiting in all is bounded by the connection.
const DRIVER_QUEUE: usize = 256;

/// What makes connections.
pub(super) enum Connector {
    Single(Client),
    Cluster { client: ClusterClient, nodes: Vec<Client> },
}

/// A connection; clones share it.
#[derive(Clone)]
pub(super) enum Link {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connector {
    pub(super) fn new(options: &RedisOptions, endpoint: &Endpoint) -> RedisResult<Self> {
        let clients = endpoint.nodes().iter().map(|node| client(options, node)).collect::<RedisResult<Vec<_>>>()?;
        match endpoint {
            Endpoint::Single(node) => client(options, node).map(Self::Single),
            Endpoint::Cluster(nodes) => {
                // A command's own deadline spans all tries; the retries are for redirections while slots move.
                let builder = ClusterClient::builder(nodes.clone())
                    .tcp_settings(tcp())
                    .retries(3)
                    .min_retry_wait(5)
                    .connection_timeout(options.connect_timeout)
                    .response_timeout(options.deadline);
                let builder = match &options.certificate_authorities {
                    Some(pem) => builder.certs(certificates(pem)),
                    None => builder,
                };
                Ok(Self::Cluster { client: builder.build()?, nodes: clients })
            }
        }
    }

    /// Connects and says who is calling.
    pub(super) async fn connect(&self, timeout: Duration, name: &str) -> RedisResult<Link> {
        let mut link = match self {
            Self::Single(client) => {
                // The caller's deadline is the one that counts; the driver's would only make a second timer for each command.
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(timeout))
                    .set_response_timeout(None)
                    .set_pipeline_buffer_size(DRIVER_QUEUE);
                Link::Single(client.get_multiplexed_async_connection_with_config(&config).await?)
            }
            Self::Cluster { client, .. } => Link::Cluster(client.get_async_connection().await?),
        };
        link.query::<()>(cmd("CLIENT").arg("SETNAME").arg(name)).await?;
        Ok(link)
    }

    /// A connection that only listens; `attempt` walks over the nodes of a cluster, which pass publications on to each other.
    pub(super) async fn listen(&self, attempt: usize) -> RedisResult<PubSub> {
        match self {
            Self::Single(client) => client.get_async_pubsub().await,
            Self::Cluster { nodes, .. } => nodes[attempt % nodes.len()].get_async_pubsub().await,
        }
    }
}

impl Link {
    /// How many parts of the slots may fail independently of each other: one when one server has them all.
    pub(super) fn ranges(&self) -> usize {
        match self {
            Self::Single(_) => 1,
            Self::Cluster(_) => SLOT_RANGES,
        }
    }

    /// The part that `key` is in, less than [`Link::ranges`].
    pub(super) fn range(&self, key: &str) -> usize {
        match self {
            Self::Single(_) => 0,
            Self::Cluster(_) => slot_range(key),
        }
    }

    pub(super) async fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        match self {
            Self::Single(connection) => query(command, connection).await,
            Self::Cluster(connection) => query(command, connection).await,
        }
    }
}

async fn query<T: FromRedisValue>(command: &Cmd, connection: &mut impl ConnectionLike) -> RedisResult<T> {
    Ok(redis::from_redis_value(connection.req_packed_command(command).await?.extract_error()?)?)
}

fn client(options: &RedisOptions, node: &ConnectionInfo) -> RedisResult<Client> {
    // One protocol for all: nothing here needs what the newer one adds.
    let settings = node.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
    let node = node.clone().set_redis_settings(settings).set_tcp_settings(tcp());
    match &options.certificate_authorities {
        Some(pem) => Client::build_with_tls(node, certificates(pem)),
        None => Client::open(node),
    }
}

/// Every command is small and somebody waits for it. Without `TCP_NODELAY` (RFC 896), which the driver leaves off, each waits for the answer to the one before.
fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

fn certificates(pem: &[u8]) -> TlsCertificates {
    TlsCertificates { client_tls: None, root_cert: Some(pem.to_vec()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chatify_domain::PodId;

    #[test]
    fn no_command_waits_for_the_answer_to_another() {
        let options = RedisOptions::new("redis://127.0.0.1:1".into(), PodId::parse("pod").expect("a valid id"));
        let connector = Connector::new(&options, &options.endpoint().expect("one server")).expect("valid options");
        let Connector::Single(client) = connector else { panic!("one server is no cluster") };
        assert!(client.get_connection_info().tcp_settings().nodelay());
    }
}
