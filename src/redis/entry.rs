//! `Entry`: a message in a channel's list, and its form as bytes.
//!
//! ```text
//! entry    = stamp frame
//! stamp    = u64         when the entry expires, ms since the epoch by Redis' clock
//! frame    = head lifetime address body
//! head     = u8          version (high 4 bits), sealed (bit 3), kind of address (low 3 bits)
//! lifetime = u64         the time from sending the entry to its expiry, in ms
//! address  =             kind 0: the channel that the list belongs to
//!         | text         kind 1: a local part of it
//!         | text u64     kind 2: the members of a group, at a version of the route's membership
//!         | text u64 u32 (text)*
//!                        kind 3: these local parts, which have not received a group message yet
//! text     = u8 bytes
//! body     = MessagePack, or sealed MessagePack
//! ```
//!
//! Numbers are big-endian.

use bytes::{Buf, Bytes};

/// The version of this format, in the high bits of every head.
const VERSION: u8 = 1;
const SEALED: u8 = 0b1000;
const STAMP: usize = 8;
/// The place of the lifetime.
const LIFETIME: std::ops::Range<usize> = STAMP + 1..STAMP + 9;
/// Lua's numbers are exact below this, and all times are far below.
const LATEST: u64 = 1 << 53;

/// The recipients of an entry within its list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address<T> {
    /// The channel itself.
    Channel,
    /// One local part of a process-local channel.
    Local(T),
    /// The members that `group` has on this route at `version`; on a normal or single-reader channel, the channel.
    Group { group: T, version: u64 },
    /// The local parts that have not received a group message yet, while other members have.
    Rest { group: T, version: u64, locals: Locals },
}

/// Local parts in the bytes of an entry. Each is read when it is needed, so that a forged entry cannot cause
/// allocations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Locals {
    count: u32,
    /// That many texts.
    texts: Bytes,
}

/// A parsed entry. The texts and the body are slices of its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The time at which it expires, in ms since the epoch by Redis' clock.
    pub(crate) expires: u64,
    /// The time from sending it to its expiry, in ms.
    pub(crate) lifetime: u64,
    pub(crate) address: Address<Text>,
    /// Whether the body is sealed.
    pub(crate) sealed: bool,
    /// The encoded or sealed message.
    pub(crate) body: Bytes,
}

/// A short text inside an entry.
pub(crate) type Text = bytestring::ByteString;

/// Why bytes are not an entry of this format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("it ends too early")]
    Truncated,
    #[error("it has another format version")]
    Version,
    #[error("its address is of an unknown kind or not text")]
    Address,
    #[error("it expires at a time that is none")]
    Stamp,
}

/// Appends the beginning of an entry to `out`, up to its body. The entry expires at `expires`, `lifetime` after it was
/// sent.
pub(crate) fn begin<T: AsRef<str>>(expires: u64, lifetime: u64, address: &Address<T>, sealed: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(&expires.to_be_bytes());
    write_header(lifetime, address, sealed, out);
}

/// The head, lifetime and address of the entry that is begun in `entry`.
pub(crate) fn header(entry: &[u8]) -> &[u8] {
    &entry[STAMP..]
}

