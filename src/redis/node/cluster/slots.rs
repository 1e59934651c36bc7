//! `Slot`: one of the 16,384 parts of the keys of a cluster.

/// A slot of a Redis Cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(u16);

impl Slot {
    /// The number of slots of a cluster.
    pub(crate) const COUNT: usize = 1 << 14;

    /// The slot of `key`: that of its hash tag, if it has one. The name of a channel or of a group has the same slot as
    /// their keys, because it is the tag of these.
    pub(crate) fn of(key: &str) -> Self {
        // The remainder is below the number of slots, which is a power of two.
        Self(crc16(hash_tag(key).as_bytes()) & 0x3FFF)
    }

    /// The slot with this number, if there is one.
    pub(crate) fn numbered(number: u16) -> Option<Self> {
        (usize::from(number) < Self::COUNT).then_some(Self(number))
    }

    /// All slots, by their numbers.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).filter_map(|index| u16::try_from(index).ok().map(Self))
    }

    /// A short text in this slot.
    pub(crate) fn tag(self) -> String {
        let mut texts = (0_u32..).map(|number| number.to_string());
        texts.find(|text| Self::of(text) == self).unwrap_or_default()
    }

    /// The number of the slot, as an index.
    pub(crate) fn index(self) -> usize {
        self.0.into()
    }
}

/// The part of `key` that decides its slot: what is in its first braces, unless these are empty.
fn hash_tag(key: &str) -> &str {
    let tag = key.split_once('{').and_then(|(_, behind)| behind.split_once('}')).map(|(tag, _)| tag);
    tag.filter(|tag| !tag.is_empty()).unwrap_or(key)
}

/// CRC-16/XMODEM, as the specification of Redis Cluster defines it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| (crc << 8) ^ TABLE[usize::from((crc >> 8) ^ u16::from(*byte))])
}

const TABLE: [u16; 256] = table();

#[expect(clippy::cast_possible_truncation, reason = "the index is below 256")]
const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < table.len() {
        let (mut crc, mut bit) = ((index as u16) << 8, 0);
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `CLUSTER KEYSLOT` of Redis 7.0.15.
    #[test]
    fn keys_have_the_slots_of_redis() {
        for (key, slot) in GOLDEN {
            assert_eq!(Slot::of(key), Slot(slot), "{key}");
        }
        assert_eq!(crc16(b"123456789"), 0x31C3, "the check value of the specification");
    }

    const GOLDEN: [(&str, u16); 14] = [
        ("", 0),
        ("a", 15495),
        ("foo", 12182),
        ("123456789", 12739),
        ("{user1000}.following", 3443),
        ("foo{}{bar}", 8363),
        ("foo{{bar}}zap", 4015),
        ("foo{bar}{zap}", 5061),
        ("asgi:channel:{http.request}", 7285),
        ("asgi:quarantine", 6300),
        ("asgi-meta:global", 3976),
        ("websocket.send.0123456789!", 7689),
        ("a}b{c}", 7365),
        ("gr\u{f6}\u{df}e", 9425),
    ];

    #[test]
    fn a_name_has_the_slot_of_its_keys() {
        for name in ["chat", "http.request", "websocket.send.p!"] {
            assert_eq!(Slot::of(name), Slot::of(&format!("asgi:channel:{{{name}}}")), "{name}");
            assert_eq!(Slot::of(name), Slot::of(&format!("asgi:members:{{{name}}}:p!")), "{name}");
        }
    }

    #[test]
    fn every_slot_has_a_tag() {
        assert!(Slot::all().step_by(499).all(|slot| Slot::of(&slot.tag()) == slot));
    }

    #[test]
    fn there_are_16384_slots() {
        assert_eq!(Slot::all().count(), 16_384);
        assert_eq!(Slot::numbered(16_383).map(Slot::index), Some(16_383));
        assert_eq!(Slot::numbered(16_384), None);
    }
}
