//! The program `channel-layer`.

fn main() {}
