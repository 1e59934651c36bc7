//! `SealedBody`: the fields of a sealed body, and the bytes that its tag covers.
//!
//! A sealed body is
//!
//! | bytes | content |
//! |---|---|
//! | 4 | id of the key, derived from the key |
//! | 16 | random salt of the subkey |
//! | 4 | nonce: the number of earlier uses of the subkey |
//! | 8 | time of sealing, in milliseconds since the epoch |
//! | length of the body | ciphertext of AES-256-GCM |
//! | 16 | tag over the fields above and the context |
//!
//! Integers are big-endian.

use aes_gcm::{Nonce, Tag};

use super::OpenError;
use crate::error::Result;

/// Bytes that sealing adds to a body.
pub(super) const OVERHEAD: usize = HEADER + TAG;

pub(super) const ID: usize = 4;
pub(super) const SALT: usize = 16;
pub(super) const NONCE: usize = 4;
const TIME: usize = 8;
const HEADER: usize = ID + SALT + NONCE + TIME;
const TAG: usize = 16;

/// Allowed clock skew: how far the clock of the sealing process may be ahead.
const CLOCK_TOLERANCE_MS: u64 = 10_000;

pub(super) type Id = [u8; ID];
pub(super) type Salt = [u8; SALT];

/// The fields of a sealed body, not yet verified.
pub(super) struct SealedBody<'a> {
    pub(super) id: Id,
    pub(super) salt: Salt,
    pub(super) nonce: [u8; NONCE],
    pub(super) sealed_at_ms: u64,
    pub(super) ciphertext: &'a [u8],
    pub(super) tag: Tag,
}

impl<'a> SealedBody<'a> {
    /// Splits `sealed` into its fields. Returns `None` if it is truncated.
    pub(super) fn parse(sealed: &'a [u8]) -> Option<Self> {
        let (id, rest) = sealed.split_first_chunk()?;
        let (salt, rest) = rest.split_first_chunk()?;
        let (nonce, rest) = rest.split_first_chunk()?;
        let (time, rest) = rest.split_first_chunk()?;
        let (ciphertext, tag) = rest.split_last_chunk::<TAG>()?;
        let sealed_at_ms = u64::from_be_bytes(*time);
        Some(Self { id: *id, salt: *salt, nonce: *nonce, sealed_at_ms, ciphertext, tag: (*tag).into() })
    }
}

/// The id of the key in `sealed`, for logs; `None` if it is truncated.
pub(crate) fn key_id(sealed: &[u8]) -> Option<u32> {
    sealed.first_chunk().copied().map(u32::from_be_bytes)
}

/// Refuses a body that was sealed more than `max_age_ms` ago, or too far in the future.
pub(super) fn check_age(sealed_at_ms: u64, now_ms: u64, max_age_ms: u64) -> Result<(), OpenError> {
    if sealed_at_ms > now_ms.saturating_add(CLOCK_TOLERANCE_MS) {
        return Err(OpenError("sealed in the future"));
    }
    if now_ms.saturating_sub(sealed_at_ms) > max_age_ms {
        return Err(OpenError("sealed too long ago"));
    }
    Ok(())
}

/// The nonce of AES-GCM that ends with `counter`.
pub(super) fn widen(counter: [u8; NONCE]) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut nonce = [0; 12];
    nonce[12 - NONCE..].copy_from_slice(&counter);
    nonce.into()
}

/// Appends the associated data: the bytes that the tag covers in addition to the ciphertext. They are appended to the
/// buffer of the body and removed afterwards, which saves an allocation. The length of each part precedes the part, so
/// that different contexts have different bytes. The key, the salt and the nonce are not included, because the
/// encryption depends on them.
pub(super) fn bind(context: &[&[u8]], sealed_at_ms: u64, bound: &mut Vec<u8>) {
    bound.extend_from_slice(&sealed_at_ms.to_be_bytes());
    for part in context {
        bound.extend_from_slice(
            &u32::try_from(part.len()).expect("names and addresses are far below 4 GiB").to_be_bytes(),
        );
        bound.extend_from_slice(part);
    }
}

/// Number of bytes that [`bind`] appends.
pub(super) fn bound_size(context: &[&[u8]]) -> usize {
    TIME + context.iter().map(|part| size_of::<u32>() + part.len()).sum::<usize>()
}
