//! `EndpointSource`: the source of a server's address, which is the configuration, a group of sentinels or a cluster.

use std::sync::Arc;
use std::time::Duration;

use redis::{Client, ConnectionAddr};

use crate::config::{Config, Host};
use crate::error::{Error, Result};
use crate::redis::node::cluster::any_node::AnyNode;
use crate::redis::node::cluster::{Address, Cluster, Slot};
use crate::redis::node::connection::ServerConnection;
use crate::redis::node::connection::connect_error::ConnectError;
use crate::redis::node::endpoint::sentinel::Sentinels;
use crate::redis::node::endpoint::{Endpoint, EndpointError, shown};

/// The source of a server's address.
pub(crate) enum EndpointSource {
    /// A configured address.
    Fixed(Box<Endpoint>),
    /// The address of the master of a service, which changes at a failover.
    Service(Box<Service>),
    /// The address of the master of a shard of a cluster, which changes at a failover.
    Cluster(ClusterShard),
    /// The address of a node of a cluster, which changes when the node is down or cut off from the others.
    AnyNode(AnyNode),
}

/// Why another server is used from now on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Moved {
    #[error("another server is the master now")]
    Master,
    #[error("the node is cut off from the other nodes of the cluster")]
    CutOff,
}

/// A shard of a cluster: a master with its replicas.
pub(crate) struct ClusterShard {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) number: usize,
}

pub(crate) struct Service {
    name: String,
    sentinels: Arc<Sentinels>,
    config: Config,
}

/// The servers of a configuration. For each the identity, by which the ring places names, and the source of its
/// address. A cluster is one server: any of its nodes.
pub(crate) async fn all(config: &Config) -> Result<Vec<(String, EndpointSource)>> {
    if config.cluster {
        let node = AnyNode::of(Cluster::new(config)?);
        return Ok(vec![("a node of the cluster".to_owned(), EndpointSource::AnyNode(node))]);
    }
    if config.sentinels.is_empty() {
        return config.host_list().iter().enumerate().map(|(at, host)| fixed(at, host, config)).collect();
    }
    let sentinels = Arc::new(Sentinels::new(config)?);
    let names = if config.services.is_empty() { discover(&sentinels).await? } else { config.services.clone() };
    let service = |name: String| {
        let service = Service { name: name.clone(), sentinels: sentinels.clone(), config: config.clone() };
        (name, EndpointSource::Service(Box::new(service)))
    };
    Ok(names.into_iter().map(service).collect())
}

fn fixed(at: usize, host: &Host, config: &Config) -> Result<(String, EndpointSource)> {
    let refuse = |error: EndpointError| error.of_option(format!("hosts[{at}]"), host);
    let endpoint = Endpoint::at(&host.url(), config).map_err(refuse)?;
    // Reads the files with certificates, so that a fault in them is reported at once.
    endpoint.client().map_err(refuse)?;
    Ok((host.identity(), EndpointSource::Fixed(Box::new(endpoint))))
}

async fn discover(sentinels: &Sentinels) -> Result<Vec<String>> {
    // There are no shards yet. The error names the first one.
    sentinels.services().await.map_err(|error| Error::Redis { shard: 0, cause: error.into() })
}

impl EndpointSource {
    /// A client for the current address of the server.
    pub(crate) async fn locate(&self) -> Result<Arc<Client>, ConnectError> {
        match self {
            Self::Fixed(endpoint) => Ok(endpoint.client()?),
            Self::Service(service) => {
                let (host, port) = service.sentinels.master(&service.name).await?;
                Ok(Endpoint::of_service(host, port, &service.config)?.client()?)
            }
            Self::Cluster(shard) => Box::pin(shard.cluster.locate(shard.number)).await,
            Self::AnyNode(node) => Box::pin(node.locate()).await,
        }
    }

