//! The access list in `deploy/redis` allows exactly the commands that layers use.

use std::time::Duration;

use channel_layer::health::Status;
use channel_layer::redis::quarantine::Restored;
use channel_layer::{Bytes, ChannelLayer, Config, Format, message};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use super::tools::{Site, ask, connect, number, numbered, publishes, shares_with_python};
use crate::support::{DEADLINE, RedisServer, eventually, name_of, python_formats, within};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/redis/users.acl");

/// Starts a server with the users of the file. Returns it with an unrestricted connection.
async fn server() -> (RedisServer, MultiplexedConnection) {
    let server = RedisServer::start();
    let mut connection = server.connection().await;
    for line in std::fs::read_to_string(FILE).unwrap().lines() {
        let rules: Vec<_> = line.split_whitespace().collect();
        if let ["user", rest @ ..] = &rules[..]
            && rest[0] != "default"
        {
            let () = ask(&mut connection, redis::cmd("ACL").arg("SETUSER").arg(rest)).await;
        }
    }
    (server, connection)
}

fn url(server: &RedisServer, user: &str) -> String {
    format!("redis://{user}:change-me@127.0.0.1:{}", server.port())
}

/// Returns the refusals of the server since the last call.
async fn refused(connection: &mut MultiplexedConnection) -> Vec<redis::Value> {
    let log = ask(connection, redis::cmd("ACL").arg("LOG")).await;
    let () = ask(connection, redis::cmd("ACL").arg(&["LOG", "RESET"])).await;
    log
}

#[tokio::test]
async fn the_file_loads_and_no_user_may_connect_without_a_password() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users.acl");
    std::fs::write(&file, "user default on nopass ~* &* +@all\n").unwrap();
    let server = RedisServer::with(&["--aclfile", file.to_str().unwrap()]);
    let mut connection = server.connection().await;
    std::fs::copy(FILE, &file).unwrap();
    let () = ask(&mut connection, redis::cmd("ACL").arg("LOAD")).await;

    let without = redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let refused = redis::cmd("PING")
        .query_async::<String>(&mut without.clone())
        .await
        .expect_err("the connection has not logged in");
    assert_eq!(refused.code(), Some("NOAUTH"), "{refused}");
    let admin = redis::Client::open(url(&server, "admin")).unwrap();
    let mut admin = admin.get_multiplexed_async_connection().await.unwrap();
    let mut users: Vec<String> = ask(&mut admin, redis::cmd("ACL").arg("USERS")).await;
    users.sort();
    let ours = ["channel-layer", "channel-layer-asgi-redis", "channel-layer-channels-redis", "channel-layer-pubsub"];
    assert_eq!(users, [&["admin"], &ours[..], &["default"]].concat());
}

