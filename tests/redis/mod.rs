//! What only the layer on Redis promises: its keys, its scripts, and that it outlives what happens to servers.

mod acl;
mod closing;
mod connections;
mod encryption;
mod failover;
mod flushing;
mod foreign;
mod group_scripts;
mod health;
mod keys;
mod large;
mod latency;
mod push_script;
mod put_back_script;
mod quarantine;
mod racing;
mod refusing;
mod restarts;
mod retrying;
mod rotation;
mod runtimes;
mod sentinel;
mod shards;
mod starting;
mod tls;
mod tools;
