//! Rotates the encryption key of a running deployment, process by process, without losing a message:
//! `cargo run --example rotate_keys`. It needs a Redis server: `CHANNEL_LAYER_HOSTS`, or the local one.

use channel_layer::{ChannelLayer, Config, RedisLayer, Result, message};

const CHANNEL: &str = "example.rotation";
const OLD: &str = "an old key: take 32 random bytes instead";
const NEW: &str = "a new key: take 32 random bytes instead";

#[tokio::main]
async fn main() -> Result<()> {
    // Each step is rolled out to all processes before the next step begins. During the rollout, processes before and
    // after the step must be able to decrypt each other's messages.
    let steps: [(&str, &[&str], &[&str]); 4] = [
        ("the old key alone", &[OLD], &[]),
        ("the new key is accepted", &[OLD], &[NEW]),
        ("the new key seals", &[NEW, OLD], &[]),
        ("the old key is gone, once its last message has expired", &[NEW], &[]),
    ];
    for pair in steps.windows(2) {
        let (before, after) = (process(pair[0]).await?, process(pair[1]).await?);
        talk(&before, &after).await?;
        talk(&after, &before).await?;
        show(&format!("{:?} and {:?} understand each other", pair[0].0, pair[1].0));
        before.close().await?;
        after.close().await?;
    }
    Ok(())
}

/// Connects a layer with the configuration of one step. The first of `keys` encrypts. All of `keys` and `accepted`
/// decrypt.
async fn process((_, keys, accepted): (&str, &[&str], &[&str])) -> Result<RedisLayer> {
    let config =
        Config::from_env()?.symmetric_encryption_keys(keys.iter().copied()).accept_only_keys(accepted.iter().copied());
    RedisLayer::connect(config).await
}

async fn talk(sender: &RedisLayer, reader: &RedisLayer) -> Result<()> {
    sender.send(CHANNEL, message! { "text": "can you read this?" }).await?;
    let delivery = reader.receive(&[CHANNEL]).await?;
    assert_eq!(delivery.message.text("text"), Some("can you read this?"));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "an example shows what it does")]
fn show(line: &str) {
    println!("{line}");
}
