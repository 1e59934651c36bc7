//! `channel-layer demo`: a chat in one process, or across many on the same Redis.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use channel_layer::server::{health_routes, metrics_route};
use channel_layer::{BoxError, InterfaceServer};
use clap::Args;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::chat;
use crate::layer::LayerOptions;
use crate::{first_error, print_line, stop_signal};

const PORT: u16 = 8000;

#[derive(Args)]
pub(crate) struct Demo {
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Port to listen on; 0 selects a free one [default: 8000, or a free one if that is in use]
    #[arg(long)]
    port: Option<u16>,
    /// Serve a page for operators at /status
    #[arg(long)]
    status: bool,
    #[command(flatten)]
    layer: LayerOptions,
}

impl Demo {
    pub(crate) async fn run(self) -> Result<(), BoxError> {
        let stop = stop_signal()?;
        let listener = listen(self.host, self.port).await?;
        let layer = self.layer.connect().await?;
        let routes = health_routes(layer.clone()).merge(metrics_route()?);
        let server = InterfaceServer::new(layer.clone()).http(false).status_page(self.status).routes(routes);
        server.validate()?;
        let server = chat::pages(server, layer.clone()).listen(listener.try_into()?);
        let address = server.local_addr().clone();

        // The worker runs until the sockets are closed, because it tells each room which members have left.
        let closed = CancellationToken::new();
        let working = tokio::spawn({
            let (working, until) = (layer.clone(), closed.clone().cancelled_owned());
            // Without the worker no client gets an answer, so its end stops the server.
            let stop_server = stop.clone().drop_guard();
            async move {
                let _stop_server = stop_server;
                chat::run(working, |worker| worker, until).await
            }
        });
        print_line(&format!("Chat at http://{address}"))?;
        let ended = server.serve(stop.cancelled_owned()).await;
        closed.cancel();
        let worked = working.await.map_err(BoxError::from).and_then(|worked| Ok(worked?));
        first_error([ended.map_err(Into::into), worked, layer.close().await.map_err(Into::into)])
    }
}

async fn listen(host: IpAddr, port: Option<u16>) -> Result<TcpListener, BoxError> {
    let at = |port| TcpListener::bind((host, port));
    let listener = match (port, at(port.unwrap_or(PORT)).await) {
        (None, Err(error)) if error.kind() == ErrorKind::AddrInUse => at(0).await,
        (_, listener) => listener,
    };
    listener
        .map_err(|error| format!("cannot listen on {}: {error}", SocketAddr::new(host, port.unwrap_or(PORT))).into())
}
