//! `Core`: a layer of the crate in this process, with its inbox.

use std::sync::Arc;
use std::time::Duration;

use channel_layer::{ChannelLayer, Config, Deployment, Error, Format, LayerKind, MemoryLayer, PubSubLayer};
use rand::TryRngCore;
use rand::rngs::OsRng;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

use crate::inbox::channels::Inbox;
use crate::inbox::notices::Notices;
use crate::inbox::sweep;

/// How long the receiver of an unused channel is kept, so that a loop of calls does not make one for each call.
const LINGER: Duration = Duration::from_secs(5);

/// The operation that is refused when a channel of another process is added to a group of pub/sub.
pub(crate) const FOREIGN_MEMBER: &str =
    "group_add of a channel of another process: on pub/sub it works only on channels that exist in-process";

/// The kinds of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Native,
    ChannelsRedis,
    PubSub,
    Memory,
}

impl Kind {
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "native" => Some(Self::Native),
            "channels_redis" => Some(Self::ChannelsRedis),
            "pubsub" => Some(Self::PubSub),
            "memory" => Some(Self::Memory),
            _ => None,
        }
    }

    /// Reads the options of a layer of this kind, and checks them.
    pub(crate) fn config(self, options: &str) -> Result<Config, Error> {
        let config = Config::from_json(options)?.format(match self {
            Self::Native | Self::Memory => Format::Native,
            Self::ChannelsRedis => Format::ChannelsRedis,
            Self::PubSub => Format::PubSub,
        });
        config.validate()?;
        Ok(config)
    }

    /// Returns the deployment of a layer of this kind, for its report.
    pub(crate) fn deployment(self, config: Config) -> Deployment {
        let mut deployment = Deployment::of(config);
        deployment.layer = match self {
            Self::Memory => LayerKind::Memory,
            Self::Native | Self::ChannelsRedis => LayerKind::Redis,
            Self::PubSub => LayerKind::PubSub,
        };
        deployment
    }
}

/// A layer in this process. It connects at the first call that needs a server.
pub(crate) struct Core {
    kind: Kind,
    config: Config,
    pub(crate) runtime: &'static Runtime,
    connected: OnceCell<Connected>,
    notices: Notices,
    pub(crate) inbox: Inbox,
    /// This process in the names of its channels.
    process: String,
}

/// A layer that is connected, or that connects by itself.
pub(crate) struct Connected {
    pub(crate) layer: Arc<dyn ChannelLayer>,
    pubsub: Option<Arc<PubSubLayer>>,
}

impl Core {
    pub(crate) fn new(
        kind: Kind,
        config: Config,
        notices: Notices,
        runtime: &'static Runtime,
    ) -> Result<Arc<Self>, Error> {
        let inbox = Inbox::new(config.message_expiry(), config.capacities()?);
        let (connected, process) = (OnceCell::new(), hexadecimal());
        Ok(Arc::new(Self { kind, config, runtime, connected, notices, inbox, process }))
    }

    /// The layer, if it is connected.
    pub(crate) fn get(&self) -> Option<&Connected> {
        self.connected.get()
    }

    /// Connects the layer, unless it is connected.
    pub(crate) async fn connected(self: &Arc<Self>) -> Result<&Connected, Error> {
        let connect = || async {
            let connecting = connect(self.kind, self.config.clone());
            // A task of the runtime, because its thread was not forked.
            let connected = self.runtime.spawn(connecting).await.unwrap_or(Err(Error::Panicked))?;
            if !self.notices.is_empty() {
                let (core, events) = (Arc::downgrade(self), connected.layer.events());
                self.runtime.spawn(self.notices.clone().run(core, events, self.kind == Kind::PubSub));
            }
            Ok(connected)
        };
        self.connected.get_or_try_init(connect).await
    }

    /// Returns a name that only this process reads, as Django's consumers need it.
    pub(crate) async fn new_channel(self: &Arc<Self>, prefix: &str) -> Result<String, Error> {
        match self.kind {
            Kind::Native | Kind::Memory => Ok(format!("{prefix}.{}!{}", self.process, hexadecimal())),
            Kind::ChannelsRedis => Ok(self.connected().await?.layer.new_channel(prefix).await?.to_string()),
            Kind::PubSub => match &self.connected().await?.pubsub {
                Some(layer) => Ok(layer.new_specific_channel(prefix).await?.to_string()),
                None => Err(Error::Unsupported { operation: "new_channel" }),
            },
        }
    }

    /// How long a message waits before it expires.
    pub(crate) fn expiry(&self) -> Duration {
        self.config.message_expiry()
    }

    /// How long the receiver of an unused channel is kept. A channel of pub/sub is open while it has one.
    pub(crate) fn linger(&self) -> Duration {
        if self.kind == Kind::PubSub { self.expiry() } else { LINGER }
    }

    /// Whether messages that were given back can return to their channel. Pub/sub would send them to every process.
    pub(crate) fn returns_messages(&self) -> bool {
        self.kind != Kind::PubSub
    }

    /// Returns messages to their channels, and closes the connections. Calls that wait fail.
    pub(crate) async fn close(self: Arc<Self>) -> Result<(), Error> {
        let returned = self.inbox.end();
        let Some(connected) = self.get() else {
            return Ok(());
        };
        if self.returns_messages() {
            sweep::requeue(&self, returned).await;
        }
        let closed = connected.layer.close().await;
        // A call may have begun to wait in the meantime.
        self.inbox.end();
        closed
    }
}

impl Connected {
    /// Refuses a channel of another process as a member of a group on pub/sub, where each process has its own groups.
    pub(crate) fn check_member(&self, channel: &str) -> Result<(), Error> {
        match &self.pubsub {
            Some(layer) if !layer.reads(channel)? => Err(Error::Unsupported { operation: FOREIGN_MEMBER }),
            _ => Ok(()),
        }
    }
}

/// Returns 32 random digits. The generator of a thread would repeat itself after a fork.
fn hexadecimal() -> String {
    let mut bytes = [0; 16];
    OsRng.try_fill_bytes(&mut bytes).expect("the system has random numbers");
    format!("{:032x}", u128::from_ne_bytes(bytes))
}

async fn connect(kind: Kind, config: Config) -> Result<Connected, Error> {
    let (layer, pubsub): (Arc<dyn ChannelLayer>, _) = match kind {
        Kind::Memory => (Arc::new(MemoryLayer::with_config(&config)?), None),
        Kind::Native | Kind::ChannelsRedis => (channel_layer::connect_or_wait(config).await?, None),
        Kind::PubSub => {
            let layer = Arc::new(PubSubLayer::connect(config).await?);
            (layer.clone(), Some(layer))
        }
    };
    Ok(Connected { layer, pubsub })
}
