//! Parsing of option values. An error shows no value that may be secret.

use std::time::Duration;

use super::host::{Host, Parts};
use crate::config::sources::python::option_for;
use crate::config::sources::raw::Raw;
use crate::error::{Error, Result};
use crate::pattern::{NameRule, Syntax};

/// Beginning of the content of a PEM file.
pub(crate) const PEM: &str = "-----BEGIN";

/// The keys that the table of a host may have.
const PARTS: [&str; 10] =
    ["url", "address", "name", "host", "port", "db", "username", "password", "unix_socket_path", "ssl"];

/// Returns `text` for display, or `...` if it looks like the address of a server, a connection string or a PEM key:
/// such a text may hold a secret that was given to the wrong option.
pub(crate) fn shown(text: &str) -> &str {
    let lower = text.to_ascii_lowercase();
    let has_password = text.contains('=') && ["passw", "pwd"].iter().any(|word| lower.contains(word));
    let is_secret = has_password || ["://", "@", PEM].iter().any(|mark| text.contains(mark));
    if is_secret { "..." } else { text }
}

/// Parses the text of a variable as a number; returns the text itself if it is not a number.
pub(crate) fn number_in(text: &str) -> Raw {
    let text = text.trim();
    let whole = text.parse().map(Raw::Integer);
    whole.or_else(|_| text.parse().map(Raw::Float)).unwrap_or_else(|_| Raw::Text(text.into()))
}

/// Parses the text of a variable as a boolean; returns the text itself if it is not a boolean.
pub(crate) fn truth_in(text: &str) -> Raw {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Raw::Bool(true),
        "false" | "0" | "no" | "off" => Raw::Bool(false),
        _ => Raw::Text(text.into()),
    }
}

pub(crate) fn text(option: &str, raw: Raw) -> Result<String> {
    match raw {
        Raw::Text(text) => Ok(text),
        other => Err(Error::config(option, other, "expected a string")),
    }
}

pub(crate) fn truth(option: &str, raw: &Raw) -> Result<bool> {
    match raw {
        Raw::Bool(value) => Ok(*value),
        other => Err(Error::config(option, other, "expected true or false")),
    }
}

pub(crate) fn whole(option: &str, raw: &Raw) -> Result<usize> {
    match raw {
        Raw::Integer(number) => usize::try_from(*number).ok(),
        _ => None,
    }
    .ok_or_else(|| Error::config(option, raw, "expected a whole number, 0 or more"))
}

pub(crate) fn seconds(option: &str, raw: &Raw) -> Result<Duration> {
    match raw {
        Raw::Integer(seconds) => u64::try_from(*seconds).ok().map(Duration::from_secs),
        Raw::Float(seconds) => Duration::try_from_secs_f64(*seconds).ok(),
        _ => None,
    }
    .ok_or_else(|| Error::config(option, raw, "expected a number of seconds, 0 or more"))
}

pub(crate) fn database(option: &str, raw: &Raw) -> Result<u32> {
    let refuse = || Error::config(option, raw, "expected the number of a database");
    u32::try_from(whole(option, raw)?).map_err(|_| refuse())
}

pub(crate) fn secret(option: &str, raw: Raw) -> Result<String> {
    match raw {
        Raw::Text(text) => Ok(text),
        other => Err(Error::config(option, "...", format_args!("expected a string, not {}", other.kind()))),
    }
}

pub(crate) fn names(option: &str, raw: Raw) -> Result<Vec<String>> {
    let Raw::List(names) = raw else { return Err(Error::config(option, raw, "expected a list of names")) };
    names.into_iter().enumerate().map(|(at, name)| text(&format!("{option}[{at}]"), name)).collect()
}

pub(crate) fn keys(option: &str, raw: Raw) -> Result<Vec<String>> {
    let refuse =
        |what: &Raw| Error::config(option, "...", format_args!("expected a list of strings, not {}", what.kind()));
    let Raw::List(keys) = raw else { return Err(refuse(&raw)) };
    let text = |key| match key {
        Raw::Text(key) => Ok(key),
        other => Err(refuse(&other)),
    };
    keys.into_iter().map(text).collect()
}

pub(crate) fn hosts(option: &str, raw: Raw) -> Result<Vec<Host>> {
    let Raw::List(hosts) = raw else {
        return Err(Error::config(option, raw.kind(), "expected a list, even for one host"));
    };
    let named =
        |(at, raw)| host(raw).map_err(|(shown, reason)| Error::config(format!("{option}[{at}]"), shown, reason));
    hosts.into_iter().enumerate().map(named).collect()
}