fn write_header<T: AsRef<str>>(lifetime: u64, address: &Address<T>, sealed: bool, out: &mut Vec<u8>) {
    let kind = match address {
        Address::Channel => 0,
        Address::Local(_) => 1,
        Address::Group { .. } => 2,
        Address::Rest { .. } => 3,
    };
    out.push(VERSION << 4 | if sealed { SEALED } else { 0 } | kind);
    out.extend_from_slice(&lifetime.to_be_bytes());
    match address {
        Address::Channel => {}
        Address::Local(local) => write_text(local.as_ref(), out),
        Address::Group { group, version } => {
            write_text(group.as_ref(), out);
            out.extend_from_slice(&version.to_be_bytes());
        }
        Address::Rest { group, version, locals } => {
            write_text(group.as_ref(), out);
            out.extend_from_slice(&version.to_be_bytes());
            out.extend_from_slice(&locals.count.to_be_bytes());
            out.extend_from_slice(&locals.texts);
        }
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(u8::try_from(text.len()).expect("names have at most 100 bytes"));
    out.extend_from_slice(text.as_bytes());
}

impl Locals {
    /// Reads local parts from the beginning of `bytes`.
    fn read(bytes: &mut Bytes) -> Result<Self, Fault> {
        let count = bytes.try_get_u32().map_err(truncated)?;
        let mut length = 0;
        for _ in 0..count {
            length += 1 + usize::from(*bytes.get(length).ok_or(Fault::Truncated)?);
        }
        if length > bytes.len() {
            return Err(Fault::Truncated);
        }
        Ok(Self { count, texts: bytes.split_to(length) })
    }

    pub(crate) fn len(&self) -> usize {
        usize::try_from(self.count).unwrap_or(usize::MAX)
    }
}

impl Iterator for Locals {
    /// An item is `None` if it is not UTF-8.
    type Item = Option<Text>;

    fn next(&mut self) -> Option<Option<Text>> {
        self.count = self.count.checked_sub(1)?;
        Some(read_text(&mut self.texts).ok())
    }
}

impl<'t> FromIterator<&'t str> for Locals {
    fn from_iter<I: IntoIterator<Item = &'t str>>(locals: I) -> Self {
        let (mut count, mut texts) = (0, Vec::new());
        for local in locals {
            write_text(local, &mut texts);
            count += 1;
        }
        Self { count, texts: texts.into() }
    }
}

impl<T> Address<T> {
    /// The group of a group message.
    pub(crate) fn group(&self) -> Option<&T> {
        match self {
            Self::Group { group, .. } | Self::Rest { group, .. } => Some(group),
            Self::Channel | Self::Local(_) => None,
        }
    }
}

impl Entry {
    /// Parses the bytes of an entry.
    pub(crate) fn parse(mut bytes: Bytes) -> Result<Self, Fault> {
        let expires = bytes.try_get_u64().map_err(truncated)?;
        if expires >= LATEST {
            return Err(Fault::Stamp);
        }
        let head = bytes.try_get_u8().map_err(truncated)?;
        if head >> 4 != VERSION {
            return Err(Fault::Version);
        }
        let lifetime = bytes.try_get_u64().map_err(truncated)?;
        let address = match head & 0b111 {
            0 => Address::Channel,
            1 => Address::Local(read_text(&mut bytes)?),
            2 => Address::Group { group: read_text(&mut bytes)?, version: bytes.try_get_u64().map_err(truncated)? },
            3 => {
                let group = read_text(&mut bytes)?;
                let version = bytes.try_get_u64().map_err(truncated)?;
                Address::Rest { group, version, locals: Locals::read(&mut bytes)? }
            }
            _ => return Err(Fault::Address),
        };
        Ok(Self { expires, lifetime, address, sealed: head & SEALED != 0, body: bytes })
    }

    /// The time at which it was sent, in ms since the epoch by Redis' clock.
    pub(crate) fn sent(&self) -> u64 {
        self.expires.saturating_sub(self.lifetime)
    }

    /// The time at which it would expire if it were sent at `now`.
    pub(crate) fn expires_if_sent(&self, now: u64) -> u64 {
        now.saturating_add(self.lifetime).min(LATEST - 1)
    }

    /// The head, lifetime and address. They have only one form as bytes.
    pub(crate) fn header(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(40);
        write_header(self.lifetime, &self.address, self.sealed, &mut header);
        header
    }

