//! The compose file with Redis Cluster: its nodes as processes of this machine, and instances that use them.

use std::path::Path;
use std::process::{Command, Stdio};

use super::servers::Servers;
use crate::chat::Guest;
use crate::support::{ReservedPort, eventually};

/// The nodes. Each has a port for the others, which stays reserved.
struct Nodes {
    servers: Servers,
    bus: Vec<(String, ReservedPort)>,
}

impl Nodes {
    fn start() -> Self {
        let servers = Servers::of("deploy/compose.cluster.yaml", |name| name.starts_with("redis"));
        servers.copy_files(&["redis.conf", "append-only.conf", "cluster.conf", "create-cluster"], |text| text);
        let bus = servers.names().into_iter().map(|name| (name, ReservedPort::new())).collect();
        let mut nodes = Self { servers, bus };
        for name in nodes.servers.names() {
            nodes.launch(&name);
        }
        nodes
    }

    /// Starts a node with the command of its container, except for ports.
    fn launch(&mut self, name: &str) {
        let (_, bus) = self.bus.iter().find(|(other, _)| other == name).expect("it is a node");
        let mut command = self.servers.command(name);
        command.extend(["--port".to_owned(), self.servers.port(name).to_string()]);
        command.extend(["--cluster-port".to_owned(), bus.number().to_string()]);
        self.servers.launch(name, &command);
    }

    /// Runs the container that makes the nodes a cluster, with the addresses of this machine. Returns what it prints.
    async fn create(&self) -> String {
        for name in self.servers.names() {
            eventually("a node", async || self.servers.ask::<String>(&name, &["PING"]).await).await;
        }
        let mut command = self.servers.command("cluster");
        let mut ports = self.servers.names().into_iter().map(|name| self.servers.port(&name));
        for part in &mut command {
            if part.ends_with(":6379") {
                *part = format!("127.0.0.1:{}", ports.next().expect("a node for each address"));
            }
        }
        assert_eq!(ports.next(), None, "an address for each node");
        run(&command[0], &command[1..])
    }

    /// The ids of the masters with slots, by the names of their nodes, as the node `asked` knows them.
    async fn masters(&self, asked: &str) -> Option<Vec<(String, String)>> {
        let nodes: String = self.servers.ask(asked, &["CLUSTER", "NODES"]).await?;
        let masters = nodes.lines().filter_map(|line| {
            let [id, address, flags, _, _, _, _, state, slots @ ..] = &*line.split(' ').collect::<Vec<_>>() else {
                return None;
            };
            let port = address.split(['@', ':']).nth(1)?.parse().ok()?;
            let serves = flags.contains("master") && !flags.contains("fail") && !slots.is_empty();
            (serves && *state == "connected").then(|| (self.servers.at_port(port).unwrap(), (*id).to_owned()))
        });
        Some(masters.collect())
    }

    /// The node that serves the slot of `name`.
    async fn owner(&self, name: &str, asked: &str) -> Option<String> {
        let slot: u16 = self.servers.ask(asked, &["CLUSTER", "KEYSLOT", name]).await?;
        let ranges: Vec<Vec<redis::Value>> = self.servers.ask(asked, &["CLUSTER", "SLOTS"]).await?;
        let number = |value: &redis::Value| redis::from_redis_value_ref::<u16>(value).ok();
        let range = ranges.iter().find(|range| {
            matches!((number(&range[0]), number(&range[1])), (Some(first), Some(last)) if (first..=last).contains(&slot))
        })?;
        let redis::Value::Array(master) = &range[2] else { return None };
        self.servers.at_port(number(&master[1])?)
    }
}

/// Runs a program that has to succeed. Returns its output.
fn run(program: impl AsRef<std::ffi::OsStr>, arguments: &[String]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chat_works_while_slots_move_and_after_a_killed_master() {
    let mut nodes = Nodes::start();
    assert!(nodes.create().await.contains("All 16384 slots covered"));
    for name in nodes.servers.names() {
        eventually("three masters", async || nodes.masters(&name).await.filter(|masters| masters.len() == 3)).await;
    }
    assert!(nodes.create().await.contains("nothing to do"));
    let instances = [nodes.servers.instance(6379).await, nodes.servers.instance(6379).await];
    let (ada, bob) =
        (Guest::enter(&instances[0], "lobby", "Ada").await, Guest::enter(&instances[1], "lobby", "Bob").await);
    ada.sees_people(&["Ada", "Bob"]).await;
    bob.sees_people(&["Ada", "Bob"]).await;

    // A third of the slots moves while both type.
    let masters = nodes.masters("redis-1").await.unwrap();
    let [(_, from), (_, to), ..] = &*masters else { panic!("{masters:?}") };
    let reshard: Vec<_> = ["--cluster", "reshard", &format!("127.0.0.1:{}", nodes.servers.port("redis-1"))]
        .into_iter()
        .chain(["--cluster-from", from, "--cluster-to", to, "--cluster-slots", "5000", "--cluster-yes"])
        .map(str::to_owned)
        .collect();
    let mut moving = tokio::task::spawn_blocking(move || run("redis-cli", &reshard));
    let mut typed = 0;
    loop {
        ada.says(&format!("{typed}"));
        bob.sees_line(&format!("Ada: {typed}")).await;
        typed += 1;
        if moving.is_finished() {
            break;
        }
    }
    (&mut moving).await.unwrap();
    let expected: Vec<_> = (0..typed).map(|number| format!("Ada: {number}")).collect();
    let seen: Vec<_> = bob.lines().into_iter().filter(|line| line.starts_with("Ada: ")).collect();
    assert_eq!(seen, expected);

    // The room is on this master.
    let lost = eventually("the master of the room", async || nodes.owner("chat.room.lobby", "redis-1").await).await;
    let asked = if lost == "redis-1" { "redis-2" } else { "redis-1" };
    nodes.servers.kill(&lost);
    eventually("another master", async || nodes.owner("chat.room.lobby", asked).await.filter(|name| *name != lost))
        .await;
    eventually("a message through the new master", async || {
        let eve = Guest::try_enter(&instances[1], "lobby", "Eve").await.ok()?;
        let dan = Guest::try_enter(&instances[0], "lobby", "Dan").await.ok()?;
        dan.says("back again");
        for guest in [&dan, &eve] {
            let answered = |line: &String| line == "Dan: back again" || line.starts_with("closed");
            guest.sees("an answer", |lines| lines.iter().any(answered)).await;
        }
        eve.lines().iter().any(|line| line == "Dan: back again").then_some(())
    })
    .await;

    nodes.launch(&lost);
    eventually("the old master as a replica", async || {
        let role: Vec<redis::Value> = nodes.servers.ask(&lost, &["ROLE"]).await?;
        (role[0] == redis::Value::BulkString(b"slave".to_vec())).then_some(())
    })
    .await;
    assert!(Path::new(&nodes.servers.work_dir(&lost)).join("nodes.conf").exists());
}
