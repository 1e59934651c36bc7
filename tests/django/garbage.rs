//! Bytes that are no message of Python's.

/// Bodies that hold no message.
pub fn bodies() -> Vec<Vec<u8>> {
    let deep = |open: &[u8]| [b"\x81\xa1a", &open.repeat(100_000)[..], b"\x01"].concat();
    let mut bodies: Vec<&[u8]> = vec![
        b"",
        b"\xc1",
        b"\xc0",
        b"\x01",
        b"\x93\x01\x02\x03",
        b"\xa3abc",
        b"\x81",
        b"\x81\xa1a",
        // Keys that are no text, an extension type, more than one message.
        b"\x81\x01\x01",
        b"\x81\xa1a\xd4\x01\x01",
        b"\x81\xa1a\x01trailing",
        b"\x81\xa1\xff\x01",
        b"\x81\xa1a\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
        b"{\"type\": 1",
        b"[]",
        b"null",
        b"\"text\"",
        b"{\"a\": 1} {}",
        b"{\"a\": \"\\ud800\"}",
    ];
    let bombs = [deep(b"\x91"), deep(b"\x81\xa1a"), deep(b"\xdd\xff\xff\xff\xff"), b"[".repeat(100_000)];
    bodies.extend(bombs.iter().map(Vec::as_slice));
    bodies.into_iter().map(<[u8]>::to_vec).collect()
}
