//! `channel-layer serve`: the interface server as it is deployed.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use channel_layer::server::{
    DataLoss, Listening, SlowConsumer, SocketOptions, Tls, TrustedProxies, health_routes, metrics_route,
};
use channel_layer::{BoxError, InterfaceServer};
use clap::{Args, ValueEnum};

use crate::layer::LayerOptions;
use crate::{chat, print_line, seconds, stop_signal};

/// Every option can be given as a variable, `CHANNEL_SERVER_` and its name in capitals; lists are separated by commas.
#[derive(Args)]
pub(crate) struct Serve {
    /// Where to listen: HOST:PORT, unix:PATH, fd:NUMBER for an inherited listener, or "activated" for all that systemd
    /// passes on
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "CHANNEL_SERVER_LISTEN",
        value_delimiter = ',',
        default_value = "127.0.0.1:8000"
    )]
    listen: Vec<Place>,
    /// Certificate chain in PEM, for TLS
    #[arg(long, value_name = "FILE", env = "CHANNEL_SERVER_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key in PEM, for TLS
    #[arg(long, value_name = "FILE", env = "CHANNEL_SERVER_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Address or network of a proxy whose X-Forwarded-For and -Proto are believed, or "unix"
    #[arg(long, value_name = "NETWORK", env = "CHANNEL_SERVER_TRUSTED_PROXY", value_delimiter = ',')]
    trusted_proxy: Vec<String>,
    /// Site whose pages may open WebSockets, such as <https://example.org> or <https://*.example.org> [default: all]
    #[arg(long, value_name = "ORIGIN", env = "CHANNEL_SERVER_ALLOWED_ORIGIN", value_delimiter = ',')]
    allowed_origin: Vec<String>,
    /// Path at which a proxy has mounted the application
    #[arg(long, value_name = "PATH", env = "CHANNEL_SERVER_ROOT_PATH", default_value = "")]
    root_path: String,
    /// Log a line for each request
    #[arg(long, env = "CHANNEL_SERVER_ACCESS_LOG")]
    access_log: bool,
    /// Have messages carry a place in a trace, as text under traceparent
    #[arg(long, env = "CHANNEL_SERVER_TRACE")]
    trace: bool,
    /// Answer no HTTP requests but those for pages
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
    /// Give out the page of the chat, for `worker chat`
    #[arg(long, env = "CHANNEL_SERVER_CHAT")]
    chat: bool,
    /// Answer /live, /ready, /health/redis and /metrics; let a proxy keep them to whom they concern
    #[arg(long, env = "CHANNEL_SERVER_HEALTH")]
    health: bool,
    /// Give out a page for operators at /status; let a proxy keep it to them
    #[arg(long, env = "CHANNEL_SERVER_STATUS")]
    status: bool,
}

/// In seconds.
#[derive(Args)]
#[command(next_help_heading = "Times, in seconds")]
struct Times {
    /// For the application to accept a WebSocket
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_ACCEPT_TIMEOUT", default_value = "30", value_parser = seconds)]
    accept_timeout: Duration,
    /// For the application to answer an HTTP request, and for each further part of its response
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_RESPONSE_TIMEOUT", default_value = "120", value_parser = seconds)]
    response_timeout: Duration,
    /// For a client to send the head of a request
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_HEADER_TIMEOUT", default_value = "10", value_parser = seconds)]
    header_timeout: Duration,
    /// For a client to send each part of its body
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_BODY_TIMEOUT", default_value = "30", value_parser = seconds)]
    body_timeout: Duration,
    /// For a client to send all of its body
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_UPLOAD_TIMEOUT", default_value = "300", value_parser = seconds)]
    upload_timeout: Duration,
    /// For a client to take some of a response
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_STALL_TIMEOUT", default_value = "30", value_parser = seconds)]
    stall_timeout: Duration,
    /// For a client to take what is written to it
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_WRITE_TIMEOUT", default_value = "10", value_parser = seconds)]
    write_timeout: Duration,
    /// For a frame to find room on websocket.receive
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_SEND_PATIENCE", default_value = "5", value_parser = seconds)]
    send_patience: Duration,
    /// Between pings
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_PING_INTERVAL", default_value = "25", value_parser = seconds)]
    ping_interval: Duration,
    /// For a client to be heard after a ping
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_PONG_TIMEOUT", default_value = "10", value_parser = seconds)]
    pong_timeout: Duration,
    /// Over which the closing of all sockets is spread
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_CLOSE_SPREAD", default_value = "5", value_parser = seconds)]
    close_spread: Duration,
    /// For load balancers to find out about a shutdown
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_SHUTDOWN_DELAY", default_value = "0", value_parser = seconds)]
    shutdown_delay: Duration,
    /// For what is under way at a shutdown, once all sockets are told to close
    #[arg(long, value_name = "S", env = "CHANNEL_SERVER_DRAIN_TIMEOUT", default_value = "10", value_parser = seconds)]
    drain_timeout: Duration,
}

