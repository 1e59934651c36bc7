//! Readers skip bytes that are not a message of Python's layers, and continue with the next message.

use std::time::{SystemTime, UNIX_EPOCH};

use redis::AsyncCommands;

use super::ends::{Ends, number, numbered};
use super::rust::source;
use super::side::Side;
use super::site::Site;

/// Returns bodies that are not messages.
pub fn bodies() -> Vec<Vec<u8>> {
    let deep = |open: &[u8]| [b"\x81\xa1a", &open.repeat(100_000)[..], b"\x01"].concat();
    let mut bodies: Vec<&[u8]> = vec![
        b"",
        b"\xc1",
        b"\xc0",
        b"\x01",
        b"\x93\x01\x02\x03",
        b"\xa3abc",
        b"\x81",
        b"\x81\xa1a",
        // Keys that are not text, an extension type, and trailing bytes.
        b"\x81\x01\x01",
        b"\x81\xa1a\xd4\x01\x01",
        b"\x81\xa1a\x01trailing",
        b"\x81\xa1\xff\x01",
        b"\x81\xa1a\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
        b"{\"type\": 1",
        b"[]",
        b"null",
        b"\"text\"",
        b"{\"a\": 1} {}",
        b"{\"a\": \"\\ud800\"}",
    ];
    let bombs = [deep(b"\x91"), deep(b"\x81\xa1a"), deep(b"\xdd\xff\xff\xff\xff"), b"[".repeat(100_000)];
    bodies.extend(bombs.iter().map(Vec::as_slice));
    bodies.into_iter().map(<[u8]>::to_vec).collect()
}

/// Returns bodies with invalid routing.
fn routings() -> Vec<Vec<u8>> {
    let bodies: [&[u8]; 6] = [
        b"\x81\xb0__asgi_channel__\x01",
        b"\x81\xb0__asgi_channel__\xa0",
        b"\x81\xb0__asgi_channel__\xa9bad name!",
        b"\x81\xb0__asgi_channel__\x91\x01",
        b"\x81\xb0__asgi_channel__\xc0",
        b"{\"__asgi_channel__\": 1}",
    ];
    bodies.map(<[u8]>::to_vec).into()
}

/// Writes each of `rows` with `write`, and sends a message from Python after it. All messages must arrive, and nothing
/// else.
async fn assert_messages_arrive_among(ends: &Ends, channel: &str, rows: Vec<Vec<u8>>, write: impl AsyncFn(&[u8])) {
    let rows: Vec<_> = rows.into_iter().zip(1..).collect();
    for (row, number) in &rows {
        write(row).await;
        ends.python.send(channel, &numbered(*number)).await;
    }
    for (row, expected) in &rows {
        let shown = &row[..row.len().min(40)];
        assert_eq!(number(&ends.rust, channel).await, *expected, "after {shown:x?}");
    }
    assert_eq!(ends.rust.layer.try_receive(&[source(channel)]).await.unwrap(), None);
}

/// Returns a normal and a process-local channel, each with the end of its key.
async fn channels(ends: &Ends) -> [(String, String); 2] {
    let local = ends.rust.new_local_channel().await;
    ["channel".to_owned(), local].map(|channel| (channel.clone(), source(&channel).to_owned()))
}

async fn asgi_redis_continues(site: Site) {
    let ends = Ends::of(site).await;
    let redis = ends.site.redis().await;
    let prefix = ends.site.prefix();
    for (channel, key) in channels(&ends).await {
        assert_messages_arrive_among(&ends, &channel, [bodies(), routings()].concat(), async |body| {
            let (mut redis, message) = (redis.clone(), format!("{prefix}{:032x}", rand::random::<u128>()));
            let () = redis.set(&message, body).await.unwrap();
            let () = redis.rpush(format!("{prefix}{key}"), message).await.unwrap();
        })
        .await;
        // Entries that are not keys of messages.
        let () = redis.clone().hset(format!("{prefix}hash"), "a", "b").await.unwrap();
        let entries = ["", "\0", "nothing", "\u{1f980}", &format!("{prefix}nothing"), &format!("{prefix}hash"), &key];
        let entries = entries.iter().map(|entry| entry.as_bytes().to_vec()).chain([vec![0xff; 500]]).collect();
        assert_messages_arrive_among(&ends, &channel, entries, async |entry| {
            let () = redis.clone().rpush(format!("{prefix}{key}"), entry).await.unwrap();
        })
        .await;
    }
}

#[tokio::test]
async fn a_reader_of_asgi_redis_continues() {
    asgi_redis_continues(Site::asgi_redis()).await;
}

#[tokio::test]
async fn a_reader_of_asgi_redis_with_keys_continues() {
    asgi_redis_continues(Site::asgi_redis().fernet()).await;
}

async fn channels_redis_continues(site: Site) {
    let ends = Ends::of(site).await;
    let redis = ends.site.redis().await;
    let prefix = ends.site.prefix();
    for (channel, key) in channels(&ends).await {
        let prefixed = |body: Vec<u8>| [&rand::random::<[u8; 12]>()[..], &body].concat();
        let short = (0..12).map(|length| vec![b'x'; length]);
        let rows = bodies().into_iter().chain(routings()).map(prefixed).chain(short).collect();
        assert_messages_arrive_among(&ends, &channel, rows, async |row| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
            let () = redis.clone().zadd(format!("{prefix}{key}"), row, now).await.unwrap();
        })
        .await;
        // Invalid times.
        for (score, expected) in [f64::NEG_INFINITY, -1.0, 0.0, 1.0, f64::INFINITY, 1e300].into_iter().zip(1..) {
            let row = prefixed(b"\x93\x01\x02\x03".to_vec());
            let () = redis.clone().zadd(format!("{prefix}{key}"), row, score).await.unwrap();
            ends.python.send(&channel, &numbered(expected)).await;
            assert_eq!(number(&ends.rust, &channel).await, expected, "beside {score}");
        }
    }
}

#[tokio::test]
async fn a_reader_of_channels_redis_continues() {
    channels_redis_continues(Site::channels_redis()).await;
}

#[tokio::test]
async fn a_reader_of_channels_redis_in_json_continues() {
    channels_redis_continues(Site::channels_redis().json()).await;
}

#[tokio::test]
async fn a_reader_of_channels_redis_with_keys_continues() {
    channels_redis_continues(Site::channels_redis().fernet()).await;
}

/// Python sends messages with a key that Rust does not have.
async fn skips_messages_with_an_unknown_key(site: Site) {
    let ends = Ends::of(site.clone().fernet()).await;
    let stranger = site.rotated().python().await;
    for number in 1..5 {
        stranger.send("channel", &numbered(0)).await;
        ends.python.send("channel", &numbered(number)).await;
    }
    for expected in 1..5 {
        assert_eq!(number(&ends.rust, "channel").await, expected);
    }
}

#[tokio::test]
async fn a_reader_of_asgi_redis_skips_messages_with_an_unknown_key() {
    skips_messages_with_an_unknown_key(Site::asgi_redis()).await;
}

#[tokio::test]
async fn a_reader_of_channels_redis_skips_messages_with_an_unknown_key() {
    skips_messages_with_an_unknown_key(Site::channels_redis()).await;
}
