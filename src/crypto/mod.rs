//! Encryption of message bodies. Only a process with a key can seal (encrypt and authenticate) or open (decrypt) a
//! body.
//!
//! [`KeyRing`] seals the bodies of the native format with AES-GCM, and opens those of earlier keys while a key is being
//! replaced. [`FernetKeys`] does the same in the format of Django Channels.

mod fernet;
mod key_ring;
mod sealed_body;
mod subkeys;

pub(crate) use fernet::FernetKeys;
pub(crate) use key_ring::KeyRing;
pub(crate) use sealed_body::key_id;
pub(crate) use subkeys::id_of_key;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The reason why a sealed body does not open. It contains no part of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot decrypt message: {0}")]
pub(crate) struct OpenError(pub(crate) &'static str);

/// Refuses empty keys. `option` is the option that holds the keys.
fn check(option: &str, keys: &[String]) -> Result<()> {
    match keys.iter().position(String::is_empty) {
        Some(at) => Err(Error::config(format!("{option}[{at}]"), "\"\"", "a key must not be empty")),
        None => Ok(()),
    }
}

/// Refuses empty keys, and a configuration without a key that seals.
fn check_all(keys: &[String], accept_only: &[String]) -> Result<()> {
    check("symmetric_encryption_keys", keys)?;
    check("accept_only_keys", accept_only)?;
    if keys.is_empty() {
        let reason = "need at least one key to encrypt with";
        return Err(Error::config("symmetric_encryption_keys", "[]", reason));
    }
    Ok(())
}

/// The first 128 bits of the SHA-256 digest of `bytes`. It is infeasible to find two texts with the same digest.
pub(crate) fn digest(bytes: &[u8]) -> u128 {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    digest[..16].iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}
