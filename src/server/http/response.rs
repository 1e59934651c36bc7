//! Parts of a response, read from the messages of the application without I/O.

use axum::http::header::{CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use bytes::Bytes;

use crate::message::{Message, Value};

/// Maximum number of headers in a response. A [`HeaderMap`] holds 24,576 names and panics when one more is added. The
/// limit leaves room for the headers that the server adds.
const MAX_HEADERS: usize = 10_000;

/// A response or a part of one.
#[derive(Debug, PartialEq)]
pub(crate) struct Part {
    /// The head of the response; only the first part has one.
    pub(crate) head: Option<Head>,
    pub(crate) content: Bytes,
    /// Whether further parts follow.
    pub(crate) more: bool,
}

/// Status and headers of a response.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// The declared length of the content.
    pub(crate) length: Option<u64>,
}

/// Memory of a part in addition to its content, rounded up: the part, its place in a queue, and its entry in the count
/// of the memory.
pub(crate) const PART_OVERHEAD: usize = 256;

/// Memory of a header in a map in addition to its name and value, rounded up.
const HEADER_OVERHEAD: usize = 128;

impl Part {
    /// Returns the memory of a part in addition to its content.
    pub(crate) fn overhead(&self) -> usize {
        let header = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + HEADER_OVERHEAD;
        PART_OVERHEAD + self.head.as_ref().map_or(0, |head| head.headers.iter().map(header).sum())
    }

    /// Reads a part from a message of the application.
    ///
    /// # Errors
    ///
    /// The reason why the message is invalid.
    pub(crate) fn read(message: &Message) -> Result<Self, &'static str> {
        let content = match message.get("content") {
            None | Some(Value::None) => Bytes::new(),
            Some(Value::Bytes(content)) => content.clone(),
            Some(_) => return Err("content is not bytes"),
        };
        let more = match message.get("more_content") {
            None | Some(Value::None) => false,
            Some(Value::Bool(more)) => *more,
            Some(_) => return Err("more_content is not a boolean"),
        };
        let head = match message.get("status") {
            None | Some(Value::None) => None,
            Some(status) => Some(Head::read(read_status(status)?, headers(message.get("headers"))?, more)?),
        };
        Ok(Self { head, content, more })
    }
}

impl Head {
    /// Reads the declared length. Content in parts needs a valid one; complete content has its own length, and an
    /// invalid header is removed.
    fn read(status: StatusCode, mut headers: HeaderMap, more: bool) -> Result<Self, &'static str> {
        let length = match length(&headers) {
            Err(_) if !more => {
                headers.remove(CONTENT_LENGTH);
                None
            }
            length => length?,
        };
        if let Some(length) = length {
            // The same length may have been sent twice.
            headers.insert(CONTENT_LENGTH, length.into());
        }
        Ok(Self { status, headers, length })
    }
}

/// Returns the one length that the headers declare (RFC 9110, section 8.6).
fn length(headers: &HeaderMap) -> Result<Option<u64>, &'static str> {
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let declared = digits.and_then(|digits| digits.parse().ok()).ok_or("content-length is not a number")?;
        if *length.get_or_insert(declared) != declared {
            return Err("content-length has two values");
        }
    }
    Ok(length)
}

fn read_status(status: &Value) -> Result<StatusCode, &'static str> {
    let code = status.as_int().and_then(|code| u16::try_from(code).ok());
    let status = code.and_then(|code| StatusCode::from_u16(code).ok());
    // A status below 200 is not final, and RFC 9110 has no classes above 5xx.
    status.filter(|status| (200..600).contains(&status.as_u16())).ok_or("status is not between 200 and 599")
}

fn headers(value: Option<&Value>) -> Result<HeaderMap, &'static str> {
    let pairs = match value {
        None | Some(Value::None) => &[],
        Some(Value::List(pairs)) => pairs.as_slice(),
        Some(_) => return Err("headers are not a list"),
    };
    if pairs.len() > MAX_HEADERS {
        return Err("too many headers");
    }
    let mut headers = HeaderMap::with_capacity(pairs.len());
    for pair in pairs {
        let (name, value) = header(pair).ok_or("a header is not a pair of byte strings")?;
        if !is_hop_by_hop(&name) {
            headers.append(name, value);
        }
    }
    Ok(headers)
}

