//! Bytes in a channel's list that are not a message. The reader skips, counts and quarantines them, and continues.

use channel_layer::ChannelLayer;
use metrics_util::debugging::DebuggingRecorder;
use redis::AsyncCommands;

use super::tools::{Layer, Site, connect, now_ms, number, numbered, quarantined, take, take_number};
use crate::support::{Counts, DEADLINE, RedisServer, eventually, shared_servers, within};

const VERSION: u8 = 0x10;

/// An entry that was sent now and does not expire during a test. The first byte of `rest` is its head, which is
/// followed by the lifetime.
async fn stamped(server: &RedisServer, rest: &[u8]) -> Vec<u8> {
    let lifetime = 60_000_u64;
    let expires = now_ms(&mut server.connection().await).await + lifetime;
    let (head, rest) = rest.split_at(1);
    [&expires.to_be_bytes(), head, &lifetime.to_be_bytes(), rest].concat()
}

/// Puts `bytes` between two messages to `channel` and checks that those two arrive, in order, and that the bytes go to
/// quarantine, counted under `reason`.
async fn check(site: &Site, layer: &Layer, channel: &str, source: &str, bytes: &[u8], reason: &str) {
    let server = &shared_servers()[0];
    let mut connection = server.connection().await;
    let recorder = DebuggingRecorder::new();
    let mut counts = Counts::of(&recorder);
    let local = metrics::set_default_local_recorder(&recorder);
    let () = connection.del(site.key("quarantine")).await.unwrap();
    layer.send(channel, numbered(1)).await.unwrap();
    let () = connection.rpush(site.list(source), bytes).await.unwrap();
    layer.send(channel, numbered(2)).await.unwrap();
    assert_eq!(take_number(layer, source).await, 1);
    let second = take(layer, source).await;
    assert_eq!((number(&second), second.channel.as_str()), (2, channel));
    let kept = eventually("the quarantine", async || {
        let kept = quarantined(&mut server.connection().await, site).await;
        (!kept.is_empty()).then_some(kept)
    });
    let shown = &bytes[..bytes.len().min(40)];
    assert!(kept.await == [bytes], "other bytes are in quarantine than {shown:x?}");
    drop(local);
    assert_eq!(counts.dropped(reason), 1, "{shown:x?}");
    assert!(layer.try_receive(&[source]).await.unwrap().is_none());
}

async fn start() -> (Site, Layer) {
    let site = Site::on(&shared_servers()[..1]);
    let layer = connect(site.config()).await;
    (site, layer)
}

#[tokio::test]
async fn bytes_that_are_not_an_entry_go_to_quarantine() {
    let (site, layer) = start().await;
    let server = &shared_servers()[0];
    for bytes in [
        b"".to_vec(),
        b"x".to_vec(),
        vec![0; 7],
        vec![0; 8],
        vec![0xff; 8],
        vec![0xff; 500],
        b"{\"text\": \"not ours\"}".to_vec(),
        // Python's layers begin with twelve random characters and MessagePack.
        b"abcdefghijkl\x81\xa4text\xa2hi".to_vec(),
        stamped(server, b"\x00\x80").await,
        stamped(server, b"\x20\x80").await,
        stamped(server, b"\xf0\x80").await,
        stamped(server, &[VERSION | 4, 0x80]).await,
        stamped(server, &[VERSION | 7, 0x80]).await,
    ] {
        for (channel, source) in [("n", "n"), ("l!a", "l!"), ("s?a", "s?a")] {
            check(&site, &layer, channel, source, &bytes, "undecodable").await;
        }
    }
}

#[tokio::test]
async fn entries_without_a_message_go_to_quarantine() {
    let (site, layer) = start().await;
    for body in [
        b"".to_vec(),
        b"\xc1".to_vec(),
        b"\xc0".to_vec(),
        b"\x01".to_vec(),
        b"\x93\x01\x02\x03".to_vec(),
        b"\xa3abc".to_vec(),
        b"\x81".to_vec(),
        b"\x81\xa1".to_vec(),
        b"\x81\xa1a".to_vec(),
        b"\x82\xa1a\x01".to_vec(),
        b"\x81\x01\x01".to_vec(),
        b"\x81\xa1\xff\x01".to_vec(),
        b"\x81\xa1a\xa1\xff".to_vec(),
        b"\x81\xa1a\xd4\x01\x01".to_vec(),
        b"\x81\xa1a\x01trailing".to_vec(),
    ] {
        let bytes = stamped(&shared_servers()[0], &[&[VERSION], &body[..]].concat()).await;
        check(&site, &layer, "n", "n", &bytes, "undecodable").await;
    }
}

