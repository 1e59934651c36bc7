//! Calls other than sends and reads, at each stage of the move of a slot.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use channel_layer::redis::quarantine::Restored;
use channel_layer::{ChannelLayer, Config, Error, RedisLayer, message};
use futures_util::future::join_all;

use super::tools::{config, connect, name_in, slot_of};
use crate::support::{Cluster, DEADLINE, Moments, eventually, within};

/// The stages of the move of a slot, in their order.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Stage {
    /// New keys are created on the next master.
    Begun,
    /// The keys that existed are there too.
    KeysMoved,
    Ended,
}

const STAGES: [Stage; 3] = [Stage::Begun, Stage::KeysMoved, Stage::Ended];

/// A slot that moves from master to master.
struct Moving<'c> {
    cluster: &'c Cluster,
    slot: u16,
    master: usize,
}

impl<'c> Moving<'c> {
    async fn of(cluster: &'c Cluster, name: &str) -> Self {
        let slot = slot_of(name);
        Self { cluster, slot, master: cluster.owner(slot, 0).await }
    }

    /// Brings the move to the next master from the stage before to `stage`.
    async fn advance(&mut self, stage: Stage) {
        let (from, to) = (self.master, (self.master + 1) % Cluster::MASTERS);
        match stage {
            Stage::Begun => self.cluster.begin_move(self.slot, from, to).await,
            Stage::KeysMoved => self.cluster.move_keys(self.slot, from, to).await,
            Stage::Ended => {
                self.cluster.end_move(self.slot, to, &[from]).await;
                self.master = to;
            }
        }
    }

    /// Begins a move and brings it to `stage`.
    async fn reach(&mut self, stage: Stage) {
        for next in STAGES.into_iter().take_while(|next| *next <= stage) {
            self.advance(next).await;
        }
    }

    /// Ends a move that is at `stage`.
    async fn finish(&mut self, stage: Stage) {
        for next in STAGES.into_iter().filter(|next| *next > stage) {
            self.advance(next).await;
        }
    }
}

/// Sends the numbers to the channel, one after the other.
async fn send(layer: &RedisLayer, channel: &str, numbers: std::ops::Range<i64>) {
    for number in numbers {
        layer.send(channel, message! { "number": number }).await.unwrap();
    }
}

/// Checks that exactly these numbers wait on the channel, in this order.
async fn assert_waiting(layer: &RedisLayer, channel: &str, numbers: std::ops::Range<i64>) {
    for number in numbers {
        let delivery = within(DEADLINE, "a message", layer.receive(&[channel])).await.unwrap();
        assert_eq!(delivery.message.int("number"), Some(number), "{channel}");
    }
    assert_eq!(layer.try_receive(&[channel]).await.unwrap().map(|delivery| delivery.message), None, "{channel}");
}

#[tokio::test]
async fn a_channel_takes_exactly_its_capacity_while_its_slot_moves() {
    const CAPACITY: usize = 100;
    let cluster = Cluster::without_replicas().await;
    let config = config(&cluster).capacity(CAPACITY);
    let layers = [connect(config.clone()).await, connect(config).await];
    for channel in [name_in("jobs.", 0..5000, 'x'), name_in("send.", 0..5000, '!')] {
        let mut moving = Moving::of(&cluster, &channel).await;
        let to = if channel.ends_with('!') { format!("{channel}x") } else { channel.clone() };
        let accepted = AtomicUsize::new(0);
        let send = async |layer: &Arc<RedisLayer>| match layer.send(&to, message! {}).await {
            Ok(()) => _ = accepted.fetch_add(1, Ordering::Relaxed),
            Err(Error::ChannelFull { .. }) => {}
            Err(error) => panic!("{error}"),
        };
        // Two rounds more than the capacity needs.
        for _ in 0..CAPACITY / 24 + 2 {
            for stage in STAGES {
                moving.advance(stage).await;
                join_all((0..4).flat_map(|_| &layers).map(&send)).await;
            }
        }
        assert_eq!(accepted.load(Ordering::Relaxed), CAPACITY, "{channel}");
        let statistics = layers[0].channel_statistics(&channel).await.unwrap();
        assert_eq!(statistics.messages_pending, CAPACITY as u64, "{channel}");
    }
}

