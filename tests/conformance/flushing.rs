//! A flush removes everything that belongs to the layer.

use super::backend::{Kind, Options};
use super::guarantees::Promise;
use super::tools::{assert_none, numbered, sorted_channels, take, take_all};

pub async fn a_flush_deletes_messages(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let layer = backend.layer();
    let channels = ["flush", "flush!a", "flush?a"];
    for channel in channels {
        for number in 0..5 {
            layer.send(channel, numbered(number)).await.unwrap();
        }
    }
    backend.peer().await.flush().await.unwrap();
    assert_none(layer.try_receive(&["flush", "flush!", "flush?a"]).await.unwrap());
    for channel in channels {
        layer.send(channel, numbered(9)).await.unwrap();
    }
    assert_eq!(
        sorted_channels(&take_all(&layer, &["flush", "flush!", "flush?a"]).await),
        ["flush", "flush!a", "flush?a"]
    );
}

pub async fn a_flush_deletes_groups(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    for member in ["flush", "flush!a", "flush?a"] {
        layer.group_add("group", member).await.unwrap();
    }
    layer.group_send("group", numbered(1)).await.unwrap();
    layer.flush().await.unwrap();
    assert!(layer.group_channels("group").await.unwrap().is_empty());
    layer.group_send("group", numbered(2)).await.unwrap();
    assert_none(layer.try_receive(&["flush", "flush!", "flush?a"]).await.unwrap());
}

pub async fn a_flush_clears_cached_members(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (layer, reader) = (backend.layer(), backend.peer().await);
    for round in 0..3 {
        let member = format!("cached!{round}");
        layer.group_add("group", &member).await.unwrap();
        layer.group_send("group", numbered(round)).await.unwrap();
        assert_eq!(take(&reader, &["cached!"]).await.channel, member.as_str());
        assert_none(reader.try_receive(&["cached!"]).await.unwrap());
        layer.flush().await.unwrap();
    }
}

pub async fn a_flush_deletes_statistics(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let layer = backend.layer();
    layer.send("flush!a", numbered(1)).await.unwrap();
    backend.arrived().await;
    let statistics = async || {
        let both = [layer.global_statistics().await.unwrap(), layer.channel_statistics("flush!").await.unwrap()];
        both.map(|statistics| (statistics.messages_count, statistics.messages_pending))
    };
    let counted = u64::from(kind.promises(Promise::Counters));
    assert_eq!(statistics().await, [(counted, 1); 2]);
    layer.flush().await.unwrap();
    assert_eq!(statistics().await, [(0, 0); 2]);
}
