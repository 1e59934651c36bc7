//! The soak test: random work under random faults, on every layer, for as long as is wished, and an oracle that knows
//! which promises were kept.
//!
//! Each test here is one kind of layer and runs rounds of some seconds. A seed decides all of a round but the timing of
//! the machine. `scripts/soak` runs them for longer; they know these variables:
//!
//! | variable | meaning |
//! |---|---|
//! | `SOAK_SECONDS` | how long each test begins new rounds; 40 if unset |
//! | `SOAK_SEED` | the seed of the first round, and of each further one the next number; a random one if unset |

// A test that unwraps says by failing there what it expected, and inside one binary nothing is public to others.
// The figures of a test are of use though it succeeds.
#![allow(clippy::unwrap_used, clippy::needless_pass_by_value, clippy::print_stdout)]
#![allow(unreachable_pub, missing_docs, missing_debug_implementations)]

mod actors;
mod backend;
mod child;
mod cluster;
mod drops;
mod history;
mod hub;
mod oracle;
mod plan;
mod process;
mod report;
mod requests;
mod round;
mod servers;
// Of what other tests need of it, this one needs a part.
#[allow(dead_code, unused_imports)]
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use backend::Backend;
use plan::Plan;
use report::Figures;

/// How long each test begins new rounds where nobody says otherwise.
const SECONDS: u64 = 40;

#[test]
fn memory() {
    soak(Backend::Memory);
}

#[test]
fn native() {
    soak(Backend::Native);
}

#[test]
fn native_sharded() {
    soak(Backend::NativeSharded);
}

#[test]
fn native_encrypted() {
    soak(Backend::NativeEncrypted);
}

#[test]
fn native_cluster() {
    soak(Backend::NativeCluster);
}

#[test]
fn asgi_redis() {
    soak(Backend::AsgiRedis);
}

#[test]
fn channels_redis() {
    soak(Backend::ChannelsRedis);
}

#[test]
fn hybrid_memory() {
    soak(Backend::HybridMemory);
}

#[test]
fn hybrid_redis() {
    soak(Backend::HybridRedis);
}

#[test]
fn pubsub() {
    soak(Backend::PubSub);
}

#[test]
fn pubsub_cluster() {
    soak(Backend::PubSubCluster);
}

#[test]
fn fallback() {
    soak(Backend::Fallback);
}

#[test]
fn hub() {
    soak(Backend::Hub);
}

/// Runs rounds of `backend` until the time is over.
fn soak(backend: Backend) {
    if child::run(backend) {
        return;
    }
    let end = Instant::now() + Duration::from_secs(variable("SOAK_SECONDS").unwrap_or(SECONDS));
    let first = variable("SOAK_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let mut figures = Figures::default();
    for seed in first.. {
        let plan = Plan::new(backend, seed);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let records = runtime.block_on(round::run(plan.clone()));
        if history::is_disturbed(&records) {
            figures.disturbed += 1;
            continue;
        }
        let violations = oracle::judge(&records, &backend.rules(&plan));
        assert!(violations.is_empty(), "{}", report::failure(&plan, &records, &violations));
        figures.add(&plan, &records);
        if Instant::now() >= end {
            break;
        }
    }
    println!("{}, seeds from {first}: {figures}", backend.name());
}

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} = {value}: a number is expected")))
}
