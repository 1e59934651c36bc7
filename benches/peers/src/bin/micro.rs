//! One small operation, so many times: callgrind counts the instructions of a few more.
//!
//! `micro LIST` names the operations; `micro NAME TIMES` does one.

use channel_layer::{Bytes, CapacityRule, ChannelLayer, ChannelName, Config, GroupName, MemoryLayer, message};
use futures_util::FutureExt;
use peers::message::{Mark, body};

/// An operation with all that it needs, ready to be repeated.
type Operation = Box<dyn FnMut()>;

const OPERATIONS: [(&str, fn() -> Operation); 6] = [
    ("name_normal", || Box::new(|| parse("websocket.receive"))),
    ("name_process_local", || Box::new(|| parse("websocket.send.aBcDeFgHiJkL!mNoPqRsTuVwX"))),
    ("name_group", || Box::new(|| drop(std::hint::black_box(GroupName::parse("chat.room-17"))))),
    ("message_of_one_key", one_message),
    ("memory_send_receive", || memory(Config::new())),
    ("memory_send_receive_with_8_capacity_rules", || memory(with_rules())),
];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    if name == "LIST" {
        OPERATIONS.iter().for_each(|(name, _)| println!("{name}"));
        return;
    }
    let (_, make) = OPERATIONS.iter().find(|(known, _)| *known == name).expect("an operation of the list");
    let times = arguments.next().and_then(|times| times.parse().ok()).expect("how many times");
    let mut operation = make();
    for _ in 0..times {
        operation();
    }
}

fn parse(name: &str) {
    drop(std::hint::black_box(ChannelName::parse_target(std::hint::black_box(name))));
}

fn one_message() -> Operation {
    let body = Bytes::from(body(100, Mark::None, 0));
    Box::new(move || drop(std::hint::black_box(message! { "body": body.clone() })))
}

fn with_rules() -> Config {
    (0..8).fold(Config::new(), |config, at| config.channel_capacity(CapacityRule::glob(format!("other.{at}.*"), 10)))
}

/// Sends a message and takes it out again, without a runtime: in memory neither has to wait.
fn memory(config: Config) -> Operation {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let entered = runtime.block_on(async { MemoryLayer::with_config(&config) }).expect("the configuration is good");
    let body = Bytes::from(body(100, Mark::None, 0));
    Box::new(move || {
        let _inside = runtime.enter();
        let sent = entered.send("websocket.receive", message! { "body": body.clone() }).now_or_never();
        sent.expect("a send in memory does not wait").expect("the channel has room");
        let received = entered.try_receive(&["websocket.receive"]).now_or_never();
        received.expect("a look does not wait").expect("the layer is open").expect("the message is there");
    })
}
