//! The formats of Python's layers, byte by byte, also with bytes that are not a message.

mod asgi_redis;
mod channels_redis;
mod choosing;
mod health;
mod refusing;
mod site;
