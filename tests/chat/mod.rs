//! The chat of the program: real processes, real sockets, one Redis.

mod browser;
mod guest;
mod instance;

use std::time::Duration;

pub use self::guest::Guest;
use self::instance::fails;
pub use self::instance::{Instance, get};
use crate::support::{RedisServer, eventually, within};

#[tokio::test]
async fn a_room_spans_processes() {
    let redis = RedisServer::start();
    let options = ["--redis", &redis.url(), "--encryption-key", "a key for tests"];
    let (first, second) = (Instance::start(&options).await, Instance::start(&options).await);
    let ada = Guest::enter(&first, "tea room", "Ada").await;
    let bob = Guest::enter(&second, "tea room", "Bob").await;
    let eve = Guest::enter(&second, "another room", "Eve").await;
    ada.sees_line("Bob joined").await;
    ada.sees_people(&["Ada", "Bob"]).await;
    bob.sees_people(&["Ada", "Bob"]).await;

    ada.says("hello from the first");
    bob.sees_line("Ada: hello from the first").await;
    bob.says("hello from the second");
    ada.sees_line("Bob: hello from the second").await;
    eve.says("is anybody here?");
    eve.sees_line("Eve: is anybody here?").await;
    assert_eq!(eve.lines(), ["Eve joined", "Eve: is anybody here?"]);

    bob.leaves();
    ada.sees_line("Bob left").await;
    ada.sees_people(&["Ada"]).await;
}

