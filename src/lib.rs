//! An ASGI-style channel layer: processes talk over named channels and groups, in memory or through Redis.
//!
//! A *channel* is a queue with a name. Code sends a [`Message`] to it, and whoever reads it gets the message once. A
//! *group* is a set of channels that get the same message. Interface servers, which hold the sockets of clients, and
//! workers, which hold the logic, need to know nothing of each other but names: that is the model of
//! [ASGI](https://asgi.readthedocs.io/en/latest/specs/channels.html) 1.x, whose terms this crate uses.
//!
//! ```
//! use channel_layer::{ChannelLayer, MemoryLayer, message};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> channel_layer::Result<()> {
//! let layer = MemoryLayer::new();
//!
//! // Work for whoever asks first.
//! layer.send("thumbnails.make", message! { "path": "cat.png", "width": 120 }).await?;
//! let job = layer.receive(&["thumbnails.make"]).await?;
//! assert_eq!(job.message.int("width"), Some(120));
//!
//! // One message for all sockets of a room. Each process reads its clients up to the `!`.
//! layer.group_add("room", "websocket.send.server1!ada").await?;
//! layer.group_add("room", "websocket.send.server1!bob").await?;
//! layer.group_send("room", message! { "text": "hello" }).await?;
//! for _ in 0..2 {
//!     let delivery = layer.receive(&["websocket.send.server1!"]).await?;
//!     assert_eq!(delivery.message.text("text"), Some("hello"));
//! }
//! layer.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Layers
//!
//! Code is written against the trait [`ChannelLayer`], most often as an `Arc<dyn ChannelLayer>`; only the program that
//! starts it all chooses one.
//!
//! | layer | carries messages |
//! |---|---|
//! | [`MemoryLayer`] | inside one process |
//! | [`RedisLayer`] | between any number of processes, over one or more Redis servers from version 7.0 |
//! | [`PubSubLayer`] | between processes that read at the time, over publish and subscribe, also with Django; without Redis inside each process |
//! | [`FallbackLayer`] | as another layer, and inside the process while a server of that is away |
//! | [`django::ChannelsRedisLayer`], [`django::AsgiRedisLayer`] | between Rust and Django Channels, in the formats of Python's layers |
//! | [`HybridLayer`] | on two layers: normal channels on a local one, everything else on a remote one |
//!
//! All options are in [`Config`], which also comes from JSON, TOML and the environment.
//!
//! # Names
//!
//! A [`ChannelName`] says who reads: any number of workers (`http.request`), one reader (`http.request.body?AbCd`, from
//! [`new_channel`](ChannelLayer::new_channel)), or the process that reads all names which begin alike
//! (`websocket.send.server1!ada` is read as `websocket.send.server1!`). The part up to the `!` decides where messages
//! are kept and how many.
//!
//! # Guarantees
//!
//! They are the contract of the trait, and every layer is tested against them: at most once, order from one writer to
//! one reader, expiry, capacity, futures that may be dropped at any time, and a count of everything that is not
//! delivered. `docs/guarantees.md` has the table of the promises that each layer lacks by design.
//!
//! What may surprise:
//!
//! - **At most once.** After an error nothing is sent again by itself. Send again only if
//!   [`!error.may_have_run()`](Error::may_have_run); otherwise the message may have arrived, and would come twice.
//!   [`Error::is_transient`] says whether trying again can help at all.
//! - **Capacity.** [`Error::ChannelFull`] is how a channel says that its readers do not keep up: wait and try again, or
//!   give up. A group send never gives it; members whose channel is full miss the message, which is counted.
//! - **Shared capacity.** All clients of a process share the capacity of its `!` channel. Raise it there:
//!   [`CapacityRule::glob`]`("websocket.send.*", 10_000)`.
//! - **Closing.** [`close`](ChannelLayer::close) puts back what has been read and not handed over. Without it this
//!   happens in the background, for which a runtime that ends leaves no time.
//!
//! # Reading
//!
//! [`receive`](ChannelLayer::receive) takes one message. A [`Receiver`] reads for long and fast: from channels with one
//! reader it takes messages ahead, and [`recv_many`](Receiver::recv_many) gives many at once. Both belong into
//! `tokio::select!` without fear, since a dropped future gives back what it held.
//!
//! # Metrics and events
//!
//! Counters go to the [`metrics`](https://docs.rs/metrics) facade: `channel_layer_sent_total`,
//! `channel_layer_received_total`, `channel_layer_dropped_total` with a `reason`, and the histogram
//! `channel_layer_batch_size`. What happens to servers comes from [`events`](ChannelLayer::events) and, one line per
//! fault, from [`tracing`](https://docs.rs/tracing).
//!
//! # Features
//!
//! Both are on by default.
//!
//! | feature | brings |
//! |---|---|
//! | `server` | the interface server for WebSocket and HTTP clients, and with it axum |
//! | `cli` | the program `channel-layer`, and with it clap |

mod backoff;
pub mod capacity;
mod codec;
pub mod config;
mod connect;
mod crypto;
pub mod deployment;
pub mod django;
mod drops;
pub mod error;
pub mod fallback;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod health;
pub mod hybrid;
pub mod layer;
pub mod memory;
pub mod message;
pub mod name;
pub mod redis;
#[cfg(feature = "server")]
pub mod server;
mod supervise;
pub mod trace;
pub mod worker;

pub use bytes::Bytes;
pub use bytestring::ByteString as Text;

pub use capacity::CapacityRule;
pub use config::{Config, Fallback, Format, Host, Overflow, Serializer};
pub use connect::connect;
pub use deployment::{Deployment, LayerKind, layer_from_config, layer_from_env};
pub use error::{BoxError, Error, Result};
pub use fallback::FallbackLayer;
pub use health::Health;
pub use hybrid::HybridLayer;
pub use layer::{ChannelLayer, Delivery, Event, Mode, Receiver, ShardStatus, Sink, Source, Statistics};
pub use memory::MemoryLayer;
pub use message::{Map, Message, Value};
pub use name::{ChannelKind, ChannelName, GroupName, InvalidName};
pub use redis::{PubSubLayer, RedisLayer};
#[cfg(feature = "server")]
pub use server::InterfaceServer;
#[cfg(feature = "server")]
pub use server::hub::{self, Hub};
pub use worker::Worker;

/// Every Rust block of the README and of the pages in `docs/`, as a test.
#[cfg(doctest)]
mod pages {
    macro_rules! pages {
        ($($name:ident: $path:literal),+ $(,)?) => {
            $(#[doc = include_str!($path)] mod $name {})+
        };
    }

    pages! {
        readme: "../README.md",
        getting_started: "../docs/getting-started.md",
        concepts: "../docs/concepts.md",
        guarantees: "../docs/guarantees.md",
        configuration: "../docs/configuration.md",
        interface_server: "../docs/interface-server.md",
        hub: "../docs/hub.md",
        worker: "../docs/worker.md",
        testing: "../docs/testing.md",
        django: "../docs/django.md",
        encryption: "../docs/encryption.md",
        operations: "../docs/operations.md",
        troubleshooting: "../docs/troubleshooting.md",
    }
}
