//! `Groups`: adds and removes members on the group's server, and looks up routes and members.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::Mutex;
use redis::{Cmd, Value};

use crate::error::Result;
use crate::name::{ChannelName, GroupName};
use crate::redis::groups::answers::{parse_changes, parse_routes};
use crate::redis::groups::lookup_failures::LookupFailures;
use crate::redis::groups::membership::{Changes, Membership, Recipients};
use crate::redis::groups::routes::{Route, RouteMemory, Routes};
use crate::redis::native::scripts;
use crate::redis::native::send::write::Condition;
use crate::redis::native::topology::Topology;
use crate::redis::node::clock::milliseconds;
use crate::redis::node::commands::asking::Node;
use crate::redis::node::commands::script::Script;
use crate::redis::node::fault::Fault;
use crate::redis::node::shard::Shard;
use crate::redis::stored::groups::StoredGroups;
use crate::redis::topology::places::Failure;

/// Members that no message has needed for this time are evicted from the cache. The next message fetches them again.
const EVICT_AFTER: Duration = Duration::from_mins(1);
/// How much longer than the expiry of messages an ended membership is remembered.
const REMEMBER_LONGER: Duration = Duration::from_mins(1);

/// The shortest lifetime of a membership.
const MIN_LIFETIME: Duration = Duration::from_millis(1);

/// The groups of a layer, with a cache of their members for its readers.
#[derive(Debug)]
pub struct Groups {
    topology: Arc<Topology>,
    expiry: Duration,
    /// For how long after its end a membership matters, in ms: as long as messages that were sent before can wait.
    retention_ms: u64,
    /// Locked only to find, add or evict an entry.
    cache: Mutex<MemberCache>,
    memory: RouteMemory,
    failures: LookupFailures,
}

#[derive(Debug)]
struct MemberCache {
    routes: HashMap<(GroupName, ChannelName), Arc<CachedMembers>>,
    /// When unused entries were last evicted.
    evicted_at: Instant,
}

/// The cached members of one group on one route.
#[derive(Debug)]
struct CachedMembers {
    /// Locked only to read it or to apply an answer.
    fetched: Mutex<Fetched>,
    /// Locked only to read or set it.
    used_at: Mutex<Instant>,
}

#[derive(Debug, Default)]
struct Fetched {
    membership: Arc<Membership>,
    /// The generation of the connection over which it was fetched. A server may return from an outage with other data.
    generation: Option<u64>,
}

impl CachedMembers {
    /// The members that were fetched over the connection of `generation`: another connection may lead to other data.
    /// All that are cached if there is no connection.
    fn membership(&self, generation: Option<u64>) -> Arc<Membership> {
        let mut fetched = self.fetched.lock();
        if generation.is_some() && fetched.generation != generation {
            *fetched = Fetched { generation, ..Fetched::default() };
        }
        fetched.membership.clone()
    }

    /// Applies changes that were fetched over the connection of `generation` by the time `now`. Returns `None` if
    /// members have been fetched over another connection meanwhile.
    fn apply(&self, changes: Changes, generation: u64, now: u64) -> Option<Arc<Membership>> {
        let mut fetched = self.fetched.lock();
        if fetched.generation != Some(generation) {
            return None;
        }
        Arc::make_mut(&mut fetched.membership).apply(changes, now);
        Some(fetched.membership.clone())
    }
}

impl StoredGroups for Groups {
    type Destinations = Routes;

    fn expiry(&self) -> Duration {
        self.expiry
    }

    async fn add(&self, group: &GroupName, channel: &ChannelName, lasts: Duration) -> Result<()> {
        let mut command = self.member_command(&scripts::GROUP_ADD, group, channel);
        command
            .arg(channel.non_local())
            .arg(milliseconds(lasts.clamp(MIN_LIFETIME, self.expiry)))
            .arg(self.retention_ms)
            .arg(channel.local());
        self.run(group, &command).await.map(|_| ())
    }

    async fn discard(&self, group: &GroupName, channel: &ChannelName) -> Result<()> {
        let mut command = self.member_command(&scripts::GROUP_DISCARD, group, channel);
        command.arg(channel.non_local()).arg(self.retention_ms).arg(channel.local());
        self.run(group, &command).await.map(|_| ())
    }

    async fn channels(&self, group: &GroupName) -> Result<Vec<ChannelName>> {
        let mut channels = Vec::new();
        let shard = self.topology.shard_of_group(group);
        let error = |(shard, fault)| self.topology.error(shard, fault);
        for route in self.routes(group).await.map_err(error)?.list.iter() {
            if route.is_local() {
                let command = self.members_command(group, &route.channel, 0);
                let answer = self.topology.query(group.as_str(), &command).await.map_err(error)?;
                let changes = parse_changes(answer, route.channel.as_str()).map_err(|fault| shard.error(fault))?;
                let now = now_microseconds(shard);
                let live = changes.members.into_iter().filter(|(_, ends)| *ends > now);
                channels.extend(live.map(|(channel, _)| channel));
            } else {
                channels.push(route.channel.clone());
            }
        }
        Ok(channels)
    }