#[tokio::test]
async fn entries_with_extreme_depth_and_length_go_to_quarantine() {
    let (site, layer) = start().await;
    let deep = |open: &[u8]| [b"\x81\xa1a", &open.repeat(100_000)[..], b"\x01"].concat();
    for body in [
        deep(b"\x91"),
        deep(b"\x81\xa1a"),
        deep(b"\xdd\xff\xff\xff\xff"),
        deep(b"\xdf\xff\xff\xff\xff\xa1a"),
        b"\xdf\xff\xff\xff\xff".to_vec(),
        b"\xde\xff\xff".to_vec(),
        b"\x81\xa1a\xdd\xff\xff\xff\xff".to_vec(),
        b"\x81\xa1a\xdf\xff\xff\xff\xff".to_vec(),
        b"\x81\xa1a\xdb\xff\xff\xff\xff".to_vec(),
        b"\x81\xa1a\xc6\xff\xff\xff\xff".to_vec(),
        b"\x81\xdb\xff\xff\xff\xff".to_vec(),
    ] {
        let bytes = stamped(&shared_servers()[0], &[&[VERSION], &body[..]].concat()).await;
        check(&site, &layer, "n", "n", &bytes, "undecodable").await;
    }
    // The remaining entry of a group message contains the number of its members.
    let rest = [&[VERSION | 3, 1, b'g'], &[0; 8][..], &[0xff; 4], b"\x01a\x01b"].concat();
    let bytes = stamped(&shared_servers()[0], &rest).await;
    check(&site, &layer, "l!a", "l!", &bytes, "undecodable").await;
}

#[tokio::test]
async fn entries_with_an_address_of_another_kind_of_channel_go_to_quarantine() {
    let (site, layer) = start().await;
    let server = &shared_servers()[0];
    let long = [&[VERSION | 1, 101][..], &[b'x'; 101], b"\x80"].concat();
    let group = |name: &[u8]| [&[VERSION | 2, u8::try_from(name.len()).unwrap()], name, &[0; 8], b"\x80"].concat();
    for (channel, source, rest) in [
        ("n", "n", [VERSION | 1, 1, b'a', 0x80].to_vec()),
        ("s?a", "s?a", [VERSION | 1, 1, b'a', 0x80].to_vec()),
        ("n", "n", [&[VERSION | 3, 1, b'g'], &[0; 12][..], b"\x80"].concat()),
        ("l!a", "l!", [VERSION, 0x80].to_vec()),
        ("l!a", "l!", [VERSION | 1, 0, 0x80].to_vec()),
        ("l!a", "l!", [VERSION | 1, 3, b'a', b' ', b'b', 0x80].to_vec()),
        ("l!a", "l!", [VERSION | 1, 3, b'a', b'!', b'b', 0x80].to_vec()),
        ("l!a", "l!", [VERSION | 1, 1, 0xff, 0x80].to_vec()),
        ("l!a", "l!", [VERSION | 1, 50, b'a'].to_vec()),
        ("l!a", "l!", long),
        ("l!a", "l!", group(b"")),
        ("l!a", "l!", group(b"bad group")),
        ("l!a", "l!", group(b"\xff\xfe")),
        ("l!a", "l!", [VERSION | 2, 1, b'g', 0].to_vec()),
        ("l!a", "l!", [&[VERSION | 3, 1, b'g'], &[0; 8][..], &[0, 0, 0, 1], b"\x03a b\x80"].concat()),
    ] {
        let bytes = stamped(server, &rest).await;
        check(&site, &layer, channel, source, &bytes, "undecodable").await;
    }
}

#[tokio::test]
async fn a_group_message_with_a_version_in_the_future_reaches_the_present_members() {
    let (site, layer) = start().await;
    let server = &shared_servers()[0];
    layer.group_add("g", "l!a").await.unwrap();
    layer.group_send("g", numbered(1)).await.unwrap();
    assert_eq!(take(&layer, "l!").await.channel, *"l!a");
    let in_an_hour = (now_ms(&mut server.connection().await).await + 3_600_000) * 1000;
    for version in [u64::MAX, u64::MAX / 2, 1 << 53, in_an_hour] {
        // The clock of the group's server may have stepped back since: the message goes to the present members.
        let entry = [&[VERSION | 2, 1, b'g'], &version.to_be_bytes()[..], b"\x80"].concat();
        let () = server.connection().await.rpush(site.list("l!"), stamped(server, &entry).await).await.unwrap();
        assert_eq!(take(&layer, "l!").await.channel, *"l!a");
        // The group still works: a channel that leaves gets no more messages, and a channel that joins does.
        for (joins, leaves) in [("l!b", "l!a"), ("l!a", "l!b")] {
            layer.group_add("g", joins).await.unwrap();
            layer.group_discard("g", leaves).await.unwrap();
            for n in 2..4 {
                layer.group_send("g", numbered(n)).await.unwrap();
                let delivery = take(&layer, "l!").await;
                assert_eq!((number(&delivery), delivery.channel.as_str()), (n, joins), "after version {version}");
            }
            assert!(layer.try_receive(&["l!"]).await.unwrap().is_none());
        }
    }
}

