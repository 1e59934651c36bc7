//! The body of a message: a mark of eight bytes, and padding.

use serde::Deserialize;

use crate::clock;

/// The meaning of the first eight bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// The same in all messages.
    #[default]
    None,
    /// The unique number of the message.
    Id,
    /// The time of the send.
    Time,
}

/// A body of `size` bytes.
pub fn body(size: usize, mark: Mark, id: u64) -> Vec<u8> {
    let mut body = vec![b'x'; size];
    let first = match mark {
        Mark::None => return body,
        Mark::Id => id,
        Mark::Time => clock::now(),
    };
    body[..8].copy_from_slice(&first.to_le_bytes());
    body
}

/// The first eight bytes of a body.
pub fn mark_of(body: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(*body.first_chunk()?))
}
