//! `KeyRing` seals message bodies. Without a key, nobody can read or modify a sealed body, or use it for another
//! recipient or at a later time. [`sealed_body`](super::sealed_body) has the layout of a sealed body, and
//! [`subkeys`](super::subkeys) says which key encrypts it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aes_gcm::aead::AeadInPlace;
use parking_lot::{Mutex, RwLock};

use super::OpenError;
use super::sealed_body::{OVERHEAD, SealedBody, bind, bound_size, check_age, widen};
use super::subkeys::{Key, Openers, Sealer};
use crate::error::Result;

/// Number of uses of a subkey before a new salt is drawn: half of the number of nonces.
const SUBKEY_USES: u64 = 1 << 31;

/// The keys of a layer. The first key seals, and all keys open.
///
/// After a `fork`, only one of the two processes may seal with the ring: both would use the same nonces.
pub(crate) struct KeyRing {
    keys: Vec<Key>,
    /// Replaced when its subkey is used up. The lock is held only to clone or replace the reference, never during
    /// encryption.
    sealer: RwLock<Arc<Sealer>>,
    /// Cache of the subkeys that opened a body. The lock is held only for a look-up, never during derivation or
    /// decryption.
    openers: Mutex<Openers>,
}

impl KeyRing {
    /// Creates a ring. The first of `keys` seals. All of `keys` and `accept_only` open. Any non-empty text is a key; at
    /// least 32 random bytes are recommended.
    pub(crate) fn new(keys: &[String], accept_only: &[String]) -> Result<Self> {
        super::check_all(keys, accept_only)?;
        let keys: Vec<_> = keys.iter().chain(accept_only).map(|text| Key::new(text)).collect();
        let sealer = RwLock::new(Arc::new(Sealer::new(&keys[0])));
        Ok(Self { keys, sealer, openers: Mutex::default() })
    }

    /// Seals `plain` and appends it to `out`.
    ///
    /// The body opens only with the same `context`, such as the channel that it is sent to. `sealed_at_ms` is a time of
    /// the clock that all processes share: the clock of Redis.
    pub(crate) fn seal(&self, context: &[&[u8]], sealed_at_ms: u64, plain: &[u8], out: &mut Vec<u8>) {
        let (sealer, nonce) = self.next_nonce();
        out.reserve(plain.len() + OVERHEAD + bound_size(context));
        out.extend_from_slice(&sealer.id);
        out.extend_from_slice(&sealer.salt);
        out.extend_from_slice(&nonce.to_be_bytes());
        out.extend_from_slice(&sealed_at_ms.to_be_bytes());
        let body = out.len();
        out.extend_from_slice(plain);
        let end = out.len();
        bind(context, sealed_at_ms, out);
        let (before, bound) = out.split_at_mut(end);
        let tag = sealer
            .cipher
            .encrypt_in_place_detached(&widen(nonce.to_be_bytes()), bound, &mut before[body..])
            .expect("bodies are limited far below the 64 GiB that one nonce can encrypt");
        out.truncate(end);
        out.extend_from_slice(&tag);
    }

    /// Opens `sealed`. Fails unless it was sealed with a key of this ring, for this context, at most `max_age_ms` ago.
    pub(crate) fn open(
        &self,
        sealed: &[u8],
        context: &[&[u8]],
        now_ms: u64,
        max_age_ms: u64,
    ) -> Result<Vec<u8>, OpenError> {
        let (plain, sealed_at_ms) = self.open_at_any_age(sealed, context)?;
        check_age(sealed_at_ms, now_ms, max_age_ms).map(|()| plain)
    }

    /// Opens `sealed` for the context `from` and seals the body for the context `to`, with the same time of sealing.
    pub(crate) fn rebind(&self, sealed: &[u8], from: &[&[u8]], to: &[&[u8]]) -> Result<Vec<u8>, OpenError> {
        let (plain, sealed_at_ms) = self.open_at_any_age(sealed, from)?;
        let mut out = Vec::new();
        self.seal(to, sealed_at_ms, &plain, &mut out);
        Ok(out)
    }