#[tokio::test]
async fn a_group_message_with_a_version_that_the_group_never_had_reaches_its_members() {
    let (site, layer) = start().await;
    let server = &shared_servers()[0];
    layer.group_add("g", "l!a").await.unwrap();
    // A version that the clock of the server allows, but later than any version of the group.
    let soon = (now_ms(&mut server.connection().await).await + 5000) * 1000;
    let entry = [&[VERSION | 2, 1, b'g'], &soon.to_be_bytes()[..], b"\x80"].concat();
    let entry = stamped(server, &entry).await;
    let () = server.connection().await.rpush(site.list("l!"), entry).await.unwrap();
    assert_eq!(take(&layer, "l!").await.channel, *"l!a");
    layer.group_add("g", "l!b").await.unwrap();
    layer.group_discard("g", "l!a").await.unwrap();
    layer.group_send("g", numbered(1)).await.unwrap();
    assert_eq!(take(&layer, "l!").await.channel, *"l!b");
}

#[tokio::test]
async fn a_sealed_message_for_a_reader_without_keys_goes_to_quarantine() {
    let (site, layer) = start().await;
    let bytes = stamped(&shared_servers()[0], &[VERSION | 8, 1, 2, 3]).await;
    check(&site, &layer, "n", "n", &bytes, "undecryptable").await;
}

#[tokio::test]
async fn a_plain_message_for_a_reader_with_keys_goes_to_quarantine() {
    let site = Site::on(&shared_servers()[..1]);
    let layer = connect(site.config().symmetric_encryption_keys(["a key"])).await;
    let bytes = stamped(&shared_servers()[0], b"\x10\x81\xa1a\x01").await;
    check(&site, &layer, "n", "n", &bytes, "undecryptable").await;
    let short = stamped(&shared_servers()[0], &[VERSION | 8, 1, 2, 3]).await;
    check(&site, &layer, "n", "n", &short, "undecryptable").await;
}

#[tokio::test]
async fn every_message_among_garbage_arrives_in_order() {
    let (site, layer) = start().await;
    let mut connection = shared_servers()[0].connection().await;
    for n in 0..50_u8 {
        let () = connection.rpush(site.list("l!"), vec![vec![n; usize::from(n)], vec![0; 20]]).await.unwrap();
        layer.send("l!a", numbered(n.into())).await.unwrap();
    }
    let mut receiver = layer.receiver(&["l!"]).unwrap();
    for n in 0..50 {
        assert_eq!(number(&within(DEADLINE, "a message", receiver.recv()).await.unwrap()), n);
    }
}

#[tokio::test]
async fn a_full_channel_with_short_bytes_at_its_head_is_full_until_it_is_read() {
    let site = Site::on(&shared_servers()[..1]);
    let layer = connect(site.config().capacity(3)).await;
    let mut connection = shared_servers()[0].connection().await;
    for length in 0..8 {
        let () = connection.rpush(site.list("n"), vec![vec![0_u8; length], vec![1; 3]]).await.unwrap();
        layer.send("n", numbered(1)).await.unwrap();
        let full = layer.send("n", numbered(2)).await;
        assert!(matches!(full, Err(channel_layer::Error::ChannelFull { .. })), "{full:?}");
        assert_eq!(take_number(&layer, "n").await, 1);
        layer.send("n", numbered(3)).await.unwrap();
        assert_eq!(take_number(&layer, "n").await, 3);
    }
}

#[tokio::test]
async fn a_channel_whose_key_is_not_a_list_does_not_affect_others() {
    let (site, layer) = start().await;
    let mut connection = shared_servers()[0].connection().await;
    let () = connection.set(site.list("n"), "text").await.unwrap();
    let many: Vec<_> = (0..9).map(|n| (["n", "m", "s?a"][n % 3], numbered(i64::try_from(n).unwrap()))).collect();
    let results = layer.send_many(&many).await;
    for (n, result) in results.iter().enumerate() {
        let failed = matches!(result, Err(channel_layer::Error::Redis { shard: 0, .. }));
        assert_eq!(failed, n % 3 == 0, "{result:?}");
    }
    assert_eq!(take_number(&layer, "m").await, 1);
    assert_eq!(take_number(&layer, "s?a").await, 2);
    let received = within(DEADLINE, "an answer", layer.try_receive(&["n"])).await;
    assert!(matches!(received, Err(channel_layer::Error::Redis { shard: 0, .. })), "{received:?}");
}
