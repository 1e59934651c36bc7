//! The way in: blocking reads on connections of their own, shared by those who wait for the same channels.

mod consumer;
mod holders;
mod lane;
mod parcel;
mod put_back;
mod quarantine;
mod reader;
mod readers;
mod sorter;
mod task;

pub(super) use readers::Readers;
