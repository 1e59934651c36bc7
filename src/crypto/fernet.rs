//! Fernet tokens, compatible with Python's `cryptography`. Keys are derived as in Django Channels.
//!
//! A token is URL-safe base64, with padding, of
//!
//! | bytes | content |
//! |---|---|
//! | 1 | version, 0x80 |
//! | 8 | time of sealing, in seconds since the epoch |
//! | 16 | initialisation vector |
//! | a multiple of 16 | ciphertext of AES-128-CBC, with PKCS #7 padding |
//! | 32 | HMAC-SHA256 of all bytes before |
//!
//! Integers are big-endian. The SHA-256 hash of a configured key holds two keys: the first half signs, the second half
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

use super::OpenError;
use crate::error::Result;

const VERSION: u8 = 0x80;
const TIME: usize = 8;
const BLOCK: usize = 16;
const TAG: usize = 32;

/// Allowed clock skew: how far the clock of the sealing process may be ahead. Python's `cryptography` uses the
/// same value.
const CLOCK_TOLERANCE: Duration = Duration::from_mins(1);

const NOT_A_TOKEN: OpenError = OpenError("not a Fernet token");

/// The Fernet keys of a layer. The first key seals, and all keys open.
pub(crate) struct FernetKeys {
    keys: Vec<Key>,
}

/// A key, prepared for repeated use.
struct Key {
    cipher: Aes128,
    signer: Hmac<Sha256>,
}

impl FernetKeys {
    /// Creates the keys from their texts. The first of `keys` seals. All of `keys` and `accept_only` open.
    pub(crate) fn new(keys: &[String], accept_only: &[String]) -> Result<Self> {
        super::check_all(keys, accept_only)?;
        Ok(Self { keys: keys.iter().chain(accept_only).map(|text| Key::new(text)).collect() })
    }

    /// Seals `plain` and appends the token to `out`. `now` is the time since the epoch.
    pub(crate) fn seal(&self, now: Duration, plain: &[u8], out: &mut Vec<u8>) {
        self.keys[0].seal(now, rand::random(), plain, out);
    }

    /// Opens `token`. With a `ttl`, fails if the token is older than `ttl` or more than one minute in the future.
    /// Without a `ttl` the time is not checked, as in Python.
    pub(crate) fn open(&self, token: &[u8], now: Duration, ttl: Option<Duration>) -> Result<Vec<u8>, OpenError> {
        let token = URL_SAFE.decode(token).map_err(|_| NOT_A_TOKEN)?;
        let parts = Parts::of(&token).ok_or(NOT_A_TOKEN)?;
        let Some(key) = self.keys.iter().find(|key| key.signed(&parts)) else {
            return Err(OpenError("modified, or sealed with an unknown key"));
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

    /// Whether this key signed the token. The comparison of the tags takes constant time.
    fn signed(&self, parts: &Parts<'_>) -> bool {
        self.signer.clone().chain_update(parts.signed).verify_slice(parts.tag).is_ok()
    }

    fn decrypt(&self, parts: &Parts<'_>) -> Result<Vec<u8>, OpenError> {
        cbc::Decryptor::inner_iv_init(self.cipher.clone(), parts.iv.into())
            .decrypt_padded_vec_mut::<Pkcs7>(parts.ciphertext)
            .map_err(|_| OpenError("invalid padding"))
    }
}

/// The fields of a decoded token, not yet verified.
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

fn check_time(sealed: Duration, now: Duration, ttl: Duration) -> Result<(), OpenError> {
    // Python compares whole seconds.
    let now = Duration::from_secs(now.as_secs());
    if sealed.saturating_add(ttl) < now {
        return Err(OpenError("sealed too long ago"));
    }
    if now.saturating_add(CLOCK_TOLERANCE) < sealed {
        return Err(OpenError("sealed in the future"));
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

    /// Made by Python's `cryptography` for [`PLAIN`] at [`NOW`], with the initialisation vector 0, 1, 2, ...
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
        keys.open(token, now, ttl).map_err(|OpenError(reason)| reason)
    }

    #[test]
    fn tokens_are_the_same_as_in_python() {
        let iv = std::array::from_fn(|at| u8::try_from(at).expect("it is below 16"));
        for (key, token) in GOLDEN {
            let mut made = b"head".to_vec();
            Key::new(key).seal(NOW, iv, PLAIN, &mut made);
            assert_eq!(std::str::from_utf8(&made[4..]), Ok(token));
            assert_eq!(open(&keys(&[key]), token.as_bytes()), Ok(PLAIN.to_vec()));
        }
    }

    #[test]
    fn the_first_key_seals_and_all_keys_open() {
        let token = seal(&keys(&["new", "old"]), PLAIN);
        assert_eq!(open(&keys(&["other", "new"]), &token), Ok(PLAIN.to_vec()));
        assert_eq!(open(&keys(&["old"]), &token), Err("modified, or sealed with an unknown key"));
    }

    #[test]
    fn accept_only_keys_do_not_seal() {
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
    fn the_time_is_checked_only_with_a_ttl() {
        let keys = keys(&["secret"]);
        let token = seal(&keys, PLAIN);
        let at = |now, ttl| open_at(&keys, &token, Duration::from_secs(now), ttl);
        assert!(at(1_700_000_070, TTL).is_ok() && at(1_699_999_940, TTL).is_ok());
        assert_eq!(at(1_700_000_071, TTL), Err("sealed too long ago"));
        assert_eq!(at(1_699_999_939, TTL), Err("sealed in the future"));
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
            // A valid signature, so that the padding is checked too.
            let mut token = [&[VERSION], &bytes[..]].concat();
            let tag = keys.keys[0].signer.clone().chain_update(&token).finalize().into_bytes();
            token.extend_from_slice(&tag);
            let _ = open_at(&keys, URL_SAFE.encode(token).as_bytes(), NOW, None);
        }
    }
}
