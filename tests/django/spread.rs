//! Groups whose members are on several servers.

use super::ends::{Ends, number, numbered};
use super::site::Site;
use crate::support::random_prefix;

async fn a_group_message_reaches_the_members_on_every_server(site: Site) {
    let ends = Ends::of(site.on_four_hosts()).await;
    for (from, to) in ends.both_ways() {
        let (group, members) = (random_prefix(), [(); 8].map(|()| random_prefix()));
        for member in &members {
            to.group_add(&group, member).await;
        }
        from.group_send(&group, &numbered(1)).await;
        for member in &members {
            assert_eq!(number(to, member).await, 1);
        }
    }
}

#[tokio::test]
async fn a_group_message_of_asgi_redis_reaches_the_members_on_every_server() {
    a_group_message_reaches_the_members_on_every_server(Site::asgi_redis()).await;
}

#[tokio::test]
async fn a_group_message_of_channels_redis_reaches_the_members_on_every_server() {
    a_group_message_reaches_the_members_on_every_server(Site::channels_redis()).await;
}
