//! Groups: members are added under their route, messages go once to each route, and readers know who is behind it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::{Cmd, Value};

use super::batch::{Condition, milliseconds};
use super::fault::Fault;
use super::membership::{Changes, Ended, Horizon, Membership};
use super::routes::{Route, RouteMemory, Routes};
use super::script;
use super::shard::Shard;
use super::topology::Topology;
use crate::error::Result;
use crate::name::{ChannelName, GroupName};

/// Memberships that no message has asked for in this time are forgotten; asking again fetches them again.
const FORGET_AFTER: Duration = Duration::from_mins(1);
/// How much longer than the expiry of messages the end of a membership is remembered.
const REMEMBER_LONGER: Duration = Duration::from_mins(1);
/// How far the version of a message may lie beyond what is known here of the time of its group's server.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(10);

/// The groups of a layer, and what its readers know of their members.
#[derive(Debug)]
pub(super) struct Groups {
    topology: Arc<Topology>,
    expiry: Duration,
    /// How long ended memberships matter: as long as messages that were sent before.
    remembered: Duration,
    /// Held only to find, add or forget a place.
    known: Mutex<Known>,
    memory: RouteMemory,
}

#[derive(Debug)]
struct Known {
    routes: HashMap<(GroupName, ChannelName), Arc<Place>>,
    /// When unused places were last looked for.
    swept: Instant,
}

/// What is known of one group on one route.
#[derive(Debug)]
struct Place {
    /// Held only to read it or to take an answer in.
    fetched: Mutex<Fetched>,
    /// Held only to read or set it.
    used: Mutex<Instant>,
}

#[derive(Debug, Default)]
struct Fetched {
    membership: Membership,
    /// The link over which it was fetched. A server that was lost may have come back with other data.
    generation: Option<u64>,
}

impl Groups {
    pub(super) fn new(topology: Arc<Topology>, expiry: Duration, message_expiry: Duration) -> Self {
        let known = Mutex::new(Known { routes: HashMap::new(), swept: Instant::now() });
        Self { topology, expiry, remembered: message_expiry + REMEMBER_LONGER, known, memory: RouteMemory::new() }
    }

    /// How long a membership lasts after the last add.
    pub(super) fn expiry(&self) -> Duration {
        self.expiry
    }

    /// Makes `channel` a member, or renews its membership.
    pub(super) async fn add(&self, group: &GroupName, channel: &ChannelName) -> Result<()> {
        let mut command = self.member_command(&script::GROUP_ADD, group, channel);
        command.arg(channel.non_local()).arg(milliseconds(self.expiry)).arg(milliseconds(self.remembered));
        if let Some(local) = channel.local() {
            command.arg(local);
        }
        self.run(group, &command).await.map(|_| ())
    }

    /// Ends the membership of `channel`.
    pub(super) async fn discard(&self, group: &GroupName, channel: &ChannelName) -> Result<()> {
        let command = match channel.local() {
            Some(local) => {
                let mut command = self.member_command(&script::GROUP_DISCARD, group, channel);
                command.arg(channel.non_local()).arg(milliseconds(self.expiry)).arg(milliseconds(self.remembered));
                command.arg(local);
                command
            }
            None => {
                let mut command = redis::cmd("ZREM");
                command.arg(self.topology.keys.group(group)).arg(channel.as_str());
                command
            }
        };
        self.run(group, &command).await.map(|_| ())
    }

    /// A call of `script` with the keys of the group, and with those of the route for a process-local member.
    fn member_command(&self, script: &script::Script, group: &GroupName, channel: &ChannelName) -> Cmd {
        let key = self.topology.keys.group(group);
        if channel.local().is_none() {
            return script.call(&[key]);
        }
        let route = self.topology.keys.route(group, channel.non_local());
        script.call(&[key, route.members, route.joined, route.left])
    }

    async fn run(&self, group: &GroupName, command: &Cmd) -> Result<Value> {
        let shard = self.topology.shard_of_group(group);
        shard.run(command).await.map_err(|fault| fault.into_error(shard.index))
    }

    /// The routes of `group`.
    pub(super) async fn routes(&self, group: &GroupName) -> Result<Routes> {
        let shard = self.topology.shard_of_group(group);
        let answer = shard.run(&self.routes_command(group)).await;
        let routes = answer.and_then(|answer| self.note_routes(group, &answer));
        routes.map_err(|fault| fault.into_error(shard.index))
    }

    /// The routes that `group` had twice in a row when it was asked, and the condition that it still has them.
    pub(super) fn guess(&self, group: &GroupName) -> Option<(Routes, Condition)> {
        let routes = self.memory.guess(group)?;
        let condition = Condition { group: group.clone(), group_expiry: self.expiry, routes: routes.text.clone() };
        Some((routes, condition))
    }

