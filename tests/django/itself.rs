//! Checks the peers that the other tests use: two layers of Python understand each other through them.

use super::routes::Wire;
use super::site::Site;

async fn understands_itself(site: Site) {
    let (from, to) = (site.python().await, site.python_in_place_of_rust().await);
    Wire { site: &site, from: &from, to: &to }.carries(&site.contents()).await;
}

#[tokio::test]
async fn asgi_redis_understands_itself() {
    let site = Site::asgi_redis().on_four_hosts();
    for site in [site.clone().plain(), site.clone().fernet(), site.rotated()] {
        understands_itself(site).await;
    }
}

#[tokio::test]
async fn channels_redis_understands_itself() {
    let site = Site::channels_redis();
    for site in [site.clone().plain(), site.clone().json().fernet(), site.message_pack().rotated()] {
        understands_itself(site).await;
    }
}

#[tokio::test]
async fn the_pubsub_layer_of_channels_redis_understands_itself() {
    let site = Site::pubsub().on_four_hosts();
    for site in [site.clone().plain(), site.clone().json().fernet(), site.message_pack().rotated()] {
        understands_itself(site).await;
    }
}
