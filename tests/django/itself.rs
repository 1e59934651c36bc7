//! Python's layers talk to each other through the peers: what the other tests lean on is sound.

use channel_layer::Message;

use super::contents;
use super::routes::Wire;
use super::site::{Package, Protection, Site};

async fn understands_itself(site: Site, message: &Message) {
    for protection in [Protection::Plain, Protection::Fernet, Protection::Rotated] {
        let site = Site { protection, ..site.clone() };
        let (from, to) = (site.python().await, site.python_in_our_place().await);
        Wire { site: &site, from: &from, to: &to }.carries(message).await;
    }
}

#[tokio::test]
async fn asgi_redis_understands_itself() {
    understands_itself(Site::new(Package::AsgiRedis).on_hosts(4), &contents::for_message_pack()).await;
}

#[tokio::test]
async fn channels_redis_understands_itself() {
    let site = Site::new(Package::ChannelsRedis);
    understands_itself(Site { serializer: Some("json"), ..site.clone() }, &contents::for_json()).await;
    understands_itself(site, &contents::for_message_pack()).await;
}

#[tokio::test]
async fn the_pubsub_layer_of_channels_redis_understands_itself() {
    let site = Site::new(Package::PubSub).on_hosts(4);
    understands_itself(Site { serializer: Some("json"), ..site.clone() }, &contents::for_json()).await;
    understands_itself(site, &contents::for_message_pack()).await;
}
