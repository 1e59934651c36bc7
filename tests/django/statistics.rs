//! Both languages share statistics, and a flush by one deletes the data of the other.

use channel_layer::{Value, message};
use serde_json::json;

use super::ends::{Ends, number, numbered};
use super::side::Side;
use super::site::Site;
use crate::support::random_prefix;

#[tokio::test]
async fn statistics_of_asgi_redis_count_messages_of_both_languages() {
    let ends = Ends::of(Site::asgi_redis().capacity(3)).await;
    ends.python.send("channel", &numbered(1)).await;
    ends.rust.send("channel", &numbered(2)).await;
    ends.rust.send("channel", &numbered(3)).await;
    ends.rust_is_refused("channel").await;
    ends.python_is_refused("channel").await;
    ends.rust_is_refused("channel").await;
    ends.rust.send("other?one", &numbered(4)).await;

    let counted = ends.rust.layer.channel_statistics("channel").await.unwrap();
    assert_eq!((counted.messages_count, counted.messages_pending, counted.channel_full_count), (3, 3, 3));
    let counted = ends.rust.layer.global_statistics().await.unwrap();
    assert_eq!((counted.messages_count, counted.channel_full_count), (4, 3));
    let counted = ends.python.done("channel_statistics", json!(["channel"])).await;
    let counted = counted.as_map().expect("statistics are a map");
    let of = |key| counted.get(key).and_then(Value::as_int).unwrap();
    assert_eq!((of("messages_count"), of("messages_pending"), of("channel_full_count")), (3, 3, 3));
    assert!((0..30).contains(&of("messages_max_age")));
    let counted = ends.python.done("global_statistics", json!([])).await;
    assert_eq!(counted, message! { "messages_count": 4, "channel_full_count": 3 }.into());
}

async fn a_flush_deletes_the_data_of_the_other_language(site: Site) {
    let ends = Ends::of(site).await;
    for (flushed, other) in ends.both_ways() {
        let (channel, member) = (random_prefix(), random_prefix());
        flushed.send(&channel, &numbered(1)).await;
        flushed.group_add("group", &member).await;
        other.flush().await;
        assert_eq!(ends.site.keys().await, Vec::<String>::new());
        flushed.group_send("group", &numbered(2)).await;
        flushed.group_add("group", &member).await;
        flushed.group_send("group", &numbered(3)).await;
        assert_eq!(number(other, &member).await, 3);
        flushed.send(&channel, &numbered(4)).await;
        assert_eq!(number(other, &channel).await, 4);
    }
}

#[tokio::test]
async fn a_flush_of_asgi_redis_deletes_the_data_of_the_other_language() {
    a_flush_deletes_the_data_of_the_other_language(Site::asgi_redis().on_two_hosts()).await;
}

#[tokio::test]
async fn a_flush_of_channels_redis_deletes_the_data_of_the_other_language() {
    a_flush_deletes_the_data_of_the_other_language(Site::channels_redis().on_two_hosts()).await;
}
