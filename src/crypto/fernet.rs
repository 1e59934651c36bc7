//! Fernet tokens, as Python's `cryptography` makes and opens them, under keys derived as Django Channels derives them.
//!
//! A token is the URL-safe base64, with padding, of
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 0x80 |
//! | 8 | time of sealing, seconds since the epoch |
//! | 16 | initialisation vector |
//! | a multiple of 16 | ciphertext of AES-128-CBC, padded by PKCS #7 |
//! | 32 | HMAC-SHA256 of all that |
//!
//! with integers in big-endian order. A configured key is hashed by SHA-256: the first half of the hash signs, the second
//! encrypts.

use std::fmt;
use std::time::Duration;

use aes::Aes128;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockDecryptMut, BlockEncryptMut, InnerIvInit, KeyInit};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use super::Unopened;
use crate::error::Result;

const VERSION: u8 = 0x80;
const TIME: usize = 8;
const BLOCK: usize = 16;
const TAG: usize = 32;

/// How far ahead the clock of the process that sealed may be, as in Python's `cryptography`.
const CLOCK_TOLERANCE: Duration = Duration::from_mins(1);

/// The Fernet keys of a layer: the first seals, any opens.
pub(crate) struct FernetKeys {
    keys: Vec<Key>,
}

/// One key, with the work done that does not depend on a message.
struct Key {
    cipher: Aes128,
    signer: Hmac<Sha256>,
}

impl FernetKeys {
    /// Makes a key of each text. The first key seals; all keys, and those of `accept_only`, open.
    pub(crate) fn new(keys: &[String], accept_only: &[String]) -> Result<Self> {
        super::check_all(keys, accept_only)?;
        Ok(Self { keys: keys.iter().chain(accept_only).map(|text| Key::new(text)).collect() })
    }

    /// Appends the token of `plain` to `out`. The time is counted from the epoch.
    pub(crate) fn seal(&self, now: Duration, plain: &[u8], out: &mut Vec<u8>) {
        self.keys[0].seal(now, rand::random(), plain, out);
    }

    /// What `token` holds, if one of the keys made it. With a `ttl` it must not be older, nor from more than a minute
    /// ahead; without one its time is not looked at, as in Python.
    pub(crate) fn open(&self, token: &[u8], now: Duration, ttl: Option<Duration>) -> Result<Vec<u8>, Unopened> {
        let token = URL_SAFE.decode(token).map_err(|_| Unopened("it is no token"))?;
        let parts = Parts::of(&token).ok_or(Unopened("it is no token"))?;
        let Some(key) = self.keys.iter().find(|key| key.signed(&parts)) else {
            return Err(Unopened("it was changed, or its key is unknown"));
        };
        if let Some(ttl) = ttl {
            check_time(Duration::from_secs(parts.time), now, ttl)?;
        }
        key.decrypt(&parts)
    }
}

impl Key {
    fn new(text: &str) -> Self {
        let hash: [u8; 32] = Sha256::digest(text).into();
        let (signing, encryption) = hash.split_at(BLOCK);
        let signer = <Hmac<Sha256> as Mac>::new_from_slice(signing).expect("a key of HMAC may have any length");
        Self { cipher: Aes128::new(encryption.into()), signer }
    }

    fn seal(&self, now: Duration, iv: [u8; BLOCK], plain: &[u8], out: &mut Vec<u8>) {
        let mut token = Vec::with_capacity(1 + TIME + BLOCK + plain.len() + BLOCK + TAG);
        token.push(VERSION);
        token.extend_from_slice(&now.as_secs().to_be_bytes());
        token.extend_from_slice(&iv);
        let start = token.len();
        token.extend_from_slice(plain);
        token.resize(start + (plain.len() / BLOCK + 1) * BLOCK, 0);
        cbc::Encryptor::inner_iv_init(self.cipher.clone(), &iv.into())
            .encrypt_padded_mut::<Pkcs7>(&mut token[start..], plain.len())
            .expect("there is room for the padding");
        let tag = self.signer.clone().chain_update(&token).finalize().into_bytes();
        token.extend_from_slice(&tag);
        let start = out.len();
        out.resize(start + token.len().div_ceil(3) * 4, 0);
        URL_SAFE.encode_slice(&token, &mut out[start..]).expect("base64 makes four bytes of three");
    }

