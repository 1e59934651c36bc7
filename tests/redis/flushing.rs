//! A flush deletes the keys of the deployment on every shard, and no other keys.

use channel_layer::ChannelLayer;
use redis::AsyncCommands;

use super::tools::{Site, ask, connect, numbered, take_number};
use crate::support::shared_servers;

#[tokio::test]
async fn a_flush_keeps_only_the_epochs() {
    let site = Site::on(shared_servers());
    let layer = connect(site.config()).await;
    for n in 0..30 {
        layer.send("normal", numbered(n)).await.unwrap();
        layer.send(&format!("single?{n}"), numbered(n)).await.unwrap();
        layer.group_add(&format!("g{n}"), "normal").await.unwrap();
        layer.group_add(&format!("g{n}"), &format!("local{n}!a")).await.unwrap();
        layer.group_send(&format!("g{n}"), numbered(n)).await.unwrap();
    }
    for server in shared_servers() {
        let record = redis::cmd("XADD").arg(site.key("quarantine")).arg(&["*", "entry", "bytes"]).clone();
        let _: String = ask(&mut server.connection().await, &record).await;
        let () = server.connection().await.zadd(site.key("restored:{n}"), "1-1", 1).await.unwrap();
        assert!(site.keys(server).await.len() > 20);
    }
    layer.flush().await.unwrap();
    for server in shared_servers() {
        assert_eq!(site.keys(server).await.into_keys().collect::<Vec<_>>(), [":epoch"]);
    }
    layer.send("single?1", numbered(1)).await.unwrap();
    assert_eq!(take_number(&layer, "single?1").await, 1);
}

/// The other keys have prefixes that begin with the prefix of the layer, prefixes that match it as a pattern, or no
/// known form.
#[tokio::test]
async fn a_flush_keeps_the_keys_of_other_deployments() {
    let servers = &shared_servers()[..1];
    let site = Site::on(servers);
    let ours = connect(site.config()).await;
    let mut neighbours = Vec::new();
    for ending in [":channel", ":group", ":staging", "2", "-meta", "-meta:x", "*", "?", "[a]", "\\"] {
        let prefix = format!("{}{ending}", site.prefix);
        let layer = connect(site.config().prefix(prefix)).await;
        layer.send("kept", numbered(1)).await.unwrap();
        layer.send("kept!x", numbered(2)).await.unwrap();
        layer.group_add("kept", "kept!x").await.unwrap();
        neighbours.push((ending, layer));
    }
    let mut connection = servers[0].connection().await;
    for key in ["", ":mine", ":channel:mine", ":channel:{a:b}", ":lock:{x}", "-metamine"] {
        let () = connection.set(format!("{}{key}", site.prefix), "theirs").await.unwrap();
    }
    let before = site.keys(&servers[0]).await;
    ours.send("gone", numbered(0)).await.unwrap();
    ours.flush().await.unwrap();
    assert_eq!(site.keys(&servers[0]).await, before);
    for (ending, layer) in neighbours {
        assert_eq!(layer.global_statistics().await.unwrap().messages_count, 2, "{ending}");
        assert_eq!(take_number(&layer, "kept").await, 1, "{ending}");
        assert_eq!(layer.group_channels("kept").await.unwrap().len(), 1, "{ending}");
    }
}

#[tokio::test]
async fn a_flush_with_a_pattern_as_prefix_deletes_only_its_own_keys() {
    let servers = &shared_servers()[..1];
    let site = Site::on(servers);
    for pattern in ["*", "?", "[x]", "[^y]", "\\x"] {
        let prefix = format!("{}{pattern}", site.prefix);
        let layer = connect(site.config().prefix(&prefix)).await;
        let literal = format!("{}x", site.prefix);
        let other = connect(site.config().prefix(literal)).await;
        layer.send("a", numbered(0)).await.unwrap();
        other.send("a", numbered(1)).await.unwrap();
        layer.flush().await.unwrap();
        assert!(layer.try_receive(&["a"]).await.unwrap().is_none(), "{pattern}");
        assert_eq!(layer.global_statistics().await.unwrap().messages_count, 0, "{pattern}");
        assert_eq!(take_number(&other, "a").await, 1, "{pattern}");
    }
}
