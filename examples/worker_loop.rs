//! Works through a channel on Redis until it is told to stop, and gives back what it has not begun:
//! `cargo run --example worker_loop`, which needs a Redis server (`CHANNEL_LAYER_HOSTS`, or the local one).

use std::time::Duration;

use channel_layer::{ChannelLayer, Config, Delivery, Error, RedisLayer, Result, message};

const CHANNEL: &str = "example.jobs";
/// Jobs that this worker takes at once. Others can take what it leaves.
const AT_ONCE: usize = 10;

#[tokio::main]
async fn main() -> Result<()> {
    let layer = RedisLayer::connect(Config::from_env()?).await?;
    for number in 0..25 {
        layer.send(CHANNEL, message! { "number": number }).await?;
    }

    // In a service this would be a signal.
    let stop = tokio::time::sleep(Duration::from_secs(1));
    let mut receiver = layer.receiver(&[CHANNEL])?;
    let mut jobs = Vec::new();
    tokio::pin!(stop);
    loop {
        // The losing branch is dropped, and that loses no message.
        let taken = tokio::select! {
            taken = receiver.recv_many(&mut jobs, AT_ONCE) => taken,
            () = &mut stop => break,
        };
        match taken {
            Ok(_) => jobs.drain(..).for_each(work),
            // Said once per outage; the next call waits until the server is back.
            Err(error @ Error::Redis { .. }) => show(&format!("waiting: {error}")),
            Err(error) => return Err(error),
        }
    }

    // What has been read and not handed over goes back to the head of its channel.
    receiver.close().await?;
    layer.close().await
}

fn work(job: Delivery) {
    show(&format!("job {}", job.message.int("number").unwrap_or_default()));
}

#[expect(clippy::print_stdout, reason = "an example shows what it does")]
fn show(line: &str) {
    println!("{line}");
}