    /// Takes in what a server says of a group's routes.
    pub(super) fn note_routes(&self, group: &GroupName, answer: &Value) -> Result<Routes, Fault> {
        let routes = parse_routes(answer)?;
        self.memory.note(group, &routes);
        Ok(routes)
    }

    /// The routes of each of `groups`, in one round trip per shard; or the shard that failed, and why.
    pub(super) async fn routes_of_all(&self, groups: &[GroupName]) -> Vec<Result<Routes, (usize, Fault)>> {
        let mut results: Vec<_> = groups.iter().map(|_| Ok(Routes::none())).collect();
        let asked = futures_util::future::join_all(self.topology.shards.iter().map(|shard| async move {
            let here = |group: &GroupName| self.topology.shard_of_group(group).index == shard.index;
            let places: Vec<_> = (0..groups.len()).filter(|place| here(&groups[*place])).collect();
            let mut commands = redis::pipe();
            for place in &places {
                commands.add_command(self.routes_command(&groups[*place]));
            }
            let answers = if places.is_empty() { Ok(Vec::new()) } else { shard.run_all(&commands).await };
            (shard.index, places, answers)
        }));
        for (shard, places, answers) in asked.await {
            for (answer, place) in places.into_iter().enumerate() {
                let routes = answers.as_ref().map_err(Clone::clone).and_then(|answers| {
                    answers.get(answer).map_or_else(|| Err(Fault::unexpected("a missing answer")), parse_routes)
                });
                results[place] = routes.map_err(|fault| (shard, fault));
            }
        }
        results
    }

    fn routes_command(&self, group: &GroupName) -> Cmd {
        let mut command = script::GROUP_ROUTES.call(&[self.topology.keys.group(group)]);
        command.arg(milliseconds(self.expiry));
        command
    }

    /// All members of `group`.
    pub(super) async fn channels(&self, group: &GroupName) -> Result<Vec<ChannelName>> {
        let mut channels = Vec::new();
        let shard = self.topology.shard_of_group(group);
        for route in self.routes(group).await?.list.iter() {
            if route.channel.as_str().ends_with('!') {
                let answer = shard.run(&self.members_command(group, &route.channel, 0)).await;
                let changes = answer.and_then(|answer| parse_changes(answer, route.channel.as_str()));
                let changes = changes.map_err(|fault| fault.into_error(shard.index))?;
                let expired = now_microseconds(shard).saturating_sub(microseconds(self.expiry));
                let live = changes.added.into_iter().filter(|(_, added)| *added > expired);
                channels.extend(live.map(|(channel, _)| channel));
            } else {
                channels.push(route.channel.clone());
            }
        }
        Ok(channels)
    }

    /// The members that `group` had on `route`, which ends in `!`, at `version` and at the time `sent_ms`; nothing if it
    /// cannot have had that version yet.
    pub(super) async fn members_at(
        &self,
        group: &GroupName,
        route: &ChannelName,
        version: u64,
        sent_ms: u64,
    ) -> Result<Option<Arc<[ChannelName]>>, Fault> {
        let (sent, lasts) = (sent_ms.saturating_mul(1000), microseconds(self.expiry));
        let shard = self.topology.shard_of_group(group);
        let place = self.place(group, route);
        loop {
            let generation = shard.generation();
            let known = {
                let mut fetched = place.fetched.lock();
                // While the server is away, what is known of the version is still true.
                let other_link = generation.as_ref().is_ok_and(|now| fetched.generation != Some(*now));
                if other_link {
                    *fetched = Fetched::default();
                }
                let known = fetched.membership.version();
                if known > 0 && known >= version {
                    return Ok(Some(fetched.membership.at(version, sent, lasts)));
                }
                fetched.generation = generation.as_ref().ok().copied();
                known
            };
            let generation = generation?;
            // Messages that have been popped stand behind this one, so that it is not for long that it may wait.
            let answer = shard.run_once(&self.members_command(group, route, known)).await?;
            let changes = parse_changes(answer, route.as_str())?;
            if version > changes.version
                && version > now_microseconds(shard).saturating_add(microseconds(CLOCK_TOLERANCE))
            {
                return Ok(None);
            }
            let is_known = changes.version >= version;
            {
                let mut fetched = place.fetched.lock();
                if fetched.generation != Some(generation) {
                    continue;
                }
                fetched.membership.apply(changes, self.horizon(shard));
                if is_known {
                    return Ok(Some(fetched.membership.at(version, sent, lasts)));
                }
            }
            return self.members_before_the_end(group, route, version, sent).await.map(Some);
        }
    }

    /// The members that a group had at a version of which its server does not know any more, as the group has ended since; of
    /// those it still tells. What the message says of its version is believed for this message alone: it may come from
    /// anybody, and whoever knows a later version asks no more.
    async fn members_before_the_end(
        &self,
        group: &GroupName,
        route: &ChannelName,
        version: u64,
        sent: u64,
    ) -> Result<Arc<[ChannelName]>, Fault> {
        let shard = self.topology.shard_of_group(group);
        let answer = shard.run_once(&self.members_command(group, route, 0)).await?;
        let mut changes = parse_changes(answer, route.as_str())?;
        changes.version = changes.version.max(version);
        let mut membership = Membership::default();
        membership.apply(changes, self.horizon(shard));
        Ok(membership.at(version, sent, microseconds(self.expiry)))
    }

