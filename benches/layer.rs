//! `cargo bench --bench layer`: rates and latencies of the layers, compared with the same work done by hand.
//!
//! The bench starts a separate redis-server. Both sides of each comparison run in turns. Figures are medians over the
//! rounds, and each ratio compares two figures of the same round. `cargo bench --bench layer -- send groups` runs only
//! these loads; the loads are `send`, `end_to_end`, `groups`, `latency` and `memory`.

// A bench prints its results. Nothing in it is visible to other crates.
#![allow(clippy::print_stdout, unreachable_pub, missing_docs, missing_debug_implementations)]

mod loads;
// The bench uses only a part of its support.
#[allow(dead_code)]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use channel_layer::{ChannelLayer, Config, MemoryLayer};
use loads::{Bench, Cpu, end_to_end, groups, latency, memory, sending};
use support::{Latencies, Report, Spread, micros, per_second, rate};

const ROUNDS: usize = 7;
const SENDS: usize = 96 * 1024;
const END_TO_END: usize = 96 * 1024;
const MEMBERS: usize = 10_000;
const CALLS: usize = 300;
const PINGS: usize = 300;
const IN_MEMORY: usize = 200_000;

#[tokio::main]
async fn main() {
    let start = Instant::now();
    let mut report = Report::default();
    let mut bench = Bench::start().await;
    println!("redis {}, {} rounds", bench.version().await, ROUNDS);
    if chosen("send") {
        sends(&mut bench, &mut report).await;
    }
    if chosen("end_to_end") {
        ends(&mut bench, &mut report).await;
    }
    if chosen("groups") {
        group_sends(&mut bench, &mut report).await;
    }
    if chosen("latency") {
        latencies(&mut bench, &mut report).await;
    }
    if chosen("memory") {
        in_memory(&mut report).await;
    }
    bench.layer.close().await.expect("nothing is left to put back");
    println!("\n{}\n\n{:.0} s", report.text(), start.elapsed().as_secs_f64());
}

/// Whether the arguments name this load, or no load at all.
fn chosen(load: &str) -> bool {
    // Cargo passes options of its own.
    let mut named = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).peekable();
    named.peek().is_none() || named.any(|argument| argument == load)
}

async fn sends(bench: &mut Bench, report: &mut Report) {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut our_cpu, mut their_cpu) = (Some(Cpu::default()), Some(Cpu::default()));
    for _ in 0..ROUNDS {
        let start = bench.cpu().await;
        ours.push(per_second(SENDS, sending::through(bench.layer.clone(), SENDS).await));
        let end = bench.cpu().await;
        our_cpu = our_cpu.zip(start).zip(end).map(|((sum, start), end)| sum.plus(start, end));
        bench.clear().await;

        let start = bench.cpu().await;
        theirs.push(per_second(SENDS, sending::by_hand(&bench.connection, SENDS).await));
        let end = bench.cpu().await;
        their_cpu = their_cpu.zip(start).zip(end).map(|((sum, start), end)| sum.plus(start, end));
        bench.clear().await;
    }
    let load = format!("send: {} senders, {} B, {} channels", sending::SENDERS, loads::SIZE, sending::CHANNELS);
    compare_rates(report, &load, "RPUSH", &ours, &theirs);
    if let (Some(ours), Some(theirs)) = (our_cpu, their_cpu) {
        let each = |seconds: f64| micros(1e6 / per_second(ROUNDS * SENDS, Duration::from_secs_f64(seconds)));
        let shown = |cpu: Cpu| format!("{} here, {} in Redis", each(cpu.here), each(cpu.server));
        let ratio = Spread::of([(ours.here + ours.server) / (theirs.here + theirs.server)]);
        report.row("  processor time of one send", shown(ours), format!("RPUSH: {}", shown(theirs)), ratio);
    }
}

async fn ends(bench: &mut Bench, report: &mut Report) {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(per_second(END_TO_END, end_to_end::through(bench.layer.clone(), END_TO_END).await));
        let own = bench.another_connection().await;
        theirs.push(per_second(END_TO_END, end_to_end::by_hand(&bench.connection, own, END_TO_END).await));
        bench.clear().await;
    }
    compare_rates(report, "send and receive: one ! channel", "RPUSH, BLMPOP", &ours, &theirs);
}

async fn group_sends(bench: &mut Bench, report: &mut Report) {
    groups::fill(&*bench.layer, MEMBERS).await;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(Latencies::of(groups::group_send(&*bench.layer, CALLS).await));
        theirs.push(Latencies::of(groups::send_many(&*bench.layer, CALLS).await));
    }
    bench.clear().await;
    let load = format!("group_send: {MEMBERS} members, {} processes", groups::PROCESSES);
    compare_times(report, &load, "send_many of 4", &ours, &theirs);
}

async fn latencies(bench: &mut Bench, report: &mut Report) {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(Latencies::of(latency::send_to_receive(&*bench.layer, PINGS).await));
        theirs.push(Latencies::of(latency::ping(&mut bench.connection, PINGS).await));
    }
    compare_times(report, "send to receive, idle", "PING", &ours, &theirs);
}

async fn in_memory(report: &mut Report) {
    let config = Config::new().capacity(IN_MEMORY);
    let layer = Arc::new(MemoryLayer::with_config(&config).expect("the configuration is good"));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(per_second(IN_MEMORY, memory::through(layer.clone(), IN_MEMORY).await));
        theirs.push(per_second(IN_MEMORY, memory::by_hand(IN_MEMORY).await));
    }
    layer.close().await.expect("closing in memory cannot fail");
    compare_rates(report, "MemoryLayer: send and receive", "tokio mpsc", &ours, &theirs);
}

/// Adds a row for rates. A higher ratio is better.
fn compare_rates(report: &mut Report, load: &str, other: &str, ours: &[f64], theirs: &[f64]) {
    let median = |rates: &[f64]| rate(Spread::of(rates.iter().copied()).median);
    report.row(load, median(ours), format!("{other}: {}", median(theirs)), Spread::of_ratios(ours, theirs));
    println!("measured {load}");
}

/// Adds a row for times, which compares their medians. A lower ratio is better.
fn compare_times(report: &mut Report, load: &str, other: &str, ours: &[Latencies], theirs: &[Latencies]) {
    let at = |rounds: &[Latencies], part| {
        micros(Spread::of(rounds.iter().map(|round| round.percentile(part).as_secs_f64() * 1e6)).median)
    };
    let shown = |rounds: &[Latencies]| format!("p50 {}, p99 {}", at(rounds, 0.5), at(rounds, 0.99));
    let medians = |rounds: &[Latencies]| rounds.iter().map(Latencies::median_micros).collect::<Vec<_>>();
    let ratio = Spread::of_ratios(&medians(ours), &medians(theirs));
    report.row(load, shown(ours), format!("{other}: {}", shown(theirs)), ratio);
    println!("measured {load}");
}
