//! Statistics of channels and of the whole layer.

use std::time::Duration;

use super::backend::{Kind, Options};
use super::guarantees::Promise;
use super::tools::{numbered, send_numbers, take};
use crate::support::eventually;

pub async fn statistics_count_messages_and_refusals(kind: &Kind) {
    let backend = kind.start(Options { capacity: 3, ..Options::default() }).await;
    let (layer, peer) = (backend.layer(), backend.peer().await);
    send_numbers(&layer, "count!a", 0..2).await;
    send_numbers(&peer, "count!b", 0..1).await;
    for _ in 0..2 {
        layer.send("count!c", numbered(3)).await.unwrap_err();
    }
    send_numbers(&layer, "count?a", 0..2).await;
    send_numbers(&layer, "count.normal", 0..1).await;
    take(&layer, &["count!"]).await;

    let counted = |count| if kind.promises(Promise::Counters) { count } else { 0 };
    // Another process writes its counts within a second.
    eventually("the counts of the peer", async || {
        let all = layer.global_statistics().await.unwrap();
        (all.messages_count == counted(6)).then_some(())
    })
    .await;
    // The local part makes no difference: capacity and statistics are those of the process.
    for name in ["count!", "count!a"] {
        let process = layer.channel_statistics(name).await.unwrap();
        let counts = (process.messages_count, process.channel_full_count, process.messages_pending);
        assert_eq!(counts, (counted(3), counted(2), 2), "sent, refused and pending on {name}");
    }
    let all = layer.global_statistics().await.unwrap();
    let counts = (all.messages_count, all.channel_full_count, all.messages_pending);
    assert_eq!(counts, (counted(6), counted(2), 5), "sent, refused and pending on all channels");
    let unused = layer.channel_statistics("unused").await.unwrap();
    assert_eq!(unused, channel_layer::Statistics::default());
    layer.channel_statistics("bad name").await.unwrap_err();
}

pub async fn statistics_report_the_age_of_the_oldest_message(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let layer = backend.layer();
    send_numbers(&layer, "age?a", [1]).await;
    backend.pass(Duration::from_secs(1)).await;
    send_numbers(&layer, "age?a", [2]).await;
    for statistics in [layer.channel_statistics("age?a").await.unwrap(), layer.global_statistics().await.unwrap()] {
        let age = statistics.messages_max_age;
        assert!(age >= Duration::from_millis(900) && age < Duration::from_secs(20), "{age:?}");
    }
}
