//! Fuzz targets for the answers of servers.

use redis::{PushInfo, Value};

use super::groups::answers::{parse_changes, parse_routes};
use super::native::statistics::pending_in;
use super::node::fault::Fault;
use super::node::{connection, peer_settings};
use super::pubsub::fuzzing::pushed;
use super::send::Pushed;

pub use super::pubsub::fuzzing::published_payload;

/// Answers of a server in RESP2 and RESP3, parsed as each answer that a command of this crate has.
pub fn redis_answer(bytes: &[u8]) {
    let value = match redis::parse_redis_value(bytes) {
        Ok(value) => value,
        Err(error) => return drop(Fault::from(error).line("127.0.0.1:6379")),
    };
    match value {
        Value::ServerError(error) => drop(Fault::from(redis::RedisError::from(error)).line("127.0.0.1:6379")),
        Value::Push { kind, data } => pushed(PushInfo { kind, data }),
        Value::Array(values) => {
            drop(connection::parse_probe(values.clone()));
            drop(peer_settings::others(values.clone()));
            for answers in values.chunks(3) {
                let _ = pending_in(answers, 1);
            }
            let value = Value::Array(values);
            drop(Pushed::parse(value.clone(), 1));
            drop(parse_routes(&value));
            drop(parse_changes(value, "route!"));
        }
        _ => {}
    }
}