    /// The bytes of this entry.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(STAMP + 40 + self.body.len());
        begin(self.expires, self.lifetime, &self.address, self.sealed, &mut bytes);
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// The expiry in the first bytes of an entry. `None` if they are too short.
pub(crate) fn expires(entry: &[u8]) -> Option<u64> {
    entry.first_chunk().map(|stamp| u64::from_be_bytes(*stamp))
}

/// The time of sending in the first bytes of an entry. `None` if they are too short.
pub(crate) fn sent(entry: &[u8]) -> Option<u64> {
    let lifetime = entry.get(LIFETIME)?.first_chunk().map(|lifetime| u64::from_be_bytes(*lifetime))?;
    Some(expires(entry)?.saturating_sub(lifetime))
}

fn read_text(bytes: &mut Bytes) -> Result<Text, Fault> {
    let length = usize::from(bytes.try_get_u8().map_err(truncated)?);
    if bytes.remaining() < length {
        return Err(Fault::Truncated);
    }
    Text::try_from(bytes.split_to(length)).map_err(|_| Fault::Address)
}

fn truncated(_: bytes::TryGetError) -> Fault {
    Fault::Truncated
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(address: Address<Text>, sealed: bool) -> Entry {
        Entry {
            expires: 1_700_000_000_123,
            lifetime: 60_000,
            address,
            sealed,
            body: Bytes::from_static(b"\x81\xa1a\x01"),
        }
    }

    fn addresses() -> [Address<Text>; 4] {
        [
            Address::Channel,
            Address::Local("client".into()),
            Address::Group { group: "chat".into(), version: u64::MAX },
            Address::Rest { group: "chat".into(), version: 7, locals: ["a", "b"].into_iter().collect() },
        ]
    }

    #[test]
    fn every_address_comes_back() {
        for address in addresses() {
            for sealed in [false, true] {
                let entry = entry(address.clone(), sealed);
                assert_eq!(sent(&entry.to_bytes()), Some(1_700_000_000_123 - 60_000));
                assert_eq!(Entry::parse(entry.to_bytes().into()), Ok(entry));
            }
        }
    }

    #[test]
    fn the_format_does_not_change() {
        let bytes = entry(Address::Group { group: "chat".into(), version: 5 }, true).to_bytes();
        assert_eq!(
            bytes,
            b"\0\0\x01\x8b\xcf\xe5\x68\x7b\x1a\0\0\0\0\0\0\xea\x60\x04chat\0\0\0\0\0\0\0\x05\x81\xa1a\x01"
        );
    }

    #[test]
    fn a_cut_in_head_or_address_is_noticed() {
        for address in addresses() {
            let whole = entry(address, false).to_bytes();
            for length in 0..whole.len() - 4 {
                assert_eq!(Entry::parse(Bytes::copy_from_slice(&whole[..length])), Err(Fault::Truncated), "{length}");
            }
        }
    }

    #[test]
    fn other_versions_kinds_and_times_are_refused() {
        let mut bytes = entry(Address::Channel, false).to_bytes();
        bytes[8] = 0x20;
        assert_eq!(Entry::parse(bytes.clone().into()), Err(Fault::Version));
        bytes[8] = 0x17;
        assert_eq!(Entry::parse(bytes.clone().into()), Err(Fault::Address));
        bytes[..8].copy_from_slice(&u64::MAX.to_be_bytes());
        assert_eq!(Entry::parse(bytes.into()), Err(Fault::Stamp));
    }

    #[test]
    fn local_parts_are_slices_of_their_entry() {
        let names: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        let locals: Locals = names.iter().map(String::as_str).collect();
        let bytes = Bytes::from(entry(Address::Rest { group: Text::from("g"), version: 7, locals }, false).to_bytes());
        let all = bytes.as_ptr_range();
        let Address::Rest { locals, .. } = Entry::parse(bytes).unwrap().address else { panic!("it has another kind") };
        assert!(all.contains(&locals.texts.as_ptr()));
        assert_eq!(locals.len(), 1000);
        assert!(locals.clone().flatten().all(|local| all.contains(&local.as_ptr())));
        assert!(locals.flatten().map(|local| local.to_string()).eq(names));
    }

    #[test]
    fn more_members_than_an_entry_has_room_for_are_noticed() {
        let rest = Address::Rest { group: Text::from("g"), version: 7, locals: Locals::default() };
        let mut bytes = entry(rest, false).to_bytes();
        bytes[LIFETIME.end + 2 + 8..][..4].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(Entry::parse(bytes.into()), Err(Fault::Truncated));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut framed = b"\0\0\x01\x8b\xcf\xe5\x68\x7b".to_vec();
            framed.extend_from_slice(&bytes);
            let _ = Entry::parse(framed.into());
        }
    }
}
