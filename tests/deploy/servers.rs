//! The servers of a compose file as processes of this machine, and an instance of the chat that uses them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use tempfile::TempDir;

use super::documents::{compose, texts};
use super::supervised::Supervised;
use super::{MOUNTED, read};
use crate::chat::Instance;
use crate::support::ReservedPort;

/// The services of a compose file that are servers of Redis, by name.
pub struct Servers {
    services: Json,
    ports: BTreeMap<String, ReservedPort>,
    processes: HashMap<String, Supervised>,
    dir: TempDir,
}

impl Servers {
    /// The services of the compose file that `is_server` selects. They are not started.
    pub fn of(file: &str, is_server: impl Fn(&str) -> bool) -> Self {
        let services = compose(file)["services"].take();
        let names = services.as_object().unwrap().keys().filter(|name| is_server(name));
        let ports = names.map(|name| (name.clone(), ReservedPort::new())).collect();
        Self { services, ports, processes: HashMap::new(), dir: tempfile::tempdir().unwrap() }
    }

    /// Copies files from `deploy/redis`, with the directory of the copies in place of the mounted one, and edited.
    pub fn copy_files(&self, names: &[&str], edit: impl Fn(String) -> String) {
        for name in names {
            let text = read(&format!("deploy/redis/{name}"))
                .replace(MOUNTED, self.files())
                .replace("bind * -::*", "bind 127.0.0.1 -::1");
            std::fs::write(self.dir.path().join(name), edit(text)).unwrap();
        }
    }

    /// The directory of the copies.
    pub fn files(&self) -> &str {
        self.dir.path().to_str().unwrap()
    }

    pub fn names(&self) -> Vec<String> {
        self.ports.keys().cloned().collect()
    }

    /// The command of a container, with the directory of the copies in place of the mounted one.
    pub fn command(&self, name: &str) -> Vec<String> {
        let command = texts(&self.services[name]["command"]);
        command.into_iter().map(|part| part.replace(MOUNTED, self.files())).collect()
    }

    /// Starts a server in a directory of its own.
    pub fn launch(&mut self, name: &str, command: &[String]) {
        let dir = self.work_dir(name);
        std::fs::create_dir_all(&dir).unwrap();
        let command: Vec<_> = command.iter().map(String::as_str).collect();
        self.processes.insert(name.to_owned(), Supervised::start(&dir, &command));
    }

    pub fn kill(&mut self, name: &str) {
        self.processes.remove(name).expect("it runs").signal("KILL");
    }

    pub fn port(&self, name: &str) -> u16 {
        self.ports[name].number()
    }

    /// The name of the server with this port.
    pub fn at_port(&self, port: u16) -> Option<String> {
        self.ports.iter().find(|(_, reserved)| reserved.number() == port).map(|(name, _)| name.clone())
    }

    pub fn work_dir(&self, name: &str) -> PathBuf {
        Path::new(self.files()).join("data").join(name)
    }

    /// Returns the answer of a server to a command; `None` if the call fails.
    pub async fn ask<T: redis::FromRedisValue>(&self, name: &str, command: &[&str]) -> Option<T> {
        let client = redis::Client::open(("127.0.0.1", self.port(name))).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.ok()?;
        redis::cmd(command[0]).arg(&command[1..]).query_async(&mut connection).await.ok()
    }

    /// Starts an instance with the command and the environment of `demo-1`. Each server in the environment, as
    /// `<name>:<usual_port>`, has the address of its process.
    pub async fn instance(&self, usual_port: u16) -> Instance {
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
            for name in self.ports.keys() {
                value = value.replace(&format!("{name}:{usual_port}"), &format!("127.0.0.1:{}", self.port(name)));
            }
            environment.push((variable.clone(), value));
        }
        let variables: Vec<_> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Instance::run(&arguments, &variables).await
    }
}