#[tokio::test]
async fn the_user_of_the_native_format_may_use_all_operations_of_a_layer() {
    let (server, mut connection) = server().await;
    // The access list allows only keys with the default prefixes.
    let config = || Config::new().host(url(&server, "channel-layer")).blocking_timeout(Duration::from_secs(1));
    let (layer, other) = (connect(config()).await, connect(config().capacity(1)).await);

    for (to, from) in [("n", "n"), ("l!a", "l!"), ("s?a", "s?a")] {
        let reading = other.clone();
        let waiting = tokio::spawn(async move { reading.receive(&[from]).await });
        layer.group_add("g", to).await.unwrap();
        layer.group_send("g", numbered(1)).await.unwrap();
        // The second send uses the known routes of the group.
        assert_eq!(number(&within(DEADLINE, "a message", waiting).await.unwrap().unwrap()), 1);
        layer.group_send("g", numbered(2)).await.unwrap();
        assert_eq!(layer.group_channels("g").await.unwrap(), [to]);
        layer.group_discard("g", to).await.unwrap();
        let large = message! { "bytes": Bytes::from(vec![0; 1 << 20]) };
        let sent = layer.send_many(&[(to, numbered(3)), (to, large)]).await;
        assert!(sent.iter().all(Result::is_ok), "{sent:?}");
        other.send(to, numbered(4)).await.unwrap_err();
        // A reader that knows the sizes prefetches messages, and puts them back when it is closed.
        let mut receiver = layer.receiver(&[from]).unwrap();
        for _ in 0..2 {
            receiver.recv().await.unwrap();
        }
        receiver.close().await.unwrap();
        while layer.try_receive(&[from]).await.unwrap().is_some() {}
        layer.channel_statistics(to).await.unwrap();
    }
    // A sender whose expiry is longer than the time for which the group remembers ended memberships.
    layer.group_add("g", "l!a").await.unwrap();
    connect(config().expiry(Duration::from_mins(10))).await.group_send("g", numbered(5)).await.unwrap();
    assert_eq!(number(&within(DEADLINE, "a message", layer.receive(&["l!"])).await.unwrap()), 5);
    layer.new_channel("new?").await.unwrap();
    // Bytes that are not a message go to quarantine, and so does a message with an unknown key.
    let _: i64 = connection.rpush("asgi:channel:{bad?a}", "no entry").await.unwrap();
    assert!(layer.try_receive(&["bad?a"]).await.unwrap().is_none());
    let keyed = connect(config().symmetric_encryption_keys(["a key"])).await;
    keyed.send("bad?a", numbered(6)).await.unwrap();
    assert!(layer.try_receive(&["bad?a"]).await.unwrap().is_none());
    let entries = eventually("both in quarantine", async || {
        let entries = keyed.quarantine().entries().await.unwrap().complete().unwrap();
        (entries.len() == 2).then_some(entries)
    })
    .await;
    assert_eq!(keyed.quarantine().restore(&[entries[1].id]).await.unwrap().complete().unwrap(), [Restored::Restored]);
    assert_eq!(keyed.quarantine().delete(&[entries[0].id]).await.unwrap().complete().unwrap(), 1);
    assert_eq!(number(&within(DEADLINE, "a message", keyed.receive(&["bad?a"])).await.unwrap()), 6);
    assert_eq!(layer.health().await.status, Status::Healthy);
    layer.redis_stats().await.unwrap();
    layer.global_statistics().await.unwrap();
    layer.flush().await.unwrap();
    settings_are_published(&connection).await;
    layer.close().await.unwrap();
    other.close().await.unwrap();
    let refused = refused(&mut connection).await;
    assert!(refused.is_empty(), "{refused:?}");
}

#[tokio::test]
async fn the_user_of_pubsub_may_use_all_operations_of_a_layer() {
    let (server, mut connection) = server().await;
    let config = || Config::new().host(url(&server, "channel-layer-pubsub"));
    publishes(config()).await;
    publishes(config().sharded_pubsub(true)).await;
    let refused = refused(&mut connection).await;
    assert!(refused.is_empty(), "{refused:?}");
}

/// Waits until a process has been connected for long enough to publish its settings.
async fn settings_are_published(connection: &MultiplexedConnection) {
    eventually("the settings", async || {
        let stats: String = ask(&mut connection.clone(), redis::cmd("INFO").arg("commandstats")).await;
        stats.contains("cmdstat_zremrangebyrank:").then_some(())
    })
    .await;
}

/// Uses all operations of a layer in one of Python's formats as `user`. Returns the refusals, and the allowed commands
/// that were not used.
async fn does_everything(format: Format, user: &str) -> (Vec<redis::Value>, Vec<String>) {
    let (server, mut connection) = server().await;
    let () = ask(&mut connection, redis::cmd("CONFIG").arg("RESETSTAT")).await;
    let config = || {
        let config = Config::new().host(format!("{}/1", url(&server, user))).format(format);
        config.blocking_timeout(Duration::from_secs(1)).connect_timeout(DEADLINE).command_timeout(DEADLINE)
    };
    let connect = async |config: Config| channel_layer::connect(config).await.unwrap();
    let (layer, other) = (connect(config()).await, connect(config().capacity(1)).await);
    for (to, from) in [("n", "n"), ("l!a", "l!"), ("s?a", "s?a")] {
        let reading = other.clone();
        let waiting = tokio::spawn(async move { reading.receive(&[from]).await });
        layer.group_add("g", to).await.unwrap();
        layer.group_send("g", numbered(1)).await.unwrap();
        assert_eq!(number(&within(DEADLINE, "a message", waiting).await.unwrap().unwrap()), 1);
        assert_eq!(layer.group_channels("g").await.unwrap(), [to]);
        layer.group_discard("g", to).await.unwrap();
        let sent = layer.send_many(&[(to, numbered(2)), (to, numbered(3)), (to, numbered(4))]).await;
        assert!(sent.iter().all(Result::is_ok), "{sent:?}");
        other.send(to, numbered(5)).await.unwrap_err();
        // A reader that knows the sizes prefetches messages, and puts them back when it is closed.
        let mut receiver = layer.receiver(&[from]).unwrap();
        for _ in 0..2 {
            receiver.recv().await.unwrap();
        }
        receiver.close().await.unwrap();
        layer.channel_statistics(to).await.unwrap();
        while layer.try_receive(&[from]).await.unwrap().is_some() {}
        // A read without a waiting caller is ended on the server.
        assert!(tokio::time::timeout(Duration::from_millis(100), layer.receive(&[from])).await.is_err());
    }
    layer.new_channel("new?").await.unwrap();
    let health = layer.health().await;
    assert_eq!(health.status, Status::Healthy, "{health:?}");
    layer.redis_stats().await.unwrap();
    layer.send("n", numbered(6)).await.unwrap();
    layer.global_statistics().await.unwrap();
    layer.flush().await.unwrap();
    settings_are_published(&connection).await;
    layer.close().await.unwrap();
    other.close().await.unwrap();
    let refused = refused(&mut connection).await;
    let stats: String = ask(&mut connection, redis::cmd("INFO").arg("commandstats")).await;
    let is_used = |command: &str| stats.contains(&format!("cmdstat_{command}:"));
    (refused, allowed(user).into_iter().filter(|command| !is_used(command)).collect())
}