    /// Whether this key made the token; takes the same time wherever two tags differ.
    fn signed(&self, parts: &Parts<'_>) -> bool {
        self.signer.clone().chain_update(parts.signed).verify_slice(parts.tag).is_ok()
    }

    fn decrypt(&self, parts: &Parts<'_>) -> Result<Vec<u8>, Unopened> {
        cbc::Decryptor::inner_iv_init(self.cipher.clone(), parts.iv.into())
            .decrypt_padded_vec_mut::<Pkcs7>(parts.ciphertext)
            .map_err(|_| Unopened("its padding is wrong"))
    }
}

/// A decoded token taken apart, unchecked.
struct Parts<'a> {
    time: u64,
    iv: &'a [u8; BLOCK],
    ciphertext: &'a [u8],
    /// Everything before the tag.
    signed: &'a [u8],
    tag: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(token: &'a [u8]) -> Option<Self> {
        let (signed, tag) = token.split_last_chunk::<TAG>()?;
        let (&version, rest) = signed.split_first()?;
        let (time, rest) = rest.split_first_chunk::<TIME>()?;
        let (iv, ciphertext) = rest.split_first_chunk()?;
        let time = u64::from_be_bytes(*time);
        (version == VERSION).then_some(Self { time, iv, ciphertext, signed, tag })
    }
}

fn check_time(sealed: Duration, now: Duration, ttl: Duration) -> Result<(), Unopened> {
    // Python counts whole seconds.
    let now = Duration::from_secs(now.as_secs());
    if sealed.saturating_add(ttl) < now {
        return Err(Unopened("it was sealed too long ago"));
    }
    if now.saturating_add(CLOCK_TOLERANCE) < sealed {
        return Err(Unopened("it was sealed in the future"));
    }
    Ok(())
}