    /// The text for the address in errors before the server has been located.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::Fixed(endpoint) => endpoint.address(),
            Self::Service(service) => format!("the master of service {}", service.name),
            Self::Cluster(shard) => shard.cluster.seed_addresses(),
            Self::AnyNode(node) => node.seed_addresses(),
        }
    }

    /// The text for the address in errors when `client` is the client for it.
    pub(crate) fn address(&self, client: &Client) -> String {
        let address = shown(client.get_connection_info().addr());
        match self {
            Self::Fixed(_) | Self::Cluster(_) | Self::AnyNode(_) => address,
            Self::Service(service) => format!("{address}, the master of service {}", service.name),
        }
    }

    /// Whether other servers name the address. Such a server has to be checked for being a master, because they may not
    /// have noticed that it has become a replica.
    pub(crate) fn follows_master(&self) -> bool {
        matches!(self, Self::Service(_) | Self::Cluster(_))
    }

    /// Whether the server is a master of a cluster.
    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// Whether the server knows of all subscribers. A node that forwards messages to all others knows its own.
    pub(crate) fn knows_all_subscribers(&self) -> bool {
        !matches!(self, Self::AnyNode(_))
    }

    /// Whether the server has to hold `key`.
    pub(crate) fn holds(&self, key: &str) -> bool {
        self.serves(Slot::of(key))
    }

    /// Whether the server serves `slot`. A server outside of a cluster has all keys.
    pub(crate) fn serves(&self, slot: Slot) -> bool {
        match self {
            Self::Cluster(shard) => shard.cluster.shard_of(slot) == shard.number,
            _ => true,
        }
    }

    /// Whether the server has to hold any keys. A node of a cluster may serve no slots.
    pub(crate) fn has_slots(&self) -> bool {
        match self {
            Self::Cluster(shard) => shard.cluster.has_slots(shard.number),
            _ => true,
        }
    }

    /// Whether a node of the shard of a cluster is at `address`.
    pub(crate) fn has_node(&self, address: &Address) -> bool {
        matches!(self, Self::Cluster(shard) if shard.cluster.shard_at(address) == Some(shard.number))
    }

    /// Waits until the servers have left the cluster.
    pub(crate) async fn retired(&self) {
        match self {
            Self::Cluster(shard) => shard.cluster.retired(shard.number).await,
            _ => std::future::pending().await,
        }
    }

    /// Waits until most sentinels, or the cluster, name another master than the server of `connection`, or until this
    /// node of a cluster is cut off from the others.
    pub(crate) async fn moved(&self, connection: &ServerConnection) -> Moved {
        let client = &connection.client;
        let service = match self {
            Self::Fixed(_) => return std::future::pending().await,
            Self::Service(service) => service,
            Self::Cluster(shard) => match address(client) {
                Some(address) => {
                    shard.cluster.moved(shard.number, &address).await;
                    return Moved::Master;
                }
                None => return std::future::pending().await,
            },
            Self::AnyNode(node) => {
                node.cut_off(connection.commands.clone()).await;
                return Moved::CutOff;
            }
        };
        loop {
            tokio::time::sleep(service.config.sentinel_refresh_interval).await;
            match service.sentinels.master(&service.name).await {
                Ok(master) if Some(&master) != address(client).as_ref() => return Moved::Master,
                Ok(_) => {}
                // The sentinels are not needed while the connection works.
                Err(error) => tracing::debug!(service = service.name, %error, "cannot query the sentinels"),
            }
        }
    }

    /// The longest pause between attempts to connect. It is short if other servers name another one after a failure,
    /// because a query of them is cheap.
    pub(crate) fn longest_pause(&self) -> Duration {
        if matches!(self, Self::Fixed(_)) { Duration::from_secs(10) } else { Duration::from_secs(1) }
    }
}

/// Host and port of the server of `client`; `None` for a unix socket.
pub(crate) fn address(client: &Client) -> Option<Address> {
    match client.get_connection_info().addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => Some((host.clone(), *port)),
        _ => None,
    }
}
