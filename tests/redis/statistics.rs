//! Statistics of channels cost little, however large the messages are.

use channel_layer::{Bytes, message};

use super::tools::{Site, ask};
use crate::support::{RedisServer, stored_formats};

const CHANNELS: usize = 40;
const LARGE: usize = 1 << 18;

/// Returns the number of bytes that a server has sent.
async fn sent(server: &RedisServer) -> usize {
    let stats: String = ask(&mut server.connection().await, redis::cmd("INFO").arg("stats")).await;
    let line = stats.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:"));
    line.unwrap().parse().unwrap()
}

#[tokio::test]
async fn statistics_transfer_no_messages() {
    for format in stored_formats() {
        let server = RedisServer::start();
        let site = Site::on(std::slice::from_ref(&server));
        let layer = channel_layer::connect(site.config().format(format)).await.unwrap();
        for number in 0..CHANNELS {
            let large = message! { "body": Bytes::from(vec![0; LARGE]) };
            let channel = format!("channel.{number}");
            for _ in 0..2 {
                layer.send(&channel, large.clone()).await.unwrap();
            }
        }
        let before = sent(&server).await;
        let of_all = layer.global_statistics().await.unwrap();
        assert_eq!(of_all.messages_pending, 2 * CHANNELS as u64, "{format:?}");
        assert_eq!(layer.channel_statistics("channel.7").await.unwrap().messages_pending, 2, "{format:?}");
        let moved = sent(&server).await - before;
        assert!(moved < LARGE / 2, "{format:?}: {moved} bytes");
    }
}