    /// Opens `sealed` at any age and seals the body again for the same context, with the time `now_ms`.
    pub(crate) fn renew(&self, sealed: &[u8], context: &[&[u8]], now_ms: u64) -> Result<Vec<u8>, OpenError> {
        let (plain, _) = self.open_at_any_age(sealed, context)?;
        let mut out = Vec::new();
        self.seal(context, now_ms, &plain, &mut out);
        Ok(out)
    }

    /// Opens `sealed` at any age. Returns the body and its time of sealing.
    fn open_at_any_age(&self, sealed: &[u8], context: &[&[u8]]) -> Result<(Vec<u8>, u64), OpenError> {
        let body = SealedBody::parse(sealed).ok_or(OpenError("truncated"))?;
        let mut known = false;
        for (index, key) in self.keys.iter().enumerate().filter(|(_, key)| key.id == body.id) {
            known = true;
            // Two keys of a ring may have the same short id. A key that is configured twice is tried twice.
            if let Some(plain) = self.open_with(index, key, &body, context) {
                return Ok((plain, body.sealed_at_ms));
            }
        }
        Err(OpenError(if known { "modified, or sealed for another recipient" } else { "unknown key" }))
    }

    fn open_with(&self, index: usize, key: &Key, sealed: &SealedBody<'_>, context: &[&[u8]]) -> Option<Vec<u8>> {
        let remembered = self.openers.lock().get(&(index, sealed.salt));
        let cipher = remembered.clone().unwrap_or_else(|| Arc::new(key.subkey(&sealed.salt)));
        let length = sealed.ciphertext.len();
        let mut plain = Vec::with_capacity(length + bound_size(context));
        plain.extend_from_slice(sealed.ciphertext);
        bind(context, sealed.sealed_at_ms, &mut plain);
        let (body, bound) = plain.split_at_mut(length);
        cipher.decrypt_in_place_detached(&widen(sealed.nonce), bound, body, &sealed.tag).ok()?;
        plain.truncate(length);
        // The subkey is cached only after it opened a body, so that forged salts cannot evict the subkeys in use.
        if remembered.is_none() {
            self.openers.lock().insert((index, sealed.salt), cipher);
        }
        Some(plain)
    }

    /// Returns the current sealer and a nonce of it that no other caller gets.
    fn next_nonce(&self) -> (Arc<Sealer>, u32) {
        loop {
            let sealer = Arc::clone(&self.sealer.read());
            let uses = sealer.uses.fetch_add(1, Ordering::Relaxed);
            if let (true, Ok(nonce)) = (uses < SUBKEY_USES, u32::try_from(uses)) {
                return (sealer, nonce);
            }
            let mut current = self.sealer.write();
            if Arc::ptr_eq(&current, &sealer) {
                *current = Arc::new(Sealer::new(&self.keys[0]));
            }
        }
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::sealed_body::{ID, NONCE, SALT, key_id};
    use super::super::subkeys::{CACHED_SUBKEYS, id_of_key};
    use super::*;
    use crate::error::Error;

    const NOW: u64 = 1_700_000_000_000;
    const MAX_AGE: u64 = 70_000;
    const CONTEXT: &[&[u8]] = &[b"channel", b"http.request"];

    fn keys(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    fn ring(sealing: &[&str], accept_only: &[&str]) -> KeyRing {
        KeyRing::new(&keys(sealing), &keys(accept_only)).expect("the keys are good")
    }

    fn seal(ring: &KeyRing, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        ring.seal(CONTEXT, NOW, plain, &mut out);
        out
    }

    fn open(ring: &KeyRing, sealed: &[u8]) -> Result<Vec<u8>, &'static str> {
        reason(ring.open(sealed, CONTEXT, NOW, MAX_AGE))
    }

    fn reason<T>(result: Result<T, OpenError>) -> Result<T, &'static str> {
        result.map_err(|OpenError(reason)| reason)
    }

