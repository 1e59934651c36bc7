//! Sends and receives messages inside one process: `cargo run --example send_receive`.

use channel_layer::{Bytes, ChannelLayer, MemoryLayer, Result, message};

#[tokio::main]
async fn main() -> Result<()> {
    let layer = MemoryLayer::new();

    // A normal channel: the message goes to one of its readers.
    layer.send("thumbnails.make", message! { "path": "cat.png", "width": 120 }).await?;
    let delivery = layer.receive(&["thumbnails.make"]).await?;
    show(&format!("{} asks for {}", delivery.channel, delivery.message.text("path").unwrap_or_default()));

    // A single-reader channel with a unique name, for example for a reply.
    let answers = layer.new_channel("thumbnails.done?").await?;
    layer.send(answers.as_str(), message! { "bytes": b"\x89PNG".as_slice() }).await?;
    let delivery = layer.receive(&[answers.as_str()]).await?;
    show(&format!("{} has {:?}", delivery.channel, delivery.message.bytes("bytes").unwrap_or(&Bytes::new())));

    // A process-local channel is read by its name up to the `!`. The delivery has the full name with the client.
    layer.send("websocket.send.process1!client7", message! { "text": "hi" }).await?;
    let delivery = layer.receive(&["websocket.send.process1!"]).await?;
    assert_eq!(delivery.channel.local(), Some("client7"));
    show(&format!("{} gets {}", delivery.channel, delivery.message.text("text").unwrap_or_default()));

    // `try_receive` does not wait: no message is left.
    assert_eq!(layer.try_receive(&["thumbnails.make", "websocket.send.process1!"]).await?, None);
    layer.close().await
}

#[expect(clippy::print_stdout, reason = "an example shows what it does")]
fn show(line: &str) {
    println!("{line}");
}
