//! Deleting from quarantine while entries are restored, and calls on several servers when one of them is down.

use channel_layer::redis::quarantine::{Partial, Restored};
use channel_layer::{ChannelLayer, Error};

use super::restoring::{Scene, ids, keyed};
use super::tools::{Site, ask, connect, numbered, take_number, take_numbers};
use crate::support::{Proxy, RedisServer, eventually, shared_servers};

/// Two processes of a scene: the first one behind a proxy.
async fn behind_a_proxy(scene: &Scene) -> (Proxy, super::tools::Layer) {
    let proxy = Proxy::before(&shared_servers()[0].url()).await;
    let layer = connect(keyed(&scene.site).hosts([proxy.url()])).await;
    (proxy, layer)
}

#[tokio::test]
async fn an_entry_that_is_deleted_while_it_is_being_restored_does_not_come_back() {
    let scene = Scene::start().await;
    let (proxy, other) = behind_a_proxy(&scene).await;
    for n in 0..2 {
        scene.layer.send("n", numbered(n)).await.unwrap();
    }
    let entries = ids(&scene.quarantine("n", 2).await);
    // The answer with the last record comes after that record has been deleted.
    proxy.freeze_after(entries[1].to_string().trim_start_matches("0:").as_bytes());
    let quarantine = other.quarantine();
    let restoring = quarantine.restore(&entries);
    let deleting = async {
        proxy.frozen().await;
        let deleted = scene.layer.quarantine().delete(&entries[1..]).await.unwrap().complete().unwrap();
        proxy.thaw();
        deleted
    };
    let (restored, deleted) = tokio::join!(restoring, deleting);
    assert_eq!(restored.unwrap().complete().unwrap(), [Restored::Restored, Restored::Gone]);
    assert_eq!(deleted, 1);
    assert_eq!(take_numbers(&scene.layer, "n").await, [0]);
    assert!(scene.is_empty().await);
}

#[tokio::test]
async fn an_entry_that_is_restored_while_it_is_being_deleted_arrives_and_does_not_count_as_deleted() {
    let scene = Scene::start().await;
    let (proxy, other) = behind_a_proxy(&scene).await;
    scene.layer.send("n", numbered(1)).await.unwrap();
    let entries = ids(&scene.quarantine("n", 1).await);
    // The server has restored the entry, and the process that restores it cannot remove the record yet.
    proxy.freeze_after(scene.site.key("restored:{n}").as_bytes());
    let quarantine = other.quarantine();
    let deleting = async {
        proxy.frozen().await;
        eventually("the restored entry", async || {
            (scene.layer.channel_statistics("n").await.unwrap().messages_pending == 1).then_some(())
        })
        .await;
        let deleted = scene.layer.quarantine().delete(&entries).await.unwrap().complete().unwrap();
        proxy.thaw();
        deleted
    };
    let (restored, deleted) = tokio::join!(quarantine.restore(&entries), deleting);
    assert_eq!((restored.unwrap().complete().unwrap(), deleted), (vec![Restored::Restored], 0));
    assert!(scene.is_empty().await);
    assert_eq!(take_number(&scene.layer, "n").await, 1);
}

#[tokio::test]
async fn entries_can_be_deleted_from_a_server_without_memory() {
    let server = RedisServer::start();
    let site = Site::on(std::slice::from_ref(&server));
    let (layer, stranger) = (connect(keyed(&site)).await, connect(site.config()).await);
    layer.send("n", numbered(1)).await.unwrap();
    assert!(stranger.try_receive(&["n"]).await.unwrap().is_none());
    let listed = async || {
        let entries = layer.quarantine().entries().await.unwrap().complete().unwrap();
        (!entries.is_empty()).then_some(ids(&entries))
    };
    let entries = eventually("the entry in quarantine", listed).await;
    let () = ask(&mut server.connection().await, redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1"])).await;
    assert_eq!(layer.quarantine().delete(&entries).await.unwrap().complete().unwrap(), 1);
    assert_eq!(listed().await, None);
}

#[tokio::test]
async fn a_server_that_is_down_does_not_keep_calls_from_the_other_server() {
    let mut servers = [RedisServer::start(), RedisServer::start()];
    let site = Site::on(&servers);
    let (layer, stranger) = (connect(keyed(&site)).await, connect(site.config()).await);
    for (n, channel) in (0..).zip(site.pinned_channels(&layer, &servers).await) {
        for m in 0..2 {
            layer.send(&channel, numbered(2 * n + m)).await.unwrap();
        }
        assert!(stranger.try_receive(&[&channel]).await.unwrap().is_none());
    }
    let quarantine = layer.quarantine();
    let all = eventually("all entries in quarantine", async || {
        let entries = quarantine.entries().await.unwrap().complete().unwrap();
        (entries.len() == 4).then_some(ids(&entries))
    })
    .await;
    servers[0].stop();
    let is_of_the_first = |errors: &[Error]| matches!(errors, [Error::Redis { shard: 0, .. }]);
    let Partial { results, errors, .. } = quarantine.entries().await.unwrap();
    assert_eq!(ids(&results), all[2..]);
    assert!(is_of_the_first(&errors), "{errors:?}");
    let Partial { results, errors, .. } = quarantine.restore(&[all[0], all[2]]).await.unwrap();
    assert_eq!(results, [Restored::Failed, Restored::Restored]);
    assert!(is_of_the_first(&errors), "{errors:?}");
    let Partial { results, errors, .. } = quarantine.delete(&[all[1], all[3]]).await.unwrap();
    assert_eq!(results, 1);
    assert!(is_of_the_first(&errors), "{errors:?}");
    assert!(quarantine.entries().await.unwrap().results.is_empty());
}