    #[test]
    fn a_sealed_body_is_appended_and_opens() {
        let ring = ring(&["secret"], &[]);
        for length in [0, 1, 15, 16, 17, 1 << 20] {
            let plain = vec![7; length];
            let mut out = b"head".to_vec();
            ring.seal(CONTEXT, NOW, &plain, &mut out);
            assert_eq!(out.len(), 4 + length + OVERHEAD);
            assert_eq!(&out[..4], b"head");
            assert_eq!(open(&ring, &out[4..]), Ok(plain));
        }
    }

    #[test]
    fn the_ciphertext_does_not_contain_the_body() {
        let sealed = seal(&ring(&["secret"], &[]), &[b'A'; 64]);
        assert!(!sealed.windows(4).any(|window| window == b"AAAA"));
    }

    #[test]
    fn a_rotation_by_three_rollouts_loses_nothing_at_any_step() {
        let steps = [
            ring(&["old"], &[]),
            ring(&["old"], &["new"]),
            ring(&["new", "old"], &[]),
            ring(&["new"], &["old"]),
            ring(&["new"], &[]),
        ];
        for step in steps.windows(2) {
            let [before, after] = step else { unreachable!("windows of two have two") };
            assert_eq!(open(after, &seal(before, b"hi")), Ok(b"hi".to_vec()));
            assert_eq!(open(before, &seal(after, b"hi")), Ok(b"hi".to_vec()));
        }
        assert_eq!(open(&steps[4], &seal(&steps[0], b"hi")), Err("unknown key"));
    }

    #[test]
    fn the_first_key_seals() {
        let sealed = seal(&ring(&["new", "old"], &["older"]), b"hi");
        assert!(open(&ring(&["new"], &[]), &sealed).is_ok());
        assert!(open(&ring(&["old", "older"], &[]), &sealed).is_err());
    }

