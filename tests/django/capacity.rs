//! A channel that one end has filled is full for the other.

use super::ends::{Ends, number, numbered};
use super::side::Side;
use super::site::Site;
use crate::support::random_prefix;

async fn is_filled_by_one_end_for_the_other(site: Site) {
    let ends = Ends::of(site.capacity(3)).await;
    for n in 0..3 {
        ends.python.send("filled.by.python", &numbered(n)).await;
        ends.rust.send("filled.by.rust", &numbered(n)).await;
    }
    ends.rust_is_refused("filled.by.python").await;
    ends.python_is_refused("filled.by.rust").await;
    // All clients of a process share its places.
    let channel = ends.python.new_local_channel().await;
    for n in 0..3 {
        ends.rust.send(&format!("{channel}{n}"), &numbered(n)).await;
    }
    ends.rust_is_refused(&channel).await;
    ends.python_is_refused(&channel).await;
    // What is read makes room. A reader of ours may hold the next message for a moment, so that it is the last to read.
    assert_eq!(number(&ends.python, "filled.by.rust").await, 0);
    ends.rust.send("filled.by.rust", &numbered(3)).await;
    ends.python_is_refused("filled.by.rust").await;
    ends.rust_is_refused("filled.by.rust").await;
    assert_eq!(number(&ends.rust, "filled.by.python").await, 0);
    ends.python.send("filled.by.python", &numbered(3)).await;
}

#[tokio::test]
async fn a_channel_of_asgi_redis_is_filled_by_one_end_for_the_other() {
    is_filled_by_one_end_for_the_other(Site::asgi_redis()).await;
}

#[tokio::test]
async fn a_channel_of_channels_redis_is_filled_by_one_end_for_the_other() {
    is_filled_by_one_end_for_the_other(Site::channels_redis()).await;
}

/// A rule that sees a full name decides for `places`, and one that does not for the capacity of all channels.
async fn rules_see_the_same_name_at_both_ends(site: Site, places: i64) {
    let ends = Ends::of(site.capacity(5).channel_capacity("*!*few", 2)).await;
    let channel = format!("{}few", ends.python.new_local_channel().await);
    for (n, end) in (0..places).zip([&ends.python as &dyn Side, &ends.rust].into_iter().cycle()) {
        end.send(&channel, &numbered(n)).await;
    }
    ends.rust_is_refused(&channel).await;
    ends.python_is_refused(&channel).await;
}

#[tokio::test]
async fn rules_see_the_part_up_to_the_mark_in_asgi_redis() {
    rules_see_the_same_name_at_both_ends(Site::asgi_redis(), 5).await;
}

#[tokio::test]
async fn rules_see_the_full_name_in_channels_redis() {
    rules_see_the_same_name_at_both_ends(Site::channels_redis(), 2).await;
}

async fn a_full_member_misses_what_others_get(site: Site) {
    let ends = Ends::of(site.capacity(1)).await;
    for (from, filler) in ends.both_ways() {
        let group = random_prefix();
        let (full, empty) = (format!("{group}.full"), format!("{group}.empty"));
        from.group_add(&group, &full).await;
        filler.group_add(&group, &empty).await;
        filler.send(&full, &numbered(1)).await;
        from.group_send(&group, &numbered(2)).await;
        assert_eq!(number(filler, &empty).await, 2);
        assert_eq!(number(from, &full).await, 1);
        from.send(&full, &numbered(3)).await;
        assert_eq!(number(filler, &full).await, 3);
    }
}

#[tokio::test]
async fn a_full_member_of_a_group_of_asgi_redis_misses_what_others_get() {
    a_full_member_misses_what_others_get(Site::asgi_redis()).await;
}

#[tokio::test]
async fn a_full_member_of_a_group_of_channels_redis_misses_what_others_get() {
    a_full_member_misses_what_others_get(Site::channels_redis()).await;
}