#[tokio::test]
async fn a_room_on_pubsub_works_during_an_outage_and_reaches_other_processes_again() {
    let mut redis = RedisServer::start();
    let url = redis.url();
    let variables = [("REDIS_ENABLED", "true"), ("REDIS_PUBSUB_ENABLED", "true"), ("REDIS_URL", &*url)];
    let demo = ["demo", "--port", "0"];
    let (first, second) = (Instance::run(&demo, &variables).await, Instance::run(&demo, &variables).await);
    let ada = Guest::enter(&first, "lobby", "Ada").await;
    let ann = Guest::enter(&first, "lobby", "Ann").await;
    let bob = Guest::enter(&second, "lobby", "Bob").await;
    ada.sees_people(&["Ada", "Ann", "Bob"]).await;
    ada.says("hello");
    bob.sees_line("Ada: hello").await;

    let mode = async |instance: &Instance, fallback: bool| {
        let field = format!(r#""fallback_mode":{fallback}"#);
        let mode = if fallback { "local_only" } else { "remote" };
        let reported = async || {
            let health = instance.get("/health/redis").await.contains(&field);
            (health && instance.get("/mode").await.ends_with(&format!("\r\n\r\n{mode}"))).then_some(())
        };
        eventually(&format!("an instance with {field}"), reported).await;
    };
    redis.stop();
    mode(&first, true).await;
    ada.says("on our own");
    ann.sees_line("Ada: on our own").await;
    redis.start_again();
    mode(&first, false).await;
    mode(&second, false).await;
    bob.says("back again");
    for guest in [&ada, &ann] {
        guest.sees_line("Bob: back again").await;
    }
    let messages = ann.lines().iter().filter(|line| line.starts_with("Ada: ") || line.starts_with("Bob: ")).count();
    assert_eq!(messages, 3, "{:?}", ann.lines());
    assert!(!bob.lines().contains(&"Ada: on our own".to_owned()));
}

#[tokio::test]
async fn an_instance_serves_its_health_and_documented_metrics() {
    let redis = RedisServer::start();
    let alone = Instance::start(&[]).await;
    assert!(alone.get("/health/redis").await.contains(r#"{"status":"disabled""#));
    let instance = Instance::start(&["--redis", &redis.url()]).await;
    let ada = Guest::enter(&instance, "tea room", "Ada").await;
    ada.says("hello");
    ada.sees_line("Ada: hello").await;
    for path in ["/live", "/ready"] {
        assert!(instance.get(path).await.starts_with("HTTP/1.1 200"), "{path}");
    }
    assert!(instance.get("/health/redis").await.contains(r#"{"status":"healthy""#));
    let metrics = instance.get("/metrics").await;
    for metric in ["channel_layer_sent_total", "channel_layer_received_total", "channel_layer_batch_size_bucket"] {
        assert!(metrics.lines().any(|line| line.starts_with(metric)), "{metric} is missing in {metrics}");
    }
    let documented = crate::metrics::documented();
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let ours: Vec<_> = types.filter(|line| line.starts_with("channel_layer_")).collect();
    assert!(ours.len() > 5, "{metrics}");
    for line in ours {
        let name = line.split(' ').next().unwrap();
        assert!(documented.contains_key(name), "{name} is not in docs/operations.md");
    }
}

#[tokio::test]
async fn rooms_work_on_several_shards() {
    let servers: Vec<_> = (0..3).map(|_| RedisServer::start()).collect();
    let urls: Vec<_> = servers.iter().map(RedisServer::url).collect();
    let options: Vec<_> = urls.iter().flat_map(|url| ["--redis", url]).collect();
    let (first, second) = (Instance::start(&options).await, Instance::start(&options).await);
    for room in ["a", "b", "c", "d", "e", "f"] {
        let ada = Guest::enter(&first, room, "Ada").await;
        let bob = Guest::enter(&second, room, "Bob").await;
        ada.sees_people(&["Ada", "Bob"]).await;
        bob.sees_people(&["Ada", "Bob"]).await;
        bob.says("hi");
        ada.sees_line("Bob: hi").await;
    }
}

#[tokio::test]
async fn the_clients_of_a_killed_process_disappear() {
    let redis = RedisServer::start();
    let options = ["--redis", &redis.url()];
    let (first, mut second) = (Instance::start(&options).await, Instance::start(&options).await);
    let ada = Guest::enter(&first, "lobby", "Ada").await;
    let bob = Guest::enter(&second, "lobby", "Bob").await;
    ada.sees_people(&["Ada", "Bob"]).await;
    second.kill().await;
    bob.sees_line("closed with 1006").await;
    ada.sees_people(&["Ada"]).await;
    ada.says("alone");
    ada.sees_line("Ada: alone").await;
}

#[tokio::test]
async fn a_terminated_process_closes_its_sockets_and_announces_its_clients_as_gone() {
    let redis = RedisServer::start();
    let options = ["--redis", &redis.url()];
    let (first, mut second) = (Instance::start(&options).await, Instance::start(&options).await);
    let ada = Guest::enter(&first, "lobby", "Ada").await;
    let bob = Guest::enter(&second, "lobby", "Bob").await;
    ada.sees_people(&["Ada", "Bob"]).await;
    assert!(second.terminate().await.success());
    bob.sees_line("closed with 1001").await;
    ada.sees_line("Bob left").await;
}

#[tokio::test]
async fn clients_can_reconnect_after_redis_lost_its_data() {
    let mut redis = RedisServer::start();
    let instance = Instance::start(&["--redis", &redis.url()]).await;
    let ada = Guest::enter(&instance, "lobby", "Ada").await;
    ada.sees_line("Ada joined").await;
    redis.restart();
    // The code is 1012 for the loss, or 1013 if Ada announced herself during the outage.
    ada.sees("the socket to close", |lines| lines.iter().any(|line| line.starts_with("closed with 101"))).await;
    eventually("a message after the reconnect", async || {
        let ada = Guest::try_enter(&instance, "lobby", "Ada").await.ok()?;
        ada.says("back again");
        let answered = |line: &String| line == "Ada: back again" || line.starts_with("closed");
        ada.sees("an answer", |lines| lines.iter().any(answered)).await;
        ada.lines().iter().any(|line| line == "Ada: back again").then_some(())
    })
    .await;
}

#[tokio::test]
async fn one_process_needs_no_redis() {
    let instance = Instance::start(&[]).await;
    let page = instance.get("/").await;
    assert!(
        page.starts_with("HTTP/1.1 200 ") && page.contains("content-security-policy: default-src 'none'"),
        "{page}"
    );
    assert!(instance.get("/nothing").await.starts_with("HTTP/1.1 404 "));
    let ada = Guest::enter(&instance, "lobby", "Ada").await;
    ada.says("hello");
    ada.sees_line("Ada: hello").await;
    ada.says(&"x".repeat(2_001));
    ada.sees_line("error: A message has at most 2000 characters.").await;
}

#[tokio::test]
async fn an_invalid_room_or_name_is_refused_with_the_reason() {
    let instance = Instance::start(&[]).await;
    for (room, name, reason) in [
        (" ", "Ada", "error: Please choose a room."),
        ("lobby", &*"x".repeat(33), "error: A name has at most 32 characters."),
    ] {
        let guest = Guest::enter(&instance, room, name).await;
        guest.sees_line("closed with 4400").await;
        assert_eq!(guest.lines()[0], reason);
    }
}

#[tokio::test]
async fn a_failed_start_reports_the_reason() {
    let cases: [(&[&str], &str); 4] = [
        (&["--redis", "redis://127.0.0.1:1"], "cannot connect to Redis at 127.0.0.1:1: connection refused"),
        (&["--redis", "http://example.org"], "hosts[0] = http://..."),
        (&["--encryption-key", ""], "symmetric_encryption_keys"),
        (&["--host", "192.0.2.1"], "cannot listen on 192.0.2.1:8000"),
    ];
    for (options, reason) in cases {
        let said = within(Duration::from_secs(20), "the end of the program", fails(options)).await;
        let last = said.lines().last().unwrap_or_default();
        assert!(last.starts_with("channel-layer: ") && last.contains(reason), "{options:?}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}
