//! The formats of Python's layers, byte by byte, and what they make of bytes that are no messages.

mod asgi_redis;
mod channels_redis;
mod choosing;
mod health;
mod refusing;
mod site;
