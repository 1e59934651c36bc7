//! Everything that parses foreign bytes, for fuzzing: each function takes any bytes and panics only if a promise is
//! broken.
//!
//! `fuzz/` runs them under `cargo fuzz`; the test below replays its corpus.

use std::time::Duration;

use bytes::Bytes;

use crate::capacity::{Capacity, CapacityRule};
use crate::codec::{self, serializer::Serializer};
use crate::config::{Config, Host};
use crate::crypto::{FernetKeys, KeyRing};
use crate::message::Message;
use crate::name::{ChannelName, GroupName};
use crate::redis::entry as frame;
use crate::redis::entry::Entry;
use crate::trace::TraceParent;

pub use crate::django::fuzzing::django_payload;
pub use crate::redis::fuzzing::{published_payload, redis_answer};
#[cfg(feature = "server")]
pub use crate::server::fuzzing::{answer, proxy_headers, websocket_frames, websocket_handshake};

/// Names of channels and groups: one that is valid is printed as it was read.
pub fn name(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let channels = [ChannelName::parse(text), ChannelName::parse_target(text), ChannelName::parse_source(text)];
    for name in channels.into_iter().flatten() {
        assert_eq!(name.as_str(), text);
    }
    if let Ok(name) = GroupName::parse(text) {
        assert_eq!(name.as_str(), text);
    }
}

/// Entries of the native format: one that is valid is written as it was read.
pub fn entry(bytes: &[u8]) {
    let Ok(entry) = Entry::parse(Bytes::copy_from_slice(bytes)) else { return };
    let mut written = Vec::new();
    frame::begin(entry.expires, entry.lifetime, &entry.address, entry.sealed, &mut written);
    written.extend_from_slice(&entry.body);
    assert_eq!(written, bytes);
}

/// Messages in `MessagePack`: one that is valid survives another round.
pub fn message_pack(bytes: &[u8]) {
    let Ok(message) = codec::decode(&Bytes::copy_from_slice(bytes)) else { return };
    let mut written = Vec::new();
    if codec::encode(&message, &mut written).is_ok() {
        // Printed, since a float that is no number is not equal to itself.
        let again = codec::decode(&written.into()).expect("what was written is read");
        assert_eq!(format!("{again:?}"), format!("{message:?}"));
    }
}

/// Messages in the JSON of Python: one that is valid survives another round.
pub fn python_json(bytes: &[u8]) {
    let Ok(map) = Serializer::Json.decode(&Bytes::copy_from_slice(bytes)) else { return };
    let message = Message::from(map);
    let mut written = Vec::new();
    if Serializer::Json.encode(&message, None, &mut written).is_ok() {
        let again = Serializer::Json.decode(&written.into()).expect("what was written is read");
        assert_eq!(format!("{:?}", Message::from(again)), format!("{message:?}"));
    }
}

/// Fernet tokens: none opens that was not made with the key.
pub fn fernet_token(bytes: &[u8]) {
    let keys = FernetKeys::new(&["key".to_owned()], &[]).expect("the key is good");
    assert!(keys.open(bytes, Duration::ZERO, None).is_err());
    let mut token = Vec::new();
    keys.seal(Duration::from_secs(1), b"plain", &mut token);
    change(&mut token, bytes);
    // A last character with other unused bits is no other token.
    if let Ok(plain) = keys.open(&token, Duration::from_secs(1), None) {
        assert_eq!(plain, b"plain");
    }
}

/// Sealed bodies: none opens that was not sealed with the key, and none that was changed.
pub fn sealed_body(bytes: &[u8]) {
    let ring = KeyRing::new(&["key".to_owned()], &[]).expect("the key is good");
    let context: &[&[u8]] = &[b"channel", bytes];
    assert!(ring.open(bytes, context, 0, u64::MAX).is_err());
    let mut sealed = Vec::new();
    ring.seal(context, 1, b"plain", &mut sealed);
    let before = sealed.clone();
    change(&mut sealed, bytes);
    assert_eq!(ring.open(&sealed, context, 1, 1).is_ok(), sealed == before);
}

/// Flips bits of `text`: those of `mask` from its first byte on.
fn change(text: &mut [u8], mask: &[u8]) {
    text.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
}

/// Rules for capacities, and the channels that they meet: a line with a pattern, and a line with a channel.
pub fn capacity(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (pattern, channel) = text.split_once('\n').unwrap_or((text, "work"));
    let Ok(channel) = ChannelName::parse(channel) else { return };
    for rule in [CapacityRule::glob(pattern, 1), CapacityRule::regex(pattern, 1)] {
        if let Ok(capacity) = Capacity::new(&[rule], 2) {
            assert!((1..=2).contains(&capacity.of(&channel)));
        }
    }
}

/// Configurations in every form, a variable of the environment in each line, and URLs of hosts.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let variables = text.lines().filter_map(|line| line.split_once('='));
    let variables: Vec<_> = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let host = Config::new().host(Host::new(text));
    for config in [Config::from_json(text), Config::from_toml(text), Config::from_vars(&variables), Ok(host)] {
        match config.and_then(|config| config.validate().map(|()| config)) {
            Ok(config) => drop(format!("{config:?}")),
            Err(error) => drop(error.to_string()),
        }
    }
}

/// Places in traces: one that is valid is printed as another that is read the same.
pub fn trace_parent(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(place) = TraceParent::parse(text) {
        let again = TraceParent::parse(&place.to_string()).map(|again| again.to_string());
        assert_eq!(again, Some(place.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    type Target = fn(&[u8]);

    const TARGETS: &[(&str, Target)] = &[
        #[cfg(feature = "server")]
        ("answer", answer),
        ("capacity", capacity),
        ("config", config),
        ("django_payload", django_payload),
        ("entry", entry),
        ("fernet_token", fernet_token),
        ("message_pack", message_pack),
        ("name", name),
        #[cfg(feature = "server")]
        ("proxy_headers", proxy_headers),
        ("published_payload", published_payload),
        ("python_json", python_json),
        ("redis_answer", redis_answer),
        ("sealed_body", sealed_body),
        ("trace_parent", trace_parent),
        #[cfg(feature = "server")]
        ("websocket_frames", websocket_frames),
        #[cfg(feature = "server")]
        ("websocket_handshake", websocket_handshake),
    ];

    fn fuzz() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz"))
    }

    #[test]
    fn every_target_bears_its_corpus() {
        for (target, run) in TARGETS {
            let files = fs::read_dir(fuzz().join("corpus").join(target)).expect(target);
            let inputs: Vec<_> = files.map(|file| fs::read(file.expect(target).path()).expect(target)).collect();
            assert!(inputs.len() >= 2, "{target} has a corpus");
            for input in inputs {
                run(&input);
                // Beginnings of what is valid meet more code than noise does.
                (0..input.len().min(256)).for_each(|end| run(&input[..end]));
            }
        }
    }

    #[test]
    #[cfg(feature = "server")]
    fn every_target_can_be_fuzzed() {
        let files = fs::read_dir(fuzz().join("fuzz_targets")).expect("there are targets");
        let names = files.map(|file| file.expect("it can be read").path());
        let mut names: Vec<_> = names.map(|path| path.file_stem().expect("it is a file").to_owned()).collect();
        names.sort();
        assert_eq!(names, TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("it is there");
        for (target, _) in TARGETS {
            assert!(manifest.contains(&format!("name = \"{target}\"")), "{target}");
        }
    }
}