impl fmt::Debug for FernetKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FernetKeys").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Duration = Duration::from_secs(1_700_000_000);
    const TTL: Option<Duration> = Some(Duration::from_secs(70));
    const PLAIN: &[u8] = b"\x81\xa4type\xa3a.b";

    /// Made by Python's `cryptography` for [`PLAIN`] at [`NOW`], with an initialisation vector that counts from 0.
    const GOLDEN: [(&str, &str); 3] = [
        (
            "a-test-key",
            "gAAAAABlU_EAAAECAwQFBgcICQoLDA0ODwXacYCwq91t2RoFqD8DzR7FjJo2oE8dYpnwLDCLlJGItZX1SGSc7Qr9peL639Qqlg==",
        ),
        ("", "gAAAAABlU_EAAAECAwQFBgcICQoLDA0OD3JtIv0yjQy2EqNgYXApLuK3U6Kwl2UhgpMzJeDFUaJy1gY_uxrYnTZ6V5DsFUlZgA=="),
        (
            "cl\u{e9}-\"secret\"",
            "gAAAAABlU_EAAAECAwQFBgcICQoLDA0ODzut58rLbl7LAuCjiX97zFKMdgFnNWLiHgjZePFq03_XGQdz5AgYfC_KjPJAo3aDDA==",
        ),
    ];

    fn keys(texts: &[&str]) -> FernetKeys {
        FernetKeys { keys: texts.iter().map(|text| Key::new(text)).collect() }
    }

    fn seal(keys: &FernetKeys, plain: &[u8]) -> Vec<u8> {
        let mut token = Vec::new();
        keys.seal(NOW, plain, &mut token);
        token
    }

    fn open(keys: &FernetKeys, token: &[u8]) -> Result<Vec<u8>, &'static str> {
        open_at(keys, token, NOW, TTL)
    }

    fn open_at(keys: &FernetKeys, token: &[u8], now: Duration, ttl: Option<Duration>) -> Result<Vec<u8>, &'static str> {
        keys.open(token, now, ttl).map_err(|Unopened(reason)| reason)
    }

    #[test]
    fn tokens_are_those_of_python() {
        let iv = std::array::from_fn(|at| u8::try_from(at).expect("it is below 16"));
        for (key, token) in GOLDEN {
            let mut made = b"head".to_vec();
            Key::new(key).seal(NOW, iv, PLAIN, &mut made);
            assert_eq!(std::str::from_utf8(&made[4..]), Ok(token));
            assert_eq!(open(&keys(&[key]), token.as_bytes()), Ok(PLAIN.to_vec()));
        }
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let token = seal(&keys(&["new", "old"]), PLAIN);
        assert_eq!(open(&keys(&["other", "new"]), &token), Ok(PLAIN.to_vec()));
        assert_eq!(open(&keys(&["old"]), &token), Err("it was changed, or its key is unknown"));
    }

    #[test]
    fn keys_that_only_open_do_not_seal() {
        let text = |text: &str| vec![text.to_owned()];
        let turning = FernetKeys::new(&text("old"), &text("new")).expect("the keys are good");
        assert!(open(&turning, &seal(&keys(&["new"]), PLAIN)).is_ok());
        assert!(open(&keys(&["old"]), &seal(&turning, PLAIN)).is_ok());
        for (keys, accept_only) in [(vec![], text("new")), (text(""), vec![]), (text("old"), text(""))] {
            assert!(FernetKeys::new(&keys, &accept_only).is_err());
        }
    }

    #[test]
    fn every_length_comes_back() {
        let keys = keys(&["secret"]);
        for length in [0, 1, 15, 16, 17, 1 << 20] {
            let plain = vec![7; length];
            assert_eq!(open(&keys, &seal(&keys, &plain)), Ok(plain));
        }
    }

    #[test]
    fn the_time_is_looked_at_where_there_is_a_ttl() {
        let keys = keys(&["secret"]);
        let token = seal(&keys, PLAIN);
        let at = |now, ttl| open_at(&keys, &token, Duration::from_secs(now), ttl);
        assert!(at(1_700_000_070, TTL).is_ok() && at(1_699_999_940, TTL).is_ok());
        assert_eq!(at(1_700_000_071, TTL), Err("it was sealed too long ago"));
        assert_eq!(at(1_699_999_939, TTL), Err("it was sealed in the future"));
        assert!(at(0, None).is_ok() && at(2_000_000_000, None).is_ok());
    }

    #[test]
    fn no_byte_can_be_changed() {
        let keys = keys(&["secret"]);
        let token = URL_SAFE.decode(seal(&keys, PLAIN)).expect("it is base64");
        for at in 0..token.len() {
            let mut changed = token.clone();
            changed[at] ^= 1;
            assert!(open(&keys, URL_SAFE.encode(changed).as_bytes()).is_err(), "byte {at}");
        }
    }

    #[test]
    fn keys_are_not_shown() {
        let shown = format!("{:?}", keys(&["secret"]));
        assert!(!shown.contains("secret"), "{shown}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let keys = keys(&["secret"]);
            prop_assert!(open(&keys, &bytes).is_err());
            prop_assert!(open(&keys, URL_SAFE.encode(&bytes).as_bytes()).is_err());
            // Signed, so that the padding is looked at too.
            let mut token = [&[VERSION], &bytes[..]].concat();
            let tag = keys.keys[0].signer.clone().chain_update(&token).finalize().into_bytes();
            token.extend_from_slice(&tag);
            let _ = open_at(&keys, URL_SAFE.encode(token).as_bytes(), NOW, None);
        }
    }
}
