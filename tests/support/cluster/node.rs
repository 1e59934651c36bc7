//! `Node`: a server of a cluster.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue};

use super::super::{RedisServer, ReservedPort};

/// How many slots a cluster has.
pub(super) const SLOTS: u16 = 16384;
/// After this time without an answer the nodes agree that a node has failed.
const NODE_TIMEOUT: &str = "2000";

/// A server of a cluster.
pub struct Node {
    pub server: RedisServer,
    pub id: String,
    /// The port for messages between nodes, which stays reserved while the server is stopped.
    bus: ReservedPort,
    /// The port for TLS, which the other nodes use too, of a node with `--tls-cluster yes`.
    pub tls: Option<ReservedPort>,
    /// When the node became a master by an election.
    elected: Mutex<Option<Instant>>,
}

/// What one node knows of another.
pub(super) struct View {
    pub(super) flags: String,
    /// The id of its master; `-` for a master.
    pub(super) master: String,
}

impl Node {
    pub(super) async fn start(arguments: &[String]) -> Self {
        let bus = ReservedPort::new();
        let tls = arguments.iter().any(|argument| argument == "--tls-cluster").then(ReservedPort::new);
        let (port, tls_port) = (bus.number().to_string(), tls.as_ref().map_or(0, ReservedPort::number).to_string());
        let mut all = vec!["--cluster-enabled", "yes", "--cluster-port", &port, "--cluster-node-timeout", NODE_TIMEOUT];
        if tls.is_some() {
            all.extend(["--tls-port", &tls_port]);
        }
        // A replica that has just been made would otherwise wait for 5 s for others.
        all.extend(["--repl-diskless-sync-delay", "0"]);
        all.extend(arguments.iter().map(String::as_str));
        let server = RedisServer::with(&all);
        let mut node = Self { server, id: String::new(), bus, tls, elected: Mutex::default() };
        node.id = node.cluster(&["MYID"]).await;
        node
    }

    /// Sends a subcommand of `CLUSTER`.
    pub async fn cluster<T: FromRedisValue>(&self, arguments: &[&str]) -> T {
        self.ask(redis::cmd("CLUSTER").arg(arguments)).await
    }

    /// Sends a command that has to succeed.
    pub async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> T {
        command.query_async(&mut self.connection().await).await.expect("a node of a cluster answers")
    }

    /// A number that the server counts for each command, such as `calls`; 0 if the command has not been called.
    pub async fn statistic(&self, command: &str, field: &str) -> usize {
        let statistics: String = self.ask(redis::cmd("INFO").arg("commandstats")).await;
        let of_command = statistics.lines().find_map(|line| line.strip_prefix("cmdstat_")?.strip_prefix(command));
        let fields = of_command.and_then(|line| line.strip_prefix(':'));
        let number = fields.and_then(|fields| {
            fields.split(',').find_map(|text| text.strip_prefix(field)?.strip_prefix('=')?.parse().ok())
        });
        number.unwrap_or(0)
    }

    /// Sends a command to a server that may be down.
    pub(super) async fn try_ask<T: FromRedisValue>(&self, command: &Cmd) -> Option<T> {
        let mut connection = RedisServer::connection_to(&self.server.url()).await.ok()?;
        command.query_async(&mut connection).await.ok()
    }

    async fn connection(&self) -> MultiplexedConnection {
        self.server.connection().await
    }

    /// The port at which the other nodes reach this one.
    pub(super) fn port(&self) -> u16 {
        self.tls.as_ref().map_or_else(|| self.server.port(), ReservedPort::number)
    }

    pub(super) async fn meet(&self, other: &Self) {
        let (port, bus) = (other.port().to_string(), other.bus.number().to_string());
        self.cluster::<()>(&["MEET", "127.0.0.1", &port, &bus]).await;
    }

    /// Whether the node is a master, and all slots of the cluster are served.
    pub(super) async fn is_serving_master(&self) -> bool {
        self.view_of(&self.id).await.is_some_and(|view| view.flags == "myself,master") && self.is_ok().await
    }

    /// What this node knows of the node `id`; `None` while this node is down, and for an unknown node.
    pub(super) async fn view_of(&self, id: &str) -> Option<View> {
        let nodes: String = self.try_ask(redis::cmd("CLUSTER").arg("NODES")).await?;
        let line = nodes.lines().find(|line| line.starts_with(id))?;
        let mut fields = line.split(' ').skip(2);
        let mut field = || fields.next().expect("a node has flags and a master").to_owned();
        Some(View { flags: field(), master: field() })
    }

    /// The slots of the masters as this node knows them, by the ids of the masters. `None` while the node is down.
    pub async fn shares(&self) -> Option<BTreeMap<String, Vec<RangeInclusive<u16>>>> {
        let nodes: String = self.try_ask(redis::cmd("CLUSTER").arg("NODES")).await?;
        let slots = |range: &str| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            // Slots that are being moved are no numbers.
            Some(first.parse().ok()?..=last.parse().ok()?)
        };
        let share = |line: &str| {
            let mut fields = line.split(' ');
            Some((fields.next()?.to_owned(), fields.skip(7).filter_map(slots).collect::<Vec<_>>()))
        };
        Some(nodes.lines().filter_map(share).filter(|(_, slots)| !slots.is_empty()).collect())
    }

    pub(super) fn was_elected(&self) {
        *self.elected.lock().unwrap() = Some(Instant::now());
    }

    /// When the node became a master by an election, as far as the test knows.
    pub fn elected_at(&self) -> Option<Instant> {
        *self.elected.lock().unwrap()
    }

    /// After this time without an answer another node counts as failed.
    pub async fn timeout(&self) -> Duration {
        let (_, timeout): (String, u64) = self.ask(redis::cmd("CONFIG").arg("GET").arg("cluster-node-timeout")).await;
        Duration::from_millis(timeout)
    }

    pub(super) async fn is_ok(&self) -> bool {
        let info: Option<String> = self.try_ask(redis::cmd("CLUSTER").arg("INFO")).await;
        // A cluster that needs no full coverage is `ok` with slots that no node has.
        let assigned = format!("cluster_slots_assigned:{SLOTS}");
        info.is_some_and(|info| info.contains("cluster_state:ok") && info.contains(&assigned))
    }
}
