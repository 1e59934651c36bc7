//! The test servers behave as the tests expect.

use std::net::TcpStream;
use std::time::Duration;

use redis::AsyncCommands;

use super::{DEADLINE, Proxy, RedisServer, eventually, shared_servers, shared_unix_server, within};

async fn value(server: &RedisServer) -> Option<String> {
    server.connection().await.get("key").await.unwrap()
}

async fn set(server: &RedisServer) {
    let () = server.connection().await.set("key", "value").await.unwrap();
}

#[tokio::test]
async fn a_server_restarts_empty_at_the_same_address() {
    let mut server = RedisServer::start();
    let url = server.url();
    set(&server).await;
    server.restart();
    assert_eq!((server.url(), value(&server).await), (url, None));
}

#[tokio::test]
async fn a_durable_server_restarts_with_its_data() {
    let mut server = RedisServer::durable();
    set(&server).await;
    server.restart();
    assert_eq!(value(&server).await.as_deref(), Some("value"));
}

#[tokio::test]
async fn a_frozen_server_goes_on_when_thawed() {
    let mut server = RedisServer::start();
    set(&server).await;
    let mut connection = server.connection().await;
    server.freeze();
    let frozen: Result<Result<Option<String>, _>, _> =
        tokio::time::timeout(Duration::from_millis(100), connection.get("key")).await;
    assert!(frozen.is_err(), "a frozen server answered");
    server.thaw();
    assert_eq!(within(DEADLINE, "the thawed server", value(&server)).await.as_deref(), Some("value"));
}

/// Returns the clock of a server, in seconds since 1970.
async fn time(server: &RedisServer) -> i64 {
    let (seconds, _): (i64, i64) = redis::cmd("TIME").query_async(&mut server.connection().await).await.unwrap();
    seconds
}

#[tokio::test]
async fn the_clock_of_a_server_can_be_set() {
    let mut server = RedisServer::with_clock(&[]);
    let start = time(&server).await;
    for ahead in [1000, -1000] {
        server.set_clock(ahead);
        assert!((0..100).contains(&(time(&server).await - start - ahead)));
    }
    server.restart();
    assert!((0..100).contains(&(time(&server).await - start + 1000)));
}

#[tokio::test]
async fn a_server_and_its_directory_end_when_dropped() {
    let server = RedisServer::start();
    let (address, dir) = (server.url().replace("redis://", "").replace("/0", ""), server.dir().to_owned());
    assert!(TcpStream::connect(&address).is_ok() && dir.exists());
    drop(server);
    eventually("the end of the server", async || TcpStream::connect(&address).is_err().then_some(())).await;
    assert!(!dir.exists());
}

#[tokio::test]
async fn shared_servers_are_four() {
    let mut urls: Vec<_> = shared_servers().iter().map(RedisServer::url).collect();
    urls.push(shared_unix_server().url());
    urls.dedup();
    assert_eq!(urls.len(), 4);
    let _: i64 = redis::cmd("DBSIZE").query_async(&mut shared_unix_server().connection().await).await.unwrap();
}

#[tokio::test]
async fn a_half_open_connection_carries_what_it_held_up_when_thawed() {
    let server = RedisServer::start();
    let proxy = Proxy::before(&server.url()).await;
    let mut connection = RedisServer::connection_to(&proxy.url()).await.unwrap();
    proxy.freeze();
    let ping = redis::cmd("PING");
    let mut answer = std::pin::pin!(ping.query_async::<String>(&mut connection));
    let early = tokio::time::timeout(Duration::from_millis(100), &mut answer).await;
    assert!(early.is_err(), "{early:?}");
    proxy.thaw();
    assert_eq!(within(DEADLINE, "the answer", answer).await.unwrap(), "PONG");
}
