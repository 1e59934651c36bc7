//! Two instances behind nginx.

use regex::Regex;

use super::nginx::{self, Nginx};
use super::{read, server_default};
use crate::chat::{Guest, Instance, get};
use crate::support::RedisServer;

struct Deployment {
    instances: [Instance; 2],
    nginx: Nginx,
    _redis: RedisServer,
}

impl Deployment {
    async fn start() -> Self {
        let redis = RedisServer::start();
        let options = ["--redis", &redis.url()];
        let instances = [Instance::start(&options).await, Instance::start(&options).await];
        let nginx = Nginx::before([&instances[0].address, &instances[1].address]).await;
        Self { instances, nginx, _redis: redis }
    }

    async fn enter(&self, name: &str) -> Guest {
        Guest::enter_at(&self.nginx.address(), "lobby", name).await.unwrap()
    }
}

#[test]
fn nginx_accepts_the_configuration() {
    let (accepted, said) = nginx::check();
    assert!(accepted && !said.contains("[warn]"), "{said}");
}

#[tokio::test]
async fn sockets_pass_through_and_outlive_a_reload() {
    let mut deployment = Deployment::start().await;
    let ada = deployment.enter("Ada").await;
    deployment.nginx.reload().await;
    let bob = deployment.enter("Bob").await;
    ada.sees_line("Bob joined").await;
    ada.says("still here");
    bob.sees_line("Ada: still here").await;
}

#[tokio::test]
async fn nginx_does_not_expose_health_metrics_and_status() {
    let redis = RedisServer::start();
    let options = ["--status", "--redis", &redis.url()];
    let instance = Instance::start(&options).await;
    let nginx = Nginx::before([&instance.address, &instance.address]).await;
    for path in ["/live", "/ready", "/metrics", "/status", "/health/redis"] {
        assert!(instance.get(path).await.starts_with("HTTP/1.1 200 "), "{path}");
        assert!(get(&nginx.address(), path).await.starts_with("HTTP/1.1 404 "), "{path}");
    }
    // The requests of the page.
    for path in ["/", "/chat.js", "/mode"] {
        assert!(get(&nginx.address(), path).await.starts_with("HTTP/1.1 200 "), "{path}");
    }
}

#[tokio::test]
async fn a_room_spans_clients_behind_nginx_and_of_an_instance() {
    let deployment = Deployment::start().await;
    let ada = deployment.enter("Ada").await;
    for (instance, name) in deployment.instances.iter().zip(["Bob", "Eve"]) {
        let other = Guest::enter(instance, "lobby", name).await;
        ada.sees_line(&format!("{name} joined")).await;
        ada.says(&format!("hello {name}"));
        other.sees_line(&format!("Ada: hello {name}")).await;
    }
}

/// All clients have the same address here, so nginx chooses the same instance for all. The test ends each instance
/// once.
#[tokio::test]
async fn nginx_skips_an_instance_that_has_ended() {
    for gone in [0, 1] {
        let mut deployment = Deployment::start().await;
        assert!(deployment.instances[gone].terminate().await.success());
        let ada = deployment.enter("Ada").await;
        ada.says("hello");
        ada.sees_line("Ada: hello").await;
    }
}

/// A socket may be silent for the ping interval, and then until the pong is late.
#[test]
fn the_timeouts_of_nginx_exceed_those_of_pings() {
    let ping = server_default("ping_interval") + server_default("pong_timeout");
    for directive in ["proxy_read_timeout", "proxy_send_timeout"] {
        let timeout = Regex::new(&format!(r"{directive} (\d+)s;")).unwrap();
        let configuration = read("deploy/nginx/nginx.conf");
        let timeout: u64 = timeout.captures(&configuration).unwrap()[1].parse().unwrap();
        assert!(timeout >= 2 * ping, "{directive}");
    }
}
