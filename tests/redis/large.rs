//! Batches of large messages, which are appended by a transaction.

use channel_layer::{ChannelLayer, Error, Message, RedisLayer, Result, message};

use super::tools::{Site, ask, connect, entries, take_numbers};
use crate::support::{RedisServer, shared_servers};

const MESSAGES: i64 = 60;
const CAPACITY: usize = 40;

fn large(number: i64) -> Message {
    message! { "number": number, "body": vec![b'x'; 4000] }
}

async fn send_all(layer: &RedisLayer, channel: &str) -> Vec<Result<()>> {
    let messages: Vec<_> = (0..MESSAGES).map(|number| (channel, large(number))).collect();
    layer.send_many(&messages).await
}

fn accepted(results: &[Result<()>]) -> usize {
    results.iter().filter(|result| result.is_ok()).count()
}

/// How often each command was run.
async fn runs(server: &RedisServer) -> String {
    ask(&mut server.connection().await, redis::cmd("INFO").arg("commandstats")).await
}

#[tokio::test]
async fn large_messages_fill_a_channel_exactly_and_in_order() {
    let site = Site::on(&shared_servers()[..1]);
    let layer = connect(site.config().capacity(CAPACITY)).await;
    let results = send_all(&layer, "large").await;
    assert_eq!(accepted(&results), CAPACITY);
    for refused in &results[CAPACITY..] {
        assert!(matches!(refused, Err(Error::ChannelFull { channel }) if channel.as_str() == "large"), "{refused:?}");
    }
    let statistics = layer.channel_statistics("large").await.unwrap();
    let (sent, refused) = (CAPACITY as u64, MESSAGES.unsigned_abs() - CAPACITY as u64);
    assert_eq!((statistics.messages_count, statistics.channel_full_count), (sent, refused));
    assert_eq!(take_numbers(&layer, "large").await, (0..MESSAGES).take(CAPACITY).collect::<Vec<_>>());
}

#[tokio::test]
async fn large_messages_are_sent_to_a_server_without_loaded_scripts() {
    let server = RedisServer::start();
    let layer = Site::on(std::slice::from_ref(&server)).layer().await;
    let _: () = ask(&mut server.connection().await, redis::cmd("SCRIPT").arg("FLUSH")).await;
    assert_eq!(accepted(&send_all(&layer, "large").await), 60);
    let stats = runs(&server).await;
    assert!(stats.contains("cmdstat_exec:calls=1,") && stats.contains("cmdstat_eval:calls=1,"), "{stats}");
    assert_eq!(take_numbers(&layer, "large").await, (0..MESSAGES).collect::<Vec<_>>());
}

#[tokio::test]
async fn large_messages_are_refused_as_a_whole_by_a_server_without_memory() {
    let server = RedisServer::start();
    let site = Site::on(std::slice::from_ref(&server));
    let layer = site.layer().await;
    let mut connection = server.connection().await;
    let _: () = ask(&mut connection, redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(1)).await;
    assert_eq!(accepted(&send_all(&layer, "large").await), 0);
    assert!(entries(&mut connection, &site.list("large")).await.is_empty());
    let _: () = ask(&mut connection, redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(0)).await;
    assert_eq!(accepted(&send_all(&layer, "large").await), 60);
}
