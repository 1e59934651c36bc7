//! What an option makes of its value, and why it cannot make anything of it. Nothing that may be secret is shown.

use std::time::Duration;

use super::host::{Host, Parts};
use crate::capacity::CapacityRule;
use crate::config::sources::python::option_for;
use crate::config::sources::raw::Raw;
use crate::error::{Error, Result};

/// What a glob in the keys of `channel_capacity` begins with when it is a regex.
const REGEX_MARK: &str = "re:";

/// What the content of a file of keys begins with.
pub(crate) const PEM: &str = "-----BEGIN";

/// The parts that a table of a host may have.
const PARTS: [&str; 10] =
    ["url", "address", "name", "host", "port", "db", "username", "password", "unix_socket_path", "ssl"];

/// `text` for people, unless it looks like the address of a server, a connection string or a key in PEM, which may be in the
/// wrong place.
pub(crate) fn shown(text: &str) -> &str {
    let lower = text.to_ascii_lowercase();
    let has_password = text.contains('=') && ["passw", "pwd"].iter().any(|word| lower.contains(word));
    let is_secret = has_password || ["://", "@", PEM].iter().any(|mark| text.contains(mark));
    if is_secret { "..." } else { text }
}

/// The number in the text of a variable, or the text.
pub(crate) fn number_in(text: &str) -> Raw {
    let text = text.trim();
    let whole = text.parse().map(Raw::Integer);
    whole.or_else(|_| text.parse().map(Raw::Float)).unwrap_or_else(|_| Raw::Text(text.into()))
}

/// The truth value in the text of a variable, or the text.
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
        other => Err(Error::config(option, other, "text is expected")),
    }
}

pub(crate) fn truth(option: &str, raw: &Raw) -> Result<bool> {
    match raw {
        Raw::Bool(value) => Ok(*value),
        other => Err(Error::config(option, other, "true or false is expected")),
    }
}

pub(crate) fn whole(option: &str, raw: &Raw) -> Result<usize> {
    match raw {
        Raw::Integer(number) => usize::try_from(*number).ok(),
        _ => None,
    }
    .ok_or_else(|| Error::config(option, raw, "a whole number of 0 or more is expected"))
}

pub(crate) fn seconds(option: &str, raw: &Raw) -> Result<Duration> {
    match raw {
        Raw::Integer(seconds) => u64::try_from(*seconds).ok().map(Duration::from_secs),
        Raw::Float(seconds) => Duration::try_from_secs_f64(*seconds).ok(),
        _ => None,
    }
    .ok_or_else(|| Error::config(option, raw, "a number of seconds of 0 or more is expected"))
}

pub(crate) fn database(option: &str, raw: &Raw) -> Result<u32> {
    let refuse = || Error::config(option, raw, "the number of a database is expected");
    u32::try_from(whole(option, raw)?).map_err(|_| refuse())
}

pub(crate) fn secret(option: &str, raw: Raw) -> Result<String> {
    match raw {
        Raw::Text(text) => Ok(text),
        other => Err(Error::config(option, "...", format_args!("text is expected, not {}", other.kind()))),
    }
}

pub(crate) fn names(option: &str, raw: Raw) -> Result<Vec<String>> {
    let Raw::List(names) = raw else { return Err(Error::config(option, raw, "a list of names is expected")) };
    names.into_iter().enumerate().map(|(at, name)| text(&format!("{option}[{at}]"), name)).collect()
}

pub(crate) fn keys(option: &str, raw: Raw) -> Result<Vec<String>> {
    let refuse =
        |what: &Raw| Error::config(option, "...", format_args!("a list of texts is expected, not {}", what.kind()));
    let Raw::List(keys) = raw else { return Err(refuse(&raw)) };
    let text = |key| match key {
        Raw::Text(key) => Ok(key),
        other => Err(refuse(&other)),
    };
    keys.into_iter().map(text).collect()
}

pub(crate) fn hosts(option: &str, raw: Raw) -> Result<Vec<Host>> {
    let Raw::List(hosts) = raw else {
        return Err(Error::config(option, raw.kind(), "a list is expected, even of one host"));
    };
    let named =
        |(at, raw)| host(raw).map_err(|(shown, reason)| Error::config(format!("{option}[{at}]"), shown, reason));
    hosts.into_iter().enumerate().map(named).collect()
}

