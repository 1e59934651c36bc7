//! `channel-layer serve`: the interface server as a program.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use channel_layer::server::{
    DataLoss, Listener, SlowConsumer, SocketOptions, Tls, TrustedProxies, health_routes, metrics_route,
};
use channel_layer::{BoxError, InterfaceServer};
use clap::{Args, ValueEnum};

use crate::layer::LayerOptions;
use crate::{chain, chat, first_error, print_line, seconds, stop_signal};

/// Every option can also be set by an environment variable: `CHANNEL_SERVER_` and the name of the option in capitals.
/// The elements of a list are separated by commas.
#[derive(Args)]
pub(crate) struct Serve {
    /// Address to listen on: HOST:PORT, unix:PATH, fd:NUMBER for an inherited listener, or "activated" for all
    /// listeners that systemd passes on
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "CHANNEL_SERVER_LISTEN",
        value_delimiter = ',',
        default_value = "127.0.0.1:8000"
    )]
    listen: Vec<ListenAddress>,
    /// Certificate chain in PEM, for TLS
    #[arg(long, value_name = "FILE", env = "CHANNEL_SERVER_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key in PEM, for TLS
    #[arg(long, value_name = "FILE", env = "CHANNEL_SERVER_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Address or network of a proxy whose X-Forwarded-For and X-Forwarded-Proto are trusted, or "unix"
    #[arg(long, value_name = "NETWORK", env = "CHANNEL_SERVER_TRUSTED_PROXY", value_delimiter = ',')]
    trusted_proxy: Vec<String>,
    /// Origin whose pages may open WebSockets, such as <https://example.org> or <https://*.example.org> [default: all]
    #[arg(long, value_name = "ORIGIN", env = "CHANNEL_SERVER_ALLOWED_ORIGIN", value_delimiter = ',')]
    allowed_origin: Vec<String>,
    /// Path at which a proxy mounts the application
    #[arg(long, value_name = "PATH", env = "CHANNEL_SERVER_ROOT_PATH", default_value = "")]
    root_path: String,
    /// Log a line for each request
    #[arg(long, env = "CHANNEL_SERVER_ACCESS_LOG")]
    access_log: bool,
    /// Add a trace context to messages, as text under traceparent
    #[arg(long, env = "CHANNEL_SERVER_TRACE")]
    trace: bool,
    /// Pass no HTTP requests to the application; serve only pages and routes
    #[arg(long, env = "CHANNEL_SERVER_NO_HTTP")]
    no_http: bool,
    #[command(flatten)]
    pages: Pages,
    #[command(flatten)]
    times: Times,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    layer: LayerOptions,
}

#[derive(Args)]
struct Pages {
    /// Serve the page of the chat, for `worker chat`
    #[arg(long, env = "CHANNEL_SERVER_CHAT")]
    chat: bool,
    /// Serve /live, /ready, /health/redis and /metrics; restrict access to these pages in your proxy
    #[arg(long, env = "CHANNEL_SERVER_HEALTH")]
    health: bool,
    /// Serve a page for operators at /status; restrict access to it in your proxy
    #[arg(long, env = "CHANNEL_SERVER_STATUS")]
    status: bool,
}

