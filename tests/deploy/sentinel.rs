//! The compose file with Sentinel: its servers and sentinels as processes of this machine, and instances that use them.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value as Json;
use tempfile::TempDir;
use tokio::time::sleep;

use super::documents::{compose, texts};
use super::supervised::Supervised;
use super::{MOUNTED, read};
use crate::chat::{Guest, Instance};
use crate::support::{DEADLINE, ReservedPort, eventually, within};

const SENTINELS: [&str; 3] = ["sentinel-1", "sentinel-2", "sentinel-3"];

/// The services of the compose file that are servers or sentinels, by name.
struct Servers {
    services: Json,
    ports: BTreeMap<String, ReservedPort>,
    processes: HashMap<String, Supervised>,
    dir: TempDir,
}

impl Servers {
    fn start() -> Self {
        let services = compose("deploy/compose.sentinel.yaml")["services"].take();
        let ports = services
            .as_object()
            .unwrap()
            .keys()
            .filter(|name| name.starts_with("redis") || name.starts_with("sentinel"))
            .map(|name| (name.clone(), ReservedPort::new()))
            .collect();
        let mut servers = Self { services, ports, processes: HashMap::new(), dir: tempfile::tempdir().unwrap() };
        servers.copy_files();
        let names: Vec<_> = servers.ports.keys().cloned().collect();
        for name in &names {
            servers.launch(name);
        }
        servers
    }

    /// Copies the files with other paths and addresses.
    fn copy_files(&self) {
        let master = format!("localhost {} 2", self.port("redis"));
        for name in ["redis.conf", "append-only.conf", "replicated.conf", "sentinel.conf", "start-from-copy"] {
            let text = read(&format!("deploy/redis/{name}"))
                .replace(MOUNTED, self.dir.path().to_str().unwrap())
                .replace("bind * -::*", "bind 127.0.0.1 -::1")
                .replace("redis 6379 2", &master);
            std::fs::write(self.dir.path().join(name), text).unwrap();
        }
    }

    /// Starts a server or sentinel with the command of its container, except for addresses.
    fn launch(&mut self, name: &str) {
        let command = texts(&self.services[name]["command"]);
        let mut command: Vec<_> = command
            .into_iter()
            .map(|part| part.replace(MOUNTED, self.dir.path().to_str().unwrap()))
            .map(|part| part.replace("redis 6379", &format!("localhost {}", self.port("redis"))))
            .map(|part| part.replace(&format!("announce-ip {name}"), "announce-ip localhost"))
            .collect();
        command.push(format!("port {}", self.port(name)));
        let dir = self.work_dir(name);
        std::fs::create_dir_all(&dir).unwrap();
        let command: Vec<_> = command.iter().map(String::as_str).collect();
        self.processes.insert(name.to_owned(), Supervised::start(&dir, &command));
    }

    fn kill(&mut self, name: &str) {
        self.processes.remove(name).expect("it runs").signal("KILL");
    }

    fn port(&self, name: &str) -> u16 {
        self.ports[name].number()
    }

    fn work_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join("data").join(name)
    }

    /// Returns the answer of a server or sentinel to a command; `None` if the call fails.
    async fn ask<T: redis::FromRedisValue>(&self, name: &str, command: &[&str]) -> Option<T> {
        let client = redis::Client::open(("127.0.0.1", self.port(name))).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.ok()?;
        redis::cmd(command[0]).arg(&command[1..]).query_async(&mut connection).await.ok()
    }

    /// Waits until every sentinel knows the others and both replicas, and the replicas have the data of the master.
    async fn are_complete(&self) {
        for sentinel in SENTINELS {
            eventually("sentinels that know each other", async || {
                let known: HashMap<String, String> = self.ask(sentinel, &["SENTINEL", "MASTER", "messages"]).await?;
                (known["num-slaves"] == "2" && known["num-other-sentinels"] == "2").then_some(())
            })
            .await;
        }
        for replica in ["redis-2", "redis-3"] {
            self.follows(replica, "redis").await;
        }
    }

    /// Waits until `replica` replicates `master`. Sentinels wait for 8 s before they demote a server that claims to be
    /// the master.
    async fn follows(&self, replica: &str, master: &str) {
        let master = (self.port(master), "connected".to_owned());
        let following = async {
            loop {
                let role: Option<(String, String, u16, String, i64)> = self.ask(replica, &["ROLE"]).await;
                if role.is_some_and(|(_, _, port, state, _)| (port, state) == master) {
                    return;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        within(DEADLINE * 3, &format!("{replica} to follow the master"), following).await;
    }

    /// Returns the name of the master; `None` while the sentinels disagree.
    async fn master(&self) -> Option<String> {
        let mut masters = Vec::new();
        for sentinel in SENTINELS {
            let address: (String, u16) =
                self.ask(sentinel, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "messages"]).await?;
            assert_eq!(address.0, "localhost", "sentinels announce host names");
            masters.push(address.1);
        }
        masters.dedup();
        let [port] = *masters else { return None };
        self.ports.iter().find(|(_, reserved)| reserved.number() == port).map(|(name, _)| name.clone())
    }

    /// Starts an instance with the command and the environment of the compose file, except for addresses.
    async fn instance(&self) -> Instance {
        let service = &self.services["demo-1"];
        let address = |part| match part {
            "0.0.0.0" => "127.0.0.1",
            "8000" => "0",
            other => other,
        };
        let arguments: Vec<_> = texts(&service["command"]).into_iter().map(address).collect();
        let mut environment: Vec<(String, String)> = Vec::new();
        for (variable, value) in service["environment"].as_object().unwrap() {
            let mut value = value.as_str().unwrap().to_owned();
            for sentinel in SENTINELS {
                value = value.replace(&format!("{sentinel}:26379"), &format!("127.0.0.1:{}", self.port(sentinel)));
            }
            environment.push((variable.clone(), value));
        }
        let variables: Vec<_> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Instance::run(&arguments, &variables).await
    }
}

#[tokio::test]
async fn the_chat_survives_a_killed_master_which_returns_as_a_replica() {
    let mut servers = Servers::start();
    servers.are_complete().await;
    let instances = [servers.instance().await, servers.instance().await];
    let ada = Guest::enter(&instances[0], "lobby", "Ada").await;
    ada.sees_line("Ada joined").await;

    servers.kill("redis");
    let master = eventually("another master", async || servers.master().await.filter(|name| name != "redis")).await;
    eventually("a message through the new master", async || {
        let eve = Guest::try_enter(&instances[1], "lobby", "Eve").await.ok()?;
        let bob = Guest::try_enter(&instances[0], "lobby", "Bob").await.ok()?;
        bob.says("back again");
        for guest in [&bob, &eve] {
            let answered = |line: &String| line == "Bob: back again" || line.starts_with("closed");
            guest.sees("an answer", |lines| lines.iter().any(answered)).await;
        }
        eve.lines().iter().any(|line| line == "Bob: back again").then_some(())
    })
    .await;

    servers.launch("redis");
    servers.follows("redis", &master).await;
}