#[derive(Args)]
#[command(next_help_heading = "Limits")]
struct Limits {
    /// Bytes of the head of a request
    #[arg(long, value_name = "BYTES", env = "CHANNEL_SERVER_MAX_HEADER_SIZE", default_value_t = 32 << 10)]
    max_header_size: usize,
    /// Bytes of a URL
    #[arg(long, value_name = "BYTES", env = "CHANNEL_SERVER_MAX_URL_SIZE", default_value_t = 8 << 10)]
    max_url_size: usize,
    /// Bytes of the body of a request
    #[arg(long, value_name = "BYTES", env = "CHANNEL_SERVER_MAX_BODY_SIZE", default_value_t = 16 << 20)]
    max_body_size: usize,
    /// Bytes of memory that a response may take while it waits for its client
    #[arg(long, value_name = "BYTES", env = "CHANNEL_SERVER_RESPONSE_BUFFER", default_value_t = 16 << 20)]
    response_buffer: usize,
    /// Bytes of memory that all responses may take while they wait for their clients
    #[arg(long, value_name = "BYTES", env = "CHANNEL_SERVER_RESPONSE_MEMORY", default_value_t = 1 << 30)]
    response_memory: usize,
    /// Bytes of a message that a client may send
    #[arg(long, value_name = "BYTES", env = "CHANNEL_SERVER_MAX_MESSAGE_SIZE", default_value_t = 1 << 20)]
    max_message_size: usize,
    /// Bytes of a frame of it [default: the largest message]
    #[arg(long, value_name = "BYTES", env = "CHANNEL_SERVER_MAX_FRAME_SIZE")]
    max_frame_size: Option<usize>,
    /// Messages that may wait for a client
    #[arg(long, value_name = "N", env = "CHANNEL_SERVER_QUEUE_MESSAGES", default_value_t = 1_000)]
    queue_messages: usize,
    /// Bytes of memory that these messages may take
    #[arg(long, value_name = "BYTES", env = "CHANNEL_SERVER_QUEUE_BYTES", default_value_t = 1 << 20)]
    queue_bytes: usize,
    /// What becomes of a client for which more waits
    #[arg(long, value_enum, env = "CHANNEL_SERVER_SLOW_CONSUMER", default_value_t = Slow::Close)]
    slow_consumer: Slow,
    /// Sockets in all; 0 is no limit
    #[arg(long, value_name = "N", env = "CHANNEL_SERVER_MAX_CONNECTIONS", default_value_t = 0)]
    max_connections: usize,
    /// Sockets from one address; 0 is no limit
    #[arg(long, value_name = "N", env = "CHANNEL_SERVER_MAX_CONNECTIONS_PER_ADDRESS", default_value_t = 0)]
    max_connections_per_address: usize,
    /// Connections on each listener that are no open sockets; further ones wait
    #[arg(long, value_name = "N", env = "CHANNEL_SERVER_MAX_HTTP_CONNECTIONS", default_value_t = 10_000)]
    max_http_connections: usize,
    /// Such connections from one address; 0 is no limit
    #[arg(long, value_name = "N", env = "CHANNEL_SERVER_MAX_HTTP_CONNECTIONS_PER_ADDRESS", default_value_t = 0)]
    max_http_connections_per_address: usize,
    /// Handshakes in a second; 0 is no limit
    #[arg(long, value_name = "N", env = "CHANNEL_SERVER_MAX_HANDSHAKES_PER_SECOND", default_value_t = 0)]
    max_handshakes_per_second: u32,
    /// Messages of a client in a second; 0 is no limit
    #[arg(long, value_name = "N", env = "CHANNEL_SERVER_MAX_MESSAGES_PER_SECOND", default_value_t = 0)]
    max_messages_per_second: u32,
    /// Bytes of a client in a second; 0 is no limit
    #[arg(long, value_name = "BYTES", env = "CHANNEL_SERVER_MAX_BYTES_PER_SECOND", default_value_t = 0)]
    max_bytes_per_second: u32,
    /// What becomes of sockets when Redis came back without its data
    #[arg(long, value_enum, env = "CHANNEL_SERVER_ON_DATA_LOSS", default_value_t = Loss::Close)]
    on_data_loss: Loss,
    /// What sockets are told in a shutdown
    #[arg(long, value_enum, env = "CHANNEL_SERVER_ON_SHUTDOWN", default_value_t = Farewell::GoingAway)]
    on_shutdown: Farewell,
}

#[derive(Clone, Copy, ValueEnum)]
enum Slow {
    /// Closed with 1013
    Close,
    /// Misses the oldest messages
    DropOldest,
    /// Misses the newest messages
    DropNewest,
}

