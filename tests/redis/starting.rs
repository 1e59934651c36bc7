//! An invalid configuration is refused at the start with a typed error that contains the value. The layer
//! waits for an unreachable server if another one is reachable.

use std::time::{Duration, Instant};

use channel_layer::{CapacityRule, ChannelLayer, Config, Error, Event, HybridLayer, MemoryLayer, RedisLayer};

use super::tools::{Site, ask, connect, event, number, numbered, take_number};
use crate::support::{DEADLINE, FakeServer, RedisServer, ReservedPort, eventually, within};

async fn refusal(config: Config) -> Error {
    within(DEADLINE, "a refusal", RedisLayer::connect(config)).await.expect_err("the configuration should be refused")
}

/// Returns all texts of an error: `Display`, causes and `Debug`.
fn everything(error: &Error) -> String {
    let mut said = Vec::new();
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        said.extend([error.to_string(), format!("{error:?}")]);
        next = error.source();
    }
    said.join("\n")
}

/// Returns the URL of a reserved port without a listener.
fn url_of(closed: &ReservedPort) -> String {
    format!("redis://127.0.0.1:{}/0", closed.number())
}

#[tokio::test]
async fn invalid_options_are_reported_with_their_values() {
    let new = Config::new;
    for (config, option, value) in [
        (new().hosts(Vec::<&str>::new()), "hosts", "[]"),
        (new().host("127.0.0.1:6379"), "hosts[0]", "..."),
        (new().host("http://127.0.0.1"), "hosts[0]", "http://..."),
        (new().host("redis://127.0.0.1").host("redis://127.0.0.1:nine"), "hosts[1]", "redis://..."),
        (new().host("redis://127.0.0.1/x"), "hosts[0]", "redis://..."),
        (new().host(""), "hosts[0]", ""),
        (new().expiry(Duration::ZERO), "expiry", "0 s"),
        (new().group_expiry(Duration::ZERO), "group_expiry", "0 s"),
        (new().capacity(0), "capacity", "0"),
        (new().channel_capacity(CapacityRule::glob("a*", 0)), "channel_capacity", "a*"),
        (new().channel_capacity(CapacityRule::regex("a(", 1)), "channel_capacity", "a("),
        (new().pool_size(0), "pool_size", "0"),
        (new().prefix(""), "prefix", "\"\""),
        (new().stats_prefix(""), "stats_prefix", "\"\""),
    ] {
        let error = refusal(config).await;
        let Error::InvalidConfig { option: named, value: shown, reason } = &error else { panic!("{error:?}") };
        assert_eq!((named.as_str(), shown.as_str()), (option, value), "{reason}");
        assert!(!error.is_transient() && !reason.is_empty());
    }
}

