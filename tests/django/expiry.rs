//! Expired messages and memberships are ignored, whichever language wrote them.

use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use serde_json::json;

use super::ends::{Ends, number, numbered};
use super::json::message_to_json;
use super::side::Side;
use super::site::Site;
use crate::support::random_prefix;

#[tokio::test]
async fn an_expired_message_of_asgi_redis_is_not_delivered() {
    let ends = Ends::of(Site::asgi_redis()).await;
    let mut redis = ends.site.redis().await;
    for (from, to) in ends.both_ways() {
        let channel = random_prefix();
        from.send(&channel, &numbered(1)).await;
        let list = format!("{}{channel}", ends.site.prefix());
        let keys: Vec<String> = redis.lrange(&list, 0, -1).await.unwrap();
        // A message lives for the expiry and its list one second longer, so a list may contain keys of expired
        // messages.
        let (ttl, list_ttl): (i64, i64) = (redis.ttl(&keys[0]).await.unwrap(), redis.ttl(&list).await.unwrap());
        assert!((30..=60).contains(&ttl) && (30..=61).contains(&list_ttl), "{ttl} and {list_ttl}");
        let () = redis.del(&keys[0]).await.unwrap();
        from.send(&channel, &numbered(2)).await;
        assert_eq!(number(to, &channel).await, 2);
    }
}

#[tokio::test]
async fn an_expired_message_of_channels_redis_is_not_delivered() {
    let ends = Ends::of(Site::channels_redis()).await;
    let mut redis = ends.site.redis().await;
    let key = |channel: &str| format!("{}{channel}", ends.site.prefix());
    // Python removes expired messages when it sends, and Rust when it sends and when it receives.
    for (from, then, to) in [
        (&ends.python as &dyn Side, &ends.rust as &dyn Side, &ends.python as &dyn Side),
        (&ends.rust, &ends.python, &ends.python),
        (&ends.python, &ends.rust, &ends.rust),
        (&ends.rust, &ends.rust, &ends.python),
    ] {
        let channel = random_prefix();
        from.send(&channel, &numbered(1)).await;
        let ttl: i64 = redis.ttl(key(&channel)).await.unwrap();
        assert!((30..=60).contains(&ttl), "{ttl}");
        age(&mut redis, &key(&channel), 61).await;
        then.send(&channel, &numbered(2)).await;
        assert_eq!(number(to, &channel).await, 2);
    }
    ends.python.send("channel", &numbered(1)).await;
    ends.python.send("channel", &numbered(2)).await;
    age_first(&mut redis, &key("channel"), 61).await;
    assert_eq!(number(&ends.rust, "channel").await, 2);
}

/// A Fernet token opens for 10 s longer than the expiry, by the time in the token.
async fn a_token_opens_as_long_as_in_python(site: Site) {
    let ends = Ends::of(site.fernet()).await;
    for age in [75, 63] {
        let sender = ends.site.python().await;
        for channel in ["for.python", "for.rust"] {
            sender.done("send_aged", json!([age, channel, message_to_json(&numbered(age))])).await;
        }
    }
    let refusal = ends.python.call("receive", json!(["for.python"])).await.expect_err("the token is too old");
    assert_eq!(refusal.kind, "InvalidToken");
    for (end, channel) in [(&ends.python as &dyn Side, "for.python"), (&ends.rust, "for.rust")] {
        assert_eq!(number(end, channel).await, 63);
    }
}

#[tokio::test]
async fn a_token_of_asgi_redis_opens_as_long_as_in_python() {
    a_token_opens_as_long_as_in_python(Site::asgi_redis()).await;
}

#[tokio::test]
async fn a_token_of_channels_redis_opens_as_long_as_in_python() {
    a_token_opens_as_long_as_in_python(Site::channels_redis()).await;
}

/// Makes all members of a sorted set older by `seconds`.
async fn age(redis: &mut MultiplexedConnection, key: &str, seconds: i64) {
    let members: Vec<Vec<u8>> = redis.zrange(key, 0, -1).await.unwrap();
    assert!(!members.is_empty(), "{key} is empty");
    for member in members {
        let () = redis.zincr(key, member, -seconds).await.unwrap();
    }
}

/// Makes the first member of a sorted set older by `seconds`.
async fn age_first(redis: &mut MultiplexedConnection, key: &str, seconds: i64) {
    let members: Vec<Vec<u8>> = redis.zrange(key, 0, 0).await.unwrap();
    let () = redis.zincr(key, &members[0], -seconds).await.unwrap();
}

async fn a_membership_ends_when_it_has_expired(site: Site) {
    let ends = Ends::of(site.group_expiry(1000)).await;
    let mut redis = ends.site.redis().await;
    for (adder, sender) in ends.both_ways() {
        let group = random_prefix();
        let key = format!("{}:group:{group}", ends.site.prefix());
        adder.group_add(&group, "left").await;
        let ttl: i64 = redis.ttl(&key).await.unwrap();
        assert!((970..=1000).contains(&ttl), "{ttl}");
        age(&mut redis, &key, 1002).await;
        adder.group_add(&group, "stayed").await;
        sender.group_send(&group, &numbered(1)).await;
        assert_eq!(number(adder, "stayed").await, 1);
        sender.send("left", &numbered(2)).await;
        assert_eq!(number(adder, "left").await, 2);
        // Another add in either language renews the membership.
        age(&mut redis, &key, 900).await;
        sender.group_add(&group, "stayed").await;
        age(&mut redis, &key, 900).await;
        adder.group_send(&group, &numbered(3)).await;
        assert_eq!(number(sender, "stayed").await, 3);
    }
}

#[tokio::test]
async fn a_membership_of_asgi_redis_ends_when_it_has_expired() {
    a_membership_ends_when_it_has_expired(Site::asgi_redis()).await;
}

#[tokio::test]
async fn a_membership_of_channels_redis_ends_when_it_has_expired() {
    a_membership_ends_when_it_has_expired(Site::channels_redis()).await;
}