/// Parses a host. An error is the part of the value that may be shown, and the reason.
fn host(raw: Raw) -> Result<Host, (String, String)> {
    let kind = raw.kind();
    match raw {
        Raw::Text(url) => Ok(url.into()),
        Raw::List(pair) => match <[Raw; 2]>::try_from(pair) {
            Ok([Raw::Text(host), port]) => {
                let parts = [("host", Raw::Text(host)), ("port", port)];
                table(kind, parts.map(|(part, raw)| (part.to_owned(), raw)).into())
            }
            _ => Err((kind.into(), "expected a host and a port".into())),
        },
        Raw::Table(parts) => table(kind, parts),
        _ => Err((kind.into(), "expected a URL, a list of host and port, or a table".into())),
    }
}

fn table(kind: &str, parts: Vec<(String, Raw)>) -> Result<Host, (String, String)> {
    let mut collected = Parts::default();
    for (part, raw) in parts {
        let named = |reason| (format!("{{{} = ...}}", shown(&part)), reason);
        set_part(&mut collected, &part, raw).map_err(named)?;
    }
    collected.into_host().map_err(|reason| (kind.into(), reason))
}

fn set_part(parts: &mut Parts, part: &str, raw: Raw) -> Result<(), String> {
    let text = |into: &mut Option<String>, raw| match raw {
        Raw::Null => Ok(()),
        Raw::Text(_) if into.is_some() => Err("set twice".to_owned()),
        Raw::Text(text) => {
            *into = Some(text);
            Ok(())
        }
        other => Err(format!("expected a string, not {}", other.kind())),
    };
    match part {
        "url" | "address" => text(&mut parts.url, raw),
        "name" => text(&mut parts.name, raw),
        "host" => text(&mut parts.host, raw),
        "unix_socket_path" | "path" => text(&mut parts.path, raw),
        "username" => text(&mut parts.username, raw),
        "password" => text(&mut parts.password, raw),
        // In redis-py `None` means no check.
        "ssl_cert_reqs" if raw == Raw::Null => text(&mut parts.certificates, Raw::Text("none".into())),
        "ssl_cert_reqs" => text(&mut parts.certificates, raw),
        "ssl" => match raw {
            Raw::Bool(tls) => {
                parts.tls = tls;
                Ok(())
            }
            other => Err(format!("expected true or false, not {}", other.kind())),
        },
        "port" => number(raw).map(|port| parts.port = port),
        "db" => number(raw).map(|db| parts.db = db),
        _ => Err(match option_for(part) {
            Some(ours) => format!("not a part of a host; set the option {ours} instead"),
            None => format!("unknown part of a host; the parts are {}", PARTS.join(", ")),
        }),
    }
}

/// Parses a number. It may be a string, as from the environment of a Django site.
fn number<N: TryFrom<i128>>(raw: Raw) -> Result<Option<N>, String> {
    match raw {
        Raw::Null => Ok(None),
        Raw::Integer(number) => N::try_from(number).map(Some).map_err(|_| format!("{number} is out of range")),
        Raw::Text(text) => match number_in(&text) {
            raw @ Raw::Integer(_) => number(raw),
            _ => Err("expected a whole number, not this string".into()),
        },
        other => Err(format!("expected a whole number, not {}", other.kind())),
    }
}

pub(crate) fn rules<R: NameRule>(option: &str, raw: Raw) -> Result<Vec<R>> {
    match raw {
        Raw::Table(entries) => entries.iter().map(|(pattern, raw)| keyed_rule(option, pattern, raw)).collect(),
        Raw::List(tables) => tables.iter().map(|table| listed_rule(option, table)).collect(),
        other => Err(Error::config(option, other, "expected a table of patterns, or a list of tables")),
    }
}

fn keyed_rule<R: NameRule>(option: &str, pattern: &str, raw: &Raw) -> Result<R> {
    Ok(R::keyed(pattern, whole(&format!("{option}.{}", shown(pattern)), raw)?))
}

fn listed_rule<R: NameRule>(option: &str, raw: &Raw) -> Result<R> {
    let refuse = |raw: &Raw| {
        let reason = format!("expected a table with {} and either glob or regex", R::VALUE);
        Err(Error::config(option, raw, reason))
    };
    let Raw::Table(entries) = raw else { return refuse(raw) };
    let get = |name: &str| entries.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    let Some(value) = get(R::VALUE).filter(|_| entries.len() == 2) else { return refuse(raw) };
    let value = whole(option, value)?;
    match (get("glob"), get("regex")) {
        (Some(Raw::Text(pattern)), None) => Ok(R::new(Syntax::Glob, pattern, value)),
        (None, Some(Raw::Text(pattern))) => Ok(R::new(Syntax::Regex, pattern, value)),
        _ => refuse(raw),
    }
}
