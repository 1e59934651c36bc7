//! Sends one message to all members of a group: `cargo run --example groups`.

use channel_layer::{ChannelLayer, Delivery, MemoryLayer, Result, message};

#[tokio::main]
async fn main() -> Result<()> {
    let layer = MemoryLayer::new();

    // The members are two clients of one process, and a channel of a worker that keeps a record.
    for member in ["websocket.send.process1!ada", "websocket.send.process1!bob", "chat.record"] {
        layer.group_add("room.tea", member).await?;
    }
    layer.group_send("room.tea", message! { "text": "the kettle is on" }).await?;

    // Each member in this process gets its own delivery of the same, shared message.
    let mut clients = layer.receiver(&["websocket.send.process1!"])?;
    let mut deliveries = Vec::new();
    while deliveries.len() < 2 {
        clients.recv_many(&mut deliveries, 10).await?;
    }
    for delivery in &deliveries {
        show(delivery);
    }
    show(&layer.receive(&["chat.record"]).await?);

    // A former member gets no later messages.
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
