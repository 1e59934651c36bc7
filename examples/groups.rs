//! Sends one message to all members of a group: `cargo run --example groups`.

use channel_layer::{ChannelLayer, Delivery, MemoryLayer, Result, message};

#[tokio::main]
async fn main() -> Result<()> {
    let layer = MemoryLayer::new();

    // Two clients of one process, and a channel that a worker reads, which keeps a record.
    for member in ["websocket.send.process1!ada", "websocket.send.process1!bob", "chat.record"] {
        layer.group_add("room.tea", member).await?;
    }
    layer.group_send("room.tea", message! { "text": "the kettle is on" }).await?;

    // One read gives every member of this process its own delivery of the same, shared message.
    let mut clients = layer.receiver(&["websocket.send.process1!"])?;
    let mut deliveries = Vec::new();
    while deliveries.len() < 2 {
        clients.recv_many(&mut deliveries, 10).await?;
    }
    for delivery in &deliveries {
        show(delivery);
    }
    show(&layer.receive(&["chat.record"]).await?);

    // Who has left gets nothing that is sent from now on.
    layer.group_discard("room.tea", "websocket.send.process1!bob").await?;
    layer.group_send("room.tea", message! { "text": "bob has left" }).await?;
    let delivery = clients.recv().await?;
    show(&delivery);
    assert_eq!(layer.group_channels("room.tea").await?.len(), 2);

    clients.close().await?;
    layer.close().await
}

#[expect(clippy::print_stdout, reason = "an example shows what it does")]
fn show(delivery: &Delivery) {
    println!("{} gets {:?}", delivery.channel, delivery.message.text("text").unwrap_or_default());
}
