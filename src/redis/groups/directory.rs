//! Groups: members are added under their route, messages go once to each route, and readers know who is behind it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::{Cmd, Value};

use crate::error::Result;
use crate::name::{ChannelName, GroupName};
use crate::redis::groups::membership::{Changes, Ended, Membership, Recipients};
use crate::redis::groups::routes::{NEVER, Route, RouteMemory, Routes};
use crate::redis::native::scripts;
use crate::redis::native::write::Condition;
use crate::redis::node::fault::Fault;
use crate::redis::node::script::Script;
use crate::redis::node::shard::Shard;
use crate::redis::send::batch::milliseconds;
use crate::redis::topology::places::Topology;

/// Memberships that no message has asked for in this time are forgotten; asking again fetches them again.
const FORGET_AFTER: Duration = Duration::from_mins(1);
/// How much longer than the expiry of messages the end of a membership is remembered.
const REMEMBER_LONGER: Duration = Duration::from_mins(1);

/// A membership that is made lasts at least so long.
const SHORTEST: Duration = Duration::from_millis(1);

/// The groups of a layer, and what its readers know of their members.
#[derive(Debug)]
pub(crate) struct Groups {
    topology: Arc<Topology>,
    expiry: Duration,
    /// For how long after its end a membership matters, in ms: as long as messages that were sent before can wait.
    remembered: u64,
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
    membership: Arc<Membership>,
    /// The link over which it was fetched. A server that was lost may have come back with other data.
    generation: Option<u64>,
}

impl Groups {
    pub(crate) fn new(topology: Arc<Topology>, expiry: Duration, message_expiry: Duration) -> Self {
        let known = Mutex::new(Known { routes: HashMap::new(), swept: Instant::now() });
        let remembered = milliseconds(message_expiry + REMEMBER_LONGER);
        Self { topology, expiry, remembered, known, memory: RouteMemory::new() }
    }

    /// How long a membership lasts after the last add.
    pub(crate) fn expiry(&self) -> Duration {
        self.expiry
    }

    /// Makes `channel` a member for `lasts`, at the most the expiry, or renews its membership.
    pub(crate) async fn add(&self, group: &GroupName, channel: &ChannelName, lasts: Duration) -> Result<()> {
        let mut command = self.member_command(&scripts::GROUP_ADD, group, channel);
        command
            .arg(channel.non_local())
            .arg(milliseconds(lasts.clamp(SHORTEST, self.expiry)))
            .arg(self.remembered)
            .arg(channel.local());
        self.run(group, &command).await.map(|_| ())
    }

    /// Ends the membership of `channel`.
    pub(crate) async fn discard(&self, group: &GroupName, channel: &ChannelName) -> Result<()> {
        let mut command = self.member_command(&scripts::GROUP_DISCARD, group, channel);
        command.arg(channel.non_local()).arg(self.remembered).arg(channel.local());
        self.run(group, &command).await.map(|_| ())
    }

    /// A call of `script` with the keys of the group, and with those of the route for a process-local member.
    fn member_command(&self, script: &Script, group: &GroupName, channel: &ChannelName) -> Cmd {
        let mut keys = self.group_keys(group);
        if channel.local().is_some() {
            keys.extend(self.topology.keys.route(group, channel.non_local()).all());
        }
        script.call(&keys)
    }

    fn group_keys(&self, group: &GroupName) -> Vec<String> {
        vec![self.topology.keys.group(group), self.topology.keys.route_ends(group)]
    }

    async fn run(&self, group: &GroupName, command: &Cmd) -> Result<Value> {
        let shard = self.topology.shard_of_group(group);
        shard.run(command).await.map_err(|fault| shard.error(fault))
    }

    /// The routes of `group`, which remembers its members for as long as messages that are sent here can wait.
    pub(crate) async fn routes(&self, group: &GroupName) -> Result<Routes, Fault> {
        self.ask_routes(self.topology.shard_of_group(group), group).await
    }