#[derive(Args)]
#[command(next_help_heading = "Times, in seconds")]
struct Times {
    /// Time for the application to accept a WebSocket
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_ACCEPT_TIMEOUT", default_value = "30", value_parser = seconds)]
    accept_timeout: Duration,
    /// Time for the application to answer an HTTP request, and for each further part of its response
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_RESPONSE_TIMEOUT", default_value = "120", value_parser = seconds)]
    response_timeout: Duration,
    /// Time for a client to send the head of a request
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_HEADER_TIMEOUT", default_value = "10", value_parser = seconds)]
    header_timeout: Duration,
    /// Time for a client to send each part of a request body
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_BODY_TIMEOUT", default_value = "30", value_parser = seconds)]
    body_timeout: Duration,
    /// Time for a client to send a whole request body
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_UPLOAD_TIMEOUT", default_value = "300", value_parser = seconds)]
    upload_timeout: Duration,
    /// Time for a client to accept any bytes of a response
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_STALL_TIMEOUT", default_value = "30", value_parser = seconds)]
    stall_timeout: Duration,
    /// Time for a client to accept any bytes that are written to its WebSocket
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_WRITE_TIMEOUT", default_value = "10", value_parser = seconds)]
    write_timeout: Duration,
    /// Time that a frame waits for room on websocket.receive
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_SEND_TIMEOUT", default_value = "5", value_parser = seconds)]
    send_timeout: Duration,
    /// Interval of pings
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_PING_INTERVAL", default_value = "25", value_parser = seconds)]
    ping_interval: Duration,
    /// Time for a client to send anything after a ping
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_PONG_TIMEOUT", default_value = "10", value_parser = seconds)]
    pong_timeout: Duration,
    /// Time over which the closing of all sockets is spread
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_CLOSE_SPREAD", default_value = "5", value_parser = seconds)]
    close_spread: Duration,
    /// Time between the end of readiness and the drain, for load balancers to notice a shutdown
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_SHUTDOWN_DELAY", default_value = "0", value_parser = seconds)]
    shutdown_delay: Duration,
    /// Time that a shutdown waits for open sockets and requests, once all sockets have been asked to close
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_DRAIN_TIMEOUT", default_value = "10", value_parser = seconds)]
    drain_timeout: Duration,
}

#[derive(Args)]
#[command(next_help_heading = "Limits")]
struct Limits {
    /// Maximum size of the head of a request
    #[arg(long, value_name = "BYTES", env = "CHANNEL_SERVER_MAX_HEADER_SIZE", default_value_t = 32 << 10)]
    max_header_size: usize,
    /// Maximum size of a URL
    #[arg(long, value_name = "BYTES", env = "CHANNEL_SERVER_MAX_URL_SIZE", default_value_t = 8 << 10)]
    max_url_size: usize,
    /// Maximum size of the body of a request
    #[arg(long, value_name = "BYTES", env = "CHANNEL_SERVER_MAX_BODY_SIZE", default_value_t = 16 << 20)]
    max_body_size: usize,
    /// Memory that a response may take while it waits for its client
    #[arg(long, value_name = "BYTES", env = "CHANNEL_SERVER_RESPONSE_BUFFER", default_value_t = 16 << 20)]
    response_buffer: usize,
    /// Memory that all responses together may take while they wait for their clients
    #[arg(long, value_name = "BYTES", env = "CHANNEL_SERVER_RESPONSE_MEMORY", default_value_t = 1 << 30)]
    response_memory: usize,
    /// Maximum size of a message from a client
    #[arg(long, value_name = "BYTES", env = "CHANNEL_SERVER_MAX_MESSAGE_SIZE", default_value_t = 1 << 20)]
    max_message_size: usize,
    /// Maximum size of a frame from a client [default: the largest message]
    #[arg(long, value_name = "BYTES", env = "CHANNEL_SERVER_MAX_FRAME_SIZE")]
    max_frame_size: Option<usize>,
    /// Maximum number of messages that wait for a client
    #[arg(long, value_name = "N", env = "CHANNEL_SERVER_QUEUE_MESSAGES", default_value_t = 1_000)]
    queue_messages: usize,
    /// Memory that the messages waiting for a client may take
    #[arg(long, value_name = "BYTES", env = "CHANNEL_SERVER_QUEUE_BYTES", default_value_t = 1 << 20)]
    queue_bytes: usize,
    /// What the server does with a client whose queue of messages is full
    #[arg(long, value_enum, env = "CHANNEL_SERVER_SLOW_CONSUMER", default_value_t = OnSlowConsumer::Close)]
    slow_consumer: OnSlowConsumer,
    /// Maximum number of sockets; 0 means no limit
    #[arg(long, value_name = "N", env = "CHANNEL_SERVER_MAX_CONNECTIONS", default_value_t = 0)]
    max_connections: usize,
    /// Maximum number of sockets from one address; 0 means no limit
    #[arg(long, value_name = "N", env = "CHANNEL_SERVER_MAX_CONNECTIONS_PER_ADDRESS", default_value_t = 0)]
    max_connections_per_address: usize,
    /// Maximum number of connections on each listener, not counting open sockets; further ones wait
    #[arg(long, value_name = "N", env = "CHANNEL_SERVER_MAX_HTTP_CONNECTIONS", default_value_t = 10_000)]
    max_http_connections: usize,
    /// Maximum number of such connections from one address; 0 means no limit
    #[arg(long, value_name = "N", env = "CHANNEL_SERVER_MAX_HTTP_CONNECTIONS_PER_ADDRESS", default_value_t = 0)]
    max_http_connections_per_address: usize,
    /// Maximum number of handshakes per second; 0 means no limit
    #[arg(long, value_name = "N", env = "CHANNEL_SERVER_MAX_HANDSHAKES_PER_SECOND", default_value_t = 0)]
    max_handshakes_per_second: u32,
    /// Maximum number of messages from a client per second; 0 means no limit
    #[arg(long, value_name = "N", env = "CHANNEL_SERVER_MAX_MESSAGES_PER_SECOND", default_value_t = 0)]
    max_messages_per_second: u32,
    /// Maximum number of bytes from a client per second; 0 means no limit
    #[arg(long, value_name = "BYTES", env = "CHANNEL_SERVER_MAX_BYTES_PER_SECOND", default_value_t = 0)]
    max_bytes_per_second: u32,
    /// What happens to sockets when Redis has come back without its data
    #[arg(long, value_enum, env = "CHANNEL_SERVER_ON_DATA_LOSS", default_value_t = OnDataLoss::Close)]
    on_data_loss: OnDataLoss,
    /// How a shutdown closes sockets
    #[arg(long, value_enum, env = "CHANNEL_SERVER_ON_SHUTDOWN", default_value_t = ShutdownClose::GoingAway)]
    on_shutdown: ShutdownClose,
}