#[derive(Clone, Copy, ValueEnum)]
enum Loss {
    /// Closed with 1012, for clients to come back and join again
    Close,
    /// Left open
    Stay,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Farewell {
    /// Closed with 1001
    GoingAway,
    /// Closed with 1012: the service restarts
    Restart,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Tcp(String),
    Unix(PathBuf),
    Descriptor(i32),
    Activated,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("unix", path)) => Ok(Self::Unix(path.into())),
            Some(("fd", number)) => {
                Ok(Self::Descriptor(number.parse().map_err(|error| format!("{number:?}: {error}"))?))
            }
            Some(_) => Ok(Self::Tcp(text.to_owned())),
            None if text == "activated" => Ok(Self::Activated),
            None => Err("give HOST:PORT, unix:PATH, fd:NUMBER or activated".to_owned()),
        }
    }
}

impl Place {
    async fn listen(&self) -> Result<Vec<Listening>, BoxError> {
        let refuse = |place: &dyn Display| {
            let place = place.to_string();
            move |error| BoxError::from(format!("cannot listen at {place}: {error}"))
        };
        match self {
            Self::Tcp(address) => Ok(vec![Listening::tcp(address).await.map_err(refuse(address))?]),
            Self::Unix(path) => Ok(vec![Listening::unix(path).map_err(refuse(&path.display()))?]),
            Self::Descriptor(number) => Ok(vec![Listening::inherited(*number).map_err(refuse(number))?]),
            Self::Activated => {
                let passed = Listening::activated()?;
                if passed.is_empty() {
                    Err("no listener was passed on: LISTEN_FDS is not for this process".into())
                } else {
                    Ok(passed)
                }
            }
        }
    }
}

impl Serve {
    pub(crate) async fn run(self: Box<Self>) -> Result<(), BoxError> {
        let stop = stop_signal()?;
        let mut listening = Vec::new();
        for place in &self.listen {
            listening.extend(place.listen().await?);
        }
        let layer = self.layer.connect_shared().await?;
        let mut server = self.set(InterfaceServer::new(layer.clone()))?;
        server.validate()?;
        if self.pages.chat {
            server = chat::pages(server, layer.clone());
        }
        if self.pages.health {
            server = server.routes(health_routes(layer.clone()).merge(metrics_route()?));
        }
        let mut listening = listening.into_iter();
        let mut bound = server.listen(listening.next().ok_or("there is nothing to listen at")?);
        print_line(&format!("Serving at {}", bound.local_addr()))?;
        for more in listening {
            bound = bound.and(more);
        }
        let ended = bound.serve(stop.cancelled_owned()).await;
        layer.close().await?;
        Ok(ended?)
    }

    fn set(&self, server: InterfaceServer) -> Result<InterfaceServer, BoxError> {
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
            .send_patience(times.send_patience)
            .close_spread(times.close_spread)
            .shutdown_delay(times.shutdown_delay)
            .drain_timeout(times.drain_timeout)
            .restarts(limits.on_shutdown == Farewell::Restart)
            .max_http_connections(limits.max_http_connections)
            .max_http_connections_per_address(limits.max_http_connections_per_address)
            .max_header_size(limits.max_header_size, limits.max_url_size)
            .max_body_size(limits.max_body_size)
            .response_buffer(limits.response_buffer)
            .response_memory(limits.response_memory)
            .on_data_loss(match limits.on_data_loss {
                Loss::Close => DataLoss::Close,
                Loss::Stay => DataLoss::Stay,
            });
        if let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) {
            server = server.tls(Tls::from_pem(&read(cert)?, &read(key)?)?);
        }
        Ok(server)
    }

    fn sockets(&self) -> SocketOptions {
        let (times, limits) = (&self.times, &self.limits);
        SocketOptions::new()
            .queue(limits.queue_messages, limits.queue_bytes)
            .slow_consumer(match limits.slow_consumer {
                Slow::Close => SlowConsumer::Close,
                Slow::DropOldest => SlowConsumer::DropOldest,
                Slow::DropNewest => SlowConsumer::DropNewest,
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
    fn a_place_is_an_address_a_path_or_a_descriptor() {
        let place = |text: &str| text.parse::<Place>();
        assert_eq!(place("[::1]:80"), Ok(Place::Tcp("[::1]:80".to_owned())));
        assert_eq!(place("localhost:80"), Ok(Place::Tcp("localhost:80".to_owned())));
        assert_eq!(place("unix:/run/a:b"), Ok(Place::Unix("/run/a:b".into())));
        assert_eq!(place("fd:3"), Ok(Place::Descriptor(3)));
        assert_eq!(place("activated"), Ok(Place::Activated));
        assert!(place("fd:three").is_err() && place("8000").is_err());
    }
}
