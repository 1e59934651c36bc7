//! Where the server of a shard is found: at an address, or wherever sentinels say that the master of a service is.

pub(crate) mod sentinel;

use std::sync::Arc;
use std::time::Duration;

use redis::{Client, ConnectionAddr};

use crate::config::{Config, Host};
use crate::error::{Error, Result};
use crate::redis::node::connect_error::ConnectError;
use crate::redis::node::endpoint::{Endpoint, EndpointError, shown};
use crate::redis::node::source::sentinel::{Address, Sentinels};

/// Where a server is found.
pub(crate) enum EndpointSource {
    /// Always at the same address.
    Fixed(Box<Endpoint>),
    /// Where the master of a service is at the time.
    Service(Box<Service>),
}

pub(crate) struct Service {
    name: String,
    sentinels: Arc<Sentinels>,
    config: Config,
}

/// The servers of a configuration: for each its identity, by which the ring places names, and where it is found.
pub(crate) async fn all(config: &Config) -> Result<Vec<(String, EndpointSource)>> {
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
    // What is wrong with files shall be told at once.
    endpoint.client().map_err(refuse)?;
    Ok((host.identity(), EndpointSource::Fixed(Box::new(endpoint))))
}

async fn discover(sentinels: &Sentinels) -> Result<Vec<String>> {
    // There are no shards yet; what fails is what would have been the first.
    sentinels.services().await.map_err(|error| Error::Redis { shard: 0, cause: error.into() })
}

impl EndpointSource {
    /// A client for the server as it is found now.
    pub(crate) async fn locate(&self) -> Result<Arc<Client>, ConnectError> {
        match self {
            Self::Fixed(endpoint) => Ok(endpoint.client()?),
            Self::Service(service) => {
                let (host, port) = service.sentinels.master(&service.name).await?;
                Ok(Endpoint::of_service(host, port, &service.config)?.client()?)
            }
        }
    }

    /// How errors say where the server is, as long as nothing more is known.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::Fixed(endpoint) => endpoint.address(),
            Self::Service(service) => format!("the master of service {}", service.name),
        }
    }

    /// How errors say where the server of `client` is.
    pub(crate) fn address(&self, client: &Client) -> String {
        let address = shown(client.get_connection_info().addr());
        match self {
            Self::Fixed(_) => address,
            Self::Service(service) => format!("{address}, the master of service {}", service.name),
        }
    }

    /// Whether the server has to be a master, since sentinels may not have noticed yet that it is none any more.
    pub(crate) fn is_service(&self) -> bool {
        matches!(self, Self::Service(_))
    }

    /// Ends when most sentinels say that another server than that of `client` is the master.
    pub(crate) async fn moved(&self, client: &Client) {
        let Self::Service(service) = self else { return std::future::pending().await };
        loop {
            tokio::time::sleep(service.config.sentinel_refresh_interval).await;
            match service.sentinels.master(&service.name).await {
                Ok(master) if Some(&master) != address(client).as_ref() => return,
                Ok(_) => {}
                // As long as the connection holds nobody needs them.
                Err(error) => tracing::debug!(service = service.name, %error, "sentinels could not be asked"),
            }
        }
    }

    /// The longest pause between attempts to reach it. After a failover sentinels name another master, which costs little
    /// to ask for.
    pub(crate) fn longest_pause(&self) -> Duration {
        if self.is_service() { Duration::from_secs(1) } else { Duration::from_secs(10) }
    }
}

fn address(client: &Client) -> Option<Address> {
    match client.get_connection_info().addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => Some((host.clone(), *port)),
        _ => None,
    }
}
