//! Both ends of a site, and short forms for what tests do with them.

use channel_layer::{Message, message};

use super::python::PythonLayer;
use super::rust::RustLayer;
use super::side::Side;
use super::site::Site;

/// A layer in each language.
pub struct Ends {
    pub site: Site,
    pub python: PythonLayer,
    pub rust: RustLayer,
}

impl Ends {
    pub async fn of(site: Site) -> Self {
        Self { python: site.python().await, rust: site.rust().await, site }
    }
}

pub fn numbered(number: i64) -> Message {
    message! { "type": "numbered", "number": number }
}

/// Receives the number of a message.
pub async fn number(side: &dyn Side, channel: &str) -> i64 {
    side.receive(channel).await.1.int("number").expect("the message is numbered")
}
