//! A group send reaches each channel that is a member, once.

use super::backend::{Kind, Options};
use super::tools::{assert_none, number, numbered, numbers, numbers_on, sorted_channels, take, take_all, take_many};
use crate::support::{DEADLINE, within};

pub async fn a_group_send_reaches_every_member(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    for member in ["member.a", "member.b", "member.c"] {
        layer.group_add("group", member).await.unwrap();
    }
    layer.group_discard("group", "member.c").await.unwrap();
    layer.group_send("group", numbered(1)).await.unwrap();
    for member in ["member.a", "member.b"] {
        let taken = take_all(&layer, &[member]).await;
        assert_eq!((sorted_channels(&taken), numbers(&taken)), (vec![member.to_owned()], vec![1]));
    }
    assert_none(layer.try_receive(&["member.c"]).await.unwrap());
}

pub async fn a_group_send_reaches_every_process_local_member(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    for member in ["process!a", "process!b", "process!c"] {
        layer.group_add("group", member).await.unwrap();
    }
    layer.group_discard("group", "process!b").await.unwrap();
    layer.group_send("group", numbered(1)).await.unwrap();
    let taken = take_all(&layer, &["process!"]).await;
    assert_eq!(sorted_channels(&taken), ["process!a", "process!c"]);
    assert_eq!(numbers(&taken), [1, 1]);
}

pub async fn a_group_may_have_members_of_every_kind(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    let members = ["kind!a", "kind!b", "kind.normal", "kind?single"];
    for member in members {
        layer.group_add("kinds", member).await.unwrap();
        layer.group_add("others", member).await.unwrap();
    }
    layer.group_discard("others", "kind!a").await.unwrap();
    for number in 0..10 {
        layer.group_send("kinds", numbered(number)).await.unwrap();
    }
    let taken = take_all(&layer, &["kind!", "kind.normal", "kind?single"]).await;
    for member in members {
        let mut got = numbers_on(member, &taken);
        if member == "kind.normal" {
            got.sort_unstable();
        }
        assert_eq!(got, (0..10).collect::<Vec<_>>(), "what {member} got");
    }
}

pub async fn a_group_send_reaches_members_in_many_processes(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (sender, reader) = (backend.layer(), backend.peer().await);
    let mut expected = Vec::new();
    for process in 0..8 {
        for client in 0..25 {
            let member = format!("send.{process}!{client}");
            let layer = if client % 2 == 0 { &sender } else { &reader };
            layer.group_add("room", &member).await.unwrap();
            expected.push(member);
        }
    }
    expected.sort();
    sender.group_send("room", numbered(1)).await.unwrap();
    let mut got = Vec::new();
    for process in 0..8 {
        let source = format!("send.{process}!");
        got.extend(sorted_channels(&take_many(&reader, &[&source], 25).await));
        assert_none(reader.try_receive(&[&source]).await.unwrap());
    }
    got.sort();
    assert_eq!(got, expected);
}

pub async fn group_channels_lists_the_members(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let (layer, peer) = (backend.layer(), backend.peer().await);
    let list = async |group: &str| {
        let mut members: Vec<_> = peer.group_channels(group).await.unwrap();
        members.sort();
        members.into_iter().map(|member| member.to_string()).collect::<Vec<_>>()
    };
    for member in ["list?c", "list.a", "list!b", "list!d"] {
        layer.group_add("listed", member).await.unwrap();
    }
    assert_eq!(list("listed").await, ["list!b", "list!d", "list.a", "list?c"]);
    layer.group_discard("listed", "list!b").await.unwrap();
    layer.group_discard("listed", "list.a").await.unwrap();
    layer.group_discard("listed", "list.nobody").await.unwrap();
    layer.group_discard("nobody", "list.a").await.unwrap();
    assert_eq!(list("listed").await, ["list!d", "list?c"]);
    assert!(list("unknown").await.is_empty());
}

pub async fn group_send_many_reaches_each_group_in_order(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    for (group, member) in [("many.a", "many!a"), ("many.b", "many!b"), ("many.b", "many?b")] {
        layer.group_add(group, member).await.unwrap();
    }
    let batch: Vec<_> = ["many.a", "many.b", "bad!", "nobody"].into_iter().cycle().zip((0..40).map(numbered)).collect();
    for (result, (group, _)) in layer.group_send_many(&batch).await.iter().zip(&batch) {
        assert_eq!(result.is_err(), *group == "bad!", "{group}: {result:?}");
    }
    let taken = take_all(&layer, &["many!", "many?b"]).await;
    let every_fourth = |from: i64| (from..40).step_by(4).collect::<Vec<_>>();
    assert_eq!(numbers_on("many!a", &taken), every_fourth(0));
    assert_eq!(numbers_on("many!b", &taken), every_fourth(1));
    assert_eq!(numbers_on("many?b", &taken), every_fourth(1));
}

pub async fn a_group_send_without_members_succeeds(kind: &Kind) {
    let layer = kind.start(Options::default()).await.layer();
    layer.group_send("nobody", numbered(1)).await.unwrap();
    layer.group_add("left", "left!a").await.unwrap();
    layer.group_discard("left", "left!a").await.unwrap();
    layer.group_send("left", numbered(1)).await.unwrap();
    assert_none(layer.try_receive(&["left!"]).await.unwrap());
}

pub async fn the_rest_of_a_group_message_goes_to_the_next_reader(kind: &Kind) {
    let backend = kind.start(Options::default()).await;
    let layer = backend.layer();
    for member in ["rest!a", "rest!b"] {
        layer.group_add("group", member).await.unwrap();
    }
    for round in 0..20 {
        layer.group_send("group", numbered(round)).await.unwrap();
        // The two messages may be on different servers.
        backend.arrived().await;
        layer.send("rest!a", numbered(100)).await.unwrap();
        backend.arrived().await;
        // The second and third reader of the process read other channels too, or have their own receiver.
        let first = take(&layer, &["rest!", "other!"]).await;
        let second = layer.try_receive(&["rest!"]).await.unwrap().expect("the other member's message is there");
        assert_eq!((number(&first), number(&second)), (round, round));
        assert_ne!(first.channel, second.channel);
        let mut receiver = layer.receiver(&["rest!", "more!"]).unwrap();
        assert_eq!(number(&within(DEADLINE, "the message after it", receiver.recv()).await.unwrap()), 100);
        receiver.close().await.unwrap();
    }
}
