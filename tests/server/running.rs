//! An interface server on a `MemoryLayer`, and the application behind it.

use std::sync::Arc;

use channel_layer::server::BoundServer;
use channel_layer::{
    CapacityRule, ChannelLayer, Config, InterfaceServer, MemoryLayer, Message, Result, Value, message,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::client::Client;
use crate::support::{DEADLINE, within};

/// A running server, and the layer behind it.
pub struct Running {
    pub layer: Arc<dyn ChannelLayer>,
    /// Host and port.
    pub address: String,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<Result<()>>,
}

impl Running {
    pub async fn start() -> Self {
        Self::with(|server| server).await
    }

    /// Starts a server on TCP with the settings of `set`.
    pub async fn with(set: impl FnOnce(InterfaceServer) -> InterfaceServer) -> Self {
        let config = Config::new().channel_capacity(CapacityRule::glob("http.request", 2));
        let layer: Arc<dyn ChannelLayer> = Arc::new(MemoryLayer::with_config(&config).unwrap());
        let bound = set(InterfaceServer::new(layer.clone())).bind("127.0.0.1:0").await.unwrap();
        Self::serve(layer, bound)
    }

    /// Drops the future of the server.
    pub fn abort(&self) {
        self.served.abort();
    }

    pub fn serve(layer: Arc<dyn ChannelLayer>, bound: BoundServer) -> Self {
        let address = bound.local_addr().to_string();
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(bound.serve(async {
            let _ = stopped.await;
        }));
        Self { layer, address, stop: Some(stop), served }
    }

    pub async fn connect(&self) -> Client {
        Client::connect(&self.address).await
    }

    /// Returns a client that has sent `request`.
    pub async fn sent(&self, request: &str) -> Client {
        let mut client = self.connect().await;
        client.send(request).await;
        client
    }

    /// Returns the next message on `channel`.
    pub async fn next(&self, channel: &str) -> Message {
        within(DEADLINE, channel, self.layer.receive(&[channel])).await.unwrap().message
    }

    /// Answers the request that `message` is about.
    pub async fn reply(&self, message: &Message, reply: Message) {
        self.layer.send(message.text("reply_channel").unwrap(), reply).await.unwrap();
    }

    /// Returns `true` if no message waits on `channel`.
    pub async fn nothing_on(&self, channel: &str) -> bool {
        self.layer.try_receive(&[channel]).await.unwrap().is_none()
    }

    /// Starts the shutdown.
    pub fn start_shutdown(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Shuts down and waits for the end.
    pub async fn stop(&mut self) {
        self.start_shutdown();
        self.ended().await;
    }

    pub async fn ended(&mut self) {
        within(DEADLINE, "the end of the server", &mut self.served).await.unwrap().unwrap();
    }
}

/// Returns a short response of the application.
pub fn ok(content: &str) -> Message {
    message! { "status": 200, "headers": Value::list([header("Content-Type", "text/plain")]), "content": content.as_bytes() }
}

pub fn header(name: &str, value: &str) -> Value {
    Value::list([name.as_bytes(), value.as_bytes()])
}
