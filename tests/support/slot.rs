//! The slots of a Redis Cluster.

/// The slot of a channel or a group.
pub fn slot_of(name: &str) -> u16 {
    let mut crc = 0_u16;
    for byte in name.bytes() {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        }
    }
    crc % 16384
}

/// A name for a channel without a local part that begins with `beginning` and is in a slot of the range.
pub fn name_in(beginning: &str, slots: std::ops::Range<u16>, end: char) -> String {
    (0..u32::MAX)
        .map(|n| format!("{beginning}{n}{end}"))
        .find(|name| slots.contains(&slot_of(name)))
        .expect("some name fits")
}