    async fn ask_routes(&self, shard: &Shard, group: &GroupName) -> Result<Routes, Fault> {
        loop {
            let routes = self.note_routes(group, &shard.run(&self.routes_command(group)).await?)?;
            if self.suffices(&routes) {
                return Ok(routes);
            }
            // It does nothing if the routes have changed since, and then they are asked for again.
            let mut keys = self.group_keys(group);
            for route in routes.list.iter().filter(|route| route.is_local()) {
                keys.extend(self.topology.keys.route(group, route.channel.as_str()).all());
            }
            let mut command = scripts::GROUP_REMEMBER.call(&keys);
            command.arg(self.remembered).arg(routes.count);
            shard.run(&command).await?;
        }
    }

    /// Whether a group with these `routes` remembers its members for long enough. Another process with a shorter expiry may
    /// have added them all.
    pub(crate) fn suffices(&self, routes: &Routes) -> bool {
        routes.remembered >= self.remembered || !routes.list.iter().any(Route::is_local)
    }

    /// The routes that `group` had twice in a row when it was asked, and the condition that it still has them.
    pub(crate) fn guess(&self, group: &GroupName) -> Option<Condition> {
        let routes = self.memory.guess(group).filter(|routes| self.suffices(routes))?;
        Some(Condition { group: group.clone(), routes })
    }

    /// Takes in what a server says of a group's routes.
    pub(crate) fn note_routes(&self, group: &GroupName, answer: &Value) -> Result<Routes, Fault> {
        let routes = parse_routes(answer)?;
        self.memory.note(group, &routes);
        Ok(routes)
    }

