//! `Ends`: a layer in each language on the same site, with assertions.

use channel_layer::{Error, Message, message};
use serde_json::json;

use super::python::PythonLayer;
use super::rust::RustLayer;
use super::side::Side;
use super::site::Site;

/// A layer in each language on the same site.
pub struct Ends {
    pub site: Site,
    pub python: PythonLayer,
    pub rust: RustLayer,
}

impl Ends {
    pub async fn of(site: Site) -> Self {
        Self { python: site.python().await, rust: site.rust().await, site }
    }

    /// Returns both orders of the two layers.
    pub fn both_ways(&self) -> [(&dyn Side, &dyn Side); 2] {
        [(&self.python, &self.rust), (&self.rust, &self.python)]
    }

    pub async fn rust_is_refused(&self, channel: &str) {
        let refused = self.rust.layer.send(channel, Message::new()).await;
        assert!(matches!(refused, Err(Error::ChannelFull { .. })), "{channel}: {refused:?}");
    }

    pub async fn python_is_refused(&self, channel: &str) {
        let refusal = self.python.call("send", json!([channel, {"map": []}])).await.expect_err("the channel is full");
        assert_eq!(refusal.kind, "ChannelFull");
    }
}

pub fn numbered(number: i64) -> Message {
    message! { "type": "numbered", "number": number }
}

/// Receives a message and returns its number.
pub async fn number(side: &dyn Side, channel: &str) -> i64 {
    side.receive(channel).await.1.int("number").expect("the message is numbered")
}