#[tokio::test]
async fn what_a_reader_holds_is_put_back_in_order_at_each_stage_of_a_move() {
    #[derive(Clone, Copy, Debug)]
    enum End {
        DropReceiver,
        CloseReceiver,
        CloseLayer,
    }
    let cluster = Cluster::without_replicas().await;
    let config = config(&cluster);
    let layer = connect(config.clone()).await;
    let channel = name_in("send.", 0..5000, '!');
    let (member, mut moving) = (format!("{channel}x"), Moving::of(&cluster, &channel).await);
    for end in [End::DropReceiver, End::CloseReceiver, End::CloseLayer] {
        for stage in STAGES {
            send(&layer, &member, 0..12).await;
            let reader = connect(config.clone()).await;
            let mut receiver = reader.receiver(&[&channel]).unwrap();
            // The first read takes one entry, and the second one the others.
            for number in 0..2 {
                let delivery = within(DEADLINE, "a message", receiver.recv()).await.unwrap();
                assert_eq!(delivery.message.int("number"), Some(number));
            }
            assert_eq!(layer.channel_statistics(&channel).await.unwrap().messages_pending, 0);
            moving.reach(stage).await;
            match end {
                End::DropReceiver => drop(receiver),
                End::CloseReceiver => receiver.close().await.unwrap(),
                End::CloseLayer => reader.close().await.unwrap(),
            }
            assert_waiting(&layer, &channel, 2..12).await;
            moving.finish(stage).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_receives_lose_nothing_while_the_slot_moves() {
    const MESSAGES: i64 = 300;
    let cluster = Cluster::without_replicas().await;
    let config = config(&cluster);
    let (writer, reader) = (connect(config.clone()).await, connect(config).await);
    for channel in [name_in("jobs.", 0..5000, 'x'), name_in("send.", 0..5000, '!')] {
        let to = if channel.ends_with('!') { format!("{channel}x") } else { channel.clone() };
        let (slot, mut moments) = (slot_of(&channel), Moments::new(7));
        // With other slots, because a slot that is back before a redirection has been followed is another matter: the
        // message would go to a node that imports the slot again.
        let moves = async {
            for (from, to) in [(0, 1), (1, 2), (2, 0)].into_iter().cycle() {
                cluster.move_slots(slot..slot + 20, from, to).await;
            }
        };
        let reading = async {
            let mut numbers = Vec::new();
            while numbers.last() != Some(&(MESSAGES - 1)) {
                if let Some(delivery) = moments.cut(reader.receive(&[&channel])).await {
                    numbers.push(delivery.unwrap().message.int("number").unwrap());
                }
            }
            numbers
        };
        let all = async { tokio::join!(reading, send(&writer, &to, 0..MESSAGES)).0 };
        let numbers = tokio::select! {
            numbers = within(3 * DEADLINE, "all messages", all) => numbers,
            () = moves => unreachable!("it moves on"),
        };
        assert_eq!(numbers, (0..MESSAGES).collect::<Vec<_>>(), "{channel}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_deletes_everything_while_slots_move() {
    let cluster = Cluster::without_replicas().await;
    let layer = connect(config(&cluster)).await;
    let channels: Vec<_> = (0..30_u16).map(|slot| name_in("jobs.", slot..slot + 1, 'x')).collect();
    for channel in &channels {
        send(&layer, channel, 0..2).await;
        layer.group_add(channel, channel).await.unwrap();
    }
    let flushing = async {
        // It fails if the layout has changed in each of its passes.
        eventually("a flush", async || layer.flush().await.ok()).await;
    };
    tokio::join!(flushing, cluster.move_slots(0..30, 0, 1));
    for channel in &channels {
        assert_waiting(&layer, channel, 0..0).await;
        assert_eq!(layer.group_channels(channel).await.unwrap().len(), 0, "{channel}");
    }
}

#[tokio::test]
async fn entries_are_quarantined_and_restored_at_each_stage_of_a_move() {
    let cluster = Cluster::without_replicas().await;
    let keyed = |config: Config, key| config.symmetric_encryption_keys([key]);
    let config = config(&cluster).prefix("quarantined");
    let layer = connect(keyed(config.clone(), "the key in use")).await;
    let stranger = connect(keyed(config, "another key")).await;
    let channel = name_in("jobs.", 0..5000, 'x');
    // The quarantine is one stream.
    for moved in [&channel, "quarantined:quarantine"] {
        let mut moving = Moving::of(&cluster, moved).await;
        for stage in STAGES {
            send(&layer, &channel, 0..3).await;
            moving.reach(stage).await;
            assert!(stranger.try_receive(&[&channel]).await.unwrap().is_none());
            let entries = eventually("the entries in quarantine", async || {
                let entries = layer.quarantine().entries().await.unwrap().complete().unwrap();
                (entries.len() == 3).then_some(entries)
            })
            .await;
            let ids: Vec<_> = entries.iter().map(|entry| entry.id).collect();
            // The script has two keys of the channel, so it waits for the end of the move.
            let quarantine = layer.quarantine();
            let (restored, ()) = tokio::join!(quarantine.restore(&ids), moving.finish(stage));
            assert_eq!(restored.unwrap().complete().unwrap(), vec![Restored::Restored; 3], "{moved} {stage:?}");
            assert_waiting(&layer, &channel, 0..3).await;
            assert_eq!(layer.quarantine().entries().await.unwrap().complete().unwrap(), []);
        }
    }
}

#[tokio::test]
async fn sealed_batches_beyond_2_mib_follow_a_redirection_in_order() {
    let cluster = Cluster::without_replicas().await;
    let config = config(&cluster).symmetric_encryption_keys(["the key in use"]).max_message_size(1 << 20);
    let (writer, reader) = (connect(config.clone()).await, connect(config).await);
    for channel in [name_in("jobs.", 0..5000, 'x'), name_in("send.", 0..5000, '!')] {
        let to = if channel.ends_with('!') { format!("{channel}x") } else { channel.clone() };
        let mut moving = Moving::of(&cluster, &channel).await;
        let body = vec![b'x'; 500_000];
        let mut number = 0;
        for stage in STAGES {
            moving.advance(stage).await;
            let numbers = number..number + 10;
            number += 10;
            let messages: Vec<_> =
                numbers.map(|number| (&*to, message! { "number": number, "body": body.clone() })).collect();
            for sent in writer.send_many(&messages).await {
                sent.unwrap();
            }
        }
        assert_waiting(&reader, &channel, 0..number).await;
    }
}
