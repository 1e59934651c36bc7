//! The memory that a process uses.

use serde_json::{Value, json};
use stats_alloc::Stats;

/// Returns the bytes on the heap, and the resident memory of the process.
pub fn used(heap: Stats) -> Value {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = resident.and_then(|value| value.trim().strip_suffix(" kB")).and_then(|value| value.parse().ok());
    let kilobytes: u64 = kilobytes.unwrap_or_default();
    json!({ "heap": heap.bytes_allocated.saturating_sub(heap.bytes_deallocated), "rss": kilobytes * 1024 })
}
