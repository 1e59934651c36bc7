//! Processes jobs of a channel on Redis until it is stopped, and puts back the jobs that it has not started:
//! `cargo run --example worker_loop`. It needs a Redis server: `CHANNEL_LAYER_HOSTS`, or the local one.

use std::time::Duration;

use channel_layer::{ChannelLayer, Config, Delivery, Error, RedisLayer, Result, message};

const CHANNEL: &str = "example.jobs";
/// Number of jobs that this worker takes at once. Other workers can take the rest.
const AT_ONCE: usize = 10;

#[tokio::main]
async fn main() -> Result<()> {
    let layer = RedisLayer::connect(Config::from_env()?).await?;
    for number in 0..25 {
        layer.send(CHANNEL, message! { "number": number }).await?;
    }

    // A service would wait for a signal instead.
    let stop = tokio::time::sleep(Duration::from_secs(1));
    let mut receiver = layer.receiver(&[CHANNEL])?;
    let mut jobs = Vec::new();
    tokio::pin!(stop);
    loop {
        // `select!` drops the other future, which loses no message.
        let taken = tokio::select! {
            taken = receiver.recv_many(&mut jobs, AT_ONCE) => taken,
            () = &mut stop => break,
        };
        match taken {
            Ok(_) => jobs.drain(..).for_each(work),
            // The error is returned once per outage. The next call waits until the server is back.
            Err(error @ Error::Redis { .. }) => show(&format!("waiting: {error}")),
            Err(error) => return Err(error),
        }
    }

    // Messages that were read and not delivered are put back at the head of their channel.
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
