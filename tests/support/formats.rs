//! The formats of layers on Redis. Every test that runs in several formats takes them from this list.

use channel_layer::{Config, Format};

/// A format, with the facts that tests need.
#[derive(Clone, Copy, Debug)]
pub struct TestedFormat {
    pub format: Format,
    /// Its name in a configuration.
    pub name: &'static str,
    /// The oldest version of Redis that works with it.
    pub oldest_server: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Native,
    /// Messages wait in Redis as a layer of Python stores them.
    Python,
    /// No messages wait in Redis.
    PubSub,
}

pub const FORMATS: [TestedFormat; 4] = [
    tested(Format::Native, "native", "7.0", Kind::Native),
    tested(Format::ChannelsRedis, "channels_redis", "6.0", Kind::Python),
    tested(Format::AsgiRedis, "asgi_redis", "6.0", Kind::Python),
    tested(Format::PubSub, "pubsub", "5.0", Kind::PubSub),
];

const fn tested(format: Format, name: &'static str, oldest_server: &'static str, kind: Kind) -> TestedFormat {
    TestedFormat { format, name, oldest_server, kind }
}

/// The formats whose messages wait in Redis.
pub fn stored_formats() -> impl Iterator<Item = Format> {
    FORMATS.into_iter().filter(|tested| tested.kind != Kind::PubSub).map(|tested| tested.format)
}

/// The formats whose messages wait in Redis as a layer of Python stores them.
pub fn python_formats() -> impl Iterator<Item = Format> {
    FORMATS.into_iter().filter(|tested| tested.kind == Kind::Python).map(|tested| tested.format)
}

/// The name of `format` in a configuration.
pub fn name_of(format: Format) -> &'static str {
    FORMATS.into_iter().find(|tested| tested.format == format).expect("the list has every format").name
}

#[test]
fn the_list_has_every_format_of_a_configuration() {
    let option = Config::options().find(|option| option.name == "format").unwrap();
    let mut accepted: Vec<_> = option.accepts.split(", ").flat_map(|names| names.split(" or ")).collect();
    let mut listed = FORMATS.map(|tested| tested.name);
    accepted.sort_unstable();
    listed.sort_unstable();
    assert_eq!(listed[..], accepted[..]);
    for TestedFormat { format, name, .. } in FORMATS {
        assert_eq!(name.parse::<Format>().unwrap(), format);
    }
}
