//! The commands of the program on a cluster.

use channel_layer::{ChannelLayer, RedisLayer};

use super::tools::config;
use crate::commands::run;
use crate::support::{random_prefix, shared_cluster};

#[tokio::test]
async fn commands_use_a_cluster() {
    const KEY: &str = "a secret of 32 bytes, not guessed";
    let (cluster, prefix) = (shared_cluster(), random_prefix());
    // One seed leads to the other nodes.
    let seed = cluster.urls(0..1).remove(0);
    let variables = [
        ("CHANNEL_LAYER_CLUSTER", "true"),
        ("CHANNEL_LAYER_PREFIX", &*prefix),
        ("REDIS_URL", &*seed),
        ("RUST_LOG", "warn"),
    ];
    let prints = async |arguments: &[&str]| {
        let (succeeds, output) = run(arguments, &variables).await;
        assert!(succeeds, "{arguments:?}: {output}");
        output
    };
    for channel in ["tasks", "jobs", "mails"] {
        prints(&["send", channel, r#"{"do":"sweep"}"#]).await;
    }
    let received = prints(&["receive", "tasks", "jobs", "mails", "--count", "3"]).await;
    assert_eq!(received.matches(r#""message":{"do":"sweep"}"#).count(), 3, "{received}");

    prints(&["group", "add", "everyone", "tasks"]).await;
    assert_eq!(prints(&["group", "list", "everyone"]).await, "tasks\n");
    prints(&["send", "--group", "everyone", "{}"]).await;
    assert!(prints(&["stats", "tasks"]).await.contains(r#""messages_pending":1"#));
    assert!(prints(&["stats"]).await.contains(r#""messages_count":4"#));

    // A reader without the key.
    prints(&["send", "--encryption-key", KEY, "sealed", "{}"]).await;
    let layer = RedisLayer::connect(config(cluster).prefix(&*prefix)).await.unwrap();
    assert!(layer.try_receive(&["sealed"]).await.unwrap().is_none());
    layer.close().await.unwrap();
    let listed = prints(&["quarantine", "list"]).await;
    assert!(listed.contains(" sealed: "), "{listed}");
    prints(&["quarantine", "restore", "--all", "--encryption-key", KEY]).await;
    let received = prints(&["receive", "--encryption-key", KEY, "sealed", "--count", "1"]).await;
    assert!(received.contains(r#""channel":"sealed""#), "{received}");

    prints(&["flush"]).await;
    assert_eq!(prints(&["group", "list", "everyone"]).await, "");
    let report = prints(&["doctor"]).await;
    for number in 0..3 {
        assert!(report.contains(&format!("shard {number}: shard {number} of the cluster Up")), "{report}");
        let connections = format!("shard {number}: 0 connections for blocking reads in this process, at most 256");
        assert!(report.contains(&connections), "{report}");
    }
    assert!(report.contains("messages arrive through every server"), "{report}");
}

#[tokio::test]
async fn a_node_of_a_cluster_without_the_option_is_named() {
    let (seed, prefix) = (shared_cluster().urls(0..1).remove(0), random_prefix());
    let variables = [("CHANNEL_LAYER_PREFIX", &*prefix)];
    let (succeeds, output) = run(&["send", "tasks", "{}", "--redis", &seed], &variables).await;
    assert!(!succeeds && output.contains("set `cluster = true`"), "{output}");
    let (succeeds, output) = run(&["send", "tasks", "{}", "--cluster", "--redis", &seed], &variables).await;
    assert!(succeeds, "{output}");
}