#[derive(Clone, Copy, ValueEnum)]
enum OnSlowConsumer {
    /// Close it with 1013
    Close,
    /// Drop the oldest messages
    DropOldest,
    /// Drop the newest messages
    DropNewest,
}

#[derive(Clone, Copy, ValueEnum)]
enum OnDataLoss {
    /// Close them with 1012, so that clients reconnect and join their groups again
    Close,
    /// Keep them open
    Stay,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ShutdownClose {
    /// With 1001 (going away)
    GoingAway,
    /// With 1012 (service restart)
    Restart,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ListenAddress {
    Tcp(String),
    Unix(PathBuf),
    Descriptor(i32),
    Activated,
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("unix", path)) => Ok(Self::Unix(path.into())),
            Some(("fd", number)) => {
                Ok(Self::Descriptor(number.parse().map_err(|error| format!("{number:?}: {error}"))?))
            }
            Some(_) => Ok(Self::Tcp(text.to_owned())),
            None if text == "activated" => Ok(Self::Activated),
            None => Err("expected HOST:PORT, unix:PATH, fd:NUMBER or activated".to_owned()),
        }
    }
}

impl ListenAddress {
    async fn listen(&self) -> Result<Vec<Listener>, BoxError> {
        let failed = |address: &dyn Display| {
            let address = address.to_string();
            move |error| BoxError::from(format!("cannot listen on {address}: {error}"))
        };
        match self {
            Self::Tcp(address) => Ok(vec![Listener::tcp(address).await.map_err(failed(address))?]),
            Self::Unix(path) => Ok(vec![Listener::unix(path).map_err(failed(&path.display()))?]),
            Self::Descriptor(number) => Ok(vec![Listener::inherited(*number).map_err(failed(number))?]),
            Self::Activated => {
                let inherited = Listener::activated()?;
                if inherited.is_empty() {
                    Err("no inherited listener: LISTEN_PID does not name this process, or LISTEN_FDS is 0".into())
                } else {
                    Ok(inherited)
                }
            }
        }
    }
}

impl Serve {
    pub(crate) async fn run(self: Box<Self>) -> Result<(), BoxError> {
        let stop = stop_signal()?;
        let mut listeners = Vec::new();
        for address in &self.listen {
            listeners.extend(address.listen().await?);
        }
        let layer = self.layer.connect_shared().await?;
        let mut server = self.configure(InterfaceServer::new(layer.clone()))?;
        server.validate()?;
        if self.pages.chat {
            server = chat::pages(server, layer.clone());
        }
        if self.pages.health {
            server = server.routes(health_routes(layer.clone()).merge(metrics_route()?));
        }
        let addresses: Vec<_> = listeners.iter().map(|listener| listener.address().to_string()).collect();
        let mut listeners = listeners.into_iter();
        let mut bound = server.listen(listeners.next().ok_or("no address to listen on")?);
        for listener in listeners {
            bound = bound.and(listener);
        }
        print_line(&format!("Serving at {}", addresses.join(", ")))?;
        let ended = bound.serve(stop.cancelled_owned()).await;
        first_error([ended.map_err(Into::into), layer.close().await.map_err(Into::into)])
    }

