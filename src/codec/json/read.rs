//! JSON reader with the semantics of `json.loads`.

use bytes::Bytes;
use bytestring::ByteString;

use crate::codec::TOO_DEEP;
use crate::error::{Error, Result};
use crate::message::{Map, Value};

/// Decodes `source`, which must hold one map and nothing else. Texts without escapes are slices of it.
pub(in super::super) fn read(source: &Bytes, depth: usize) -> Result<Map> {
    let mut reader = Reader { source, at: 0 };
    reader.skip_space();
    if reader.peek() != Some(b'{') {
        return Err(reader.fault("expected a map"));
    }
    let map = reader.map(depth)?;
    reader.skip_space();
    if reader.at < source.len() { Err(reader.fault("unexpected bytes after the map")) } else { Ok(map) }
}

/// The position of a reader.
struct Reader<'s> {
    source: &'s Bytes,
    at: usize,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Result<Value> {
        match self.peek() {
            Some(b'{') => self.map(depth).map(Value::Map),
            Some(b'[') => self.list(depth).map(Value::List),
            Some(b'"') => self.text().map(Value::Text),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.literal(),
        }
    }

    fn map(&mut self, depth: usize) -> Result<Map> {
        let inside = depth.checked_sub(1).ok_or_else(|| Error::decode(TOO_DEEP))?;
        let mut entries = Vec::new();
        self.at += 1;
        self.skip_space();
        if self.skip(b"}") {
            return Ok(Map::new());
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.fault("expected a text key"));
            }
            let key = self.text()?;
            self.skip_space();
            if !self.skip(b":") {
                return Err(self.fault("expected ':'"));
            }
            self.skip_space();
            entries.push((key, self.value(inside)?));
            self.skip_space();
            if self.skip(b"}") {
                return Ok(entries.into_iter().collect());
            }
            self.comma()?;
        }
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Value>> {
        let inside = depth.checked_sub(1).ok_or_else(|| Error::decode(TOO_DEEP))?;
        let mut values = Vec::new();
        self.at += 1;
        self.skip_space();
        if self.skip(b"]") {
            return Ok(values);
        }
        loop {
            values.push(self.value(inside)?);
            self.skip_space();
            if self.skip(b"]") {
                return Ok(values);
            }
            self.comma()?;
        }
    }

    fn comma(&mut self) -> Result<()> {
        if !self.skip(b",") {
            return Err(self.fault("expected ','"));
        }
        self.skip_space();
        Ok(())
    }

    fn literal(&mut self) -> Result<Value> {
        const LITERALS: [(&[u8], Value); 5] = [
            (b"null", Value::None),
            (b"true", Value::Bool(true)),
            (b"false", Value::Bool(false)),
            (b"NaN", Value::Float(f64::NAN)),
            (b"Infinity", Value::Float(f64::INFINITY)),
        ];
        let found = LITERALS.into_iter().find(|(literal, _)| self.skip(literal));
        found.map(|(_, value)| value).ok_or_else(|| self.fault("expected a value"))
    }

    fn number(&mut self) -> Result<Value> {
        let start = self.at;
        self.skip(b"-");
        if self.skip(b"Infinity") {
            return Ok(Value::Float(f64::NEG_INFINITY));
        }
        let first = self.peek();
        let digits = self.skip_digits();
        let mut is_whole = true;
        let mut complete = digits == 1 || digits > 1 && first != Some(b'0');
        if self.skip(b".") {
            is_whole = false;
            complete &= self.skip_digits() > 0;
        }
        if self.skip(b"e") || self.skip(b"E") {
            is_whole = false;
            let _ = self.skip(b"+") || self.skip(b"-");
            complete &= self.skip_digits() > 0;
        }
        let text = std::str::from_utf8(&self.source[start..self.at]).expect("the skipped bytes are ASCII");
        if !complete {
            return Err(self.fault("expected a number"));
        }
        if is_whole {
            let outside = |_| Error::decode(format_args!("integer at byte {start} is outside the range of i64"));
            return text.parse().map(Value::Int).map_err(outside);
        }
        text.parse().map(Value::Float).map_err(Error::decode)
    }

    fn text(&mut self) -> Result<ByteString> {
        self.at += 1;
        let start = self.at;
        self.skip_plain();
        if self.peek() == Some(b'"') {
            let text = self.source.slice(start..self.at);
            self.at += 1;
            return ByteString::try_from(text).map_err(|_| self.fault("text is not UTF-8"));
        }
        let mut text = self.source[start..self.at].to_vec();
        loop {
            match self.next() {
                Some(b'"') => return ByteString::try_from(text).map_err(|_| self.fault("text is not UTF-8")),
                Some(b'\\') => {
                    let character = self.escape()?;
                    text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                _ => return Err(self.fault("text has a control character or does not end")),
            }
            let start = self.at;
            self.skip_plain();
            text.extend_from_slice(&self.source[start..self.at]);
        }
    }

    /// Reads the character after a backslash.
    fn escape(&mut self) -> Result<char> {
        Ok(match self.next() {
            Some(plain @ (b'"' | b'\\' | b'/')) => plain.into(),
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'u') => return self.utf16(),
            _ => return Err(self.fault("unknown escape")),
        })
    }

    /// Reads the digits of a `\u` escape, or of two that form a surrogate pair. Refuses half a pair, which Python
    /// writes if a text contains one: it is not valid Unicode.
    fn utf16(&mut self) -> Result<char> {
        let first = self.unit()?;
        let units = match first {
            0xd800..=0xdbff if self.skip(b"\\u") => vec![first, self.unit()?],
            _ => vec![first],
        };
        let mut characters = char::decode_utf16(units);
        match (characters.next(), characters.next()) {
            (Some(Ok(character)), None) => Ok(character),
            _ => Err(self.fault("text has half a surrogate pair")),
        }
    }

    /// Reads the four digits of a UTF-16 code unit.
    fn unit(&mut self) -> Result<u16> {
        let digits = self.source.get(self.at..self.at + 4).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let unit = digits.and_then(|digits| u16::from_str_radix(digits, 16).ok());
        let unit = unit.ok_or_else(|| self.fault("expected four hexadecimal digits"))?;
        self.at += 4;
        Ok(unit)
    }

    fn peek(&self) -> Option<u8> {
        self.source.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let next = self.peek();
        self.at += usize::from(next.is_some());
        next
    }

    /// Skips `expected` if it is next. Returns whether it was.
    fn skip(&mut self, expected: &[u8]) -> bool {
        let found = self.source[self.at..].starts_with(expected);
        if found {
            self.at += expected.len();
        }
        found
    }

    fn skip_while(&mut self, matches: impl Fn(u8) -> bool) -> usize {
        let rest = &self.source[self.at..];
        let count = rest.iter().position(|byte| !matches(*byte)).unwrap_or(rest.len());
        self.at += count;
        count
    }

    fn skip_space(&mut self) {
        self.skip_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
    }

    fn skip_digits(&mut self) -> usize {
        self.skip_while(|byte| byte.is_ascii_digit())
    }

    /// Skips characters that represent themselves in a text.
    fn skip_plain(&mut self) {
        self.skip_while(|byte| byte >= b' ' && byte != b'"' && byte != b'\\');
    }

    fn fault(&self, reason: &str) -> Error {
        Error::decode(format_args!("{reason} at byte {}", self.at))
    }
}