    #[test]
    fn no_byte_can_be_changed() {
        let ring = ring(&["secret"], &[]);
        let sealed = seal(&ring, b"attack at dawn");
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut changed = sealed.clone();
                changed[at] ^= 1 << bit;
                assert!(open(&ring, &changed).is_err(), "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn a_body_of_another_length_does_not_open() {
        let ring = ring(&["secret"], &[]);
        let sealed = seal(&ring, b"attack at dawn");
        for length in 0..sealed.len() {
            let expected = if length < OVERHEAD { "truncated" } else { "modified, or sealed for another recipient" };
            assert_eq!(open(&ring, &sealed[..length]), Err(expected));
        }
        assert!(open(&ring, &[&sealed[..], b"x"].concat()).is_err());
    }

    #[test]
    fn a_body_does_not_open_in_another_context() {
        let ring = ring(&["secret"], &[]);
        let sealed = seal(&ring, b"hi");
        let others: [&[&[u8]]; 5] = [
            &[b"channel", b"http.reques"],
            &[b"channelhttp.request"],
            &[b"channelh", b"ttp.request"],
            &[b"channel", b"http.request", b""],
            &[b"group", b"http.request"],
        ];
        for other in others {
            let opened = reason(ring.open(&sealed, other, NOW, MAX_AGE));
            assert_eq!(opened, Err("modified, or sealed for another recipient"));
        }
    }

    #[test]
    fn a_body_does_not_open_too_late_or_too_early() {
        let ring = ring(&["secret"], &[]);
        let sealed = seal(&ring, b"hi");
        let at = |now| reason(ring.open(&sealed, CONTEXT, now, MAX_AGE)).map(|_| ());
        assert_eq!(at(NOW + MAX_AGE), Ok(()));
        assert_eq!(at(NOW + MAX_AGE + 1), Err("sealed too long ago"));
        assert_eq!(at(NOW - 10_000), Ok(()));
        assert_eq!(at(NOW - 10_001), Err("sealed in the future"));
        assert_eq!(at(0), Err("sealed in the future"));
        assert_eq!(at(u64::MAX), Err("sealed too long ago"));
    }

    #[test]
    fn threads_never_share_a_nonce_even_when_the_subkey_is_renewed() {
        let ring = ring(&["secret"], &[]);
        ring.sealer.read().uses.store(SUBKEY_USES - 1_000, Ordering::Relaxed);
        let sealed: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..1_000).map(|_| seal(&ring, b"hi")).collect::<Vec<_>>())).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("it did not panic")).collect()
        });
        let nonces: HashSet<_> = sealed.iter().map(|sealed| &sealed[ID..ID + SALT + NONCE]).collect();
        assert_eq!(nonces.len(), 4_000);
        let salts: HashSet<_> = sealed.iter().map(|sealed| &sealed[ID..ID + SALT]).collect();
        assert_eq!(salts.len(), 2);
        assert!(sealed.iter().all(|sealed| open(&ring, sealed).is_ok()));
    }

    #[test]
    fn two_rings_of_one_key_have_different_subkeys() {
        let (one, two) = (ring(&["secret"], &[]), ring(&["secret"], &[]));
        assert_ne!(seal(&one, b"hi"), seal(&two, b"hi"));
        assert_ne!(one.sealer.read().salt, two.sealer.read().salt);
    }

    #[test]
    fn keys_that_share_an_id_are_all_tried() {
        let mut ring = ring(&["a", "b"], &["a"]);
        let sealed = seal(&ring, b"hi");
        ring.keys.swap(0, 1);
        ring.keys[0].id = ring.keys[1].id;
        assert_eq!(open(&ring, &sealed), Ok(b"hi".to_vec()));
        assert_eq!(open(&ring, &sealed), Ok(b"hi".to_vec()));
    }

    #[test]
    fn the_cache_of_subkeys_is_bounded_and_does_not_store_forged_salts() {
        let receiver = ring(&["secret"], &[]);
        for _ in 0..3 * CACHED_SUBKEYS {
            assert!(open(&receiver, &seal(&ring(&["secret"], &[]), b"hi")).is_ok());
        }
        let remembered = |ring: &KeyRing| {
            let openers = ring.openers.lock();
            openers.young.len() + openers.old.len()
        };
        assert_eq!(remembered(&receiver), 2 * CACHED_SUBKEYS);

        let receiver = ring(&["secret"], &[]);
        let mut forged = seal(&ring(&["secret"], &[]), b"hi");
        forged[ID] ^= 1;
        assert!(open(&receiver, &forged).is_err());
        assert_eq!(remembered(&receiver), 0);
    }

    #[test]
    fn the_id_of_a_key_never_changes() {
        let sealed = seal(&ring(&["correct horse battery staple"], &[]), b"hi");
        assert_eq!(key_id(&sealed), Some(GOLDEN_ID));
        assert_eq!(key_id(&sealed[..3]), None);
        assert_eq!(id_of_key("correct horse battery staple"), GOLDEN_ID);
    }

    const GOLDEN_ID: u32 = 0x1a58_757d;
    const GOLDEN: &str = "1a58757d125665697edb9140843dc1c4f1e55c13000000000000018bcfe56800\
        bf3b71705da57d49a2d8ef662c3064b7b46b33510a9a56b19267b6df818f7bf343699832f403";

    #[test]
    fn a_body_sealed_by_the_first_release_opens() {
        let ring = ring(&["correct horse battery staple"], &[]);
        let sealed: Vec<u8> = (0..GOLDEN.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&GOLDEN[at..at + 2], 16).expect("it is hexadecimal"))
            .collect();
        assert_eq!(open(&ring, &sealed), Ok(b"from the first release".to_vec()));
    }

    #[test]
    fn a_ring_without_keys_or_with_an_empty_key_is_refused_with_the_option() {
        for (sealing, accept_only, option) in [
            (&[][..], &[][..], "symmetric_encryption_keys"),
            (&[], &["a"], "symmetric_encryption_keys"),
            (&["a", ""], &[], "symmetric_encryption_keys[1]"),
            (&["a"], &["b", ""], "accept_only_keys[1]"),
        ] {
            match KeyRing::new(&keys(sealing), &keys(accept_only)) {
                Err(Error::InvalidConfig { option: named, .. }) => assert_eq!(named, option),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", ring(&["secret"], &["other"])), "KeyRing { keys: 2, .. }");
    }
}
