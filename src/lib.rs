//! An ASGI-style channel layer: processes communicate over named channels and groups, in memory or through Redis.
//!
//! A *channel* is a named queue. Code sends a [`Message`] to it, and one reader gets the message once. A *group* is a
//! set of channels that get the same message. Interface servers hold the sockets of clients, and workers hold the
//! logic; they share only channel names. This is the model of
//! [ASGI](https://asgi.readthedocs.io/en/latest/specs/channels.html) 1.x, whose terms this crate uses.
//!
//! ```
//! use channel_layer::{ChannelLayer, MemoryLayer, message};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> channel_layer::Result<()> {
//! let layer = MemoryLayer::new();
//!
//! // A job for the first free worker.
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
//! Code is written against the trait [`ChannelLayer`], usually as an `Arc<dyn ChannelLayer>`. Only the program that
//! starts everything chooses a layer.
//!
//! | layer | carries messages |
//! |---|---|
//! | [`MemoryLayer`] | inside one process |
//! | [`RedisLayer`] | between any number of processes, over one or more Redis servers from version 7.0 |
//! | [`PubSubLayer`] | between processes that read at the time, over publish and subscribe, also with Django; without Redis inside each process |
//! | [`FallbackLayer`] | as the layer that it wraps, and inside the process while a server of that layer is unreachable |
//! | [`django::ChannelsRedisLayer`], [`django::AsgiRedisLayer`] | between Rust and Django Channels, in the formats of Python's layers |
//! | [`HybridLayer`] | on two layers: normal channels on a local one, everything else on a remote one |
//!
//! All options are in [`Config`], which also comes from JSON, TOML and the environment.
//!
//! # Names
//!
//! The name of a channel determines its readers: any number of workers (`http.request`), one reader
//! (`http.request.body?AbCd`, from [`new_channel`](ChannelLayer::new_channel)), or the process that reads all names
//! with the same beginning (`websocket.send.server1!ada` is read as `websocket.send.server1!`). The part up to the `!`
//! determines where messages are stored and which capacity applies. See [`ChannelName`].
//!
//! # Guarantees
//!
//! The contract of the trait states them, and every layer is tested against it: at most once, order from one writer to
//! one reader, expiry, capacity, futures that may be dropped at any time, and counters of all undelivered messages.
//! `docs/guarantees.md` has the table of the guarantees that each layer lacks by design.
//!
//! Details that may surprise:
//!
//! - **At most once.** After an error nothing is sent again automatically. Repeat a send only if
//!   [`!error.may_have_run()`](Error::may_have_run); otherwise the message may arrive twice. [`Error::is_transient`]
//!   says whether a repetition can help.
//! - **Capacity.** [`Error::ChannelFull`] means that the readers of a channel do not keep up: retry later, or give up.
//!   A group send never returns it. Members whose channel is full miss the message, which is counted.
//! - **Shared capacity.** All clients of a process share the capacity of its `!` channel. Raise it there:
//!   [`CapacityRule::glob`]`("websocket.send.*", 10_000)`.
//! - **Closing.** [`close`](ChannelLayer::close) puts back messages that were read and not handed over. Without it this
//!   happens in the background, for which a runtime that ends leaves no time.
//!
//! # Reading
//!
//! [`receive`](ChannelLayer::receive) takes one message. A [`Receiver`] is the fast way to read continuously: it reads
//! ahead from channels with one reader, and [`recv_many`](Receiver::recv_many) returns many messages at once. Both are
//! safe in `tokio::select!`, because a dropped future loses no message.
//!
//! # Metrics and events
//!
//! Counters go to the [`metrics`](https://docs.rs/metrics) facade: `channel_layer_sent_total`,
//! `channel_layer_received_total`, `channel_layer_dropped_total` with a `reason`, and the histogram
//! `channel_layer_batch_size`. Changes of servers are reported by [`events`](ChannelLayer::events) and, one line per
//! fault, by [`tracing`](https://docs.rs/tracing).
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
mod pattern;
pub mod redis;
#[cfg(feature = "server")]
pub mod server;
pub mod spread;
mod supervise;
pub mod trace;
pub mod worker;

pub use bytes::Bytes;
pub use bytestring::ByteString as Text;

pub use capacity::CapacityRule;
pub use config::{Config, Fallback, Format, Host, Overflow, Serializer};
pub use deployment::connect::{connect, connect_or_wait};
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
pub use spread::SpreadRule;
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
