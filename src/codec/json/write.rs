//! JSON writer, byte for byte as `json.dumps` without options.

use std::io::Write;

use crate::codec::TOO_DEEP;
use crate::error::{Error, Result};
use crate::message::{Map, RESERVED_KEY, Value};

/// From this power of ten on, and below [`SMALLEST_PLAIN`], Python writes floats with an exponent.
const LARGEST_PLAIN: i32 = 16;
const SMALLEST_PLAIN: i32 = -4;

/// Appends `map` to `out`, with `routing` as its last entry. After an error the content of `out` is unspecified.
pub(in super::super) fn write(map: &Map, routing: Option<&Value>, depth: usize, out: &mut Vec<u8>) -> Result<()> {
    let inside = depth.checked_sub(1).ok_or_else(|| Error::encode(TOO_DEEP))?;
    let entries = map.iter().chain(routing.map(|value| (RESERVED_KEY, value)));
    out.push(b'{');
    for (place, (key, value)) in entries.enumerate() {
        if place > 0 {
            out.extend_from_slice(b", ");
        }
        write_text(key, out);
        out.extend_from_slice(b": ");
        write_value(value, inside, out)?;
    }
    out.push(b'}');
    Ok(())
}

fn write_value(value: &Value, depth: usize, out: &mut Vec<u8>) -> Result<()> {
    match value {
        Value::None => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(value) => append(out, format_args!("{value}")),
        Value::Float(value) => write_float(*value, out),
        Value::Text(text) => write_text(text, out),
        Value::Bytes(_) => return Err(Error::encode("JSON has no byte strings")),
        Value::List(values) => {
            let inside = depth.checked_sub(1).ok_or_else(|| Error::encode(TOO_DEEP))?;
            out.push(b'[');
            for (place, value) in values.iter().enumerate() {
                if place > 0 {
                    out.extend_from_slice(b", ");
                }
                write_value(value, inside, out)?;
            }
            out.push(b']');
        }
        Value::Map(map) => write(map, None, depth, out)?,
    }
    Ok(())
}

/// Writes ASCII only. Other characters become UTF-16 escapes.
fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut start = 0;
    for (at, character) in text.char_indices() {
        if matches!(character, ' '..='~') && character != '"' && character != '\\' {
            continue;
        }
        out.extend_from_slice(&text.as_bytes()[start..at]);
        start = at + character.len_utf8();
        match character {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            _ => character.encode_utf16(&mut [0; 2]).iter().for_each(|unit| append(out, format_args!("\\u{unit:04x}"))),
        }
    }
    out.extend_from_slice(&text.as_bytes()[start..]);
    out.push(b'"');
}

/// Writes the fewest digits that yield the same float again, formatted as Python's `repr` does.
fn write_float(value: f64, out: &mut Vec<u8>) {
    if value.is_nan() {
        return out.extend_from_slice(b"NaN");
    }
    if value.is_infinite() {
        return out.extend_from_slice(if value > 0.0 { b"Infinity" } else { b"-Infinity" });
    }
    let shortest = format!("{value:e}");
    let (digits, exponent) = shortest.split_once('e').expect("the format has an exponent");
    let exponent: i32 = exponent.parse().expect("the format has a whole exponent");
    if (SMALLEST_PLAIN..LARGEST_PLAIN).contains(&exponent) {
        append(out, format_args!("{value:?}"));
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        append(out, format_args!("{digits}e{sign}{:02}", exponent.unsigned_abs()));
    }
}

fn append(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a vector does not fail");
}
