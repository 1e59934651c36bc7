//! Requests: each takes a new channel, sends one message to it, and reads that message there.

use std::time::Duration;

use channel_layer::Error;
use tokio::time::{sleep, timeout};

use super::actors::{Cancelling, PAUSE, content, id_of, outcome};
use super::history::{Event, MessageId, Outcome, Target};
use super::plan::Plan;
use super::process::Context;

/// How long a message is awaited whose send has an unknown outcome.
const UNKNOWN_WAIT: Duration = Duration::from_secs(1);

/// Makes requests, one after the other, until it is told to stop.
pub async fn request(context: Context, writer: u32) {
    let mut cancelling = Cancelling::new(&context, &format!("requests {writer}"));
    let pattern = Plan::reply_pattern(context.slot);
    let mut number = 0;
    while !context.writing.is_cancelled() {
        let naming = context.layer.new_channel(&pattern);
        let named = cancelling.run(&context, || format!("new_channel of {pattern}"), naming).await;
        let Some(Ok(channel)) = named else {
            sleep(PAUSE).await;
            continue;
        };
        context.record(Event::Named { channel: channel.to_string() });
        number += 1;
        let id = MessageId { writer, number };
        let to = Target::Channel(channel.to_string());
        context.record(Event::Sending { id, to, expiry: context.plan.settings[context.slot].expiry });
        let sending = context.layer.send(channel.as_str(), content(id, 0, true));
        let sent = cancelling.run(&context, || format!("a send to {channel}"), sending).await;
        let outcome = sent.as_ref().map_or(Outcome::Unknown, |sent| {
            context.note_failure("send", sent);
            outcome(sent)
        });
        context.record(Event::Sent { id, outcome });
        match outcome {
            Outcome::Done => receive(&context, id, channel.as_str()).await,
            Outcome::Unknown => _ = timeout(UNKNOWN_WAIT, receive(&context, id, channel.as_str())).await,
            Outcome::Full | Outcome::NotRun => {}
        }
        sleep(PAUSE).await;
    }
}

/// Reads the message `id` from `channel`, unless the reader is told to stop first.
async fn receive(context: &Context, id: MessageId, channel: &str) {
    let channels = [channel];
    loop {
        let asked = context.history.now();
        let received = tokio::select! {
            received = context.layer.receive(&channels) => received,
            () = context.reading.cancelled() => return,
        };
        match received {
            Ok(delivery) if id_of(&delivery.message) == Some(id) => {
                return context.record(Event::Received { id, channel: delivery.channel.to_string(), asked });
            }
            Ok(delivery) => {
                let what = format!("another message on the new channel {channel}: {:?}", delivery.message);
                return context.record(Event::Left { what });
            }
            Err(Error::Closed) => return context.record(Event::Abandoned { id }),
            failed => {
                context.note_failure("receive", &failed);
                sleep(PAUSE).await;
            }
        }
    }
}