    async fn destinations(&self, groups: &[GroupName]) -> Vec<Result<Routes, Failure>> {
        match groups {
            // The routes of a single group are remembered for the next send.
            [group] => vec![self.routes(group).await],
            groups => self.routes_of_all(groups).await,
        }
    }
}

impl Groups {
    pub(crate) fn new(topology: Arc<Topology>, expiry: Duration, message_expiry: Duration) -> Self {
        let cache = Mutex::new(MemberCache { routes: HashMap::new(), evicted_at: Instant::now() });
        let retention_ms = milliseconds(message_expiry + REMEMBER_LONGER);
        let (memory, failures) = (RouteMemory::new(), LookupFailures::default());
        Self { topology, expiry, retention_ms, cache, memory, failures }
    }

    /// The server of `group`.
    pub(crate) fn home(&self, group: &GroupName) -> &Arc<Shard> {
        self.topology.shard_of_group(group)
    }

    /// A call of `script` with the keys of the group. For a process-local member the keys of the route are added.
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
        let answer = self.topology.run(group.as_str(), command).await;
        answer.map_err(|(shard, fault)| self.topology.error(shard, fault))
    }

    /// Fetches the routes of `group`, and makes the group remember its members for as long as messages of this process
    /// can wait.
    async fn routes(&self, group: &GroupName) -> Result<Routes, Failure> {
        loop {
            let answer = self.topology.query(group.as_str(), &self.routes_command(group)).await?;
            let routes = self.record_routes(group, &answer);
            let routes = routes.map_err(|fault| (self.home(group).index, fault))?;
            if self.retention_suffices(&routes) {
                return Ok(routes);
            }
            // The script changes nothing after a change of the routes. The loop then fetches them again.
            let mut keys = self.group_keys(group);
            for route in routes.list.iter().filter(|route| route.is_local()) {
                keys.extend(self.topology.keys.route(group, route.channel.as_str()).all());
            }
            let mut command = scripts::GROUP_REMEMBER.call(&keys);
            command.arg(self.retention_ms).arg(routes.count);
            self.topology.query(group.as_str(), &command).await?;
        }
    }

    /// Whether a group with these `routes` remembers its members for long enough. It may not if a process with a
    /// shorter expiry has added them all.
    pub(crate) fn retention_suffices(&self, routes: &Routes) -> bool {
        routes.retention_ms >= self.retention_ms || !routes.list.iter().any(Route::is_local)
    }

    /// The condition that `group` still has the routes that its server returned last; `None` unless it returned them
    /// twice in a row. `None` too if there are none: a push without messages has no outcome that could tell the caller
    /// of its failure, and takes as many round trips as a lookup.
    pub(crate) fn guess(&self, group: &GroupName) -> Option<Condition> {
        let is_usable = |routes: &Routes| !routes.list.is_empty() && self.retention_suffices(routes);
        let routes = self.memory.guess(group).filter(is_usable)?;
        Some(Condition { group: group.clone(), routes })
    }

    /// Parses the answer of a group's server about its routes, and records them for the next send.
    pub(crate) fn record_routes(&self, group: &GroupName, answer: &Value) -> Result<Routes, Fault> {
        let routes = parse_routes(answer)?;
        self.memory.record(group, &routes);
        Ok(routes)
    }

    /// Fetches the routes of each of `groups` with one round trip per shard. A failure comes with the index of its
    /// shard.
    async fn routes_of_all(&self, groups: &[GroupName]) -> Vec<Result<Routes, Failure>> {
        let mut results: Vec<_> = groups.iter().map(|_| Ok(Routes::none())).collect();
        let mut by_shard = BTreeMap::<usize, Vec<usize>>::new();
        for (index, group) in groups.iter().enumerate() {
            by_shard.entry(self.home(group).index).or_default().push(index);
        }
        let fetched = join_all(by_shard.into_iter().map(|(shard, indices)| async move {
            let answers = self.routes_on(shard, indices.iter().map(|index| &groups[*index])).await;
            (shard, indices, answers)
        }));
        let mut again = Vec::new();
        for (shard, indices, answers) in fetched.await {
            for (answer, index) in answers.into_iter().zip(indices) {
                match answer.and_then(|answer| parse_routes(&answer)) {
                    Ok(routes) if !self.retention_suffices(&routes) => again.push(index),
                    // Another node of the cluster may have the group now, or this one does not know the script.
                    Err(_) if self.topology.is_cluster() => again.push(index),
                    routes => results[index] = routes.map_err(|fault| (shard, fault)),
                }
            }
        }
        let fetched = join_all(again.iter().map(|index| self.routes(&groups[*index]))).await;
        for (index, routes) in again.into_iter().zip(fetched) {
            results[index] = routes;
        }
        results
    }

    /// Asks a shard for the routes of groups in one round trip. Returns the answer for each.
    async fn routes_on<'g>(
        &self,
        shard: usize,
        groups: impl ExactSizeIterator<Item = &'g GroupName>,
    ) -> Vec<Result<Value, Fault>> {
        let (shard, count, mut commands) = (self.topology.shard(shard), groups.len(), redis::pipe());
        for group in groups {
            commands.add_command(self.routes_command(group));
        }
        if self.topology.is_cluster() {
            // Each group has an answer of its own, because some may be redirected.
            return shard.run_each(&commands, count, None).await;
        }
        match shard.query(&commands).await {
            Ok(answers) if answers.len() == count => answers.into_iter().map(Ok).collect(),
            Ok(_) => vec![Err(Fault::unexpected("another number of answers than of commands")); count],
            Err(fault) => vec![Err(fault); count],
        }
    }

    fn routes_command(&self, group: &GroupName) -> Cmd {
        scripts::GROUP_ROUTES.call(&self.group_keys(group))
    }

    /// The members of `group` on `route`, which ends in `!`, at `version` and at the time `sent_ms`. If the group does
    /// not have that version, these are its present members.
    pub(crate) async fn members_at(
        &self,
        group: &GroupName,
        route: &ChannelName,
        version: u64,
        sent_ms: u64,
    ) -> Result<Recipients, Fault> {
        // A wait would stop the reader. The message is held until the group's server answers.
        let mut routing = self.topology.routing(self.home(group), group.as_str()).until(tokio::time::Instant::now());
        let cached = self.cached(group, route);
        loop {
            let node = routing.node();
            // A message cannot have been sent later than now. The clocks of its server and of the group's server may
            // differ.
            let sent = sent_ms.saturating_mul(1000).min(now_microseconds(node.shard));
            let generation = node.shard.generation();
            let known = {
                // While the server is unreachable, cached members of the version are still right.
                let membership = cached.membership(generation.as_ref().ok().copied());
                let known = membership.version();
                if known > 0 && known >= version {
                    return Ok(Recipients::new(membership, version, sent));
                }
                known
            };
            // Popped messages wait behind this one, so the command is not retried.
            let command = self.members_command(group, route, known);
            let answer = match generation {
                Ok(_) => node.run_once(&command).await,
                Err(ref fault) => Err(fault.clone()),
            };
            let (generation, answer) = match (generation, answer) {
                (Ok(generation), Ok(answer)) => (generation, answer),
                (_, Err(fault)) | (Err(fault), _) if routing.follow(&fault).await => continue,
                (_, Err(fault)) | (Err(fault), _) => return Err(fault),
            };
            self.failures.succeeded(self.topology.place_of(group.as_str()), group);
            let changes = parse_changes(answer, route.as_str())?;
            let is_known = changes.version >= version;
            match cached.apply(changes, generation, now_microseconds(node.shard)) {
                Some(membership) if is_known => return Ok(Recipients::new(membership, version, sent)),
                Some(_) => return self.members_of_unknown_version(node, group, route, version, sent).await,
                None => {}
            }
        }
    }

    /// Records that the members of `group` could not be looked up. Returns since when lookups fail in its slot of a
    /// cluster, or on its server.
    pub(crate) fn lookup_failed(&self, group: &GroupName) -> tokio::time::Instant {
        self.failures.failed(self.topology.place_of(group.as_str()), group)
    }

    /// The members of a group whose server does not know `version`: the group has ended since, or the server has lost
    /// its data, or its clock has stepped back.
    ///
    /// The version is used for this message only. Any program that writes to Redis can forge it, and a reader that
    /// cached a later version would not fetch members again.
    async fn members_of_unknown_version(
        &self,
        node: Node<'_>,
        group: &GroupName,
        route: &ChannelName,
        version: u64,
        sent: u64,
    ) -> Result<Recipients, Fault> {
        let answer = node.run_once(&self.members_command(group, route, 0)).await?;
        let mut changes = parse_changes(answer, route.as_str())?;
        changes.version = changes.version.max(version);
        let mut membership = Membership::default();
        membership.apply(changes, now_microseconds(node.shard));
        Ok(Recipients::new(Arc::new(membership), version, sent))
    }

    fn members_command(&self, group: &GroupName, route: &ChannelName, known: u64) -> Cmd {
        let mut keys = vec![self.topology.keys.group(group)];
        keys.extend(self.topology.keys.route(group, route.as_str()).all());
        let mut command = scripts::GROUP_MEMBERS.call(&keys);
        command.arg(route.as_str()).arg(known);
        command
    }

    fn cached(&self, group: &GroupName, route: &ChannelName) -> Arc<CachedMembers> {
        let now = Instant::now();
        let mut cache = self.cache.lock();
        if now.duration_since(cache.evicted_at) > EVICT_AFTER {
            cache.evicted_at = now;
            cache.routes.retain(|_, cached| now.duration_since(*cached.used_at.lock()) < EVICT_AFTER);
        }
        let cached = cache
            .routes
            .entry((group.clone(), route.clone()))
            .or_insert_with(|| Arc::new(CachedMembers { fetched: Mutex::default(), used_at: Mutex::new(now) }));
        *cached.used_at.lock() = now;
        cached.clone()
    }
}

fn now_microseconds(shard: &Shard) -> u64 {
    shard.clock.now_ms().unwrap_or(0).saturating_mul(1000)
}