/// A host, or what of it may be shown and what is wrong with it.
fn host(raw: Raw) -> Result<Host, (String, String)> {
    let kind = raw.kind();
    match raw {
        Raw::Text(url) => Ok(url.into()),
        Raw::List(pair) => match <[Raw; 2]>::try_from(pair) {
            Ok([Raw::Text(host), port]) => {
                let parts = [("host", Raw::Text(host)), ("port", port)];
                table(kind, parts.map(|(part, raw)| (part.to_owned(), raw)).into())
            }
            _ => Err((kind.into(), "a host and a port are expected".into())),
        },
        Raw::Table(parts) => table(kind, parts),
        _ => Err((kind.into(), "a url, a list of host and port, or a table is expected".into())),
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
        Raw::Text(_) if into.is_some() => Err("it is given twice".to_owned()),
        Raw::Text(text) => {
            *into = Some(text);
            Ok(())
        }
        other => Err(format!("text is expected, not {}", other.kind())),
    };
    match part {
        "url" | "address" => text(&mut parts.url, raw),
        "name" => text(&mut parts.name, raw),
        "host" => text(&mut parts.host, raw),
        "unix_socket_path" | "path" => text(&mut parts.path, raw),
        "username" => text(&mut parts.username, raw),
        "password" => text(&mut parts.password, raw),
        // In redis-py nothing stands for no check.
        "ssl_cert_reqs" if raw == Raw::Null => text(&mut parts.certificates, Raw::Text("none".into())),
        "ssl_cert_reqs" => text(&mut parts.certificates, raw),
        "ssl" => match raw {
            Raw::Bool(tls) => {
                parts.tls = tls;
                Ok(())
            }
            other => Err(format!("true or false is expected, not {}", other.kind())),
        },
        "port" => number(raw).map(|port| parts.port = port),
        "db" => number(raw).map(|db| parts.db = db),
        _ => Err(match option_for(part) {
            Some(ours) => format!("it is no part of a host: set the option {ours}"),
            None => format!("there is no such part; there are {}", PARTS.join(", ")),
        }),
    }
}

/// A number, also one that is given as text, as from the environment of a Django site.
fn number<N: TryFrom<i128>>(raw: Raw) -> Result<Option<N>, String> {
    match raw {
        Raw::Null => Ok(None),
        Raw::Integer(number) => N::try_from(number).map(Some).map_err(|_| format!("{number} is out of range")),
        Raw::Text(text) => match number_in(&text) {
            raw @ Raw::Integer(_) => number(raw),
            _ => Err("a whole number is expected, not this text".into()),
        },
        other => Err(format!("a whole number is expected, not {}", other.kind())),
    }
}

pub(crate) fn rules(option: &str, raw: Raw) -> Result<Vec<CapacityRule>> {
    match raw {
        Raw::Table(entries) => entries.iter().map(|(pattern, raw)| keyed_rule(option, pattern, raw)).collect(),
        Raw::List(tables) => tables.iter().map(|table| listed_rule(option, table)).collect(),
        other => Err(Error::config(option, other, "a table of patterns, or a list of tables, is expected")),
    }
}

fn keyed_rule(option: &str, pattern: &str, raw: &Raw) -> Result<CapacityRule> {
    let capacity = whole(&format!("{option}.{}", shown(pattern)), raw)?;
    Ok(match pattern.strip_prefix(REGEX_MARK) {
        Some(regex) => CapacityRule::regex(regex, capacity),
        None => CapacityRule::glob(pattern, capacity),
    })
}

fn listed_rule(option: &str, raw: &Raw) -> Result<CapacityRule> {
    let refuse =
        |raw: &Raw| Err(Error::config(option, raw, "a table of capacity and either glob or regex is expected"));
    let Raw::Table(entries) = raw else { return refuse(raw) };
    let get = |name: &str| entries.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    let Some(capacity) = get("capacity").filter(|_| entries.len() == 2) else { return refuse(raw) };
    let capacity = whole(option, capacity)?;
    match (get("glob"), get("regex")) {
        (Some(Raw::Text(pattern)), None) => Ok(CapacityRule::glob(pattern, capacity)),
        (None, Some(Raw::Text(pattern))) => Ok(CapacityRule::regex(pattern, capacity)),
        _ => refuse(raw),
    }
}