/// Returns the commands that `user` may use.
fn allowed(user: &str) -> Vec<String> {
    let file = std::fs::read_to_string(FILE).unwrap();
    let line = file.lines().find(|line| line.split(' ').nth(1) == Some(user)).expect("the user is in the file");
    line.split(' ').filter_map(|rule| rule.strip_prefix('+')).map(str::to_owned).collect()
}

#[tokio::test]
async fn the_users_of_the_formats_of_python_may_use_exactly_the_commands_of_a_layer() {
    for format in python_formats() {
        let user = format!("channel-layer-{}", name_of(format).replace('_', "-"));
        let (refused, unused) = does_everything(format, &user).await;
        assert!(refused.is_empty() && unused.is_empty(), "{user}: refused: {refused:?}; unused: {unused:?}");
    }
}

#[tokio::test]
async fn all_other_commands_and_keys_are_refused() {
    let (server, _connection) = server().await;
    for (user, own) in [
        ("channel-layer", "asgi:x"),
        ("channel-layer-pubsub", "x"),
        ("channel-layer-channels-redis", "asgix"),
        ("channel-layer-asgi-redis", "asgi:x"),
    ] {
        let client = redis::Client::open(url(&server, user)).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        for command in [
            &["CONFIG", "GET", "*"][..],
            &["FLUSHALL"],
            &["KEYS", "*"],
            &["ACL", "LIST"],
            &["SHUTDOWN"],
            &["MONITOR"],
            &["HGETALL", own],
            &["GET", "other"],
            &["ZADD", "other", "1", "x"],
            &["CLIENT", "KILL", "TYPE", "normal"],
        ] {
            let answer = redis::cmd(command[0]).arg(&command[1..]).query_async::<redis::Value>(&mut connection).await;
            let error = answer.expect_err(command[0]);
            assert_eq!(error.code(), Some("NOPERM"), "{command:?}: {error}");
        }
    }
}

#[tokio::test]
async fn layers_log_in_over_a_unix_socket() {
    let server = RedisServer::unix();
    let mut connection = server.connection().await;
    let () = ask(
        &mut connection,
        redis::cmd("ACL").arg(&["SETUSER", "u", "on", ">p w&?", "allkeys", "allchannels", "+@all"]),
    )
    .await;
    let with = |login: &str| Site::at([format!("{}?{login}", server.url())]).config();
    let layer = connect(with("db=3&user=u&pass=p%20w%26%3F")).await;
    layer.send("n", numbered(1)).await.unwrap();
    publishes(with("user=u&pass=p%20w%26%3F")).await;
    shares_with_python(with("db=3&user=u&pass=p%20w%26%3F")).await;
    let spaces: String = ask(&mut connection, redis::cmd("INFO").arg("keyspace")).await;
    assert!(spaces.contains("db3:") && !spaces.contains("db0:"), "{spaces}");
    let error = channel_layer::RedisLayer::connect(with("user=u&pass=my-secret")).await.expect_err("it is refused");
    let said = format!("{error}: {error:?}");
    assert!(said.contains("WRONGPASS") || said.to_lowercase().contains("auth"), "{said}");
    assert!(!said.contains("my-secret"), "{said}");
}
