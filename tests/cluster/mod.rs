//! `RedisLayer` on a Redis Cluster: what happens to messages when slots move and nodes fail.

mod failing;
mod load;
mod moving;
mod scripts;
mod tools;