    /// What ended so long ago that no message from before can be waiting.
    fn horizon(&self, shard: &Shard) -> Horizon {
        let ended = now_microseconds(shard).saturating_sub(microseconds(self.remembered));
        Horizon { ended, added: ended.saturating_sub(microseconds(self.expiry)) }
    }

    fn members_command(&self, group: &GroupName, route: &ChannelName, known: u64) -> Cmd {
        let keys = self.topology.keys.route(group, route.as_str());
        let mut command =
            script::GROUP_MEMBERS.call(&[self.topology.keys.group(group), keys.members, keys.joined, keys.left]);
        command.arg(route.as_str()).arg(known);
        command.arg(milliseconds(self.expiry)).arg(milliseconds(self.remembered));
        command
    }

    fn place(&self, group: &GroupName, route: &ChannelName) -> Arc<Place> {
        let now = Instant::now();
        let mut known = self.known.lock();
        if now.duration_since(known.swept) > FORGET_AFTER {
            known.swept = now;
            known.routes.retain(|_, place| now.duration_since(*place.used.lock()) < FORGET_AFTER);
        }
        let place = known
            .routes
            .entry((group.clone(), route.clone()))
            .or_insert_with(|| Arc::new(Place { fetched: Mutex::default(), used: Mutex::new(now) }));
        *place.used.lock() = now;
        place.clone()
    }
}

fn now_microseconds(shard: &Shard) -> u64 {
    shard.clock.now_ms().unwrap_or(0).saturating_mul(1000)
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn parse_routes(answer: &Value) -> Result<Routes, Fault> {
    // A route whose name is none was added by somebody else, and is no reason to miss the others.
    let route = |(name, version)| Some(Route { channel: ChannelName::parse(name).ok()?, version });
    let list = pairs(answer)?.into_iter().filter_map(route).collect();
    let Value::Array(values) = answer else { return Ok(Routes::none()) };
    let texts = values.iter().map(text).collect::<Result<Vec<_>, _>>()?;
    Ok(Routes { list, text: texts.join(" ").into() })
}

fn parse_changes(answer: Value, route: &str) -> Result<Changes, Fault> {
    let unexpected = || Fault::unexpected("group_members.lua returned something else than a version and three lists");
    let Value::Array(parts) = answer else { return Err(unexpected()) };
    let [version, partial, added, joined, ended] = &parts[..] else { return Err(unexpected()) };
    // A member whose name is none was added by somebody else, and is no reason to miss the others.
    let member = |local| ChannelName::from_parts(route, local).ok();
    let members = |list| {
        let members = pairs(list)?.into_iter();
        Ok::<_, Fault>(members.filter_map(|(local, version)| Some((member(local)?, version))).collect::<Vec<_>>())
    };
    let ended = pairs(ended)?.into_iter().filter_map(|(text, told)| {
        let mut parts = text.splitn(3, ' ');
        let (joined, until) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(Ended { channel: member(parts.next()?)?, joined, until, told })
    });
    Ok(Changes {
        version: number(text(version)?)?,
        partial: *partial == Value::Int(1),
        added: members(added)?,
        joined: members(joined)?,
        ended: ended.collect(),
    })
}

/// A flat list of texts and versions, as sorted sets give their members and scores.
fn pairs(value: &Value) -> Result<Vec<(&str, u64)>, Fault> {
    let Value::Array(values) = value else { return Err(Fault::unexpected("something else than a list")) };
    let pairs = values.chunks(2).map(|pair| match pair {
        [name, version] => Ok((text(name)?, number(text(version)?)?)),
        _ => Err(Fault::unexpected("a member without a version")),
    });
    pairs.collect()
}

/// A version as a server prints the score that it is: some print round numbers with an exponent.
fn number(text: &str) -> Result<u64, Fault> {
    let whole = || text.parse::<f64>().ok().map(|number| format!("{number:.0}"))?.parse().ok();
    text.parse().ok().or_else(whole).ok_or_else(|| Fault::unexpected("a version that is no number"))
}

fn text(value: &Value) -> Result<&str, Fault> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).map_err(|_| Fault::unexpected("bytes that are no text")),
        _ => Err(Fault::unexpected("something else than text")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_every_server_prints_them() {
        for printed in ["1790000000000000", "1.79e+15", "1.79e15", "1790000000000000.0"] {
            assert_eq!(number(printed).unwrap(), 1_790_000_000_000_000, "{printed}");
        }
        for none in ["", "x", "-1", "nan", "inf"] {
            assert!(number(none).is_err(), "{none}");
        }
    }
}
