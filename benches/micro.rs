//! Runs one small operation of the path of a message many times. callgrind counts the instructions of additional runs.
//!
//! `micro LIST` prints the operations, and `micro NAME TIMES` runs one of them. Names, capacities, the codec, the frame
//! and the key ring are not part of the public API of the crate. This program compiles their source files itself, so
//! that the crate need not export them.

#![allow(clippy::print_stdout, dead_code, unreachable_pub, unused_imports)]

use bytes::Bytes;
use channel_layer::{ChannelLayer, Config, MemoryLayer, Text};
use futures_util::FutureExt;
use tree::redis::entry as frame;
use tree::{capacity, codec, crypto, error, message, name, pattern};

use self::capacity::{Capacity, CapacityRule};
use self::crypto::KeyRing;
use self::message::{Message, Value};
use self::name::{ChannelName, GroupName};

#[path = "../src"]
mod tree {
    pub mod capacity;
    pub mod codec;
    pub mod crypto;
    pub mod error;
    pub mod message;
    pub mod name;
    pub mod pattern;

    pub mod redis {
        pub mod entry;
    }
}

/// An operation with its prepared data.
type Operation = Box<dyn FnMut()>;
type Named = (&'static str, fn() -> Operation);

const OPERATIONS: [Named; 15] = [
    ("name_normal", || parse("websocket.receive")),
    ("name_process_local", || parse("websocket.send.aBcDeFgHiJkL!mNoPqRsTuVwX")),
    ("name_group", || Box::new(|| used(GroupName::parse(given("chat.room-17"))))),
    ("capacity_without_rules", || capacity_of(0)),
    ("capacity_by_the_last_of_8_rules", || capacity_of(8)),
    ("frame_begin", frame_begin),
    ("frame_parse", frame_parse),
    ("message_of_one_key", || Box::new(|| used(one_key(SMALL)))),
    ("encode_100_bytes", || encode(SMALL)),
    ("decode_100_bytes", || decode(SMALL)),
    ("seal_100_bytes", || seal(SMALL)),
    ("open_100_bytes", || open(SMALL)),
    ("seal_10_kilobytes", || seal(LARGE)),
    ("open_10_kilobytes", || open(LARGE)),
    ("memory_send_receive", memory),
];

const SMALL: usize = 100;
const LARGE: usize = 10_000;
const CONTEXT: [&[u8]; 3] = [b"channel", b"websocket.send.aBcDeFgHiJkL!mNoPqRsTuVwX", b""];
const LOCAL: frame::Address<&str> = frame::Address::Local("mNoPqRsTuVwX");
const NOW: u64 = 1_700_000_000_000;
const LIFETIME: u64 = 60_000;
const DAY: u64 = 86_400_000;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let name = arguments.next().unwrap_or_default();
    let Some((_, make)) = OPERATIONS.iter().find(|(known, _)| *known == name) else {
        for (name, _) in OPERATIONS {
            println!("{name}");
        }
        return;
    };
    let times = arguments.next().and_then(|times| times.parse().ok()).expect("the second argument is a number");
    let mut operation = make();
    for _ in 0..times {
        operation();
    }
}

/// Hides a value from the optimizer.
fn given<T>(value: T) -> T {
    std::hint::black_box(value)
}

/// Makes the optimizer keep the computation of a value.
fn used<T>(value: T) {
    drop(std::hint::black_box(value));
}

fn parse(name: &'static str) -> Operation {
    Box::new(move || used(ChannelName::parse_target(given(name))))
}

fn capacity_of(rules: usize) -> Operation {
    let others = (1..rules).map(|at| CapacityRule::glob(format!("other.{at}.*"), 10));
    let rules: Vec<_> = others.chain((rules > 0).then(|| CapacityRule::glob("websocket.*", 10))).collect();
    let capacity = Capacity::new(&rules, 100).expect("the rules are good");
    let name = ChannelName::parse_target("websocket.receive").expect("the name is good");
    Box::new(move || used(capacity.of(given(&name))))
}

fn one_key(size: usize) -> Message {
    let body = Bytes::from(vec![b'x'; size]);
    [(Text::from_static("body"), Value::from(body))].into_iter().collect()
}

fn frame_begin() -> Operation {
    let mut entry = Vec::with_capacity(300);
    Box::new(move || {
        entry.clear();
        frame::begin(given(NOW), given(LIFETIME), given(&LOCAL), false, &mut entry);
        used(entry.len());
    })
}

fn frame_parse() -> Operation {
    let mut entry = Vec::new();
    frame::begin(NOW, LIFETIME, &LOCAL, false, &mut entry);
    entry.extend_from_slice(&encoded(SMALL));
    let entry = Bytes::from(entry);
    Box::new(move || used(frame::Entry::parse(given(entry.clone()))))
}

fn encoded(size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    codec::encode(&one_key(size), &mut out).expect("the message can be encoded");
    out
}

fn encode(size: usize) -> Operation {
    let message = one_key(size);
    Box::new(move || {
        let mut out = Vec::with_capacity(2 * size);
        used(codec::encode(given(&message), &mut out));
        used(out);
    })
}

fn decode(size: usize) -> Operation {
    let bytes = Bytes::from(encoded(size));
    Box::new(move || used(codec::decode(given(&bytes))))
}

fn ring() -> KeyRing {
    KeyRing::new(&["a key of the benchmark, which is no secret".to_owned()], &[]).expect("the key is good")
}

fn seal(size: usize) -> Operation {
    let (ring, plain) = (ring(), encoded(size));
    Box::new(move || {
        let mut out = Vec::with_capacity(2 * size);
        ring.seal(given(&CONTEXT), NOW, given(&plain), &mut out);
        used(out);
    })
}

fn open(size: usize) -> Operation {
    let (ring, mut sealed) = (ring(), Vec::new());
    ring.seal(&CONTEXT, NOW, &encoded(size), &mut sealed);
    Box::new(move || used(ring.open(given(&sealed), given(&CONTEXT), NOW, DAY)))
}

/// Sends and receives a message without polling a runtime, because neither call waits in memory.
fn memory() -> Operation {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let layer =
        runtime.block_on(async { MemoryLayer::with_config(&Config::new()) }).expect("the configuration is good");
    let body = Bytes::from(vec![b'x'; SMALL]);
    Box::new(move || {
        let _inside = runtime.enter();
        let message = channel_layer::message! { "body": body.clone() };
        let sent = layer.send("websocket.receive", message).now_or_never();
        sent.expect("a send in memory does not wait").expect("the channel has room");
        let received = layer.try_receive(&["websocket.receive"]).now_or_never();
        received.expect("try_receive does not wait").expect("the layer is open").expect("the message is there");
    })
}
