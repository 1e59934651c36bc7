//! Layers and commands on a Redis Cluster: what happens to messages when slots move and nodes fail.

mod addresses;
mod commands;
mod failing;
mod groups;
mod half_moved;
mod layers;
mod load;
mod login;
mod moving;
mod moving_calls;
mod pool;
mod pubsub;
mod scripts;
mod sharded_pubsub;
mod spread;
mod together;
mod tools;
mod unserved;
mod unserved_pubsub;