#[tokio::test]
async fn invalid_keys_are_reported_and_not_shown() {
    for (config, option) in [
        (Config::new().symmetric_encryption_keys([""]), "symmetric_encryption_keys"),
        (Config::new().symmetric_encryption_keys(["secret", ""]), "symmetric_encryption_keys"),
        (Config::new().symmetric_encryption_keys(["secret"]).accept_only_keys([""]), "accept_only_keys"),
        (Config::new().accept_only_keys(["secret"]), "symmetric_encryption_keys"),
    ] {
        let error = refusal(config).await;
        let Error::InvalidConfig { option: named, .. } = &error else { panic!("{error:?}") };
        assert!(named.starts_with(option), "{named}");
        assert!(!everything(&error).contains("secret"));
    }
    let error = Config::from_json(r#"{"symetric_encryption_keys": ["secret"]}"#).expect_err("it is misspelt");
    assert!(matches!(&error, Error::InvalidConfig { option, .. } if option == "symetric_encryption_keys"), "{error:?}");
    assert!(!everything(&error).contains("secret"));
}

#[tokio::test]
async fn an_unreachable_server_is_reported() {
    let closed = std::array::from_fn::<_, 3, _>(|_| ReservedPort::new());
    let error = refusal(Site::at([url_of(&closed[0])]).config()).await;
    assert!(matches!(error, Error::Redis { shard: 0, .. }), "{error:?}");
    assert!(error.is_transient());
    let address = format!("127.0.0.1:{}", closed[0].number());
    assert_eq!(error.to_string(), format!("cannot connect to Redis at {address}: connection refused"));
    let error = refusal(Site::at(closed.each_ref().map(url_of)).config()).await;
    assert!(matches!(error, Error::Redis { .. }), "{error:?}");
    let error = refusal(Config::new().host("unix:///nowhere/redis.sock")).await;
    assert_eq!(error.to_string(), "cannot connect to Redis at /nowhere/redis.sock: no such file or directory");
}

#[tokio::test]
async fn an_outage_of_the_remote_layer_does_not_delay_messages_of_the_local_one() {
    let closed = ReservedPort::new();
    let remote = RedisLayer::connect_or_wait(Site::at([url_of(&closed)]).config()).await.unwrap();
    let layer = HybridLayer::new(MemoryLayer::new(), remote);
    for n in 0..20 {
        layer.send("work", numbered(n)).await.unwrap();
    }
    for n in 0..20 {
        let delivery = within(DEADLINE, "a message", layer.receive(&["work", "reply!"])).await.unwrap();
        assert_eq!(number(&delivery), n);
    }
    let nothing = within(DEADLINE, "the outage", layer.receive(&["work", "reply!"])).await;
    assert!(matches!(nothing, Err(Error::Redis { .. })), "{nothing:?}");
}

#[tokio::test]
async fn one_of_three_servers_may_be_unreachable_at_the_start() {
    let mut servers = [RedisServer::start(), RedisServer::start(), RedisServer::start()];
    let site = Site::on(&servers);
    let pinned = site.pinned_channels(&*site.layer().await, &servers).await;
    servers[1].stop();
    let layer = site.layer().await;
    let mut events = layer.events();
    for n in 0..9 {
        layer.send("n", numbered(n)).await.unwrap();
    }
    let mut got = Vec::new();
    for _ in 0..9 {
        got.push(take_number(&layer, "n").await);
    }
    got.sort_unstable();
    assert_eq!(got, (0..9).collect::<Vec<_>>());
    for (shard, channel) in pinned.iter().enumerate() {
        let sent = layer.send(channel, numbered(1)).await;
        match sent {
            Err(Error::Redis { shard: failed, .. }) => assert_eq!((shard, failed), (1, 1)),
            _ => assert!(sent.is_ok() && shard != 1, "{sent:?}"),
        }
    }
    servers[1].start_again();
    event(&mut events, "the restarted server", |event| *event == Event::ShardUp { shard: 1 }).await;
    for channel in &pinned {
        layer.send(channel, numbered(2)).await.unwrap();
    }
    assert_eq!(take_number(&layer, &pinned[1]).await, 2);
    let mut connection = servers[1].connection().await;
    eventually("a message of a normal channel on this server", async || {
        layer.send("m", numbered(0)).await.unwrap();
        let there: i64 = ask(&mut connection, redis::cmd("EXISTS").arg(site.list("m"))).await;
        (there == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_silent_server_is_refused() {
    let silent = FakeServer::silent().await;
    let config = Site::at([silent.url()]).config();
    let config = config.connect_timeout(Duration::from_millis(200)).command_timeout(Duration::from_millis(300));
    let began = Instant::now();
    let error = refusal(config).await;
    assert!(matches!(error, Error::Redis { shard: 0, .. }), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_server_with_another_protocol_is_refused() {
    for answer in ["HTTP/1.1 400 Bad Request\r\n\r\n", "\r\n", "+OK\r\n", ":1\r\n", "$-1\r\n", "-ERR no\r\n", "*0\r\n"]
    {
        let other = FakeServer::saying(answer).await;
        let config = Site::at([other.url()]).config();
        let config = config.connect_timeout(Duration::from_millis(500)).command_timeout(Duration::from_millis(500));
        let error = refusal(config).await;
        assert!(
            matches!(error, Error::Redis { shard: 0, .. } | Error::UnsupportedServer { shard: 0, .. }),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_server_before_7_0_is_refused_with_its_version() {
    let new = RedisServer::start();
    for version in ["6.2.7", "6.0.16", "5.0.14", "2.8.0"] {
        let old = FakeServer::of_version(version).await;
        for urls in [vec![old.url()], vec![new.url(), old.url()]] {
            let last = urls.len() - 1;
            let error = refusal(Site::at(urls).config()).await;
            let Error::UnsupportedServer { shard, version: named, .. } = &error else { panic!("{error:?}") };
            assert_eq!((*shard, named.as_str()), (last, version));
            assert!(!error.is_transient() && error.to_string().contains(version));
        }
    }
}

#[tokio::test]
async fn a_wrong_password_is_not_shown() {
    let server = RedisServer::start();
    let port = server.url().replace("redis://127.0.0.1:", "");
    let mut connection = server.connection().await;
    let () = ask(&mut connection, redis::cmd("CONFIG").arg(&["SET", "requirepass", "the-right-one"])).await;
    let at = |user: &str| Site::at([format!("redis://{user}127.0.0.1:{port}")]);
    for user in ["", ":my-secret@", "somebody:my-secret@", ":the-right-one-not@"] {
        let error = refusal(at(user).config()).await;
        assert!(matches!(error, Error::Redis { shard: 0, .. }), "{error:?}");
        let said = everything(&error);
        assert!(!said.contains("my-secret") && !said.contains("the-right-one"), "{said}");
    }
    let layer = connect(at(":the-right-one@").config()).await;
    layer.send("n", numbered(1)).await.unwrap();
    assert_eq!(take_number(&layer, "n").await, 1);
    let shown = format!("{layer:?}");
    assert!(!shown.contains("the-right-one"), "{shown}");
}