    /// The routes of each of `groups`, in one round trip per shard; or the shard that failed, and why.
    pub(crate) async fn routes_of_all(&self, groups: &[GroupName]) -> Vec<Result<Routes, (usize, Fault)>> {
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
                results[place] = match routes {
                    Ok(routes) if !self.suffices(&routes) => {
                        self.ask_routes(&self.topology.shards[shard], &groups[place]).await
                    }
                    routes => routes,
                }
                .map_err(|fault| (shard, fault));
            }
        }
        results
    }

    fn routes_command(&self, group: &GroupName) -> Cmd {
        scripts::GROUP_ROUTES.call(&self.group_keys(group))
    }

    /// All members of `group`.
    pub(crate) async fn channels(&self, group: &GroupName) -> Result<Vec<ChannelName>> {
        let mut channels = Vec::new();
        let shard = self.topology.shard_of_group(group);
        for route in self.routes(group).await.map_err(|fault| shard.error(fault))?.list.iter() {
            if route.is_local() {
                let answer = shard.run(&self.members_command(group, &route.channel, 0)).await;
                let changes = answer.and_then(|answer| parse_changes(answer, route.channel.as_str()));
                let changes = changes.map_err(|fault| shard.error(fault))?;
                let now = now_microseconds(shard);
                let live = changes.members.into_iter().filter(|(_, ends)| *ends > now);
                channels.extend(live.map(|(channel, _)| channel));
            } else {
                channels.push(route.channel.clone());
            }
        }
        Ok(channels)
    }

    /// The members that `group` had on `route`, which ends in `!`, at `version` and at the time `sent_ms`. Of a version that
    /// the group does not have, they are those that it has now.
    pub(crate) async fn members_at(
        &self,
        group: &GroupName,
        route: &ChannelName,
        version: u64,
        sent_ms: u64,
    ) -> Result<Recipients, Fault> {
        let shard = self.topology.shard_of_group(group);
        let place = self.place(group, route);
        // No message was sent later than now, whatever the clocks of two servers say.
        let sent = sent_ms.saturating_mul(1000).min(now_microseconds(shard));
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
                    return Ok(Recipients::new(fetched.membership.clone(), version, sent));
                }
                fetched.generation = generation.as_ref().ok().copied();
                known
            };
            let generation = generation?;
            // Messages that have been popped stand behind this one, so that it is not for long that it may wait.
            let answer = shard.run_once(&self.members_command(group, route, known)).await?;
            let changes = parse_changes(answer, route.as_str())?;
            let is_known = changes.version >= version;
            {
                let mut fetched = place.fetched.lock();
                if fetched.generation != Some(generation) {
                    continue;
                }
                Arc::make_mut(&mut fetched.membership).apply(changes, now_microseconds(shard));
                if is_known {
                    return Ok(Recipients::new(fetched.membership.clone(), version, sent));
                }
            }
            return self.members_of_another_version(group, route, version, sent).await;
        }
    }

    /// The members of a group whose server does not know `version`: the group has ended since, or the server has lost its
    /// data, or its clock has stepped back. The version is believed for this message alone: the message may come from anybody,
    /// and a reader that knows a later version asks no more.
    async fn members_of_another_version(
        &self,
        group: &GroupName,
        route: &ChannelName,
        version: u64,
        sent: u64,
    ) -> Result<Recipients, Fault> {
        let shard = self.topology.shard_of_group(group);
        let answer = shard.run_once(&self.members_command(group, route, 0)).await?;
        let mut changes = parse_changes(answer, route.as_str())?;
        changes.version = changes.version.max(version);
        let mut membership = Membership::default();
        membership.apply(changes, now_microseconds(shard));
        Ok(Recipients::new(Arc::new(membership), version, sent))
    }

    fn members_command(&self, group: &GroupName, route: &ChannelName, known: u64) -> Cmd {
        let mut keys = vec![self.topology.keys.group(group)];
        keys.extend(self.topology.keys.route(group, route.as_str()).all());
        let mut command = scripts::GROUP_MEMBERS.call(&keys);
        command.arg(route.as_str()).arg(known);
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

pub(crate) fn parse_routes(answer: &Value) -> Result<Routes, Fault> {
    let unexpected = || Fault::unexpected("group_routes.lua returned something else than three lists");
    let Value::Array(parts) = answer else { return Err(unexpected()) };
    let [Value::Array(told), Value::Array(ended), next_to_end] = &parts[..] else { return Err(unexpected()) };
    let ended = ended.iter().map(text).collect::<Result<HashSet<_>, _>>()?;
    let (mut list, mut count, mut remembered) = (Vec::with_capacity(told.len() / 2), 0, 0);
    for (name, version) in pairs(&parts[0])? {
        if name.is_empty() {
            remembered = version;
            continue;
        }
        count += 1;
        // A route whose name is none was added by somebody else, and is no reason to miss the others.
        if let (false, Ok(channel)) = (ended.contains(name), ChannelName::parse(name)) {
            list.push(Route { channel, version });
        }
    }
    let texts = told.iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let until = pairs(next_to_end)?.first().map_or(NEVER, |(_, ends)| *ends);
    Ok(Routes { list: list.into(), text: texts.join(" ").into(), count, until, remembered })
}

pub(crate) fn parse_changes(answer: Value, route: &str) -> Result<Changes, Fault> {
    let unexpected =
        || Fault::unexpected("group_members.lua returned something else than three numbers and three lists");
    let Value::Array(parts) = answer else { return Err(unexpected()) };
    let [version, partial, Value::Int(remembered), present, joined, ended] = &parts[..] else {
        return Err(unexpected());
    };
    // A member whose name is none was added by somebody else, and is no reason to miss the others.
    let member = |local| ChannelName::from_parts(route, local).ok();
    let members = |list| {
        let members = pairs(list)?.into_iter();
        Ok::<_, Fault>(members.filter_map(|(local, number)| Some((member(local)?, number))).collect::<Vec<_>>())
    };
    let ended = pairs(ended)?.into_iter().filter_map(|(text, told)| {
        let mut parts = text.splitn(3, ' ');
        let (joined, until) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(Ended { channel: member(parts.next()?)?, joined, until, told })
    });
    Ok(Changes {
        version: number(text(version)?)?,
        partial: *partial == Value::Int(1),
        // A group that has ended does not say, and takes the memory of it along.
        remembered: u64::try_from(*remembered).ok().filter(|ms| *ms > 0).map_or(u64::MAX, |ms| ms.saturating_mul(1000)),
        members: members(present)?,
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
