//! Parses the answers of the group scripts.

use std::collections::HashSet;

use redis::Value;

use super::membership::{Changes, Ended};
use super::routes::{NEVER, Route, Routes};
use crate::name::ChannelName;
use crate::redis::node::fault::Fault;

/// Parses the answer of `groups/routes.lua`.
pub(crate) fn parse_routes(answer: &Value) -> Result<Routes, Fault> {
    let unexpected = || Fault::unexpected("groups/routes.lua returned something other than three lists");
    let Value::Array(parts) = answer else { return Err(unexpected()) };
    let [Value::Array(all), Value::Array(ended), next_to_end] = &parts[..] else { return Err(unexpected()) };
    let ended = ended.iter().map(text).collect::<Result<HashSet<_>, _>>()?;
    let (mut list, mut count, mut retention_ms) = (Vec::with_capacity(all.len() / 2), 0, 0);
    for (name, version) in pairs(&parts[0])? {
        if name.is_empty() {
            retention_ms = version;
            continue;
        }
        count += 1;
        // Another program may have added a route with an invalid name. The other routes are still valid.
        if let (false, Ok(channel)) = (ended.contains(name), ChannelName::parse(name)) {
            list.push(Route { channel, version });
        }
    }
    let texts = all.iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let until = pairs(next_to_end)?.first().map_or(NEVER, |(_, ends)| *ends);
    Ok(Routes { list: list.into(), text: texts.join(" ").into(), count, until, retention_ms })
}

/// Parses the answer of `groups/members.lua` about `route`.
pub(crate) fn parse_changes(answer: Value, route: &str) -> Result<Changes, Fault> {
    let unexpected =
        || Fault::unexpected("groups/members.lua returned something other than three numbers and three lists");
    let Value::Array(parts) = answer else { return Err(unexpected()) };
    let [version, partial, Value::Int(retention_ms), present, joined, ended] = &parts[..] else {
        return Err(unexpected());
    };
    // Another program may have added a member with an invalid name. The other members are still valid.
    let member = |local| ChannelName::from_parts(route, local).ok();
    let members = |list| {
        let members = pairs(list)?.into_iter();
        Ok::<_, Fault>(members.filter_map(|(local, number)| Some((member(local)?, number))).collect::<Vec<_>>())
    };
    let ended = pairs(ended)?.into_iter().filter_map(|(text, recorded)| {
        let mut parts = text.splitn(3, ' ');
        let (joined, until) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(Ended { channel: member(parts.next()?)?, joined, until, recorded })
    });
    Ok(Changes {
        version: number(text(version)?)?,
        partial: *partial == Value::Int(1),
        // A group that has ended returns 0: nothing of it is remembered any more.
        retention_us: u64::try_from(*retention_ms)
            .ok()
            .filter(|ms| *ms > 0)
            .map_or(u64::MAX, |ms| ms.saturating_mul(1000)),
        members: members(present)?,
        joined: members(joined)?,
        ended: ended.collect(),
    })
}

/// Parses a flat list of members and scores, as Redis returns a sorted set.
fn pairs(value: &Value) -> Result<Vec<(&str, u64)>, Fault> {
    let Value::Array(values) = value else { return Err(Fault::unexpected("something other than a list")) };
    let pairs = values.chunks(2).map(|pair| match pair {
        [name, version] => Ok((text(name)?, number(text(version)?)?)),
        _ => Err(Fault::unexpected("a member without a version")),
    });
    pairs.collect()
}

/// Parses a version, which is a score. Some servers print round numbers with an exponent.
fn number(text: &str) -> Result<u64, Fault> {
    let whole = || text.parse::<f64>().ok().map(|number| format!("{number:.0}"))?.parse().ok();
    text.parse().ok().or_else(whole).ok_or_else(|| Fault::unexpected("a version that is not a number"))
}

fn text(value: &Value) -> Result<&str, Fault> {
    match value {
        Value::BulkString(bytes) => {
            std::str::from_utf8(bytes).map_err(|_| Fault::unexpected("bytes that are not UTF-8"))
        }
        _ => Err(Fault::unexpected("something other than text")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_parsed_as_every_server_prints_them() {
        for printed in ["1790000000000000", "1.79e+15", "1.79e15", "1790000000000000.0"] {
            assert_eq!(number(printed).unwrap(), 1_790_000_000_000_000, "{printed}");
        }
        for invalid in ["", "x", "-1", "nan", "inf"] {
            assert!(number(invalid).is_err(), "{invalid}");
        }
    }
}
