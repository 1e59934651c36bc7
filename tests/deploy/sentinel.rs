//! The compose file with Sentinel: its servers and sentinels as processes of this machine, and instances that use them.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::sleep;

use super::servers::Servers;
use crate::chat::Guest;
use crate::support::{DEADLINE, eventually, within};

const SENTINELS: [&str; 3] = ["sentinel-1", "sentinel-2", "sentinel-3"];

/// The master, its replicas and the sentinels.
struct Replicated(Servers);

impl Replicated {
    fn start() -> Self {
        let servers = Servers::of("deploy/compose.sentinel.yaml", |name| {
            name.starts_with("redis") || name.starts_with("sentinel")
        });
        let master = format!("localhost {} 2", servers.port("redis"));
        let files = ["redis.conf", "append-only.conf", "replicated.conf", "sentinel.conf", "start-from-copy"];
        servers.copy_files(&files, |text| text.replace("redis 6379 2", &master));
        let mut replicated = Self(servers);
        for name in replicated.0.names() {
            replicated.launch(&name);
        }
        replicated
    }

    /// Starts a server or sentinel with the command of its container, except for addresses.
    fn launch(&mut self, name: &str) {
        let master = format!("localhost {}", self.0.port("redis"));
        let mut command: Vec<_> = self
            .0
            .command(name)
            .into_iter()
            .map(|part| part.replace("redis 6379", &master))
            .map(|part| part.replace(&format!("announce-ip {name}"), "announce-ip localhost"))
            .collect();
        command.push(format!("port {}", self.0.port(name)));
        self.0.launch(name, &command);
    }

    /// Waits until every sentinel knows the others and both replicas, and the replicas have the data of the master.
    async fn are_complete(&self) {
        for sentinel in SENTINELS {
            eventually("sentinels that know each other", async || {
                let known: HashMap<String, String> = self.0.ask(sentinel, &["SENTINEL", "MASTER", "messages"]).await?;
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
        let master = (self.0.port(master), "connected".to_owned());
        let following = async {
            loop {
                let role: Option<(String, String, u16, String, i64)> = self.0.ask(replica, &["ROLE"]).await;
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
                self.0.ask(sentinel, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "messages"]).await?;
            assert_eq!(address.0, "localhost", "sentinels announce host names");
            masters.push(address.1);
        }
        masters.dedup();
        let [port] = *masters else { return None };
        self.0.at_port(port)
    }
}

#[tokio::test]
async fn the_chat_survives_a_killed_master_which_returns_as_a_replica() {
    let mut servers = Replicated::start();
    servers.are_complete().await;
    let instances = [servers.0.instance(26379).await, servers.0.instance(26379).await];
    let ada = Guest::enter(&instances[0], "lobby", "Ada").await;
    ada.sees_line("Ada joined").await;

    servers.0.kill("redis");
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
