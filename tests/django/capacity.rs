//! Both languages share the capacity of a channel.

use super::ends::{Ends, number, numbered};
use super::side::Side;
use super::site::Site;
use crate::support::random_prefix;

async fn a_filled_channel_is_full_for_the_other_language(site: Site) {
    let ends = Ends::of(site.capacity(3)).await;
    for n in 0..3 {
        ends.python.send("filled.by.python", &numbered(n)).await;
        ends.rust.send("filled.by.rust", &numbered(n)).await;
    }
    ends.rust_is_refused("filled.by.python").await;
    ends.python_is_refused("filled.by.rust").await;
    // All process-local channels of a process share its capacity.
    let channel = ends.python.new_local_channel().await;
    for n in 0..3 {
        ends.rust.send(&format!("{channel}{n}"), &numbered(n)).await;
    }
    ends.rust_is_refused(&channel).await;
    ends.python_is_refused(&channel).await;
    // A message that is read makes room. Rust reads last, because its reader may prefetch the next message.
    assert_eq!(number(&ends.python, "filled.by.rust").await, 0);
    ends.rust.send("filled.by.rust", &numbered(3)).await;
    ends.python_is_refused("filled.by.rust").await;
    ends.rust_is_refused("filled.by.rust").await;
    assert_eq!(number(&ends.rust, "filled.by.python").await, 0);
    ends.python.send("filled.by.python", &numbered(3)).await;
}

#[tokio::test]
async fn a_channel_of_asgi_redis_filled_by_one_language_is_full_for_the_other() {
    a_filled_channel_is_full_for_the_other_language(Site::asgi_redis()).await;
}

#[tokio::test]
async fn a_channel_of_channels_redis_filled_by_one_language_is_full_for_the_other() {
    a_filled_channel_is_full_for_the_other_language(Site::channels_redis()).await;
}

/// The rule matches full names. The capacity is `places`: that of the rule if full names are used, and otherwise the
/// default.
async fn rules_match_the_same_name_in_both_languages(site: Site, places: i64) {
    let ends = Ends::of(site.capacity(5).channel_capacity("*!*few", 2)).await;
    let channel = format!("{}few", ends.python.new_local_channel().await);
    for (n, end) in (0..places).zip([&ends.python as &dyn Side, &ends.rust].into_iter().cycle()) {
        end.send(&channel, &numbered(n)).await;
    }
    ends.rust_is_refused(&channel).await;
    ends.python_is_refused(&channel).await;
}

#[tokio::test]
async fn rules_match_the_non_local_part_in_asgi_redis() {
    rules_match_the_same_name_in_both_languages(Site::asgi_redis(), 5).await;
}

#[tokio::test]
async fn rules_match_the_full_name_in_channels_redis() {
    rules_match_the_same_name_in_both_languages(Site::channels_redis(), 2).await;
}

async fn a_full_member_misses_the_message(site: Site) {
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
async fn a_full_member_of_a_group_of_asgi_redis_misses_the_message() {
    a_full_member_misses_the_message(Site::asgi_redis()).await;
}

#[tokio::test]
async fn a_full_member_of_a_group_of_channels_redis_misses_the_message() {
    a_full_member_misses_the_message(Site::channels_redis()).await;
}
