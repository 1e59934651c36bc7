//! The first configured key encrypts.

use serde_json::json;

use super::ends::{number, numbered};
use super::side::Side;
use super::site::Site;

async fn the_first_key_encrypts(site: Site) {
    // Rust has the keys in reverse order.
    let rust = site.clone().rotated().rust().await;
    let (with_first, with_second) = (site.python_with("the new key").await, site.python_with("the old key").await);
    for channel in ["for.the.first", "for.the.second"] {
        rust.send(channel, &numbered(1)).await;
    }
    assert_eq!(number(&with_first, "for.the.first").await, 1);
    let refusal =
        with_second.call("receive", json!(["for.the.second"])).await.expect_err("the message has another key");
    assert_eq!(refusal.kind, "InvalidToken");
}

#[tokio::test]
async fn the_first_key_encrypts_in_asgi_redis() {
    the_first_key_encrypts(Site::asgi_redis()).await;
}

#[tokio::test]
async fn the_first_key_encrypts_in_channels_redis() {
    the_first_key_encrypts(Site::channels_redis()).await;
}