    fn configure(&self, server: InterfaceServer) -> Result<InterfaceServer, BoxError> {
        let (times, limits) = (&self.times, &self.limits);
        let mut server = server
            .sockets(self.sockets())
            .http(!self.no_http)
            .access_log(self.access_log)
            .trace(self.trace)
            .status_page(self.pages.status)
            .root_path(&self.root_path)
            .allowed_origins(&self.allowed_origin)?
            .trusted_proxies(TrustedProxies::parse(&self.trusted_proxy)?)
            .accept_timeout(times.accept_timeout)
            .response_timeout(times.response_timeout)
            .header_timeout(times.header_timeout)
            .body_timeout(times.body_timeout)
            .upload_timeout(times.upload_timeout)
            .stall_timeout(times.stall_timeout)
            .send_timeout(times.send_timeout)
            .close_spread(times.close_spread)
            .shutdown_delay(times.shutdown_delay)
            .drain_timeout(times.drain_timeout)
            .restarts(limits.on_shutdown == ShutdownClose::Restart)
            .max_http_connections(limits.max_http_connections)
            .max_http_connections_per_address(limits.max_http_connections_per_address)
            .max_header_size(limits.max_header_size, limits.max_url_size)
            .max_body_size(limits.max_body_size)
            .response_buffer(limits.response_buffer)
            .response_memory(limits.response_memory)
            .on_data_loss(match limits.on_data_loss {
                OnDataLoss::Close => DataLoss::Close,
                OnDataLoss::Stay => DataLoss::Stay,
            });
        if let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) {
            let tls = Tls::from_pem(&read(cert)?, &read(key)?);
            let in_files = |error| {
                let (cert, key) = (cert.display(), key.display());
                format!("--tls-cert {cert}, --tls-key {key}: {}", chain(&error))
            };
            server = server.tls(tls.map_err(in_files)?);
        }
        Ok(server)
    }

    fn sockets(&self) -> SocketOptions {
        let (times, limits) = (&self.times, &self.limits);
        SocketOptions::new()
            .queue(limits.queue_messages, limits.queue_bytes)
            .slow_consumer(match limits.slow_consumer {
                OnSlowConsumer::Close => SlowConsumer::Close,
                OnSlowConsumer::DropOldest => SlowConsumer::DropOldest,
                OnSlowConsumer::DropNewest => SlowConsumer::DropNewest,
            })
            .write_timeout(times.write_timeout)
            .ping(times.ping_interval, times.pong_timeout)
            .max_message_size(limits.max_message_size)
            .max_frame_size(limits.max_frame_size.unwrap_or(limits.max_message_size))
            .max_connections(limits.max_connections)
            .max_connections_per_address(limits.max_connections_per_address)
            .max_handshakes_per_second(limits.max_handshakes_per_second)
            .max_messages_per_second(limits.max_messages_per_second)
            .max_bytes_per_second(limits.max_bytes_per_second)
    }
}

fn read(file: &PathBuf) -> Result<Vec<u8>, BoxError> {
    std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listen_address_is_a_host_a_path_or_a_descriptor() {
        let address = |text: &str| text.parse::<ListenAddress>();
        assert_eq!(address("[::1]:80"), Ok(ListenAddress::Tcp("[::1]:80".to_owned())));
        assert_eq!(address("localhost:80"), Ok(ListenAddress::Tcp("localhost:80".to_owned())));
        assert_eq!(address("unix:/run/a:b"), Ok(ListenAddress::Unix("/run/a:b".into())));
        assert_eq!(address("fd:3"), Ok(ListenAddress::Descriptor(3)));
        assert_eq!(address("activated"), Ok(ListenAddress::Activated));
        assert!(address("fd:three").is_err() && address("8000").is_err());
    }
}
