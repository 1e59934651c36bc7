//! Where nodes are reached: at the addresses that they announce, over TLS, and not at all.

use std::time::Duration;

use channel_layer::{ChannelLayer, RedisLayer, message};

use super::tools::{config, connect, name_in, slot_of};
use crate::redis::tls::{ANY_CLIENT, Files};
use crate::redis::tools::publishes;
use crate::support::{Cluster, DEADLINE, Proxy, eventually, within};

/// A channel on each master.
fn channels() -> [String; Cluster::MASTERS] {
    [0, 6000, 12000].map(|slot| name_in("jobs.", slot..slot + 400, 'x'))
}

/// Sends and reads on each master, and in a slot that moves.
async fn moves(cluster: &Cluster, layer: &RedisLayer) {
    let channels = channels();
    for channel in &channels {
        layer.send(channel, message! { "number": 1 }).await.unwrap();
    }
    let slot = slot_of(&channels[0]);
    cluster.begin_move(slot, 0, 1).await;
    cluster.move_keys(slot, 0, 1).await;
    // An `ASK` leads to the next node, and then a `MOVED`.
    layer.send(&channels[0], message! { "number": 2 }).await.unwrap();
    cluster.end_move(slot, 1, &[0, 2]).await;
    layer.send(&channels[0], message! { "number": 3 }).await.unwrap();
    for (channel, count) in channels.iter().zip([3, 1, 1]) {
        for number in 1..=count {
            let delivery = within(DEADLINE, "a message", layer.receive(&[channel])).await.unwrap();
            assert_eq!(delivery.message.int("number"), Some(number), "{channel}");
        }
    }
}

async fn set(cluster: &Cluster, option: &str, value: impl Fn(usize) -> String) {
    for (index, node) in cluster.nodes.iter().enumerate() {
        node.ask::<()>(redis::cmd("CONFIG").arg("SET").arg(option).arg(value(index))).await;
    }
}

/// A cluster behind proxies, as behind a translation of addresses: its nodes announce other ports than theirs.
struct Translated {
    cluster: Cluster,
    proxies: Vec<Proxy>,
}

impl Translated {
    async fn start() -> Self {
        let cluster = Cluster::without_replicas().await;
        let mut proxies = Vec::new();
        for node in &cluster.nodes {
            proxies.push(Proxy::before(&node.server.url()).await);
        }
        set(&cluster, "cluster-announce-ip", |_| "127.0.0.1".to_owned()).await;
        set(&cluster, "cluster-announce-port", |index| proxies[index].port().to_string()).await;
        for node in &cluster.nodes {
            eventually("the announced ports", async || {
                let nodes: String = node.cluster(&["NODES"]).await;
                proxies.iter().all(|proxy| nodes.contains(&format!(":{}@", proxy.port()))).then_some(())
            })
            .await;
        }
        Self { cluster, proxies }
    }
}

#[tokio::test]
async fn nodes_are_used_at_the_addresses_that_they_announce() {
    let site = Translated::start().await;
    let layer = connect(config(&site.cluster).hosts(site.cluster.urls(0..1))).await;
    moves(&site.cluster, &layer).await;
    site.proxies[1].refuse();
    eventually("a failure of the announced address", async || layer.send(&channels()[1], message! {}).await.err())
        .await;
}

#[tokio::test]
async fn a_master_that_is_cut_off_from_its_clients_fails_their_calls_for_its_channels_only() {
    let site = Translated::start().await;
    let config = config(&site.cluster).command_timeout(Duration::from_secs(1));
    let layer = connect(config.clone()).await;
    let channels = channels();
    let mut accepted = Vec::new();
    for number in 0..10 {
        layer.send(&channels[0], message! { "number": number }).await.unwrap();
        accepted.push(number);
    }
    // Nothing passes any more, in any direction.
    site.proxies[0].freeze();
    site.proxies[0].refuse_new();
    let error =
        eventually("a failed send", async || layer.send(&channels[0], message! { "number": 10 }).await.err()).await;
    assert!(error.is_transient() || error.may_have_run(), "{error:?}");
    let late = within(DEADLINE, "a layer", RedisLayer::connect(config)).await.unwrap();
    for (channel, number) in channels[1..].iter().zip(0..) {
        layer.send(channel, message! { "number": number }).await.unwrap();
        let delivery = within(DEADLINE, "a message of another master", late.receive(&[channel])).await.unwrap();
        assert_eq!(delivery.message.int("number"), Some(number));
    }
    site.proxies[0].admit();
    site.proxies[0].cut();
    eventually("a send after the return", async || layer.send(&channels[0], message! { "number": 11 }).await.ok())
        .await;
    accepted.push(11);
    let mut arrived = Vec::new();
    while arrived.last() != Some(&11) {
        // It fails until the layer knows that the master is back.
        let delivery = eventually("a message", async || late.receive(&[&channels[0]]).await.ok()).await;
        arrived.push(delivery.message.int("number").unwrap());
    }
    // The outcome of this one is unknown.
    arrived.retain(|number| *number != 10);
    assert_eq!(arrived, accepted);
}

#[tokio::test]
async fn nodes_without_an_endpoint_are_where_the_seed_is() {
    let cluster = Cluster::without_replicas().await;
    set(&cluster, "cluster-preferred-endpoint-type", |_| "unknown-endpoint".to_owned()).await;
    let layer = connect(config(&cluster).hosts(cluster.urls(0..1))).await;
    moves(&cluster, &layer).await;
}

#[tokio::test]
async fn a_cluster_with_tls_host_names_and_users_is_used() {
    let files = Files::new();
    let path = |name: &str| files.path(name).to_str().unwrap().to_owned();
    let (certificate, key, ca) = (path("host.pem"), path("host.key"), path("ca.pem"));
    let mut arguments = vec!["--tls-cluster", "yes", "--tls-cert-file", &certificate, "--tls-key-file", &key];
    arguments.extend(["--tls-ca-cert-file", &ca, "--cluster-announce-hostname", "localhost"]);
    // The certificate is for the name only, so an address would be refused.
    arguments.extend(["--cluster-preferred-endpoint-type", "hostname"]);
    let cluster = Cluster::with(&[&arguments[..], &ANY_CLIENT].concat(), false).await;
    for node in &cluster.nodes {
        node.ask::<()>(redis::cmd("ACL").arg("SETUSER").arg(&["app", "on", ">secret", "~*", "&*", "+@all"])).await;
    }
    let port = cluster.nodes[0].tls.as_ref().unwrap().number();
    let config = |login: &str| {
        let host = format!("rediss://{login}localhost:{port}");
        config(&cluster).hosts([host]).tls_ca_file(&ca)
    };
    moves(&cluster, &*connect(config("app:secret@")).await).await;
    publishes(config("app:secret@").sharded_pubsub(true)).await;
    for node in &cluster.nodes {
        let log: Vec<redis::Value> = node.ask(redis::cmd("ACL").arg("LOG")).await;
        assert_eq!(log, []);
    }
    let refused = within(DEADLINE, "a refusal", RedisLayer::connect(config("app:wrong@"))).await.unwrap_err();
    assert!(refused.to_string().contains("wrong user name or password"), "{refused}");
}
