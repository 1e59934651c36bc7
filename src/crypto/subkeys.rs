//! `Key`: a configured key and its subkeys, with the subkey that seals and a cache of those that open.
//!
//! A configured key does not encrypt bodies itself. HKDF-SHA256 derives a subkey from the key, a label of this format
//! and a random salt of this process, and the nonces of a subkey count up. A nonce therefore never repeats, however
//! many processes share the key, and the limit of 2^32 messages per key for random nonces does not apply.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use aes_gcm::{Aes256Gcm, KeyInit};
use hkdf::Hkdf;
use sha2::{Digest, Sha256};

use super::sealed_body::{ID, Id, Salt};

const ID_INFO: &[u8] = b"channel-layer 1 key id";
const SUBKEY_INFO: &[u8] = b"channel-layer 1 subkey";

/// Number of cached subkeys in each of the two generations.
pub(super) const CACHED_SUBKEYS: usize = 512;

/// A configured key.
pub(super) struct Key {
    pub(super) id: Id,
    secret: [u8; 32],
}

impl Key {
    pub(super) fn new(text: &str) -> Self {
        let secret: [u8; 32] = Sha256::digest(text).into();
        let mut id = [0; ID];
        derive(None, &secret, ID_INFO, &mut id);
        Self { id, secret }
    }

    pub(super) fn subkey(&self, salt: &Salt) -> Aes256Gcm {
        let mut subkey = [0; 32];
        derive(Some(salt), &self.secret, SUBKEY_INFO, &mut subkey);
        Aes256Gcm::new(&subkey.into())
    }
}

fn derive(salt: Option<&[u8]>, secret: &[u8], info: &[u8], out: &mut [u8]) {
    Hkdf::<Sha256>::new(salt, secret)
        .expand(info, out)
        .expect("HKDF-SHA256 can derive up to 8,160 bytes, and 32 at most are requested");
}

/// A subkey that seals, with its uses.
pub(super) struct Sealer {
    pub(super) id: Id,
    pub(super) salt: Salt,
    pub(super) cipher: Aes256Gcm,
    /// Wider than a nonce, so that threads that race past the limit cannot make it wrap.
    pub(super) uses: AtomicU64,
}

impl Sealer {
    pub(super) fn new(key: &Key) -> Self {
        let salt = rand::random();
        Self { id: key.id, salt, cipher: key.subkey(&salt), uses: AtomicU64::new(0) }
    }
}

/// A cache of the subkeys that opened bodies, by the position of the key and the salt.
///
/// Two generations bound its size: when the young generation is full, it replaces the old generation.
#[derive(Default)]
pub(super) struct Openers {
    /// The subkey of the last look-up. Consecutive messages often have the same sender.
    last: Option<((usize, Salt), Arc<Aes256Gcm>)>,
    pub(super) young: HashMap<(usize, Salt), Arc<Aes256Gcm>>,
    pub(super) old: HashMap<(usize, Salt), Arc<Aes256Gcm>>,
}

impl Openers {
    pub(super) fn get(&mut self, of: &(usize, Salt)) -> Option<Arc<Aes256Gcm>> {
        if let Some((_, cipher)) = self.last.as_ref().filter(|(last, _)| last == of) {
            return Some(Arc::clone(cipher));
        }
        if let Some(cipher) = self.young.get(of) {
            self.last = Some((*of, Arc::clone(cipher)));
        } else {
            let cipher = self.old.remove(of)?;
            self.insert(*of, cipher);
        }
        self.last.as_ref().map(|(_, cipher)| Arc::clone(cipher))
    }

    pub(super) fn insert(&mut self, of: (usize, Salt), cipher: Arc<Aes256Gcm>) {
        if self.young.len() >= CACHED_SUBKEYS {
            self.old = std::mem::take(&mut self.young);
        }
        self.last = Some((of, Arc::clone(&cipher)));
        self.young.insert(of, cipher);
    }
}

/// The id of the configured key `text` in sealed bodies.
pub(crate) fn id_of_key(text: &str) -> u32 {
    u32::from_be_bytes(Key::new(text).id)
}