fn header(pair: &Value) -> Option<(HeaderName, HeaderValue)> {
    let [name, value] = pair.as_list()? else { return None };
    let value = HeaderValue::from_bytes(value.as_bytes()?).ok()?;
    // Spaces around a value are not part of it in HTTP/1, and malformed in HTTP/2.
    let trimmed = value.as_bytes().trim_ascii();
    let value = if trimmed.len() < value.len() { HeaderValue::from_bytes(trimmed).ok()? } else { value };
    Some((HeaderName::from_bytes(name.as_bytes()?).ok()?, value))
}

/// Returns `true` for hop-by-hop headers (RFC 9110, section 7.6.1). They belong to the connection between the server
/// and its client, which the application does not know.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE].contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message;

    fn pair(name: &[u8], value: &[u8]) -> Value {
        Value::list([name, value])
    }

    #[test]
    fn a_response_keeps_repeated_headers_and_loses_hop_by_hop_headers() {
        let headers =
            [pair(b"Set-Cookie", b"a=1"), pair(b"Transfer-Encoding", b"chunked"), pair(b"Set-Cookie", b"b=2")];
        let message = message! { "status": 404, "headers": Value::list(headers), "content": b"gone" };
        let part = Part::read(&message).unwrap();
        let head = part.head.unwrap();
        assert_eq!((head.status, part.more), (StatusCode::NOT_FOUND, false));
        assert_eq!(head.headers.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
        assert_eq!(head.headers.len(), 2);
        assert_eq!(part.content, "gone");
    }

    #[test]
    fn the_headers_of_a_response_are_bounded() {
        let read = |names: &mut dyn Iterator<Item = String>| {
            let pairs = names.map(|name| pair(name.as_bytes(), b"1"));
            Part::read(&message! { "status": 200, "headers": Value::list(pairs) })
        };
        let names = |count: usize| (0..count).map(|number| format!("x-{number}"));
        let most = read(&mut names(MAX_HEADERS)).unwrap().head.unwrap();
        assert_eq!(most.headers.len(), MAX_HEADERS);
        for count in [MAX_HEADERS + 1, 25_000, 40_000] {
            assert!(read(&mut names(count)).is_err(), "{count}");
            assert!(read(&mut names(1).cycle().take(count)).is_err(), "{count} of one name");
        }
    }

    #[test]
    fn a_declared_length_is_one_number() {
        let read = |lengths: &[&str], more: bool| {
            let headers = lengths.iter().map(|length| pair(b"Content-Length", length.as_bytes()));
            let message = message! { "status": 200, "headers": Value::list(headers), "more_content": more };
            Part::read(&message).map(|part| part.head.unwrap())
        };
        for more in [true, false] {
            for lengths in [&["5"] as &[_], &["5", "5"], &["005", "5"]] {
                let head = read(lengths, more).unwrap();
                assert_eq!(head.headers.get_all(CONTENT_LENGTH).iter().collect::<Vec<_>>(), ["5"]);
                assert_eq!(head.length, Some(5));
            }
        }
        for lengths in
            [&["5", "6"] as &[_], &["5, 5"], &["+5"], &["-5"], &["five"], &[""], &["0x5"], &["18446744073709551616"]]
        {
            assert!(read(lengths, true).is_err(), "{lengths:?}");
            let whole = read(lengths, false).unwrap();
            assert_eq!((whole.length, whole.headers.len()), (None, 0), "{lengths:?}");
        }
    }

    #[test]
    fn a_chunk_has_no_head() {
        let part = Part::read(&message! { "content": b"more", "more_content": true }).unwrap();
        assert_eq!(part, Part { head: None, content: "more".into(), more: true });
    }

    #[test]
    fn an_invalid_response_is_refused() {
        for message in [
            message! { "status": 101 },
            message! { "status": 100 },
            message! { "status": 103, "more_content": true },
            message! { "status": 600 },
            message! { "status": 999 },
            message! { "status": 1000 },
            message! { "status": 0 },
            message! { "status": -200 },
            message! { "status": "200" },
            message! { "status": 200, "headers": "none" },
            message! { "status": 200, "headers": Value::list([pair(b"a b", b"c")]) },
            message! { "status": 200, "headers": Value::list([pair(b"a", b"c\r\nd: e")]) },
            message! { "status": 200, "headers": Value::list([Value::list(["text", "text"])]) },
            message! { "content": "text" },
            message! { "content": b"", "more_content": 1 },
        ] {
            assert!(Part::read(&message).is_err(), "{message:?}");
        }
    }
}
